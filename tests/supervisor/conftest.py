"""Workers as processes, a table for what their jobs do, and a lock that jobs wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Database, eventually, needs
from working import Working

import qg

needs("qg.cli.work")


@pytest.fixture
def effects(database: Database) -> Iterator[Callable[[], list[int]]]:
    """A function that returns the ids of the jobs that have left an effect, each as often as it has."""
    database.query("CREATE TABLE effects (id bigint NOT NULL, pid int NOT NULL)")
    yield lambda: [number for (number,) in database.query("SELECT id FROM effects ORDER BY id")]
    database.query("DROP TABLE effects")


@pytest.fixture
def work(dsn: str, tmp_path: Path, effects: object) -> Iterator[Callable[..., Working]]:
    """A function that starts qg work; what is left of it is killed at the end."""
    started: list[Working] = []

    def start(*arguments: str, dsn: str = dsn, **more: object) -> Working:
        log = tmp_path / f"log-{len(started)}"
        started.append(Working(log, *arguments, dsn=dsn, **more))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def jobs_tables(database: Database) -> Database:
    """The database with the tables of qg.jobs, empty."""
    needs("qg.jobs").migrate(database.dsn)
    database.query(
        "TRUNCATE qg_jobs_history, qg_jobs_worker_pool, qg_jobs_schedule, qg_jobs_tick RESTART IDENTITY CASCADE"
    )
    return database


@pytest.fixture
def gate(database: Database) -> Iterator[Callable[[], None]]:
    """Jobs of type Wait wait; the function lets them go on."""
    database.query("SELECT pg_advisory_lock(8, 8)")
    yield lambda: database.query("SELECT pg_advisory_unlock_all()")
    database.query("SELECT pg_advisory_unlock_all()")


@pytest.fixture
def waiting(database: Database) -> Callable[[int], object]:
    """A function that returns when so many jobs wait at the gate."""

    def wait(count: int) -> object:
        statement = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return eventually(lambda: database.value(statement) == count, f"{count} jobs at the gate", timeout=30)

    return wait


@pytest.fixture
def add(dsn: str) -> Callable[..., list[int]]:
    """A function that enqueues so many jobs of a type, and returns their ids."""

    def add(job_type: str, count: int = 1, *, args: tuple[object, ...] = (), queue: str = "") -> list[int]:
        with qg.Client(dsn) as client:
            jobs = client.enqueue_batch([qg.Job(job_type, list(args), queue=queue) for _ in range(count)])
        return [number for job in jobs if (number := job.id) is not None]

    return add
