"""Draining behind the dead rows that a snapshot, held open elsewhere, keeps from being removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.contenders import BATCHES, ONE_BY_ONE, Contender, Way
from benchmarks.results import Readings
from benchmarks.run import Run
from benchmarks.server import Database

__all__ = ["CLEAN", "DEAD", "case", "held_snapshot", "measure"]

CLEAN = "clean"
DEAD = "behind dead rows"

_SCENARIO = "snapshots"
_WORKERS = 4


def case(way: str, state: str) -> str:
    """Return how the results name it."""
    return f"{way}, {_WORKERS} workers, {state}"


@contextmanager
def held_snapshot(database: Database) -> Iterator[None]:
    """Hold a snapshot of *database* open during the block, as a long report or a backup does."""
    conn = database.another_connection()
    try:
        with conn.cursor() as cur:
            cur.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cur.execute("SELECT count(*) FROM pg_class")
        yield
    finally:
        conn.close()


def measure(run: Run) -> None:
    """Measure every contender in every way, clean and behind dead rows, run by run."""
    with run.databases(_SCENARIO, run.with_a_way(ONE_BY_ONE, BATCHES)) as databases:
        for way in (ONE_BY_ONE, BATCHES):
            runs: dict[str, Callable[[], Readings]] = {
                contender.name: partial(_drain_both, contender, database, contender.ways[way], run)
                for contender, database in databases.items()
                if way in contender.ways
            }
            run.results.alternate(_SCENARIO, f"{way}, {_WORKERS} workers", "jobs/s", run.durations.rounds, runs)


def _drain_both(contender: Contender, database: Database, way: Way, run: Run) -> Readings:
    seconds = run.durations.run_seconds
    jobs = int(way.pace * seconds)
    database.refill(jobs)
    clean = contender.drain(database, way, _WORKERS, jobs, seconds)
    database.refill(0)
    with held_snapshot(database):
        database.fill(run.durations.dead_rows)
        database.run(database.tables.delete)
        database.fill(jobs)
        database.settle()
        dead = contender.drain(database, way, _WORKERS, jobs, seconds)
    return {CLEAN: clean, DEAD: dead}
