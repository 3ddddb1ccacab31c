"""MemoryStore: the jobs of a MemoryQueue, those that wait and those that are attempted."""

from __future__ import annotations

import itertools
import threading
from bisect import insort
from collections.abc import Callable, Container
from datetime import datetime, timezone

from qg.enqueuing.fields import draft_of
from qg.job import Job
from qg.tables import PollStrategy, Row, iso_text
from qg.working.threads import WakeUp

__all__ = ["Clock", "MemoryStore", "utc_now"]

# Some systems can't wait for months.
_LONGEST_WAIT_SECONDS = 86_400.0

_ORDERS: dict[PollStrategy, Callable[[Row], tuple[object, ...]]] = {
    PollStrategy.PRIORITY: lambda row: (row.priority, row.due, row.id),
    PollStrategy.RUN_AT: lambda row: (row.due, row.priority, row.id),
}

Clock = Callable[[], datetime]
"""Returns the present as an aware datetime."""


def utc_now() -> datetime:
    """Return the present, in UTC."""
    return datetime.now(timezone.utc)


class MemoryStore:
    """Jobs in memory. Safe to use from any thread.

    A job waits, or it is attempted, or it isn't here. Each step from one to another is made under
    one lock: take() lets a waiting job be attempted, and end() lets an attempted job wait again or go.

    Args:
        poll_strategy: which due job is taken first.
        now: the clock that decides what is due.
    """

    def __init__(self, poll_strategy: PollStrategy = PollStrategy.PRIORITY, now: Clock = utc_now) -> None:
        self._order = _ORDERS[poll_strategy]
        self._now = now
        self._ids = itertools.count(1)
        # Guards the two collections. A signal handler that enqueues may interrupt the thread that holds it.
        self._mutex = threading.RLock()
        self._waiting: list[Row] = []
        self._attempted: dict[int, Row] = {}
        # One for each thread that waits in take(). wake() takes no lock: it runs in signal handlers.
        self._sleepers: list[WakeUp] = []
        self._last_wake = object()
        self._takes_none = False

    def rows_for(self, drafts: list[Job]) -> list[Row]:
        """Return the rows of *drafts*, each with an id of its own; add() stores them."""
        now = iso_text(self._now())
        return [
            Row(next(self._ids), each.queue, each.priority, each.run_at or now, each.type, each.args, 0, None)
            for each in map(draft_of, drafts)
        ]

    def add(self, rows: list[Row]) -> None:
        """Let the jobs of *rows* wait."""
        with self._mutex:
            for row in rows:
                insort(self._waiting, row, key=self._order)
        self.wake()

    def next_due(self, job_types: Container[str]) -> Row | float | None:
        """Find the job to take: one that is due and of one of *job_types*; the order is the poll strategy's.

        Returns:
            The job; or the seconds until one is due; or None if there is none of these types.
        """
        seconds: float | None = None
        with self._mutex:
            now = self._now()
            for row in self._waiting:
                if row.type not in job_types:
                    continue
                wait = (row.due - now).total_seconds()
                if wait <= 0:
                    return row
                seconds = wait if seconds is None else min(seconds, wait)
        return seconds

    def take(self, job_types: Container[str]) -> Row | None:
        """Wait for the job that next_due() finds, and let it be attempted; end() must follow.

        Returns:
            The job; or None after stop_taking().
        """
        while not self._takes_none:
            wake_up = WakeUp()
            last_wake = self._last_wake
            with self._mutex:
                found = self.next_due(job_types)
                if isinstance(found, Row):
                    self._waiting.remove(found)
                    self._attempted[found.id] = found
                    return found
            self._sleepers.append(wake_up)
            # A wake() before the append may have meant a job, or an end, that was not seen above.
            if last_wake is self._last_wake:
                wake_up.wait(None if found is None else min(found, _LONGEST_WAIT_SECONDS))
            self._sleepers.remove(wake_up)
        return None

    def end(self, row: Row, again: Row | None) -> None:
        """End the attempt at the job of *row*; it waits as *again*, or is gone if that is None.

        This is one step: whoever takes the job meanwhile takes one whose attempt is over.
        """
        with self._mutex:
            del self._attempted[row.id]
            if again is not None:
                self.add([again])

    def stop_taking(self) -> None:
        """Let take() return None from now on. Safe in a signal handler."""
        self._takes_none = True
        self.wake()

    def wake(self) -> None:
        """Let whoever waits in take() look at the jobs, and at the job types, anew. Safe in a signal handler."""
        self._last_wake = object()
        for sleeper in tuple(self._sleepers):
            sleeper.give()

    def waiting(self) -> list[Row]:
        """Return the jobs that wait, in the order in which they would be taken if all were due."""
        with self._mutex:
            return list(self._waiting)

    def attempted(self) -> list[Row]:
        """Return the jobs that are attempted at this moment."""
        with self._mutex:
            return list(self._attempted.values())

    def rows(self) -> list[Row]:
        """Return the jobs that wait and those that are attempted, by id."""
        with self._mutex:
            return sorted([*self._waiting, *self._attempted.values()], key=lambda row: row.id)
