"""Draining jobs that do nothing, with 1, 2, 4 and 8 workers, one by one and in batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.contenders import BATCHES, ONE_BY_ONE, Contender, Way
from benchmarks.run import Run
from benchmarks.server import Database

__all__ = ["case", "measure"]

_SCENARIO = "drain"


def case(way: str, workers: int) -> str:
    """Return how the results name it."""
    return f"{way}, {workers} worker{'s' if workers > 1 else ''}"


def measure(run: Run) -> None:
    """Measure every contender in every way it has, run by run."""
    with run.databases(_SCENARIO, run.with_a_way(ONE_BY_ONE, BATCHES)) as databases:
        for way in (ONE_BY_ONE, BATCHES):
            for workers in run.durations.workers:
                runs: dict[str, Callable[[], float]] = {
                    contender.name: partial(
                        _drain, contender, database, contender.ways[way], workers, run.durations.run_seconds
                    )
                    for contender, database in databases.items()
                    if way in contender.ways
                }
                run.results.alternate(_SCENARIO, case(way, workers), "jobs/s", run.durations.rounds, runs)


def _drain(contender: Contender, database: Database, way: Way, workers: int, seconds: float) -> float:
    jobs = max(1000, int(way.pace * seconds))
    database.refill(jobs)
    return contender.drain(database, way, workers, jobs, seconds)
