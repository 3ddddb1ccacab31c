"""aio.WorkerPool: jobs as tasks of the running event loop, on few connections."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from awaiting import eventually, every_awaited_library
from support import PATIENCE, Database, needs
from taking import all_written, events, fill, first_lines, write

import qg
from qg import aio

SOON = 0.02


def pool_of(client: aio.Client, work_map: Any, count: int = 2, **options: Any) -> aio.WorkerPool:
    return aio.WorkerPool(client, work_map, count, **{"interval": SOON, "listen": False, **options})


async def empty(database: Database) -> None:
    await eventually(lambda: database.count() == 0)


async def work(client: aio.Client, database: Database, handler: Callable[[Any], object], **options: Any) -> None:
    """Let a pool work until no job is left."""
    async with pool_of(client, {"MyJob": handler}, **options):
        await empty(database)


# What runs where


async def test_handlers_run_in_the_loop_of_the_pool_and_share_what_belongs_to_it(
    aclient: aio.Client, database: Database
) -> None:
    fill(database, 6)
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    one = asyncio.Lock()  # bound to the loop where somebody waits for it
    seen = []

    async def handler(job: aio.Job) -> None:
        async with one:
            await asyncio.sleep(0)
        seen.append((type(job), job.id, asyncio.get_running_loop() is loop, threading.get_ident() == thread))

    await work(aclient, database, handler, count=3)
    assert sorted(seen, key=str) == [(aio.Job, number, True, True) for number in range(1, 7)]


async def test_so_many_jobs_run_at_once_on_one_connection(aclient: aio.Client, database: Database) -> None:
    fill(database, 60)
    all_there, go_on, running = asyncio.Event(), asyncio.Event(), 0

    async def handler(job: aio.Job) -> None:
        nonlocal running
        running += 1
        if running == 50:
            all_there.set()
        await go_on.wait()
        running -= 1

    async with pool_of(aclient, {"MyJob": handler}, 50):
        await asyncio.wait_for(all_there.wait(), PATIENCE)
        await asyncio.sleep(0)
        seen = (running, len(database.locks()), len(database.sessions()))
        go_on.set()
        assert seen == (50, 50, 1)
        await empty(database)
    assert running == 0


async def test_plain_functions_run_in_threads_with_a_job_of_qg(
    aclient: aio.Client, database: Database, written: None
) -> None:
    fill(database, 3)
    ran = set()

    def handler(job: qg.Job) -> None:
        ran.add(threading.current_thread().name.rsplit("-", 1)[0])
        write(job)

    await work(aclient, database, handler)
    assert ran == {"qg-aio-worker"}
    assert all_written(database) == [1, 2, 3]


async def test_all_kinds_of_coroutine_function_run_in_the_loop(aclient: aio.Client, database: Database) -> None:
    seen = []

    class Handler:
        async def __call__(self, job: aio.Job) -> None:
            await self.method("object", job)

        async def method(self, name: str, job: aio.Job) -> None:
            asyncio.get_running_loop()
            seen.append(name)

    handlers = {"object": Handler(), "partial": functools.partial(Handler().method, "partial")}
    await aclient.enqueue_batch(qg.Job(kind) for kind in handlers)
    async with pool_of(aclient, handlers):
        await empty(database)
    assert sorted(seen) == ["object", "partial"]


async def test_a_plain_function_that_returns_a_coroutine_has_failed_and_says_why(
    aclient: aio.Client, database: Database
) -> None:
    async def inner(job: aio.Job) -> None:
        raise AssertionError

    fill(database, 1)
    async with pool_of(aclient, {"MyJob": lambda job: inner(job)}):
        await eventually(lambda: bool(first_lines(database)[0][-1]))
    assert "declare it with async def" in str(first_lines(database))


async def test_each_job_runs_in_a_copy_of_the_context_of_the_start(aclient: aio.Client, database: Database) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("start")
    seen = []

    async def handler(job: aio.Job) -> None:
        seen.append(variable.get())
        variable.set("changed")

    def plain(job: qg.Job) -> None:
        seen.append(variable.get())
        variable.set("changed")

    await aclient.enqueue_batch(qg.Job(kind) for kind in ["a", "a", "b", "b"])
    async with pool_of(aclient, {"a": handler, "b": plain}, 1):
        variable.set("later")
        await empty(database)
    assert (seen, variable.get()) == (["start"] * 4, "later")


# What becomes of jobs


async def test_failures_verdicts_and_unknown_types(
    aclient: aio.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(job: aio.Job) -> None:
        raise ValueError("no")

    async def reschedule(job: aio.Job) -> None:
        raise qg.Reschedule(after=3600)

    async def discard(job: aio.Job) -> None:
        raise qg.Discard("why")

    async def leave(job: aio.Job) -> None:
        raise SystemExit(3)

    async def no_argument() -> None:
        raise AssertionError

    handlers = {"A": fail, "B": reschedule, "C": discard, "D": leave, "E": no_argument}
    await aclient.enqueue_batch(qg.Job(kind) for kind in [*handlers, "F"])
    caplog.set_level(logging.INFO, "qg")
    async with pool_of(aclient, handlers, 3):
        await eventually(lambda: len(events(caplog, "job_")) == 6)
        await eventually(lambda: not database.locks())
    rows = database.query("SELECT job_class, error_count, last_error FROM jobs ORDER BY 1")
    assert [(kind, count) for kind, count, _ in rows] == [("A", 1), ("B", 0), ("D", 1), ("E", 1), ("F", 1)]
    texts = [text for _, count, text in rows if count]
    assert all(map(str.startswith, texts, ["ValueError", "SystemExit", "TypeError", "unknown"]))


async def test_a_handler_that_cancels_itself_has_failed(aclient: aio.Client, database: Database) -> None:
    async def handler(job: aio.Job) -> None:
        raise asyncio.CancelledError

    fill(database, 1)
    async with pool_of(aclient, {"MyJob": handler}):
        await eventually(lambda: database.jobs()[0][2] == 1)


@every_awaited_library
async def test_delete_in_tx_commits_with_what_the_handler_wrote(
    opener: Any, aclient: aio.Client, database: Database, dsn: str, written: None
) -> None:
    async def handler(job: aio.Job) -> None:
        async with opener(dsn) as (tx, commit, roll_back):
            await job.delete_in_tx(tx)
            await (commit if job.id == 1 else roll_back)()

    fill(database, 2)
    async with pool_of(aclient, {"MyJob": handler}):
        await eventually(lambda: [(row[0], row[2]) for row in database.jobs()] == [(2, 1)])
        await eventually(lambda: not database.locks())
    assert "ErrNotCommitted" in str(first_lines(database))


async def test_what_is_written_in_tx_commits_with_the_deletion(
    aclient: aio.Client, database: Database, written: None
) -> None:
    needs("psycopg")

    async def handler(job: aio.Job) -> None:
        async with job.tx() as conn:
            await conn.execute("INSERT INTO written VALUES (%s)", [job.id])
            if job.id == 2:
                raise ValueError
            if job.id == 3:
                await job.delete_in_tx(conn)

    fill(database, 3)
    async with pool_of(aclient, {"MyJob": handler}, transactions=1):
        await eventually(lambda: [(row[0], row[2]) for row in database.jobs()] == [(2, 1)])
    assert all_written(database) == [1, 3]


async def test_a_job_that_is_gone_writes_nothing_in_tx(aclient: aio.Client, database: Database, written: None) -> None:
    needs("psycopg")

    async def handler(job: aio.Job) -> None:
        async with job.tx() as conn:
            await conn.execute("INSERT INTO written VALUES (%s)", [job.id])
            database.query("DELETE FROM que_jobs")

    fill(database, 1)
    await work(aclient, database, handler)
    assert all_written(database) == []


async def test_tx_of_a_job_that_was_locked_by_hand(aclient: aio.Client, database: Database, written: None) -> None:
    needs("psycopg")
    fill(database, 1)
    async with await aclient.lock_job() as job:
        async with job.tx() as conn:
            await conn.execute("INSERT INTO written VALUES (1)")
        with pytest.raises(qg.ErrUnusable, match="no client of qg.aio"):
            async with aio.Job(job.sync).tx():
                raise AssertionError
    assert (database.count(), all_written(database)) == (0, [1])


async def test_tx_says_what_it_needs(dsn: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, 1)
    async with aio.Client(lambda: psycopg2.connect(dsn)) as client, await client.lock_job() as job:
        with pytest.raises(qg.ErrUnusable, match="give the client a DSN"):
            async with job.tx():
                raise AssertionError
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(qg.ErrMissingExtra, match=r"needs psycopg 3 .* pip install"):
            async with job.tx():
                raise AssertionError


# Cancelling, and the end


async def test_to_cancel_the_pool_releases_its_jobs_unblamed(aclient: aio.Client, database: Database) -> None:
    fill(database, 20)
    begun = asyncio.Semaphore(0)

    async def handler(job: aio.Job) -> None:
        begun.release()
        await asyncio.sleep(3600)

    pool = pool_of(aclient, {"MyJob": handler}, 5)
    running = asyncio.create_task(pool.run())
    for _ in range(5):
        await begun.acquire()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert database.locks() == []
    assert [count for _, _, count, _ in database.jobs()] == [0] * 20


async def test_leaving_the_block_by_cancellation_cancels_jobs(aclient: aio.Client, database: Database) -> None:
    fill(database, 1)
    begun, cleaned = asyncio.Event(), []

    async def handler(job: aio.Job) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            cleaned.append(job.id)

    async def main() -> None:
        async with pool_of(aclient, {"MyJob": handler}):
            await asyncio.sleep(3600)

    task = asyncio.create_task(main())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (cleaned, database.locks(), database.jobs()[0][2]) == ([1], [], 0)


async def test_shutdown_waits_for_jobs_and_a_timeout_cancels_them(
    aclient: aio.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def handler(job: aio.Job) -> None:
        begun.release()
        await go_on.wait()

    fill(database, 1)
    pool = pool_of(aclient, {"MyJob": handler})
    async with pool:
        await begun.acquire()
        waiting = asyncio.create_task(pool.shutdown())
        await asyncio.sleep(SOON)
        assert not waiting.done()
        go_on.set()
        assert await waiting
    assert database.count() == 0
    fill(database, 1)
    go_on.clear()
    async with (pool := pool_of(aclient, {"MyJob": handler})):
        await begun.acquire()
        caplog.set_level(logging.INFO, "qg")
        assert not await pool.shutdown(0.01)
        assert database.locks() == []
        assert await pool.shutdown()
    assert database.jobs()[0][2] == 0
    assert len(events(caplog, "job_released")) == 1


async def test_a_handler_may_ask_for_the_end_of_its_pool(aclient: aio.Client, database: Database) -> None:
    pools: list[aio.WorkerPool] = []

    async def handler(job: aio.Job) -> None:
        assert not await pools[0].shutdown()

    fill(database, 1)
    pools.append(pool_of(aclient, {"MyJob": handler}))
    await asyncio.wait_for(pools[0].run(), PATIENCE)
    assert database.count() == 0


def test_when_the_loop_cancels_everything_jobs_are_released(dsn: str, database: Database) -> None:
    fill(database, 1)
    client = aio.Client(dsn)
    begun = threading.Event()

    async def handler(job: aio.Job) -> None:
        begun.set()
        await asyncio.sleep(3600)

    async def main() -> None:
        await pool_of(client, {"MyJob": handler}).__aenter__()
        while not begun.is_set():
            await asyncio.sleep(0)

    asyncio.run(main())  # cancels what is left
    asyncio.run(eventually(lambda: not database.locks()))
    assert database.jobs()[0][2] == 0
    asyncio.run(client.close())


def test_when_the_loop_is_closed_jobs_are_released(dsn: str, database: Database) -> None:
    fill(database, 3)
    client = aio.Client(dsn)
    begun = asyncio.Event()

    async def handler(job: aio.Job) -> None:
        begun.set()
        await asyncio.sleep(3600)

    async def main() -> None:
        await pool_of(client, {"MyJob": handler}, 1).__aenter__()
        await begun.wait()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    asyncio.run(eventually(lambda: not database.locks()))
    assert [count for _, _, count, _ in database.jobs()] == [0] * 3
    asyncio.run(client.close())


# Trouble


async def test_a_lost_lock_cancels_the_coroutine_once(
    aclient: aio.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, 1)
    begun, cancelled = asyncio.Semaphore(0), []

    async def handler(job: aio.Job) -> None:
        begun.release()
        try:
            await asyncio.sleep(3600 if not cancelled else 0)
        except asyncio.CancelledError:
            cancelled.append(job.lost)
            raise

    async with pool_of(aclient, {"MyJob": handler}, 1):
        await begun.acquire()
        database.terminate(database.lock_holders()[0])
        await eventually(lambda: bool(cancelled))
        await eventually(lambda: database.jobs()[0][2] == 1)
    assert cancelled == [True]
    assert len(events(caplog, "lock_lost")) == 1
    assert "ErrLockLost" in str(first_lines(database))


async def test_a_handler_that_blocks_the_loop_is_named_once(
    aclient: aio.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, 1)

    async def handler(job: aio.Job) -> None:
        end = time.monotonic() + PATIENCE
        while not events(caplog, "loop_blocked") and time.monotonic() < end:
            time.sleep(0.01)

    await work(aclient, database, handler)
    (line,) = events(caplog, "loop_blocked")
    assert line == "loop_blocked id=1 type=MyJob"


async def test_a_pool_starts_once(aclient: aio.Client, database: Database) -> None:
    pool = pool_of(aclient, {})
    assert await pool.shutdown()
    async with pool:
        with pytest.raises(qg.ErrPoolState, match="started already"):
            await pool.run()
    with pytest.raises(qg.ErrPoolState, match="started already"):
        await pool.__aenter__()


async def test_a_start_that_fails_leaves_nothing_and_may_be_tried_again(dsn: str, database: Database) -> None:
    full = [True]

    def source() -> Any:
        if full[0] and len(database.sessions()):
            raise psycopg2.OperationalError("no more")
        return psycopg2.connect(dsn)

    async with aio.Client(source) as client:
        pool = pool_of(client, {}, 3, connections=2)
        with pytest.raises((qg.ErrTooFewConnections, psycopg2.OperationalError)):
            await pool.__aenter__()
        full[0] = False
        async with pool:
            pass


def test_what_is_no_client_or_no_option_is_refused(client: qg.Client, aclient: aio.Client) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=r"needs a qg\.aio\.Client, not a qg\.Client"):
        aio.WorkerPool(client, {}, 1)  # type: ignore[arg-type]
    with pytest.raises(qg.ErrInvalidOption, match=r"qg\.aio\.WorkerPool takes"):
        qg.WorkerPool(aclient, {}, 1)  # type: ignore[arg-type]
    with pytest.raises(qg.ErrInvalidOption, match=r"qg\.aio\.WorkerPool takes"):
        qg.Worker(aclient, {})  # type: ignore[arg-type]
    wrong: list[dict[str, Any]] = [
        {"count": -1},
        {"count": True},
        {"connections": 0},
        {"connections": 3},
        {"connections": None},
        {"transactions": 0},
        {"queue": 1},
        {"interval": -1},
        {"poll_strategy": 1},
        {"only_known_types": 1},
        {"listen": 1},
        {"work_map": {"A": None}},
        {"work_map": []},
    ]
    for options in wrong:
        with pytest.raises(qg.ErrInvalidOption):
            aio.WorkerPool(aclient, **{"work_map": {}, "count": 2, **options})


async def test_a_failure_that_is_being_recorded_when_the_pool_is_cancelled_is_recorded(
    aclient: aio.Client, database: Database
) -> None:
    """And the job beside it, which runs, is released."""
    begun, fails = asyncio.Event(), asyncio.Event()

    async def handler(job: aio.Job) -> None:
        if job.id == 1:
            await fails.wait()
            raise ValueError
        begun.set()
        await asyncio.sleep(3600)

    fill(database, 2)
    running = asyncio.create_task(pool_of(aclient, {"MyJob": handler}).run())
    await begun.wait()
    with closing(database.connect()) as blocker:
        blocker.cursor().execute("LOCK TABLE que_jobs IN SHARE MODE")
        fails.set()
        await eventually(lambda: any(database.is_waiting_for_a_lock(pid) for pid, _, _ in database.sessions()))
        running.cancel()
        await asyncio.sleep(SOON)
        assert not running.done()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted((number, count) for number, _, count, _ in database.jobs()) == [(1, 1), (2, 0)]
    assert database.locks() == []


async def test_jobs_that_wait_for_a_hand_are_given_back_when_the_pool_is_cancelled(
    aclient: aio.Client, database: Database
) -> None:
    """Quick jobs are taken ahead; the loop stands still while they come."""
    fill(database, 300)
    worked = 0
    cancel = asyncio.Event()

    async def handler(job: aio.Job) -> None:
        nonlocal worked
        worked += 1
        if worked == 150:
            cancel.set()
        if worked >= 150:
            await asyncio.sleep(3600)

    running = asyncio.create_task(pool_of(aclient, {"MyJob": handler}).run())
    await cancel.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert database.locks() == []
    rows = database.jobs()
    assert (len(rows), {count for _, _, count, _ in rows}) == (151, {0})
