"""Conductor: duties are carried out when they are due, and whatever raises, its thread goes on."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator

import psycopg2
import pytest
from support import PATIENCE, eventually

from qg import jobs
from qg.jobs.conductor import Conductor

LONG = 3600.0


@pytest.fixture
def make_conductor() -> Iterator[Callable[..., Conductor]]:
    made: list[Conductor] = []

    def make(longest_pause: float = 0.05, logger: logging.Logger | None = None) -> Conductor:
        made.append(Conductor("conductor", logger or logging.getLogger("qg"), longest_pause))
        return made[-1]

    yield make
    for each in made:
        each.stop()
        assert each.join(PATIENCE)


@pytest.fixture
def conductor(make_conductor: Callable[..., Conductor]) -> Conductor:
    return make_conductor()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "conductor"]


def test_its_thread_begins_with_the_first_duty(conductor: Conductor) -> None:
    assert threads() == []
    assert conductor.join()
    conductor.carry_out("sweep", lambda: None, LONG)
    assert len(threads()) == 1
    assert not conductor.join(0)


def test_a_duty_is_carried_out_when_it_is_due_and_again_when_it_says(conductor: Conductor) -> None:
    times: list[float] = []

    def sweep() -> float | None:
        times.append(time.monotonic())
        return 0.05 if len(times) < 3 else None

    began = time.monotonic()
    conductor.carry_out("sweep", sweep, 0.05)
    eventually(lambda: len(times) == 3 and conductor.pending == {})
    assert all(later - earlier >= 0.05 for earlier, later in zip([began, *times], times, strict=False))


def test_the_time_that_was_set_last_counts(conductor: Conductor) -> None:
    done = threading.Event()
    conductor.carry_out("sweep", lambda: None, 0.0)
    eventually(lambda: conductor.pending == {})
    conductor.carry_out("sweep", done.set, 0.0)
    assert done.wait(PATIENCE)
    conductor.carry_out("sweep", done.set, LONG)
    before = conductor.pending["sweep"]
    conductor.carry_out("sweep", done.set, 2 * LONG)
    assert conductor.pending["sweep"] >= before + LONG


def test_a_time_set_while_the_duty_is_under_way_counts_more_than_its_own(conductor: Conductor) -> None:
    began, go_on = threading.Event(), threading.Event()

    def sweep() -> float:
        began.set()
        assert go_on.wait(PATIENCE)
        return 0.0

    conductor.carry_out("sweep", sweep)
    assert began.wait(PATIENCE)
    assert conductor.pending == {}
    conductor.carry_out("sweep", sweep, LONG)
    go_on.set()
    done = threading.Event()
    conductor.carry_out("other", done.set)
    assert done.wait(PATIENCE)
    assert conductor.pending["sweep"] > time.monotonic() + LONG / 2


def test_a_duty_that_fails_is_logged_once_until_it_succeeds_and_tried_again(
    conductor: Conductor, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([OSError("away"), OSError("away"), None, OSError("away again"), None])
    done = threading.Event()

    def sweep() -> float | None:
        failure = next(failures, "over")
        if isinstance(failure, OSError):
            raise failure
        if failure == "over":
            done.set()
            return None
        return 0.0

    conductor.carry_out("sweep", sweep)
    assert done.wait(PATIENCE)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "sweep_failed OSError: away; trying again until it is done",
        "sweep_failed OSError: away again; trying again until it is done",
    ]


@pytest.mark.parametrize(
    ("error", "has_trace"),
    [(psycopg2.OperationalError("away"), False), (jobs.ErrEnqueueFailed("no"), False), (KeyError("a bug"), True)],
    ids=["outage", "our own", "bug"],
)
def test_what_may_be_a_bug_is_logged_with_its_traceback(
    conductor: Conductor, caplog: pytest.LogCaptureFixture, error: Exception, has_trace: bool
) -> None:
    failures = iter([error])
    done = threading.Event()

    def sweep() -> None:
        for failure in failures:
            raise failure
        done.set()

    conductor.carry_out("sweep", sweep)
    assert done.wait(PATIENCE)
    (record,) = caplog.records
    assert bool(record.exc_info) is has_trace


@pytest.mark.parametrize("longest_pause", [0.0, 0.05])
def test_a_duty_that_always_fails_or_is_always_due_makes_no_hot_loop(
    make_conductor: Callable[..., Conductor], longest_pause: float
) -> None:
    conductor = make_conductor(longest_pause)
    calls = {"fails": 0, "due": 0}

    def fails() -> None:
        calls["fails"] += 1
        raise OSError("away")

    def is_due() -> float:
        calls["due"] += 1
        return 0.0

    conductor.carry_out("fails", fails)
    conductor.carry_out("due", is_due)
    began = time.monotonic()
    eventually(lambda: calls["fails"] >= 3 and calls["due"] >= 10)
    conductor.stop()
    assert conductor.join(PATIENCE)
    seconds = time.monotonic() - began
    assert calls["fails"] <= 1 + seconds / 0.05
    assert calls["due"] <= 1 + seconds / 0.01


class RaisesOnce(logging.Filter):
    """Raises *error* at the first line."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._errors = iter([error])

    def filter(self, record: logging.LogRecord) -> bool:
        for error in self._errors:
            raise error
        return True


@pytest.mark.parametrize("error", [ValueError("no log"), SystemExit(1)], ids=["error", "exit"])
def test_a_logger_that_raises_costs_neither_the_duty_nor_the_thread(
    make_conductor: Callable[..., Conductor], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    logger, done = logging.getLogger("qg.test_conductor"), threading.Event()
    faulty = RaisesOnce(error)
    logger.addFilter(faulty)
    try:
        conductor = make_conductor(logger=logger)
        failures = iter([OSError("away")])

        def sweep() -> None:
            for failure in failures:
                raise failure
            done.set()

        conductor.carry_out("sweep", sweep)
        assert done.wait(PATIENCE)
    finally:
        logger.removeFilter(faulty)
    (record,) = caplog.records
    assert record.getMessage() == "thread_failed name=conductor: it goes on"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_duty_that_exits_ends_no_thread(conductor: Conductor, caplog: pytest.LogCaptureFixture) -> None:
    exits = iter([SystemExit(1)])
    done = threading.Event()

    def sweep() -> None:
        for each in exits:
            raise each
        done.set()

    conductor.carry_out("sweep", sweep)
    assert done.wait(PATIENCE)
    assert "thread_failed name=conductor" in caplog.text


def test_where_the_log_is_broken_for_good_the_traceback_goes_to_stderr(
    make_conductor: Callable[..., Conductor], capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(logging.LoggerAdapter):  # type: ignore[type-arg]
        def log(self, *arguments: object, **options: object) -> None:
            raise ValueError("no log at all")

    conductor = make_conductor(logger=Broken(logging.getLogger("qg"), {}))
    failures, done = iter([OSError("away")]), threading.Event()

    def sweep() -> None:
        for failure in failures:
            raise failure
        done.set()

    conductor.carry_out("sweep", sweep)
    assert done.wait(PATIENCE)
    told = capsys.readouterr().err
    assert "OSError: away" in told
    assert "ValueError: no log at all" in told


def test_a_signal_handler_may_stop_it_and_nothing_begins_any_more(conductor: Conductor) -> None:
    def handle(number: int, frame: object) -> None:
        conductor.stop()

    conductor.carry_out("sweep", lambda: None, LONG)
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert conductor.join(PATIENCE)
    assert threads() == []
    conductor.carry_out("other", lambda: None)
    assert "other" not in conductor.pending
    assert threads() == []
