"""Everything qg raises of its own accord.

::

    QgError
    ├── ErrInvalidJob (ValueError)      a field of a job that can't be stored, or isn't what it should be
    │   └── ErrMissingType              no job type
    ├── ErrInvalidOption (ValueError)   an option outside what it allows
    ├── ErrUnusable (TypeError)         a source or tx that qg can't work with
    ├── ErrTable                        no que_jobs table, or one this qg doesn't know
    ├── ErrRights                       a role that may not do what is to be done
    ├── ErrUnknownJob (LookupError)     an id that no job has
    ├── ErrUnknownQueue (LookupError)   a queue that nobody knows
    ├── ErrAgain                        too many lost races for a job
    ├── ErrNotLocked                    a method that needs the job's lock, without it
    ├── ErrJobGone                      a job that somebody else has settled, or that was removed
    ├── ErrNotCommitted                 a job that was settled in a transaction which isn't committed
    ├── ErrLockLost                     a job whose session ended while its handler ran
    ├── ErrClientClosed                 a client used after close()
    ├── ErrTooFewConnections            a source that can't serve all workers of a pool
    ├── ErrPooler                       a pooler in between that pools transactions
    ├── ErrMiddleware                   a middleware that hasn't had its job run once
    ├── ErrPoolState                    a worker or pool started twice, or changed after its start
    └── ErrMissingExtra (ImportError)   an optional dependency that isn't installed

psycopg2's own exceptions (an unreachable database, a failed commit) pass through unchanged.
"""

from __future__ import annotations

__all__ = [
    "ErrAgain",
    "ErrClientClosed",
    "ErrInvalidJob",
    "ErrInvalidOption",
    "ErrJobGone",
    "ErrLockLost",
    "ErrMiddleware",
    "ErrMissingExtra",
    "ErrMissingType",
    "ErrNotCommitted",
    "ErrNotLocked",
    "ErrPoolState",
    "ErrPooler",
    "ErrRights",
    "ErrTable",
    "ErrTooFewConnections",
    "ErrUnknownJob",
    "ErrUnknownQueue",
    "ErrUnusable",
    "QgError",
]


class QgError(Exception):
    """The root of every error that qg raises by itself."""


class ErrInvalidJob(QgError, ValueError):
    """A job has a field that can't be stored, or one that isn't what it should be. Nothing was written."""


class ErrMissingType(ErrInvalidJob):
    """A job has no type. Mirrors Go's ``ErrMissingType``."""


class ErrInvalidOption(QgError, ValueError):
    """An option or argument is outside what it allows."""


class ErrUnusable(QgError, TypeError):
    """An object given as *source* or *tx* is of no kind that qg can use."""


class ErrTable(QgError):
    """There is no ``que_jobs`` table, or it is of a version that qg can't work."""


class ErrRights(QgError):
    """The database's role may not do what is to be done. The message ends with the GRANTs that mend it."""


class ErrUnknownJob(QgError, LookupError):
    """No job has this id: it is done, it was deleted, or it never was."""


class ErrUnknownQueue(QgError, LookupError):
    """No job is in this queue, and nobody works it. The message ends with the nearest name that there is."""


class ErrAgain(QgError):
    """Other workers settled each job before it could be locked. Mirrors Go's ``ErrAgain``.

    Only a queue under extreme contention comes to this; call again.
    """


class ErrNotLocked(QgError):
    """The job isn't locked by this object: it never was, or done() has been called."""


class ErrJobGone(QgError):
    """The row of a job that is to be settled in an open transaction isn't there any more.

    Somebody else has settled the job, or a person has removed it. The transaction must not commit, for
    what it wrote belongs to a job that is done, or that nobody wants: let the error pass, or roll back.
    """


class ErrNotCommitted(QgError):
    """A job was settled by delete_in_tx() or finish_in_tx(), and that transaction isn't committed.

    It was rolled back, or it is still open when the handler returns, or when something else is to be written
    to the job.
    """


class ErrLockLost(QgError):
    """The session that held a job's lock has ended, so somebody else may be working the job by now."""


class ErrClientClosed(QgError):
    """The client was closed and takes nothing more."""


class ErrTooFewConnections(QgError):
    """The source can't give every worker of a pool its connection."""


class ErrPooler(QgError):
    """A pooler between the client and PostgreSQL gives each transaction another session, and takes locks away so."""


class ErrMiddleware(QgError):
    """A middleware has returned without having called ``call()``, or has called it twice. The job has failed."""


class ErrPoolState(QgError):
    """A worker or pool was started twice, started after its shutdown, or changed after its start."""


class ErrMissingExtra(QgError, ImportError):
    """A part of qg needs an optional dependency that isn't installed."""
