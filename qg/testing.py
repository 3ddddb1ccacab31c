"""For the tests of handlers: jobs that have a connection without being locked."""

from __future__ import annotations

from typing import TypeVar

from qg.database.foreign import Conner, Queryer
from qg.job import Job, attempt_of, bind
from qg.locking.attempt import InjectedAttempt

__all__ = ["inject_job_conn", "inject_job_tx"]

_AnyJob = TypeVar("_AnyJob", bound=Job)


def inject_job_conn(job: _AnyJob, conn: Conner) -> _AnyJob:
    """Give *job* the connection *conn* as ``job.conn``, and return the job.

    There is no lock behind it: delete() and error() write nothing, and done() takes the connection
    off the job and leaves it open. Mirrors Go's ``TestInjectJobConn``.

    Args:
        job: a job that isn't locked.
        conn: a connection, or what stands for one in the test.
    """
    _injected(job).conn = conn
    return job


def inject_job_tx(job: _AnyJob, tx: Queryer) -> _AnyJob:
    """Give *job* the transaction *tx* as ``job.tx``, and return the job.

    As with inject_job_conn() nothing is locked, and *tx* is neither committed nor rolled back.
    Mirrors Go's ``TestInjectJobTx``.

    Args:
        job: a job that isn't locked.
        tx: a transaction, or what stands for one in the test.
    """
    _injected(job).tx = tx
    return job


def _injected(job: Job) -> InjectedAttempt:
    attempt = attempt_of(job)
    if not (isinstance(attempt, InjectedAttempt) and attempt.held):
        attempt = InjectedAttempt()
        bind(job, attempt)
    return attempt
