"""TestQueue: a queue that keeps its jobs for a test to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from qg.enqueuing.fields import decode
from qg.jobs.envelope import PersistencePayload
from qg.jobs.memory import MemoryQueue
from qg.jobs.payloads import Payload, PayloadType, payload_type, payloads_in

__all__ = ["TestAssertions", "TestQueue"]


class TestAssertions:
    """What can be asserted of the jobs in a queue. Mirrors Go's ``TestAssertions``.

    Each assertion returns True, or raises AssertionError with the given message in front. With
    *on_failure* it calls that with the text instead, and returns False.

    Args:
        jobs: returns the payloads that are in the queue.
        on_failure: is told of each assertion that fails.
    """

    __test__ = False  # pytest takes a class of such a name for a test

    def __init__(self, jobs: Callable[[], list[Any]], on_failure: Callable[[str], object] | None = None) -> None:
        self._payloads = jobs
        self._on_failure = on_failure

    def empty(self, message: str = "") -> bool:
        """Assert that no job is in the queue."""
        count = len(self._payloads())
        return self._check(count == 0, f"the queue isn't empty, it has {count} jobs", message)

    def not_empty(self, message: str = "") -> bool:
        """Assert that a job is in the queue."""
        return self._check(bool(self._payloads()), "the queue is empty", message)

    def total(self, count: int, message: str = "") -> bool:
        """Assert that exactly *count* jobs are in the queue."""
        found = len(self._payloads())
        return self._check(found == count, f"the queue has {found} jobs instead of {count}", message)

    def contains(self, job: Payload | type, message: str = "") -> bool:
        """Assert that a job of the type of *job*, a payload or its class, is in the queue."""
        name = _type_of(job).name
        return self._check(bool(self._of(name)), f"the queue has no job of type {name}", message)

    def not_contains(self, job: Payload | type, message: str = "") -> bool:
        """Assert that no job of the type of *job*, a payload or its class, is in the queue."""
        name = _type_of(job).name
        return self._check(not self._of(name), f"the queue has a job of type {name}", message)

    def _of(self, name: str) -> list[Any]:
        return [payload for payload in self._payloads() if payload_type(type(payload)).name == name]

    def _check(self, holds: bool, otherwise: str, message: str) -> bool:
        if holds:
            return True
        text = f"{message}: {otherwise}" if message else otherwise
        if self._on_failure is None:
            raise AssertionError(text)
        self._on_failure(text)
        return False


class TestQueue(TestAssertions, MemoryQueue):
    """A queue that validates and keeps what is enqueued, and runs and schedules nothing.

    For tests of code that enqueues; :meth:`jobs` and the assertions look at what it did. Mirrors
    Go's ``Test`` and ``TestQueue``.

    Args:
        on_failure: is told of each assertion that fails, instead of AssertionError being raised.
    """

    def __init__(self, *, on_failure: Callable[[str], object] | None = None) -> None:
        MemoryQueue.__init__(self)
        TestAssertions.__init__(self, self.jobs, on_failure)
        self._types: dict[str, PayloadType] = {}

    def enqueue(
        self, job: Payload | Sequence[Payload], *, priority: int = 0, run_at: datetime | None = None, tx: object = None
    ) -> list[int]:
        """Keep *job*, or each one of it; checks what a queue that runs jobs checks."""
        self._types.update({takes.path: takes for takes, _ in payloads_in(job)})
        return super().enqueue(job, priority=priority, run_at=run_at, tx=tx)

    def start(self) -> None:
        """Begin nothing."""

    def jobs(self) -> list[Any]:
        """Return the payloads in the order in which they were enqueued, as their functions would get them."""
        stored = [PersistencePayload.read(decode(row.args)) for row in self._memory.rows()]
        return [self._types[each.job_struct_path].decode(each.job_data) for each in stored]

    def get(self, pos: int) -> Any:
        """Return the payload at *pos*, counted from 1, or None if there is none; it stays in the queue."""
        return _at(self.jobs(), pos)

    def get_first(self) -> Any:
        """Return the first payload, or None; it stays in the queue."""
        return self.get(1)

    def get_of(self, job: Payload | type, pos: int) -> Any:
        """Return the payload at *pos* among those of the type of *job*, counted from 1, or None."""
        return _at(self._of(_type_of(job).name), pos)

    def get_first_of(self, job: Payload | type) -> Any:
        """Return the first payload of the type of *job*, or None."""
        return self.get_of(job, 1)

    def _begin_soon(self) -> None:
        """Nothing: it never begins."""


def _type_of(job: object) -> PayloadType:
    return payload_type(job if isinstance(job, type) else type(job))


def _at(payloads: list[Any], pos: int) -> Any:
    return payloads[pos - 1] if 1 <= pos <= len(payloads) else None
