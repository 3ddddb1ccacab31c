"""What a pool of 8 takes at rest and under load, and what a job costs the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import psutil

from benchmarks.contenders import BATCHES, ONE_BY_ONE, Contender, Way
from benchmarks.results import Readings
from benchmarks.run import Run
from benchmarks.server import Database
from benchmarks.watch import cpu_seconds, memory_mb, most_of
from benchmarks.wire import counted_round_trips

__all__ = ["IDLE_CPU", "IDLE_MEMORY", "ROUND_TRIPS", "WRITES", "case", "measure"]

IDLE_MEMORY = "at rest, memory"
IDLE_CPU = "at rest, share of a core"
ROUND_TRIPS = "round trips"
WRITES = "commits"

_SCENARIO = "footprint"
_POOL = 8
_COST_WORKERS = 4
_SETTLE_SECONDS = 3
_MEMORY_SECONDS = 0.02
_WAL_BYTES = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
# A transaction that writes something gets a number, and its commit is on disk before it returns; one
# that only reads or locks gets none, and costs no commit worth the name.
_WRITING_TRANSACTIONS = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"


def case(way: str, what: str) -> str:
    """Return how the results name a cost per 1000 jobs."""
    return f"{way}, per 1000 jobs, {what}"


def measure(run: Run) -> None:
    """Measure every queue: all at rest side by side, then one after the other under load, run by run."""
    queues = [contender for contender in run.with_a_way(ONE_BY_ONE, BATCHES) if contender.is_queue]
    with run.databases(_SCENARIO, queues) as databases:
        for _ in range(run.durations.rounds):
            _measure_at_rest(run, databases)
        for way in (ONE_BY_ONE, BATCHES):
            able = {contender: each for contender, each in databases.items() if way in contender.ways}
            memory: dict[str, Callable[[], float]] = {
                contender.name: partial(_memory_under_load, contender, database, contender.ways[way])
                for contender, database in able.items()
            }
            run.results.alternate(_SCENARIO, f"{way}, memory under load", "MB", run.durations.rounds, memory)
            cost: dict[str, Callable[[], Readings]] = {
                contender.name: partial(_cost, contender, database, contender.ways[way])
                for contender, database in able.items()
            }
            run.results.alternate(_SCENARIO, f"{way}, per 1000 jobs", "", run.durations.rounds, cost)


def _measure_at_rest(run: Run, databases: dict[Contender, Database]) -> None:
    with ExitStack() as stack:
        processes = {}
        for contender, database in databases.items():
            database.refill(0)
            way = next(iter(contender.ways.values()))
            workers = stack.enter_context(contender.workers(database, way, _POOL, each=1))
            workers.go()
            processes[contender.name] = psutil.Process(workers.pid)
        time.sleep(_SETTLE_SECONDS)
        began = time.monotonic()
        before = {name: cpu_seconds(process) for name, process in processes.items()}
        time.sleep(run.durations.idle_seconds)
        elapsed = time.monotonic() - began
        for name, process in processes.items():
            percent = 100 * (cpu_seconds(process) - before[name]) / elapsed
            run.results.add(_SCENARIO, IDLE_CPU, name, "%", percent)
            run.results.add(_SCENARIO, IDLE_MEMORY, name, "MB", memory_mb(process))


def _memory_under_load(contender: Contender, database: Database, way: Way) -> float:
    """Return the most that 8 workers have in memory while they drain for about a second."""
    jobs = max(1000, way.pace)
    database.refill(jobs)
    with contender.workers(database, way, _POOL) as workers:
        process = psutil.Process(workers.pid)
        with most_of(lambda: memory_mb(process), _MEMORY_SECONDS) as most:
            workers.go()
            workers.wait_for_jobs(jobs, 30)
    return most[0]


def _cost(contender: Contender, database: Database, way: Way) -> Readings:
    """Return what 1000 jobs more cost: the difference between a longer and a shorter run leaves out the start."""
    jobs = max(500, way.pace)
    shorter, longer = (_spent(contender, database, way, each) for each in (jobs, 3 * jobs))
    return {what: 1000 * (longer[what] - shorter[what]) / (2 * jobs) for what in shorter}


def _spent(contender: Contender, database: Database, way: Way, jobs: int) -> dict[str, float]:
    database.refill(jobs)
    with counted_round_trips(database.environment) as (environment, trips):
        before = _counters(database)
        contender.drain(replace(database, environment=environment), way, _COST_WORKERS, jobs, 30)
        spent = {what: after - before[what] for what, after in _counters(database).items()}
        return {ROUND_TRIPS: trips.count, **spent}


def _counters(database: Database) -> dict[str, float]:
    return {
        WRITES: float(str(database.value(_WRITING_TRANSACTIONS))),
        "kB of WAL": float(str(database.value(_WAL_BYTES))) / 1000,
    }
