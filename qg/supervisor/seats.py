"""Seats: what the runners of a process tell, about the jobs that they run."""

from __future__ import annotations

import threading

from qg.job import Job, locked_attempt_of
from qg.locking.attempt import Attempt
from qg.supervisor.logs import AboutJob
from qg.supervisor.running_jobs import RunningJobs, begin, end
from qg.supervisor.tally import Tally, outcome_of

__all__ = ["Seat", "Seats"]


class Seats:
    """Oversees a pool.

    Args:
        target: the number of what the pool works for.
        running: where it is written which jobs run.
        tally: where it is counted what becomes of them.

    Attributes:
        seats: those that were given out.
        unseen: tells of jobs that don't run, but are counted and logged.
    """

    def __init__(self, target: int, running: RunningJobs, tally: Tally) -> None:
        self._target = target
        self._running = running
        self._tally = tally
        self.seats: list[Seat] = []
        self.unseen = Seat(None, tally)

    def seat(self) -> Seat:
        """Return what is told of another runner's jobs."""
        seat = Seat(self._running.slot(self._target), self._tally)
        self.seats.append(seat)
        return seat


class Seat:
    """What one runner tells.

    Attributes:
        job: what it runs; None if it runs nothing.
        thread: in which thread it ran something last.
    """

    def __init__(self, slot: memoryview | None, tally: Tally) -> None:
        self._slot = slot
        self._tally = tally
        self.thread: int | None = None
        self.job: Job | None = None

    def begin(self, job: Job) -> None:
        """Note that the handler of *job* is about to be called, in this thread."""
        self.job, self.thread = job, threading.get_ident()
        if self._slot is not None:
            attempt = locked_attempt_of(job)
            begin(self._slot, attempt.row.id, attempt.backend_pid, attempt.row.error_count)

    def end(self) -> None:
        """Note that nothing runs any more."""
        if self._slot is not None:
            end(self._slot)
        self.job = None

    def settled(self, job: Job, attempt: Attempt, error: BaseException | None, seconds: float) -> AboutJob:
        """Count what became of *job*; within the block that is returned it is logged."""
        self._tally.count_job(job.queue, job.type, outcome_of(attempt, error), seconds)
        trace_id = None if attempt.observer is None else attempt.observer.trace_id
        return AboutJob(attempt.row.id, job.type, job.queue, seconds, error, trace_id)
