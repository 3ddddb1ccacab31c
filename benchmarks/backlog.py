"""Draining while the backlog stays at 1 thousand, 100 thousand and 1 million: what is taken is put back at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.contenders import BATCHES, ONE_BY_ONE, Contender
from benchmarks.run import Run, in_thread
from benchmarks.server import Database
from benchmarks.workers import Workers

__all__ = ["case", "measure"]

_SCENARIO = "backlog"
_WORKERS = 4
# The workers together must not lock the whole of the smallest backlog.
_BATCH = 50
# So few that filling them in anew for each run takes no time. In deeper ones it doesn't matter that
# an opponent which was stopped leaves some jobs marked as running.
_FEW = 10_000


def case(way: str, depth: int) -> str:
    """Return how the results name it."""
    return f"{way}, {depth:,} waiting"


def measure(run: Run) -> None:
    """Measure qg in both ways and each opponent in its fastest, run by run."""
    queues = [contender for contender in run.contenders if contender.is_queue and BATCHES in contender.ways]
    with run.databases(_SCENARIO, queues, notify=True) as databases:
        for depth in run.durations.depths:
            for database in databases.values():
                database.refill(depth)
            for way in (ONE_BY_ONE, BATCHES):
                runs: dict[str, Callable[[], float]] = {
                    contender.name: partial(_drain, contender, database, way, depth, run.durations.run_seconds)
                    for contender, database in databases.items()
                    if way in contender.ways
                }
                run.results.alternate(_SCENARIO, case(way, depth), "jobs/s", run.durations.rounds, runs)


def _drain(contender: Contender, database: Database, way: str, depth: int, seconds: float) -> float:
    if depth <= _FEW:
        database.refill(depth)
    else:
        database.settle()
    options = {"batch_size": _BATCH} if way == BATCHES else {}
    with (
        contender.workers(database, contender.ways[way], _WORKERS, **options) as process,
        _topped_up(process, database),
    ):
        process.go()
        process.wait_for_first_job()
        time.sleep(seconds / 5)
        began = time.monotonic()
        time.sleep(seconds)
        return process.rate_since(began)


@contextmanager
def _topped_up(process: Workers, database: Database) -> Iterator[None]:
    """Put back as many jobs as have begun, as soon as that is known, until the block has ended."""

    def top_up(done: threading.Event) -> None:
        added = 0
        while not done.is_set():
            if process.wait_for_jobs(added + 1, 0.1):
                missing = process.handled - added
                database.fill(missing)
                added += missing

    with in_thread(top_up):
        yield
