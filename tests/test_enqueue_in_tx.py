"""Enqueueing in the caller's transaction, with every library that has one."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import psycopg2
import pytest
from support import VERSION, Database, needs
from transactions import async_session, every_async_driver, every_library

import qg

# What the libraries are to hand on, and how it stands in the table.
ARGS, STORED = ({"a": ["ä\x00"]}, '{"a": ["\\u00e4\\u0000"]}') if VERSION == 3 else ([{"a": ["ä"]}], '[{"a": ["ä"]}]')
WHEN = datetime(2040, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)


@every_library
def test_a_job_comes_into_being_with_the_callers_commit(client: qg.Client, database: Database, opener: Any) -> None:
    with opener(database.dsn) as (tx, commit, _):
        job = client.enqueue_in_tx(qg.Job("MyJob", ARGS, queue="q", priority=0, run_at=WHEN), tx)
        assert database.count() == 0
        commit()
    assert database.query("SELECT job_id, job_class, queue, priority, run_at, args::text FROM jobs") == [
        (job.id, "MyJob", "q", 0, WHEN, STORED)
    ]
    assert job.run_at == WHEN


@every_library
def test_a_job_goes_with_the_callers_rollback(client: qg.Client, database: Database, opener: Any) -> None:
    with opener(database.dsn) as (tx, _, rollback):
        client.enqueue_in_tx(qg.Job("MyJob"), tx)
        rollback()
    assert database.count() == 0


@every_library
def test_a_batch_lives_and_dies_with_the_callers_transaction(
    client: qg.Client, database: Database, opener: Any
) -> None:
    with opener(database.dsn) as (tx, commit, rollback):
        client.enqueue_batch_in_tx([qg.Job("Undone"), qg.Job("Undone")], tx)
        rollback()
        jobs = client.enqueue_batch_in_tx([qg.Job("A", run_at=WHEN), qg.Job("B", priority=7), qg.Job("C")], tx)
        commit()
    assert [(each[0], each[1]) for each in database.jobs()] == [(job.id, job.type) for job in jobs]


def test_a_session_with_another_datestyle_fills_in_the_right_time(client: qg.Client, database: Database) -> None:
    with closing(psycopg2.connect(database.dsn)) as conn:
        with conn.cursor() as cur:
            cur.execute("SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'")
        assert client.enqueue_in_tx(qg.Job("MyJob", run_at=WHEN), conn).run_at == WHEN
        conn.commit()


def test_a_cursor_given_keeps_the_result_it_holds(client: qg.Client, dsn: str) -> None:
    with closing(psycopg2.connect(dsn)) as conn, conn.cursor() as cur:
        cur.execute("SELECT 1")
        client.enqueue_in_tx(qg.Job("MyJob"), cur)
        assert cur.fetchall() == [(1,)]


@every_async_driver
def test_the_session_of_run_sync_is_a_transaction(client: qg.Client, database: Database, driver: str) -> None:
    async def enqueue() -> None:
        async with async_session(database.dsn, driver) as session:
            await session.run_sync(lambda tx: client.enqueue_in_tx(qg.Job("Undone"), tx))
            await session.rollback()
            job = qg.Job("MyJob", ARGS, queue="q", priority=-5, run_at=WHEN)
            await session.run_sync(lambda tx: client.enqueue_in_tx(job, tx))
            await session.run_sync(lambda tx: client.enqueue_batch_in_tx([qg.Job("A"), qg.Job("B")], tx.connection()))
            assert database.count() == 0
            await session.commit()

    asyncio.run(enqueue())
    stored = database.query("SELECT job_class, queue, priority, run_at, args::text FROM jobs ORDER BY job_id")
    assert stored[0] == ("MyJob", "q", -5, WHEN, STORED)
    assert [job_type for job_type, *_ in stored] == ["MyJob", "A", "B"]


@every_async_driver
@pytest.mark.parametrize("begun", [False, True])
def test_the_session_of_an_async_one_is_for_run_sync_only(
    client: qg.Client, database: Database, driver: str, begun: bool
) -> None:
    async def enqueue() -> None:
        async with async_session(database.dsn, driver) as session:
            if begun:
                await session.connection()
            with pytest.raises(qg.ErrUnusable, match=r"a Session of an async engine can be used in run_sync\(\) only"):
                client.enqueue_in_tx(qg.Job("MyJob"), session.sync_session)
            await session.run_sync(lambda tx: client.enqueue_in_tx(qg.Job("MyJob"), tx))
            await session.commit()

    asyncio.run(enqueue())
    assert database.count() == 1


def test_so_it_is_before_anything_was_ever_awaited(
    client: qg.Client, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = async_session(dsn, "asyncpg")
    monkeypatch.delitem(sys.modules, "greenlet", raising=False)  # which SQLAlchemy imports as late as it can
    with pytest.raises(qg.ErrUnusable, match=r"can be used in run_sync\(\) only"):
        client.enqueue_in_tx(qg.Job("MyJob"), session.sync_session)


def kind(name: str) -> type:
    """A class called so, as some library has it."""
    module, _, name = name.rpartition(".")

    async def execute(self: object) -> None:
        pass

    return type(name, (), {"__module__": module, "execute": execute, "cursor": execute})


@pytest.mark.parametrize("tx", [None, 5, "BEGIN", object()], ids=["None", "5", "BEGIN", "object"])
def test_an_object_without_a_transaction_is_refused_and_told_what_would_do(client: qg.Client, tx: Any) -> None:
    with pytest.raises(TypeError, match="psycopg2 or psycopg 3 connection or cursor, a Django connection") as caught:
        client.enqueue_in_tx(qg.Job("MyJob"), tx)
    assert isinstance(caught.value, qg.ErrUnusable)


AWAITED = ["sqlalchemy.ext.asyncio.AsyncSession", "sqlalchemy.ext.asyncio.AsyncConnection"]
AWAITED += ["psycopg.AsyncConnection", "psycopg.AsyncCursor", "asyncpg.Connection", "asyncpg.Pool"]


@pytest.mark.parametrize("name", [*AWAITED, "some.library.Connection"])
def test_what_is_awaited_is_refused_and_told_who_awaits_it(client: qg.Client, name: str) -> None:
    package, _, attribute = name.rpartition(".")
    given = kind(name) if package == "some.library" else getattr(needs(package), attribute)
    tx = object.__new__(type(attribute, (given,), {"__del__": lambda self: None}))  # one that was never opened
    with pytest.raises(qg.ErrUnusable, match=rf"{attribute}; give it to the method of qg\.aio\.Client, or of"):
        client.enqueue_in_tx(qg.Job("MyJob"), tx)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("aiopg.connection.Connection", "a psycopg2 or psycopg 3 connection"),
        ("aiosqlite.core.Connection", "a psycopg2 or psycopg 3 connection"),
        ("databases.core.Connection", "its raw_connection, which is asyncpg's, to qg.aio"),
        ("tortoise.backends.asyncpg.client.TransactionWrapper", "what `async with tx.acquire_connection\\(\\)` yields"),
    ],
)
def test_a_library_that_qg_cant_speak_to_is_refused_by_its_name(client: qg.Client, name: str, remedy: str) -> None:
    library = name.partition(".")[0]
    with pytest.raises(qg.ErrUnusable, match=f"a tx can't be one of {library}, to which qg can't speak; give {remedy}"):
        client.enqueue_in_tx(qg.Job("MyJob"), kind(name)())


def test_a_transaction_in_another_database_is_refused_by_its_name(client: qg.Client) -> None:
    needs("django")
    from django.db.backends.sqlite3.base import DatabaseWrapper

    with closing(sqlite3.connect(":memory:")) as conn:
        with pytest.raises(qg.ErrUnusable, match="one of sqlite3, to which qg can't speak"):
            client.enqueue_in_tx(qg.Job("MyJob"), conn)
        with pytest.raises(qg.ErrUnusable, match="one of sqlite3, to which qg can't speak"):
            client.enqueue_in_tx(qg.Job("MyJob"), conn.cursor())
    engine = needs("sqlalchemy").create_engine("sqlite://")
    with engine.connect() as tx:
        for each in (tx, DatabaseWrapper({"NAME": ":memory:"})):
            with pytest.raises(qg.ErrUnusable, match="in sqlite; the jobs are in PostgreSQL, so give a transaction"):
                client.enqueue_in_tx(qg.Job("MyJob"), each)
    engine.dispose()


def test_a_job_is_checked_before_the_transaction_is_touched(client: qg.Client) -> None:
    with pytest.raises(qg.ErrMissingType):
        client.enqueue_in_tx(qg.Job(""), object())
