"""Enqueueing by one client, one job a call and a thousand a call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.contenders import Contender
from benchmarks.run import Run
from benchmarks.server import Database

__all__ = ["BULK", "SINGLE", "measure"]

SINGLE = "one a call"
BULK = "1000 a call"

_SCENARIO = "enqueue"
_BULK_SIZE = 1000


def measure(run: Run) -> None:
    """Measure every contender that enqueues, run by run."""
    able = [contender for contender in run.contenders if contender.single or contender.bulk]
    seconds, rounds = run.durations.run_seconds, run.durations.rounds
    with run.databases(_SCENARIO, able) as databases:
        singly: dict[str, Callable[[], float]] = {
            contender.name: partial(_enqueue, contender, database, int(contender.single * seconds), 1)
            for contender, database in databases.items()
            if contender.single
        }
        run.results.alternate(_SCENARIO, SINGLE, "jobs/s", rounds, singly)
        in_bulk: dict[str, Callable[[], float]] = {
            contender.name: partial(_enqueue, contender, database, _whole_calls(contender.bulk * seconds), _BULK_SIZE)
            for contender, database in databases.items()
            if contender.bulk
        }
        run.results.alternate(_SCENARIO, BULK, "jobs/s", rounds, in_bulk)


def _enqueue(contender: Contender, database: Database, jobs: int, a_call: int) -> float:
    database.refill(0)
    return contender.enqueue(database, jobs, a_call)


def _whole_calls(jobs: float) -> int:
    return max(1, round(jobs / _BULK_SIZE)) * _BULK_SIZE
