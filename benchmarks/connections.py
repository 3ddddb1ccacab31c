"""Sixteen workers on two connections, beside workers that take batches of 500 on a connection each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.contenders import BATCHES, FEW_CONNECTIONS, QG, QG_FEW, Contender, Way
from benchmarks.results import Readings
from benchmarks.run import Run
from benchmarks.server import Database

__all__ = ["BATCHING", "WORKERS", "case", "measure"]

WORKERS = 16
BATCHING = (2, 4, WORKERS)

_SCENARIO = "connections"
_CASE = "jobs do nothing"


def case(workers: int) -> str:
    """Return how the results name it."""
    return f"{_CASE}, {workers} workers"


def measure(run: Run) -> None:
    """Measure qg in both ways, run by run."""
    ways: dict[Contender, tuple[Way, Sequence[int]]] = {
        QG: (QG.ways[BATCHES], BATCHING),
        QG_FEW: (QG_FEW.ways[FEW_CONNECTIONS], (WORKERS,)),
    }
    with run.databases(_SCENARIO, [each for each in run.contenders if each in ways]) as databases:
        runs: dict[str, Callable[[], Readings]] = {
            contender.name: partial(_drain_each, contender, database, *ways[contender], run.durations.short_seconds)
            for contender, database in databases.items()
        }
        run.results.alternate(_SCENARIO, _CASE, "jobs/s", run.durations.rounds, runs)


def _drain_each(contender: Contender, database: Database, way: Way, numbers: Sequence[int], seconds: float) -> Readings:
    jobs = int(way.pace * seconds)
    rates = {}
    for workers in numbers:
        database.refill(jobs)
        rates[f"{workers} workers"] = contender.drain(database, way, workers, jobs, seconds)
    return rates
