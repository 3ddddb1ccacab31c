"""How long a job waits for an idle worker, from the statement that enqueues it to its handler's begin."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from statistics import quantiles

from benchmarks.contenders import ONE_BY_ONE, Contender
from benchmarks.results import Readings
from benchmarks.run import Run
from benchmarks.server import Database

__all__ = ["case", "measure"]

_SCENARIO = "pickup"
_WORKERS = (1, 4)
_WARM_UP = 5
_GIVE_UP_SECONDS = 10


def case(workers: int, percentile: str) -> str:
    """Return how the results name it."""
    return f"{workers} worker{'s' if workers > 1 else ''}, {percentile}"


def measure(run: Run) -> None:
    """Measure every queue in its default way, run by run, where idle workers are woken as far as it does that."""
    waking = [contender for contender in run.contenders if contender.is_queue and ONE_BY_ONE in contender.ways]
    with run.databases(_SCENARIO, waking, notify=True) as databases:
        for workers in _WORKERS:
            runs: dict[str, Callable[[], Readings]] = {
                contender.name: partial(_pick_up, contender, database, workers, run.durations.pickups)
                for contender, database in databases.items()
            }
            run.results.alternate(_SCENARIO, case(workers, "").rstrip(", "), "ms", run.durations.rounds, runs)


def _pick_up(contender: Contender, database: Database, workers: int, pickups: int) -> Readings:
    """Enqueue one job after another, each by the same connection's SQL, and return the percentiles of their waits."""
    pauses = random.Random(1)
    database.refill(0)
    waits = []
    with contender.workers(database, contender.ways[ONE_BY_ONE], workers, each=1) as process:
        process.go()
        time.sleep(1)
        for number in range(_WARM_UP + pickups):
            time.sleep(pauses.uniform(0.02, 0.08))
            enqueued = time.monotonic()
            database.fill(1)
            if not process.wait_for_began(number + 1, _GIVE_UP_SECONDS):
                raise TimeoutError(f"a job waited for more than {_GIVE_UP_SECONDS} s")
            waits.append(1000 * (process.began[number] - enqueued))
    hundredths = quantiles(waits[_WARM_UP:], n=100, method="inclusive")
    return {"p50": hundredths[49], "p95": hundredths[94], "p99": hundredths[98]}
