"""What a pool tells those who look after its process: how it stands, what runs, and letting go of that at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support import PATIENCE, Database, eventually

import qg
from qg.locking.attempt import Attempt

SHARED = [None, 1]


class Seats:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int | None]] = []

    def seat(self) -> Seats:
        return self

    def begin(self, job: qg.Job) -> None:
        self.told.append(("begin", job.id))

    def end(self) -> None:
        self.told.append(("end", None))

    @contextmanager
    def settled(self, job: qg.Job, attempt: Attempt, error: BaseException | None, seconds: float) -> Iterator[None]:
        self.told.append((type(error).__name__ if error else "worked", job.id))
        yield


@pytest.mark.parametrize("connections", SHARED)
def test_who_oversees_a_pool_is_told_of_each_job(
    client: qg.Client, database: Database, connections: int | None
) -> None:
    def fail(job: qg.Job) -> None:
        raise ValueError

    pool = qg.WorkerPool(client, {"Well": lambda job: None, "Badly": fail}, 1, interval=0.01, connections=connections)
    pool.oversight = seats = Seats()
    well, badly = (client.enqueue(qg.Job(kind)).id for kind in ("Well", "Badly"))
    with pool:
        eventually(lambda: len(seats.told) == 6)
    assert [each for each in seats.told if each[0] in ("begin", "end")] == [
        ("begin", well),
        ("end", None),
        ("begin", badly),
        ("end", None),
    ]
    assert {("worked", well), ("ValueError", badly)} <= set(seats.told)


@pytest.mark.parametrize("connections", SHARED)
def test_a_pool_tells_how_it_stands(client: qg.Client, connections: int | None) -> None:
    running, go_on = threading.Event(), threading.Event()

    def wait(job: qg.Job) -> None:
        running.set()
        go_on.wait(PATIENCE)

    pool = qg.WorkerPool(client, {"Wait": wait}, 2, queue="mail", interval=0.01, connections=connections)
    assert not pool.look().started
    with pool:
        eventually(lambda: pool.look().resting)
        state = pool.look()
        assert (state.queue, state.workers, state.busy, state.started, state.alive) == ("mail", 2, 0, True, True)
        assert state.silent_seconds < PATIENCE
        assert (state.cut_off, state.paused, state.refusal) == (0, False, None)
        job = client.enqueue(qg.Job("Wait", queue="mail"))
        assert running.wait(PATIENCE)
        assert [each.id for each in pool.running()] == [job.id]
        state = pool.look()
        assert (state.busy, state.resting) == (1, False)
        go_on.set()
    assert not pool.look().alive


@pytest.mark.parametrize("connections", SHARED)
def test_what_is_abandoned_is_undone_and_free_and_nobody_is_blamed(
    client: qg.Client, database: Database, connections: int | None
) -> None:
    """The statement that it waits for is cancelled."""

    def wait(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("CREATE TABLE left_behind ()")
            cur.execute("SELECT pg_sleep(60)")

    job = client.enqueue(qg.Job("Wait"))
    pool = qg.WorkerPool(client, {"Wait": wait}, 1, interval=60, connections=connections)
    with pool:
        eventually(lambda: database.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 1)
        shutdown = threading.Thread(target=pool.shutdown)
        shutdown.start()
        pool.abandon()
        assert pool.shutdown(PATIENCE)
    assert [(number, errors) for number, _, errors, _ in database.jobs()] == [(job.id, 0)]
    assert database.value("SELECT to_regclass('left_behind')") is None
