"""What qg.jobs costs above the core: jobs that do nothing, and jobs that write a row where their deletion commits.

The opponents keep a record of what they did, as qg.jobs does. The core's batches keep none; they tell how
much of the speed is left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.contenders import DOING_NOTHING, WRITING, Contender, Way
from benchmarks.run import Run
from benchmarks.server import Database

__all__ = ["DEFAULT_WORKERS", "WORKERS", "case", "measure"]

DEFAULT_WORKERS = 10
WORKERS = {DOING_NOTHING: (1, 4, DEFAULT_WORKERS), WRITING: (1, DEFAULT_WORKERS)}

_SCENARIO = "facade"


def case(way: str, workers: int) -> str:
    """Return how the results name it."""
    return f"{way}, {workers} worker{'s' if workers > 1 else ''}"


def measure(run: Run) -> None:
    """Measure every contender in both ways, as far as it has them, run by run."""
    with run.databases(_SCENARIO, run.with_a_way(DOING_NOTHING, WRITING)) as databases:
        for database in databases.values():
            database.run("CREATE TABLE written (number integer)")
        for way, numbers in WORKERS.items():
            for workers in numbers:
                runs: dict[str, Callable[[], float]] = {
                    contender.name: partial(
                        _drain, contender, database, contender.ways[way], workers, run.durations.short_seconds
                    )
                    for contender, database in databases.items()
                    if way in contender.ways
                }
                run.results.alternate(_SCENARIO, case(way, workers), "jobs/s", run.durations.rounds, runs)


def _drain(contender: Contender, database: Database, way: Way, workers: int, seconds: float) -> float:
    jobs = int(way.pace * seconds)
    database.run("TRUNCATE written")
    database.refill(jobs)
    return contender.drain(database, way, workers, jobs, seconds)
