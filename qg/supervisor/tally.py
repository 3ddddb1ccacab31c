"""Tally: what has become of how many jobs, how long they ran, and what else has happened, in one process or several."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from qg.failures import Logger
from qg.locking.attempt import Attempt, State
from qg.verdicts import Discard
from qg.working.handlers import WorkMap

__all__ = ["BOUNDS_SECONDS", "Counts", "EventCounter", "Tally", "outcome_of"]

BOUNDS_SECONDS = (0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0, 3600.0)
"""The upper bounds of what is counted by duration; the last count is of those that took longer."""

# Types come from whoever can enqueue. Those that nobody works are one, and of so many it is added up in all.
_MOST_TYPES = 1000
_OTHER = "(other)"

# To look it up in the enum each time would take longer than all the rest.
_DELETED = State.DELETED


@dataclass
class Counts:
    """Numbers that only grow. Those of several processes can be added up.

    Attributes:
        jobs: by queue, type and outcome, how many.
        durations: by queue and type, how many within each of BOUNDS_SECONDS, and how many longer.
        seconds: by queue and type, how long they ran in all.
        events: by the first word of what qg has logged, how often.
    """

    jobs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    durations: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)

    @property
    def settled(self) -> int:
        """How many jobs have come to some end, or were put off."""
        return sum(self.jobs.values())

    def add(self, other: Counts) -> None:
        """Add what *other* has counted. Once there are a thousand types, a new one becomes "(other)" of its queue."""
        self.events.update(other.events)
        for key, buckets in other.durations.items():
            ours = self.durations.setdefault(self._key(*key), [0] * len(buckets))
            for place, count in enumerate(buckets):
                ours[place] += count
        for (queue, kind, outcome), count in other.jobs.items():
            self.jobs[(*self._key(queue, kind), outcome)] += count
        for key, seconds in other.seconds.items():
            ours_too = self._key(*key)
            self.seconds[ours_too] = self.seconds.get(ours_too, 0.0) + seconds

    def _key(self, queue: str, kind: str) -> tuple[str, str]:
        is_told_apart = (queue, kind) in self.durations or len(self.durations) < _MOST_TYPES
        return queue, kind if is_told_apart else _OTHER

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "jobs": [[*key, count] for key, count in self.jobs.items()],
            "durations": [[*key, buckets] for key, buckets in self.durations.items()],
            "seconds": [[*key, seconds] for key, seconds in self.seconds.items()],
            "events": dict(self.events),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Counts:
        """Return what to_plain() was asked of."""
        return cls(
            Counter({(queue, kind, outcome): count for queue, kind, outcome, count in plain["jobs"]}),
            {(queue, kind): buckets for queue, kind, buckets in plain["durations"]},
            {(queue, kind): seconds for queue, kind, seconds in plain["seconds"]},
            Counter(plain["events"]),
        )


class _Kind:
    """What was counted of the jobs of one type in one queue."""

    __slots__ = ("buckets", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        self.seconds = 0.0


class Tally:
    """Counts in this process. Safe to use from any thread.

    Args:
        limit: after how many jobs *reached* is called; None means never.
        reached: waits for nothing.

    Attributes:
        work_maps: of what is worked. A job of another type is counted as one of type "(other)".
    """

    def __init__(self, limit: int | None, reached: Callable[[], None]) -> None:
        self._limit = limit
        self._reached = reached
        self._mutex = threading.Lock()
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._events: Counter[str] = Counter()
        self._settled = 0
        self.work_maps: list[WorkMap] = []

    @property
    def settled(self) -> int:
        """How many jobs have come to some end, or were put off."""
        return self._settled

    def count_job(self, queue: str, job_type: str, outcome: str, seconds: float) -> None:
        """Count a job, and how long it ran."""
        with self._mutex:
            kind = self._kinds.get((queue, job_type)) or self._another(queue, job_type)
            kind.outcomes[outcome] = kind.outcomes.get(outcome, 0) + 1
            kind.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
            kind.seconds += seconds
            self._settled += 1
            is_last = self._settled == self._limit
        if is_last:
            self._reached()

    def count_event(self, event: str) -> None:
        """Count something that qg has logged."""
        with self._mutex:
            self._events[event] += 1

    def counts(self) -> Counts:
        """Return what was counted until now."""
        counts = Counts()
        with self._mutex:
            counts.events.update(self._events)
            for (queue, job_type), kind in self._kinds.items():
                counts.durations[queue, job_type] = list(kind.buckets)
                counts.seconds[queue, job_type] = kind.seconds
                for outcome, count in kind.outcomes.items():
                    counts.jobs[queue, job_type, outcome] = count
        return counts

    def _another(self, queue: str, job_type: str) -> _Kind:
        is_known = any(job_type in each for each in self.work_maps)
        return self._kinds.setdefault((queue, job_type if is_known else _OTHER), _Kind())


class EventCounter(logging.Handler):
    """Counts what qg logs of some *events*; an event is the first word of a line, ``lock_lost`` for instance."""

    def __init__(self, tally: Tally, events: Iterable[str]) -> None:
        super().__init__(logging.INFO)
        self._tally = tally
        self._events = frozenset(events)

    def emit(self, record: logging.LogRecord) -> None:
        """Count *record*, if it is of interest."""
        event = str(record.msg).split(" ", 1)[0].rstrip(":;")
        if event in self._events:
            self._tally.count_event(event)

    def attach_to(self, logger: Logger) -> None:
        """Count what *logger* logs from now on."""
        plain = logger.logger if isinstance(logger, logging.LoggerAdapter) else logger
        if self not in plain.handlers:
            plain.addHandler(self)


def outcome_of(attempt: Attempt, error: BaseException | None) -> str:
    """Return what became of a job, in a word."""
    state = attempt.state
    if state is _DELETED and error is None:  # most of them
        return "worked"
    if state is State.GONE:
        return "gone"
    if isinstance(error, Discard):
        return "discarded"
    if state is State.RESCHEDULED:
        return "rescheduled"
    if state is State.EXPIRED or attempt.given_up:
        return "expired"
    return "worked" if error is None and state is not State.FAILED else "failed"
