"""Metrics: how it stands, in the words of OpenMetrics, which prometheus-client writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qg.errors import ErrMissingExtra
from qg.supervisor.standing import Standing
from qg.supervisor.tally import BOUNDS_SECONDS

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["EVENTS", "metrics_writer"]

EVENTS = {
    "outage_begins": "the database couldn't be reached any more",
    "outage_over": "the database was reached again",
    "lock_lost": "the session of a running job has ended",
    "lock_not_ours": "a session didn't hold a lock that it had taken",
    "job_cancelled": "a running job was deleted by somebody",
    "job_unrecorded": "what became of a job couldn't be written",
    "process_died": "a process has died",
}
"""What qg logs and is worth an alarm, by the first word of the line. Each is counted."""


def metrics_writer() -> Callable[[Standing], tuple[bytes, str]]:
    """Return what makes metrics of how it stands: their text, and its content type.

    Raises:
        ErrMissingExtra: if prometheus-client isn't installed.
    """
    try:
        from prometheus_client import core
        from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
    except ModuleNotFoundError as error:
        raise ErrMissingExtra(
            f"--metrics needs {error.name}, which isn't installed; pip install 'qg[metrics]'", name=error.name
        ) from None

    generate: Callable[[object], bytes] = generate_latest  # which only wants something to collect from

    class Collector:
        def __init__(self, standing: Standing) -> None:
            self._standing = standing

        def collect(self) -> Iterator[Metric]:
            return _families(core, self._standing)

    def write(standing: Standing) -> tuple[bytes, str]:
        return generate(Collector(standing)), CONTENT_TYPE_LATEST

    return write


def _families(core: Any, standing: Standing) -> Iterator[Metric]:
    counts = standing.counts
    jobs = core.CounterMetricFamily("qg_jobs", "Jobs by what became of them", labels=["queue", "type", "outcome"])
    for (queue, kind, outcome), count in counts.jobs.items():
        jobs.add_metric([queue, kind, outcome], count)
    yield jobs
    seconds = core.HistogramMetricFamily(
        "qg_job_seconds", "How long jobs ran", labels=["queue", "type"], unit="seconds"
    )
    for key, buckets in counts.durations.items():
        seconds.add_metric([*key], _cumulative(buckets), counts.seconds[key])
    yield seconds
    events = core.CounterMetricFamily("qg_events", "What qg has logged as an event", labels=["event"])
    for event in EVENTS:
        events.add_metric([event], counts.events[event])
    yield events
    for name, text, value in (
        ("qg_workers", "How many jobs can run at once", standing.workers),
        ("qg_workers_busy", "How many jobs run", standing.busy),
        ("qg_live", "Whether each worker turns", int(standing.live)),
        ("qg_ready", "Whether all workers take jobs", int(standing.ready)),
    ):
        yield core.GaugeMetricFamily(name, text, value=value)
    yield core.CounterMetricFamily("qg_process_restarts", "Processes that took another one's place", standing.restarts)
    for field, text in (
        ("waiting", "Jobs that are to be done"),
        ("due", "Those of them that are due"),
        ("oldest_seconds", "How long the oldest of them has been due"),
    ):
        family = core.GaugeMetricFamily(f"qg_queue_{field}", text, labels=["queue"])
        for depth in standing.depths:
            family.add_metric([depth.queue], getattr(depth, field))
        yield family


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    """Return for each upper bound how many were no longer than that."""
    total, result = 0, []
    for bound, count in zip([*map(str, BOUNDS_SECONDS), "+Inf"], buckets, strict=True):
        total += count
        result.append((bound, float(total)))
    return result
