"""What the tests of taking jobs share: handlers, jobs to work, and what is found after them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from support import ID, VERSION, Database, Network, UntilEmpty, eventually, take_plainly

import qg

PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)
FUTURE = datetime(2999, 1, 1, tzinfo=timezone.utc)
BATCH_SIZES = [1, 2, 5]
WAYS = ["work_one", "work", "work plainly", "batches", "hands"]
each_way = pytest.mark.parametrize("way", WAYS)
from_4 = pytest.mark.skipif(VERSION == 3, reason="version 3 keeps no finished jobs")
each_batch_size = pytest.mark.parametrize("batch_size", BATCH_SIZES)


def write(job: qg.Job) -> None:
    with job.tx.cursor() as cur:
        cur.execute("INSERT INTO written VALUES (%s)", (job.id,))


def all_written(database: Database) -> list[int]:
    return [x for (x,) in database.query("SELECT x FROM written ORDER BY x")]


def do_nothing(job: qg.Job) -> None:
    pass


def fail(job: qg.Job) -> None:
    raise LookupError(f"no {job.id}")


def write_and_delete(job: qg.Job) -> None:
    write(job)
    job.delete()


def fill(database: Database, count: int, kind: str = "MyJob") -> None:
    database.query(
        "INSERT INTO jobs (job_class, run_at) SELECT %s, %s FROM generate_series(1, %s)", (kind, PAST, count)
    )


def first_lines(database: Database) -> list[tuple[Any, ...]]:
    """Id, error_count and the first line of last_error of every job."""
    return [(job_id, count, text and text.split("\n")[0]) for job_id, _, count, text in database.jobs()]


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[str]:
    """The messages logged, up to their colon or their seconds; only those that begin with one of *names*, if any."""
    messages = [record.message.split(": ")[0].split(" seconds=")[0] for record in caplog.records]
    return [each for each in messages if not names or each.startswith(names)]


def execute(conn: Any, sql: str) -> None:
    """Run *sql* on *conn* outside any transaction, and leave its mode as it was."""
    mode, conn.autocommit = conn.autocommit, True
    conn.cursor().execute(sql)
    conn.autocommit = mode


def work_all(client: qg.Client, database: Database, handler: Callable[[qg.Job], None], batch_size: int) -> None:
    """Work until the table is empty, though a session that was closed keeps its locks for a moment."""

    def is_empty() -> bool:
        UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
        return database.count() == 0

    eventually(is_empty)


def work(client: qg.Client, way: str, handler: Callable[[qg.Job], object], **hooks: Any) -> None:
    """Work all jobs in this *way*, one of WAYS, or until one can't be recorded."""
    take_plainly(client, way.endswith("plainly"))
    worker = UntilEmpty(
        client,
        {"MyJob": handler},
        batch_size=5 if way == "batches" else 1,
        hands=1 if way.startswith("hands") else 0,
        **hooks,
    )
    if way == "work_one":
        while worker.work_one():
            pass
    else:
        worker.work()


def left(database: Database) -> list[int]:
    """The jobs that are still to be done."""
    condition = "true" if VERSION == 3 else "finished_at IS NULL AND expired_at IS NULL"
    return [number for (number,) in database.query(f"SELECT {ID} FROM que_jobs WHERE {condition} ORDER BY {ID}")]


def kinds(network: Network, *, lockers: bool = False) -> list[str]:
    """What each message does, in short; with *lockers* those to their table too, one at each end of a worker's work.

    What a session is called counts for nothing: it is said once, and taken back once. Nor does the look whether a queue
    is paused, once in 1.5 s for all workers of a client.
    """
    known = {
        "INSERT INTO que_lockers": "enlist",
        "DELETE FROM que_lockers": "leave",
        "EXECUTE que_delete_jobs": "delete jobs",
        "EXECUTE que_take_jobs": "take",
        "EXECUTE que_set_error": "set error",
        "WITH changed": "delete",
        "SELECT pg_advisory_unlock(": "unlock",
        "WHERE pg_advisory_unlock(id)": "unlock some",
        "INSERT INTO written": "write",
        "INSERT INTO que_jobs": "insert",
        "EXECUTE que_insert_job": "insert",
    }
    result = []
    for statement in network.statements:
        plain = statement.replace('"public".', "").replace("pg_catalog.", "")
        if plain.startswith("SELECT set_config('application_name'") and ";" not in plain:
            continue
        if "qg_queues" in plain:
            continue
        parts = [short for text, short in known.items() if text in plain]
        result.append("+".join(parts) or statement)
    return result if lockers else [kind for kind in result if kind not in ("enlist+leave", "leave")]
