"""qg in batches of 100 with 8 to 128 workers, who all sleep until one statement enqueues all jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from benchmarks.contenders import BATCHES, QG, Contender
from benchmarks.results import Readings
from benchmarks.run import Run
from benchmarks.server import Database

__all__ = ["MANY", "WAYS", "WORKERS", "case", "measure"]

WORKERS = (8, 16, 32, 64, 128)
MANY = (64, 128)
# What a job does, by its milliseconds of sleep. With so many jobs a second a run takes as long as others.
WAYS = {"jobs do nothing": (0, 20_000), "jobs sleep for 1 ms": (1, 8_000)}

_SCENARIO = "scale"
_BATCH = 100
_START_SECONDS = 30
_SETTLE_SECONDS = 0.5
_IDLE = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND state = 'idle' AND pid <> pg_backend_pid()"
)


def case(way: str, workers: int) -> str:
    """Return how the results name it."""
    return f"{way}, {workers} workers"


def measure(run: Run) -> None:
    """Measure qg alone; the numbers of workers take turns. A server with few connections is left to fewer workers."""
    with run.databases(_SCENARIO, [each for each in run.contenders if each is QG], notify=True) as databases:
        for contender, database in databases.items():
            able = [workers for workers in WORKERS if workers <= database.room()]
            for workers in WORKERS[len(able) :]:
                run.results.fail(f"{_SCENARIO}: {workers} workers: the server has connections for {database.room()}")
            for way, (milliseconds, pace) in WAYS.items():
                jobs = int(pace * run.durations.short_seconds)
                runs: dict[str, Callable[[], Readings]] = {
                    contender.name: partial(_drain_each, contender, database, able, milliseconds, jobs)
                }
                run.results.alternate(_SCENARIO, way, "jobs/s", run.durations.rounds, runs)


def _drain_each(contender: Contender, database: Database, numbers: list[int], milliseconds: int, jobs: int) -> Readings:
    return {f"{workers} workers": _drain(contender, database, workers, milliseconds, jobs) for workers in numbers}


def _drain(contender: Contender, database: Database, workers: int, milliseconds: int, jobs: int) -> float:
    """Return how many jobs a second leave the database, from the first one's begin until none is left."""
    database.refill(0)
    options = {"batch_size": _BATCH, "milliseconds": milliseconds}
    with contender.workers(database, contender.ways[BATCHES], workers, **options) as process:
        process.go()
        _wait_until_idle(database, workers)
        database.fill(jobs)
        if not process.wait_for_jobs(jobs, _START_SECONDS):
            raise TimeoutError(f"{jobs} jobs didn't begin within {_START_SECONDS} s")
        return jobs / (database.wait_until_finished(_START_SECONDS) - process.first)


def _wait_until_idle(database: Database, workers: int) -> None:
    """Wait until all workers are connected and idle, and so is the connection that listens."""
    deadline = time.monotonic() + _START_SECONDS
    while int(str(database.value(_IDLE))) <= workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the {workers} workers weren't there within {_START_SECONDS} s")
        time.sleep(0.05)
    time.sleep(_SETTLE_SECONDS)
