"""Locking jobs by hand: which one, and who else sees it."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import datetime, timezone

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from support import LAST_ERROR, Database, backend_pid, eventually, lease, table_of, take_plainly

import qg
from qg.client import engine_of
from qg.tables import Statement


def test_a_locked_job_has_the_rows_fields(client: qg.Client, database: Database) -> None:
    enqueued = client.enqueue(qg.Job("MyJob", [{"a": [1]}], queue="q", priority=7))
    database.query(f"UPDATE que_jobs SET error_count = 3, {LAST_ERROR} = 'again'")
    with client.lock_job("q") as job:
        assert (job.id, job.type, job.args, job.queue, job.priority) == (enqueued.id, "MyJob", [{"a": [1]}], "q", 7)
        assert (job.run_at, job.error_count, job.last_error) == (enqueued.run_at, 3, "again")
        assert job.run_at.tzinfo is not None


def test_the_lock_is_on_the_jobs_id_and_on_its_own_session(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        assert database.locks() == [job.id]
        assert database.lock_holders() == [job.conn.info.backend_pid]
    assert database.locks() == []


def test_the_connection_is_handed_over_idle_and_begins_a_transaction(client: qg.Client) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        assert job.conn is job.tx
        assert job.conn.autocommit is False
        assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE


def test_a_locked_job_is_invisible_to_others(client: qg.Client) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job():
        assert client.lock_job() is None


def test_another_client_sees_neither_a_locked_job(client: qg.Client, dsn: str) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job(), qg.Client(dsn) as other:
        assert other.lock_job() is None


def test_locked_jobs_are_walked_past(client: qg.Client) -> None:
    ids = [job.id for job in client.enqueue_batch(qg.Job("MyJob") for _ in range(5))]
    jobs = [client.lock_job() for _ in ids]
    assert [job.id for job in jobs] == ids
    assert client.lock_job() is None
    for job in jobs:
        job.done()


def test_no_job_is_none_and_costs_no_connection(client: qg.Client, database: Database) -> None:
    assert client.lock_job() is None
    assert client.lock_job() is None
    assert len(database.sessions()) == 1


def test_each_queue_has_its_own_jobs(client: qg.Client) -> None:
    client.enqueue(qg.Job("MyJob", queue="extra"))
    assert client.lock_job() is None
    assert client.lock_job("other") is None
    with client.lock_job("extra") as job:
        assert job.queue == "extra"


def test_jobs_come_by_priority_then_run_at_then_id(client: qg.Client) -> None:
    early = datetime(2001, 1, 1, tzinfo=timezone.utc)
    later = datetime(2002, 1, 1, tzinfo=timezone.utc)
    jobs = [
        qg.Job("6", priority=101, run_at=early),
        qg.Job("4", run_at=later),
        qg.Job("5", run_at=later),
        qg.Job("3", run_at=early),
        qg.Job("2", priority=0),
        qg.Job("1", priority=-5),
    ]
    client.enqueue_batch(jobs)
    order = []
    while job := client.lock_job():
        with job:
            order.append(job.type)
            job.delete()
    assert order == ["1", "2", "3", "4", "5", "6"]


def test_a_job_of_the_future_waits(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob", run_at=datetime(2090, 1, 1, tzinfo=timezone.utc)))
    assert client.lock_job() is None
    database.query("UPDATE que_jobs SET run_at = now()")
    with client.lock_job() as job:
        assert job.type == "MyJob"


FINISHED = "DELETE FROM jobs WHERE job_id = %s"
FAILED = "UPDATE jobs SET error_count = 1, run_at = now() + interval '1 hour' WHERE job_id = %s"
MOVED = "UPDATE jobs SET queue = 'other' WHERE job_id = %s"
DEMOTED = "UPDATE jobs SET priority = 200 WHERE job_id = %s"


@pytest.mark.parametrize("settle", [FINISHED, FAILED, MOVED, DEMOTED], ids=["finished", "failed", "moved", "demoted"])
def test_a_job_settled_between_the_locks_snapshot_and_the_lock_isnt_worked_again(
    client: qg.Client, database: Database, settle: str
) -> None:
    """The race of which Que's sources say that they don't know how to reproduce it reliably.

    Table locks queue up: ours in front, the lock statement behind it, and a deletion behind that.
    When ours goes, the lock statement reads its snapshot and takes the advisory lock; the deletion
    comes next, and the check queues behind the deletion. (Or a failure in place of the deletion.)
    """
    take_plainly(client)  # the plain statements; for the functions see test_taking_races.py
    first, second = client.enqueue_batch([qg.Job("Gone"), qg.Job("Here")])
    pid = backend_pid(client)
    blocker, worker = database.connect(), database.connect()
    blocker.cursor().execute("LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE")

    locked: list[qg.Job | None] = []
    locking = threading.Thread(target=lambda: locked.append(client.lock_job()))
    locking.start()
    eventually(lambda: database.is_waiting_for_a_lock(pid), "lock_job in the queue")

    def settle_the_first_job() -> None:
        with worker.cursor() as cur:
            cur.execute("LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE")
            cur.execute(settle, (first.id,))
        worker.commit()

    settling = threading.Thread(target=settle_the_first_job)
    settling.start()
    eventually(lambda: database.is_waiting_for_a_lock(worker.info.backend_pid), "the deletion in the queue")
    blocker.rollback()
    locking.join()
    settling.join()
    blocker.close()
    worker.close()

    (job,) = locked
    assert job.id == second.id
    assert database.locks() == [second.id]
    job.done()


class Interrupted(qg.Client):
    """A client of plain statements that calls ``in_between`` instead of looking again at a job it locked."""

    def __init__(self, source) -> None:
        super().__init__(source)
        take_plainly(self)
        database = engine_of(self).database
        lease = database.lease

        def lease_interrupted():
            session = lease()
            run = session.run
            session.run = lambda statement, params=(): (
                self.in_between() if statement is database.table.check_job else run(statement, params)
            )
            return session

        database.lease = lease_interrupted


def test_ten_lost_races_in_a_row_are_err_again_and_leave_no_lock(dsn: str, database: Database) -> None:
    races: list[None] = []
    with Interrupted(dsn) as client:
        client.in_between = lambda: races.append(None)
        client.enqueue(qg.Job("MyJob"))
        with pytest.raises(qg.ErrAgain):
            client.lock_job()
        assert len(races) == 10
        assert database.locks() == []


@pytest.mark.parametrize("trouble", [psycopg2.OperationalError("timeout"), KeyboardInterrupt()], ids=repr)
def test_trouble_between_the_lock_and_the_check_closes_the_connection_that_holds_the_lock(
    dsn: str, database: Database, trouble: BaseException
) -> None:
    def fail():
        assert database.locks() == [1]
        raise trouble

    with Interrupted(dsn) as client:
        client.in_between = fail
        client.enqueue(qg.Job("MyJob"))
        with pytest.raises(type(trouble)):
            client.lock_job()
        eventually(lambda: database.locks() == [] and database.sessions() == [])


def test_the_lock_statement_stops_by_itself_and_not_only_because_of_its_limit(
    client: qg.Client, database: Database
) -> None:
    first, *_ = client.enqueue_batch(qg.Job("MyJob") for _ in range(5))
    session = lease(client)
    text, limited = table_of(client).lock_job.text, "FROM due WHERE locked LIMIT 1"
    assert limited in text
    session.run(Statement(text.replace(limited, "FROM due")), (table_of(client).queue_name(""),))
    assert database.locks() == [first.id]
    session.close_now()


def test_a_walk_past_locked_jobs_doesnt_end_in_the_future(client: qg.Client) -> None:
    client.enqueue_batch([qg.Job("Now"), qg.Job("Later", run_at=datetime(2090, 1, 1, tzinfo=timezone.utc))])
    with client.lock_job():
        assert client.lock_job() is None


def test_only_the_job_that_is_worked_is_locked(client: qg.Client, database: Database) -> None:
    first, second, *_ = client.enqueue_batch(qg.Job("MyJob") for _ in range(10))
    with client.lock_job():
        assert database.locks() == [first.id]
        with client.lock_job():
            assert database.locks() == [first.id, second.id]


@pytest.mark.parametrize("args", ["[" * 3000 + "]" * 3000, "[" + "9" * 5000 + "]"], ids=["deep", "long number"])
def test_a_job_that_python_cant_read_is_that_jobs_error_and_the_next_one_comes(
    client: qg.Client, database: Database, args: str
) -> None:
    with suppress(ValueError, RecursionError):
        json.loads(args)
        pytest.skip("this Python reads arguments as deep as PostgreSQL nests them")
    database.query("INSERT INTO jobs (job_class, args) VALUES ('Bad', %s::json)", (args,))
    good = client.enqueue(qg.Job("Good"))
    with client.lock_job() as job:
        assert job.id == good.id
        assert database.locks() == [good.id]
    ((_, _, error_count, last_error), _) = database.jobs()
    assert error_count == 1
    assert last_error.startswith(("RecursionError: ", "ValueError: "))


def test_an_unreadable_job_that_is_due_again_at_once_doesnt_keep_lock_job_for_ever(
    dsn: str, database: Database
) -> None:
    with qg.Client(dsn, backoff=lambda error_count: 0) as client:
        database.query("INSERT INTO jobs (job_class, args) VALUES ('Bad', %s::json)", (f"[{'9' * 5000}]",))
        with pytest.raises(qg.ErrAgain, match="unreadable"):
            client.lock_job()
    assert database.jobs()[0][2] == 10
    assert database.locks() == []


@pytest.mark.parametrize("run_at", ["-infinity", "0044-03-15 12:00:00 BC", "0001-01-01 00:00:00+00"])
def test_a_run_at_beyond_datetime_is_worked_like_any_other(client: qg.Client, database: Database, run_at: str) -> None:
    database.query("INSERT INTO jobs (job_class, run_at) VALUES ('Old', %s)", (run_at,))
    with client.lock_job() as job:
        assert job.run_at.year == 1
        job.delete()
    assert database.count() == 0


class Audited(qg.Job):
    def delete(self) -> None:
        with self.tx.cursor() as cur:
            cur.execute("INSERT INTO audit VALUES (%s)", (self.id,))
        super().delete()


def test_job_class_says_what_a_locked_job_is(dsn: str, database: Database) -> None:
    database.query("CREATE TABLE audit (id bigint)")
    try:
        with qg.Client(dsn, job_class=Audited) as client:
            client.enqueue(qg.Job("MyJob"))
            with client.lock_job() as job:
                assert isinstance(job, Audited)
                job.delete()
            client.enqueue(qg.Job("MyJob"))
            assert qg.Worker(client, {"MyJob": lambda job: None}).work_one()
        assert database.query("SELECT id FROM audit ORDER BY id") == [(1,), (2,)]
        assert database.count() == 0
    finally:
        database.query("DROP TABLE audit")


def test_a_job_class_that_refuses_a_row_is_that_jobs_error(dsn: str, database: Database) -> None:
    class Picky(qg.Job):
        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.args:
                raise LookupError("no args")

    with qg.Client(dsn, job_class=Picky) as client:
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob", [1])])
        with client.lock_job() as job:
            assert job.args == [1]
    assert database.jobs()[0][3].startswith("LookupError: no args")


def test_a_forgotten_job_frees_its_lock_when_it_is_collected(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    job = client.lock_job()
    assert database.locks() == [job.id]
    del job
    eventually(lambda: database.locks() == [], "the lock's end")


def test_the_database_being_away_is_psycopg2s_error(dsn: str, network) -> None:
    with qg.Client(network.dsn) as client:
        network.cut()
        with pytest.raises(psycopg2.OperationalError):
            client.lock_job()
