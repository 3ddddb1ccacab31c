"""The threads of qg: one life for all kinds, and none that a fault ends."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from support import PATIENCE, Network, eventually, lease, needs, threads

import qg
from qg.client import engine_of
from qg.database.outage import Outage
from qg.working.coroutine import HandlerCoroutine
from qg.working.event_loop import HandlerLoop
from qg.working.hands import Hands
from qg.working.listener import Listener
from qg.working.locker import Locker
from qg.working.options import WorkOptions
from qg.working.runner import Runner
from qg.working.sleepers import Sleepers
from qg.working.threads import BackgroundThread, WakeUp, join_all
from qg.working.transactions import Transactions
from qg.working.watch import Watch
from qg.working.work_loop import WorkLoop

LOGGER = logging.getLogger("qg")


@dataclass
class Life:
    """What all kinds of thread have in common."""

    start: Callable[[], object]
    stop: Callable[[], object]
    join: Callable[[float], bool]


def worker(client: qg.Client) -> Life:
    options = WorkOptions("", 3600.0)
    loop = WorkLoop(engine_of(client), Runner({}, LOGGER), options, Outage(LOGGER), Sleepers())
    thread = BackgroundThread("qg-worker", loop.run, wake=loop.stop, logger=LOGGER)
    return Life(thread.start, thread.stop, thread.join)


def listener(client: qg.Client) -> Life:
    thread = Listener(engine_of(client), "", 1, Sleepers(), 5.0)

    def start() -> None:
        session = lease(client)
        thread.start(session)
        session.give_back()

    return Life(start, thread.stop, thread.join)


def batch(client: qg.Client) -> Life:
    watch = Watch(lambda: None, LOGGER)
    return Life(watch.begin, watch.stop, watch.join)


def loop(client: qg.Client) -> Life:
    event_loop = HandlerLoop(LOGGER)

    async def nothing() -> None:
        pass

    return Life(lambda: event_loop.run(HandlerCoroutine(nothing(), qg.Job("MyJob"))), event_loop.stop, event_loop.join)


def locker(client: qg.Client) -> Life:
    engine, options = engine_of(client), WorkOptions("", 3600.0)
    hands = Hands(["qg-worker-1", "qg-worker-2"], "qg-settler", {}, LOGGER)
    loop = Locker(engine, options, Outage(LOGGER), Sleepers(), None, hands, Transactions(engine, "", 2))
    thread = BackgroundThread("qg-locker", loop.run, wake=loop.stop, logger=LOGGER)
    all_threads = [thread, *hands.threads]

    def start() -> None:
        for each in all_threads:
            each.start()

    return Life(start, thread.stop, lambda timeout: join_all(all_threads, timeout))


def jobs(client: qg.Client) -> Life:
    conductor = needs("qg.jobs.conductor").Conductor("qg-jobs", LOGGER, 5.0)
    return Life(lambda: conductor.carry_out("rest", lambda: 3600.0), conductor.stop, conductor.join)


def memory(client: qg.Client) -> Life:
    store = needs("qg.jobs.memory_store").MemoryStore()
    thread = BackgroundThread("qg-memory", lambda: store.take(()), wake=store.stop_taking, logger=LOGGER)
    return Life(thread.start, thread.stop, thread.join)


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Any], None]]:
    """A function that installs what SIGALRM calls."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler) and None
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", [worker, locker, listener, batch, loop, jobs, memory], ids=lambda kind: kind.__name__)
def test_a_thread_runs_as_a_daemon_until_it_is_stopped_by_a_signal_handler_too(
    client: qg.Client, on_alarm: Any, kind: Callable[[qg.Client], Life]
) -> None:
    life = kind(client)
    on_alarm(lambda number, frame: life.stop())
    life.start()
    (thread,) = threads(kind.__name__)
    assert thread.daemon
    assert life.join(0.0) is False
    signal.raise_signal(signal.SIGALRM)
    assert life.join(PATIENCE) is True
    assert threads(kind.__name__) == []
    life.stop()
    assert life.join(0.0) is True


# BackgroundThread by itself


@pytest.mark.parametrize("fault", [KeyError("a bug"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_fault_is_logged_with_its_traceback_and_ends_no_thread(
    fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [fault]
    wake_up = WakeUp()

    def run() -> None:
        if faults:
            raise faults.pop()
        wake_up.wait(None)

    thread = BackgroundThread("qg-test", run, wake=wake_up.give, logger=LOGGER)
    thread.start()
    eventually(lambda: not faults)
    assert thread.alive
    thread.stop()
    assert thread.join(PATIENCE)
    (record,) = caplog.records
    assert record.message == "thread_failed name=qg-test: it goes on"
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


def test_nor_does_a_logger_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Logger):
        def exception(self, *arguments: object, **named: object) -> None:
            raise OSError("no space left on the log's device")

    runs: list[None] = []
    wake_up = WakeUp()

    def run() -> None:
        runs.append(None)
        if len(runs) == 1:
            raise LookupError("the first trouble")
        wake_up.wait(None)

    thread = BackgroundThread("qg-test", run, wake=wake_up.give, logger=Broken("broken"))
    thread.start()
    eventually(lambda: len(runs) == 2)
    thread.stop()
    assert thread.join(PATIENCE)
    printed = capsys.readouterr().err
    assert "the first trouble" in printed
    assert "no space left" in printed


def test_a_thread_that_always_fails_can_be_stopped_in_its_pause() -> None:
    failed = threading.Event()

    def run() -> None:
        failed.set()
        raise KeyError("always")

    thread = BackgroundThread("qg-test", run, wake=lambda: None, logger=LOGGER)
    thread.start()
    assert failed.wait(PATIENCE)
    thread.stop()
    assert thread.join(PATIENCE)


def test_a_thread_that_was_never_started_has_ended() -> None:
    thread = BackgroundThread("qg-test", print, wake=lambda: None, logger=LOGGER)
    assert thread.join(0.0) is True
    assert not thread.alive


def test_a_thread_starts_once_and_doesnt_wait_for_itself() -> None:
    joined: list[bool] = []
    thread = BackgroundThread("qg-test", lambda: joined.append(thread.join()), wake=lambda: None, logger=LOGGER)
    thread.start()
    assert thread.join(PATIENCE)
    thread.start()
    assert joined == [False]


def test_a_timeout_is_for_all_threads_together() -> None:
    wake_ups = [WakeUp(), WakeUp()]
    both = [
        BackgroundThread("qg-test", lambda wake_up=wake_up: wake_up.wait(None), wake=wake_up.give, logger=LOGGER)
        for wake_up in wake_ups
    ]
    for thread in both:
        thread.start()
    both[1].stop()
    assert both[1].join(PATIENCE)
    assert join_all(both, 0.0) is False
    both[0].stop()
    assert join_all(both, PATIENCE) is True


# What they do


def test_a_watch_looks_again_after_any_fault(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[None] = []

    def look() -> None:
        looks.append(None)
        if len(looks) == 1:
            raise KeyError("a bug")

    watch = Watch(look, LOGGER)
    watch.begin()
    eventually(lambda: len(looks) > 1)
    watch.end()
    assert "thread_failed name=qg-batch" in caplog.text


def test_to_wake_a_listener_that_reads_nothing_never_blocks(client: qg.Client) -> None:
    """A signal handler wakes it, and so does whoever finds another table: they may not wait for its thread."""
    thread = Listener(engine_of(client), "", 1, Sleepers(), 5.0)
    for _ in range(100_000):  # many times what a pipe holds
        thread.recheck()
    session = lease(client)
    thread.start(session)
    session.give_back()
    thread.stop()
    assert thread.join(PATIENCE)


def test_a_bug_is_no_outage(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(qg.Job):
        def done(self) -> None:
            super().done()
            raise KeyError("a bug")

    worked: list[int] = []
    with qg.Client(dsn, job_class=Buggy) as client:
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        with qg.WorkerPool(client, {"MyJob": lambda job: worked.append(job.id)}, 1, interval=0.01):
            eventually(lambda: worked == [1, 2])
    failed = [record for record in caplog.records if record.message == "worker_failed queue=; it goes on"]
    assert len(failed) == 2
    assert all(record.exc_info and isinstance(record.exc_info[1], KeyError) for record in failed)
    assert "outage_begins" not in caplog.text


def test_what_the_source_raises_is_an_outage(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody's pool has errors of its own for that."""
    import psycopg2

    def connect() -> Any:
        try:
            return psycopg2.connect(network.dsn)
        except psycopg2.Error as error:
            raise ConnectionError("no server") from error

    caplog.set_level("WARNING")
    with qg.Client(connect) as client, qg.WorkerPool(client, {}, 1, interval=0.01, listen=False):
        network.cut()
        eventually(lambda: "outage_begins" in caplog.text)
        eventually(lambda: threads("worker"))
        network.open()
        eventually(lambda: "outage_over" in caplog.text)
    assert "worker_failed" not in caplog.text


def test_a_thread_that_ran_for_long_is_called_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    failures: list[int] = []
    monkeypatch.setattr("qg.working.threads.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("qg.working.threads.reconnect_pause", lambda count, longest: failures.append(count) or 0.0)

    def run() -> None:
        clock[0] += 100.0 if len(failures) == 3 else 1.0
        if len(failures) == 5:
            return
        raise KeyError("again")

    thread = BackgroundThread("qg-test", run, wake=lambda: None, logger=LOGGER)
    thread.start()
    assert thread.join(PATIENCE)
    assert failures == [1, 2, 3, 1, 2]


def test_a_wake_up_ends_one_sleep_however_often_it_was_given_before_unless_it_is_forgotten() -> None:
    wake_up = WakeUp()
    wake_up.give()
    wake_up.give()
    assert [wake_up.wait(0) for _ in range(3)] == [True, False, False]
    wake_up.give()
    wake_up.give()
    wake_up.forget()
    assert not wake_up.wait(0)
