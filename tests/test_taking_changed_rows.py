"""Rows that somebody edits or removes while their jobs are worked."""

from __future__ import annotations

import logging

import pytest
from psycopg2.pool import ThreadedConnectionPool
from support import Database, UntilEmpty, backend_pid
from taking import each_batch_size, events, fill

import qg


@each_batch_size
@pytest.mark.parametrize(
    ("change", "event"),
    [("UPDATE jobs SET priority = 7 WHERE job_id = 3", "job_edited id=3"),
     ("UPDATE jobs SET queue = 'b' WHERE job_id = 3", "job_edited id=3"),
     ("DELETE FROM jobs WHERE job_id = 3", "job_gone id=3")],
    ids=["edited", "moved", "removed"],
)  # fmt: skip
def test_a_row_that_changed_while_it_was_worked_is_finished_all_the_same(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    no_hurry: None,
    change: str,
    event: str,
    batch_size: int,
) -> None:
    caplog.set_level(logging.INFO)
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 3:
            database.query(change)

    fill(database, 8)
    pid = backend_pid(client)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert (order, database.count(), database.locks()) == (list(range(1, 9)), 0, [])
    assert events(caplog, "outage", "job_failed", "release_failed") == []
    assert sorted(events(caplog, "job_worked")) == [f"job_worked id={number} type=MyJob" for number in range(1, 9)]
    assert events(caplog, "job_edited", "job_gone") == [event]
    assert backend_pid(client) == pid


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_row_that_is_removed_while_the_last_job_runs_leaves_no_lock_in_a_pool(
    dsn: str, database: Database, no_hurry: None, batch_size: int
) -> None:
    pool = ThreadedConnectionPool(1, 1, dsn)

    def handler(job: qg.Job) -> None:
        if job.id == 2:
            database.query("DELETE FROM jobs WHERE job_id = 2")
            worker.shutdown()

    with qg.Client(pool) as client:
        fill(database, 3)
        worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
        worker.work()
        locks = database.locks()
    pool.closeall()
    assert (locks, [job[0] for job in database.jobs()]) == ([], [3])
