"""The race between looking at a job and locking it."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from psycopg2.extensions import make_dsn
from support import Database, UntilEmpty, backend_pid, eventually, lease, take
from taking import fill

import qg

RACES = {
    "finished": "DELETE FROM jobs WHERE job_id = 1",
    "failed": "UPDATE jobs SET error_count = 1, run_at = now() + interval '3 s' WHERE job_id = 1",
    "rescheduled earlier": "UPDATE jobs SET run_at = run_at - interval '1 day' WHERE job_id = 1",
    "moved to another priority": "UPDATE jobs SET priority = 50 WHERE job_id = 1",
    "moved to another queue": "UPDATE jobs SET queue = 'elsewhere' WHERE job_id = 1",
}


def race(gate: str, database: Database, change: str, wanted: int) -> tuple[list[int], list[int]]:
    """Take jobs while *change* happens between look and lock; return what was taken, and what was locked then."""
    with qg.Client(gate) as client:
        fill(database, 3)
        session = lease(client)
        taken: list[int] = []

        def take_some() -> None:
            got = take(client, session, "", wanted)
            taken.extend(row.id for row in got.rows)

        assert take(client, session, "empty").rows == []
        thread = threading.Thread(target=take_some)
        database.query("SELECT pg_advisory_lock(7, 7)")
        try:
            thread.start()
            eventually(lambda: database.is_waiting_for_a_lock(session.conn.info.backend_pid))
            with closing(database.connect()) as psql, psql, psql.cursor() as cur:
                cur.execute(change)
        finally:
            database.query("SELECT pg_advisory_unlock(7, 7)")
            thread.join()
        locks = database.locks()
        session.close_now()
    return taken, locks


@pytest.mark.parametrize("change", RACES)
@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_a_job_that_changed_between_the_look_and_the_lock_isnt_handed_out(
    gate: str, database: Database, change: str, wanted: int
) -> None:
    expected = [2, 3][:wanted]
    assert race(gate, database, RACES[change], wanted) == (expected, expected)


@pytest.mark.parametrize("options", ["", "-c default_transaction_isolation=repeatable\\ read"])
@pytest.mark.parametrize("change", RACES)
def test_lock_job_and_a_worker_pass_over_a_job_that_changed_in_between(
    gate: str, database: Database, change: str, options: str
) -> None:
    order: list[int] = []
    with qg.Client(make_dsn(gate, options=options)) as client:
        assert client.lock_job() is None
        fill(database, 2)
        pid = backend_pid(client)
        worker = UntilEmpty(client, {"MyJob": lambda job: order.append(job.id)}, batch_size=5)
        thread = threading.Thread(target=worker.work)
        database.query("SELECT pg_advisory_lock(7, 7)")
        try:
            thread.start()
            eventually(lambda: database.is_waiting_for_a_lock(pid))
            with closing(database.connect()) as psql, psql, psql.cursor() as cur:
                cur.execute(RACES[change])
        finally:
            database.query("SELECT pg_advisory_unlock(7, 7)")
            thread.join()
        assert database.locks() == []
    again = [1] if "priority" in change or "earlier" in change else []
    assert sorted(order) == again + [2]
    assert order.count(1) <= 1
