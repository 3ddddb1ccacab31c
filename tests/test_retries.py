"""qg.retry: how often and how soon a handler's jobs are tried again, when they are given up, and their way back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
from support import ID, VERSION, Database
from taking import do_nothing, each_way, fail, first_lines, work

import qg
from qg.backoff import MAX_SECONDS, exponential
from qg.control import Control, Filter
from qg.retries import policy_of

EXPIRED = "run_at > now() + interval '99 years'" if VERSION == 3 else "expired_at IS NOT NULL"


def states(database: Database) -> list[tuple[Any, ...]]:
    """Of each job how often it has failed, and whether it was given up."""
    return database.query(f"SELECT error_count, {EXPIRED} FROM que_jobs ORDER BY {ID}")


def waits(database: Database) -> float:
    """In how many seconds the only job is run again."""
    return float(database.value("SELECT extract(epoch FROM run_at - now()) FROM que_jobs"))


@each_way
def test_after_its_last_retry_a_job_is_given_up(client: qg.Client, database: Database, way: str) -> None:
    handler = qg.retry(maximum_retry_count=2, backoff=lambda errors: 0)(functools.partial(fail))
    for _ in range(2):
        client.enqueue(qg.Job("MyJob"))
    work(client, way, handler)
    assert states(database) == [(3, True)] * 2
    assert [line for _, _, line in first_lines(database)] == [f"LookupError: no {number}" for number in (1, 2)]


@each_way
def test_the_handlers_backoff_comes_before_the_clients(dsn: str, database: Database, way: str) -> None:
    @qg.retry(backoff=lambda errors: 1000.0 * errors)
    def handler(job: qg.Job) -> None:
        raise LookupError

    with qg.Client(dsn, backoff=lambda errors: 5.0, maximum_retry_count=1) as client:
        client.enqueue(qg.Job("MyJob"))
        work(client, way, handler)
        assert 900 < waits(database) <= 1000
        database.query("UPDATE que_jobs SET run_at = now()")
        work(client, way, handler)  # how often is still the client's to say
    assert states(database) == [(2, True)]


def test_a_policy_may_allow_more_retries_than_the_client(dsn: str, database: Database) -> None:
    @qg.retry(maximum_retry_count=math.inf)
    def handler(job: qg.Job) -> None:
        raise LookupError

    with qg.Client(dsn, backoff=lambda errors: 7.0, maximum_retry_count=0) as client:
        client.enqueue(qg.Job("MyJob"))
        work(client, "work", handler)
        assert 0 < waits(database) <= 7
    assert states(database) == [(1, False)]


class TooOld(ValueError):
    """One of those below."""


@each_way
@pytest.mark.parametrize(
    ("error", "given_up"), [(TooOld, True), (ValueError, True), (OSError, True), (KeyError, False)]
)
def test_some_errors_are_no_use_trying_again(
    client: qg.Client, database: Database, way: str, error: type[Exception], given_up: bool
) -> None:
    @qg.retry(give_up_on=(ValueError, OSError))
    def handler(job: qg.Job) -> None:
        raise error("no use")

    client.enqueue(qg.Job("MyJob"))
    work(client, way, handler)
    assert states(database) == [(1, given_up)]


@each_way
def test_what_a_handler_records_itself_follows_its_policy_too(client: qg.Client, database: Database, way: str) -> None:
    @qg.retry(maximum_retry_count=0)
    def handler(job: qg.Job) -> None:
        job.error("out of paper")

    client.enqueue(qg.Job("MyJob"))
    work(client, way, handler)
    assert states(database) == [(1, True)]
    assert first_lines(database) == [(1, 1, "out of paper")]


def test_a_job_class_that_does_more_in_error_is_asked_before_the_job_is_given_up(dsn: str, database: Database) -> None:
    told: list[str] = []

    class Told(qg.Job):
        def error(self, message: str) -> None:
            told.append(message.split("\n")[0])
            super().error(message)

    with qg.Client(dsn, job_class=Told) as client:
        client.enqueue(qg.Job("MyJob"))
        work(client, "work", qg.retry(give_up_on=LookupError)(functools.partial(fail)))
    assert told == ["LookupError: no 1"]
    assert states(database) == [(1, True)]


def test_a_verdict_counts_for_no_policy(client: qg.Client, database: Database) -> None:
    @qg.retry(maximum_retry_count=0, give_up_on=Exception)
    def handler(job: qg.Job) -> None:
        raise qg.Reschedule(after=60) if job.args else qg.Discard

    client.enqueue(qg.Job("MyJob", [1]))
    client.enqueue(qg.Job("MyJob"))
    work(client, "work", handler)
    assert states(database) == [(0, False)]


@each_way
def test_an_error_that_is_recorded_on_a_new_session_follows_the_policy(
    client: qg.Client, database: Database, way: str
) -> None:
    @qg.retry(give_up_on=LookupError)
    def handler(job: qg.Job) -> None:
        database.terminate(job.conn.info.backend_pid)
        raise LookupError

    client.enqueue(qg.Job("MyJob"))
    work(client, way, handler)
    assert states(database) == [(1, True)]


# The way back


@each_way
def test_what_was_given_up_is_found_and_comes_back_as_if_it_had_never_failed(
    client: qg.Client, dsn: str, database: Database, way: str
) -> None:
    client.enqueue(qg.Job("MyJob"))
    work(client, way, qg.retry(maximum_retry_count=0)(functools.partial(fail)))
    with Control(dsn) as control:
        (job,) = control.jobs(Filter(state="expired")).jobs
        assert (job.id, job.error_count) == (1, 1)
        assert control.retry(Filter(state="expired")).ids == (1,)
        assert control.jobs(Filter(state="expired")).jobs == ()
    assert states(database) == [(0, False)]
    work(client, way, do_nothing)
    assert database.count() == 0


# What can be marked


@qg.retry(maximum_retry_count=7)
def plain(job: qg.Job) -> None:
    raise LookupError


@qg.retry(maximum_retry_count=7)
async def coroutine(job: qg.Job) -> None:
    raise LookupError


class Methods:
    @qg.retry(maximum_retry_count=7)
    def method(self, job: qg.Job) -> None:
        raise LookupError

    @qg.retry(maximum_retry_count=7)
    @classmethod
    def of_class(cls, job: qg.Job) -> None:
        raise LookupError

    @qg.retry(maximum_retry_count=7)
    @staticmethod
    def of_none(job: qg.Job) -> None:
        raise LookupError

    @qg.retry(maximum_retry_count=7)
    def __call__(self, job: qg.Job) -> None:
        raise LookupError


class Plain:
    def __call__(self, job: qg.Job) -> None:
        raise LookupError


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def wrapped_without_a_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        return function(*args)

    wrapper.__wrapped__ = function  # type: ignore[attr-defined]
    return wrapper


HANDLERS = {
    "a function": plain,
    "a coroutine": coroutine,
    "a method": Methods().method,
    "a class method": Methods.of_class,
    "a static method": Methods.of_none,
    "an object": Methods(),
    "an object that is marked itself": qg.retry(maximum_retry_count=7)(Plain()),
    "a partial of what is marked": functools.partial(plain),
    "a partial of a partial": functools.partial(functools.partial(Methods().method)),
    "a marked partial": qg.retry(maximum_retry_count=7)(functools.partial(fail)),
    "below a decorator": timed(plain),
    "above a decorator": qg.retry(maximum_retry_count=7)(timed(fail)),
    "below one that copies nothing": wrapped_without_a_copy(plain),
    "deep inside": timed(functools.partial(wrapped_without_a_copy(timed(Methods().method)))),
    "a policy that is replaced": qg.retry(maximum_retry_count=7)(timed(qg.retry(maximum_retry_count=1)(timed(fail)))),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_all_that_can_work_jobs_can_have_a_policy(client: qg.Client, database: Database, kind: str) -> None:
    policy = policy_of(HANDLERS[kind])
    assert policy is not None
    assert policy.maximum_retry_count == 7
    client.enqueue(qg.Job("MyJob"))
    database.query("UPDATE que_jobs SET error_count = 7")
    work(client, "work", HANDLERS[kind])
    assert states(database) == [(8, True)]


def test_marking_wraps_nothing() -> None:
    def handler(job: qg.Job) -> None:
        pass

    assert qg.retry(maximum_retry_count=1)(handler) is handler


def test_handlers_without_a_policy_have_none() -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("there is no request")

        def __call__(self, job: qg.Job) -> None:
            pass

    class Itself:
        @property
        def __wrapped__(self) -> object:
            return self

    for handler in (fail, functools.partial(fail), Broken(), Plain(), Itself(), print, timed(fail), lambda job: None):
        assert policy_of(handler) is None


def test_one_policy_serves_many_handlers() -> None:
    patient = qg.retry(maximum_retry_count=50)
    assert policy_of(patient(lambda job: None)) is policy_of(patient(lambda job: None)) is patient


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"qg.retry\(\) says nothing; give"),
        ({"maximum_retry_count": -1}, "must be a number of retries, 0 or more"),
        ({"maximum_retry_count": True}, "must be a number of retries"),
        ({"maximum_retry_count": "5"}, "not '5'"),
        ({"maximum_retry_count": math.nan}, "must be a number of retries"),
        ({"backoff": 30}, "a function from error count to seconds, not 30"),
        ({"backoff": exponential}, r"can't be called with one: .*; write backoff=qg.backoff.exponential\(\)"),
        ({"backoff": lambda: 3}, "can't be called with one"),
        ({"give_up_on": "ValueError"}, "an exception class, or a tuple of such, and 'ValueError' is none"),
        ({"give_up_on": [ValueError]}, "is none; write give_up_on="),
        ({"give_up_on": (ValueError, 3)}, "and 3 is none"),
        ({"give_up_on": ValueError("x")}, "is none"),
        ({"give_up_on": (qg.Discard,)}, "Discard, which is no failure"),
    ],
)
def test_a_policy_that_can_not_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=message):
        qg.retry(**options)


class Slotted:
    __slots__ = ()

    def __call__(self, job: qg.Job) -> None:
        pass


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (5, "qg.retry.. decorates a handler, and 5 can't be called"),
        (Methods().method, "can't be given a retry policy: .*; decorate the function in its class"),
        (print, "can't be given a retry policy"),
        (Slotted(), "can't be given a retry policy"),
    ],
    ids=["a number", "a bound method", "a builtin", "slots"],
)
def test_what_can_not_be_marked_is_refused(handler: Any, message: str) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=message):
        qg.retry(maximum_retry_count=1)(handler)


def test_the_decorator_without_its_parentheses_is_refused() -> None:
    with pytest.raises(qg.ErrInvalidOption, match=r"call it first: @qg.retry\(maximum_retry_count=5\)"):
        qg.retry(plain)  # type: ignore[arg-type]


# exponential()


def test_an_exponential_backoff_grows_up_to_its_maximum() -> None:
    backoff = exponential(jitter=0)
    assert [backoff(errors) for errors in (1, 2, 3, 4, 12, 13, 10**6, 2**31)] == [1, 2, 4, 8, 2048, 3600, 3600, 3600]
    assert [exponential(base=1, factor=30, jitter=0)(errors) for errors in (1, 9)] == [30, 30]


def test_its_jitter_spreads_it_both_ways_and_never_beyond_the_maximum() -> None:
    delays = [exponential(factor=100)(1) for _ in range(300)]
    assert 90 <= min(delays) < 97
    assert 103 < max(delays) <= 110
    assert max(exponential()(20) for _ in range(300)) == 3600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": 0.5}, "base of an exponential backoff must be 1 or more"),
        ({"base": math.inf}, "and finite"),
        ({"base": math.nan}, "base"),
        ({"factor": 0}, "factor of an exponential backoff must be seconds above 0"),
        ({"maximum": 0}, "maximum"),
        ({"maximum": MAX_SECONDS + 1}, "at the most"),
        ({"jitter": 1.1}, "jitter of an exponential backoff must be from 0 to 1"),
        ({"jitter": -0.1}, "jitter"),
        ({"factor": "1"}, "must be a number, not '1'"),
        ({"base": True}, "must be a number"),
    ],
)
def test_an_exponential_backoff_out_of_bounds_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=message):
        exponential(**options)


def test_its_parameters_are_named() -> None:
    with pytest.raises(TypeError):
        exponential(1)  # type: ignore[misc]
