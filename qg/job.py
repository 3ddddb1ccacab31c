"""Job: one unit of work, and what can be done with it while it is locked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from psycopg2.extensions import connection

from qg.errors import ErrInvalidOption, ErrNotLocked
from qg.failures import describe
from qg.known import MIGRATED
from qg.locks import LockedRow
from qg.tables import Row, Statement
from qg.verdicts import Discard, Reschedule

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Ending", "Job", "Observer"]


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
    releases the job. Its methods may be called from any thread.

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
        self._row: Row | None = None
        # The row as it was locked, kept when the lock is gone; and the same while we hold the lock.
        self._attempt: LockedRow | None = None
        self._locked: LockedRow | None = None
        self._ending: Ending | None = None
        self._observer: Observer | None = None
        # Whether args is one argument, and no list of them, whatever the table wants.
        self._one_argument = False
        # Whether the worker has it back, to delete it together with others.
        self._handed_in = False
        self._injected_conn: Any = None
        self._injected_tx: Any = None
        self._mutex = threading.RLock()
        # Who locked it, and whether they are inside its with block: Client.close() asks.
        self._locker: threading.Thread | None = None
        self._entered = False

    def __repr__(self) -> str:
        # Without the args: they may hold what must not get into a log.
        return (
            f"{type(self).__name__}(id={self.id}, type={self.type!r}, queue={self.queue!r}, "
            f"priority={self.priority}, run_at={self.run_at!s})"
        )

    @property
    def id(self) -> int | None:
        """The id that the database gave the job; None before it is enqueued."""
        return self._row.id if self._row else None

    @property
    def error_count(self) -> int:
        """How many times the job has failed."""
        return self._row.error_count if self._row else 0

    @property
    def last_error(self) -> str | None:
        """What error() recorded last, None if the job never failed."""
        return self._row.last_error if self._row else None

    # A handler has a connection for as long as it runs, so type checkers needn't ask for None.
    @property
    def conn(self) -> connection | Any:
        """The psycopg2 connection that holds the job's lock; None when the job isn't locked."""
        locked = self._locked
        return locked.session.conn if locked else self._injected_conn

    @property
    def tx(self) -> connection | Any:
        """The transaction of the job: the same connection, in psycopg2's ordinary mode.

        What is written through it becomes durable together with :meth:`delete`.
        """
        locked = self._locked
        return locked.session.conn if locked else self._injected_tx

    def delete(self) -> None:
        """Delete the job from the table: its work is done.

        On the job's connection: in the open transaction if there is one, and then durable when
        that commits, which done() sees to; otherwise committed at once. A row that somebody has
        removed meanwhile is a success.

        Raises:
            ErrNotLocked: if the job isn't locked.
            psycopg2.Error: if the statement fails; the job is still there.
        """
        with self._mutex:
            if locked := self._held("delete"):
                locked.delete()
            self._ending = Ending.DELETED

    def error(self, message: str) -> None:
        """Record a failure: one more error, *message* as its text, and a retry after the backoff.

        On the job's connection: an open transaction is rolled back, so that nothing of the failed
        attempt stays; the record is committed at once. Call done() afterwards all the same.

        Args:
            message: a text of any length, usually ``Class: message`` and a traceback below it.

        Raises:
            ErrInvalidOption: if *message* is no string.
            ErrNotLocked: if the job isn't locked.
            psycopg2.Error: if the record can't be written.
        """
        if not isinstance(message, str):
            raise ErrInvalidOption(f"an error's message must be a string, not {type(message).__name__}")
        with self._mutex:
            if locked := self._held("error"):
                locked.set_error(message)
                self._row = locked.row
            self._ending = Ending.FAILED

    def finish(self) -> None:
        """Keep the job in the table as finished: its work is done. From version 4 of the table on.

        In all else as delete(). Mirrors Ruby's ``finish``.

        Raises:
            ErrTable: if the table is of version 3, which keeps no finished jobs; nothing was done.
            ErrNotLocked, psycopg2.Error: as delete().
        """
        with self._mutex:
            if locked := self._held("finish"):
                locked.finish()
            self._ending = Ending.FINISHED

    def expire(self) -> None:
        """Give the job up: one more error, and no retry. It stays in the table.

        On the job's connection, as error(): an open transaction is rolled back. Version 3 of the
        table has no such state: there the job's run_at is moved a hundred years ahead. Mirrors
        Ruby's ``expire``.

        Raises:
            ErrNotLocked: if the job isn't locked.
            psycopg2.Error: if that can't be written.
        """
        with self._mutex:
            if locked := self._held("expire"):
                locked.expire()
                self._row = locked.row
            self._ending = Ending.EXPIRED

    def done(self) -> None:
        """Release the job: end its transaction, unlock it and give its connection back.

        Commits an open transaction in which delete() or finish() ran, and rolls back any other.
        Unlocks after that, and even if that failed. May be called again, and from several threads:
        only the first call does anything.

        Raises:
            psycopg2.Error: if the commit it owes fails; nothing is lost, the job is still there.
        """
        with self._mutex:
            locked, self._locked = self._locked, None
            self._injected_conn = self._injected_tx = None
            if locked is None:
                return
            try:
                if locked.deletion_pending():
                    locked.session.commit()
            finally:
                locked.let_go()

    def __enter__(self) -> Self:
        with self._mutex:
            self._held("enter")
            self._entered = True
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        recorded = False
        try:
            if isinstance(error, KeyboardInterrupt):
                self._abandon()
            elif error is not None:
                recorded = self._fail(error)
        finally:
            self.done()
        return recorded and isinstance(error, (Reschedule, Discard))

    def _held(self, method: str) -> LockedRow | None:
        if self._locked is not None:
            return self._locked
        if self._injected_conn is not None or self._injected_tx is not None:
            return None  # a handler under test: there is no row to write to
        raise ErrNotLocked(
            f"can't {method} {self!r}: it isn't locked, because it never was or because done() was called; "
            "get it from lock_job()"
        )

    def _bind(self, locked: LockedRow) -> None:
        self._row = locked.row
        self._attempt = self._locked = locked
        self._locker = threading.current_thread()

    def _left_lying(self) -> bool:
        """Whether the job is locked but nobody else can be working it, seen from this thread."""
        locker = self._locker
        if self._locked is None or locker is None or self._entered:
            return False
        return locker is threading.current_thread() or not locker.is_alive()

    def _complete(self) -> None:
        """Settle the job after its handler returned.

        The deletion is committed here, under the lock, so that a commit which fails can still be
        recorded before anybody else gets the job.

        Raises:
            ErrNotLocked, psycopg2.Error: if it was no success after all.
        """
        with self._mutex:
            if self._locked is None and self._released_unsettled():
                raise ErrNotLocked(
                    f"the handler of {self!r} called done(), but neither deleted it nor recorded an error"
                )
            if (locked := self._locked) is not None and self._ending not in (Ending.FAILED, Ending.EXPIRED):
                if self._ending not in _SETTLED or not locked.deletion_stands():
                    self.finish() if self._ending is Ending.FINISHED else self.delete()
                if locked.session.in_transaction:
                    locked.session.commit()

    def _hand_in(self) -> LockedRow | None:
        """Part with the row if all there is left to do is its deletion, in no transaction of the handler's."""
        if self._ending is not None or type(self).delete is not Job.delete:
            return None
        if self._locked is None or self._locked.in_transaction:
            return None
        self._handed_in = True
        self._attempt = None  # whoever still has the job can't settle it any more
        return self._detach()

    def _detach(self) -> LockedRow | None:
        """Part with the row and its lock, whose release is the caller's from now on."""
        locked, self._locked = self._locked, None
        return locked

    def _abandon(self) -> None:
        """Undo what isn't committed yet, so that done() has nothing to commit: nobody finished it."""
        with self._mutex:
            if self._locked is not None:
                self._locked.abandon()

    def _released_unsettled(self) -> bool:
        if self._ending in _SETTLED:
            # It may have been rolled back, or the commit may have failed, before or in done().
            return self._attempt is not None and self._attempt.still_there()
        return self._ending is None

    def _fail(self, error: BaseException) -> bool:
        """Carry out what *error* means for the job; return whether that could be written.

        Where the job's session is gone, or doesn't take it, that happens on a new one: under the
        job's lock taken anew, and only if the row is as it was when it was locked. Never raises.
        """
        with self._mutex:
            attempt = self._attempt
            if attempt is None or (self._locked is None and self._ending in _RECORDED):
                return True  # there is nothing to record, or a block of the handler's own has recorded it
            if self._locked is not None:
                try:
                    self._carry_out(error, self._locked, self.error)
                    return True
                except Exception as trouble:  # of any kind; the new session below is the answer
                    attempt.give_up_session(trouble)
            try:
                anew = attempt.relock()
                if anew is not None:
                    try:
                        self._carry_out(error, anew, anew.set_error)
                    finally:
                        anew.let_go()
                return True
            except Exception as trouble:  # the job stays as it was, and will be run again
                attempt.log_unrecorded(trouble)
                return False

    def _carry_out(self, error: BaseException, locked: LockedRow, set_error: Callable[[str], None]) -> None:
        if isinstance(error, MIGRATED) and locked.lost_transaction_to_migration():
            error = Reschedule(after=0)
        if self._observer is not None:
            locked.along = self._observer.record(error, locked.session.conn)
        if isinstance(error, Reschedule):
            locked.reschedule(error)
            self._ending = Ending.RESCHEDULED
        elif isinstance(error, Discard):
            locked.discard()
            self._ending = Ending.DELETED
        else:
            set_error(describe(error))
            self._ending = Ending.FAILED
        self._row = locked.row


class Observer(Protocol):
    """Who follows an attempt to its end, and keeps a record of it."""

    def record(self, error: BaseException, conn: connection) -> tuple[Statement, Sequence[Any]]:
        """Return what to write on *conn* in the transaction that records *error*."""

    def settled(self, error: BaseException | None) -> None:
        """Is told that the attempt is over: with *error*, or its deletion committed."""


class Ending(Enum):
    """How the attempt ended, as far as that was said."""

    DELETED = "deleted"
    FINISHED = "kept as finished"
    FAILED = "failed"
    EXPIRED = "given up"
    RESCHEDULED = "rescheduled"


_SETTLED = (Ending.DELETED, Ending.FINISHED)
_RECORDED = (Ending.FAILED, Ending.EXPIRED, Ending.RESCHEDULED)
