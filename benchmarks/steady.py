"""A steady 800 jobs/s for minutes, while overlapping transactions hold snapshots open."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from statistics import quantiles

from benchmarks.contenders import ONE_BY_ONE, QG, Contender
from benchmarks.results import first_line
from benchmarks.run import Run, in_thread
from benchmarks.server import Database
from benchmarks.snapshots import held_snapshot
from benchmarks.workers import Workers

__all__ = ["LEFT", "WORST_P99", "measure"]

WORST_P99 = "p99 of taking, the worst 10 s"
LEFT = "backlog in the end"

_SCENARIO = "steady"
_JOBS_A_SECOND = 800
_WORKERS = 4
_READERS = 3
_ENQUEUE_SECONDS = 0.05
_WINDOW_SECONDS = 10
_CATCH_UP_SECONDS = 30
_DEAD_ROWS = "SELECT coalesce(sum(n_dead_tup), 0)::integer FROM pg_stat_user_tables"


def measure(run: Run) -> None:
    """Measure those queues, one after the other, that work as many jobs a second without snapshots."""
    able = [
        contender
        for contender in run.contenders
        if contender.is_queue and ONE_BY_ONE in contender.ways and contender.ways[ONE_BY_ONE].pace > _JOBS_A_SECOND
    ]
    with run.databases(_SCENARIO, able, notify=True) as databases:
        for contender, database in databases.items():
            try:
                _measure_one(run, contender, database)
            except Exception as error:  # whatever an opponent comes up with; it is in the report
                run.results.fail(f"{_SCENARIO}: {contender.name}: {first_line(error)}")


def _measure_one(run: Run, contender: Contender, database: Database) -> None:
    seconds, hold = run.durations.steady_seconds, run.durations.hold_seconds
    database.refill(0)
    series: dict[str, list[float]] = {"backlog": [], "dead_rows": []}
    options = {"time_takes": 1} if contender is QG else {}
    with contender.workers(database, contender.ways[ONE_BY_ONE], _WORKERS, **options) as process:
        process.go()
        with _snapshots(database, hold), _producing(database) as enqueued:
            began = time.monotonic()
            for second in range(1, seconds + 1):
                time.sleep(max(0.0, began + second - time.monotonic()))
                series["backlog"].append(enqueued[0] - process.handled)
                series["dead_rows"].append(float(str(database.value(_DEAD_ROWS))))
        process.wait_for_jobs(enqueued[0], _CATCH_UP_SECONDS)
        left = enqueued[0] - process.handled
    run.results.add(_SCENARIO, "backlog at its largest", contender.name, "jobs", max(series["backlog"]))
    run.results.add(_SCENARIO, LEFT, contender.name, "jobs", left)
    run.results.add(_SCENARIO, "dead rows at their most", contender.name, "rows", max(series["dead_rows"]))
    if contender is QG:
        _add_takes(run, process, began, series)
    run.results.series.setdefault(_SCENARIO, {})[contender.name] = series


def _add_takes(run: Run, process: Workers, began: float, series: dict[str, list[float]]) -> None:
    """Add how long taking took: for the chart each second, as figures over all and at its worst."""
    seconds = [[1000 * each for each in takes] for at, takes in process.takes if at > began]
    series["take_p50_ms"] = [_percentile(takes, 50) for takes in seconds]
    series["take_p99_ms"] = [_percentile(takes, 99) for takes in seconds]
    everything = list(chain.from_iterable(seconds))
    windows = [
        list(chain.from_iterable(seconds[first : first + _WINDOW_SECONDS]))
        for first in range(0, max(1, len(seconds) - _WINDOW_SECONDS + 1))
    ]
    worst = max(_percentile(window, 99) for window in windows)
    run.results.add(_SCENARIO, "p50 of taking", QG.name, "ms", _percentile(everything, 50))
    run.results.add(_SCENARIO, "p99 of taking", QG.name, "ms", _percentile(everything, 99))
    run.results.add(_SCENARIO, WORST_P99, QG.name, "ms", worst)


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else sum(values)


@contextmanager
def _producing(database: Database) -> Iterator[list[int]]:
    """Enqueue at the rate during the block; yields a list whose one element is how many there were so far."""
    enqueued = [0]

    def produce(done: threading.Event) -> None:
        began = time.monotonic()
        while not done.wait(_ENQUEUE_SECONDS):
            due = int((time.monotonic() - began) * _JOBS_A_SECOND) - enqueued[0]
            database.fill(due)
            enqueued[0] += due

    with in_thread(produce):
        yield enqueued


@contextmanager
def _snapshots(database: Database, hold_seconds: float) -> Iterator[None]:
    """Hold snapshots during the block, each so long and the next one begun a third of that later."""

    def read(done: threading.Event, number: int) -> None:
        done.wait(number * hold_seconds / _READERS)
        while not done.is_set():
            with held_snapshot(database):
                done.wait(hold_seconds)

    with ExitStack() as stack:
        for number in range(_READERS):
            stack.enter_context(in_thread(lambda done, number=number: read(done, number)))  # type: ignore[misc]
        yield
