"""Middleware and hooks of queues of qg.jobs, in PostgreSQL and in memory."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from support import Database, eventually

import qg
from qg import jobs

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@dataclass(frozen=True)
class Greet:
    user_id: int = 0


@dataclass(frozen=True)
class Report:
    job_id: int


Make = Callable[..., Any]


@pytest.fixture(params=["postgres", "memory"])
def make(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Make]:
    """A function that makes a queue of one kind."""
    caplog.set_level(logging.INFO, logger="qg")
    made: list[Any] = []

    def make(**hooks: Any) -> Any:
        if request.param == "postgres":
            database = request.getfixturevalue("jobs_database")
            made.append(jobs.PostgresJobs(database.dsn, poll_interval=0.02, pool_size=2, **hooks))
        else:
            made.append(jobs.MemoryQueue(poll_interval=0.02, pool_size=2, **hooks))
        return made[-1]

    yield make
    for queue in made:
        assert queue.shutdown(10)


def work(queue: Any, function: Any, until: Callable[[], Any], **options: Any) -> None:
    """Let *queue* work one job until something is so."""
    queue.register_job_func(function, **options)
    queue.enqueue(Greet(7))
    eventually(until)
    assert queue.shutdown(10)


def fail(ctx: jobs.Context, job: Greet) -> None:
    raise LookupError("no")


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_middleware_goes_around_the_function_in_its_context(make: Make, kind: str) -> None:
    seen: list[object] = []

    def noting(name: str) -> Any:
        def middleware(job: qg.Job, call: Callable[[], None]) -> None:
            seen.append((name, job.id, job.type.rpartition(".")[2], jobs.from_context(), WHO.get()))
            WHO.set(name)
            call()
            seen.append(f"{name} again")

        return middleware

    def plain(ctx: jobs.Context, job: Greet) -> None:
        seen.append((WHO.get(), job))

    async def coroutine(ctx: jobs.Context, job: Greet) -> None:
        seen.append((WHO.get(), job))

    queue = make(middleware=[noting("outer"), noting("inner")])
    work(queue, plain if kind == "plain" else coroutine, lambda: "outer again" in seen)
    assert seen == [
        ("outer", 1, "Greet", "1", "nobody"),
        ("inner", 1, "Greet", "1", "outer"),
        ("inner", Greet(7)),
        "inner again",
        "outer again",
    ]


def test_what_a_middleware_raises_is_the_jobs_error_and_nothing_that_the_function_enqueued_stays(make: Make) -> None:
    told: list[object] = []
    begun: list[object] = []

    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        call()
        raise OSError("after all")

    def greet(ctx: jobs.Context, job: Greet) -> None:
        queue.enqueue(Report(1))

    queue = make(middleware=[middleware], on_error=lambda job, error, will_retry: told.append((str(error), will_retry)))

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        begun.append(job)

    work(queue, greet, lambda: told)
    assert told == [("after all", True)]
    assert begun == []


def test_a_middleware_that_calls_nothing_is_an_error(make: Make) -> None:
    told: list[BaseException] = []
    queue = make(middleware=[lambda job, call: None], on_error=lambda job, error, will_retry: told.append(error))
    work(queue, fail, lambda: told)
    assert isinstance(told[0], qg.ErrMiddleware)
    assert "has returned without having called call()" in str(told[0])


def test_a_middleware_may_swallow_and_drop_and_put_off(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []

    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        with suppress(LookupError):
            call()
        if job.id == 2:
            raise qg.Discard("enough")
        if job.id == 3:
            raise qg.Reschedule(after=60)

    queue = make(middleware=[middleware], on_error=lambda *given: told.append(given))
    queue.register_job_func(fail)
    queue.enqueue([Greet(1), Greet(2), Greet(3)])
    for event in ("job_worked id=1", "job_discarded id=2", "job_rescheduled id=3"):
        eventually(lambda event=event: event in caplog.text)
    assert told == []


def test_hooks_are_told_what_the_function_raised_once_that_is_recorded(make: Make) -> None:
    told: list[object] = []

    def on_error(job: qg.Job, error: BaseException, will_retry: bool) -> None:
        told.append((job.id, job.error_count, type(error), str(error), will_retry))

    def on_expired(job: qg.Job) -> None:
        told.append(job.type.rpartition(".")[2])

    queue = make(on_error=on_error, on_expired=on_expired)
    work(queue, fail, lambda: "Greet" in told, retry=qg.retry(maximum_retry_count=1, backoff=lambda errors: 0))
    assert [each[2:] if isinstance(each, tuple) else each for each in told] == [
        (LookupError, "no", True),
        (LookupError, "no", False),
        "Greet",
    ]
    assert told[0][:2] == (1, 1)  # type: ignore[index]


def test_a_hook_that_raises_is_logged_and_the_queue_goes_on(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*given: object) -> None:
        raise SystemExit("hook")

    queue = make(on_error=broken, on_expired=broken)
    queue.register_job_func(fail, retry=qg.retry(maximum_retry_count=0))
    queue.enqueue([Greet(1), Greet(2)])
    for number in (1, 2):
        for hook in ("on_error", "on_expired"):
            eventually(lambda line=f"hook_failed hook={hook} id={number} type=": line in caplog.text)


def test_a_hook_may_enqueue(make: Make) -> None:
    reported: list[Report] = []
    queue = make(on_expired=lambda job: queue.enqueue(Report(job.id)))

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        reported.append(job)

    work(queue, fail, lambda: reported, retry=qg.retry(give_up_on=LookupError))
    assert reported == [Report(1)]


def test_an_attempt_that_a_middleware_failed_is_in_the_history(jobs_database: Database) -> None:
    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        raise OSError("before all")

    with jobs.PostgresJobs(jobs_database.dsn, poll_interval=0.02, pool_size=1, middleware=[middleware]) as queue:
        queue.register_job_func(fail)
        queue.enqueue(Greet(7))
        rows = "SELECT run_error FROM qg_jobs_history"
        ((error,),) = eventually(lambda: jobs_database.query(rows))
    assert "OSError: before all" in error


def test_a_middleware_may_write_in_the_transaction_of_the_function(jobs_database: Database) -> None:
    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        with job.tx.cursor() as cur:
            cur.execute("INSERT INTO noted VALUES ('middleware')")
        call()

    def greet(ctx: jobs.Context, job: Greet) -> None:
        with ctx.tx.cursor() as cur:
            cur.execute("INSERT INTO noted VALUES ('function')")

    jobs_database.query("CREATE TABLE noted (by text)")
    try:
        with jobs.PostgresJobs(jobs_database.dsn, poll_interval=0.02, pool_size=1, middleware=[middleware]) as queue:
            work(queue, greet, lambda: jobs_database.query("SELECT success FROM qg_jobs_history") == [(True,)])
        assert jobs_database.query("SELECT by FROM noted") == [("middleware",), ("function",)]
        assert jobs_database.count() == 0
    finally:
        jobs_database.query("DROP TABLE noted")


def test_hooks_that_can_not_be_are_refused(make: Make) -> None:
    with pytest.raises(jobs.ErrInvalidQueueOpt, match="middleware must be a list of functions"):
        make(middleware=print)
    with pytest.raises(jobs.ErrInvalidQueueOpt, match="on_expired must be a function"):
        make(on_expired=5)
