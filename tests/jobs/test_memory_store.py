"""MemoryStore: a job waits, is attempted, or is gone, and no thread sees anything between."""

from __future__ import annotations

import signal
import threading
from datetime import datetime, timedelta, timezone

import pytest
from support import PATIENCE, eventually

import qg
from qg.jobs.memory_store import MemoryStore
from qg.tables import PollStrategy, Row, iso_text

NOON = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)
ALL = frozenset(["a", "b"])


class Clock:
    """A clock that goes when a test says so."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def go_on(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(now=clock)


def put(store: MemoryStore, job_type: str = "a", seconds: float = 0.0, priority: int = 0) -> Row:
    """Let a job wait that is due in *seconds*, and return its row."""
    rows = store.rows_for([qg.Job(job_type, {}, priority=priority, run_at=NOON + timedelta(seconds=seconds))])
    store.add(rows)
    return rows[0]


def test_a_job_without_run_at_is_due_at_once_and_has_the_next_id(store: MemoryStore) -> None:
    rows = store.rows_for([qg.Job("a", [1]), qg.Job("b", [2])])
    assert store.rows() == []
    assert [(row.id, row.type, row.due, row.error_count) for row in rows] == [(1, "a", NOON, 0), (2, "b", NOON, 0)]
    store.add(rows)
    assert store.next_due(ALL) == rows[0]


@pytest.mark.parametrize(
    ("strategy", "order"), [(PollStrategy.PRIORITY, [3, 1, 2, 4]), (PollStrategy.RUN_AT, [4, 1, 2, 3])]
)
def test_the_poll_strategy_decides_which_due_job_is_taken_first(
    clock: Clock, strategy: PollStrategy, order: list[int]
) -> None:
    store = MemoryStore(strategy, clock)
    put(store, seconds=-10)
    put(store, seconds=-10)
    put(store, seconds=-5, priority=-1)
    put(store, seconds=-20, priority=1)
    taken = [store.take(ALL) for _ in order]
    assert [row.id for row in taken if row] == order


def test_what_is_not_due_or_has_no_function_is_passed_over(store: MemoryStore, clock: Clock) -> None:
    put(store, "a", seconds=60, priority=-2)
    put(store, "b", priority=-1)
    due = put(store, "a")
    assert store.next_due(["a"]) == due
    assert store.next_due([]) is None
    assert store.take(["a"]) == due
    assert store.next_due(["a"]) == 60.0
    clock.go_on(59.5)
    assert store.next_due(["a"]) == 0.5


def test_an_attempt_ends_and_its_job_waits_again_in_one_step(store: MemoryStore) -> None:
    row = put(store)
    assert store.take(ALL) == row
    assert (store.waiting(), store.attempted(), store.rows()) == ([], [row], [row])
    again = row._replace(error_count=1)
    store.end(row, again)
    assert (store.waiting(), store.attempted(), store.rows()) == ([again], [], [again])
    assert store.take(ALL) == again
    store.end(again, None)
    assert store.rows() == []


def test_a_thread_that_waits_takes_a_job_that_ends_only_after_that_end(store: MemoryStore) -> None:
    row = put(store)
    assert store.take(ALL) == row
    taken: list[Row | None] = []
    thread = threading.Thread(target=lambda: taken.append(store.take(ALL)))
    thread.start()
    again = row._replace(run_at=iso_text(NOON - timedelta(seconds=1)))
    store.end(row, again)
    thread.join(PATIENCE)
    assert taken == [again]
    assert store.attempted() == [again]
    store.end(again, None)


def test_who_waits_learns_of_a_new_function_and_of_the_end(store: MemoryStore) -> None:
    job_types: set[str] = set()
    row = put(store)
    taken: list[Row | None] = []
    threads = [threading.Thread(target=lambda: taken.append(store.take(job_types))) for _ in range(2)]
    for thread in threads:
        thread.start()
    job_types.add("a")
    store.wake()
    eventually(lambda: taken == [row])
    store.stop_taking()
    for thread in threads:
        thread.join(PATIENCE)
    assert taken == [row, None]
    put(store)
    assert store.take(ALL) is None


def test_a_signal_handler_may_stop_it_while_the_same_thread_adds(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(rows: list[Row], row: Row, **options: object) -> None:
        signal.raise_signal(signal.SIGUSR1)
        rows.append(row)

    monkeypatch.setattr("qg.jobs.memory_store.insort", interrupted)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: store.stop_taking())
    try:
        row = put(store)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert store.take(ALL) is None
    assert store.waiting() == [row]
