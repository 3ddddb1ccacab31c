"""Job: one unit of work, and what can be done with it while it is locked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection

from qg.errors import ErrInvalidOption, ErrLockLost, ErrNotLocked
from qg.locking.attempt import Attempt, InjectedAttempt
from qg.signals import ends_process
from qg.tables import Row
from qg.verdicts import Discard, Reschedule

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Job",
    "attempt_of",
    "bind",
    "deletes_plainly",
    "held_attempt_of",
    "locked_attempt_of",
    "note_handler",
    "note_row",
]


@dataclass(eq=False, repr=False)
class Job:
    """A unit of work for the queue. Mirrors Go's ``Job``.

    A job from :meth:`qg.Client.lock_job` owns one database connection until :meth:`done`, and on
    it the advisory lock that keeps every other worker away. Use it in a ``with`` block::

        with job:
            with job.tx.cursor() as cur:
                cur.execute("UPDATE users SET greeted = true WHERE id = %s", job.args)
            job.delete()

    Leaving the block calls :meth:`done`. An exception first becomes the job's error and passes on;
    :class:`qg.Reschedule` and :class:`qg.Discard` are carried out and end there. Ctrl-C only
    releases the job. Its methods may be called from any thread. In a process that is forked meanwhile
    the job is the parent's: there it has no connection, and done() and the end of the block do nothing.

    Attributes:
        type: the name of the handler; Ruby's job_class.
        args: any JSON value, from version 4 of the table on a list; ``bytes`` are a JSON document
            that is stored as it stands. A locked job has the decoded value.
        queue: the queue's name, "" by default; from version 4 on that is called "default".
        priority: lower runs first, from -32768 to 32767; 0 is a priority like any other.
        run_at: when the job falls due, an aware datetime; None means the database's now().
        kwargs: Ruby's keyword arguments, a dict, from version 4 on. Versions 4 and 5 hold them as
            the last of the args, and so has a locked job; from 6 on they have a column.
        tags: up to five strings of up to 98 characters, from version 4 on.
    """

    type: str
    args: Any = field(default_factory=list)
    queue: str = ""
    priority: int = 100
    run_at: datetime | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        # The row as it was stored or read, and what is being done with it since it was locked.
        self._row: Row | None = None
        self._attempt: Attempt | InjectedAttempt | None = None

    def __repr__(self) -> str:
        # Without the args: they may hold what must not get into a log.
        return (
            f"{type(self).__name__}(id={self.id}, type={self.type!r}, queue={self.queue!r}, "
            f"priority={self.priority}, run_at={self.run_at!s})"
        )

    @property
    def id(self) -> int | None:
        """The id that the database gave the job; None before it is enqueued."""
        row = self._newest_row
        return row.id if row else None

    @property
    def error_count(self) -> int:
        """How many times the job has failed."""
        row = self._newest_row
        return row.error_count if row else 0

    @property
    def last_error(self) -> str | None:
        """What error() recorded last, None if the job never failed."""
        row = self._newest_row
        return row.last_error if row else None

    # A handler has a connection for as long as it runs, so type checkers needn't ask for None.
    @property
    def conn(self) -> connection | Any:
        """The psycopg2 connection that holds the job's lock; None when the job isn't locked."""
        return self._attempt.conn if self._attempt else None

    @property
    def tx(self) -> connection | Any:
        """The transaction of the job: the same connection, in psycopg2's ordinary mode.

        What is written through it becomes durable together with :meth:`delete`.
        """
        return self._attempt.tx if self._attempt else None

    @property
    def lost(self) -> bool:
        """Whether the session that holds the job's lock has ended, so that somebody else may work the job by now.

        It is true as well once somebody has cancelled the job (:meth:`qg.control.Control.delete`), if the worker's
        pool listens; that is logged as ``job_cancelled``.
        Looked up when it is asked for, at the connection's socket and without a message. What the server, or
        the network, hasn't told yet isn't seen. Stays true once it was, and is then logged as ``lock_lost``.
        """
        return self._attempt is not None and self._attempt.lost

    def check(self) -> None:
        """Go on only if the job's lock isn't lost; for a handler that takes long, between its steps.

        Raises:
            ErrLockLost: if :attr:`lost`; what else the handler would do, somebody else may be doing too.
        """
        if self.lost:
            raise ErrLockLost(
                f"the session of {self!r} has ended while it ran, and its lock with it, or it was cancelled; stop here"
            )

    def delete(self) -> None:
        """Delete the job from the table: its work is done.

        On the job's connection: in the open transaction if there is one, and then durable when
        that commits, which done() sees to; otherwise committed at once. Where somebody else has settled
        the job meanwhile, or removed it, that is logged if no transaction is open. In one it is an error,
        so that what was written there isn't committed: a job that is deleted by hand is cancelled so.

        Raises:
            ErrNotLocked: if the job isn't locked.
            ErrJobGone: if a transaction is open, and the row isn't there any more.
            ErrNotCommitted: if delete_in_tx() was called, and that transaction is still open.
            psycopg2.Error: if the statement fails; the job is still there.
        """
        with self._held("delete") as attempt:
            attempt.delete()

    def error(self, message: str) -> None:
        """Record a failure: one more error, *message* as its text, and a retry after the backoff.

        On the job's connection: an open transaction is rolled back, so that nothing of the failed
        attempt stays; the record is committed at once. Call done() afterwards all the same.

        Args:
            message: a text of any length, usually ``Class: message`` and a traceback below it.

        Raises:
            ErrInvalidOption: if *message* is no string.
            ErrNotLocked: if the job isn't locked.
            ErrNotCommitted: if delete_in_tx() was called, and that transaction is still open after a second.
            psycopg2.Error: if the record can't be written.
        """
        if not isinstance(message, str):
            raise ErrInvalidOption(f"an error's message must be a string, not {type(message).__name__}")
        with self._held("error") as attempt:
            attempt.set_error(message)

    def finish(self) -> None:
        """Keep the job in the table as finished: its work is done. From version 4 of the table on.

        In all else as delete(). Mirrors Ruby's ``finish``.

        Raises:
            ErrTable: if the table is of version 3, which keeps no finished jobs; nothing was done.
            ErrNotLocked, ErrJobGone, ErrNotCommitted, psycopg2.Error: as delete().
        """
        with self._held("finish") as attempt:
            attempt.finish()

    def delete_in_tx(self, tx: object) -> None:
        """Delete the job in the caller's transaction: its work is done if that commits, and only then.

        What a handler writes with an ORM and the job's deletion are one commit so, and happen exactly once. One
        statement on *tx*, with the rights of its role; *tx* is neither committed nor rolled back. Commit it before
        the handler returns, and by hand before done(), which only unlocks then. A worker looks at the end whether
        it is committed; if it isn't, the job has failed.

        It waits 10 s at most for somebody else who has the row locked, unless a lock_timeout is set in *tx*. It
        doesn't call delete(), which a subclass may override. Called again in the same transaction, or after the
        job was deleted for good, it does nothing more.

        Args:
            tx: as :meth:`qg.Client.enqueue_in_tx` takes it: a psycopg2 or psycopg 3 connection or cursor, a Django
                connection, a SQLAlchemy Connection or Session. In autocommit mode the deletion is committed at once.

        Raises:
            ErrNotLocked: if the job isn't locked.
            ErrJobGone: if the row isn't there any more: roll *tx* back, or let the error leave its block.
            ErrNotCommitted: if the job was settled in another transaction, which is still open.
            ErrUnusable: if *tx* is nothing of that kind.
            Exception: what the driver of *tx* raises passes through; the job is still there.
        """
        with self._held("delete_in_tx") as attempt:
            attempt.delete_in_tx(tx)

    def finish_in_tx(self, tx: object) -> None:
        """Keep the job as finished, in the caller's transaction. From version 4 of the table on.

        In all else as delete_in_tx().

        Raises:
            ErrTable: if the table is of version 3, which keeps no finished jobs; nothing was done.
            ErrNotLocked, ErrJobGone, ErrNotCommitted, ErrUnusable, Exception: as delete_in_tx().
        """
        with self._held("finish_in_tx") as attempt:
            attempt.finish_in_tx(tx)

    def expire(self) -> None:
        """Give the job up: one more error, and no retry. It stays in the table.

        On the job's connection, as error(): an open transaction is rolled back. Version 3 of the
        table has no such state: there the job's run_at is moved a hundred years ahead. Mirrors
        Ruby's ``expire``.

        Raises:
            ErrNotLocked: if the job isn't locked.
            ErrNotCommitted: as error().
            psycopg2.Error: if that can't be written.
        """
        with self._held("expire") as attempt:
            attempt.expire()

    def done(self) -> None:
        """Release the job: end its transaction, unlock it and give its connection back.

        Commits an open transaction in which delete() or finish() ran, and rolls back any other.
        Unlocks after that, and even if that failed. May be called again, and from several threads:
        only the first call does anything. In a process that was forked meanwhile it does nothing.

        Raises:
            psycopg2.Error: if the commit it owes fails; nothing is lost, the job is still there.
        """
        if self._attempt is not None:
            self._attempt.done()

    def __enter__(self) -> Self:
        with self._held("enter") as attempt:
            attempt.entered = True
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        recorded = False
        try:
            if error is not None and self._attempt is not None:
                if isinstance(error, KeyboardInterrupt) or ends_process(error):
                    self._attempt.abandon()
                else:
                    recorded = self._attempt.fail(error, self.error)
        except BaseException:
            if self._attempt is not None:
                self._attempt.abandon()  # what was written may not be committed by done()
            raise
        finally:
            self.done()
        return recorded and isinstance(error, (Reschedule, Discard))

    @property
    def _newest_row(self) -> Row | None:
        """The row as it was stored, or read, or written last; None if the job isn't stored."""
        attempt = self._attempt
        return self._row if attempt is None or attempt.row is None else attempt.row

    @contextmanager
    def _held(self, method: str) -> Iterator[Attempt | InjectedAttempt]:
        """Within the block, nobody else does anything with the job; raises ErrNotLocked if it isn't locked."""
        with held_attempt_of(self, method).mutex:
            yield held_attempt_of(self, method)


# The rest of qg gets at these two attributes by the functions below, and by nothing else. They are no methods,
# because nothing of that is for those who have a job.


def attempt_of(job: Job) -> Attempt | InjectedAttempt | None:
    """Return what is being done with *job* since it was locked, if it was."""
    return job._attempt


def held_attempt_of(job: Job, method: str) -> Attempt | InjectedAttempt:
    """Return what is being done with *job*, for a *method* that needs its lock.

    Raises:
        ErrNotLocked: if it isn't locked, or was so by the process that this one was forked from.
    """
    attempt = attempt_of(job)
    if attempt is not None and attempt.forked:
        raise ErrNotLocked(
            f"can't {method} {job!r}: this process was forked from the one that locked it; "
            "leave the job to that one, or get another from lock_job()"
        )
    if attempt is None or not attempt.held:
        raise ErrNotLocked(
            f"can't {method} {job!r}: it isn't locked, because it never was or because done() was called; "
            "get it from lock_job()"
        )
    return attempt


def locked_attempt_of(job: Job) -> Attempt:
    """Return the attempt of a job that was locked."""
    attempt = attempt_of(job)
    if not isinstance(attempt, Attempt):
        raise ErrNotLocked(f"{job!r} isn't locked; get it from lock_job()")
    return attempt


def bind(job: Job, attempt: Attempt | InjectedAttempt) -> None:
    """Note that *attempt* is what is being done with *job* from now on."""
    job._attempt = attempt


def note_handler(job: Job, handler: object) -> None:
    """Note who works *job*: what becomes of it if that fails is his to say, by :func:`qg.retry`."""
    attempt = attempt_of(job)
    if attempt is not None:
        attempt.handler = handler


def note_row(job: Job, row: Row) -> None:
    """Note that *job* is stored as *row*, whatever was done with it before; what a test has injected stays."""
    job._row = row
    if isinstance(attempt_of(job), Attempt):
        job._attempt = None


def deletes_plainly(job: Job) -> bool:
    """Whether delete() of the job's class does no more than delete the row."""
    return type(job).delete is Job.delete
