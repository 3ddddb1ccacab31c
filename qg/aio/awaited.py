"""Transactions that belong to the caller and are awaited, of whatever library they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qg.aio.threads import run_in_own_thread
from qg.database.database import Database
from qg.database.foreign import driver_message
from qg.database.kinds import AWAITED, is_asyncpg, is_awaited, is_raw, is_strange, unusable
from qg.tables import Statement, Table

__all__ = ["rows_in"]


async def rows_in(
    tx: object, database: Database, table: Table, statement: Statement, params: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """Run a *statement* of *table* in the caller's transaction *tx* and return its rows.

    Whatever fails there passes to the caller, and then it is looked whether the table was migrated, as
    Database.rows_in() does. *tx* is neither committed nor rolled back.

    Args:
        tx: a SQLAlchemy AsyncSession or AsyncConnection, a psycopg 3 AsyncConnection or AsyncCursor, or an
            asyncpg Connection.

    Raises:
        ErrUnusable: if *tx* is nothing of that kind.
    """
    try:
        return await _rows_in(tx, statement, params)
    except Exception:  # of whatever driver
        await run_in_own_thread(lambda: database.recheck_apart(table))
        raise


async def _rows_in(tx: Any, statement: Statement, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    if is_asyncpg(tx):
        sql, texts = statement.message(params, numbered=True)
        return [tuple(row) for row in await tx.fetch(sql, *texts)]
    conn = await _reach(tx)
    if hasattr(conn, "exec_driver_sql"):
        return [tuple(row) for row in await conn.exec_driver_sql(*driver_message(conn, statement, params))]
    async with conn.cursor(row_factory=lambda cur: tuple) as cur:
        await cur.execute(*statement.message(params, numbered=is_raw(cur)))
        return [tuple(row) for row in await cur.fetchall()]


async def _reach(tx: Any) -> Any:
    """Return the connection that *tx* is or stands for: SQLAlchemy's own, or psycopg's."""
    if is_strange(tx):
        raise unusable(tx, AWAITED)
    if not is_awaited(tx):
        raise unusable(
            tx, f"{AWAITED}; with any other one call the method of qg.Client, or of qg.Job, in a thread of its own"
        )
    if hasattr(tx, "sync_session") or hasattr(tx, "get_bind"):
        return await tx.connection()  # of an AsyncSession
    if hasattr(tx, "fetchall"):
        return tx.connection  # of a cursor
    if hasattr(tx, "exec_driver_sql") or hasattr(tx, "row_factory"):
        return tx
    raise unusable(tx, AWAITED)
