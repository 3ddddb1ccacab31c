"""aio.Client: the methods of qg.Client, awaited, in threads of its own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from awaiting import eventually, is_idle
from psycopg2.pool import ThreadedConnectionPool
from support import UNNAMED, Database, needs, threads
from support import eventually as wait_until

import qg
from qg import aio
from qg.aio.threads import Threads


def lock_table(database: Database) -> Any:
    """A connection that has the table locked until it is closed."""
    blocker = database.connect()
    blocker.cursor().execute("LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE")
    return closing(blocker)


def waiting(database: Database) -> int:
    """How many sessions wait for a lock."""
    return int(
        database.value(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )
    )


async def test_its_methods_are_those_of_the_client(aclient: aio.Client, database: Database) -> None:
    job = qg.Job("A", [1], priority=7)
    assert await aclient.enqueue(job) is job
    assert [each.id for each in await aclient.enqueue_batch(qg.Job("B") for _ in range(2))] == [job.id + 1, job.id + 2]
    assert await aclient.lock_job("other") is None
    async with await aclient.lock_job() as locked:
        assert (locked.id, locked.type, locked.args, locked.queue) == (job.id, "A", [1], UNNAMED)
        assert (locked.priority, locked.run_at, locked.error_count, locked.last_error) == (7, job.run_at, 0, None)
        assert (locked.kwargs, list(locked.tags), repr(locked)) == ({}, [], repr(locked.sync))
        assert [(each.type, each.count, each.count_working) for each in await aclient.stats()] == [
            ("A", 1, 1),
            ("B", 2, 0),
        ]
        assert [each.id for each in await aclient.job_states()] == [job.id]


def test_each_method_and_option_of_the_client_is_there() -> None:
    """But for run_synchronously: how a handler is run belongs to the workers of coroutines."""

    def methods(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    def parameters(function: Any) -> dict[str, tuple[object, object]]:
        return {name: (each.kind, each.default) for name, each in inspect.signature(function).parameters.items()}

    assert methods(aio.Client) | {"runs_synchronously", "logger"} == methods(qg.Client)
    for name in methods(aio.Client):
        assert parameters(getattr(aio.Client, name)) == parameters(getattr(qg.Client, name))
        assert inspect.iscoroutinefunction(getattr(aio.Client, name))
    options, known = parameters(aio.Client), parameters(qg.Client)
    assert options.pop("threads")[1] == 4
    assert known.pop("run_synchronously")[1] is None
    for name in ("middleware", "on_error", "on_expired"):  # for jobs that run synchronously
        del known[name]
    assert options == known


def test_each_method_of_a_job_is_there() -> None:
    """But for conn, which only a thread can use; and tx opens a transaction for coroutines."""
    names = {name for name in dir(qg.Job("MyJob")) if not name.startswith("_")}
    assert {name for name in dir(aio.Job) if not name.startswith("_")} == names - {"conn"} | {"sync"}
    for name in names - {"check"}:
        if callable(getattr(qg.Job, name, None)):
            assert inspect.iscoroutinefunction(getattr(aio.Job, name))


async def test_a_coroutine_that_isnt_awaited_stores_nothing_and_python_says_so(
    aclient: aio.Client, database: Database
) -> None:
    with pytest.warns(RuntimeWarning, match="coroutine 'Client.enqueue' was never awaited"):
        aclient.enqueue(qg.Job("MyJob"))
    assert database.count() == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"threads": 0}, "threads must be a number of threads, 1 or more, not 0"),
        ({"threads": True}, "threads must be"),
        ({"threads": 1.5}, "threads must be"),
        ({"deadline": 0}, "deadline must be"),
        ({"job_class": aio.Job}, "job_class must be a subclass of qg.Job"),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_it_connects(options: dict[str, Any], error: str) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=error):
        aio.Client("postgresql://nowhere.invalid/x", **options)


def test_a_bad_source_is_refused_before_it_connects() -> None:
    for source in (None, 5, needs("sqlalchemy.ext.asyncio").create_async_engine("postgresql+asyncpg://")):
        with pytest.raises(qg.ErrUnusable):
            aio.Client(source)


async def test_it_connects_when_it_is_first_used(dsn: str, database: Database) -> None:
    client = aio.Client(dsn)
    assert database.sessions() == []
    await client.stats()
    assert len(database.sessions()) == 1
    await client.close()


async def test_its_block_begins_where_there_is_a_table(make_database: Callable[..., str], database: Database) -> None:
    dsn = make_database(migrate=False)
    with pytest.raises(qg.ErrTable, match="there is no que_jobs table"):
        async with aio.Client(dsn):
            raise AssertionError("the block began")


async def test_where_it_couldnt_connect_it_tries_again(dsn: str, database: Database) -> None:
    tries: list[int] = []

    def connect() -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise psycopg2.OperationalError("not yet")
        return psycopg2.connect(dsn)

    async with aio.Client(dsn):
        client = aio.Client(connect)
        with pytest.raises(psycopg2.OperationalError, match="not yet"):
            await client.enqueue(qg.Job("MyJob"))
        await client.enqueue(qg.Job("MyJob"))
        await client.close()
    assert database.count() == 1


async def test_many_that_use_it_first_connect_once(dsn: str, database: Database) -> None:
    made: list[Any] = []

    def connect() -> Any:
        made.append(psycopg2.connect(dsn))
        return made[-1]

    async with aio.Client(connect, threads=1) as client:
        await asyncio.gather(*(client.enqueue(qg.Job("MyJob")) for _ in range(20)))
    assert len(made) == 1
    assert database.count() == 20


CALLS: dict[str, Callable[[aio.Client], Awaitable[Any]]] = {
    "enqueue": lambda client: client.enqueue(qg.Job("MyJob")),
    "enqueue_batch": lambda client: client.enqueue_batch([qg.Job("MyJob")]),
    "lock_job": lambda client: client.lock_job("other"),
    "stats": lambda client: client.stats(),
    "job_states": lambda client: client.job_states(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
async def test_what_waits_for_the_database_doesnt_block_the_loop(
    aclient: aio.Client, database: Database, call: Callable[[aio.Client], Awaitable[Any]]
) -> None:
    await aclient.stats()
    with lock_table(database):
        task = asyncio.ensure_future(call(aclient))
        await eventually(lambda: waiting(database) == 1)
        assert not task.done()
    await task


async def test_no_more_calls_run_at_once_than_it_has_threads(dsn: str, database: Database) -> None:
    async with aio.Client(dsn, threads=2) as client:
        with lock_table(database) as blocker:
            tasks = [asyncio.create_task(client.enqueue(qg.Job("MyJob"))) for _ in range(5)]
            await eventually(lambda: waiting(database) == 2)
            assert len([each for each in database.sessions() if each[0] != blocker.info.backend_pid]) == 2
        await asyncio.gather(*tasks)
    assert database.count() == 5


async def test_transactions_and_locked_jobs_wait_for_no_thread(dsn: str, database: Database) -> None:
    """Otherwise calls that wait for a transaction could keep it from its end."""
    psycopg = needs("psycopg")
    async with aio.Client(dsn, threads=1, deadline=20) as client, await psycopg.AsyncConnection.connect(dsn) as tx:
        await client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        job, other = await client.lock_job(), await client.lock_job()
        await tx.execute("LOCK TABLE que_jobs IN SHARE MODE")
        waits = asyncio.create_task(client.enqueue(qg.Job("MyJob")))
        await eventually(lambda: waiting(database) == 1)
        assert job is not None
        assert other is not None
        await client.enqueue_in_tx(qg.Job("MyJob"), tx)
        with pytest.raises(psycopg.Error):
            await client.enqueue_in_tx(qg.Job("MyJob", run_at=None, queue="x", args=["y"]), await _aborted(tx))
        await other.done()
        await tx.rollback()
        await waits
        await job.delete()
        await job.done()


async def _aborted(tx: Any) -> Any:
    """The same transaction, aborted."""
    with pytest.raises(needs("psycopg").Error):
        await tx.execute("SELECT 1/0")
    return tx


async def test_the_loops_own_executor_is_left_alone(aclient: aio.Client, database: Database) -> None:
    class Refusing(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("somebody else's threads")

    asyncio.get_running_loop().set_default_executor(Refusing(1))
    await aclient.enqueue(qg.Job("MyJob"))
    async with await aclient.lock_job() as job:
        await job.delete()


async def test_context_variables_are_seen_in_its_threads(dsn: str, database: Database) -> None:
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    class Job(qg.Job):
        def __post_init__(self) -> None:
            super().__post_init__()
            seen.append(request.get())

        def delete(self) -> None:
            seen.append(request.get())
            super().delete()

    async with aio.Client(dsn, job_class=Job) as client:
        await client.enqueue(qg.Job("MyJob"))
        request.set("mine")
        async with await client.lock_job() as job:
            assert isinstance(job.sync, Job)
            await job.delete()
    assert seen == ["mine", "mine"]


def test_it_may_be_used_in_one_loop_after_another_and_in_several(dsn: str, database: Database) -> None:
    client = aio.Client(dsn)

    async def enqueue() -> None:
        await asyncio.gather(*(client.enqueue(qg.Job("MyJob")) for _ in range(10)))

    asyncio.run(enqueue())
    asyncio.run(enqueue())
    running = [threading.Thread(target=lambda: asyncio.run(enqueue())) for _ in range(3)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    asyncio.run(client.close())
    assert database.count() == 50


def test_it_works_on_uvloop(dsn: str, database: Database) -> None:
    async def use() -> None:
        async with aio.Client(dsn) as client:
            await client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
            async with await client.lock_job() as job:
                await job.delete()
            psycopg = needs("psycopg")
            async with await psycopg.AsyncConnection.connect(dsn) as tx, await client.lock_job() as job:
                await client.enqueue_in_tx(qg.Job("New"), tx)
                await job.delete_in_tx(tx)
                await tx.commit()

    loop = needs("uvloop").new_event_loop()
    try:
        loop.run_until_complete(use())
    finally:
        loop.close()
    assert [job_type for _, job_type, *_ in database.jobs()] == ["New"]


async def test_it_takes_its_connections_from_a_pool_and_gives_them_back(dsn: str, database: Database) -> None:
    pool = ThreadedConnectionPool(1, 2, dsn)
    async with aio.Client(pool, threads=2) as client:
        await asyncio.gather(*(client.enqueue(qg.Job("MyJob")) for _ in range(10)))
        await eventually(lambda: len(database.sessions()) == 1)  # it keeps one
    pool.closeall()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_has_threads_of_its_own(dsn: str, database: Database) -> None:
    client = aio.Client(dsn)
    asyncio.run(client.enqueue(qg.Job("MyJob")))
    wait_until(lambda: is_idle("qg-aio_0"))
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(asyncio.wait_for(client.enqueue(qg.Job("MyJob")), 20))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(client.close())
    assert database.count() == 2


# close()


async def test_a_closed_client_refuses_everything(aclient: aio.Client, database: Database) -> None:
    await aclient.stats()
    await aclient.close()
    await aclient.close()
    for call in CALLS.values():
        with pytest.raises(qg.ErrClientClosed, match="was closed and takes nothing more"):
            await call(aclient)
    await eventually(lambda: not threads("aio"))


async def test_one_that_is_closed_before_it_was_used_refuses_everything_too(aclient: aio.Client) -> None:
    await aclient.close()
    with pytest.raises(qg.ErrClientClosed):
        await aclient.enqueue_in_tx(qg.Job("MyJob"), object())
    with pytest.raises(qg.ErrClientClosed):
        async with aclient:
            raise AssertionError("the block began")


async def test_one_that_is_closed_while_it_connects_keeps_no_connection(dsn: str, database: Database) -> None:
    connecting, closed = threading.Event(), threading.Event()

    def connect() -> Any:
        connecting.set()
        closed.wait(20)
        return psycopg2.connect(dsn)

    client = aio.Client(connect)
    task = asyncio.create_task(client.enqueue(qg.Job("MyJob")))
    await eventually(connecting.is_set)
    await client.close()
    closed.set()
    with pytest.raises(qg.ErrClientClosed):
        await task
    await eventually(lambda: database.sessions() == [])
    assert database.count() == 0


async def test_close_releases_jobs_that_were_left_lying(dsn: str, database: Database) -> None:
    client = aio.Client(dsn)
    await client.enqueue_batch([qg.Job("MyJob") for _ in range(2)])
    mine = await client.lock_job()
    other = await asyncio.create_task(client.lock_job())  # which has ended
    assert len(database.locks()) == 2
    await client.close()
    assert database.locks() == []
    for job in (mine, other):
        with pytest.raises(qg.ErrNotLocked):
            await job.delete()


async def test_close_leaves_jobs_alone_that_some_task_is_working(
    dsn: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The threads that have locked them are no sign of that, and end here as soon as they can.
    monkeypatch.setattr(Threads, "close", lambda self: self._executor.shutdown(wait=True))
    client = aio.Client(dsn, threads=1)
    await client.enqueue_batch([qg.Job("MyJob") for _ in range(2)])
    locked, closed = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        job = await client.lock_job()
        locked.set()
        await closed.wait()
        await job.delete()
        await job.done()

    working = asyncio.create_task(work())
    await locked.wait()
    async with await client.lock_job() as job:
        await client.close()
        assert len(database.locks()) == 2
        closed.set()
        await working
        await job.delete()
    assert (database.count(), database.locks()) == (0, [])


async def test_close_releases_the_others_when_one_of_them_fails(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client = aio.Client(dsn)
    await client.enqueue_batch([qg.Job("MyJob") for _ in range(2)])
    jobs = [await client.lock_job(), await client.lock_job()]
    with jobs[0].sync.tx.cursor() as cur:
        cur.execute("CREATE TEMP TABLE t (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        cur.execute("INSERT INTO t VALUES (1), (1)")
    await jobs[0].delete()
    await client.close()
    assert (database.count(), database.locks()) == (2, [])
    assert f"release_failed id={jobs[0].id}" in caplog.text


async def test_lock_job_that_waited_while_the_client_was_closed_locks_nothing(
    aclient: aio.Client, database: Database
) -> None:
    await aclient.enqueue(qg.Job("MyJob"))
    with lock_table(database):
        task = asyncio.create_task(aclient.lock_job())
        await eventually(lambda: waiting(database) == 1)
        await aclient.close()
    with pytest.raises(qg.ErrClientClosed):
        await task
    assert database.locks() == []
