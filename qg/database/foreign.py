"""Transactions that belong to the caller, of whatever library they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Protocol, runtime_checkable

from psycopg2.extensions import connection

from qg.database.driver import plain_cursor
from qg.database.kinds import (
    SYNCHRONOUS,
    is_awaited,
    is_raw,
    is_strange,
    require_greenlet,
    require_postgresql,
    unusable,
)
from qg.tables import Statement

__all__ = ["Conner", "Queryer", "Txer", "driver_message", "queryer_in", "rows_in"]


@runtime_checkable
class Queryer(Protocol):
    """What hands out DB-API cursors. Mirrors Go's ``Queryer``."""

    def cursor(self) -> Any:
        """Return a new cursor."""


@runtime_checkable
class Txer(Queryer, Protocol):
    """A transaction that can be ended. Mirrors Go's ``Txer``."""

    def commit(self) -> None:
        """Make its writes durable."""

    def rollback(self) -> None:
        """Undo its writes."""


@runtime_checkable
class Conner(Txer, Protocol):
    """A connection. Mirrors Go's ``Conner``."""

    def close(self) -> None:
        """End the session."""


def rows_in(tx: object, statement: Statement, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run *statement* in the caller's transaction *tx* and return its rows.

    Neither commits nor rolls back, and takes nothing prepared for granted.

    Args:
        tx: a psycopg2 or psycopg 3 connection or cursor, a Django connection, a SQLAlchemy
            Connection or Session, or anything else that reaches a DB-API cursor with ``%s``.

    Raises:
        ErrUnusable: if *tx* is nothing of that kind.
    """
    reached = _reach(tx)
    if hasattr(reached, "exec_driver_sql"):
        return [tuple(row) for row in reached.exec_driver_sql(*driver_message(reached, statement, params))]
    with closing(_tuple_cursor(reached)) as cur:
        cur.execute(*statement.message(params, numbered=is_raw(cur)))
        return [tuple(row) for row in cur.fetchall()]


def driver_message(conn: Any, statement: Statement, params: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
    """Return what exec_driver_sql() is to be given on *conn*, a SQLAlchemy Connection or AsyncConnection.

    Raises:
        ErrUnusable: if that doesn't lead to a PostgreSQL.
    """
    require_postgresql(conn)
    return statement.message(params, numbered=conn.dialect.dbapi.paramstyle == "numeric_dollar")


def queryer_in(tx: object) -> Queryer:
    """Return what hands out cursors within the caller's transaction *tx*.

    Raises:
        ErrUnusable: if *tx* is nothing that rows_in() takes.
    """
    reached = _reach(tx)
    queryer: Queryer = reached.connection if hasattr(reached, "exec_driver_sql") else reached
    return queryer


def _reach(tx: Any) -> Any:
    """Return the connection that *tx* is or stands for; SQLAlchemy's own, since it knows the transaction."""
    if is_strange(tx):
        raise unusable(tx, SYNCHRONOUS)
    if is_awaited(tx):
        raise unusable(
            tx,
            f"it to the method of qg.aio.Client, or of qg.aio.Job(job), and await that; here give {SYNCHRONOUS}, such "
            "as the one that run_sync() of an AsyncSession has",
        )
    if hasattr(tx, "get_bind") and callable(getattr(tx, "connection", None)):  # a SQLAlchemy Session
        require_greenlet(tx, tx.get_bind())
        return tx.connection()
    if hasattr(tx, "exec_driver_sql"):
        require_greenlet(tx, tx)
        return tx
    if _is_cursor(tx):
        tx = tx.connection
    if callable(getattr(tx, "cursor", None)):
        require_postgresql(tx)
        return tx
    raise unusable(tx, SYNCHRONOUS)


def _tuple_cursor(conn: Any) -> Any:
    """Return a cursor of *conn* whose rows are tuples, whatever kind it is set to make."""
    if isinstance(conn, connection):
        return plain_cursor(conn)
    if hasattr(conn, "row_factory"):  # psycopg 3
        return conn.cursor(row_factory=lambda cur: tuple)
    return conn.cursor()


def _is_cursor(tx: object) -> bool:
    return callable(getattr(tx, "execute", None)) and callable(getattr(tx, "fetchall", None))
