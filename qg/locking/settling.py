"""SettlingRow: a row of the table while its lock is held, settled as done, in whichever transaction."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import psycopg2
from psycopg2.extensions import connection

from qg.database.database import Database
from qg.database.session import Session
from qg.errors import ErrJobGone, ErrNotCommitted, ErrTable
from qg.locking.context import LockContext
from qg.locking.row_lock import Lock
from qg.tables import Row, Statement, Table

__all__ = ["Run", "SettlingRow"]

Run: TypeAlias = Callable[[Database, Table, Statement, tuple[Any, ...]], Awaitable[list[tuple[Any, ...]]]]
"""Runs a statement of a table in a transaction of the caller's, and gives its rows."""

# Gives the answer of the statement with this name, somewhere.
_Ask: TypeAlias = Callable[[str, tuple[Any, ...]], Awaitable[Any]]

_Result = TypeVar("_Result")


class _Settlement(Enum):
    """What became of a row that this attempt has settled in some transaction."""

    HERE = "here"  # it is settled in that transaction, which is open where we ask
    OPEN = "open"  # that is open elsewhere
    COMMITTED = "committed"
    UNDONE = "undone"  # it was rolled back, and the job is still to be done
    GONE = "gone"  # it was rolled back, and somebody else has settled the job since


class SettlingRow:
    """The part of a :class:`LockedRow` that deletes the row or keeps it as finished, and knows where it did so.

    That may be in the transaction on our session, which the handler can roll back, or commit; outside of any; or in a
    transaction of the caller's, on another session. So whether the row is settled is looked up.

    The caller may have to wait for his transaction in an event loop. So each step that asks something, perhaps
    there, is a coroutine. On our own session, and where the caller isn't in a loop, none of them waits: see _at_once().

    Args: as LockedRow has them.
    """

    # What each begins with stands here, and not in the constructor: there is one for every job.

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

    def __init__(self, row: Row, lock: Lock, context: LockContext, anew_since: Table | None) -> None:
        self.row = row
        self._lock = lock
        self._context = context
        # As it was known when the attempt began.
        self._table = anew_since or context.table

    @property
    def session(self) -> Session:
        """The session for all that is written about this row, and for its handler."""
        return self._lock.session

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on the session. Asking that isn't using it."""
        return self._lock.in_transaction

    def lend(self) -> connection:
        """Return the connection for the handler, which may do with it what it likes."""
        return self.session.lend()

    @property
    def lost(self) -> bool:
        """Whether the session that holds the lock has ended, as far as can be seen without a message.

        Or whether the job was cancelled, as far as was heard.
        """
        return self._lock.lost or self._context.rows.cancelled.has(self.row.id)

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
        changed = _at_once(self._change(self._ask, by_key, by_id, done, waits=waits))
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
        return self._settle_in(tx, keep=False)

    def finish_in(self, tx: object) -> bool:
        """Keep the row as finished, in the caller's transaction *tx*. In all else as delete_in().

        Raises:
            ErrTable: if the table keeps no finished jobs.
            ErrJobGone, ErrNotCommitted, ErrUnusable, Exception: as delete_in().
        """
        return self._settle_in(tx, keep=True)

    def _settle_in(self, tx: object, *, keep: bool) -> bool:
        async def run(
            database: Database, table: Table, statement: Statement, params: tuple[Any, ...]
        ) -> list[tuple[Any, ...]]:
            return database.rows_in(tx, table, statement, params)

        if not _at_once(self.settle_by(run, keep=keep)):
            return False
        if self._is_settled_here():
            self._settled_in = self._settled_in_tx
        return True

    async def settle_by(self, run: Run, *, keep: bool) -> bool:
        """Do as delete_in(), or finish_in() to *keep* the row, where *run* runs statements.

        It isn't on our session, as *tx* may be there.
        """

        async def ask(name: str, params: tuple[Any, ...]) -> Any:
            table = self._context.table
            try:
                rows = await run(self._context.database, table, _statement(table, name), params)
            except Exception:  # of whatever driver
                self._failed_in_tx = True
                raise
            return json.loads(rows[0][0])

        self.used_in_tx = True
        if keep:
            changed = await self._change(ask, "finish_job_in_tx", "finish_job_by_id_in_tx", "kept as finished")
        else:
            changed = await self._change(ask, "destroy_job_in_tx", "destroy_job_by_id_in_tx", "deleted")
        if changed is None:
            self._note_gone(in_transaction=True)
        elif changed[0]:
            _, self._settled_in_tx = changed
            return True
        return False

    def _is_settled_here(self) -> bool:
        """Whether the transaction of the caller's in which the row was settled is the one that is open on our session.

        Asks only if one is open there, and an aborted one can't be.
        """
        if not self.in_transaction:
            return False
        session = self._lock.unused_session
        return session.usable and self._settlement_on(session) is _Settlement.HERE

    async def _change(
        self, ask: _Ask, by_key: str, by_id: str, done: str, *, waits: bool = False
    ) -> tuple[int, int] | None:
        """Settle the row where *ask* runs statements; return how many rows that changed, and in which transaction.

        None if there is none that is still to be settled, although this attempt hasn't settled it.

        Raises:
            ErrNotCommitted: if this attempt has settled it in a transaction that is open elsewhere: to change it now
                would wait for that. Not if it *waits*.
        """
        # The row is the fence. The lock keeps others from wasting work, but it can be lost without anybody
        # noticing in time. So what a transaction wrote is committed only together with exactly one settled row.
        again = await self._is_settled_by_us(ask, waits=waits)
        count, transaction = await ask(by_key, self.row.key)
        if count == 0:
            count, transaction = await ask(by_id, (self.row.id, again))
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
            return _at_once(self._is_settled_by_us(self._ask))
        return self._settled_for_good or not self._run("job_exists", (self.row.id,))

    def is_settled_in_transaction(self) -> bool:
        """Whether a transaction is open in which this attempt has settled the row; its commit is still to come.

        Raises:
            psycopg2.Error: if that transaction was aborted or lost.
        """
        if self._settled_in is None or self.session.idle:
            return False
        asked = self._ask_on(self.session, "settlement", (self.row.id, self._settled_in))
        return _Settlement(asked) is _Settlement.HERE

    def is_settled_in_tx(self) -> bool:
        """Whether the transaction of the caller's in which the row was settled is committed, as far as is known.

        One statement on the session, which must be idle. It isn't used for the job by that: see Lock.unused_session.
        """
        session = self._lock.unused_session
        try:
            committed = self._settlement_on(session) is _Settlement.COMMITTED
        except psycopg2.Error:  # for require_settled_in_tx() to look into
            return False
        self._settled_for_good = self._settled_for_good or committed
        return committed

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

    async def _is_settled_by_us(self, ask: _Ask, *, waits: bool = True) -> bool:
        """Whether this attempt has settled the row, as seen from where *ask* runs statements.

        Raises:
            ErrNotCommitted: as _change().
        """
        if self._settled_for_good:
            return True
        numbers = {each for each in (self._settled_in, self._settled_in_tx) if each is not None}
        found = [_Settlement(await ask("settlement", (self.row.id, each))) for each in numbers]
        if _Settlement.OPEN in found and not waits:
            raise ErrNotCommitted(
                f"job {self.row.id} was settled in a transaction that is still open; commit that, or roll it back, "
                "before you settle the job elsewhere"
            )
        return _Settlement.HERE in found or _Settlement.COMMITTED in found

    def commit(self) -> None:
        """Commit the open transaction, if there is one; an aborted one raises."""
        if self.in_transaction:
            self.session.commit()

    def _roll_back(self) -> None:
        self._settled_in = None
        if self.in_transaction:
            self.session.rollback()

    async def _ask(self, name: str, params: tuple[Any, ...]) -> Any:
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

    def _log_edited(self, done: str) -> None:
        if self._context.table is not self._table:
            return  # by a migration
        self._context.logger.warning(
            "job_edited id=%d: somebody changed its queue, priority or run_at while it ran; it was %s by its id",
            self.row.id,
            done,
        )

    def _log_gone(self, purpose: str) -> None:
        logger = self._context.logger
        if self._settled_in_tx is None:
            logger.warning(
                "job_gone id=%d: somebody settled or removed it while it ran; there was nothing left to %s",
                self.row.id,
                purpose,
            )
        else:
            logger.warning(
                "job_gone id=%d: a transaction of its handler's settled it; there was nothing left to %s",
                self.row.id,
                purpose,
            )


def _at_once(steps: Coroutine[Any, Any, _Result]) -> _Result:
    """Return the result of *steps*, none of which waits in an event loop."""
    try:
        steps.send(None)
    except StopIteration as end:
        result: _Result = end.value
        return result
    steps.close()
    raise RuntimeError("a step that has nothing to wait for in an event loop did so")


def _statement(table: Table, name: str) -> Statement:
    statement: Statement | None = getattr(table, name)
    if statement is None:
        raise ErrTable(
            f"the que_jobs table is of version {table.version}, which keeps no finished jobs; "
            "delete() the job instead, or migrate the table to version 4 or later"
        )
    return statement
