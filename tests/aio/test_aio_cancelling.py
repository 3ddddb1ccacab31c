"""What it means to cancel a call of qg.aio: nothing is lost, and no lock and no connection is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import pytest
from awaiting import OPENERS, eventually, is_idle, psycopg_connection_in_a_pipeline, sqlalchemy_scoped_session
from support import Database, threads
from support import eventually as wait_until
from taking import first_lines

import qg
from qg import aio

# Each way of an operation to end in its thread before, or after, the event loop hears of it.
each_moment = pytest.mark.parametrize("turns", [0, 1], ids=["before the loop hears", "before the task does"])


class Gated(qg.Job):
    """A job whose methods wait, once they have begun."""

    begun = threading.Event()
    gate = threading.Event()

    def delete(self) -> None:
        self.wait()
        super().delete()

    def done(self) -> None:
        self.wait()
        super().done()

    def wait(self) -> None:
        self.begun.set()
        assert self.gate.wait(20)


@pytest.fixture
def gated(aclient: aio.Client, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client whose jobs wait."""
    monkeypatch.setattr(Gated, "begun", threading.Event())
    monkeypatch.setattr(Gated, "gate", threading.Event())
    client = aio.Client(dsn, job_class=Gated)
    yield client
    asyncio.run(client.close())


def lock_table(database: Database) -> Any:
    blocker = database.connect()
    blocker.cursor().execute("LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE")
    return closing(blocker)


def waiting(database: Database) -> list[int]:
    """The sessions that wait for a lock."""
    return [
        pid
        for (pid,) in database.query(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )
    ]


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_enqueue_that_is_sent_is_stored(aclient: aio.Client, database: Database) -> None:
    await aclient.stats()
    with lock_table(database):
        task = asyncio.create_task(aclient.enqueue(qg.Job("MyJob")))
        await eventually(lambda: waiting(database))
        await cancel(task)
    await eventually(lambda: database.count() == 1 and is_idle("qg-aio_0"))
    await aclient.stats()
    assert len(database.sessions()) == 1  # which is used again


async def test_an_enqueue_that_hasnt_begun_isnt_stored(dsn: str, database: Database) -> None:
    async with aio.Client(dsn, threads=1) as client:
        with lock_table(database):
            first = asyncio.create_task(client.enqueue(qg.Job("First")))
            await eventually(lambda: waiting(database))
            second = asyncio.create_task(client.enqueue(qg.Job("Second")))
            await asyncio.sleep(0)
            await cancel(second)
        await first
        await client.stats()
    assert [job_type for _, job_type, *_ in database.jobs()] == ["First"]


async def test_a_timeout_ends_the_wait_at_once(aclient: aio.Client, database: Database) -> None:
    await aclient.stats()
    with lock_table(database):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(aclient.enqueue(qg.Job("MyJob")), 0.05)
        assert database.query("SELECT 1") == [(1,)]
    await eventually(lambda: database.count() == 1)


async def test_lock_job_gives_its_lock_and_its_session_back(aclient: aio.Client, database: Database) -> None:
    job = await aclient.enqueue(qg.Job("MyJob"))
    with lock_table(database):
        task = asyncio.create_task(aclient.lock_job())
        (pid,) = await eventually(lambda: waiting(database))
        await cancel(task)
        assert database.locks() == []
    await is_given_back(database)
    async with await aclient.lock_job() as again:
        assert (again.id, again.sync.conn.info.backend_pid) == (job.id, pid)
    assert first_lines(database) == [(job.id, 0, None)]


async def test_a_lock_job_that_nobody_runs_any_more_gives_them_back_too(
    aclient: aio.Client, database: Database
) -> None:
    job = await aclient.enqueue(qg.Job("MyJob"))
    with lock_table(database):
        coroutine = aclient.lock_job()
        coroutine.send(None)
        (pid,) = await eventually(lambda: waiting(database))
        coroutine.close()
    await is_given_back(database)
    async with await aclient.lock_job() as again:
        assert (again.id, again.sync.conn.info.backend_pid) == (job.id, pid)


async def is_given_back(database: Database) -> None:
    """Wait until whatever a client was about to do is done, and undone."""
    await eventually(lambda: is_idle("qg-aio_0") and not threads("aio-job"))
    # What was sent before may still be under way in the server, and what it locks is unlocked after that.
    await eventually(lambda: all(state == "idle" for _, state, _ in database.sessions()) and not database.locks())


@each_moment
async def test_lock_job_that_has_its_job_already_gives_it_back(
    aclient: aio.Client, database: Database, turns: int
) -> None:
    job = await aclient.enqueue(qg.Job("MyJob"))
    task = asyncio.create_task(aclient.lock_job())
    await asyncio.sleep(0)
    # The event loop stands still meanwhile, so it can't hear of it.
    wait_until(lambda: database.locks() == [job.id])
    wait_until(lambda: [state for _, state, _ in database.sessions()] == ["idle"])
    wait_until(lambda: is_idle("qg-aio_0"))
    for _ in range(turns):
        await asyncio.sleep(0)
    assert not task.done()
    pid = database.sessions()[0][0]
    await cancel(task)
    await is_given_back(database)
    async with await aclient.lock_job() as again:
        assert (again.id, again.sync.conn.info.backend_pid) == (job.id, pid)


async def test_a_lock_job_that_fails_after_it_was_cancelled_leaves_nothing(
    aclient: aio.Client, database: Database
) -> None:
    await aclient.enqueue(qg.Job("MyJob"))
    with lock_table(database):
        task = asyncio.create_task(aclient.lock_job())
        (pid,) = await eventually(lambda: waiting(database))
        await cancel(task)
        database.terminate(pid)
    assert database.locks() == []
    async with await aclient.lock_job() as job:
        await job.delete()


async def test_a_deletion_that_is_cancelled_goes_on(gated: aio.Client, database: Database) -> None:
    await gated.enqueue(qg.Job("MyJob"))
    job = await gated.lock_job()
    task = asyncio.create_task(job.delete())
    await eventually(Gated.begun.is_set)
    await cancel(task)
    Gated.gate.set()
    await eventually(lambda: database.count() == 0)
    await job.done()


async def test_done_that_is_cancelled_releases_the_job(gated: aio.Client, database: Database) -> None:
    await gated.enqueue(qg.Job("MyJob"))
    job = await gated.lock_job()
    task = asyncio.create_task(job.done())
    await eventually(Gated.begun.is_set)
    await cancel(task)
    Gated.gate.set()
    await eventually(lambda: database.locks() == [])


async def test_a_block_that_is_cancelled_again_while_it_ends_releases_the_job(
    gated: aio.Client, database: Database
) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with await gated.lock_job():
            entered.set()
            await asyncio.get_running_loop().create_future()

    await gated.enqueue(qg.Job("MyJob"))
    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    await eventually(Gated.begun.is_set)
    await cancel(task)
    Gated.gate.set()
    await eventually(lambda: database.locks() == [])
    assert [count for _, count, _ in first_lines(database)] == [0]


def test_what_is_under_way_when_the_loop_ends_is_done_to_its_end(
    gated: aio.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def lock() -> None:
        await gated.enqueue(qg.Job("MyJob"))
        job = await gated.lock_job()
        asyncio.create_task(job.done())  # noqa: RUF006 - asyncio.run() cancels it
        await eventually(Gated.begun.is_set)

    asyncio.run(lock())
    assert len(database.locks()) == 1
    Gated.gate.set()
    wait_until(lambda: database.locks() == [])
    assert caplog.records == []


async def test_close_that_is_cancelled_closes(gated: aio.Client, database: Database) -> None:
    await gated.enqueue(qg.Job("MyJob"))
    job = await asyncio.create_task(gated.lock_job())
    await gated.stats()
    task = asyncio.create_task(gated.close())
    await eventually(Gated.begun.is_set)
    await cancel(task)
    Gated.gate.set()
    await eventually(lambda: database.sessions() == [])
    for call in (gated.stats(), job.delete()):
        with pytest.raises(qg.QgError):
            await call


# In a pipeline, what is cancelled ends the pipeline; and a scoped session is another one in each task.
every_library_that_can_go_on = pytest.mark.parametrize(
    "opener",
    [each for each in OPENERS if each not in (psycopg_connection_in_a_pipeline, sqlalchemy_scoped_session)],
    ids=lambda opener: opener.__name__,
)


@every_library_that_can_go_on
async def test_what_was_cancelled_in_a_transaction_is_rolled_back_with_it(
    aclient: aio.Client, database: Database, opener: Any
) -> None:
    job = await aclient.enqueue(qg.Job("MyJob"))
    async with await aclient.lock_job() as locked:
        calls: list[Callable[[Any], Awaitable[Any]]] = [
            lambda tx: aclient.enqueue_in_tx(qg.Job("New"), tx),
            lambda tx: aclient.enqueue_batch_in_tx([qg.Job("New")], tx),
            locked.delete_in_tx,
        ]
        for call in calls:
            async with opener(database.dsn) as (tx, _, rollback):
                with lock_table(database):
                    task = asyncio.ensure_future(call(tx))
                    await eventually(lambda: waiting(database))
                    await cancel(task)
                    await rollback()
                    await eventually(lambda: waiting(database) == [])
        assert first_lines(database) == [(job.id, 0, None)]
        async with opener(database.dsn) as (tx, commit, _):
            await aclient.enqueue_in_tx(qg.Job("New"), tx)
            await locked.delete_in_tx(tx)
            await commit()
    assert [job_type for _, job_type, *_ in database.jobs()] == ["New"]
