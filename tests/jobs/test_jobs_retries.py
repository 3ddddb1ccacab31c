"""How often and how soon the jobs of qg.jobs are tried again, in PostgreSQL and in memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from insides import store_of
from support import VERSION, Database, eventually

import qg
from qg import jobs
from qg.control import Control, Filter

EXPIRED = "run_at > now() + interval '99 years'" if VERSION == 3 else "expired_at IS NOT NULL"


@dataclass(frozen=True)
class Greet:
    user_id: int = 0


class World:
    """A queue of one kind, and how its jobs stand."""

    def __init__(self, queue: Any, database: Database | None) -> None:
        self.queue = queue
        self._database = database

    def given_up(self, log: pytest.LogCaptureFixture) -> list[int]:
        """The error counts of the jobs that were given up."""
        if self._database is None:
            rows = store_of(self.queue).rows()
            lines = [each.getMessage() for each in log.records if each.getMessage().startswith("job_expired")]
            return [] if rows else [int(line.split("error_count=")[1].split(":")[0]) for line in lines]
        return [count for (count,) in self._database.query(f"SELECT error_count FROM que_jobs WHERE {EXPIRED}")]

    def failed(self) -> list[int]:
        """The error counts of the jobs that wait after they have failed."""
        if self._database is None:
            return [row.error_count for row in store_of(self.queue).rows() if row.error_count]
        return [count for (count,) in self._database.query("SELECT error_count FROM que_jobs WHERE error_count > 0")]


@pytest.fixture(params=["postgres", "memory"])
def world(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    caplog.set_level(logging.INFO, logger="qg")
    if request.param == "postgres":
        database = request.getfixturevalue("jobs_database")
        with jobs.PostgresJobs(database.dsn, poll_interval=0.02, pool_size=2) as queue:
            yield World(queue, database)
    else:
        with jobs.MemoryQueue(poll_interval=0.02, pool_size=2) as queue:
            yield World(queue, None)


def fail(ctx: jobs.Context, job: Greet) -> None:
    raise LookupError("no")


async def fail_later(ctx: jobs.Context, job: Greet) -> None:
    raise LookupError("no")


def decorated(queue: Any, function: Any) -> None:
    def greet(ctx: jobs.Context, job: Greet) -> object:
        return function(ctx, job)

    queue.register_job_func(qg.retry(maximum_retry_count=1, backoff=lambda errors: 0)(greet))


def decorated_afterwards(queue: Any, function: Any) -> None:
    @qg.retry(maximum_retry_count=1, backoff=lambda errors: 0)
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> object:
        return function(ctx, job)


def registered(queue: Any, function: Any) -> None:
    assert queue.register_job_func(function, retry=qg.retry(maximum_retry_count=1, backoff=lambda errors: 0))


def registered_by_a_decorator(queue: Any, function: Any) -> None:
    @queue.register_job_func(retry=qg.retry(maximum_retry_count=1, backoff=lambda errors: 0))
    @qg.retry(maximum_retry_count=math.inf, backoff=lambda errors: 1000)  # the other one comes first
    def greet(ctx: jobs.Context, job: Greet) -> object:
        return function(ctx, job)


@pytest.mark.parametrize("function", [fail, fail_later])
@pytest.mark.parametrize("register", [decorated, decorated_afterwards, registered, registered_by_a_decorator])
def test_after_its_last_retry_a_job_is_given_up(
    world: World, caplog: pytest.LogCaptureFixture, register: Callable[[Any, Any], None], function: Any
) -> None:
    register(world.queue, function)
    world.queue.enqueue(Greet(1))
    assert eventually(lambda: world.given_up(caplog)) == [2]


def test_an_error_that_is_no_use_trying_again_gives_up_at_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.queue.register_job_func(fail, retry=qg.retry(give_up_on=LookupError))
    world.queue.enqueue(Greet(1))
    assert eventually(lambda: world.given_up(caplog)) == [1]


def test_the_functions_backoff_comes_before_the_queues(world: World, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[int] = []

    def backoff(errors: int) -> float:
        asked.append(errors)
        return 3600

    world.queue.register_job_func(fail, retry=qg.retry(backoff=backoff))
    world.queue.enqueue(Greet(1))
    assert eventually(world.failed) == [1]
    assert asked == [1]
    assert world.given_up(caplog) == []


def test_what_was_given_up_comes_back_and_has_its_history(jobs_database: Database) -> None:
    mended: list[int] = []

    def greet(ctx: jobs.Context, job: Greet) -> None:
        if not mended:
            raise LookupError("no")

    with (
        jobs.PostgresJobs(jobs_database.dsn, poll_interval=0.02, pool_size=2) as queue,
        Control(jobs_database.dsn) as control,
    ):
        queue.register_job_func(greet, retry=qg.retry(give_up_on=LookupError))
        queue.enqueue(Greet(1))
        eventually(lambda: control.jobs(Filter(state="expired")).jobs)
        mended.append(1)
        eventually(lambda: control.retry(Filter(state="expired")).count == 1)
        eventually(lambda: jobs_database.count() == 0)
    assert jobs_database.query("SELECT success, run_count FROM qg_jobs_history ORDER BY id") == [(False, 0), (True, 0)]


def test_a_policy_that_is_none_is_refused_before_anything_is_registered() -> None:
    with jobs.MemoryQueue() as queue:
        for bad in (5, {"maximum_retry_count": 5}, qg.retry):
            with pytest.raises(jobs.ErrInvalidJobFunc, match=r"retry must be what qg.retry\(\) returns, not"):
                queue.register_job_func(fail, retry=bad)
        queue.register_job_func(fail)
        with pytest.raises(jobs.ErrInvalidJobFunc, match="must be a function"):
            queue.register_job_func()


def test_queues_that_run_nothing_take_policies_too() -> None:
    policy = qg.retry(maximum_retry_count=1)
    for queue in (jobs.NoopQueue(), jobs.TestQueue()):
        assert queue.register_job_func(retry=policy)(fail) is fail
    assert jobs.NoopQueue().register_job_func(fail, retry=policy) is fail
    assert jobs.NoopQueue().register_job_func(fail) is fail
