"""Sessions that end under a worker, or that a handler leaves unfit."""

from __future__ import annotations

import logging

import pytest
from psycopg2.pool import ThreadedConnectionPool
from support import Database, UntilEmpty
from taking import each_batch_size, events, execute, fill, first_lines, work_all, write

import qg

pytestmark = pytest.mark.usefixtures("written")


@each_batch_size
def test_a_session_that_a_handler_lost_is_the_error_of_that_job_alone(
    client: qg.Client, database: Database, no_hurry: None, batch_size: int
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 3:
            database.terminate(job.conn.info.backend_pid)

    fill(database, 8)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    ((job_id, count, message),) = first_lines(database)
    assert (order, job_id, count) == (list(range(1, 9)), 3, 1)
    assert message.startswith("psycopg2.")
    assert database.locks() == []


@each_batch_size
def test_a_session_that_ended_while_nothing_was_locked_is_replaced(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    class Losing(UntilEmpty):
        lost = 0

        def rest(self, seconds: float, due: float | None = None) -> None:
            self.lost += 1
            if self.lost == 3:
                self.stop()
            else:
                database.terminate(self.loop.session.conn.info.backend_pid)
                fill(database, 3)

    fill(database, 3)
    order: list[int] = []
    Losing(client, {"MyJob": lambda job: order.append(job.id)}, batch_size=batch_size).work()
    assert (order, database.count(), caplog.records) == (list(range(1, 10)), 0, [])


@each_batch_size
def test_a_session_that_ends_before_jobs_are_finished_is_their_error_and_none_is_lost(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, batch_size: int
) -> None:
    caplog.set_level(logging.INFO)
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if len(order) == 3:
            database.terminate(worker.loop.session.conn.info.backend_pid)

    fill(database, 8)
    worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
    worker.work()
    assert sorted(set(order)) == list(range(1, 9))
    assert len(order) == 8  # those that failed are to be run again, later
    failed = first_lines(database)
    # At most the unfinished jobs of that batch, and among them the one during which it happened.
    assert 3 in [job_id for job_id, _, _ in failed]
    assert len(failed) <= batch_size
    assert all(count == 1 and message.startswith("psycopg2.") for _, count, message in failed)
    assert database.locks() == []
    lines = sorted(int(each.split(" ")[1][3:]) for each in events(caplog, "job_worked", "job_failed"))
    assert lines == list(range(1, 9))
    assert len(events(caplog, "job_failed")) == len(failed)


@each_batch_size
def test_a_pool_of_one_connection_is_enough_to_record_that_its_session_ended(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, batch_size: int
) -> None:
    pool = ThreadedConnectionPool(0, 1, dsn)
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if len(order) == 1:
            database.terminate(worker.loop.session.conn.info.backend_pid)

    with qg.Client(pool) as client:
        fill(database, 1)
        worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
        worker.work()
    pool.closeall()
    ((_, count, message),) = first_lines(database)
    assert (order, count) == ([1], 1)
    assert message.startswith("psycopg2.")
    assert "job_unrecorded" not in caplog.text


@each_batch_size
def test_a_search_path_that_a_handler_leaves_behind_is_in_nobodys_way(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, batch_size: int
) -> None:
    worked: list[int] = []

    def handler(job: qg.Job) -> None:
        execute(job.conn, "SET search_path = pg_catalog")
        worked.append(job.id)

    fill(database, 3)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert (worked, first_lines(database), events(caplog)) == ([1, 2, 3], [], [])


@each_batch_size
@pytest.mark.parametrize("leave", ["nothing", "a write"])
def test_a_lock_that_a_handler_gave_up_is_told_once_and_its_session_isnt_used_again(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int, leave: str
) -> None:
    worked: list[tuple[int, int]] = []

    def handler(job: qg.Job) -> None:
        worked.append((job.id, job.conn.info.backend_pid))
        if job.id < 3:
            execute(job.conn, f"SELECT pg_advisory_unlock({job.id})")
        if leave == "a write":
            write(job)

    fill(database, 4)
    work_all(client, database, handler, batch_size)
    assert (database.count(), database.locks()) == (0, [])
    assert [each.split(" ")[0] for each in events(caplog)] == ["lock_not_ours"]
    assert sorted(job_id for job_id, _ in worked) == [1, 2, 3, 4]
    # A session that was closed frees its locks one by one, so job 3 may come before job 2.
    for position, (job_id, pid) in enumerate(worked, start=1):
        assert job_id > 2 or pid not in [later for _, later in worked[position:]]
