"""Schedules of a MemoryQueue: they tick in this process, and end with it."""

from __future__ import annotations

import threading
from datetime import datetime

from qg.jobs.drafts import Schedule
from qg.jobs.memory_store import Clock, MemoryStore, utc_now
from qg.jobs.telemetry import Telemetry

__all__ = ["MemorySchedules"]


class MemorySchedules:
    """The schedules of one queue in memory. Safe to use from any thread.

    Args:
        store: where the jobs go.
        queue: the queue's name.
        telemetry: is told of the jobs.
        now: the clock that decides when a tick is due.
    """

    def __init__(self, store: MemoryStore, queue: str, telemetry: Telemetry, now: Clock = utc_now) -> None:
        self._store = store
        self._queue = queue
        self._telemetry = telemetry
        self._now = now
        # A signal handler may interrupt the thread that holds it.
        self._mutex = threading.RLock()
        # Each schedule with its next tick, by what tells it from others.
        self._declared: dict[tuple[str, str, str], tuple[Schedule, datetime]] = {}

    def declare(self, schedule: Schedule) -> None:
        """Let *schedule* fire from now on, when tick() is called. One that is declared already goes on."""
        now = self._now().replace(microsecond=0)
        key = (schedule.cron.spec, schedule.takes.name, schedule.key)
        with self._mutex:
            self._declared.setdefault(key, (schedule, schedule.cron.after(now, now)))

    def tick(self) -> float | None:
        """Enqueue the job of each schedule that is due; return in how many seconds to come again."""
        now = self._now()
        with self._mutex:
            for key, (schedule, tick) in self._declared.items():
                if tick <= now:
                    with self._telemetry.enqueuing():
                        self._store.add(self._store.rows_for([schedule.job(self._queue)]))
                        # Here, so that telemetry which raises at the end of its span repeats no tick.
                        self._declared[key] = schedule, schedule.cron.after(tick, now)
                    self._telemetry.count_enqueued([schedule.takes.name], success=True)
            ticks = self.next_ticks
        return max((min(ticks) - self._now()).total_seconds(), 0.0) if ticks else None

    @property
    def next_ticks(self) -> list[datetime]:
        """When each schedule ticks next, in the order in which they were declared."""
        with self._mutex:
            return [tick for _, tick in self._declared.values()]
