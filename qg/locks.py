"""A row of the table while a session holds its lock: what may be done to it, and letting it go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from qg.backoff import Backoff
from qg.errors import ErrTable
from qg.failures import Logger, one_line, seconds_until_retry, storable
from qg.known import MIGRATED, KnownTable
from qg.session import Session
from qg.tables import Row, Statement, Table, iso_text
from qg.tables.locking import RELOCK_JOB, UNLOCK_ALL
from qg.verdicts import Reschedule

__all__ = ["LockContext", "LockedRow"]

_MAX_ERROR_COUNT = 2**31 - 1
_RELOCK_PAUSE_SECONDS = (0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class LockContext:
    """What a locked row needs besides its session; one for each client."""

    known: KnownTable
    backoff: Backoff
    # How often a job is tried again before it expires; None leaves that to the table.
    maximum_retry_count: float | None
    logger: Logger
    lease: Callable[[], Session]
    # Is told of a row that was unlocked as it was locked, still to be done.
    released: Callable[[Row], None]
    _pooler_logged: threading.Event = field(default_factory=threading.Event)

    @property
    def table(self) -> Table:
        """The table as it is known by now."""
        return self.known.table

    def expires(self, error_count: int) -> bool:
        """Whether a job that has failed so many times is given up."""
        most = self.maximum_retry_count
        if most is None:
            most = self.table.maximum_retry_count
        return most is not None and error_count > most

    def log_pooler(self, job_id: int) -> None:
        """Say once what it means that a session doesn't hold the lock it took."""
        if not self._pooler_logged.is_set():
            self._pooler_logged.set()
            self.logger.error(
                "lock_not_ours id=%d: the session doesn't hold the lock that it took, which is what a pooler "
                "in transaction mode does to it; connect to PostgreSQL directly or pool by session",
                job_id,
            )


class LockedRow:
    """A row whose advisory lock *session* holds.

    ``as_locked`` is the row when it was locked, ``row`` what this object has made of it since.
    Nobody else may change a row that is locked, but people with psql can; every write therefore
    looks whether it met a row, and goes by the id alone if the full key has gone.
    """

    def __init__(
        self,
        session: Session,
        row: Row,
        context: LockContext,
        *,
        lent: bool = False,
        unlock: Statement | None = None,
        before_use: Callable[[LockedRow], None] | None = None,
    ) -> None:
        self.as_locked = row
        self.row = row
        self._session = session
        self._context = context
        # As it was known when the row was locked.
        self._table = context.table
        # A lent session is a worker's, which goes on with it after this row.
        self._lent = lent
        self._unlock = unlock or UNLOCK_ALL
        # Called each time before the session is used for this row or given to its handler.
        self._before_use = before_use
        # What is to be written together with the end of a failed attempt: a statement and its parameters.
        self.along: tuple[Statement, Sequence[Any]] | None = None
        # The transaction that delete() ran in, the last time it did; whether it ran outside of any.
        self._deleted_in: int | None = None
        self._deleted_for_good = False
        self._given_up = False

    @property
    def session(self) -> Session:
        """The session that holds the lock, ready for use."""
        if self._before_use is not None:
            self._before_use(self)
        return self._session

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on the session; to ask that is no use of it."""
        return self._session.in_transaction

    def delete(self) -> None:
        """Delete the row: in the open transaction, otherwise committed at once."""
        self._settle("destroy_job", "destroy_job_by_id", "deleted")

    def finish(self) -> None:
        """Keep the row as finished: in the open transaction, otherwise committed at once.

        Raises:
            ErrTable: if the table keeps no finished jobs.
        """
        if self._context.table.finish_job is None:
            self.session.finds_another(self._context.table)
        self._settle("finish_job", "finish_job_by_id", "kept as finished")

    def _settle(self, by_key: str, by_id: str, done: str) -> None:
        in_transaction = self.session.in_transaction
        ((count, transaction),) = self._run(by_key, self.row.key)
        if count == 0:
            ((count, transaction),) = self._run(by_id, (self.row.id,))
            if count:
                self._log_edited(done)
            elif self._deleted_in is None and not self._deleted_for_good:
                self._log_gone("settle")
        if in_transaction:
            self._deleted_in = transaction
        else:
            self._deleted_for_good = True

    def deletion_pending(self) -> bool:
        """Whether a transaction is open in which the deletion waits for its commit.

        Raises:
            psycopg2.Error: if that transaction was aborted or lost.
        """
        if self._deleted_in is None or self.session.idle:
            return False
        params = (self._deleted_in, self.row.id)
        ((pending,),) = self.session.run_in_transaction(self._context.table.deletion_pending, params)
        return bool(pending)

    def deletion_stands(self) -> bool:
        """Whether the job is gone as things are, in the open transaction or for good.

        Raises:
            psycopg2.Error: if the transaction was aborted or lost.
        """
        return self._deleted_for_good or not self._run("job_exists", (self.row.id,))

    def lost_transaction_to_migration(self) -> bool:
        """Whether the table was migrated since the row was locked, in the middle of what is rolled back now."""
        self.abandon()
        return self.session.idle and self.session.finds_another(self._table)

    def abandon(self) -> None:
        """Roll back what is open. A session that can't do that is closed, which does it too."""
        try:
            self._abandon_transaction()
        except psycopg2.Error as trouble:
            self.give_up_session(trouble)

    def set_error(self, message: str) -> None:
        """Roll back what is open; count one failure of this attempt with *message*, and commit.

        However often it is called, the attempt that began with the lock counts once. After the last
        retry the job expires, and one that was given up stays so.
        """
        count = self._count_one_error()
        if self._given_up:
            self._record_error(count, None, message)
        elif self._context.expires(count):
            self._record_error(count, None, message)
            self._context.logger.error("job_expired id=%d error_count=%d: it isn't tried again", self.row.id, count)
        else:
            seconds = seconds_until_retry(self._context.backoff, count, self._context.logger)
            self._record_error(count, seconds, message)

    def expire(self) -> None:
        """Roll back what is open; count one failure of this attempt and give the job up, and commit."""
        self._record_error(self._count_one_error(), None, None)
        self._given_up = True

    def reschedule(self, verdict: Reschedule) -> None:
        """Roll back what is open; set run_at as *verdict* says, and commit."""
        at = None if verdict.at is None else iso_text(verdict.at)
        self._anew(lambda: self._keep(self._run("reschedule", (at, verdict.after, self.row.id)), "reschedule it"))

    def discard(self) -> None:
        """Roll back what is open; delete the row, and commit."""
        self._anew(self.delete)
        self._deleted_for_good = True

    def let_go(self) -> None:
        """Roll back what is open, unlock, and give the session back unless it is lent.

        No failure is raised: what can't be unlocked is unlocked by closing the connection.
        """
        session = self.session
        try:
            if session.in_transaction:
                session.rollback()
            if not session.idle:
                session.discard()
            elif not session.run(self._unlock, (self.row.id,))[0][0]:
                self._context.log_pooler(self.row.id)
                session.discard()
            elif not self._lent:
                session.give_back()
        except BaseException as trouble:
            session.discard()
            if not isinstance(trouble, Exception):
                raise  # Ctrl-C, after which the lock is gone all the same
            self._context.logger.warning(
                "unlock_failed id=%d: %s; its session was closed", self.row.id, one_line(trouble)
            )
        finally:
            if not self._deleted_for_good and self._deleted_in is None:
                self._context.released(self.row)

    def give_up_session(self, trouble: Exception) -> None:
        """Close the session, which frees the lock, because of *trouble* when writing on it."""
        self._deleted_in = None
        self._context.logger.warning(
            "session_given_up id=%d: %s; its session was closed", self.row.id, one_line(trouble)
        )
        self.session.discard()

    def still_there(self) -> bool:
        """Whether the job is in the table, for one whose lock was given up."""
        session, lent = self._reach()
        try:
            return bool(self._run_on(session, "job_exists", (self.row.id,)))
        finally:
            if not lent:
                session.give_back()

    def relock(self) -> LockedRow | None:
        """Lock the row anew after its lock was lost or given up; None if it isn't as it was."""
        session, lent = self._reach()
        row, table = self.as_locked, self._context.table
        if table is not self._table:
            row = row._replace(queue=table.migrated_queue(row.queue))
        anew = LockedRow(session, row, self._context, lent=lent, unlock=self._unlock)
        try:
            if anew._try_lock():
                if anew._run("check_job", anew.row.key):
                    return anew
                anew.let_go()
            elif not lent:
                session.give_back()
        except BaseException:
            session.discard()
            raise
        self._context.logger.warning(
            "job_moved_on id=%d: somebody else has it by now, or it has changed; nothing was recorded", self.row.id
        )
        return None

    def log_unrecorded(self, trouble: Exception) -> None:
        """Log that what became of the attempt couldn't be written."""
        self._context.logger.error("job_unrecorded id=%d: %s", self.row.id, one_line(trouble))

    def _reach(self) -> tuple[Session, bool]:
        """Return the worker's session where that is sound, otherwise a new one; and whether it is lent."""
        if self._lent and self.session.idle:
            return self.session, True
        return self._context.lease(), False

    def _try_lock(self) -> bool:
        # The server may take a moment to notice that the session which had the lock is gone.
        for pause in (0, *_RELOCK_PAUSE_SECONDS):
            time.sleep(pause)
            if self.session.run(RELOCK_JOB, (self.row.id,))[0][0]:
                return True
        return False

    def _count_one_error(self) -> int:
        return min(self.as_locked.error_count + 1, _MAX_ERROR_COUNT)

    def _record_error(self, count: int, seconds: float | None, message: str | None) -> None:
        change = (count, seconds, None if message is None else storable(message, self.session.conn))

        def write() -> None:
            changed = self._run("set_error", (*change, *self.row.key))
            if not changed:
                changed = self._run("set_error_by_id", (*change, self.row.id))
                if changed:
                    self._log_edited("marked as failed")
            self._keep(changed, "record its error")

        self._anew(write)

    def _anew(self, write: Callable[[], None]) -> None:
        """Roll back what is open; what *write* writes, and what is written along, are committed together."""
        while True:
            table = self._context.table
            try:
                return self._write_anew(write)
            except MIGRATED:
                self._abandon_transaction()
                if not self.session.finds_another(table):
                    raise

    def _write_anew(self, write: Callable[[], None]) -> None:
        self._abandon_transaction()
        if self.along is not None:
            try:
                self.session.run_in_transaction(*self.along)
            except psycopg2.Error as trouble:
                # A retry that can't be told of is better than none.
                self._context.logger.error("attempt_unrecorded id=%d: %s", self.row.id, one_line(trouble))
                self.session.rollback()
        write()
        if self.session.in_transaction:
            self.session.commit()

    def _abandon_transaction(self) -> None:
        self._deleted_in = None
        if self.session.in_transaction:
            self.session.rollback()

    def _run(self, name: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if self.session.in_transaction:
            return self.session.run_in_transaction(self._statement(name), params)
        return self._run_on(self.session, name, params)

    def _run_on(self, session: Session, name: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Run a statement by itself, and if the table was migrated, that of the other table."""
        while True:
            table = self._context.table
            try:
                return session.run(self._statement(name), params)
            except MIGRATED:
                if not session.finds_another(table):
                    raise

    def _statement(self, name: str) -> Statement:
        table = self._context.table
        statement: Statement | None = getattr(table, name)
        if statement is None:
            raise ErrTable(
                f"the que_jobs table is of version {table.version}, which keeps no finished jobs; "
                "delete() the job instead, or migrate the table to version 4 or later"
            )
        return statement

    def _keep(self, changed: list[tuple[Any, ...]], purpose: str) -> None:
        if changed:
            self.row = Row.read(changed[0][0])
        else:
            self._log_gone(purpose)

    def _log_edited(self, done: str) -> None:
        if self._context.table is not self._table:
            return  # by a migration
        self._context.logger.warning(
            "job_edited id=%d: somebody changed its queue, priority or run_at while it ran; it was %s by its id",
            self.row.id,
            done,
        )

    def _log_gone(self, purpose: str) -> None:
        self._context.logger.warning(
            "job_gone id=%d: somebody removed it while it ran; there was nothing left to %s",
            self.row.id,
            purpose,
        )
