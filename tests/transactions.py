"""A transaction of every library that has one, and what may be done in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import parse_dsn
from support import needs

from qg.database.foreign import rows_in
from qg.tables import Statement

# Each opens a transaction and yields (tx, commit, rollback).
Opened = tuple[Any, Callable[[], Any], Callable[[], Any]]


@contextmanager
def psycopg2_connection(dsn: str) -> Iterator[Opened]:
    with closing(psycopg2.connect(dsn)) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg2_connection_with_dict_rows(dsn: str) -> Iterator[Opened]:
    with closing(psycopg2.connect(dsn, cursor_factory=psycopg2.extras.RealDictCursor)) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg2_cursor(dsn: str) -> Iterator[Opened]:
    with closing(psycopg2.connect(dsn)) as conn, conn.cursor() as cur:
        yield cur, conn.commit, conn.rollback


@contextmanager
def psycopg3_connection(dsn: str) -> Iterator[Opened]:
    with needs("psycopg").connect(dsn) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg3_connection_with_dict_rows(dsn: str) -> Iterator[Opened]:
    with needs("psycopg").connect(dsn, row_factory=needs("psycopg.rows").dict_row) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg3_cursor(dsn: str) -> Iterator[Opened]:
    with needs("psycopg").connect(dsn) as conn, conn.cursor(row_factory=needs("psycopg.rows").namedtuple_row) as cur:
        yield cur, conn.commit, conn.rollback


@contextmanager
def psycopg3_connection_with_scalar_rows(dsn: str) -> Iterator[Opened]:
    with needs("psycopg").connect(dsn, row_factory=needs("psycopg.rows").scalar_row) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg3_connection_with_raw_cursors(dsn: str) -> Iterator[Opened]:
    psycopg = needs("psycopg")
    with psycopg.connect(dsn, cursor_factory=psycopg.RawCursor) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg3_raw_cursor(dsn: str) -> Iterator[Opened]:
    psycopg = needs("psycopg")
    with psycopg.connect(dsn, cursor_factory=psycopg.RawCursor) as conn, conn.cursor() as cur:
        yield cur, conn.commit, conn.rollback


@contextmanager
def engine(dsn: str, driver: str) -> Iterator[Any]:
    engine = needs("sqlalchemy").create_engine(f"postgresql+{driver}://", connect_args=parse_dsn(dsn))
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def sqlalchemy_connection(dsn: str) -> Iterator[Opened]:
    with engine(dsn, "psycopg2") as eng, eng.connect() as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def sqlalchemy_connection_over_psycopg3(dsn: str) -> Iterator[Opened]:
    with engine(dsn, "psycopg") as eng, eng.connect() as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def sqlalchemy_session(dsn: str) -> Iterator[Opened]:
    with engine(dsn, "psycopg2") as eng, needs("sqlalchemy.orm").Session(eng) as session:
        yield session, session.commit, session.rollback


@contextmanager
def sqlalchemy_scoped_session(dsn: str) -> Iterator[Opened]:
    with engine(dsn, "psycopg2") as eng:
        orm = needs("sqlalchemy.orm")
        session = orm.scoped_session(orm.sessionmaker(eng))
        try:
            yield session, session.commit, session.rollback
        finally:
            session.remove()


@contextmanager
def django_connection(dsn: str) -> Iterator[Opened]:
    django = needs("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}})
        django.setup()
    from django.db import connection, transaction

    given = parse_dsn(dsn)
    connection.settings_dict.update(
        NAME=given["dbname"],
        USER=given.get("user", ""),
        PASSWORD=given.get("password", ""),
        HOST=given.get("host", ""),
        PORT=given.get("port", ""),
    )
    transaction.set_autocommit(False)
    try:
        yield connection, connection.commit, connection.rollback
    finally:
        connection.rollback()
        connection.close()


OPENERS = [
    psycopg2_connection,
    psycopg2_connection_with_dict_rows,
    psycopg2_cursor,
    psycopg3_connection,
    psycopg3_connection_with_dict_rows,
    psycopg3_connection_with_scalar_rows,
    psycopg3_cursor,
    psycopg3_connection_with_raw_cursors,
    psycopg3_raw_cursor,
    sqlalchemy_connection,
    sqlalchemy_connection_over_psycopg3,
    sqlalchemy_session,
    sqlalchemy_scoped_session,
    django_connection,
]
every_library = pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)


def async_engine(dsn: str, driver: str) -> Any:
    """An AsyncEngine over this driver that keeps no connection."""
    given = parse_dsn(dsn)
    if driver == "asyncpg":
        needs("asyncpg")
        given["database"] = given.pop("dbname")
    return needs("sqlalchemy.ext.asyncio").create_async_engine(
        f"postgresql+{driver}://", connect_args=given, poolclass=needs("sqlalchemy.pool").NullPool
    )


def async_session(dsn: str, driver: str) -> Any:
    """An AsyncSession over this driver."""
    return needs("sqlalchemy.ext.asyncio").AsyncSession(async_engine(dsn, driver))


every_async_driver = pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])


def write_in(tx: Any, number: int) -> None:
    """Write what handlers write, in this transaction."""
    rows_in(tx, Statement("INSERT INTO written VALUES ($1::bigint) RETURNING x"), (number,))
