"""Kinds: what a caller gave as a transaction, told by its class and without importing its library."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from qg.errors import ErrUnusable

__all__ = [
    "AWAITED",
    "SYNCHRONOUS",
    "is_asyncpg",
    "is_awaited",
    "is_raw",
    "is_strange",
    "require_greenlet",
    "require_postgresql",
    "unusable",
]

SYNCHRONOUS = "a psycopg2 or psycopg 3 connection or cursor, a Django connection, or a SQLAlchemy Connection or Session"
"""What is taken where nothing is awaited."""

AWAITED = (
    "a SQLAlchemy AsyncSession or AsyncConnection, a psycopg 3 AsyncConnection or AsyncCursor, or an asyncpg Connection"
)
"""What is taken where it is awaited."""

# What qg can't speak to, by the package that its class comes from; and what is to be given instead, if that isn't
# another library.
_STRANGERS = {
    "MySQLdb": None,
    "aiomysql": None,
    "aiopg": None,
    "aiosqlite": None,
    "asyncmy": None,
    "databases": "its raw_connection, which is asyncpg's, to qg.aio",
    "mysql": None,
    "pymysql": None,
    "sqlite3": None,
    "tortoise": "what `async with tx.acquire_connection()` yields to qg.aio",
}


def is_asyncpg(tx: object) -> bool:
    """Whether *tx* is a connection of asyncpg, or one that its pool lends."""
    return "asyncpg" in _packages(tx) and hasattr(tx, "is_in_transaction")


def is_awaited(tx: object) -> bool:
    """Whether *tx* is of a kind whose methods are awaited."""
    methods = (getattr(tx, name, None) for name in ("execute", "connection"))
    return is_asyncpg(tx) or any(inspect.iscoroutinefunction(each) for each in methods)


def is_raw(cursor: object) -> bool:
    """Whether *cursor* is one of psycopg 3 that takes a statement as the server does, with ``$1``."""
    return any(each.__name__ == "RawCursorMixin" for each in type(cursor).__mro__)


def is_strange(tx: object) -> bool:
    """Whether *tx* is of a library that qg can't speak to, and knows by name."""
    return _strange_package(tx) is not None


def require_greenlet(tx: object, bind: Any) -> None:
    """Refuse *tx* of SQLAlchemy, on *bind*, if it is an async engine's and can't wait here.

    It waits by going to its caller's greenlet, which run_sync() has made for it.

    Raises:
        ErrUnusable: if there is none.
    """
    library: Any = sys.modules.get("greenlet")
    if bind.dialect.is_async is True and (library is None or library.getcurrent().parent is None):
        raise ErrUnusable(
            f"a {type(tx).__name__} of an async engine can be used in run_sync() only; call this there, or await "
            "the method of qg.aio.Client, or of qg.aio.Job(job), with the AsyncSession or AsyncConnection"
        )


def require_postgresql(conn: Any) -> None:
    """Refuse *conn* if it is SQLAlchemy's, or Django's, and leads to another database.

    Raises:
        ErrUnusable: says to which.
    """
    dialect = getattr(conn, "dialect", None)
    database = getattr(conn, "vendor", None) if dialect is None else dialect.name
    if isinstance(database, str) and database != "postgresql":
        raise ErrUnusable(f"a tx can't be one in {database}; the jobs are in PostgreSQL, so give a transaction there")


def unusable(tx: object, remedy: str) -> ErrUnusable:
    """Return what is raised where *tx* can't be used: says what it is, and to give the *remedy*."""
    package = _strange_package(tx)
    if package is not None:
        remedy = _STRANGERS[package] or remedy
        return ErrUnusable(f"a tx can't be one of {package}, to which qg can't speak; give {remedy}")
    kind = tx if isinstance(tx, type) else type(tx)
    return ErrUnusable(f"a tx can't be of type {kind.__module__}.{kind.__qualname__}; give {remedy}")


def _strange_package(tx: object) -> str | None:
    return next((each for each in _packages(tx) if each in _STRANGERS), None)


def _packages(tx: object) -> list[str]:
    return [each.__module__.partition(".")[0] for each in type(tx).__mro__]
