"""The tables of qg.jobs, empty, and queues on them that are shut down at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import PATIENCE, Database, jobs_tables_of, needs

import qg

jobs = needs("qg.jobs")
for library in ("attrs", "opentelemetry.sdk", "pydantic"):
    needs(library)

from qg.jobs.schedules import Schedules  # noqa: E402 - what needs the extra comes after the question for it
from qg.jobs.telemetry import Telemetry  # noqa: E402


@pytest.fixture(scope="session")
def _jobs_tables(session_dsn: str) -> None:
    jobs.migrate(session_dsn)


@pytest.fixture
def jobs_database(database: Database, _jobs_tables: None) -> Database:
    """The test's database, with que_jobs and the tables of qg.jobs empty."""
    database.query(
        "TRUNCATE qg_jobs_history, qg_jobs_worker_pool, qg_jobs_schedule, qg_jobs_tick RESTART IDENTITY CASCADE"
    )
    return database


@pytest.fixture
def make_queue(jobs_database: Database) -> Iterator[Callable[..., jobs.PostgresJobs]]:
    """A function that returns a PostgresJobs with few workers that look often."""
    queues: list[jobs.PostgresJobs] = []

    def make(source: object = None, **options: Any) -> jobs.PostgresJobs:
        options = {"poll_interval": 0.05, "pool_size": 2, **options}
        queues.append(jobs.PostgresJobs(jobs_database.dsn if source is None else source, **options))
        return queues[-1]

    yield make
    for queue in queues:
        assert queue.shutdown(PATIENCE)


@pytest.fixture
def queue(make_queue: Callable[..., jobs.PostgresJobs]) -> jobs.PostgresJobs:
    return make_queue()


@pytest.fixture
def make_schedules(jobs_database: Database) -> Iterator[Callable[..., Schedules]]:
    """A function that returns the schedules of a queue, each with a client of its own; they fire at tick()."""
    clients: list[qg.Client] = []

    def make(queue: str = "", telemetry: Telemetry | None = None) -> Schedules:
        clients.append(qg.Client(jobs_database.dsn))
        return Schedules(clients[-1], jobs_tables_of(clients[-1]), queue, telemetry or Telemetry(None, None))

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def schedules(make_schedules: Callable[..., Schedules]) -> Schedules:
    return make_schedules()
