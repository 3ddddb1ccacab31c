"""Pools: threads on one queue or several, their connections, their start and their end."""

from __future__ import annotations

import asyncio
import atexit
import functools
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2.pool
import pytest
from psycopg2.extensions import parse_dsn
from support import PATIENCE, VERSION, Database, Network, as_many_sessions, eventually, needs, threads

import qg
from qg.client import engine_of
from qg.database.session import Session
from qg.working.work_loop import WorkLoop

SOON = 0.01
LISTENS = int(VERSION > 3)  # version 3 notifies only if asked to; where it doesn't, a pool has no session to listen on


class Gate:
    """A handler that waits inside until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, job: qg.Job) -> None:
        self.entered.release()
        assert self.opened.wait(10)

    def wait_for(self, jobs: int) -> None:
        for _ in range(jobs):
            assert self.entered.acquire(timeout=10)


def before_each_lease(client: qg.Client, act: Callable[[], object]) -> None:
    """Call *act* before *client* leases a session."""
    database = engine_of(client).database
    lease = database.lease

    def act_and_lease(**how: bool) -> Session:
        act()
        return lease(**how)

    database.lease = act_and_lease  # type: ignore[method-assign]


def test_a_pool_works_every_job_once(client: qg.Client, database: Database) -> None:
    worked: list[int] = []
    jobs = client.enqueue_batch(qg.Job("MyJob") for _ in range(200))
    with qg.WorkerPool(client, {"MyJob": lambda job: worked.append(job.id)}, 4, interval=SOON):
        eventually(lambda: database.count() == 0)
    assert Counter(worked) == Counter(job.id for job in jobs)


@as_many_sessions
def test_workers_run_side_by_side_each_on_one_connection(client: qg.Client, database: Database) -> None:
    gate = Gate()
    client.enqueue_batch(qg.Job("MyJob") for _ in range(4))
    with qg.WorkerPool(client, {"MyJob": gate}, 4, interval=SOON):
        gate.wait_for(4)
        assert len(database.locks()) == 4
        # One each, and the one on which the client enqueued before was among them; and one to listen on.
        assert len(database.sessions()) == 4 + LISTENS
        gate.opened.set()
        eventually(lambda: database.count() == 0)


def test_pools_on_several_queues_keep_apart(client: qg.Client, database: Database) -> None:
    worked: list[tuple[str, str]] = []
    client.enqueue_batch(qg.Job("MyJob", queue=queue) for queue in ("a", "b", "c") for _ in range(10))

    def pool(queue: str) -> qg.WorkerPool:
        handlers = {"MyJob": lambda job: worked.append((queue, job.queue))}
        return qg.WorkerPool(client, handlers, 2, queue=queue, interval=SOON)

    with pool("a"), pool("b"):
        eventually(lambda: database.count() == 10)
    assert Counter(worked) == {("a", "a"): 10, ("b", "b"): 10}


def test_pools_on_several_databases_keep_apart(client: qg.Client, database: Database, make_database: Any) -> None:
    worked: list[str] = []
    with qg.Client(make_database()) as other:
        # The same ids in both databases: advisory locks are a database's own.
        client.enqueue_batch(qg.Job("MyJob", ["here"]) for _ in range(20))
        other.enqueue_batch(qg.Job("MyJob", ["there"]) for _ in range(20))
        handlers = {"MyJob": lambda job: worked.extend(job.args)}
        with qg.WorkerPool(client, handlers, 2, interval=SOON), qg.WorkerPool(other, handlers, 2, interval=SOON):
            eventually(lambda: not client.stats() and not other.stats())
    assert Counter(worked) == {"here": 20, "there": 20}


def test_a_pool_tries_at_once_and_again_after_its_interval(client: qg.Client, database: Database) -> None:
    for interval in (3600, SOON):
        client.enqueue(qg.Job("MyJob"))
        with qg.WorkerPool(client, {"MyJob": lambda job: None}, 1, interval=interval):
            eventually(lambda: database.count() == 0)
            if interval == SOON:
                client.enqueue(qg.Job("MyJob"))
                eventually(lambda: database.count() == 0)


def test_the_work_map_may_be_replaced_until_the_start(client: qg.Client, database: Database) -> None:
    pool = qg.WorkerPool(client, {}, 1, interval=SOON)
    pool.work_map = {"MyJob": lambda job: None}
    client.enqueue(qg.Job("MyJob"))
    with pool:
        eventually(lambda: database.count() == 0)


def test_a_script_that_just_ends_ends(client: qg.Client) -> None:
    with qg.WorkerPool(client, {}, 2, interval=SOON):
        assert [thread.daemon for thread in threads("worker")] == [True, True]


@as_many_sessions
def test_ctrl_c_during_the_start_is_ctrl_c(dsn: str, database: Database) -> None:
    def interrupt() -> None:
        if len(database.sessions()) == 2:
            raise KeyboardInterrupt

    with qg.Client(dsn) as client:
        before_each_lease(client, interrupt)
        with pytest.raises(KeyboardInterrupt):
            qg.WorkerPool(client, {}, 3).start()


def test_a_pool_of_nobody_is_a_pool(client: qg.Client) -> None:
    pool = qg.WorkerPool(client, {}, 0)
    pool.start()
    assert pool.shutdown() is True


def test_a_pool_works_the_queue_that_the_environment_names(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUE_QUEUE", "mail")
    client.enqueue(qg.Job("MyJob", queue="mail"))
    with qg.WorkerPool(client, {"MyJob": lambda job: None}, 1, interval=SOON):
        eventually(lambda: database.count() == 0)


# Connections


@pytest.mark.own_sessions(reason="one connection more is needed")
def test_a_pool_as_large_as_the_workers_is_enough(dsn: str, database: Database) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(0, 3, dsn)
    with qg.Client(pool) as client:
        client.enqueue_batch(qg.Job("MyJob") for _ in range(30))
        with qg.WorkerPool(client, {"MyJob": lambda job: job.tx.cursor().execute("SELECT 1")}, 3, interval=SOON):
            eventually(lambda: database.count() == 0)
    pool.closeall()


@pytest.mark.own_sessions(reason="one connection more is needed")
def test_a_psycopg2_pool_too_small_is_an_error_at_the_start(dsn: str, database: Database) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(0, 3, dsn)
    with qg.Client(pool) as client:
        workers = qg.WorkerPool(client, {}, 5, queue="mail")
        with pytest.raises(
            qg.ErrTooFewConnections,
            match="queue 'mail' needs 5 connections but the source gives 3: connection pool exhausted; raise its limit",
        ):
            workers.start()
        # What it had leased is back.
        client.enqueue_batch(qg.Job("MyJob") for _ in range(3))
        jobs = [client.lock_job() for _ in range(3)]
        for job in jobs:
            job.done()
    pool.closeall()


@as_many_sessions
def test_an_engine_too_small_is_an_error_at_once_and_not_after_its_timeout(dsn: str) -> None:
    engine = needs("sqlalchemy").create_engine(
        "postgresql+psycopg2://", connect_args=parse_dsn(dsn), pool_size=1, max_overflow=1, pool_timeout=3600
    )
    with (
        qg.Client(engine) as client,
        pytest.raises(qg.ErrTooFewConnections, match="source gives 2: that is all its pool has"),
    ):
        qg.WorkerPool(client, {}, 3).start()
    engine.dispose()


@pytest.mark.own_sessions(reason="one connection more is needed")
def test_an_engine_has_what_nobody_else_has_checked_out(dsn: str, database: Database) -> None:
    engine = needs("sqlalchemy").create_engine(
        "postgresql+psycopg2://", connect_args=parse_dsn(dsn), pool_size=2, max_overflow=1, pool_timeout=3600
    )
    with qg.Client(engine) as client:
        pool = qg.WorkerPool(client, {}, 3, interval=SOON)
        with engine.connect(), pytest.raises(qg.ErrTooFewConnections, match="source gives 2"):
            pool.start()
        pool.start()
        pool.shutdown()
    engine.dispose()


@pytest.mark.parametrize(
    "options",
    [
        {"poolclass": "NullPool"},
        {"pool_size": 1, "max_overflow": -1},
        {"pool_size": 0, "max_overflow": 0},
    ],
    ids=lambda options: ", ".join(options),
)
def test_an_engine_without_a_limit_is_asked_for_nothing(dsn: str, database: Database, options: Any) -> None:
    if "poolclass" in options:
        options = {"poolclass": getattr(needs("sqlalchemy.pool"), options["poolclass"])}
    engine = needs("sqlalchemy").create_engine("postgresql+psycopg2://", connect_args=parse_dsn(dsn), **options)
    with qg.Client(engine) as client:
        client.enqueue(qg.Job("MyJob"))
        with qg.WorkerPool(client, {"MyJob": lambda job: None}, 3, interval=SOON):
            eventually(lambda: database.count() == 0)
    engine.dispose()


def test_a_database_that_is_away_at_the_start_is_psycopg2s_error(network: Network) -> None:
    with qg.Client(network.dsn) as client:
        pool = qg.WorkerPool(client, {}, 2, interval=SOON)
        network.cut()
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            pool.start()
        network.open()
        pool.start()
        assert pool.shutdown(timeout=10)


def test_a_thread_that_doesnt_start_stops_the_others_and_keeps_no_connection(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def start_one(thread: threading.Thread) -> None:
        if thread.name == "qg-worker--2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    pool = qg.WorkerPool(client, {}, 3, interval=3600)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.start()
    eventually(lambda: not threads("worker"))
    assert pool.shutdown(timeout=10) is True
    client.close()
    eventually(lambda: database.sessions() == [])


def test_workers_end_when_their_client_is_closed(client: qg.Client, dsn: str, database: Database) -> None:
    pool = qg.WorkerPool(client, {"MyJob": lambda job: None}, 2, interval=SOON)
    pool.start()
    client.close()
    eventually(lambda: not threads("worker"))
    with qg.Client(dsn) as other:
        other.enqueue(qg.Job("MyJob"))
    assert pool.shutdown() is True
    assert database.count() == 1


@pytest.mark.parametrize("client", ["postgresql:///app", None], ids=repr)
def test_what_is_no_client_is_refused(client: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="needs a qg.Client"):
        qg.WorkerPool(client, {}, 1)
    with pytest.raises(qg.ErrInvalidOption, match="needs a qg.Client"):
        qg.Worker(client, {})


# Shutdown


def test_shutdown_lets_the_running_jobs_finish_and_takes_no_new_ones(client: qg.Client, database: Database) -> None:
    gate = Gate()
    client.enqueue_batch(qg.Job("MyJob") for _ in range(5))
    pool = qg.WorkerPool(client, {"MyJob": gate}, 2, interval=SOON)
    pool.start()
    gate.wait_for(2)
    results: list[bool] = []
    stopping = threading.Thread(target=lambda: results.append(pool.shutdown()))
    stopping.start()
    assert pool.shutdown(timeout=0) is False  # whichever of the two was first, both workers were asked to stop
    gate.opened.set()
    stopping.join()
    assert results == [True]
    assert (database.count(), database.locks()) == (3, [])


def test_shutdown_with_a_timeout_says_which_jobs_still_run(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    client.enqueue(qg.Job("MyJob"))
    pool = qg.WorkerPool(client, {"MyJob": gate}, 2, interval=SOON)
    pool.start()
    gate.wait_for(1)
    assert pool.shutdown(timeout=0) is False
    assert pool.shutdown(timeout=0.05) is False
    assert "still_running id=1 type=MyJob" in caplog.text
    gate.opened.set()
    assert pool.shutdown(timeout=10) is True
    assert database.count() == 0


def test_shutdown_wakes_workers_that_sleep(client: qg.Client) -> None:
    pool = qg.WorkerPool(client, {}, 3, interval=3600)
    pool.start()
    assert pool.shutdown(timeout=10) is True


def test_shutdown_before_the_start_does_nothing(client: qg.Client, database: Database) -> None:
    pool = qg.WorkerPool(client, {"MyJob": lambda job: None}, 1, interval=SOON)
    assert pool.shutdown() is True
    client.enqueue(qg.Job("MyJob"))
    pool.start()
    eventually(lambda: database.count() == 0)
    assert pool.shutdown() is True


def test_shutdown_twice_is_shutdown_once(client: qg.Client) -> None:
    pool = qg.WorkerPool(client, {}, 2, interval=SOON)
    pool.start()
    assert pool.shutdown() is True
    assert pool.shutdown() is True


def test_a_pool_starts_once_only(client: qg.Client, database: Database) -> None:
    pool = qg.WorkerPool(client, {}, 1, interval=SOON)
    pool.start()
    with pytest.raises(qg.ErrPoolState, match="started already"):
        pool.start()
    eventually(lambda: len(database.sessions()) == 1 + LISTENS)
    pool.shutdown()
    with pytest.raises(qg.ErrPoolState, match="was shut down"):
        pool.start()


def test_handlers_may_shut_their_pool_down(client: qg.Client, database: Database) -> None:
    answers: list[bool] = []
    client.enqueue_batch(qg.Job("MyJob") for _ in range(2))
    barrier = threading.Barrier(2)

    def handler(job: qg.Job) -> None:
        barrier.wait(10)
        answers.append(pool.shutdown())

    pool = qg.WorkerPool(client, {"MyJob": handler}, 2, interval=SOON)
    pool.start()
    eventually(lambda: len(answers) == 2)
    assert answers == [False, False]
    assert pool.shutdown(timeout=10) is True
    assert database.count() == 0


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Any], None]]:
    """A function that installs what SIGALRM calls."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler) and None
    signal.signal(signal.SIGALRM, before)


class Callback:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def __call__(self, number: int, frame: Any) -> None:
        self.function()

    def method(self, number: int, frame: Any) -> None:
        self.function()


HANDLERS = {
    "function": lambda function: lambda number, frame: function(),
    "method": lambda function: Callback(function).method,
    "object": Callback,
    "partial": lambda function: functools.partial(lambda ask, number, frame: ask(), function),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_shutdown_from_a_signal_handler_waits_for_nothing_that_the_interrupted_code_holds(
    client: qg.Client, caplog: pytest.LogCaptureFixture, on_alarm: Any, kind: str
) -> None:
    """The main thread is interrupted while it logs, and holds the log's lock; the worker wants to log."""
    caplog.set_level("INFO")
    gate, answers = Gate(), []
    client.enqueue(qg.Job("MyJob"))
    pool = qg.WorkerPool(client, {"MyJob": gate}, 1, interval=SOON)
    on_alarm(HANDLERS[kind](lambda: answers.append(pool.shutdown())))
    pool.start()
    gate.wait_for(1)
    with caplog.handler.lock:
        gate.opened.set()
        signal.raise_signal(signal.SIGALRM)
        assert answers == [False]
    assert pool.shutdown(timeout=10) is True
    atexit.unregister(pool._wait)


def test_a_process_that_was_asked_to_stop_by_a_signal_lets_its_jobs_finish(dsn: str, database: Database) -> None:
    program = f"""
import signal, time, qg
client = qg.Client({dsn!r})
def handler(job):
    print("entered", flush=True)
    while not asked:
        time.sleep(0.01)
    time.sleep(0.5)
pool = qg.WorkerPool(client, {{"MyJob": handler}}, 1, interval=0.01)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(pool.shutdown()))
pool.start()
while not asked:
    time.sleep(0.01)
"""
    with qg.Client(dsn) as client:
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "entered\n"
    process.terminate()
    assert process.communicate(timeout=20) == ("", None)
    assert process.returncode == 0
    assert database.count() == 1


def test_a_signal_handler_may_shut_a_pool_down_while_shutdown_waits(client: qg.Client, on_alarm: Any) -> None:
    gate = Gate()
    client.enqueue(qg.Job("MyJob"))
    pool = qg.WorkerPool(client, {"MyJob": gate}, 1, interval=SOON)

    def on_signal(signum: int, frame: Any) -> None:
        assert pool.shutdown() is False
        gate.opened.set()

    on_alarm(on_signal)
    pool.start()
    gate.wait_for(1)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    assert pool.shutdown(timeout=10) is True
    atexit.unregister(pool._wait)


def test_a_signal_in_the_middle_of_the_start_stops_every_worker(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal handler runs in the main thread, between the start of the first thread and the second."""
    pool = qg.WorkerPool(client, {}, 3, interval=3600)
    start = threading.Thread.start

    def start_and_be_signalled(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "qg-worker--1":
            pool.shutdown(timeout=0)

    monkeypatch.setattr(threading.Thread, "start", start_and_be_signalled)
    pool.start()
    assert pool.shutdown(timeout=10) is True
    assert [each.name for each in threading.enumerate() if each.name.startswith("qg-worker")] == []


def test_a_signal_while_the_connections_are_leased_stops_every_worker(dsn: str, database: Database) -> None:
    def signal_comes() -> None:
        if len(database.sessions()) == 2:
            pool.shutdown(timeout=0)

    with qg.Client(dsn) as client:
        client.enqueue(qg.Job("MyJob"))
        before_each_lease(client, signal_comes)
        pool = qg.WorkerPool(client, {"MyJob": lambda job: None}, 3, interval=3600)
        pool.start()
        assert pool.shutdown(timeout=10) is True
    assert database.count() == 1


# A worker's own work() and shutdown()


def in_thread(target: Any) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


def test_a_worker_works_until_shutdown(client: qg.Client, database: Database) -> None:
    worker = qg.Worker(client, {"MyJob": lambda job: None}, interval=SOON)
    thread = in_thread(worker.work)
    client.enqueue(qg.Job("MyJob"))
    eventually(lambda: database.count() == 0)
    assert worker.shutdown() is True
    assert worker.shutdown() is True
    thread.join()


def test_a_worker_shut_down_before_it_works_never_does(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    worker = qg.Worker(client, {"MyJob": lambda job: None})
    assert worker.shutdown() is True
    worker.work()
    assert database.count() == 1


def test_shutdown_of_a_busy_worker_waits_no_longer_than_it_may(
    client: qg.Client, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    client.enqueue(qg.Job("MyJob"))
    worker = qg.Worker(client, {"MyJob": gate}, interval=SOON)
    thread = in_thread(worker.work)
    gate.wait_for(1)
    assert worker.shutdown(timeout=0.01) is False
    assert "still_running id=1 type=MyJob" in caplog.text
    gate.opened.set()
    assert worker.shutdown(timeout=10) is True
    thread.join()


def test_a_handler_may_shut_its_worker_down(client: qg.Client, database: Database) -> None:
    answers: list[bool] = []
    client.enqueue(qg.Job("MyJob"))
    worker = qg.Worker(client, {"MyJob": lambda job: answers.append(worker.shutdown())}, interval=SOON)
    worker.work()
    assert (answers, database.count()) == ([False], 0)
    assert worker.shutdown() is True


def test_a_signal_ends_a_worker_that_sleeps_in_the_main_thread(client: qg.Client, on_alarm: Any) -> None:
    worker = qg.Worker(client, {}, interval=3600)
    on_alarm(lambda signum, frame: worker.shutdown())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    began = time.monotonic()
    worker.work()
    assert time.monotonic() - began < 10


def test_a_signal_at_any_moment_of_work_ends_the_worker(
    client: qg.Client, on_alarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first round, when nothing yet says who is working, and after its last."""
    answers: list[bool] = []
    on_alarm(lambda signum, frame: answers.append(worker.shutdown()))
    run, give_session_back = WorkLoop.run, WorkLoop.give_session_back

    def signalled_at_first(loop: WorkLoop) -> None:
        signal.raise_signal(signal.SIGALRM)
        run(loop)

    def signalled_at_last(loop: WorkLoop) -> None:
        give_session_back(loop)
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(WorkLoop, "run", signalled_at_first)
    monkeypatch.setattr(WorkLoop, "give_session_back", signalled_at_last)
    worker = qg.Worker(client, {}, interval=3600)
    worker.work()
    assert answers == [False, False]


def test_a_coroutine_may_shut_its_worker_down(client: qg.Client, database: Database) -> None:
    answers: list[bool] = []

    async def handler(job: qg.Job) -> None:
        await asyncio.sleep(0)
        answers.append(worker.shutdown())

    async def program() -> None:
        worker.work()

    client.enqueue(qg.Job("MyJob"))
    worker = qg.Worker(client, {"MyJob": handler}, interval=SOON)
    asyncio.run(program())
    assert (answers, database.count()) == ([False], 0)


def test_a_worker_works_in_one_thread_only(client: qg.Client) -> None:
    gate = Gate()
    client.enqueue(qg.Job("MyJob"))
    worker = qg.Worker(client, {"MyJob": gate}, interval=3600)
    thread = in_thread(worker.work)
    gate.wait_for(1)
    with pytest.raises(qg.ErrPoolState, match="working already"):
        worker.work()
    gate.opened.set()
    assert worker.shutdown(timeout=10)
    thread.join()


# A start that takes long, or fails


class SlowSource:
    """Opens connections, and from hold() on only after release()."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.connecting, self._open = threading.Event(), threading.Event()
        self._open.set()

    def __call__(self) -> Any:
        if not self._open.is_set():
            self.connecting.set()
            assert self._open.wait(PATIENCE)
        return psycopg2.connect(self._dsn)

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()


def test_the_timeout_of_shutdown_holds_while_the_start_connects(dsn: str, database: Database) -> None:
    source = SlowSource(dsn)
    with qg.Client(source) as client:
        client.enqueue(qg.Job("MyJob"))
        pool = qg.WorkerPool(client, {"MyJob": lambda job: None}, 2, interval=SOON)
        source.hold()
        starting = in_thread(pool.start)
        assert source.connecting.wait(PATIENCE)
        assert pool.shutdown(timeout=0.01) is False
        assert starting.is_alive()  # and shutdown() didn't wait for it
        source.release()
        starting.join()
        assert pool.shutdown(timeout=PATIENCE) is True
        assert threads("worker") == []
        with pytest.raises(qg.ErrPoolState, match="was shut down"):
            pool.start()
    assert database.count() == 1


def test_shutdown_without_a_timeout_waits_for_the_start(dsn: str) -> None:
    source = SlowSource(dsn)
    answers: list[bool] = []
    with qg.Client(source) as client:
        pool = qg.WorkerPool(client, {}, 2, interval=SOON)
        source.hold()
        starting = in_thread(pool.start)
        assert source.connecting.wait(PATIENCE)
        stopping = in_thread(lambda: answers.append(pool.shutdown()))
        source.release()
        stopping.join()
        assert (answers, threads("worker")) == ([True], [])
        starting.join()


@pytest.mark.parametrize("trouble", [RuntimeError("can't start new thread"), KeyboardInterrupt()], ids=repr)
def test_a_start_that_is_interrupted_leaves_nobody_who_listens(
    make_database: Any, monkeypatch: pytest.MonkeyPatch, trouble: BaseException
) -> None:
    dsn = make_database(migrate=False)
    qg.migrate(dsn, VERSION, notify=VERSION == 3)
    start = threading.Thread.start

    def start_no_worker(thread: threading.Thread) -> None:
        if thread.name.startswith("qg-worker"):
            raise trouble
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_no_worker)
    with qg.Client(dsn) as client, closing(Database(dsn)) as database:
        pool = qg.WorkerPool(client, {}, 2, interval=SOON)
        with pytest.raises(type(trouble)):
            pool.start()
        eventually(lambda: threads("listener") == [])
        eventually(lambda: not [query for _, _, query in database.sessions() if query.startswith("LISTEN")])


def test_a_start_that_is_interrupted_before_anything_began_can_be_repeated(
    client: qg.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = qg.WorkerPool(client, {}, 1, interval=SOON)
    with monkeypatch.context() as patch:

        def interrupt(work_map: qg.WorkMap) -> qg.WorkMap:
            raise KeyboardInterrupt

        patch.setattr("qg.workerpool.checked_work_map", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.start()
        assert pool.shutdown(timeout=PATIENCE) is True
    pool.start()
    assert pool.shutdown(timeout=PATIENCE) is True


def test_ctrl_c_just_after_the_listener_began_leaves_nobody_who_listens(
    make_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = make_database(migrate=False)
    qg.migrate(dsn, VERSION, notify=VERSION == 3)
    start, waiting = threading.Thread.start, threading.Event()

    class Selector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            waiting.set()
            return super().select(timeout)

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("qg-listener"):
            assert waiting.wait(PATIENCE)
            raise KeyboardInterrupt

    monkeypatch.setattr(selectors, "DefaultSelector", Selector)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with qg.Client(dsn) as client, closing(Database(dsn)) as database:
        with pytest.raises(KeyboardInterrupt):
            qg.WorkerPool(client, {}, 2, interval=SOON).start()
        eventually(lambda: threads("listener") == [])
        eventually(lambda: not [query for _, _, query in database.sessions() if query.startswith("LISTEN")])
