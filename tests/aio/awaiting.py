"""What the tests of qg.aio share: transactions of every library that is awaited, and waiting in an event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn
from support import PATIENCE, needs
from transactions import async_engine, async_session

# Each opens a transaction and yields (tx, commit, rollback).
Opened = tuple[Any, Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]


async def eventually(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """As in support, but the event loop goes on meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} didn't come true within {PATIENCE} s"
        await asyncio.sleep(0.005)
    return value


def is_idle(thread: str) -> bool:
    """Whether the thread of a client, of this name, waits for work, and so has made its last result known."""
    (number,) = [each.ident for each in threading.enumerate() if each.name == thread]
    return sys._current_frames()[number].f_code.co_name == "_worker"


async def asyncpg_connect(dsn: str, **options: Any) -> Any:
    given: dict[str, Any] = parse_dsn(dsn)
    given["database"] = given.pop("dbname")
    return await needs("asyncpg").connect(**given, **options)


@asynccontextmanager
async def asyncpg_connection(dsn: str) -> AsyncIterator[Opened]:
    conn = await asyncpg_connect(dsn)
    try:
        await conn.execute("BEGIN")
        yield conn, *_ends(conn)
    finally:
        await conn.close()


@asynccontextmanager
async def asyncpg_connection_with_codecs_and_records(dsn: str) -> AsyncIterator[Opened]:
    import json

    class Record(needs("asyncpg").Record):
        pass

    conn = await asyncpg_connect(dsn, record_class=Record)
    try:
        for name in ("json", "jsonb"):
            await conn.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        await conn.execute("BEGIN")
        yield conn, *_ends(conn)
    finally:
        await conn.close()


@asynccontextmanager
async def asyncpg_connection_of_a_pool(dsn: str) -> AsyncIterator[Opened]:
    given: dict[str, Any] = parse_dsn(dsn)
    given["database"] = given.pop("dbname")
    async with needs("asyncpg").create_pool(**given, min_size=1, max_size=1) as pool, pool.acquire() as conn:
        await conn.execute("BEGIN")
        yield conn, *_ends(conn)


def _ends(conn: Any) -> tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]:
    """Commit or roll back, and begin anew, as the other libraries do by themselves."""
    return lambda: conn.execute("COMMIT; BEGIN"), lambda: conn.execute("ROLLBACK; BEGIN")


@asynccontextmanager
async def psycopg_connection(dsn: str) -> AsyncIterator[Opened]:
    async with await needs("psycopg").AsyncConnection.connect(dsn) as conn:
        yield conn, conn.commit, conn.rollback


@asynccontextmanager
async def psycopg_connection_with_dict_rows(dsn: str) -> AsyncIterator[Opened]:
    dict_row = needs("psycopg.rows").dict_row
    async with await needs("psycopg").AsyncConnection.connect(dsn, row_factory=dict_row) as conn:
        yield conn, conn.commit, conn.rollback


@asynccontextmanager
async def psycopg_connection_with_raw_cursors(dsn: str) -> AsyncIterator[Opened]:
    psycopg = needs("psycopg")
    async with await psycopg.AsyncConnection.connect(dsn, cursor_factory=psycopg.AsyncRawCursor) as conn:
        yield conn, conn.commit, conn.rollback


@asynccontextmanager
async def psycopg_cursor(dsn: str) -> AsyncIterator[Opened]:
    async with await needs("psycopg").AsyncConnection.connect(dsn) as conn, conn.cursor() as cur:
        yield cur, conn.commit, conn.rollback


@asynccontextmanager
async def psycopg_connection_in_a_pipeline(dsn: str) -> AsyncIterator[Opened]:
    async with await needs("psycopg").AsyncConnection.connect(dsn) as conn, conn.pipeline():
        yield conn, conn.commit, conn.rollback


@asynccontextmanager
async def sqlalchemy_session_over_asyncpg(dsn: str) -> AsyncIterator[Opened]:
    async with async_session(dsn, "asyncpg") as session:
        yield session, session.commit, session.rollback


@asynccontextmanager
async def sqlalchemy_session_over_psycopg(dsn: str) -> AsyncIterator[Opened]:
    async with async_session(dsn, "psycopg") as session:
        yield session, session.commit, session.rollback


@asynccontextmanager
async def sqlalchemy_connection_over_asyncpg(dsn: str) -> AsyncIterator[Opened]:
    async with async_engine(dsn, "asyncpg").connect() as conn:
        yield conn, conn.commit, conn.rollback


@asynccontextmanager
async def sqlalchemy_connection_over_psycopg(dsn: str) -> AsyncIterator[Opened]:
    async with async_engine(dsn, "psycopg").connect() as conn:
        yield conn, conn.commit, conn.rollback


@asynccontextmanager
async def sqlalchemy_scoped_session(dsn: str) -> AsyncIterator[Opened]:
    library = needs("sqlalchemy.ext.asyncio")
    session = library.async_scoped_session(
        library.async_sessionmaker(async_engine(dsn, "asyncpg")), scopefunc=asyncio.current_task
    )
    try:
        yield session, session.commit, session.rollback
    finally:
        await session.remove()


OPENERS = [
    asyncpg_connection,
    asyncpg_connection_with_codecs_and_records,
    asyncpg_connection_of_a_pool,
    psycopg_connection,
    psycopg_connection_with_dict_rows,
    psycopg_connection_with_raw_cursors,
    psycopg_cursor,
    psycopg_connection_in_a_pipeline,
    sqlalchemy_session_over_asyncpg,
    sqlalchemy_session_over_psycopg,
    sqlalchemy_connection_over_asyncpg,
    sqlalchemy_connection_over_psycopg,
    sqlalchemy_scoped_session,
]
every_awaited_library = pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)
