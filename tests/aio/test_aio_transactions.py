"""Enqueueing, and settling jobs, in transactions that are awaited, with every library that has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import datetime, timezone
from typing import Any

import pytest
from awaiting import asyncpg_connect, asyncpg_connection, eventually, every_awaited_library
from support import VERSION, Database, needs
from taking import from_4
from transactions import async_engine

import qg
from qg import aio

# What the libraries are to hand on.
TEXT = "ä%s$1\\\"'{,}"
ARGS = {"a": [TEXT, "\x00", 1.5, None]} if VERSION == 3 else [{"a": [TEXT, 1.5, None]}]
WHEN = datetime(2040, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)


@asynccontextmanager
async def locked(client: aio.Client) -> AsyncIterator[aio.Job]:
    """A job that is there, and locked."""
    await client.enqueue(qg.Job("MyJob"))
    job = await client.lock_job()
    assert job is not None
    try:
        yield job
    finally:
        await job.done()


# Enqueueing


@every_awaited_library
async def test_a_job_comes_into_being_with_the_callers_commit(
    aclient: aio.Client, database: Database, opener: Any
) -> None:
    async with opener(database.dsn) as (tx, commit, _):
        job = await aclient.enqueue_in_tx(qg.Job("MyJob", ARGS, queue=TEXT, priority=-32768, run_at=WHEN), tx)
        assert database.count() == 0
        await commit()
    assert database.query("SELECT job_id, job_class, queue, priority, run_at, args FROM jobs") == [
        (job.id, "MyJob", TEXT, -32768, WHEN, ARGS)
    ]
    assert job.run_at == WHEN


@every_awaited_library
async def test_a_job_goes_with_the_callers_rollback(aclient: aio.Client, database: Database, opener: Any) -> None:
    async with opener(database.dsn) as (tx, _, rollback):
        await aclient.enqueue_in_tx(qg.Job("MyJob"), tx)
        await rollback()
    assert database.count() == 0


@every_awaited_library
async def test_a_batch_lives_and_dies_with_the_callers_transaction(
    aclient: aio.Client, database: Database, opener: Any
) -> None:
    async with opener(database.dsn) as (tx, commit, rollback):
        await aclient.enqueue_batch_in_tx([qg.Job("Undone"), qg.Job("Undone")], tx)
        await rollback()
        batch = (qg.Job(name, ARGS, queue=TEXT, run_at=when) for name, when in (("A", WHEN), ("B", None)))
        jobs = await aclient.enqueue_batch_in_tx(batch, tx, notify=True)
        await commit()
    stored = database.query("SELECT job_id, job_class, queue, args, run_at FROM jobs ORDER BY job_id")
    assert stored == [(job.id, job.type, TEXT, ARGS, job.run_at) for job in jobs]
    assert jobs[0].run_at == WHEN


@from_4
@every_awaited_library
async def test_keywords_and_tags_are_stored_as_well(aclient: aio.Client, database: Database, opener: Any) -> None:
    async with opener(database.dsn) as (tx, commit, _):
        job = qg.Job("MyJob", [1], kwargs={"key": [TEXT]}, tags=["one", TEXT])
        await aclient.enqueue_in_tx(job, tx)
        await commit()
    async with await aclient.lock_job() as locked:
        assert list(locked.tags) == ["one", TEXT]
        assert locked.kwargs == {"key": [TEXT]} or locked.args == [1, {"key": [TEXT]}]


async def test_an_empty_batch_touches_no_transaction(aclient: aio.Client) -> None:
    assert await aclient.enqueue_batch_in_tx([], None) == []


async def test_a_job_is_checked_before_the_transaction_is_touched(aclient: aio.Client) -> None:
    with pytest.raises(qg.ErrMissingType):
        await aclient.enqueue_in_tx(qg.Job(""), object())


async def test_what_was_rolled_back_to_a_savepoint_isnt_stored(aclient: aio.Client, database: Database) -> None:
    library = needs("sqlalchemy.ext.asyncio")
    async with library.AsyncSession(async_engine(database.dsn, "asyncpg")) as session, session.begin():
        await aclient.enqueue_in_tx(qg.Job("Stays"), session)
        async with session.begin_nested() as savepoint:
            await aclient.enqueue_in_tx(qg.Job("Goes"), session)
            await savepoint.rollback()
    assert [job_type for _, job_type, *_ in database.jobs()] == ["Stays"]


async def test_outside_any_transaction_it_is_committed_at_once(aclient: aio.Client, database: Database) -> None:
    """As with a psycopg2 connection in autocommit mode."""
    conn = await asyncpg_connect(database.dsn)
    await aclient.enqueue_in_tx(qg.Job("A"), conn)
    assert database.count() == 1
    async with locked(aclient) as job:
        await job.delete_in_tx(conn)
        assert database.count() == 1
    await conn.close()
    async with await needs("psycopg").AsyncConnection.connect(database.dsn, autocommit=True) as conn:
        await aclient.enqueue_in_tx(qg.Job("B"), conn)
        assert database.count() == 2
    async with async_engine(database.dsn, "asyncpg").connect() as conn:
        await conn.execution_options(isolation_level="AUTOCOMMIT")
        await aclient.enqueue_in_tx(qg.Job("C"), conn)
        assert database.count() == 3


async def test_the_settings_of_the_session_change_nothing(aclient: aio.Client, database: Database) -> None:
    async with asyncpg_connection(database.dsn) as (tx, _, _):
        await tx.execute("SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'; SET search_path = pg_catalog")
        assert (await aclient.enqueue_in_tx(qg.Job("MyJob", run_at=WHEN), tx)).run_at == WHEN


@every_awaited_library
async def test_a_migration_fails_one_try_and_not_the_next(make_database: Any, database: Database, opener: Any) -> None:
    dsn = make_database(version=4)
    async with aio.Client(dsn) as client:
        await client.enqueue(qg.Job("A"))
        qg.migrate(dsn, 7)
        async with opener(dsn) as (tx, commit, rollback):
            with pytest.raises(Exception, match="job_schema_version"):
                await client.enqueue_in_tx(qg.Job("B"), tx)
            await rollback()
            await client.enqueue_in_tx(qg.Job("B"), tx)
            await commit()
        assert [each.count for each in await client.stats()] == [1, 1]


async def test_what_only_the_migrated_table_holds_is_stored(make_database: Any, database: Database) -> None:
    dsn = make_database(version=3)
    async with aio.Client(dsn) as client, asyncpg_connection(dsn) as (tx, commit, _):
        with pytest.raises(qg.ErrInvalidJob, match="version 3"):
            await client.enqueue_in_tx(qg.Job("A", tags=["x"]), tx)
        qg.migrate(dsn, 7)
        await client.enqueue_in_tx(qg.Job("A", tags=["x"]), tx)
        await commit()
        assert [each.count for each in await client.stats()] == [1]


# Settling


@every_awaited_library
async def test_a_deletion_is_one_with_the_callers_commit(aclient: aio.Client, database: Database, opener: Any) -> None:
    async with opener(database.dsn) as (tx, commit, rollback), locked(aclient) as job:
        await job.delete_in_tx(tx)
        await rollback()
        assert database.count() == 1
        await job.delete_in_tx(tx)
        await job.delete_in_tx(tx)
        await commit()
        assert database.locks() == [job.id]
    assert (database.count(), database.locks()) == (0, [])


@every_awaited_library
async def test_a_job_that_is_gone_is_an_error(aclient: aio.Client, database: Database, opener: Any) -> None:
    async with opener(database.dsn) as (tx, _, rollback), locked(aclient) as job:
        database.query("DELETE FROM que_jobs")
        with pytest.raises(qg.ErrJobGone):
            await job.delete_in_tx(tx)
        await rollback()


@from_4
@every_awaited_library
async def test_a_job_may_be_kept_as_finished(aclient: aio.Client, database: Database, opener: Any) -> None:
    async with opener(database.dsn) as (tx, commit, _), locked(aclient) as job:
        await job.finish_in_tx(tx)
        await commit()
    assert database.value("SELECT finished_at IS NOT NULL FROM que_jobs")
    assert await aclient.lock_job() is None


async def test_version_3_keeps_no_finished_jobs(make_database: Any, database: Database) -> None:
    dsn = make_database(version=3)
    async with aio.Client(dsn) as client, locked(client) as job, asyncpg_connection(dsn) as (tx, _, _):
        with pytest.raises(qg.ErrTable, match="keeps no finished jobs"):
            await job.finish_in_tx(tx)


async def test_a_job_that_somebody_edits_is_deleted_by_its_id(aclient: aio.Client, database: Database) -> None:
    async with asyncpg_connection(database.dsn) as (tx, commit, _), locked(aclient) as job:
        database.query("UPDATE que_jobs SET priority = 7")
        await job.delete_in_tx(tx)
        await commit()
    assert database.count() == 0


async def test_a_second_transaction_is_refused_while_the_first_is_open(aclient: aio.Client, database: Database) -> None:
    async with (
        asyncpg_connection(database.dsn) as (first, commit, _),
        asyncpg_connection(database.dsn) as (second, _, _),
        locked(aclient) as job,
    ):
        await job.delete_in_tx(first)
        for settle in (lambda: job.delete_in_tx(second), job.delete):
            with pytest.raises(qg.ErrNotCommitted, match="in a transaction that is still open"):
                await settle()
        await commit()
        await job.delete()


async def test_the_job_of_a_pool_is_settled_by_a_coroutine_in_its_own_transaction(
    client: qg.Client, database: Database
) -> None:
    """Whose worker then finds it settled."""

    async def handler(job: qg.Job) -> None:
        async with asyncpg_connection(database.dsn) as (tx, commit, _):
            await aio.Job(job).delete_in_tx(tx)
            if job.args:
                await commit()

    client.enqueue_batch([qg.Job("MyJob", [1]), qg.Job("MyJob")])
    worker = qg.Worker(client, {"MyJob": handler})
    assert worker.work_one()
    assert worker.work_one()
    ((_, _, count, error),) = database.jobs()
    assert (count, error.split(":")[0]) == (1, "qg.errors.ErrNotCommitted")


async def test_a_session_of_the_jobs_that_is_lost_changes_nothing_about_it(
    aclient: aio.Client, database: Database
) -> None:
    async with asyncpg_connection(database.dsn) as (tx, commit, _), locked(aclient) as job:
        database.terminate(job.sync.conn.info.backend_pid)
        await job.delete_in_tx(tx)
        await commit()
        await eventually(lambda: job.lost)
        with pytest.raises(qg.ErrLockLost):
            job.check()
    assert database.count() == 0


async def test_it_waits_for_whoever_has_the_row_and_the_loop_goes_on(aclient: aio.Client, database: Database) -> None:
    with closing(database.connect()) as blocker:
        async with asyncpg_connection(database.dsn) as (tx, commit, _), locked(aclient) as job:
            blocker.cursor().execute("SELECT FROM que_jobs FOR UPDATE")
            deletion = asyncio.create_task(job.delete_in_tx(tx))
            await eventually(lambda: database.is_waiting_for_a_lock(tx.get_server_pid()))
            blocker.rollback()
            await deletion
            await commit()
    assert database.count() == 0


async def test_the_lock_is_needed(aclient: aio.Client, database: Database) -> None:
    async with asyncpg_connection(database.dsn) as (tx, _, _), locked(aclient) as job:
        await job.done()
        with pytest.raises(qg.ErrNotLocked, match="can't delete_in_tx"):
            await job.delete_in_tx(tx)
        with pytest.raises(qg.ErrNotLocked, match="can't finish_in_tx"):
            await job.finish_in_tx(tx)


async def test_a_handler_that_uses_it_can_be_tested() -> None:
    job = aio.Job(qg.testing.inject_job_tx(qg.Job("MyJob"), object()))
    async with job:
        await job.delete_in_tx(object())
        await job.finish_in_tx(object())
