"""How an aio.WorkerPool ends: by signals, by refusal, while it starts; and what it costs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from typing import Any

import psycopg2
import pytest
from awaiting import eventually
from support import PATIENCE, Database, Network, needs, threads
from taking import events, fill, first_lines

import qg
import qg.aio.workerpool
from qg import aio

SOON = 0.02


def pool_of(client: aio.Client, work_map: Any, count: int = 2, **options: Any) -> aio.WorkerPool:
    return aio.WorkerPool(client, work_map, count, **{"interval": SOON, "listen": False, **options})


PROGRAM = """
import asyncio, sys
import qg
from qg import aio

async def main():
    go_on = asyncio.Event()

    async def handler(job):
        print("begun", flush=True)
        if sys.argv[2] == "waits":
            await asyncio.sleep(3600)
        asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline).add_done_callback(lambda f: go_on.set())
        await go_on.wait()
        await client.enqueue(qg.Job("MyJob"))

    async with aio.Client(sys.argv[1]) as client:
        pool = aio.WorkerPool(client, {"MyJob": handler}, 2, interval=0.02)
        await pool.run()
    print("ended", flush=True)

if sys.argv[3] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


def program(dsn: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), dsn, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ},
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_running_jobs_end_and_run_returns(
    dsn: str, database: Database, loop: str, number: signal.Signals
) -> None:
    needs(loop)
    fill(database, 1)
    with program(dsn, "ends", loop) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        out, _ = process.communicate("\n", timeout=PATIENCE * 3)
    assert (out, process.returncode) == ("ended\n", 0)
    # What its handler has enqueued since then.
    assert [(number, count) for number, _, count, _ in database.jobs()] == [(2, 0)]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_second_signal_cancels_jobs(dsn: str, database: Database, loop: str) -> None:
    needs(loop)
    fill(database, 1)
    with program(dsn, "waits", loop) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE * 3)
    assert (out, process.returncode) == ("ended\n", 0)
    assert [count for _, _, count, _ in database.jobs()] == [0]


async def test_run_puts_the_signal_handlers_back(aclient: aio.Client) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    pool = pool_of(aclient, {})
    running = asyncio.create_task(pool.run())
    await eventually(lambda: signal.getsignal(signal.SIGTERM) is not before[0])
    await pool.shutdown()
    await running
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_outside_the_main_thread_signals_are_left_alone(dsn: str, database: Database) -> None:
    fill(database, 1)
    raised: list[BaseException] = []

    async def main() -> None:
        async with aio.Client(dsn) as client:

            async def handler(job: aio.Job) -> None:
                asyncio.get_running_loop().call_soon(lambda: tasks.append(asyncio.create_task(pool.shutdown())))

            tasks: list[Any] = []
            pool = pool_of(client, {"MyJob": handler})
            await pool.run()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert (thread.is_alive(), raised, database.count()) == (False, [], 0)


async def test_a_pool_of_none_runs_until_it_is_shut_down(aclient: aio.Client) -> None:
    pool = pool_of(aclient, {}, 0)
    running = asyncio.create_task(pool.run())
    await asyncio.sleep(SOON)
    while running.done() is False:
        await pool.shutdown()
        await asyncio.sleep(0)
    await running


async def test_run_returns_when_the_client_is_closed(aclient: aio.Client, database: Database) -> None:
    pool = pool_of(aclient, {})
    running = asyncio.create_task(pool.run())
    await eventually(lambda: bool(threads("locker")))
    await aclient.close()
    await asyncio.wait_for(running, PATIENCE)


async def test_a_start_that_is_cancelled_leaves_nothing(dsn: str, database: Database) -> None:
    """While the source waits, and the start goes on behind the caller's back."""
    connecting, go_on = threading.Event(), threading.Event()

    def source() -> Any:
        connecting.set()
        assert go_on.wait(PATIENCE)
        return psycopg2.connect(dsn)

    fill(database, 1)
    client = aio.Client(source)
    starting = asyncio.create_task(pool_of(client, {"MyJob": print}).__aenter__())
    await asyncio.to_thread(connecting.wait)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    go_on.set()
    await eventually(lambda: not threads("locker") and not threads("aio"))
    await client.close()
    assert [count for _, _, count, _ in database.jobs()] == [0]


async def test_what_runs_in_a_thread_when_the_time_is_over_is_named_and_goes_on(
    aclient: aio.Client, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qg.aio.workerpool, "_LAST_WORDS_SECONDS", SOON)
    begun, go_on = threading.Event(), threading.Event()

    def handler(job: qg.Job) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    fill(database, 1)
    async with pool_of(aclient, {"MyJob": handler}) as pool:
        await asyncio.to_thread(begun.wait)
        assert not await pool.shutdown(SOON)
        assert events(caplog, "still_running") == ["still_running id=1 type=MyJob"]
        assert database.locks() == [1]
        go_on.set()
        assert await pool.shutdown()
    assert database.count() == 0


async def test_a_coroutine_that_doesnt_let_itself_be_cancelled_is_named_and_goes_on(
    aclient: aio.Client, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qg.aio.workerpool, "_LAST_WORDS_SECONDS", SOON)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handler(job: aio.Job) -> None:
        begun.set()
        while not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await go_on.wait()

    fill(database, 1)
    async with pool_of(aclient, {"MyJob": handler}) as pool:
        await begun.wait()
        assert not await pool.shutdown(SOON)
        assert events(caplog, "still_running") == ["still_running id=1 type=MyJob"]
        go_on.set()
        assert await pool.shutdown()
    assert database.count() == 0


async def test_a_job_that_is_cancelled_before_it_has_begun_is_released(
    aclient: aio.Client, database: Database, recwarn: pytest.WarningsRecorder
) -> None:
    async def first(job: aio.Job) -> None:
        # The other one's task is there, and hasn't begun.
        for task in asyncio.all_tasks():
            if "HandlerCoroutine" in repr(task) and task is not asyncio.current_task():
                task.cancel()
        raise qg.Discard("done")

    async def second(job: aio.Job) -> None:
        ran.append(job.id)

    ran: list[Any] = []
    await aclient.enqueue_batch([qg.Job("A", priority=1), qg.Job("B", priority=2)])
    async with pool_of(aclient, {"A": first, "B": second}):
        await eventually(lambda: [row[2] for row in database.jobs()] == [1])
    assert ran == []
    assert not [each for each in recwarn if "never awaited" in str(each.message)]


async def test_the_session_of_all_locks_is_killed_and_nothing_is_done_twice(
    aclient: aio.Client, database: Database, written: None
) -> None:
    """What ends after that is settled by its row."""
    killed, begun = asyncio.Event(), asyncio.Semaphore(0)
    times: list[int] = []

    async def handler(job: aio.Job) -> None:
        begun.release()
        try:
            await killed.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        times.append(job.id)

    fill(database, 10)
    async with pool_of(aclient, {"MyJob": handler}, 10):
        for _ in range(10):
            await begun.acquire()
        database.terminate(database.lock_holders()[0])
        killed.set()
        await eventually(lambda: database.count() == 0)
    assert {count for _, _, count, _ in database.jobs()} <= {0}
    assert sorted(set(times)) == list(range(1, 11))


async def test_a_failure_takes_no_more_sessions_than_it_may(dsn: str, database: Database) -> None:
    most = 0

    def source() -> Any:
        nonlocal most
        conn = psycopg2.connect(dsn)
        most = max(most, len(database.sessions()))
        return conn

    async def handler(job: aio.Job) -> None:
        raise ValueError

    fill(database, 30)
    async with aio.Client(source) as client, pool_of(client, {"MyJob": handler}, 30, transactions=2):
        await eventually(lambda: all(row[2] == 1 for row in database.jobs()))
    assert most <= 3


async def test_jobs_that_return_cost_no_thread_and_few_messages(network: Network, database: Database) -> None:
    ran = 0
    done = asyncio.Event()

    async def handler(job: aio.Job) -> None:
        nonlocal ran
        await asyncio.sleep(0.01)
        ran += 1
        if ran == 200:
            done.set()

    fill(database, 200)
    async with aio.Client(network.dsn) as client, pool_of(client, {"MyJob": handler}, 100, interval=3600):
        await done.wait()
        await eventually(lambda: database.count() == 0)
        assert not threads("aio-worker")
    assert len([each for each in network.statements if "que_take_jobs" in str(each)]) < 50


async def test_unreadable_rows_are_recorded_in_a_thread(dsn: str, database: Database) -> None:
    class Strict(qg.Job):
        def __post_init__(self) -> None:
            super().__post_init__()
            if self.type == "Bad":
                raise ValueError("refused")

    async def handler(job: aio.Job) -> None:
        """Nothing."""

    fill(database, 1, "Bad")
    fill(database, 1)
    async with aio.Client(dsn, job_class=Strict) as client, pool_of(client, {"MyJob": handler, "Bad": handler}):
        await eventually(lambda: [row[2] for row in database.jobs()] == [1])
    assert "refused" in str(first_lines(database))
