"""TestQueue: what tests of code that enqueues can look at, and the fixture that gives it to them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from insides import pending
from support import run_pytest

from qg import jobs

FUTURE = datetime(2999, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Greet:
    user_id: int = 0


@dataclass(frozen=True)
class Sweep:
    rooms: tuple[str, ...] = ()


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Cart:
    things: list[str]


@dataclass(frozen=True)
class Old:
    @staticmethod
    def job_type() -> str:
        return "shared"


@dataclass(frozen=True)
class New:
    @staticmethod
    def job_type() -> str:
        return "shared"


ALL = [Greet(1), Sweep(("hall",)), Greet(2), Point(3, 4)]


@pytest.fixture
def filled(job_queue: jobs.TestQueue) -> jobs.TestQueue:
    job_queue.enqueue(ALL)
    return job_queue


# Looking at the jobs


def test_jobs_come_in_the_order_in_which_they_were_enqueued(job_queue: jobs.TestQueue) -> None:
    job_queue.enqueue(Greet(1), priority=9, run_at=FUTURE)
    job_queue.enqueue([Greet(2), Sweep()], priority=-9)
    job_queue.enqueue(Greet(3), run_at=FUTURE - timedelta(days=1))
    assert job_queue.jobs() == [Greet(1), Greet(2), Sweep(), Greet(3)]


def test_enqueue_returns_ids_in_order(job_queue: jobs.TestQueue) -> None:
    assert [job_queue.enqueue(Greet(1)), job_queue.enqueue([Greet(2), Sweep()])] == [[1], [2, 3]]


def test_positions_count_from_1(filled: jobs.TestQueue) -> None:
    assert [filled.get(pos) for pos in (1, 2, 3, 4)] == ALL
    assert filled.get_first() == Greet(1)


@pytest.mark.parametrize("pos", [0, -1, -4, 5, 10**30])
def test_a_position_that_isnt_there_gives_none(filled: jobs.TestQueue, pos: int) -> None:
    assert filled.get(pos) is None
    assert filled.get_of(Greet, pos) is None


def test_positions_of_a_type_count_that_type_alone(filled: jobs.TestQueue) -> None:
    assert [filled.get_of(Greet, pos) for pos in (1, 2, 3)] == [Greet(1), Greet(2), None]
    assert [filled.get_of(Greet(99), pos) for pos in (1, 2, 3)] == [Greet(1), Greet(2), None]
    assert filled.get_of(Point, 1) == filled.get_first_of(Point(0, 0)) == Point(3, 4)
    assert filled.get_first_of(Sweep) == Sweep(("hall",))
    assert filled.get_first_of(Cart) is None


def test_an_empty_queue_gives_none(job_queue: jobs.TestQueue) -> None:
    assert job_queue.jobs() == []
    assert job_queue.get_first() is None
    assert job_queue.get(1) is None
    assert job_queue.get_of(Greet, 1) is None
    assert job_queue.get_first_of(Greet(1)) is None


def test_looking_takes_nothing_out(filled: jobs.TestQueue) -> None:
    for _ in range(2):
        assert filled.get_first() == Greet(1)
        assert filled.get_first_of(Sweep) == Sweep(("hall",))
        assert filled.jobs() == ALL
    filled.jobs().clear()
    assert filled.total(4)


def test_what_is_kept_is_what_was_enqueued_and_not_what_became_of_it(job_queue: jobs.TestQueue) -> None:
    cart = Cart(["apple"])
    job_queue.enqueue(cart)
    cart.things.append("stolen")
    job_queue.get_first().things.append("put in")
    assert job_queue.jobs() == [Cart(["apple"])]


def test_two_classes_of_one_job_type_are_one_type(job_queue: jobs.TestQueue) -> None:
    job_queue.enqueue(Old())
    assert job_queue.contains(New)
    assert job_queue.get_first_of(New) is not None


def test_each_job_comes_back_as_its_own_class(job_queue: jobs.TestQueue) -> None:
    job_queue.enqueue(Old())
    job_queue.enqueue(New())
    assert [type(job) for job in job_queue.jobs()] == [Old, New]


# Assertions


def test_assertions_that_hold_return_true(job_queue: jobs.TestQueue) -> None:
    assert job_queue.empty() is True
    assert job_queue.total(0) is True
    assert job_queue.not_contains(Greet) is True
    job_queue.enqueue(ALL)
    assert job_queue.not_empty() is True
    assert job_queue.total(4) is True
    assert job_queue.contains(Greet) is True
    assert job_queue.contains(Greet(99)) is True
    assert job_queue.contains(Point(0, 0)) is True
    assert job_queue.not_contains(Cart) is True
    assert job_queue.not_contains(Cart([])) is True


def failing(queue: jobs.TestQueue, message: str) -> list[Any]:
    """Assertions that don't hold on a queue that is empty, or has a Greet and a Sweep; and what they say."""
    if not queue.jobs():
        return [
            (lambda: queue.not_empty(message), "the queue is empty"),
            (lambda: queue.total(1, message), "the queue has 0 jobs instead of 1"),
            (lambda: queue.contains(Greet, message), f"the queue has no job of type {__name__}.Greet"),
            (lambda: queue.contains(Greet(1), message), f"the queue has no job of type {__name__}.Greet"),
        ]
    return [
        (lambda: queue.empty(message), "the queue isn't empty, it has 2 jobs"),
        (lambda: queue.total(1, message), "the queue has 2 jobs instead of 1"),
        (lambda: queue.contains(Point, message), f"the queue has no job of type {__name__}.Point"),
        (lambda: queue.not_contains(Greet, message), f"the queue has a job of type {__name__}.Greet"),
        (lambda: queue.not_contains(Greet(99), message), f"the queue has a job of type {__name__}.Greet"),
    ]


@pytest.mark.parametrize("message", ["", "after the order"])
@pytest.mark.parametrize("content", [[], [Greet(1), Sweep()]], ids=["empty", "filled"])
def test_an_assertion_that_doesnt_hold_raises_and_says_why(
    job_queue: jobs.TestQueue, content: list[Any], message: str
) -> None:
    if content:
        job_queue.enqueue(content)
    for assertion, why in failing(job_queue, message):
        with pytest.raises(AssertionError) as caught:
            assertion()
        assert str(caught.value) == (f"{message}: {why}" if message else why)


@pytest.mark.parametrize("content", [[], [Greet(1), Sweep()]], ids=["empty", "filled"])
def test_with_on_failure_that_is_told_and_false_returned(content: list[Any]) -> None:
    told: list[str] = []
    with jobs.TestQueue(on_failure=told.append) as queue:
        if content:
            queue.enqueue(content)
        expected = []
        for assertion, why in failing(queue, "then"):
            assert assertion() is False
            expected.append(f"then: {why}")
        assert told == expected
        assert queue.total(len(content)) is True
        assert told == expected


def test_the_assertions_can_be_used_alone() -> None:
    payloads: list[Any] = []
    told: list[str] = []
    assertions = jobs.TestAssertions(lambda: payloads, told.append)
    assert assertions.empty()
    payloads.append(Greet(1))
    assert assertions.contains(Greet)
    assert assertions.empty() is False
    assert told == ["the queue isn't empty, it has 1 jobs"]


@pytest.mark.parametrize("bad", [None, "Greet", 7, int], ids=repr)
def test_asking_for_what_is_no_payload_is_an_error_of_the_test(job_queue: jobs.TestQueue, bad: Any) -> None:
    for ask in (job_queue.contains, job_queue.not_contains, job_queue.get_first_of):
        with pytest.raises(jobs.ErrInvalidJobType):
            ask(bad)


# It is a queue that does nothing


def never(ctx: jobs.Context, job: Greet) -> None:
    raise AssertionError("a TestQueue runs nothing")


def test_it_is_a_queue_and_no_test(job_queue: jobs.TestQueue) -> None:
    assert isinstance(job_queue, jobs.Queue)
    assert jobs.TestQueue.__test__ is False
    assert jobs.TestAssertions.__test__ is False


def test_it_begins_no_thread_and_keeps_its_jobs(job_queue: jobs.TestQueue) -> None:
    threads = threading.active_count()
    assert job_queue.register_job_func(never) is never
    job_queue.schedule("@every 1s", Greet(2))
    job_queue.start()
    job_queue.enqueue(Greet(1))
    assert threading.active_count() == threads
    assert pending(job_queue) == {}
    assert job_queue.jobs() == [Greet(1)]


def test_it_registers_like_a_real_queue(job_queue: jobs.TestQueue) -> None:
    job_queue.register_job_func(never)
    for bad in (never, None, print):
        with pytest.raises(jobs.ErrInvalidJobFunc):
            job_queue.register_job_func(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [None, "text", 7, Greet, [], [Greet(1), None], {"user_id": 1}], ids=repr)
def test_it_refuses_the_payloads_that_a_real_queue_refuses(job_queue: jobs.TestQueue, bad: Any) -> None:
    with pytest.raises(jobs.ErrInvalidJobType):
        job_queue.enqueue(bad)
    job_queue.empty()


@pytest.mark.parametrize(
    "options",
    [{"priority": 32768}, {"priority": "1"}, {"run_at": datetime(2030, 1, 1)}, {"run_at": 1}],  # noqa: DTZ001
    ids=repr,
)
def test_it_refuses_the_options_that_a_real_queue_refuses(job_queue: jobs.TestQueue, options: Any) -> None:
    with pytest.raises(jobs.ErrInvalidJobOpt):
        job_queue.enqueue(Greet(1), **options)
    job_queue.empty()


@pytest.mark.parametrize(("spec", "job"), [("nonsense", Greet()), ("@daily", None), ("0 0 31 2 *", Greet())])
def test_it_refuses_the_schedules_that_a_real_queue_refuses(job_queue: jobs.TestQueue, spec: str, job: Any) -> None:
    with pytest.raises(jobs.ErrScheduleFailed):
        job_queue.schedule(spec, job)


def test_with_somebodys_transaction_jobs_are_kept_at_once(job_queue: jobs.TestQueue) -> None:
    job_queue.enqueue(Greet(1), tx=object())
    with jobs.transaction(object()):
        job_queue.enqueue(Greet(2))
    assert job_queue.jobs() == [Greet(1), Greet(2)]


def test_its_jobs_can_still_be_looked_at_after_shutdown(filled: jobs.TestQueue) -> None:
    assert filled.shutdown() is True
    assert filled.jobs() == ALL
    with pytest.raises(jobs.ErrEnqueueFailed):
        filled.enqueue(Greet(1))
    with pytest.raises(jobs.ErrRegisterJobFuncFailed):
        filled.register_job_func(never)
    assert filled.total(4)


def test_many_threads_may_enqueue(job_queue: jobs.TestQueue) -> None:
    def enqueue(first: int) -> None:
        for number in range(first, first + 25):
            job_queue.enqueue(Greet(number))

    threads = [threading.Thread(target=enqueue, args=(25 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job.user_id for job in job_queue.jobs()) == list(range(100))


# The fixture


TESTS = """
from dataclasses import dataclass
from qg import jobs

@dataclass
class Greet:
    user_id: int

def test_one(job_queue):
    assert isinstance(job_queue, jobs.TestQueue)
    job_queue.enqueue(Greet(1))
    job_queue.total(1)
    globals()["first"] = job_queue

def test_another_one_has_a_queue_of_its_own(job_queue):
    assert job_queue is not first
    job_queue.empty()

def test_it_was_shut_down():
    assert first._stopped

def test_that_fails(job_queue):
    job_queue.not_empty("no greeting")
"""


def test_the_fixture_is_there_wherever_qg_is_installed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    result = run_pytest(tmp_path)
    assert "AssertionError: no greeting: the queue is empty" in result.stdout, result.stdout + result.stderr
    assert "1 failed, 3 passed" in result.stdout


def test_pytest_tells_what_the_fixture_is(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    result = run_pytest(tmp_path, "--fixtures")
    assert "job_queue -- " in result.stdout
    assert "qg.jobs.TestQueue" in result.stdout
