"""The one event loop in which the coroutines of a pool's handlers run."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn
from support import PATIENCE, Database, UntilEmpty, eventually, needs, threads
from taking import all_written, events, fill, write

import qg
from qg.working.coroutine import HandlerCoroutine
from qg.working.event_loop import HandlerLoop
from qg.working.handlers import run_handler
from qg.working.threads import WakeUp

SOON = 0.01
LOGGER = logging.getLogger("qg")
JOB = qg.Job("MyJob")


class Bound:
    """As an engine, a session or a cache of somebody's: it belongs to the loop in which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(1)

    async def use(self) -> None:
        assert asyncio.get_running_loop() is self._loop, "made in another event loop"
        async with self._free:
            await asyncio.sleep(0)


def pool_of(client: qg.Client, work_map: qg.WorkMap, count: int = 2) -> qg.WorkerPool:
    return qg.WorkerPool(client, work_map, count, interval=SOON, listen=False)


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(event)]


def failures(database: Database) -> list[tuple[int, str]]:
    """Id and error of each job that has failed."""
    return [(number, text.split(":")[0]) for number, _, count, text in database.jobs() if count]


def one_after_the_other(client: qg.Client, handler: Callable[[qg.Job], object], jobs: int = 2) -> None:
    """Let a pool work *jobs* jobs, and shut it down."""
    done = threading.Semaphore(0)

    def counted(job: qg.Job) -> object:
        done.release()
        return handler(job)

    client.enqueue_batch(qg.Job("MyJob") for _ in range(jobs))
    with pool_of(client, {"MyJob": counted}):
        for _ in range(jobs):
            assert done.acquire(timeout=PATIENCE)


# One loop for all


def test_what_one_job_makes_later_ones_and_those_beside_it_can_use(client: qg.Client, database: Database) -> None:
    made: list[Bound] = []

    async def handler(job: qg.Job) -> None:
        if not made:
            made.append(Bound())
        await asyncio.gather(*(made[0].use() for _ in range(5)))

    one_after_the_other(client, handler, 20)
    assert database.jobs() == []


def test_so_they_can_an_engine_of_sqlalchemy(client: qg.Client, database: Database, written: None) -> None:
    engine = needs("sqlalchemy.ext.asyncio").create_async_engine(
        "postgresql+psycopg://", connect_args=parse_dsn(database.dsn), pool_size=1, max_overflow=0
    )
    text = needs("sqlalchemy").text

    async def handler(job: qg.Job) -> None:
        async with engine.begin() as conn:
            await conn.execute(text("INSERT INTO written VALUES (:id)"), {"id": job.id})

    async def dispose(job: qg.Job) -> None:
        await engine.dispose()

    client.enqueue_batch(qg.Job("MyJob") for _ in range(10))
    with pool_of(client, {"MyJob": handler, "Dispose": dispose}):
        eventually(lambda: database.count() == 0)
        client.enqueue(qg.Job("Dispose"))
        eventually(lambda: database.count() == 0)
    assert all_written(database) == list(range(1, 11))


def test_coroutines_of_two_workers_run_at_the_same_time(client: qg.Client, database: Database) -> None:
    heard: list[asyncio.Event] = []

    async def handler(job: qg.Job) -> None:
        if not heard:
            heard.append(asyncio.Event())
            await asyncio.wait_for(heard[0].wait(), PATIENCE)
        else:
            heard[0].set()

    one_after_the_other(client, handler)
    assert database.jobs() == []


def test_the_loop_begins_with_the_first_coroutine_and_ends_with_the_pool(client: qg.Client, database: Database) -> None:
    seen: list[threading.Thread] = []

    async def handler(job: qg.Job) -> None:
        seen.append(threading.current_thread())

    with pool_of(client, {"Plain": lambda job: None, "MyJob": handler}):
        client.enqueue(qg.Job("Plain"))
        eventually(lambda: database.count() == 0)
        assert threads("loop") == []
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        eventually(lambda: len(seen) == 2)
        assert threads("loop") == [seen[0]]
    assert seen[0] is seen[1]
    assert threads("loop") == []


def test_two_pools_have_two(client: qg.Client, database: Database) -> None:
    seen: set[int] = set()

    async def handler(job: qg.Job) -> None:
        seen.add(id(asyncio.get_running_loop()))

    with pool_of(client, {"MyJob": handler}), qg.WorkerPool(client, {"MyJob": handler}, 1, queue="x", interval=SOON):
        client.enqueue(qg.Job("MyJob"))
        client.enqueue(qg.Job("MyJob", queue="x"))
        eventually(lambda: len(seen) == 2)


def test_a_pool_that_starts_at_the_second_try_has_one(dsn: str, database: Database) -> None:
    refusing = [False]

    def connect() -> Any:
        if refusing[0]:
            raise psycopg2.OperationalError("not now")
        return psycopg2.connect(dsn)

    made: list[Bound] = []

    async def handler(job: qg.Job) -> None:
        if not made:
            made.append(Bound())
        await made[0].use()

    with qg.Client(connect, max_lifetime=0.001) as client:
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        pool = pool_of(client, {"MyJob": handler})
        refusing[0] = True
        with pytest.raises(psycopg2.OperationalError):
            pool.start()
        refusing[0] = False
        with pool:
            eventually(lambda: database.count() == 0)


def test_the_handlers_context_is_the_coroutines(client: qg.Client) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def coroutine() -> None:
        await asyncio.sleep(0)
        seen.append(tenant.get())
        tenant.set("the coroutine's own")

    def handler(job: qg.Job) -> object:
        seen.append(tenant.get())
        tenant.set(f"job {job.id}")
        return coroutine()

    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    with pool_of(client, {"MyJob": handler}, 1):
        eventually(lambda: len(seen) == 4)
    assert seen == ["nobody", "job 1", "job 1", "job 2"]


# What is raised


@pytest.mark.parametrize(
    "error",
    [LookupError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), BaseException()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_coroutine_raises_is_its_jobs_failure_and_disturbs_no_other(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    begun, failed = threading.Event(), threading.Event()
    made: list[asyncio.Event] = []

    async def failing(job: qg.Job) -> None:
        await asyncio.sleep(0)
        raise error

    async def going_on(job: qg.Job) -> None:
        made.append(asyncio.Event())
        begun.set()
        await made[0].wait()

    async def last(job: qg.Job) -> None:
        made[0].set()

    with pool_of(client, {"MyJob": failing, "GoingOn": going_on, "Last": last}):
        client.enqueue(qg.Job("GoingOn"))
        assert begun.wait(PATIENCE)
        client.enqueue(qg.Job("MyJob"))
        eventually(lambda: lines(caplog, "job_failed"))
        client.enqueue(qg.Job("Last"))
        eventually(lambda: database.count() == 1)
    failed.set()
    ((number, text),) = failures(database)
    assert (number, text.rpartition(".")[2]) == (2, type(error).__name__)
    assert lines(caplog, "thread_failed") == []


def test_sys_exit_in_a_task_of_a_handler_is_logged_and_ends_no_loop(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        sys.exit(3)

    async def failing(job: qg.Job) -> None:
        await asyncio.create_task(leave())

    loops: set[int] = set()

    async def working(job: qg.Job) -> None:
        loops.add(id(asyncio.get_running_loop()))

    with pool_of(client, {"Before": working, "MyJob": failing, "After": working}, 1):
        client.enqueue(qg.Job("Before", priority=1))
        client.enqueue(qg.Job("MyJob", priority=2))
        client.enqueue(qg.Job("After", priority=3))
        eventually(lambda: database.count() == 1)
        eventually(lambda: failures(database) == [(2, "SystemExit")])
    assert len(loops) == 1
    assert lines(caplog, "thread_failed") == ["thread_failed name=qg-loop: it goes on"]


def test_a_handler_that_stops_the_loop_stops_nobody(client: qg.Client, database: Database) -> None:
    async def handler(job: qg.Job) -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    one_after_the_other(client, handler)
    assert database.jobs() == []


def test_a_system_without_another_thread_fails_the_job_and_the_next_one_gets_its_loop(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refused: list[None] = []

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name == "qg-loop" and not refused:
            refused.append(None)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)

    def handler(job: qg.Job) -> object:
        return Ready()

    with pool_of(client, {"MyJob": handler}, 1):
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        eventually(lambda: database.count() == 1)
    assert failures(database) == [(1, "RuntimeError")]


class Ready:
    """To be awaited, but no coroutine, which complains where nobody has."""

    def __await__(self) -> Iterator[Any]:
        return iter(())


# The job's connection, and its lock


@pytest.mark.parametrize("sets", ["handler", "coroutine"])
@pytest.mark.parametrize("fails", [False, True])
def test_when_a_coroutine_has_ended_the_loop_holds_nothing_of_its_context(
    dsn: str,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    written: None,
    sets: str,
    fails: bool,
) -> None:
    """The job's connection would be closed for it, as one that outlives its handler."""
    tx: ContextVar[Any] = ContextVar("tx")
    opened: list[Any] = []
    begun = threading.Semaphore(0)

    def connect() -> Any:
        opened.append(psycopg2.connect(dsn))
        return opened[-1]

    class Lingering(WakeUp):
        """Keeps the loop's thread where it is until the worker has begun the next job."""

        def give(self) -> None:
            super().give()
            assert begun.acquire(timeout=PATIENCE)

    async def coroutine(job: qg.Job) -> None:
        if sets == "coroutine":
            tx.set(job.tx)
        await asyncio.sleep(0)
        write(job)
        if fails:
            raise LookupError

    def in_a_context_of_its_own(job: qg.Job) -> None:
        if sets == "handler":
            tx.set(job.tx)
        run_handler(job, coroutine, job)

    def handler(job: qg.Job) -> None:
        if job.id > 1:
            begun.release()
        copy_context().run(in_a_context_of_its_own, job)

    def all_are_over() -> bool:
        return all(count for _, _, count, _ in database.jobs()) if fails else database.count() == 0

    monkeypatch.setattr("qg.working.event_loop.WakeUp", Lingering)
    caplog.set_level("CRITICAL" if fails else "INFO", "qg")  # a record keeps its traceback
    with qg.Client(connect) as client:
        fill(database, 6)
        with pool_of(client, {"MyJob": handler}, 1):
            before = len(opened)
            eventually(all_are_over)
            assert len(opened) == before
            begun.release()
    assert all_written(database) == ([] if fails else list(range(1, 7)))
    assert events(caplog, "connection_kept") == []


def test_a_coroutine_whose_lock_is_lost_is_cancelled_once_and_no_other(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    begun = threading.Event()
    made: list[asyncio.Event] = []

    async def losing(job: qg.Job) -> None:
        if told:
            return  # it is run again
        assert begun.wait(PATIENCE)
        database.terminate(job.conn.info.backend_pid)
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1.2)  # the lookout comes by twice
            told.append("tidy")

    async def going_on(job: qg.Job) -> None:
        made.append(asyncio.Event())
        begun.set()
        await made[0].wait()

    async def last(job: qg.Job) -> None:
        made[0].set()

    with pool_of(client, {"MyJob": losing, "GoingOn": going_on, "Last": last}):
        client.enqueue(qg.Job("GoingOn"))
        assert begun.wait(PATIENCE)
        client.enqueue(qg.Job("MyJob"))
        eventually(lambda: lines(caplog, "job_failed"))
        client.enqueue(qg.Job("Last"))
        eventually(lambda: not [each for each in database.jobs() if each[1] != "MyJob"])
    assert told == ["tidy"]
    assert len(events(caplog, "lock_lost")) == 1
    (failed,) = [record for record in caplog.records if record.getMessage().startswith("job_failed")]
    assert failed.exc_info is not None
    assert failed.exc_info[0] is qg.ErrLockLost


# The end


def test_what_handlers_have_left_behind_is_ended_with_the_pool(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    kept: list[Any] = []

    async def wait_for_ever(end: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            told.append(end)
            if end == "badly":
                raise LookupError("no way out")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            told.append("generator")

    async def handler(job: qg.Job) -> None:
        kept.extend(asyncio.create_task(wait_for_ever(end)) for end in ("well", "badly"))
        kept.append(numbers())
        await anext(kept[-1])
        await asyncio.to_thread(lambda: kept.append(threading.current_thread()))

    client.enqueue(qg.Job("MyJob"))
    with pool_of(client, {"MyJob": handler}):
        eventually(lambda: database.count() == 0)
        assert told == []
    assert sorted(told) == ["badly", "generator", "well"]
    assert not kept[-1].is_alive()
    assert "a task that a handler left behind has failed" in caplog.text


def test_shutdown_waits_for_coroutines_no_longer_than_it_may(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Any] = []

    async def handler(job: qg.Job) -> None:
        made.extend([asyncio.get_running_loop(), asyncio.Event()])
        await made[1].wait()

    client.enqueue(qg.Job("MyJob"))
    pool = pool_of(client, {"MyJob": handler})
    pool.start()
    eventually(lambda: len(made) == 2)
    assert pool.shutdown(timeout=0.01) is False
    assert lines(caplog, "still_running") == ["still_running id=1 type=MyJob: it hadn't ended at shutdown"]
    assert lines(caplog, "loop_still_running") == []
    made[0].call_soon_threadsafe(made[1].set)
    assert pool.shutdown(timeout=PATIENCE) is True
    assert (threads("loop"), database.count()) == ([], 0)


def test_a_task_that_doesnt_end_is_no_end_of_the_pool_either(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Any] = []

    async def stay() -> None:
        while not made[1].is_set():
            with suppress(asyncio.CancelledError):
                await made[1].wait()

    async def handler(job: qg.Job) -> None:
        made.extend([asyncio.get_running_loop(), asyncio.Event()])
        made.append(asyncio.create_task(stay()))

    client.enqueue(qg.Job("MyJob"))
    pool = pool_of(client, {"MyJob": handler})
    pool.start()
    eventually(lambda: database.count() == 0)
    eventually(lambda: not pool.shutdown(timeout=SOON) and lines(caplog, "loop_still_running: tasks that handlers"))
    assert pool.shutdown(timeout=0.0) is False  # and doesn't keep the loop from ending them
    made[0].call_soon_threadsafe(made[1].set)
    assert pool.shutdown(timeout=PATIENCE) is True


def test_nor_does_the_loop_end_before_what_a_handler_has_given_to_a_thread(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()
    kept: list[Any] = []

    async def handler(job: qg.Job) -> None:
        kept.append(asyncio.get_running_loop().run_in_executor(None, go_on.wait, PATIENCE))

    client.enqueue(qg.Job("MyJob"))
    pool = pool_of(client, {"MyJob": handler})
    pool.start()
    eventually(lambda: database.count() == 0)
    eventually(lambda: not pool.shutdown(timeout=SOON) and lines(caplog, "loop_still_running"))
    go_on.set()
    assert pool.shutdown(timeout=PATIENCE) is True


@pytest.mark.parametrize("way", ["its own coroutine", "a signal handler"])
def test_the_loop_ends_by_itself_where_shutdown_cant_wait(client: qg.Client, database: Database, way: str) -> None:
    answers: list[bool] = []
    begun = threading.Event()

    async def handler(job: qg.Job) -> None:
        if way == "its own coroutine":
            answers.append(pool.shutdown())
        begun.set()
        await asyncio.sleep(0)

    client.enqueue(qg.Job("MyJob"))
    pool = pool_of(client, {"MyJob": handler})
    pool.start()
    assert begun.wait(PATIENCE)
    if way == "a signal handler":
        before = signal.signal(signal.SIGALRM, lambda number, frame: answers.append(pool.shutdown()))
        signal.raise_signal(signal.SIGALRM)
        signal.signal(signal.SIGALRM, before)
    eventually(lambda: threads("loop") == [])
    assert (answers, database.count()) == ([False], 0)


def test_a_job_that_a_stopping_pool_still_runs_has_the_same_loop(client: qg.Client, database: Database) -> None:
    """Its handler hasn't made its coroutine yet when the pool is told to stop, and no other one runs."""
    entered, go_on = threading.Event(), threading.Event()
    made: list[Bound] = []

    async def coroutine() -> None:
        if not made:
            made.append(Bound())
        await made[0].use()

    def handler(job: qg.Job) -> object:
        if made:
            entered.set()
            assert go_on.wait(PATIENCE)
        return coroutine()

    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    pool = pool_of(client, {"MyJob": handler}, 1)
    pool.start()
    assert entered.wait(PATIENCE)
    assert pool.shutdown(timeout=0.0) is False
    go_on.set()
    assert pool.shutdown(timeout=PATIENCE) is True
    assert database.jobs() == []


# Handlers inside handlers


def in_a_loop_of_a_pool(client: qg.Client, database: Database, outer: Callable[[qg.Job], Any]) -> None:
    """Work one job with the coroutine *outer*, which must succeed."""
    client.enqueue(qg.Job("MyJob"))
    with pool_of(client, {"MyJob": outer}, 1):
        eventually(lambda: database.count() == 0 or failures(database))
    assert failures(database) == []


def test_a_job_that_runs_synchronously_in_a_coroutine_doesnt_wait_for_the_loop_that_it_holds_up(
    client: qg.Client, database: Database
) -> None:
    seen: list[int] = []

    async def innermost(job: qg.Job) -> None:
        await asyncio.sleep(0)
        seen.append(3)

    async def inner(job: qg.Job) -> None:
        # In a thread, which runs no loop by itself.
        await asyncio.to_thread(run_handler, job, innermost, job)
        seen.append(2)

    async def outer(job: qg.Job) -> None:
        run_handler(job, inner, job)
        seen.append(1)

    in_a_loop_of_a_pool(client, database, outer)
    assert seen == [3, 2, 1]


def test_one_that_runs_in_a_thread_of_a_coroutine_has_the_pools_loop(client: qg.Client, database: Database) -> None:
    loops: list[object] = []

    async def inner(job: qg.Job) -> None:
        loops.append(asyncio.get_running_loop())

    async def outer(job: qg.Job) -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.to_thread(run_handler, job, inner, job)

    in_a_loop_of_a_pool(client, database, outer)
    assert loops[0] is loops[1]


def test_ctrl_c_while_a_worker_in_the_main_thread_runs_a_coroutine_ends_it_and_blames_nobody(
    client: qg.Client, database: Database
) -> None:
    async def handler(job: qg.Job) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(3600)

    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(KeyboardInterrupt):
        UntilEmpty(client, {"MyJob": handler}).work()
    assert [(count, text) for _, _, count, text in database.jobs()] == [(0, None)]


# Forks


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("awaits", [False, True])
def test_the_child_of_a_coroutine_runs_nothing_of_the_others(
    client: qg.Client, database: Database, capfd: pytest.CaptureFixture[str], awaits: bool
) -> None:
    reader, writer = os.pipe()
    made: list[Any] = []
    statuses: list[int] = []

    async def write_again_and_again() -> None:
        made.append(asyncio.Event())
        while not made[0].is_set():
            os.write(writer, os.getpid().to_bytes(8, "big"))
            await asyncio.sleep(0)

    async def beside(job: qg.Job) -> None:
        await asyncio.create_task(write_again_and_again())

    async def forking(job: qg.Job) -> None:
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            sys.stderr = os.fdopen(os.dup(2), "w")  # pytest's own one is a file in memory
            if awaits:
                await asyncio.sleep(0)
            return
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        statuses.append(os.waitstatus_to_exitcode(status))
        made[0].set()

    with pool_of(client, {"Beside": beside, "MyJob": forking}):
        client.enqueue(qg.Job("Beside"))
        eventually(lambda: made)
        client.enqueue(qg.Job("MyJob"))
        reading = threading.Thread(target=lambda: written.extend(iter(lambda: os.read(reader, 8), b"")))
        written: list[bytes] = []
        reading.start()
        eventually(lambda: database.count() == 0)
    os.close(writer)
    reading.join()
    os.close(reader)
    assert set(written) == {os.getpid().to_bytes(8, "big")}
    assert statuses == [int(awaits)]
    assert ("can't await: the event loop is its parent's" in capfd.readouterr().err) is awaits


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_task_gets_no_further_than_its_handler(client: qg.Client, database: Database) -> None:
    statuses: list[int] = []

    async def fork() -> int:
        return os.fork()

    async def handler(job: qg.Job) -> None:
        child = await asyncio.create_task(fork())
        if child == 0:
            os._exit(7)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        statuses.append(os.waitstatus_to_exitcode(status))

    one_after_the_other(client, handler, 1)
    assert statuses == [1]
    assert database.jobs() == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_has_loops_of_its_own_and_leaves_the_parents_alone(
    client: qg.Client, database: Database
) -> None:
    loop = HandlerLoop(LOGGER)
    seen: list[int] = []

    async def note() -> None:
        seen.append(os.getpid())

    loop.run(HandlerCoroutine(note(), JOB))
    with loop._mutex:  # some thread may hold it
        child = os.fork()
        if child == 0:
            status = 1
            with suppress(BaseException):
                answer = threading.Thread(target=lambda: seen.append(run_in_the_child(loop, note)))
                answer.start()
                answer.join(PATIENCE)
                status = 0 if seen[1:] == [os.getpid(), 7] else 2
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    loop.run(HandlerCoroutine(note(), JOB))
    assert seen == [os.getpid()] * 2
    loop.stop()
    assert loop.join(PATIENCE)


def run_in_the_child(loop: HandlerLoop, note: Callable[[], Any]) -> int:
    loop.run(HandlerCoroutine(note(), JOB))
    loop.stop()
    assert loop.join(PATIENCE)
    return 7


# A handler that blocks the loop


class Blocking:
    """A coroutine that holds its loop up until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def block(self) -> None:
        self.begun.set()
        assert self.go_on.wait(PATIENCE)


@contextmanager
def running(loop: HandlerLoop, *coroutines: Any) -> Iterator[None]:
    """Have *coroutines* run by threads, to their end."""
    jobs = [qg.Job(f"Kind{number}\n") for number in range(len(coroutines))]
    runners = [
        threading.Thread(target=loop.run, args=(HandlerCoroutine(coroutine, job),))
        for coroutine, job in zip(coroutines, jobs, strict=True)
    ]
    for runner in runners:
        runner.start()
    yield
    for runner in runners:
        runner.join()
    loop.stop()
    assert loop.join(PATIENCE)


def test_a_handler_that_blocks_the_loop_is_named_in_the_log_within_seconds(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(job: qg.Job) -> None:
        eventually(lambda: lines(caplog, "loop_blocked"))

    client.enqueue(qg.Job("MyJob"))
    with pool_of(client, {"MyJob": handler}):
        eventually(lambda: database.count() == 0)
    (line,) = lines(caplog, "loop_blocked")
    assert line.startswith("loop_blocked id=1 type=MyJob: it has held up the event loop for a second")


@pytest.fixture
def looked_at_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qg.working.event_loop.LOOKOUT.add", lambda watched: None)


def test_it_is_named_at_the_third_look_and_once_for_each_block(
    caplog: pytest.LogCaptureFixture, looked_at_by_nobody: None
) -> None:
    loop = HandlerLoop(LOGGER)
    first, second, between = Blocking(), Blocking(), threading.Event()

    async def handler() -> None:
        first.block()
        while not between.is_set():
            await asyncio.sleep(0)
        second.block()

    loop.look()  # before there is anything to see
    with running(loop, handler()):
        assert first.begun.wait(PATIENCE)
        loop.look()
        loop.look()
        assert lines(caplog, "loop_blocked") == []
        for _ in range(5):
            loop.look()
        assert [line.split(": ")[0] for line in lines(caplog, "loop_blocked")] == [r"loop_blocked id=None type=Kind0\n"]
        first.go_on.set()
        eventually(lambda: loop._blocked._has_answered)
        for _ in range(3):  # each is answered
            loop.look()
            eventually(lambda: loop._blocked._has_answered)
        between.set()
        assert second.begun.wait(PATIENCE)
        for _ in range(3):
            loop.look()
        second.go_on.set()
    assert len(lines(caplog, "loop_blocked")) == 2


async def once(function: Callable[[], None]) -> None:
    function()


@pytest.mark.parametrize("what", ["task", "callback"])
def test_a_task_of_a_handler_is_named_as_well_as_python_knows_it(
    caplog: pytest.LogCaptureFixture, looked_at_by_nobody: None, what: str
) -> None:
    loop = HandlerLoop(LOGGER)
    blocking = Blocking()

    async def beside() -> None:
        while not blocking.go_on.is_set():
            await asyncio.sleep(0)

    async def handler() -> None:
        if what == "task":
            await asyncio.create_task(once(blocking.block))
        else:
            asyncio.get_running_loop().call_soon(blocking.block)
            await beside()

    with running(loop, beside(), handler()):
        assert blocking.begun.wait(PATIENCE)
        for _ in range(3):
            loop.look()
        blocking.go_on.set()
    (line,) = lines(caplog, "loop_blocked")
    named = {"task": "by=once", "callback": "by=a callback"}[what]
    if what == "task" and sys.version_info >= (3, 12):
        named = r"id=None type=Kind1\n"
    assert line.startswith(f"loop_blocked {named}: ")


# A coroutine by itself


def test_a_handlers_coroutine_is_run_as_a_task_and_not_awaited() -> None:
    coroutine = HandlerCoroutine(Ready(), JOB)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it is run as a task"):
        coroutine.__await__()
    coroutine.close()


def test_one_that_hasnt_begun_can_be_told_that_its_lock_is_lost_and_closed() -> None:
    coroutine = HandlerCoroutine(Ready(), JOB)  # type: ignore[arg-type]
    coroutine.cancel_as_lost()
    coroutine.close()
    coroutine.result()
