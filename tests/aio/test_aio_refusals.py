"""What is no transaction for qg.aio is refused, and told what would do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from awaiting import asyncpg_connection
from support import Database, needs
from transactions import async_engine, every_library

import qg
from qg import aio

AWAITED = "a SQLAlchemy AsyncSession or AsyncConnection, a psycopg 3 AsyncConnection or AsyncCursor, or an asyncpg Conn"


@asynccontextmanager
async def each_method(client: aio.Client) -> AsyncIterator[list[Callable[[Any], Any]]]:
    """The methods that take a transaction."""
    await client.enqueue(qg.Job("MyJob"))
    async with await client.lock_job() as job:
        yield [
            lambda tx: client.enqueue_in_tx(qg.Job("MyJob"), tx),
            lambda tx: client.enqueue_batch_in_tx([qg.Job("MyJob")], tx),
            job.delete_in_tx,
        ]


@every_library
async def test_one_that_blocks_is_for_a_thread(aclient: aio.Client, database: Database, opener: Any) -> None:
    if opener.__name__ == "django_connection":
        pytest.skip("Django itself refuses to be used in a coroutine")
    async with each_method(aclient) as methods:
        with opener(database.dsn) as (tx, _, _):
            for method in methods:
                with pytest.raises(qg.ErrUnusable, match=f"give {AWAITED}.*; with any other one call the method of qg"):
                    await method(tx)


async def test_so_is_djangos(aclient: aio.Client) -> None:
    needs("django")
    from django.db.backends.postgresql.base import DatabaseWrapper

    async with each_method(aclient) as methods:
        for method in methods:
            with pytest.raises(qg.ErrUnusable, match=f"DatabaseWrapper; give {AWAITED}"):
                await method(DatabaseWrapper({}))


class Stranger:
    async def execute(self) -> None:
        pass


@pytest.mark.parametrize("tx", [None, 5, "BEGIN", object(), Stranger()], ids=lambda tx: type(tx).__name__)
async def test_what_is_none_is_told_what_would_do(aclient: aio.Client, tx: object) -> None:
    async with each_method(aclient) as methods:
        for method in methods:
            with pytest.raises(qg.ErrUnusable, match=f"{type(tx).__name__}; give {AWAITED}"):
                await method(tx)


async def test_a_pool_or_an_engine_is_none_yet(aclient: aio.Client, database: Database) -> None:
    asyncpg = needs("asyncpg")
    given = [asyncpg.create_pool(database.dsn), async_engine(database.dsn, "asyncpg"), async_engine]
    given.append(needs("sqlalchemy.ext.asyncio").async_sessionmaker(given[1]))
    async with asyncpg_connection(database.dsn) as (conn, _, _), each_method(aclient) as methods:
        for tx in (*given, conn.transaction()):
            for method in methods:
                with pytest.raises(qg.ErrUnusable, match=f"give {AWAITED}"):
                    await method(tx)


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("aiopg.connection", AWAITED),
        ("aiosqlite.core", AWAITED),
        ("tortoise.backends.asyncpg.client", r"what `async with tx.acquire_connection\(\)` yields to qg.aio"),
    ],
)
async def test_a_library_that_qg_cant_speak_to_is_refused_by_its_name(
    aclient: aio.Client, module: str, remedy: str
) -> None:
    tx = type("Connection", (Stranger,), {"__module__": module})()
    library = module.partition(".")[0]
    async with each_method(aclient) as methods:
        for method in methods:
            with pytest.raises(qg.ErrUnusable, match=f"one of {library}, to which qg can't speak; give {remedy}"):
                await method(tx)


async def test_a_transaction_in_another_database_is_refused_by_its_name(
    aclient: aio.Client, database: Database
) -> None:
    async with each_method(aclient) as methods, async_engine(database.dsn, "asyncpg").connect() as tx:
        tx.dialect.name = "sqlite"
        for method in methods:
            with pytest.raises(qg.ErrUnusable, match="in sqlite; the jobs are in PostgreSQL"):
                await method(tx)
