"""NoopQueue: it takes everything and does nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from support import name_of

from qg import jobs


@dataclass(frozen=True)
class Greet:
    user_id: int


def never(ctx: jobs.Context, job: Greet) -> None:
    raise AssertionError("a NoopQueue runs nothing")


def test_it_is_a_queue() -> None:
    queue = jobs.NoopQueue()
    assert isinstance(queue, jobs.Queue)
    assert isinstance(queue, jobs.Enqueuer)
    assert isinstance(queue, jobs.Scheduler)


@pytest.mark.parametrize("job", [Greet(1), [Greet(1), Greet(2)], [], None, "text", 7, Greet], ids=name_of)
def test_it_forgets_whatever_is_enqueued(job: Any) -> None:
    queue = jobs.NoopQueue()
    assert queue.enqueue(job) == []
    naive = datetime(2030, 1, 1)  # noqa: DTZ001 - a real queue refuses it
    assert queue.enqueue(job, priority=10**6, run_at=naive, tx=object()) == []


@pytest.mark.parametrize("fn", [never, None, 7, print], ids=name_of)
def test_it_returns_whatever_is_registered_and_checks_nothing(fn: Any) -> None:
    queue = jobs.NoopQueue()
    assert queue.register_job_func(fn) is fn
    assert queue.register_job_func(fn) is fn


def test_it_never_runs_anything() -> None:
    threads = threading.active_count()
    with jobs.NoopQueue() as queue:
        queue.register_job_func(never)
        queue.schedule("@every 1s", Greet(1))
        queue.schedule("no spec at all", None)  # type: ignore[arg-type]
        queue.enqueue(Greet(1))
        queue.start()
        queue.start()
        assert threading.active_count() == threads


def test_it_shuts_down_as_often_as_one_likes_and_goes_on() -> None:
    queue = jobs.NoopQueue()
    assert queue.shutdown() is True
    assert queue.shutdown(timeout=0) is True
    assert queue.enqueue(Greet(1)) == []
    queue.start()


def test_a_with_block_gives_it_and_lets_exceptions_pass() -> None:
    queue = jobs.NoopQueue()
    with pytest.raises(ZeroDivisionError), queue as given:
        assert given is queue
        raise ZeroDivisionError
