"""The client itself: its statistics and its end."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import psycopg2
import pytest
from support import UNNAMED, Database, backend_pid, eventually, take_plainly

import qg

EARLY = datetime(2001, 2, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
LATER = datetime(2090, 1, 1, tzinfo=timezone.utc)


# stats()


def test_an_empty_table_has_no_stats(client: qg.Client) -> None:
    assert client.stats() == []


def test_stats_count_jobs_by_queue_and_type(client: qg.Client, database: Database) -> None:
    client.enqueue_batch(
        [
            qg.Job("B", run_at=EARLY),
            qg.Job("B", run_at=LATER),
            qg.Job("A", queue="q", run_at=LATER),
            qg.Job("A", run_at=EARLY),
        ]
    )
    database.query("UPDATE que_jobs SET error_count = 5 WHERE job_class = 'B' AND run_at < now()")
    with client.lock_job() as job:
        assert job.type == "B"
        assert client.stats() == [
            qg.JobStats(UNNAMED, "A", 1, 0, 0, 0, EARLY),
            qg.JobStats(UNNAMED, "B", 2, 1, 1, 5, EARLY),
            qg.JobStats("q", "A", 1, 0, 0, 0, LATER),
        ]
    assert [each.count_working for each in client.stats()] == [0, 0, 0]


def test_stats_dont_count_locks_that_are_none_of_this_tables_jobs(
    client: qg.Client, database: Database, make_database: Any
) -> None:
    job = client.enqueue(qg.Job("MyJob"))
    with (
        closing(psycopg2.connect(make_database())) as elsewhere,
        closing(database.connect()) as pairs,
        closing(database.connect()) as holder,
        closing(database.connect()) as waiter,
    ):
        elsewhere.cursor().execute("SELECT pg_advisory_lock(%s)", (job.id,))
        pairs.cursor().execute("SELECT pg_advisory_lock(0, %s)", (job.id,))
        assert client.stats()[0].count_working == 0

        # A lock that somebody holds counts once, whoever else waits for it.
        holder.cursor().execute("SELECT pg_advisory_lock(%s)", (job.id,))
        waiting = threading.Thread(target=lambda: waiter.cursor().execute("SELECT pg_advisory_lock(%s)", (job.id,)))
        waiting.start()
        eventually(lambda: database.is_waiting_for_a_lock(waiter.info.backend_pid))
        assert client.stats()[0].count_working == 1
        holder.cursor().execute("SELECT pg_advisory_unlock(%s)", (job.id,))
        waiting.join()


def test_an_id_beyond_32_bits_is_seen_working(client: qg.Client, database: Database) -> None:
    database.query("INSERT INTO jobs (job_id, job_class) VALUES (%s, 'Big')", (2**40 + 5,))
    with client.lock_job():
        assert client.stats()[0].count_working == 1


@pytest.mark.parametrize(("run_at", "year"), [("-infinity", 1), ("infinity", 9999), ("12000-01-01", 9999)])
def test_an_oldest_run_at_beyond_datetime_is_the_nearest_one(
    client: qg.Client, database: Database, run_at: str, year: int
) -> None:
    database.query("INSERT INTO jobs (job_class, run_at) VALUES ('Odd', %s)", (run_at,))
    assert client.stats()[0].oldest_run_at.year == year


# close()


def test_a_closed_client_refuses_everything(dsn: str) -> None:
    client = qg.Client(dsn)
    client.close()
    client.close()
    for refused in (
        lambda: client.enqueue(qg.Job("MyJob")),
        lambda: client.enqueue_batch([qg.Job("MyJob")]),
        client.lock_job,
        client.stats,
        qg.Worker(client, {}).work_one,
        qg.WorkerPool(client, {}, 1).start,
    ):
        with pytest.raises(qg.ErrClientClosed, match="was closed and takes nothing more"):
            refused()


def test_close_releases_jobs_that_were_left_lying(dsn: str, database: Database) -> None:
    client = qg.Client(dsn)
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    jobs = [client.lock_job()]
    thread = threading.Thread(target=lambda: jobs.append(client.lock_job()))
    thread.start()
    thread.join()
    client.close()
    assert [job.conn for job in jobs] == [None, None]
    assert database.locks() == []
    eventually(lambda: database.sessions() == [])


def test_close_leaves_jobs_alone_that_somebody_is_working(dsn: str, database: Database) -> None:
    client = qg.Client(dsn)
    client.enqueue_batch([qg.Job("Entered"), qg.Job("Elsewhere")])
    locked, closed = threading.Event(), threading.Event()

    def work_elsewhere() -> None:
        job = client.lock_job()
        locked.set()
        closed.wait(10)
        job.delete()
        job.done()

    with client.lock_job() as job:
        thread = threading.Thread(target=work_elsewhere)
        thread.start()
        locked.wait(10)
        client.close()
        assert len(database.locks()) == 2
        closed.set()
        thread.join()
        job.delete()
    assert (database.count(), database.locks()) == (0, [])


def test_close_releases_the_others_when_one_of_them_fails(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client = qg.Client(dsn)
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    jobs = [client.lock_job(), client.lock_job()]
    with jobs[0].tx.cursor() as cur:
        cur.execute("CREATE TEMP TABLE t (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        cur.execute("INSERT INTO t VALUES (1), (1)")
    jobs[0].delete()
    client.close()
    assert [job.conn for job in jobs] == [None, None]
    assert (database.count(), database.locks()) == (2, [])
    assert f"release_failed id={jobs[0].id}" in caplog.text


def test_close_doesnt_wait_for_a_pool_and_lets_its_jobs_finish(dsn: str, database: Database) -> None:
    entered, opened = threading.Event(), threading.Event()

    def handler(job: qg.Job) -> None:
        entered.set()
        opened.wait(10)

    client = qg.Client(dsn)
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    pool = qg.WorkerPool(client, {"MyJob": handler}, 1, interval=0.01)
    pool.start()
    assert entered.wait(10)
    client.close()
    opened.set()
    assert pool.shutdown(timeout=10)
    assert (database.count(), database.locks()) == (1, [])


def test_lock_job_that_waited_while_the_client_was_closed_locks_nothing(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    pid = backend_pid(client)
    outcome: list[object] = []

    def lock() -> None:
        try:
            outcome.append(client.lock_job())
        except qg.ErrClientClosed as error:
            outcome.append(error)

    with closing(database.connect()) as blocker:
        blocker.cursor().execute("LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE")
        locking = threading.Thread(target=lock)
        locking.start()
        eventually(lambda: database.is_waiting_for_a_lock(pid))
        client.close()
    locking.join()
    assert [type(each) for each in outcome] == [qg.ErrClientClosed]
    assert (database.count(), database.locks()) == (1, [])


@pytest.mark.parametrize("possible", [True, False], ids=["one message", "plain statements"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_worker_that_waited_while_the_client_was_closed_begins_no_job(
    client: qg.Client, database: Database, batch_size: int, possible: bool
) -> None:
    worked: list[int] = []
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    take_plainly(client, not possible)
    pid = backend_pid(client)
    worker = qg.Worker(client, {"MyJob": lambda job: worked.append(job.id)}, interval=3600, batch_size=batch_size)
    with closing(database.connect()) as blocker:
        blocker.cursor().execute("LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE")
        working = threading.Thread(target=worker.work)
        working.start()
        eventually(lambda: database.is_waiting_for_a_lock(pid))
        client.close()
    working.join()
    assert (worked, database.count(), database.locks()) == ([], 2, [])


def test_work_one_that_waited_while_the_client_was_closed_begins_no_job(client: qg.Client, database: Database) -> None:
    worked: list[int] = []
    outcome: list[BaseException] = []
    client.enqueue(qg.Job("MyJob"))
    pid = backend_pid(client)
    worker = qg.Worker(client, {"MyJob": lambda job: worked.append(job.id)})

    def work() -> None:
        try:
            worker.work_one()
        except qg.ErrClientClosed as error:
            outcome.append(error)

    with closing(database.connect()) as blocker:
        blocker.cursor().execute("LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE")
        working = threading.Thread(target=work)
        working.start()
        eventually(lambda: database.is_waiting_for_a_lock(pid))
        client.close()
    working.join()
    assert (len(outcome), worked, database.count(), database.locks()) == (1, [], 1, [])
