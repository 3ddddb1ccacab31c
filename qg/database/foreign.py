"""Transactions that belong to the caller, of whatever library they are."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Protocol, runtime_checkable

from psycopg2.extensions import connection

from qg.database.driver import plain_cursor
from qg.errors import ErrUnusable
from qg.tables import Statement

__all__ = ["Conner", "Queryer", "Txer", "queryer_in", "rows_in"]


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
        return [tuple(row) for row in reached.exec_driver_sql(statement.plain_sql, tuple(params))]
    with closing(_tuple_cursor(reached)) as cur:
        cur.execute(statement.plain_sql, params)
        return [tuple(row) for row in cur.fetchall()]


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
    if any(inspect.iscoroutinefunction(getattr(tx, name, None)) for name in ("execute", "connection")):
        raise _unusable(tx)
    if hasattr(tx, "get_bind") and callable(getattr(tx, "connection", None)):
        return tx.connection()  # a SQLAlchemy Session
    if _is_cursor(tx):
        return tx.connection
    if hasattr(tx, "exec_driver_sql") or callable(getattr(tx, "cursor", None)):
        return tx
    raise _unusable(tx)


def _tuple_cursor(conn: Any) -> Any:
    """Return a cursor of *conn* whose rows are tuples, whatever kind it is set to make."""
    if isinstance(conn, connection):
        return plain_cursor(conn)
    if hasattr(conn, "row_factory"):  # psycopg 3
        return conn.cursor(row_factory=lambda cur: tuple)
    return conn.cursor()


def _is_cursor(tx: object) -> bool:
    return callable(getattr(tx, "execute", None)) and callable(getattr(tx, "fetchall", None))


def _unusable(tx: object) -> ErrUnusable:
    kind = type(tx)
    return ErrUnusable(
        f"a tx can't be of type {kind.__module__}.{kind.__name__}; give a psycopg2 or psycopg 3 connection "
        "or cursor, a Django connection, or a SQLAlchemy Connection or Session"
    )
