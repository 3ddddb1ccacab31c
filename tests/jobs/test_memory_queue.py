"""MemoryQueue: what is only its own. What it shares with PostgresJobs is in test_contract.py."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from insides import store_of, workers
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from support import PATIENCE, Database, eventually

import qg
from qg import jobs
from qg.jobs.drafts import Schedule
from qg.jobs.memory_schedules import MemorySchedules
from qg.jobs.memory_store import MemoryStore
from qg.jobs.telemetry import Telemetry

PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)
FUTURE = datetime(2999, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Greet:
    user_id: int = 0


@dataclass
class Basket:
    things: list[str] = field(default_factory=list)
    bought_by: UUID = UUID(int=7)
    bought_at: datetime = PAST


@dataclass(frozen=True)
class Sweep:
    pass


@pytest.fixture
def make_queue() -> Iterator[Callable[..., jobs.MemoryQueue]]:
    queues: list[jobs.MemoryQueue] = []

    def make(**options: Any) -> jobs.MemoryQueue:
        queues.append(jobs.MemoryQueue(**{"poll_interval": 0.02, "pool_size": 2, **options}))
        return queues[-1]

    yield make
    for queue in queues:
        assert queue.shutdown(PATIENCE)


@pytest.fixture
def queue(make_queue: Callable[..., jobs.MemoryQueue]) -> jobs.MemoryQueue:
    return make_queue()


def count(queue: jobs.MemoryQueue) -> int:
    return len(store_of(queue).rows())


def test_jobs_are_json_between_enqueue_and_the_function(queue: jobs.MemoryQueue) -> None:
    basket = Basket(["apple"])
    queue.enqueue(basket)
    basket.things.append("stolen")
    (row,) = store_of(queue).waiting()
    document = json.loads(row.args)
    assert list(document) == ["jobData", "jobStructPath", "gitHashEnqueued", "gitHashProcessed", "ctx"]
    assert document["jobData"] == {
        "things": ["apple"],
        "bought_by": "00000000-0000-0000-0000-000000000007",
        "bought_at": "2020-01-01T00:00:00Z",
    }
    seen: list[Basket] = []

    @queue.register_job_func
    def buy(ctx: jobs.Context, job: Basket) -> None:
        seen.append(job)

    eventually(lambda: seen, "the job")
    assert seen == [Basket(["apple"])]
    assert seen[0] is not basket


def test_what_a_function_does_to_its_payload_a_second_attempt_doesnt_see(
    make_queue: Callable[..., jobs.MemoryQueue],
) -> None:
    queue = make_queue(backoff=lambda failures: 0.0)
    seen: list[list[str]] = []

    @queue.register_job_func
    def buy(ctx: jobs.Context, job: Basket) -> None:
        seen.append(list(job.things))
        job.things.append("more")
        if ctx.run_count == 0:
            raise ValueError("not yet")

    queue.enqueue(Basket(["apple"]))
    eventually(lambda: len(seen) == 2, "both attempts")
    assert seen == [["apple"], ["apple"]]


def test_there_is_no_transaction_in_a_function(queue: jobs.MemoryQueue) -> None:
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(ctx.tx)

    queue.enqueue(Greet(1))
    eventually(lambda: seen, "the job")
    assert seen == [None]


@pytest.mark.parametrize("way", ["argument", "block"])
def test_with_somebodys_transaction_jobs_are_enqueued_at_once(
    queue: jobs.MemoryQueue, database: Database, way: str
) -> None:
    conn = database.connect()
    try:
        if way == "argument":
            assert queue.enqueue(Greet(1), tx=conn) == [1]
        else:
            with jobs.transaction(conn):
                assert queue.enqueue(Greet(1)) == [1]
        assert count(queue) == 1
        conn.rollback()
        assert count(queue) == 1
    finally:
        conn.close()


def test_in_a_function_too_a_transaction_means_at_once(
    make_queue: Callable[..., jobs.MemoryQueue], caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue(backoff=lambda failures: 3600.0)

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        with jobs.transaction(object()):
            queue.enqueue(Basket())
        queue.enqueue(Greet(1))
        raise ValueError("no")

    queue.enqueue(Sweep())
    eventually(lambda: len(store_of(queue).waiting()) == 2, "the failure")
    assert "job_failed" in caplog.text
    assert sorted(row.type.rsplit(".", 1)[1] for row in store_of(queue).waiting()) == ["Basket", "Sweep"]


def test_a_job_whose_type_has_no_function_waits_without_an_error(
    make_queue: Callable[..., jobs.MemoryQueue], caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue(pool_size=1)
    seen: list[str] = []

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        seen.append("sweep")

    queue.start()
    queue.enqueue([Greet(1), Sweep()], priority=-1)
    eventually(lambda: seen == ["sweep"] and count(queue) == 1, "the job behind it")
    counts: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        counts.append(ctx.run_count)

    eventually(lambda: counts, "the job that waited")
    assert counts == [0]
    assert "job_failed" not in caplog.text


def test_jobs_for_another_memory_queue_too_come_to_be_only_with_the_success(
    make_queue: Callable[..., jobs.MemoryQueue], caplog: pytest.LogCaptureFixture
) -> None:
    queue, other = make_queue(backoff=lambda failures: 0.0), make_queue()

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        other.enqueue(Greet(ctx.run_count))
        assert count(other) == 0
        if ctx.run_count == 0:
            raise ValueError("no")

    queue.enqueue(Sweep())
    eventually(lambda: count(other) == 1 and count(queue) == 0, "the success")
    assert json.loads(store_of(other).waiting()[0].args)["jobData"] == {"user_id": 1}


def test_an_idle_worker_wakes_at_once_when_there_is_a_job(make_queue: Callable[..., jobs.MemoryQueue]) -> None:
    queue = make_queue(poll_interval=3600.0)
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job)

    queue.start()
    eventually(workers, "the workers")
    for number in range(3):
        queue.enqueue(Greet(number))
        eventually(lambda: len(seen) == number + 1, "the job")  # noqa: B023 - called in this turn
    queue.enqueue(Greet(3), run_at=datetime.now(timezone.utc) + timedelta(seconds=0.1))
    eventually(lambda: len(seen) == 4, "the job that falls due")


def test_the_latest_time_there_is_can_be_waited_for(queue: jobs.MemoryQueue) -> None:
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job)

    queue.start()
    queue.enqueue(Greet(1), priority=-1, run_at=datetime.max.replace(tzinfo=timezone.utc))
    queue.enqueue(Greet(2), run_at=datetime.min.replace(tzinfo=timezone.utc))
    eventually(lambda: seen, "the job of long ago")
    assert seen == [Greet(2)]
    assert queue.shutdown(PATIENCE)


def test_a_signal_handler_may_shut_down_while_a_job_runs(
    make_queue: Callable[..., jobs.MemoryQueue], caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue()
    began, go_on = threading.Event(), threading.Event()
    results: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        began.set()
        assert go_on.wait(PATIENCE)
        results.append("job")

    def handle(number: int, frame: object) -> None:
        results.append(queue.shutdown())

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        queue.enqueue(Greet(1))
        assert began.wait(PATIENCE)
        signal.raise_signal(signal.SIGUSR1)
        assert results == [False]
        with pytest.raises(jobs.ErrEnqueueFailed):
            queue.enqueue(Greet(2))
    finally:
        go_on.set()
        signal.signal(signal.SIGUSR1, before)
    assert queue.shutdown(PATIENCE) is True
    assert results == [False, "job"]
    assert "job_failed" not in caplog.text


def test_a_signal_in_the_middle_of_enqueue_shuts_down_without_a_deadlock(
    make_queue: Callable[..., jobs.MemoryQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue()
    results: list[bool] = []

    def handle(number: int, frame: object) -> None:
        results.append(queue.shutdown())

    def interrupted(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)
        insort(*arguments, **options)

    # There enqueue() holds the store's lock.
    monkeypatch.setattr("qg.jobs.memory_store.insort", interrupted)
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        queue.enqueue(Greet(1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert results == [False]
    assert count(queue) == 1
    assert queue.shutdown(PATIENCE) is True


def test_a_queue_by_default_logs_to_qg_and_otherwise_where_it_is_told(
    make_queue: Callable[..., jobs.MemoryQueue], caplog: pytest.LogCaptureFixture
) -> None:
    for name, options in (("qg", {}), ("mine", {"logger": logging.getLogger("mine")})):
        caplog.clear()
        queue = make_queue(backoff=lambda failures: 3600.0, **options)

        @queue.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            ctx.logger.warning("greeting")
            raise ValueError("no")

        queue.enqueue(Greet(1))
        eventually(lambda: "job_failed" in caplog.text, "the failure")
        assert [record.name for record in caplog.records] == [name, name]


def test_missed_ticks_come_to_one() -> None:
    time = datetime(2026, 11, 25, 12, 20, tzinfo=timezone.utc)
    store = MemoryStore()
    schedules = MemorySchedules(store, "", Telemetry(None, None), lambda: time)
    schedules.declare(Schedule.of("@every 1h", Sweep()))
    schedules.declare(Schedule.of("@yearly", Greet(1)))
    first, _ = schedules.next_ticks
    time += timedelta(hours=5, minutes=30)
    assert schedules.tick() == 1800.0
    assert [row.type.rsplit(".", 1)[1] for row in store.waiting()] == ["Sweep"]
    assert schedules.next_ticks[0] == first + timedelta(hours=5)
    schedules.tick()
    assert len(store.rows()) == 1


def test_telemetry_that_raises_at_the_end_of_a_tick_doesnt_repeat_the_tick() -> None:
    class RaisesAtTheEnd(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise OSError("the collector is away")

    provider = TracerProvider()
    provider.add_span_processor(RaisesAtTheEnd())
    time = datetime(2026, 11, 25, 12, 20, tzinfo=timezone.utc)
    store = MemoryStore()
    schedules = MemorySchedules(store, "", Telemetry(None, provider), lambda: time)
    schedules.declare(Schedule.of("@every 1h", Sweep()))
    time += timedelta(hours=1)
    with pytest.raises(OSError, match="the collector is away"):
        schedules.tick()
    assert schedules.tick() == 3600.0
    assert len(store.rows()) == 1


def test_two_thousand_jobs_are_enqueued_and_worked_in_a_few_seconds(
    make_queue: Callable[..., jobs.MemoryQueue],
) -> None:
    queue = make_queue(pool_size=10)
    seen: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job.user_id)

    began = time.monotonic()
    queue.start()
    for number in range(1000):
        queue.enqueue(Greet(number))
    queue.enqueue([Greet(number) for number in range(1000, 2000)])
    eventually(lambda: count(queue) == 0, "the end of all jobs")
    assert sorted(seen) == list(range(2000))
    # About 0.5 s on a machine that has nothing else to do.
    assert time.monotonic() - began < 8


def test_jobs_that_cant_run_yet_dont_slow_down_those_that_can(make_queue: Callable[..., jobs.MemoryQueue]) -> None:
    queue = make_queue(pool_size=4)
    queue.enqueue([Greet(number) for number in range(500)], priority=-1, run_at=FUTURE)
    queue.enqueue([Basket() for _ in range(500)], priority=-1)
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job.user_id)

    began = time.monotonic()
    queue.enqueue([Greet(number) for number in range(200)])
    queue.start()
    eventually(lambda: len(seen) == 200, "the jobs that can run")
    assert time.monotonic() - began < 5
    assert count(queue) >= 1000


def test_a_job_func_cant_enqueue_into_another_queue_that_was_shut_down() -> None:
    failures: list[Exception] = []
    with jobs.MemoryQueue() as here, jobs.MemoryQueue() as there:
        there.shutdown()

        @here.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            try:
                there.enqueue(job)
            except jobs.ErrEnqueueFailed as error:
                failures.append(error)

        here.enqueue(Greet(7))
        here.start()
        eventually(lambda: failures)


class HoldsTheFirst(SpanProcessor):
    """Holds the worker of the first attempt, when its span ends, until it is told to let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self._names = iter(["job"])

    def on_end(self, span: ReadableSpan) -> None:
        if span.name.startswith("job: ") and next(self._names, None):
            assert self.let_go.wait(PATIENCE)


@pytest.mark.parametrize("ending", [qg.Reschedule(after=0), ValueError("once more")], ids=["reschedule", "failure"])
def test_a_job_that_is_due_again_at_once_is_taken_by_another_worker_and_costs_no_thread(
    make_queue: Callable[..., jobs.MemoryQueue], ending: Exception
) -> None:
    first, provider = HoldsTheFirst(), TracerProvider()
    provider.add_span_processor(first)
    queue = make_queue(backoff=lambda failures: 0.0, tracer_provider=provider)
    attempts: list[str] = []
    both_workers = threading.Barrier(2)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        attempts.append(ctx.job_id)
        if len(attempts) == 1:
            raise ending
        queue.enqueue(Sweep())

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        first.let_go.set()

    @queue.register_job_func
    def buy(ctx: jobs.Context, job: Basket) -> None:
        both_workers.wait(PATIENCE)
        attempts.append(ctx.job_id)

    queue.enqueue(Greet())
    queue.start()
    # The other worker ends the second attempt, and begins another job, before the first one goes on.
    assert first.let_go.wait(PATIENCE)
    assert attempts == ["1", "1"]
    queue.enqueue([Basket(), Basket()])
    eventually(lambda: len(attempts) == 4, "two jobs that need both workers")
    assert sorted(attempts) == ["1", "1", "3", "4"]


class RaisesOn(logging.Filter):
    """Raises *error* at each line of the event *event*."""

    def __init__(self, event: str, error: BaseException) -> None:
        super().__init__()
        self._event = event
        self._error = error

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage().startswith(self._event):
            raise self._error
        return True


@pytest.mark.parametrize("error", [ValueError("no log"), SystemExit(1)], ids=["error", "exit"])
@pytest.mark.parametrize("event", ["job_worked", "job_failed", "job_discarded", "job_rescheduled", "backoff_failed"])
def test_a_logger_that_raises_costs_neither_a_thread_nor_the_settlement(
    make_queue: Callable[..., jobs.MemoryQueue], caplog: pytest.LogCaptureFixture, event: str, error: BaseException
) -> None:
    caplog.set_level(logging.INFO, logger="qg")
    logger = logging.getLogger("qg.test_memory_queue")
    faulty = RaisesOn(event, error)
    logger.addFilter(faulty)
    backoffs: dict[str, Any] = {"backoff_failed": lambda failures: 1 / 0}
    endings: dict[str, Any] = {
        "job_worked": None,
        "job_discarded": qg.Discard("nobody wants it"),
        "job_rescheduled": qg.Reschedule(after=3600),
    }
    try:
        queue = make_queue(
            pool_size=1, logger=logger, backoff=backoffs.get(event, lambda failures: 3600.0), poll_interval=60.0
        )
        ending = endings.get(event, ValueError("no"))
        swept: list[Any] = []

        @queue.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            if ending:
                raise ending

        @queue.register_job_func
        def sweep(ctx: jobs.Context, job: Sweep) -> None:
            swept.append(store_of(queue).waiting())
            raise qg.Reschedule(after=3600)

        queue.enqueue([Greet(), Sweep()])
        queue.start()
        eventually(lambda: swept, "the job behind it, on the only thread")
        assert [row.type.rsplit(".", 1)[1] for row in swept[0]] == (
            [] if event in ("job_worked", "job_discarded") else ["Greet"]
        )
        eventually(lambda: "thread_failed name=qg-memory-1: it goes on" in caplog.text)
        assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)
    finally:
        logger.removeFilter(faulty)


class RaisesIn(SpanProcessor):
    """Raises *error* where the span of a job begins, or where it ends."""

    def __init__(self, place: str, error: BaseException) -> None:
        self._place = place
        self._error = error

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._raise_in("on_start", span)

    def on_end(self, span: ReadableSpan) -> None:
        self._raise_in("on_end", span)

    def _raise_in(self, place: str, span: Any) -> None:
        if place == self._place and span.name.startswith("job: ") and "Greet" in span.name:
            raise self._error


@pytest.mark.parametrize("place", ["on_start", "on_end"])
@pytest.mark.parametrize("error", [ValueError("no span"), SystemExit(1)], ids=["error", "exit"])
def test_a_span_processor_that_raises_costs_no_thread(
    make_queue: Callable[..., jobs.MemoryQueue], caplog: pytest.LogCaptureFixture, place: str, error: BaseException
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(RaisesIn(place, error))
    queue = make_queue(pool_size=1, tracer_provider=provider)
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job)

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        seen.append(job)

    queue.enqueue([Greet(), Sweep()])
    queue.start()
    eventually(lambda: Sweep() in seen, "the job behind it, on the only thread")
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)
    if isinstance(error, ValueError):
        assert seen == [Greet(), Sweep()]
        assert "telemetry_failed type=test_memory_queue.Greet" in caplog.text
    elif place == "on_start":
        # The job waits for its next attempt.
        assert [row.type for row in store_of(queue).waiting()] == ["test_memory_queue.Greet"]
