"""aio.Job: a job that is locked by hand, and what becomes of it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from awaiting import eventually
from support import VERSION, Database
from taking import first_lines, from_4

import qg
from qg import aio


async def lock(client: aio.Client, *args: object) -> aio.Job:
    await client.enqueue(qg.Job("MyJob", list(args)))
    job = await client.lock_job()
    assert job is not None
    return job


async def test_a_job_that_is_deleted_is_gone(aclient: aio.Client, database: Database) -> None:
    async with await lock(aclient) as job:
        assert database.locks() == [job.id]
        await job.delete()
    assert (database.count(), database.locks()) == (0, [])


async def test_a_block_that_doesnt_delete_leaves_the_job(aclient: aio.Client, database: Database) -> None:
    async with await lock(aclient) as job:
        pass
    assert database.locks() == []
    assert first_lines(database) == [(job.id, 0, None)]


async def test_an_exception_is_recorded_and_passes_on(aclient: aio.Client, database: Database) -> None:
    with pytest.raises(LookupError, match="such"):
        async with await lock(aclient) as job:
            await job.delete()  # committed, since no transaction is open
            raise LookupError("no such thing")
    assert database.count() == 0
    with pytest.raises(LookupError, match="such"):
        async with await lock(aclient) as job:
            raise LookupError("no such thing")
    assert first_lines(database) == [(job.id, 1, "LookupError: no such thing")]
    assert "in test_an_exception_is_recorded_and_passes_on" in database.jobs()[0][3]
    assert job.error_count == 1
    assert job.last_error.startswith("LookupError: no such thing")


async def test_verdicts_are_carried_out_and_end_there(aclient: aio.Client, database: Database) -> None:
    async with await lock(aclient):
        raise qg.Discard("not wanted")
    assert database.count() == 0
    async with await lock(aclient) as job:
        raise qg.Reschedule(after=3600)
    assert database.value("SELECT run_at - now() FROM que_jobs") > timedelta(minutes=59)
    assert first_lines(database) == [(job.id, 0, None)]


async def test_what_is_done_by_hand(aclient: aio.Client, database: Database) -> None:
    async with await lock(aclient) as job:
        await job.error("Oops: it failed")
    assert first_lines(database) == [(job.id, 1, "Oops: it failed")]
    async with await lock(aclient) as job:
        await job.expire()
    assert await aclient.lock_job() is None
    database.query("TRUNCATE que_jobs")
    job = await lock(aclient)
    await job.done()
    await job.done()
    for method in (job.delete, job.finish, job.expire, lambda: job.error("x"), job.__aenter__):
        with pytest.raises(qg.ErrNotLocked):
            await method()
    assert database.locks() == []


@from_4
async def test_a_job_may_be_finished(aclient: aio.Client, database: Database) -> None:
    async with await lock(aclient) as job:
        await job.finish()
    assert database.value("SELECT finished_at IS NOT NULL FROM que_jobs")


async def test_its_transaction_is_for_a_thread(aclient: aio.Client, database: Database) -> None:
    def work(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("CREATE TABLE made (x int)")
        job.delete()

    async with await lock(aclient) as job:
        await asyncio.to_thread(work, job.sync)
        assert database.value("SELECT to_regclass('made')") is None
    assert database.value("SELECT to_regclass('made')") == "made"
    database.query("DROP TABLE made")
    assert database.count() == 0


async def ends_by_cancellation(job: aio.Job) -> None:
    raise asyncio.CancelledError


async def ends_by_timeout(job: aio.Job) -> None:
    await asyncio.wait_for(asyncio.Event().wait(), 0.001)


@pytest.mark.parametrize(("end", "errors"), [(ends_by_cancellation, 0), (ends_by_timeout, 1)])
async def test_to_cancel_a_block_blames_nobody_and_a_timeout_in_it_is_a_failure(
    aclient: aio.Client, database: Database, end: Callable[[aio.Job], Awaitable[None]], errors: int
) -> None:
    job = await lock(aclient)

    def write() -> None:
        with job.sync.tx.cursor() as cur:
            cur.execute("CREATE TABLE made (x int)")
        job.sync.delete()

    with pytest.raises((asyncio.CancelledError, asyncio.TimeoutError)):
        async with job:
            await asyncio.to_thread(write)
            await end(job)
    assert database.locks() == []
    assert [count for _, count, _ in first_lines(database)] == [errors]
    assert database.value("SELECT to_regclass('made')") is None


async def test_a_block_that_nobody_runs_any_more_releases_its_job(aclient: aio.Client, database: Database) -> None:
    job = await lock(aclient)

    async def work() -> None:
        async with job:
            await asyncio.get_running_loop().create_future()

    coroutine = work()
    coroutine.send(None)
    coroutine.close()
    await eventually(lambda: database.locks() == [])
    assert first_lines(database) == [(job.id, 0, None)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_signal_that_ends_the_program_blames_nobody(dsn: str, database: Database, kind: type[BaseException]) -> None:
    def interrupt(*_: object) -> None:
        raise kind

    async def work() -> None:
        async with aio.Client(dsn) as client, await lock(client):
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(kind):
            asyncio.run(work())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert database.locks() == []
    assert [count for _, count, _ in first_lines(database)] == [0]


async def test_sys_exit_of_the_blocks_own_is_a_failure(aclient: aio.Client, database: Database) -> None:
    job = await lock(aclient)
    with suppress(SystemExit):
        async with job:
            sys.exit(3)
    assert [count for _, count, _ in first_lines(database)] == [1]


async def test_a_job_that_is_dropped_is_released(aclient: aio.Client, database: Database) -> None:
    await lock(aclient)
    await eventually(lambda: database.locks() == [])


async def test_overrides_of_its_class_are_called(dsn: str, database: Database) -> None:
    calls: list[Any] = []

    class Job(qg.Job):
        def delete(self) -> None:
            calls.append("delete")
            super().delete()

        def error(self, message: str) -> None:
            calls.append(message.split("\n")[0])
            super().error(message)

    async with aio.Client(dsn, job_class=Job) as client:
        async with await lock(client) as job:
            await job.delete()
        with suppress(LookupError):
            async with await lock(client):
                raise LookupError("x")
    assert calls == ["delete", "LookupError: x"]


async def test_a_table_of_version_3_is_told_apart(aclient: aio.Client, database: Database) -> None:
    async with await lock(aclient) as job:
        if VERSION == 3:
            with pytest.raises(qg.ErrTable):
                await job.finish()
        await job.delete()
