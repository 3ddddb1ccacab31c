"""What every queue that runs jobs does, in PostgreSQL and in memory alike."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import msgspec
import pytest
from insides import pending, schedules_in, store_of, workers
from support import PATIENCE, VERSION, Database, eventually, name_of, threads

import qg
from qg import jobs

PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)
FUTURE = datetime(2999, 1, 1, tzinfo=timezone.utc)
LONG = 3600.0
LANGUAGE: ContextVar[str] = ContextVar("language", default="English")


@dataclass(frozen=True)
class Greet:
    user_id: int = 0


@dataclass(frozen=True)
class Sweep:
    rooms: tuple[str, ...] = ()


class Point(NamedTuple):
    x: int
    y: int


class Letter(msgspec.Struct, frozen=True):
    text: str
    sent_at: datetime | None = None


@dataclass
class LoopHole:
    """A payload that no JSON can hold."""

    itself: Any = None


@dataclass(frozen=True)
class OldOrder:
    customer: int

    @staticmethod
    def job_type() -> str:
        return "order"


@dataclass(frozen=True)
class NewOrder:
    client: int

    @staticmethod
    def job_type() -> str:
        return "order"


@dataclass(frozen=True)
class Discount:
    @staticmethod
    def job_type() -> str:
        return "50%s off"


class Stored(NamedTuple):
    """A job as it lies in the queue."""

    id: int
    type: str
    priority: int
    run_at: datetime
    error_count: int
    args: Any


class Queues:
    """Makes queues of one kind, and looks into them."""

    def __init__(self, kind: str, database: Database | None) -> None:
        self.kind = kind
        self._database = database
        self._made: list[Any] = []
        self._clients: list[qg.Client] = []

    def make(self, **options: Any) -> Any:
        """Return a queue with few workers that look often; *backoff* is its delay before a retry."""
        options = {"poll_interval": 0.02, "pool_size": 2, **options}
        if self._database is None:
            queue: Any = jobs.MemoryQueue(**options)
        elif "backoff" in options:
            self._clients.append(qg.Client(self._database.dsn, backoff=options.pop("backoff")))
            queue = jobs.PostgresJobs(self._clients[-1], **options)
        else:
            queue = jobs.PostgresJobs(self._database.dsn, **options)
        self._made.append(queue)
        return queue

    def stored(self, queue: Any) -> list[Stored]:
        """What is in the queue, running or not, by id."""
        if self._database is None:
            rows = store_of(queue).rows()
            return [Stored(r.id, r.type, r.priority, r.due, r.error_count, json.loads(r.args)) for r in rows]
        return [
            Stored(*row)
            for row in self._database.query(
                "SELECT job_id, job_class, priority, run_at, error_count, payload FROM jobs ORDER BY job_id"
            )
        ]

    def is_empty(self, queue: Any) -> bool:
        return not self.stored(queue)

    def schedules(self, queue: Any) -> int:
        """How many schedules are recorded."""
        if self._database is None:
            return schedules_in(queue)
        return int(self._database.value("SELECT count(*) FROM qg_jobs_schedule"))

    def end(self) -> None:
        for queue in self._made:
            assert queue.shutdown(PATIENCE)
        for client in self._clients:
            client.close()


@pytest.fixture(params=["postgres", "memory"])
def queues(request: pytest.FixtureRequest) -> Iterator[Queues]:
    database = request.getfixturevalue("jobs_database") if request.param == "postgres" else None
    queues = Queues(request.param, database)
    yield queues
    queues.end()


@pytest.fixture
def queue(queues: Queues) -> Any:
    return queues.make()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="qg")
    return caplog


class Gate:
    """Where a JobFunc says that it has come, and waits until it may go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def pass_through(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE)

    def wait_for_somebody(self) -> None:
        assert self._reached.wait(PATIENCE)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()  # for a test that failed


def record_of(log: pytest.LogCaptureFixture, event: str) -> logging.LogRecord:
    """The first record of *event*, once it is there."""

    def find() -> logging.LogRecord | None:
        return next((each for each in log.records if each.getMessage().startswith(event)), None)

    record = eventually(find, f"a line {event}")
    assert isinstance(record, logging.LogRecord)
    return record


def note_greetings(queue: Any) -> list[Any]:
    """Work Greet on *queue*; return where the payloads will be noted."""
    seen: list[Any] = []

    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job)

    queue.register_job_func(greet)
    return seen


# Enqueue


def test_the_id_of_one_job_comes_in_a_list(queues: Queues, queue: Any) -> None:
    ids = queue.enqueue(Greet(7))
    assert [job.id for job in queues.stored(queue)] == ids
    assert len(ids) == 1


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_or_tuple_of_mixed_types_is_a_job_each_in_order(queues: Queues, queue: Any, kind: Any) -> None:
    ids = queue.enqueue(kind([Greet(1), Point(2, 3), Greet(4), Letter("five"), Sweep()]))
    stored = queues.stored(queue)
    assert ids == sorted(set(ids)) == [job.id for job in stored]
    assert [job.type.rsplit(".", 1)[1] for job in stored] == ["Greet", "Point", "Greet", "Letter", "Sweep"]
    assert queue.enqueue(Greet(6))[0] > ids[-1]


def test_a_named_tuple_is_one_job(queues: Queues, queue: Any) -> None:
    assert len(queue.enqueue(Point(1, 2))) == 1
    assert [job.type.rsplit(".", 1)[1] for job in queues.stored(queue)] == ["Point"]


def test_priority_and_run_at_hold_for_each_of_a_list(queues: Queues, queue: Any) -> None:
    queue.enqueue([Greet(1), Point(2, 3)], priority=-5, run_at=FUTURE)
    assert [(job.priority, job.run_at) for job in queues.stored(queue)] == [(-5, FUTURE)] * 2


def test_priority_is_0_and_run_at_now_unless_said_otherwise(queues: Queues, queue: Any) -> None:
    before = datetime.now(timezone.utc)
    queue.enqueue(Greet(1))
    queue.enqueue([Greet(1), Greet(2)])
    for job in queues.stored(queue):
        assert job.priority == 0
        assert before <= job.run_at <= datetime.now(timezone.utc)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "text",
        b"bytes",
        7,
        print,
        {"user_id": 7},
        Greet,
        [],
        (),
        {Greet(1)},
        deque([Greet(1)]),
        iter([Greet(1)]),
        [Greet(1), None],
        [Greet(1), [Greet(2)]],
        [Greet(1), Greet],
        LoopHole(object()),
        [Greet(1), LoopHole(object())],
    ],
    ids=name_of,
)
def test_what_is_no_payload_is_refused_and_nothing_of_it_enqueued(queues: Queues, queue: Any, bad: Any) -> None:
    with pytest.raises(jobs.ErrInvalidJobType) as caught:
        queue.enqueue(bad)
    assert isinstance(caught.value, jobs.ErrEnqueueFailed)
    assert isinstance(caught.value, qg.QgError)
    assert queues.is_empty(queue)


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 32768},
        {"priority": -32769},
        {"priority": 1.5},
        {"priority": "1"},
        {"priority": True},
        {"priority": None},
        {"run_at": datetime(2030, 1, 1)},  # noqa: DTZ001 - naive is the point
        {"run_at": "2030-01-01T00:00:00Z"},
        {"run_at": 0},
    ],
    ids=name_of,
)
@pytest.mark.parametrize("job", [Greet(1), [Greet(1), Greet(2)]], ids=["one", "many"])
def test_an_option_out_of_bounds_is_refused_and_nothing_enqueued(
    queues: Queues, queue: Any, job: Any, options: Any
) -> None:
    with pytest.raises(jobs.ErrInvalidJobOpt) as caught:
        queue.enqueue(job, **options)
    assert isinstance(caught.value, jobs.ErrEnqueueFailed)
    assert isinstance(caught.value, ValueError)
    assert queues.is_empty(queue)


@pytest.mark.parametrize("priority", [-32768, 32767])
def test_the_outermost_priorities_are_taken_and_worked(
    queues: Queues, queue: Any, priority: int, log: pytest.LogCaptureFixture
) -> None:
    queue.enqueue(Greet(1), priority=priority)
    assert queues.stored(queue)[0].priority == priority
    seen = note_greetings(queue)
    eventually(lambda: seen and (queues.is_empty(queue) or "job_failed" in log.text), "the end of the job")
    assert "job_failed" not in log.text
    assert seen == [Greet(1)]


def test_many_threads_at_once_lose_and_repeat_nothing(queues: Queues) -> None:
    queue = queues.make(pool_size=3)
    seen = note_greetings(queue)
    queue.start()
    start, ids = threading.Barrier(8), []

    def enqueue(first: int) -> None:
        start.wait(PATIENCE)
        for number in range(first, first + 20, 2):
            ids.extend(queue.enqueue([Greet(number), Greet(number + 1)]))

    threads = [threading.Thread(target=enqueue, args=(20 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: queues.is_empty(queue) and len(seen) >= 160, "the end of all jobs")
    assert len(set(ids)) == 160
    assert sorted(job.user_id for job in seen) == list(range(160))


# Work


@pytest.mark.parametrize(
    "payload",
    [
        Greet(2**70),
        Point(-1, 2),
        Sweep(("Küche", "")),
        Letter("ü\x00😀" if VERSION == 3 else "ü😀", datetime(2024, 2, 29, 12, tzinfo=timezone.utc)),
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_a_payload_arrives_as_it_was(queue: Any, payload: Any) -> None:
    seen: list[Any] = []

    def work(ctx: jobs.Context, job: Any) -> None:
        seen.append(job)

    work.__annotations__["job"] = type(payload)
    queue.register_job_func(work)
    queue.enqueue(payload)
    eventually(lambda: seen, "the job")
    assert seen == [payload]
    assert type(seen[0]) is type(payload)


def test_the_context_tells_of_the_job(queues: Queues) -> None:
    queue = queues.make(queue="mail")
    seen: list[jobs.Context] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(ctx)

    (job_id,) = queue.enqueue(Greet(1))
    ctx = eventually(lambda: seen, "the job")[0]
    assert (ctx.job_id, ctx.queue, ctx.run_count, ctx.user_id) == (str(job_id), "mail", 0, None)


def test_an_async_function_runs_to_its_end(queues: Queues, queue: Any) -> None:
    seen: list[Any] = []

    @queue.register_job_func
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append("begun")
        await asyncio.sleep(0.01)
        seen.append("ended")

    queue.enqueue(Greet(1))
    eventually(lambda: seen and queues.is_empty(queue), "the end of the job")
    assert seen == ["begun", "ended"]


def test_async_functions_share_one_event_loop_which_ends_with_the_queue(queues: Queues, queue: Any) -> None:
    heard: list[asyncio.Event] = []
    left: list[asyncio.Task[None]] = []

    @queue.register_job_func
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        if not heard:
            heard.append(asyncio.Event())
            left.append(asyncio.create_task(asyncio.sleep(LONG)))
            await asyncio.wait_for(heard[0].wait(), PATIENCE)
        else:  # beside the first, in another worker
            heard[0].set()

    assert threads("loop") == []
    queue.enqueue([Greet(1), Greet(2)])
    eventually(lambda: queues.is_empty(queue), "the end of both jobs")
    assert len(threads("loop")) == 1
    assert queue.shutdown(PATIENCE)
    assert threads("loop") == []
    assert left[0].cancelled()


def test_an_async_function_that_blocks_the_loop_is_named_in_the_log(queue: Any, log: Any) -> None:
    @queue.register_job_func
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        record_of(log, "loop_blocked")

    (number,) = queue.enqueue(Greet(1))
    line = record_of(log, "loop_blocked").getMessage()
    assert line.startswith(f"loop_blocked id={number} type=test_contract.Greet: ")


@pytest.mark.parametrize("result", [False, "text", ValueError("not raised"), {"a": 1}], ids=name_of)
def test_what_a_function_returns_is_of_no_account(queues: Queues, queue: Any, result: Any, log: Any) -> None:
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> Any:
        seen.append(job)
        return result

    queue.enqueue(Greet(1))
    eventually(lambda: seen and queues.is_empty(queue), "the end of the job")
    assert seen == [Greet(1)]
    assert "job_failed" not in log.text


def test_registering_returns_the_function_so_that_it_decorates(queue: Any) -> None:
    def greet(ctx: jobs.Context, job: Greet) -> int:
        return job.user_id

    assert queue.register_job_func(greet) is greet


def test_the_most_urgent_runs_first(queues: Queues) -> None:
    queue = queues.make(pool_size=1)
    for number, priority in enumerate([5, 0, -3, 32767, 0, -32768]):
        queue.enqueue(Greet(number), priority=priority)
    seen = note_greetings(queue)
    queue.start()
    eventually(lambda: len(seen) == 6, "all jobs")
    assert [job.user_id for job in seen] == [5, 2, 1, 4, 0, 3]


def test_of_equally_urgent_ones_the_earliest_runs_first(queues: Queues) -> None:
    queue = queues.make(pool_size=1)
    for number, days in enumerate([3, 1, 4, 1, 5]):
        queue.enqueue(Greet(number), run_at=PAST + timedelta(days))
    seen = note_greetings(queue)
    queue.start()
    eventually(lambda: len(seen) == 5, "all jobs")
    assert [job.user_id for job in seen] == [1, 3, 0, 2, 4]


def test_a_queue_by_run_at_runs_the_earliest_first_however_urgent_others_are(queues: Queues) -> None:
    queue = queues.make(pool_size=1, poll_strategy=jobs.PollStrategy.RUN_AT)
    for number, (priority, days) in enumerate([(-9, 3), (7, 1), (5, 1), (0, 2)]):
        queue.enqueue(Greet(number), priority=priority, run_at=PAST + timedelta(days))
    seen = note_greetings(queue)
    queue.start()
    eventually(lambda: len(seen) == 4, "all jobs")
    assert [job.user_id for job in seen] == [2, 1, 3, 0]


def test_no_job_runs_before_its_time(queues: Queues) -> None:
    queue = queues.make(pool_size=1)
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append((job.user_id, datetime.now(timezone.utc)))

    queue.start()
    due = datetime.now(timezone.utc) + timedelta(seconds=0.4)
    queue.enqueue(Greet(1), priority=-9, run_at=due)
    queue.enqueue(Greet(3), priority=-9, run_at=FUTURE)
    queue.enqueue(Greet(2))
    eventually(lambda: len(seen) == 2, "both jobs")
    assert [number for number, _ in seen] == [2, 1]
    assert seen[1][1] >= due
    assert [job.run_at for job in queues.stored(queue)][-1] == FUTURE


def test_jobs_of_another_queue_are_left_alone(queues: Queues) -> None:
    one, other = queues.make(queue="one", pool_size=1), queues.make(queue="other", pool_size=1)
    seen, seen_by_other = note_greetings(one), note_greetings(other)
    for number in range(5):
        one.enqueue(Greet(number))
    other.enqueue(Greet(5))
    eventually(lambda: len(seen) + len(seen_by_other) == 6, "all jobs")
    assert (len(seen), seen_by_other) == (5, [Greet(5)])


# Failures


def test_a_job_that_failed_is_run_again_until_it_succeeds(queues: Queues, log: Any) -> None:
    queue = queues.make(backoff=lambda count: 0.01)
    counts: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        counts.append(ctx.run_count)
        if ctx.run_count < 2:
            raise ValueError("not yet")

    queue.enqueue(Greet(1))
    eventually(lambda: counts and queues.is_empty(queue), "success")
    assert counts == [0, 1, 2]


def test_the_backoff_says_when_a_job_is_run_again(queues: Queues, log: Any) -> None:
    queue = queues.make(backoff=lambda count: 3600.0 * count)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        raise ValueError("no")

    queue.enqueue(Greet(1))
    (job,) = eventually(lambda: [job for job in queues.stored(queue) if job.error_count], "the failure")
    assert job.error_count == 1
    assert 3500 < (job.run_at - datetime.now(timezone.utc)).total_seconds() <= 3600


@pytest.mark.parametrize("delay", [ZeroDivisionError(), float("nan"), float("inf"), -1e30, 1e30, "1"], ids=name_of)
def test_a_backoff_that_is_no_good_costs_neither_the_job_nor_the_worker(queues: Queues, log: Any, delay: Any) -> None:
    def backoff(count: int) -> float:
        if isinstance(delay, Exception):
            raise delay
        return delay  # type: ignore[no-any-return]

    queue = queues.make(pool_size=1, backoff=backoff)
    seen: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        if job.user_id == 1 and ctx.run_count == 0:
            raise ValueError("no")
        seen.append(job.user_id)

    queue.enqueue(Greet(1))
    record_of(log, "job_failed")
    queue.enqueue(Greet(2))
    eventually(lambda: 2 in seen, "the next job")
    eventually(
        lambda: 1 in seen or [job.error_count for job in queues.stored(queue)] == [1], "the retry, done or to be done"
    )


def test_a_failure_is_logged_with_its_cause(queue: Any, log: Any) -> None:
    cause = ValueError("no\nwonder")

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        raise cause

    (job_id,) = queue.enqueue(Greet(1))
    record = record_of(log, "job_failed")
    assert record.levelno == logging.ERROR
    assert f"id={job_id} type=" in record.getMessage()
    assert "ErrJobFuncFailed: ValueError: no wonder" in record.getMessage()
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, jobs.ErrJobFuncFailed)
    assert error.__cause__ is cause


def failing_as_a_plain_function(error: BaseException) -> Any:
    def greet(ctx: jobs.Context, job: Greet) -> None:
        if job.user_id == 0 and ctx.run_count == 0:
            raise error

    return greet


def failing_as_a_coroutine(error: BaseException) -> Any:
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        await asyncio.sleep(0)
        if job.user_id == 0 and ctx.run_count == 0:
            raise error

    return greet


@pytest.mark.parametrize("failing", [failing_as_a_plain_function, failing_as_a_coroutine])
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt(), BaseException("x")],
    ids=name_of,
)
def test_no_exception_whatever_ends_a_worker(queues: Queues, log: Any, failing: Any, error: BaseException) -> None:
    queue = queues.make(pool_size=1, backoff=lambda count: 0.01)
    queue.register_job_func(failing(error))
    queue.enqueue([Greet(0), Greet(1)])
    eventually(lambda: queues.is_empty(queue), "the end of both jobs")
    record_of(log, "job_failed")


class Nameless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no name")


def test_an_exception_that_cant_be_printed_is_a_failure_like_any_other(queues: Queues, log: Any) -> None:
    queue = queues.make(pool_size=1, backoff=lambda count: 0.01)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        if ctx.run_count == 0:
            raise Nameless

    queue.enqueue(Greet(1))
    eventually(lambda: queues.is_empty(queue), "the end of the job")
    assert "Nameless: <its str() raised RuntimeError>" in record_of(log, "job_failed").getMessage()


@pytest.mark.parametrize("kind", ["at", "after"])
def test_a_rescheduled_job_waits_and_has_no_error(queues: Queues, log: Any, kind: str) -> None:
    queue = queues.make()
    counts: list[int] = []
    when: Any = {"at": {"at": FUTURE}, "after": {"after": 0.05}}[kind]

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        counts.append(ctx.run_count)
        if len(counts) == 1:
            raise qg.Reschedule(**when)

    queue.enqueue(Greet(1))
    if kind == "at":
        eventually(lambda: [(j.run_at, j.error_count) for j in queues.stored(queue)] == [(FUTURE, 0)], "the new time")
        assert counts == [0]
    else:
        eventually(lambda: counts and queues.is_empty(queue), "the end of the job")
        assert counts == [0, 0]
    record_of(log, "job_rescheduled")
    assert "job_failed" not in log.text


def test_a_discarded_job_is_gone(queues: Queues, queue: Any, log: Any) -> None:
    counts: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        counts.append(ctx.run_count)
        raise qg.Discard("obsolete")

    queue.enqueue(Greet(1))
    eventually(lambda: counts and queues.is_empty(queue), "the end of the job")
    assert counts == [0]
    assert "obsolete" in record_of(log, "job_discarded").getMessage()
    assert "job_failed" not in log.text


def test_a_payload_that_no_longer_fits_fails_its_job_and_names_the_field(queues: Queues, log: Any) -> None:
    queue = queues.make(pool_size=1, backoff=lambda count: LONG)
    seen: list[Any] = []

    @queue.register_job_func
    def order(ctx: jobs.Context, job: NewOrder) -> None:
        seen.append(job)

    queue.enqueue([OldOrder(1), NewOrder(2)])
    eventually(lambda: seen, "the job that fits")
    assert seen == [NewOrder(2)]
    line = record_of(log, "job_failed").getMessage()
    assert "`customer`" in line or "`client`" in line
    eventually(lambda: [job.error_count for job in queues.stored(queue)] == [1], "the record of it")


# Register and start


def test_a_function_that_comes_after_its_job_and_the_start_works_it(queues: Queues) -> None:
    queue = queues.make(backoff=lambda count: 0.01)

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        swept.set()

    swept = threading.Event()
    queue.start()
    queue.enqueue([Greet(1), Sweep()])
    assert swept.wait(PATIENCE)
    seen = note_greetings(queue)
    eventually(lambda: queues.is_empty(queue), "the end of all jobs")
    assert seen == [Greet(1)]


def test_a_type_has_one_function(queue: Any) -> None:
    seen = note_greetings(queue)

    def another(ctx: jobs.Context, job: Greet) -> None:
        raise AssertionError("this one wasn't registered")

    with pytest.raises(jobs.ErrInvalidJobFunc, match="has a function already") as caught:
        queue.register_job_func(another)
    assert isinstance(caught.value, jobs.ErrRegisterJobFuncFailed)
    queue.enqueue(Greet(1))
    eventually(lambda: seen, "the job")


def without_annotation(ctx: Any, job) -> None:  # type: ignore[no-untyped-def]
    pass


def of_an_int(ctx: jobs.Context, job: int) -> None:
    pass


@pytest.mark.parametrize("bad", [None, 7, Greet, lambda ctx: None, without_annotation, of_an_int], ids=name_of)
def test_what_is_no_job_func_is_refused(queue: Any, bad: Any) -> None:
    with pytest.raises(jobs.ErrInvalidJobFunc):
        queue.register_job_func(bad)
    assert pending(queue) == {}


def test_work_starts_one_interval_after_the_last_registration_or_schedule(queues: Queues) -> None:
    queue = queues.make(poll_interval=LONG)
    begins: list[float] = []

    def expect_a_new_start() -> None:
        begins.append(pending(queue)["start"] - LONG)

    queue.enqueue(Greet(1))
    before = time.monotonic()
    note_greetings(queue)
    expect_a_new_start()

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        pass

    expect_a_new_start()
    queue.schedule("@yearly", Sweep())
    expect_a_new_start()
    moments = [before, *begins, time.monotonic()]
    assert all(one < other for one, other in zip(moments, moments[1:], strict=False))
    assert workers() == []


def test_work_starts_by_itself_and_not_before_the_interval_is_over(queues: Queues) -> None:
    queue = queues.make(poll_interval=0.3)
    queue.enqueue(Greet(1))
    began = time.monotonic()
    seen = note_greetings(queue)
    eventually(lambda: seen, "the job")
    assert time.monotonic() - began >= 0.3


def test_start_starts_at_once_and_may_be_called_twice(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    pool_size = 2
    queue = queues.make(poll_interval=LONG, pool_size=pool_size)
    starts: list[str] = []
    start = threading.Thread.start

    def note_and_start(thread: threading.Thread) -> None:
        starts.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note_and_start)
    seen = note_greetings(queue)
    queue.enqueue(Greet(1))
    queue.start()
    queue.start()
    eventually(lambda: seen, "the job")
    queue.start()
    # The conductor looks for ticks after it has started what there is to start.
    eventually(lambda: "tick" not in pending(queue), "the last start")
    assert len([name for name in starts if name.startswith(("qg-memory-", "qg-worker-"))]) == pool_size
    assert seen == [Greet(1)]


def test_a_queue_that_was_started_before_its_first_function_works(queue: Any) -> None:
    queue.start()
    seen = note_greetings(queue)
    queue.enqueue(Greet(1))
    eventually(lambda: seen, "the job")


def test_registering_disturbs_no_running_job(queues: Queues, gate: Gate) -> None:
    queue = queues.make(pool_size=2)
    seen: list[Any] = []

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        gate.pass_through()
        seen.append((job, ctx.run_count))

    queue.enqueue(Sweep())
    gate.wait_for_somebody()
    greeted = note_greetings(queue)
    queue.enqueue(Greet(1))
    eventually(lambda: greeted, "the job of the new function")
    assert seen == []
    gate.open()
    eventually(lambda: queues.is_empty(queue), "the end of all jobs")
    assert seen == [(Sweep(), 0)]


# Jobs of jobs


@pytest.mark.parametrize(
    "failure", [ValueError("no"), qg.Reschedule(after=0.01), qg.Discard("no"), SystemExit(1)], ids=name_of
)
def test_what_a_function_enqueues_comes_to_be_only_if_it_succeeds(queues: Queues, log: Any, failure: Any) -> None:
    queue = queues.make(pool_size=2, backoff=lambda count: 0.01)
    attempts: list[int] = []

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        attempts.append(len(attempts))
        queue.enqueue([Greet(attempts[-1]), Greet(attempts[-1] + 10)])
        if len(attempts) == 1:
            raise failure

    seen = note_greetings(queue)
    queue.enqueue(Sweep())
    eventually(lambda: attempts and queues.is_empty(queue), "the end of all jobs")
    again = not isinstance(failure, qg.Discard)
    assert sorted(job.user_id for job in seen) == ([1, 11] if again else [])
    assert len(attempts) == 1 + again


def test_what_a_function_enqueues_isnt_there_before_it_has_succeeded(queues: Queues, gate: Gate) -> None:
    queue = queues.make(pool_size=2)

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        queue.enqueue(Greet(1))
        gate.pass_through()

    seen = note_greetings(queue)
    queue.enqueue(Sweep())
    gate.wait_for_somebody()
    assert [job.type.rsplit(".", 1)[1] for job in queues.stored(queue)] == ["Sweep"]
    gate.open()
    eventually(lambda: seen, "the job of the job")


def test_a_coroutine_enqueues_like_a_function(queues: Queues, log: Any) -> None:
    queue = queues.make(pool_size=2, backoff=lambda count: 0.01)

    @queue.register_job_func
    async def sweep(ctx: jobs.Context, job: Sweep) -> None:
        await asyncio.gather(asyncio.to_thread(queue.enqueue, Greet(ctx.run_count)), asyncio.sleep(0))
        if ctx.run_count == 0:
            raise ValueError("no")

    seen = note_greetings(queue)
    queue.enqueue(Sweep())
    eventually(lambda: seen and queues.is_empty(queue), "the end of all jobs")
    assert seen == [Greet(1)]


def test_an_id_given_in_a_function_is_the_id_of_the_job_that_comes_to_be(queue: Any) -> None:
    promised: list[str] = []
    seen: list[str] = []

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        promised.extend(map(str, queue.enqueue([Greet(1), Greet(2)])))

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(ctx.job_id)

    queue.enqueue(Sweep())
    eventually(lambda: len(seen) == 2, "the jobs of the job")
    assert sorted(seen, key=int) == promised


# What surrounds a job


def test_the_user_arrives_and_is_passed_on(queues: Queues, queue: Any) -> None:
    seen: list[Any] = []

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        seen.append(("sweep", ctx.user_id))
        queue.enqueue(Greet(1))

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(("greet", ctx.user_id))

    with jobs.user("u-1"):
        with jobs.user("u-2"):
            queue.enqueue(Sweep())
        queue.enqueue([Greet(2), Greet(3)])
    eventually(lambda: queues.is_empty(queue) and seen, "the end of all jobs")
    assert sorted(seen) == [("greet", "u-1"), ("greet", "u-1"), ("greet", "u-2"), ("sweep", "u-2")]


def test_a_job_of_nobody_has_no_user_even_after_one_that_had(queues: Queues) -> None:
    queue = queues.make(pool_size=1)
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(ctx.user_id)

    with jobs.user("u-1"):
        queue.enqueue(Greet(1))
    queue.enqueue(Greet(2))
    eventually(lambda: len(seen) == 2, "both jobs")
    assert seen == ["u-1", None]


@pytest.mark.parametrize("user", [7, b"u-1", object()], ids=["int", "bytes", "object"])
def test_a_user_that_is_no_string_is_refused_or_arrives(queues: Queues, log: Any, user: Any) -> None:
    queue = queues.make(backoff=lambda count: LONG)
    seen = note_greetings(queue)
    try:
        with jobs.user(user):
            queue.enqueue(Greet(1))
    except (TypeError, ValueError, jobs.ErrEnqueueFailed):
        assert queues.is_empty(queue)
        return
    # Once it is stored, the job must be able to run.
    eventually(lambda: seen or "job_failed" in log.text, "the job")
    assert seen == [Greet(1)]


def test_from_context_gives_the_id_anywhere_below_the_function(queues: Queues, log: Any) -> None:
    seen: list[Any] = []

    def backoff(count: int) -> float:  # called by the worker, after the job
        seen.append(jobs.from_context())
        return LONG

    def deep_down() -> None:
        seen.append(jobs.from_context())
        seen.append(jobs.CTX_JOB_ID.get())

    queue = queues.make(backoff=backoff)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        deep_down()
        raise ValueError("no")

    (job_id,) = queue.enqueue(Greet(1))
    eventually(lambda: len(seen) == 3, "the failure")
    assert seen == [str(job_id), str(job_id), None]
    assert jobs.from_context() is None


def test_from_context_gives_the_id_in_coroutines_tasks_and_their_threads(queue: Any) -> None:
    seen: list[Any] = []

    async def deep_down() -> None:
        await asyncio.sleep(0)
        seen.append(jobs.from_context())

    @queue.register_job_func
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        await deep_down()
        await asyncio.gather(deep_down(), deep_down())
        seen.append(await asyncio.to_thread(jobs.from_context))

    (job_id,) = queue.enqueue(Greet(1))
    eventually(lambda: len(seen) == 4, "the job")
    assert seen == [str(job_id)] * 4


def test_what_one_job_sets_in_its_context_the_next_one_doesnt_see(queues: Queues) -> None:
    queue = queues.make(pool_size=1)
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(LANGUAGE.get())
        LANGUAGE.set("German")

    queue.enqueue([Greet(1), Greet(2)])
    eventually(lambda: len(seen) == 2, "both jobs")
    assert seen == ["English", "English"]


def test_the_logger_adds_the_id_and_the_type(queue: Any, log: Any) -> None:
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        ctx.logger.info("greeting %s of %d%%", "all", 100, extra={"mine": 1})

    (job_id,) = queue.enqueue(Greet(1))
    record: Any = record_of(log, "greeting")
    job_type = f"{Greet.__module__}.Greet"
    assert record.getMessage() == f"greeting all of 100% job_id={job_id} job_type={job_type}"
    assert (record.job_id, record.job_type, record.mine) == (job_id, job_type, 1)


@pytest.mark.parametrize("args", [(), ("there",)], ids=["without arguments", "with arguments"])
def test_the_logger_writes_a_type_with_a_percent_sign_as_it_is(queue: Any, log: Any, args: tuple[str, ...]) -> None:
    @queue.register_job_func
    def discount(ctx: jobs.Context, job: Discount) -> None:
        ctx.logger.info("hello" + " %s" * len(args), *args)

    (job_id,) = queue.enqueue(Discount())
    line = record_of(log, "hello").getMessage()
    assert line == " ".join(["hello", *args, f"job_id={job_id}", "job_type=50%s off"])


# Schedule


def test_a_schedule_ticks_and_declared_twice_is_one(queues: Queues) -> None:
    queue = queues.make()
    seen: list[Any] = []

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        seen.append((job, datetime.now(timezone.utc)))

    began = datetime.now(timezone.utc)
    queue.schedule("@every 1s", Sweep(("hall",)))
    queue.schedule(" @every  1s ", Sweep(("hall",)))
    assert queues.schedules(queue) == 1
    eventually(lambda: len(seen) >= 2, "two ticks")
    assert {job for job, _ in seen} == {Sweep(("hall",))}
    # Ticks fall on whole seconds; had each of the two declarations ticked, both would fall on the first.
    assert (seen[1][1] - began).total_seconds() >= 1.0


def test_another_spec_or_payload_is_another_schedule(queues: Queues, queue: Any) -> None:
    queue.schedule("@yearly", Sweep())
    queue.schedule("@yearly", Sweep(("hall",)))
    queue.schedule("@yearly", Greet())
    queue.schedule("@monthly", Sweep())
    assert queues.schedules(queue) == 4


@pytest.mark.parametrize(
    ("spec", "job"),
    [
        ("", Sweep()),
        ("* * * *", Sweep()),
        ("61 * * * *", Sweep()),
        ("0 0 30 2 *", Sweep()),
        ("@every 0.5s", Sweep()),
        ("@every", Sweep()),
        ("@reboot", Sweep()),
        ("CRON_TZ=Nowhere/Else * * * * *", Sweep()),
        (None, Sweep()),
        (5, Sweep()),
        ("@daily", None),
        ("@daily", "sweep"),
        ("@daily", Sweep),
        ("@daily", [Sweep()]),
        ("@daily", LoopHole(object())),
    ],
    ids=name_of,
)
def test_a_schedule_that_cant_be_is_refused_and_not_recorded(queues: Queues, queue: Any, spec: Any, job: Any) -> None:
    with pytest.raises(jobs.ErrScheduleFailed):
        queue.schedule(spec, job)
    assert queues.schedules(queue) == 0
    assert pending(queue) == {}


# Shutdown


def is_shut_down(queue: Any) -> bool:
    try:
        queue.start()
    except jobs.ErrStartFailed:
        return True
    return False


def test_shutdown_waits_for_the_running_job(queues: Queues, queue: Any, gate: Gate) -> None:
    ended: list[str] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        gate.pass_through()
        eventually(lambda: is_shut_down(queue), "the call of shutdown()")
        threading.Event().wait(0.1)
        ended.append("the job")

    queue.enqueue(Greet(1))
    gate.wait_for_somebody()
    gate.open()
    assert queue.shutdown() is True
    assert ended == ["the job"]
    assert queues.is_empty(queue)


def test_shutdown_with_a_timeout_gives_up_and_names_the_job(queues: Queues, queue: Any, gate: Gate, log: Any) -> None:
    ended: list[str] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        gate.pass_through()
        ended.append("the job")

    (job_id,) = queue.enqueue(Greet(1))
    gate.wait_for_somebody()
    assert queue.shutdown(0.05) is False
    assert queue.shutdown(timeout=0) is False
    assert f"still_running id={job_id} type={Greet.__module__}.Greet" in log.text
    gate.open()
    assert queue.shutdown(PATIENCE) is True
    assert ended == ["the job"]
    assert queues.is_empty(queue)
    assert "job_failed" not in log.text


def test_shutdown_while_the_workers_are_being_started_knows_of_a_job_that_runs(
    queues: Queues, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queues.make(pool_size=1)
    start, all_started = threading.Thread.start, threading.Event()

    def start_and_dawdle(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith(("qg-memory", "qg-worker")):
            all_started.wait(0.3)  # no longer: shutdown() may wait for it

    monkeypatch.setattr(threading.Thread, "start", start_and_dawdle)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        gate.pass_through()

    queue.enqueue(Greet(1))
    gate.wait_for_somebody()
    try:
        assert queue.shutdown(0) is False
    finally:
        all_started.set()
        gate.open()
    assert queue.shutdown(PATIENCE) is True
    assert queues.is_empty(queue)


def test_shutdown_takes_no_new_job(queues: Queues, gate: Gate) -> None:
    queue = queues.make(pool_size=1)
    seen: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job.user_id)
        gate.pass_through()

    queue.enqueue([Greet(1), Greet(2)])
    gate.wait_for_somebody()
    assert queue.shutdown(0) is False
    gate.open()
    assert queue.shutdown() is True
    assert seen == [1]
    assert len(queues.stored(queue)) == 1


def test_shutdown_may_be_called_twice_and_before_anything_began(queues: Queues) -> None:
    queue = queues.make(poll_interval=LONG)
    note_greetings(queue)
    assert queue.shutdown() is True
    assert queue.shutdown(1) is True
    assert queues.make().shutdown() is True


def test_several_threads_may_shut_down_at_once(queue: Any) -> None:
    seen = note_greetings(queue)
    queue.enqueue(Greet(1))
    eventually(lambda: seen, "the job")
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(queue.shutdown(PATIENCE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_shutdown_in_a_function_doesnt_wait_for_itself(queues: Queues, queue: Any, log: Any, kind: str) -> None:
    results: list[bool] = []

    def plain(ctx: jobs.Context, job: Greet) -> None:
        results.append(queue.shutdown())

    async def coroutine(ctx: jobs.Context, job: Greet) -> None:
        results.append(queue.shutdown())

    queue.register_job_func(plain if kind == "plain" else coroutine)
    queue.enqueue(Greet(1))
    eventually(lambda: results and queues.is_empty(queue), "the end of the job")
    assert results == [False]
    assert queue.shutdown(PATIENCE) is True
    assert "job_failed" not in log.text


@pytest.mark.parametrize("own_backoff", [False, True], ids=["own client", "given client"])
def test_after_shutdown_nothing_new_is_taken(queues: Queues, own_backoff: bool) -> None:
    queue = queues.make(**({"backoff": lambda count: 1.0} if own_backoff else {}))
    note_greetings(queue)
    queue.shutdown()

    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        pass

    with pytest.raises(jobs.ErrRegisterJobFuncFailed):
        queue.register_job_func(sweep)
    with pytest.raises(jobs.ErrScheduleFailed):
        queue.schedule("@daily", Sweep())
    with pytest.raises(jobs.ErrStartFailed):
        queue.start()
    with pytest.raises(jobs.ErrEnqueueFailed):
        queue.enqueue(Greet(1))
    with pytest.raises(jobs.ErrEnqueueFailed):
        queue.enqueue([Greet(1), Greet(2)])
    assert queues.is_empty(queue)
    assert queues.schedules(queue) == 0


def test_a_function_that_runs_on_after_shutdown_can_still_enqueue(queues: Queues, gate: Gate, log: Any) -> None:
    # Another worker might just have been looking for a job when it was asked to stop.
    queue = queues.make(pool_size=1)

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        gate.pass_through()
        queue.enqueue([Greet(1), Greet(2)])

    queue.enqueue(Sweep())
    gate.wait_for_somebody()
    assert queue.shutdown(0) is False
    gate.open()
    assert queue.shutdown(PATIENCE) is True
    assert [job.type.rsplit(".", 1)[1] for job in queues.stored(queue)] == ["Greet", "Greet"]
    assert "job_failed" not in log.text


def test_a_with_block_shuts_down_at_its_end(queues: Queues) -> None:
    with queues.make() as queue:
        seen = note_greetings(queue)
        queue.enqueue(Greet(1))
        eventually(lambda: seen, "the job")
    with pytest.raises(jobs.ErrStartFailed):
        queue.start()


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"queue": None},
        {"queue": 5},
        {"queue": "a\x00b"},
        {"queue": "\ud800"},
        {"poll_interval": -1},
        {"poll_interval": float("nan")},
        {"poll_interval": float("inf")},
        {"poll_interval": "1"},
        {"poll_interval": None},
        {"poll_interval": True},
        {"pool_size": 0},
        {"pool_size": -1},
        {"pool_size": True},
        {"pool_size": "2"},
        {"pool_size": 2.0},
        {"pool_size": None},
        {"poll_strategy": "x"},
        {"poll_strategy": None},
    ],
    ids=name_of,
)
def test_an_option_of_a_queue_out_of_bounds_is_refused(queues: Queues, options: Any) -> None:
    with pytest.raises(jobs.ErrInvalidQueueOpt) as caught:
        queues.make(**options)
    assert isinstance(caught.value, qg.ErrInvalidOption)
    assert next(iter(options)).removeprefix("poll_").removeprefix("pool_") in str(caught.value)


@pytest.mark.parametrize("bad", [{"backoff": 3}, {"logger": "root"}], ids=name_of)
def test_a_backoff_or_logger_that_is_none_is_refused(queues: Queues, bad: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption):
        queues.make(**bad)


def test_both_kinds_are_queues(queue: Any) -> None:
    assert isinstance(queue, jobs.Queue)
    assert isinstance(queue, jobs.Enqueuer)
    assert isinstance(queue, jobs.Scheduler)
