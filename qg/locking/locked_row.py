"""LockedRow: a row of the table while its lock is held, and what may be written to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TypeAlias

import psycopg2
from psycopg2.extensions import connection

from qg.database.known_table import MIGRATED, STALE
from qg.database.session import Session
from qg.errors import ErrJobGone, ErrNotCommitted, ErrTable
from qg.failures import one_line, seconds_until_retry, storable
from qg.locking.context import LockContext
from qg.locking.row_lock import RowLock
from qg.tables import Row, Statement, Table, iso_text
from qg.tables.settings import LIMIT_WAITING
from qg.verdicts import Reschedule

__all__ = ["LockedRow"]

_MAX_ERROR_COUNT = 2**31 - 1

# Returns the answer of the statement with this name, somewhere.
_Ask: TypeAlias = Callable[[str, tuple[Any, ...]], Any]


class _Settlement(Enum):
    """What became of a row that this attempt has settled in some transaction."""

    HERE = "here"  # it is settled in that transaction, which is open where we ask
    OPEN = "open"  # that is open elsewhere
    COMMITTED = "committed"
    UNDONE = "undone"  # it was rolled back, and the job is still to be done
    GONE = "gone"  # it was rolled back, and somebody else has settled the job since


class LockedRow:
    """A row under its advisory lock.

    ``as_locked`` is the row when it was locked, ``row`` what this object has made of it since.
    Nobody else may change a row that is locked, but people with psql can. Every write therefore
    looks whether it met a row, and goes by the id alone if the full key has gone.

    Args:
        row: as it was locked.
        lock: its lock.
        context: of the client.
        session: where the row is written, and its handler's transaction runs; None means the session
            that holds the lock. Another one is the caller's, who gives it back: many rows can be locked on
            one session then, and each handler that writes has one of its own.
        anew_since: the table as it was known when the attempt began, if its lock was lost or given up since.
            What changed the row then, if anything has, was no edit while the job ran, but a record that was
            under way when its session was lost.
    """

    # What each begins with stands here, and not in the constructor: there is one for every job.

    # What is to be written together with the end of a failed attempt: a statement and its parameters.
    along: tuple[Statement, Sequence[Any]] | None = None
    # Whether delete() or finish() met no row that was still to be settled.
    is_gone = False
    # Whether it was to be settled in a transaction of the caller's, which may have it locked for as long as it likes;
    # and whether that failed.
    used_in_tx = False
    _failed_in_tx = False
    # The transaction on our session in which the row was settled, the last time it was, and the last one of the
    # caller's; whether it was settled outside of any.
    _settled_in: int | None = None
    _settled_in_tx: int | None = None
    _settled_for_good = False
    _expired = False

    def __init__(
        self,
        row: Row,
        lock: RowLock,
        context: LockContext,
        session: Session | None = None,
        *,
        anew_since: Table | None = None,
    ) -> None:
        self.as_locked = row
        self.row = row
        self._lock = lock
        self._context = context
        self._own_session = session
        # As it was known when the attempt began.
        self._table = anew_since or context.table
        self._locked_anew = anew_since is not None

    @property
    def session(self) -> Session:
        """The session for all that is written about this row, and for its handler."""
        return self._lock.session if self._own_session is None else self._own_session

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on the session. Asking that isn't using it."""
        return (self._lock if self._own_session is None else self._own_session).in_transaction

    def note_handler_returned(self) -> None:
        """Note that the handler does nothing any more on the connection that it was lent."""
        (self._lock if self._own_session is None else self._own_session).note_handler_returned()

    def lend(self) -> connection:
        """Return the connection for the handler, which may do with it what it likes."""
        return self.session.lend()

    @property
    def lost(self) -> bool:
        """Whether the session that holds the lock has ended, as far as can be seen without a message."""
        return self._lock.lost

    def delete(self) -> None:
        """Delete the row: in the open transaction, otherwise committed at once.

        Raises:
            ErrJobGone: if a transaction is open, and there is no row that is still to be settled.
        """
        self._settle("destroy_job", "destroy_job_by_id", "deleted")

    def finish(self) -> None:
        """Keep the row as finished: in the open transaction, otherwise committed at once.

        Raises:
            ErrTable: if the table keeps no finished jobs.
            ErrJobGone: as delete().
        """
        self._settle("finish_job", "finish_job_by_id", "kept as finished")

    def _settle(self, by_key: str, by_id: str, done: str, *, waits: bool = False) -> None:
        in_transaction = self.session.in_transaction
        changed = self._change(self._ask, by_key, by_id, done, waits=waits)
        if changed is None:
            self._note_gone(in_transaction)
        elif in_transaction:
            _, self._settled_in = changed
        else:
            self._settled_for_good = True

    def delete_in(self, tx: object) -> bool:
        """Delete the row in the caller's transaction *tx*; return False if this attempt has settled it before.

        Raises:
            ErrJobGone: if there is no row that is still to be settled.
            ErrNotCommitted: if this attempt has settled it in another transaction, and that is still open.
            ErrUnusable: if *tx* is no transaction.
            Exception: what the driver of *tx* raises passes through.
        """
        return self._settle_in(tx, "destroy_job_in_tx", "destroy_job_by_id_in_tx", "deleted")

    def finish_in(self, tx: object) -> bool:
        """Keep the row as finished, in the caller's transaction *tx*. In all else as delete_in().

        Raises:
            ErrTable: if the table keeps no finished jobs.
            ErrJobGone, ErrNotCommitted, ErrUnusable, Exception: as delete_in().
        """
        return self._settle_in(tx, "finish_job_in_tx", "finish_job_by_id_in_tx", "kept as finished")

    def _settle_in(self, tx: object, by_key: str, by_id: str, done: str) -> bool:
        database = self._context.database

        def ask(name: str, params: tuple[Any, ...]) -> Any:
            table = self._context.table
            try:
                return json.loads(database.rows_in(tx, table, _statement(table, name), params)[0][0])
            except Exception:  # of whatever driver
                self._failed_in_tx = True
                raise

        self.used_in_tx = True
        changed = self._change(ask, by_key, by_id, done)
        if changed is None:
            self._note_gone(in_transaction=True)
        elif changed[0]:
            _, self._settled_in_tx = changed
            if self._is_settled_here():
                self._settled_in = self._settled_in_tx
            return True
        return False

    def _is_settled_here(self) -> bool:
        """Whether the transaction of the caller's in which the row was settled is the one that is open on our session.

        Asks only if one is open there, and an aborted one can't be.
        """
        session = self._own_session or self._lock.unused_session
        return session.in_transaction and session.usable and self._settlement_on(session) is _Settlement.HERE

    def _change(self, ask: _Ask, by_key: str, by_id: str, done: str, *, waits: bool = False) -> tuple[int, int] | None:
        """Settle the row where *ask* runs statements; return how many rows that changed, and in which transaction.

        None if there is none that is still to be settled, although this attempt hasn't settled it.

        Raises:
            ErrNotCommitted: if this attempt has settled it in a transaction that is open elsewhere: to change it now
                would wait for that. Not if it *waits*.
        """
        # The row is the fence. The lock keeps others from wasting work, but it can be lost without anybody
        # noticing in time. So what a transaction wrote is committed only together with exactly one settled row.
        again = self._is_settled_by_us(ask, waits=waits)
        count, transaction = ask(by_key, self.row.key)
        if count == 0:
            count, transaction = ask(by_id, (self.row.id, again))
            if count == 0 and not again:
                return None
            if not again:
                self._log_edited(done)
        return count, transaction

    def _note_gone(self, in_transaction: bool) -> None:
        if not self.is_gone:
            self.is_gone = True
            self._log_gone("settle")
        if in_transaction:
            raise ErrJobGone(
                f"job {self.row.id} is gone: somebody else has settled it, or it was removed, while it ran; "
                "what its transaction wrote must not be committed, so roll it back or let this error pass"
            )

    def is_settled(self) -> bool:
        """Whether nothing is left to be settled.

        That is so if this attempt has settled the row, in the open transaction or in one that is committed;
        or if no transaction is open and the row is gone or finished, whoever did that.

        Raises:
            psycopg2.Error: if the open transaction was aborted or lost.
        """
        if self.session.in_transaction:
            return self._is_settled_by_us(self._ask)
        return self._settled_for_good or not self._run("job_exists", (self.row.id,))

    def is_settled_in_transaction(self) -> bool:
        """Whether a transaction is open in which this attempt has settled the row; its commit is still to come.

        Raises:
            psycopg2.Error: if that transaction was aborted or lost.
        """
        if self._settled_in is None or self.session.idle:
            return False
        return _Settlement(self._ask("settlement", (self.row.id, self._settled_in))) is _Settlement.HERE

    def is_settled_in_tx(self) -> bool:
        """Whether the transaction of the caller's in which the row was settled is committed, as far as is known.

        One statement on the session, which must be idle. It isn't used for the job by that: see RowLock.unused_session.
        """
        session = self._own_session or self._lock.unused_session
        try:
            self._settled_for_good = self._settlement_on(session) is _Settlement.COMMITTED
        except psycopg2.Error:  # for require_settled_in_tx() to look into
            return False
        return self._settled_for_good

    def require_settled_in_tx(self) -> None:
        """See that the transaction of the caller's in which the row was settled is committed, or open on our session.

        One statement on the session, or on another one if that is lost. Waits for nobody.

        Raises:
            ErrNotCommitted: if it was rolled back, or is open elsewhere.
            ErrJobGone: if it was rolled back, and somebody else has settled the row since.
            psycopg2.Error: if it can't be found out.
        """
        settlement = self._settlement_here()
        if settlement is None:
            with self._lock.reached() as session:
                settlement = self._settlement_on(session)
        if settlement is _Settlement.COMMITTED:
            self._settled_for_good = True
        elif settlement is _Settlement.GONE:
            self._note_gone(in_transaction=True)
        elif settlement is not _Settlement.HERE:
            how = "it is still open" if settlement is _Settlement.OPEN else "it was rolled back"
            raise ErrNotCommitted(
                f"delete_in_tx or finish_in_tx was called for job {self.row.id}, but its transaction hasn't "
                f"committed: {how}; commit it before the handler returns"
            )

    def _settlement_here(self) -> _Settlement | None:
        """Return what _settlement_on() does on our session; None if that is lost. It is closed then."""
        session = self.session
        try:
            return self._settlement_on(session)
        except psycopg2.Error:
            if session.usable or session.in_transaction:
                raise
        session.close_now()  # a pool may have no other one to give
        return None

    def _settlement_on(self, session: Session) -> _Settlement:
        """Return what became of the row that was settled in a transaction of the caller's."""
        return _Settlement(self._ask_on(session, "settlement", (self.row.id, self._settled_in_tx)))

    def _is_settled_by_us(self, ask: _Ask, *, waits: bool = True) -> bool:
        """Whether this attempt has settled the row, as seen from where *ask* runs statements.

        Raises:
            ErrNotCommitted: as _change().
        """
        if self._settled_for_good:
            return True
        numbers = {each for each in (self._settled_in, self._settled_in_tx) if each is not None}
        found = [_Settlement(ask("settlement", (self.row.id, each))) for each in numbers]
        if _Settlement.OPEN in found and not waits:
            raise ErrNotCommitted(
                f"job {self.row.id} was settled in a transaction that is still open; commit that, or roll it back, "
                "before you settle the job elsewhere"
            )
        return _Settlement.HERE in found or _Settlement.COMMITTED in found

    def commit(self) -> None:
        """Commit the open transaction, if there is one; an aborted one raises."""
        if self.session.in_transaction:
            self.session.commit()

    def roll_back(self) -> None:
        """Roll back what is open. A session that can't do that is closed, which does it too."""
        try:
            self._roll_back()
        except psycopg2.Error as trouble:
            self.give_up_session(trouble)

    def set_error(self, message: str) -> None:
        """Roll back what is open; count one failure of this attempt with *message*, and commit.

        However often it is called, the attempt that began with the lock counts once. After the last
        retry the job expires, and one that has expired stays so.
        """
        count = self._count_one_error()
        if self._expired:
            self._record_error(count, None, message)
        elif self._context.expires(count):
            self._record_error(count, None, message)
            self._expired = True
            self._context.logger.error("job_expired id=%d error_count=%d: it isn't tried again", self.row.id, count)
        else:
            seconds = seconds_until_retry(self._context.backoff, count, self._context.logger)
            self._record_error(count, seconds, message)

    def expire(self) -> None:
        """Roll back what is open; count one failure of this attempt and give the job up, and commit."""
        self._record_error(self._count_one_error(), None, None)
        self._expired = True

    def reschedule(self, verdict: Reschedule) -> None:
        """Roll back what is open; set run_at as *verdict* says, and commit."""
        at = None if verdict.at is None else iso_text(verdict.at)
        params = (at, verdict.after, self.row.id, self._expired)
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
            if self.session.in_transaction:
                self.session.rollback()
        except psycopg2.Error as trouble:
            self.session.close_now()
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
        self.session.close_now()
        self._lock.release()

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
                lock.session.close_now()
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
        """Log that the session ended while the job ran."""
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
                changed = self._run("set_error_by_id", (*change, self.row.id, self._expired))
                if changed and not self._expired:
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

    def _roll_back(self) -> None:
        self._settled_in = None
        if self.session.in_transaction:
            self.session.rollback()

    def _ask(self, name: str, params: tuple[Any, ...]) -> Any:
        """Return the answer of the statement *name*: in the handler's open transaction, otherwise committed at once."""
        return self._ask_on(self.session, name, params)

    def _ask_on(self, session: Session, name: str, params: tuple[Any, ...]) -> Any:
        if not session.in_transaction:
            return json.loads(self._run_on(session, name, params)[0][0])
        ask = session.run_beside_handler
        answer = self._context.database.on_table(session, lambda table: ask(_statement(table, name), params))
        return json.loads(answer or "null")

    def _run(self, name: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Run the statement that the table calls *name*: in our open transaction, otherwise committed at once."""
        return self._run_on(self.session, name, params)

    def _run_on(self, session: Session, name: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        run = session.run_in_transaction if session.in_transaction else session.run
        return self._context.database.on_table(session, lambda table: run(_statement(table, name), params))

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

    def _log_moved_on(self) -> None:
        self._context.logger.warning(
            "job_moved_on id=%d: somebody else has it by now, or it has changed; nothing was recorded", self.row.id
        )

    def _log_gone(self, purpose: str) -> None:
        self._context.logger.warning(
            "job_gone id=%d: %s while it ran; there was nothing left to %s",
            self.row.id,
            "somebody removed it" if self._settled_in_tx is None else "a transaction of its handler's settled it",
            purpose,
        )


def _statement(table: Table, name: str) -> Statement:
    statement: Statement | None = getattr(table, name)
    if statement is None:
        raise ErrTable(
            f"the que_jobs table is of version {table.version}, which keeps no finished jobs; "
            "delete() the job instead, or migrate the table to version 4 or later"
        )
    return statement
