"""LockedRow: a row of the table while its lock is held, and what may be written to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg2

from qg.database.known_table import MIGRATED, STALE
from qg.errors import ErrJobGone, ErrNotCommitted
from qg.failures import one_line, seconds_until_retry, storable
from qg.locking.context import LockContext
from qg.locking.row_lock import Lock
from qg.locking.settling import SettlingRow
from qg.retries import RetryPolicy
from qg.tables import Row, Statement, Table, iso_text
from qg.tables.settings import LIMIT_WAITING
from qg.verdicts import Reschedule

__all__ = ["LockedRow"]

_MAX_ERROR_COUNT = 2**31 - 1


class LockedRow(SettlingRow):
    """A row under its advisory lock.

    ``as_locked`` is the row when it was locked, ``row`` what this object has made of it since.
    Nobody else may change a row that is locked, but people with psql can. Every write therefore
    looks whether it met a row, and goes by the id alone if the full key has gone.

    Args:
        row: as it was locked.
        lock: its lock, and the session on which the row is written.
        context: of the client.
        anew_since: the table as it was known when the attempt began, if its lock was lost or given up since.
            What changed the row then, if anything has, was no edit while the job ran, but a record that was
            under way when its session was lost.
    """

    # What each begins with stands here, and not in the constructor: there is one for every job.

    # What is to be written together with the end of a failed attempt: a statement and its parameters.
    along: tuple[Statement, Sequence[Any]] | None = None
    expired = False

    def __init__(
        self,
        row: Row,
        lock: Lock,
        context: LockContext,
        *,
        anew_since: Table | None = None,
    ) -> None:
        super().__init__(row, lock, context, anew_since)
        self.as_locked = row
        self._locked_anew = anew_since is not None

    def roll_back(self) -> None:
        """Roll back what is open. A session that can't do that is closed, which does it too."""
        try:
            self._roll_back()
        except psycopg2.Error as trouble:
            self.give_up_session(trouble)

    def set_error(self, message: str, policy: RetryPolicy | None = None, *, gives_up: bool = False) -> None:
        """Roll back what is open; count one failure of this attempt with *message*, and commit.

        However often it is called, the attempt that began with the lock counts once. After the last
        retry the job expires, and one that has expired stays so.

        Args:
            message: the error's text.
            policy: that of the handler, if it has one.
            gives_up: whether the job expires at once, however many retries it has left.
        """
        count = self._count_one_error()
        if self.expired:
            self._record_error(count, None, message)
        elif gives_up or self._context.expires(count, policy):
            self._record_error(count, None, message)
            self.expired = True
            self._context.logger.error("job_expired id=%d error_count=%d: it isn't tried again", self.row.id, count)
        else:
            seconds = seconds_until_retry(self._context.backoff_of(policy), count, self._context.logger)
            self._record_error(count, seconds, message)

    def expire(self) -> None:
        """Roll back what is open; count one failure of this attempt and give the job up, and commit."""
        self._record_error(self._count_one_error(), None, None)
        self.expired = True

    def reschedule(self, verdict: Reschedule) -> None:
        """Roll back what is open; set run_at as *verdict* says, and commit."""
        at = None if verdict.at is None else iso_text(verdict.at)
        params = (at, verdict.after, self.row.id, self.expired)
        self._write_anew(lambda: self._keep(self._run("reschedule", params), "reschedule it"))

    def discard(self) -> None:
        """Roll back what is open; delete the row, and commit."""
        try:
            self._write_anew(lambda: self._settle("destroy_job", "destroy_job_by_id", "deleted", waits=True))
        except ErrJobGone:
            self._roll_back()
        self._settled_for_good = True

    def let_go(self) -> None:
        """Roll back what is open, and release the lock.

        A session that can't do it is closed, which does it too. Ctrl-C passes on after that; no failure does.
        """
        try:
            if self.in_transaction:
                self.session.rollback()
        except psycopg2.Error as trouble:
            self._lock.close()
            self._context.logger.warning(
                "unlock_failed id=%d: %s; its session was closed", self.row.id, one_line(trouble)
            )
        finally:
            self._lock.release()
            if not self._settled_for_good and self._settled_in is None:
                self._context.rows.note_released(self.row)

    def give_up_session(self, trouble: Exception) -> None:
        """Close the session because of *trouble* when writing on it, and release the lock."""
        self._settled_in = None
        self._context.logger.warning(
            "session_given_up id=%d: %s; its session was closed", self.row.id, one_line(trouble)
        )
        self._lock.close()
        self._lock.release()

    def require_lock(self) -> None:
        """Raise ErrLockLost if what is written isn't under the lock any more."""
        self._lock.require()

    @property
    def backend_pid(self) -> int | None:
        """The server process that holds the lock."""
        return self._lock.backend_pid

    def cancel_statement(self) -> None:
        """Cancel the statement that runs for the row, if one does."""
        self._lock.cancel_statement()

    def still_there(self) -> bool:
        """Whether the job is in the table, for one whose lock was given up."""
        with self._lock.reached() as session:
            return bool(self._run_on(session, "job_exists", (self.row.id,)))

    def lock_anew(self) -> LockedRow | None:
        """Lock the row anew after its lock was lost or given up; None if it isn't as it was."""
        lock = self._lock.anew()
        if lock is not None:
            row, table = self.as_locked, self._context.table
            if table is not self._table:
                row = row._replace(queue=table.migrated_queue(row.queue))
            anew = LockedRow(row, lock, self._context, anew_since=self._table)
            anew.used_in_tx = self.used_in_tx
            try:
                if anew._run("check_job", row.key):
                    return anew
            except BaseException:
                lock.close()
                raise
            anew.let_go()
        self._log_moved_on()
        return None

    def turns_out_gone(self) -> bool:
        """Roll back what is open; return whether the row wasn't there to be settled, and still isn't.

        It may be there all the same: a handler can set a role that hides it.
        """
        self._roll_back()
        self.is_gone = self.is_gone and not self._run("job_exists", (self.row.id,))
        return self.is_gone

    def may_have_failed_stale(self, error: BaseException) -> bool:
        """Whether *error* may mean that a statement was for another version of the table."""
        # A driver of the caller's has error classes of its own.
        return self._failed_in_tx or isinstance(error, MIGRATED)

    def was_migrated(self) -> bool:
        """Roll back what is open; return whether the table was migrated since the row was locked."""
        self.roll_back()
        return self.session.idle and self._context.database.recheck(self._table, self.session)

    def log_lost(self) -> None:
        """Log that the session ended while the job ran, or that the job was cancelled."""
        if self._context.rows.cancelled.has(self.row.id):
            self._context.logger.warning(
                "job_cancelled id=%d: somebody has deleted it, so what it writes through job.tx isn't kept", self.row.id
            )
            return
        self._context.logger.warning(
            "lock_lost id=%d: its session ended while it ran, so somebody else may be working it by now", self.row.id
        )

    def log_unrecorded(self, trouble: Exception) -> None:
        """Log that what became of the attempt couldn't be written."""
        self._context.logger.error("job_unrecorded id=%d: %s", self.row.id, one_line(trouble))

    def _count_one_error(self) -> int:
        return min(self.as_locked.error_count + 1, _MAX_ERROR_COUNT)

    def _record_error(self, count: int, seconds: float | None, message: str | None) -> None:
        change = (count, seconds, None if message is None else storable(message, self.session.conn))

        def write() -> None:
            changed = self._run("set_error", (*change, *self.row.key))
            if not changed and self._locked_anew:
                self._log_moved_on()
                return
            if not changed:
                changed = self._run("set_error_by_id", (*change, self.row.id, self.expired))
                if changed and not self.expired:
                    self._log_edited("marked as failed")
            self._keep(changed, "record its error")

        self._write_anew(write)

    def _write_anew(self, write: Callable[[], None]) -> None:
        """Roll back what is open; commit together what *write* writes and what is written along.

        Raises:
            ErrNotCommitted: if the row was to be settled in a transaction of the caller's, and is locked for a second.
        """

        def begin_and_write(table: Table) -> None:
            self._roll_back()
            self._write_along()
            if self.used_in_tx:
                self.session.run_in_transaction(LIMIT_WAITING)
            try:
                write()
            except STALE:
                self._roll_back()
                raise
            except psycopg2.errors.LockNotAvailable as error:
                if not self.used_in_tx:
                    raise
                self._roll_back()
                raise ErrNotCommitted(
                    f"nothing can be written to job {self.row.id}, since somebody has locked its row: a transaction, "
                    "most likely, in which delete_in_tx or finish_in_tx settled it; commit that, or roll it back"
                ) from error
            self.commit()

        self._context.database.on_table(self.session, begin_and_write)

    def _write_along(self) -> None:
        if self.along is not None:
            try:
                self.session.run_in_transaction(*self.along)
            except psycopg2.Error as trouble:
                # A retry that can't be told of is better than none.
                self._context.logger.error("attempt_unrecorded id=%d: %s", self.row.id, one_line(trouble))
                self.session.rollback()

    def _keep(self, changed: list[tuple[Any, ...]], purpose: str) -> None:
        if changed:
            self.row = Row.read(changed[0][0])
        else:
            self._log_gone(purpose)

    def _log_moved_on(self) -> None:
        self._context.logger.warning(
            "job_moved_on id=%d: somebody else has it by now, or it has changed; nothing was recorded", self.row.id
        )
