"""Enqueueing outside of anybody's transaction."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import psycopg2
import pytest
from support import UNNAMED, VERSION, Database, Network

import qg

json_only = pytest.mark.skipif(VERSION > 3, reason="version 3 keeps a document as it stands, the others what it means")


def row(database: Database, job: qg.Job) -> tuple:
    return database.query(
        "SELECT queue, priority, run_at, job_class, args::text, error_count, last_error FROM jobs WHERE job_id = %s",
        (job.id,),
    )[0]


def test_a_job_with_only_a_type_gets_ques_defaults(client: qg.Client, database: Database) -> None:
    before = database.value("SELECT now()")
    job = client.enqueue(qg.Job("MyJob"))
    queue, priority, run_at, job_type, args, error_count, last_error = row(database, job)
    assert (queue, priority, job_type, args, error_count, last_error) == (UNNAMED, 100, "MyJob", "[]", 0, None)
    assert before <= run_at <= database.value("SELECT now()")


def test_the_job_given_is_returned_with_what_the_row_has(client: qg.Client, database: Database) -> None:
    job = qg.Job("MyJob")
    assert job.id is None
    assert client.enqueue(job) is job
    assert job.id == database.value("SELECT job_id FROM jobs")
    assert job.run_at == database.value("SELECT run_at FROM jobs")
    assert (job.queue, job.priority, job.error_count, job.last_error) == (UNNAMED, 100, 0, None)


@pytest.mark.parametrize("priority", [-32768, -1, 0, 5, 32767])
def test_priority_is_stored_and_0_is_one_like_any_other(client: qg.Client, database: Database, priority: int) -> None:
    assert row(database, client.enqueue(qg.Job("MyJob", priority=priority)))[1] == priority


def test_run_at_is_kept_to_the_microsecond(client: qg.Client, database: Database) -> None:
    when = datetime(2031, 2, 3, 4, 5, 6, 789012, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    job = client.enqueue(qg.Job("MyJob", run_at=when))
    assert row(database, job)[2] == when
    assert job.run_at == when


@pytest.mark.parametrize("offset", [timedelta(hours=23), timedelta(hours=-16), timedelta(microseconds=5)])
def test_run_at_may_have_an_offset_that_postgresql_wouldnt_take(
    client: qg.Client, database: Database, offset: timedelta
) -> None:
    when = datetime(2031, 2, 3, 4, 5, 6, tzinfo=timezone(offset))
    assert client.enqueue(qg.Job("MyJob", run_at=when)).run_at == when
    database.query("UPDATE que_jobs SET run_at = now()")
    with client.lock_job():
        raise qg.Reschedule(at=when)
    assert database.value("SELECT run_at FROM que_jobs") == when


@pytest.mark.parametrize("when", [datetime.min, datetime(1, 1, 2, 3, 4, 5, 60000), datetime.max])
def test_run_at_reaches_as_far_as_a_datetime(client: qg.Client, database: Database, when: datetime) -> None:
    when = when.replace(tzinfo=timezone.utc)
    assert client.enqueue(qg.Job("MyJob", run_at=when)).run_at == when


@json_only
def test_raw_args_are_kept_to_the_byte(client: qg.Client, database: Database) -> None:
    raw = '{"b" :1,\n "a": [1.50, 1e400, "\\u00e4ä\\u0000"],"b":2}'.encode()
    job = client.enqueue(qg.Job("MyJob", raw))
    assert row(database, job)[4].encode() == raw


def test_raw_args_may_hold_what_only_others_can_read(client: qg.Client, database: Database) -> None:
    raw = b"[" + b"9" * 5000 + b"]"
    assert row(database, client.enqueue(qg.Job("MyJob", raw)))[4].encode() == raw


def test_args_are_any_json_value(client: qg.Client) -> None:
    for args in (None, True, 0, 10**30, -1.5, "ä\x00\ud800", [], {}, [1, [None]], {"a": {"b": ["c"]}}):
        if VERSION > 3:
            args = ["ä\U0001f600" if isinstance(args, str) else args]  # noqa: PLW2901
        client.enqueue(qg.Job("MyJob", args))
        with client.lock_job() as job:
            assert job.args == args
            job.delete()


def test_a_custom_queue_is_stored(client: qg.Client, database: Database) -> None:
    assert row(database, client.enqueue(qg.Job("MyJob", queue="special queue ä")))[0] == "special queue ä"


def test_a_finished_job_can_be_enqueued_again_as_a_new_one(client: qg.Client, database: Database) -> None:
    first = client.enqueue(qg.Job("MyJob", [1])).id
    with client.lock_job() as job:
        job.error("no luck")
    client.enqueue(job)
    assert job.id != first
    assert (job.error_count, job.last_error) == (0, None)


def test_a_batch_gets_its_ids_in_the_order_given(client: qg.Client, database: Database) -> None:
    later = datetime(2040, 1, 1, tzinfo=timezone.utc)
    jobs = [
        qg.Job("A", [3], priority=3),
        qg.Job("B", [{"x": None}], queue="other", run_at=later),
        qg.Job("C", b"[1.0]", priority=-7),
    ]
    assert client.enqueue_batch(jobs) == jobs
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    stored = [row(database, job) for job in jobs]
    assert [each[3] for each in stored] == ["A", "B", "C"]
    assert [each[1] for each in stored] == [3, 100, -7]
    assert [each[4] for each in stored] == ["[3]", '[{"x": null}]', "[1.0]"]
    assert stored[1][0] == "other"
    assert stored[1][2] == later == jobs[1].run_at


def test_a_batch_of_ten_thousand_goes_in_at_once(client: qg.Client, database: Database) -> None:
    jobs = client.enqueue_batch(qg.Job("MyJob", [n]) for n in range(10_000))
    assert [job.id for job in jobs] == list(range(jobs[0].id, jobs[0].id + 10_000))
    assert database.value("SELECT count(DISTINCT args::text) FROM jobs") == 10_000
    assert database.value("SELECT bool_and((args->>0)::int = job_id - %s) FROM jobs", (jobs[0].id,))


def test_an_empty_batch_is_nothing(client: qg.Client, database: Database) -> None:
    assert client.enqueue_batch([]) == []
    assert client.enqueue_batch_in_tx([], object()) == []
    assert database.count() == 0


def test_a_batch_is_stored_whole_or_not_at_all(client: qg.Client, database: Database) -> None:
    database.query("ALTER TABLE que_jobs ADD CONSTRAINT picky CHECK (job_class <> 'Bad')")
    try:
        with pytest.raises(psycopg2.errors.CheckViolation):
            client.enqueue_batch([qg.Job("Good"), qg.Job("Bad")])
    finally:
        database.query("ALTER TABLE que_jobs DROP CONSTRAINT picky")
    assert database.count() == 0


def test_a_job_and_a_batch_cost_one_round_trip_each(network: Network) -> None:
    with qg.Client(network.dsn) as client:
        network.statements.clear()
        client.enqueue(qg.Job("MyJob"))
        assert len(network.statements) == 1
        client.enqueue_batch(qg.Job("MyJob") for _ in range(1000))
        assert len(network.statements) == 2
