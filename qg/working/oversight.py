"""Oversight: who is told, in a process of ``qg work``, what the workers of a pool do; and what is told of a pool."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from qg.job import Job
from qg.locking.attempt import Attempt

__all__ = ["Oversight", "PoolState", "Seat"]


class Seat(Protocol):
    """What is told of the jobs that one runner runs, one after another, each in the thread that runs it."""

    def begin(self, job: Job) -> None:
        """Note that the handler of *job* is about to be called."""

    def end(self) -> None:
        """Note that nothing runs any more. What became of the job may still have to be written."""

    def settled(
        self, job: Job, attempt: Attempt, error: BaseException | None, seconds: float
    ) -> AbstractContextManager[object]:
        """Note what became of *job*; within the block that is logged."""


class Oversight(Protocol):
    """Who oversees a pool."""

    def seat(self) -> Seat:
        """Return what is told of another runner's jobs."""


@dataclass(frozen=True)
class PoolState:
    """How a pool stands.

    Attributes:
        queue: whose jobs it works.
        workers: how many jobs it can run at once.
        busy: how many it runs.
        started: whether all of its threads were started.
        alive: whether all of them are there.
        silent_seconds: how long the one that is least busy has neither run a job nor looked for one.
        cut_off: how many can't reach the database.
        resting: whether each has looked for a job, found none, and waits.
        paused: whether that is so because the queue is paused.
        interval: for how many seconds one may sleep.
        refusal: why workers have ended by themselves; None if none has.
    """

    queue: str
    workers: int
    busy: int
    started: bool
    alive: bool
    silent_seconds: float
    cut_off: int
    resting: bool
    paused: bool
    interval: float
    refusal: Exception | None
