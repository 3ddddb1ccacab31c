"""Whose turn it is to take jobs, and what becomes of those who are turned away."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, cast

import psycopg2
import pytest
from support import PATIENCE, Database, UntilEmpty, eventually, rows_of, sleepers_of

import qg
import qg.working.turns
import qg.working.watch
from qg.working.turns import Turn, Turns

NEVER = 3600.0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a turn waits as long as it takes."""
    monkeypatch.setattr(qg.working.turns, "_LONGEST_WAIT_SECONDS", PATIENCE)


class Waiter(threading.Thread):
    """Waits for a turn."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(daemon=True)
        self._turns = turns
        self.turn: Turn | None = None
        self.start()

    def run(self) -> None:
        self.turn = self._turns.begin(100)


def crowd(turns: Turns) -> tuple[list[Any], list[Waiter]]:
    """Let two have their turn and two wait for it."""
    taking = [turns.begin(100), turns.begin(100)]
    waiting = [Waiter(turns), Waiter(turns)]
    eventually(lambda: turns.crowded)
    return taking, waiting


def next_of(waiting: list[Waiter]) -> Turn:
    """The turn of one of those who have waited, who is none of them any more."""
    got = eventually(lambda: next((each for each in waiting if each.turn), None))
    waiting.remove(got)
    return got.turn


def test_two_take_large_batches_two_wait_and_the_others_are_turned_away(patient: None) -> None:
    turns = Turns()
    taking, waiting = crowd(turns)
    assert turns.begin(100) is None
    assert [each.turn for each in waiting] == [None, None]
    for turn in taking:
        turns.end(turn, looked=True)
    eventually(lambda: all(each.turn for each in waiting))
    assert not turns.crowded


def test_of_those_who_take_few_jobs_many_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qg.working.turns, "_MOST_WAITING", 0)
    turns = Turns()
    assert all(turns.begin(1) for _ in range(64))


def test_who_waits_in_vain_takes_the_turn_of_the_one_that_has_had_it_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qg.working.turns, "_LONGEST_WAIT_SECONDS", 0.0)
    turns = Turns()
    slow, other, third = (cast(Turn, turns.begin(100)) for _ in range(3))
    assert third
    assert turns.end(slow, looked=True) is False  # which makes room for nobody
    monkeypatch.setattr(qg.working.turns, "_MOST_WAITING", 0)
    assert turns.begin(100) is None
    turns.end(other, looked=True)
    assert turns.begin(100)


def test_who_fails_before_it_has_looked_has_to_wake_one_if_one_was_turned_away(patient: None) -> None:
    turns = Turns()
    (first, second), waiting = crowd(turns)
    assert turns.end(first, looked=False) is False
    waiting.append(Waiter(turns))
    eventually(lambda: turns.crowded)
    assert turns.begin(100) is None
    assert turns.end(second, looked=False) is True
    for _ in range(3):
        assert turns.end(next_of(waiting), looked=True) is False
    alone = turns.begin(100)
    assert alone
    assert turns.end(alone, looked=False) is False  # since then all who were to look have looked


def test_a_worker_that_is_turned_away_deletes_what_has_returned_and_sleeps_until_it_is_woken(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[int] = []
    with qg.WorkerPool(
        client, {"MyJob": lambda job: handler(job)}, 1, interval=NEVER, batch_size=2, listen=False
    ) as pool:
        sleepers = sleepers_of(pool)

        def handler(job: qg.Job) -> None:
            worked.append(job.id)
            if len(worked) == 2:
                with job.conn.cursor() as cur:
                    cur.execute("SELECT pg_advisory_lock(7)")  # and it doesn't unlock that
                crowded.setattr(sleepers.turns, "begin", lambda wanted: None)

        eventually(lambda: sleepers.count == 1)
        with monkeypatch.context() as crowded:
            client.enqueue_batch(qg.Job("MyJob") for _ in range(3))
            sleepers.wake(1)
            eventually(lambda: len(worked) >= 2 and sleepers.count == 1)
            assert (len(worked), database.count(), database.locks()) == (2, 1, [])
        sleepers.wake(1)
        eventually(lambda: database.count() == 0)


def test_where_taking_fails_another_worker_is_woken_in_place_of_one_that_was_turned_away(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_MOST_WANTED", 1), ("_FEWEST_TAKERS", 1), ("_MOST_WAITING", 0)):
        monkeypatch.setattr(qg.working.turns, name, value)
    worker = UntilEmpty(client, {}, batch_size=2)
    sleepers = worker.sleepers
    called: list[int] = []

    def fail(*args: Any, **named: Any) -> None:
        assert sleepers.turns.begin(2) is None
        called.append(sleepers.calls)
        raise psycopg2.OperationalError("gone")

    monkeypatch.setattr(rows_of(client), "take", fail)
    worker.work()
    assert called
    assert sleepers.calls > called[0]


@pytest.mark.parametrize("crowded", [False, True])
def test_who_sees_more_jobs_wakes_another_worker_unless_that_would_be_turned_away(
    client: qg.Client, patient: None, crowded: bool
) -> None:
    client.enqueue_batch(qg.Job("MyJob") for _ in range(3))
    worker = UntilEmpty(client, {"MyJob": lambda job: None}, batch_size=2)
    turns = worker.sleepers.turns
    taking, waiting = crowd(turns) if crowded else ([], [])
    worker.work()  # it takes few jobs, and so has its turn all the same
    assert worker.sleepers.calls == (0 if crowded else 1)
    for turn in taking:
        turns.end(turn, looked=True)
    for each in waiting:
        each.join(PATIENCE)


# Jobs that become free again


@pytest.mark.parametrize("uses_session", [False, True])
def test_jobs_that_wait_behind_a_slow_handler_are_run_by_others_at_once(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch, uses_session: bool
) -> None:
    if uses_session:  # so it isn't the watch that does it
        monkeypatch.setattr(qg.working.watch, "_WATCH_SECONDS", NEVER)
    together = threading.Barrier(6, timeout=PATIENCE)

    def handler(job: qg.Job) -> None:
        if uses_session:
            assert job.conn
        together.wait()

    with qg.WorkerPool(client, {"MyJob": handler}, 6, interval=NEVER, batch_size=6, listen=False) as pool:
        eventually(lambda: sleepers_of(pool).count == 6)
        client.enqueue_batch(qg.Job("MyJob") for _ in range(6))
        sleepers_of(pool).wake(1)
        with suppress(threading.BrokenBarrierError):
            eventually(lambda: database.count() == 0)
    assert database.count() == 0


def test_jobs_behind_many_that_cant_be_read_dont_wait_for_the_interval(dsn: str, database: Database) -> None:
    class Picky(qg.Job):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            if self.type == "Unreadable":
                raise ValueError("no such type")

    worked: list[int] = []
    database.query("INSERT INTO jobs (job_class) SELECT 'Unreadable' FROM generate_series(1, 10)")
    database.query("INSERT INTO jobs (job_class) VALUES ('MyJob')")
    with (
        qg.Client(dsn, job_class=Picky) as client,
        qg.WorkerPool(client, {"MyJob": lambda job: worked.append(job.id)}, 1, interval=NEVER),
    ):
        eventually(lambda: worked)
