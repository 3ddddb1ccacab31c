"""Bad input gets a clear error, and nothing is written."""

from __future__ import annotations

import math
from datetime import date, datetime, timezone
from typing import Any

import pytest
from support import Database

import qg

HANDLERS = {"MyJob": print}


def deeply_nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def circular() -> list:
    value: list = []
    value.append(value)
    return value


BAD_JOBS = [
    ("no type", qg.Job(""), "needs a type"),
    ("type None", qg.Job(None), "needs a type"),
    ("type int", qg.Job(5), "type must be a string, not int"),
    ("type bytes", qg.Job(b"MyJob"), "type must be a string, not bytes"),
    ("type with NUL", qg.Job("My\x00Job"), "NUL"),
    ("type with a surrogate", qg.Job("My\ud800Job"), "valid Unicode"),
    ("queue None", qg.Job("MyJob", queue=None), "queue must be a string, not NoneType"),
    ("queue with NUL", qg.Job("MyJob", queue="\x00"), "NUL"),
    ("priority too low", qg.Job("MyJob", priority=-32769), "between -32768 and 32767"),
    ("priority too high", qg.Job("MyJob", priority=32768), "between -32768 and 32767"),
    ("priority float", qg.Job("MyJob", priority=1.0), "must be an integer, not float"),
    ("priority bool", qg.Job("MyJob", priority=True), "must be an integer, not bool"),
    ("priority None", qg.Job("MyJob", priority=None), "must be an integer, not NoneType"),
    ("naive run_at", qg.Job("MyJob", run_at=datetime(2030, 1, 1)), "no time zone"),
    ("run_at a date", qg.Job("MyJob", run_at=date(2030, 1, 1)), "must be a datetime or None, not date"),
    ("run_at a string", qg.Job("MyJob", run_at="2030-01-01"), "must be a datetime or None, not str"),
    ("args NaN", qg.Job("MyJob", [math.nan]), "aren't JSON"),
    ("args Infinity", qg.Job("MyJob", {"a": math.inf}), "aren't JSON"),
    ("args a set", qg.Job("MyJob", {1, 2}), "set is not JSON serializable"),
    ("args a datetime", qg.Job("MyJob", [datetime.now(timezone.utc)]), "datetime is not JSON serializable"),
    ("args with a number as key", qg.Job("MyJob", [{"a": ({1: 2},)}]), "the key 1 is no string"),
    ("args that hold themselves", qg.Job("MyJob", circular()), "Circular reference"),
    ("args nested too deeply", qg.Job("MyJob", deeply_nested(100_000)), "nested too deeply"),
    ("raw args that don't parse", qg.Job("MyJob", b"[1,"), "aren't JSON"),
    ("raw args that are empty", qg.Job("MyJob", b""), "aren't JSON"),
    ("raw args with NaN", qg.Job("MyJob", b"[NaN]"), "NaN is no JSON number"),
    ("raw args in UTF-16", qg.Job("MyJob", "[1]".encode("utf-16")), "aren't JSON"),
    ("raw args with a BOM", qg.Job("MyJob", b"\xef\xbb\xbf[1]"), "aren't JSON"),
    ("raw args nested too deeply", qg.Job("MyJob", b"[" * 100_000), "nested too deeply"),
    ("no job at all", "MyJob", "only a qg.Job can be enqueued, not str"),
]
bad_jobs = pytest.mark.parametrize(("job", "message"), [bad[1:] for bad in BAD_JOBS], ids=[bad[0] for bad in BAD_JOBS])


@bad_jobs
def test_a_job_that_cant_be_stored_is_refused(client: qg.Client, database: Database, job: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        client.enqueue(job)
    assert isinstance(caught.value, qg.ErrInvalidJob)
    assert database.count() == 0


@bad_jobs
def test_one_bad_job_keeps_its_whole_batch_out(client: qg.Client, database: Database, job: Any, message: str) -> None:
    with pytest.raises(qg.ErrInvalidJob, match=message):
        client.enqueue_batch([qg.Job("Good"), job])
    with pytest.raises(qg.ErrInvalidJob, match=message):
        client.enqueue_batch_in_tx([qg.Job("Good"), job], database.conn)
    assert database.count() == 0


@pytest.mark.parametrize("missing", ["", None])
def test_a_missing_type_has_an_error_of_its_own(client: qg.Client, missing: Any) -> None:
    with pytest.raises(qg.ErrMissingType):
        client.enqueue(qg.Job(missing))


def test_args_are_not_repeated_in_the_message(client: qg.Client) -> None:
    with pytest.raises(qg.ErrInvalidJob) as caught:
        client.enqueue(qg.Job("MyJob", {"password": "hunter2", "x": object()}))
    assert "hunter2" not in str(caught.value)


def test_the_same_object_twice_in_a_batch_is_refused(client: qg.Client, database: Database) -> None:
    with pytest.raises(qg.ErrInvalidJob, match="same Job object twice"):
        client.enqueue_batch([qg.Job("MyJob")] * 2)
    assert database.count() == 0


def test_a_job_that_is_locked_cant_be_enqueued(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        with pytest.raises(qg.ErrInvalidJob, match="is locked and so in the queue already"):
            client.enqueue(job)
        with pytest.raises(qg.ErrInvalidJob, match="is locked"):
            client.enqueue_in_tx(job, job.tx)
    assert database.count() == 1


@pytest.mark.parametrize("queue", [None, 5, "a\x00b"])
def test_a_queue_that_cant_be_is_refused_when_locking_and_working(client: qg.Client, queue: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="queue"):
        client.lock_job(queue)
    if queue is not None:
        with pytest.raises(qg.ErrInvalidOption, match="queue"):
            qg.Worker(client, HANDLERS, queue=queue)
        with pytest.raises(qg.ErrInvalidOption, match="queue"):
            qg.WorkerPool(client, HANDLERS, 1, queue=queue)


@pytest.mark.parametrize("interval", [-1, -0.001, math.nan, math.inf, "5", True])
def test_an_interval_out_of_bounds_is_refused(client: qg.Client, interval: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="interval must be"):
        qg.Worker(client, HANDLERS, interval=interval)
    pool = qg.WorkerPool(client, HANDLERS, 1)
    with pytest.raises(qg.ErrInvalidOption, match="interval must be"):
        pool.interval = interval
    assert pool.interval == 5


@pytest.mark.parametrize("count", [-1, 1.5, "4", None, True])
def test_a_count_out_of_bounds_is_refused(client: qg.Client, count: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="count must be a number of workers"):
        qg.WorkerPool(client, HANDLERS, count)


@pytest.mark.parametrize("number", [0, -1, 5, 1.0, "2", True, False])
def test_a_number_of_shared_connections_out_of_bounds_is_refused(client: qg.Client, number: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=f"connections must be a number from 1 to count, 4, not {number!r}"):
        qg.WorkerPool(client, HANDLERS, 4, connections=number)
    with pytest.raises(qg.ErrInvalidOption, match=f"transactions must be a number from 1 to count, 4, not {number!r}"):
        qg.WorkerPool(client, HANDLERS, 4, connections=1, transactions=number)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transactions": 2}, "transactions= says how many connections workers lease beside connections="),
        ({"connections": 2, "batch_size": 2}, "batch_size has no meaning beside connections="),
        ({"connections": 2, "batch_size": "2"}, "batch_size must be a number of jobs"),
    ],
)
def test_options_that_dont_go_together_are_refused(client: qg.Client, options: Any, message: str) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=message):
        qg.WorkerPool(client, HANDLERS, 4, **options)


@pytest.mark.parametrize("work_map", [None, [("MyJob", print)], {"": print}, {5: print}, {"MyJob": None}])
def test_a_work_map_that_is_none_is_refused(client: qg.Client, dsn: str, work_map: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption):
        qg.Worker(client, work_map)
    with pytest.raises(qg.ErrInvalidOption):
        qg.WorkerPool(client, work_map, 1)
    if work_map is not None:
        with pytest.raises(qg.ErrInvalidOption):
            qg.Client(dsn, run_synchronously=work_map)


@pytest.mark.parametrize(
    "options", [{"backoff": 5}, {"job_class": object}, {"job_class": qg.Job("MyJob")}, {"logger": "qg"}]
)
def test_an_option_of_the_client_that_cant_be_is_refused(dsn: str, options: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=next(iter(options))):
        qg.Client(dsn, **options)


@pytest.mark.parametrize("arguments", [{}, {"at": datetime.now(timezone.utc), "after": 1}])
def test_reschedule_takes_one_of_at_and_after(arguments: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="exactly one"):
        qg.Reschedule(**arguments)


@pytest.mark.parametrize("after", [-1, math.nan, math.inf, 1e12, "5"])
def test_reschedule_refuses_a_delay_out_of_bounds(after: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="must lie between 0 and"):
        qg.Reschedule(after=after)


@pytest.mark.parametrize("at", [datetime(2030, 1, 1), date(2030, 1, 1), "2030-01-01"])
def test_reschedule_refuses_a_time_without_a_zone(at: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="is no aware datetime"):
        qg.Reschedule(at=at)


@pytest.mark.parametrize("message", [None, 5, b"bytes"])
def test_an_error_message_must_be_a_string(client: qg.Client, database: Database, message: Any) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        with pytest.raises(qg.ErrInvalidOption, match="must be a string"):
            job.error(message)
        job.delete()
    assert database.count() == 0
