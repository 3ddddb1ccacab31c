"""What every queue offers, whatever it does with the jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar, overload, runtime_checkable

from qg.jobs.context import Context
from qg.jobs.payloads import Payload, PayloadT
from qg.retries import RetryPolicy

__all__ = ["Enqueuer", "Queue", "Scheduler"]

_Result = TypeVar("_Result")


@runtime_checkable
class Enqueuer(Protocol):
    """What takes jobs. Mirrors Go's ``Enqueuer``."""

    def enqueue(
        self, job: Payload | Sequence[Payload], *, priority: int = 0, run_at: datetime | None = None, tx: object = None
    ) -> list[int]:
        """Store *job*, or each one of it, to be worked once; return the ids in order."""


@runtime_checkable
class Scheduler(Protocol):
    """What takes schedules. Mirrors Go's ``Scheduler``."""

    def schedule(self, spec: str, job: Payload) -> None:
        """Enqueue *job* again and again, when *spec* says."""


@runtime_checkable
class Queue(Enqueuer, Scheduler, Protocol):
    """What takes jobs and schedules, and runs functions for them. Mirrors Go's ``Queue``."""

    @overload
    def register_job_func(
        self, fn: Callable[[Context, PayloadT], _Result], *, retry: RetryPolicy | None = None
    ) -> Callable[[Context, PayloadT], _Result]:
        """Run *fn* for the jobs of its payload type."""

    @overload
    def register_job_func(
        self, *, retry: RetryPolicy
    ) -> Callable[[Callable[[Context, PayloadT], _Result]], Callable[[Context, PayloadT], _Result]]:
        """Run the function that this decorates for the jobs of its payload type."""

    def start(self) -> None:
        """Begin to work."""

    def shutdown(self, timeout: float | None = None) -> bool:
        """Let running jobs end, take no new ones; return whether that is done."""
