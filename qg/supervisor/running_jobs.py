"""RunningJobs: which jobs run in a process, in memory that its parent can still read when the process has died."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import NamedTuple

__all__ = ["RunningJob", "RunningJobs", "begin", "end"]

# Jobs that run at once in one process, and that the parent can hear of. 128 kB.
_SLOTS = 4096
_NUMBERS = 4
_BYTES = _NUMBERS * 8 * _SLOTS
# No job has this id.
_NONE = -(2**63)


class RunningJob(NamedTuple):
    """A job that runs.

    Attributes:
        target: the number of what works it, which has its own database perhaps.
        id: the job's.
        backend: the server process that holds its lock; 0 if it isn't known.
        error_count: how often it had failed before.
    """

    target: int
    id: int
    backend: int
    error_count: int = 0


class RunningJobs:
    """A slot for each runner of a process, in a file without a name that parent and child have in memory.

    A slot is four numbers: the target, which is written once, the id of the job that runs, the server process, and how
    often the job had failed. Three of them are written when a job begins, and one when it ends.

    Args:
        file: what create() of another process has returned as its file; None makes memory for this process alone.
    """

    def __init__(self, file: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if file is None else file, _BYTES)
        self._numbers = memoryview(self._memory).cast("q")
        self._taken = 0
        if file is None:
            self.clear()

    @classmethod
    def in_file(cls) -> tuple[RunningJobs, int]:
        """Return new ones, and the file for the process that writes to them. The caller closes it."""
        number = _file_without_name()
        os.write(number, bytes(_BYTES))
        running = cls(number)
        running.clear()
        return running, number

    def clear(self) -> None:
        """Note that nothing runs."""
        for slot in range(_SLOTS):
            self._numbers[_NUMBERS * slot + 1] = _NONE

    def slot(self, target: int) -> memoryview | None:
        """Return a slot for a runner of this target; None if there are no more. begin() and end() take it."""
        if self._taken == _SLOTS:
            return None
        slot = self._numbers[_NUMBERS * self._taken : _NUMBERS * (self._taken + 1)]
        self._taken += 1
        slot[0] = target
        return slot

    def read(self) -> list[RunningJob]:
        """Return what runs; of a process that has died, what ran."""
        numbers = self._numbers.tolist()
        slots = [RunningJob(*numbers[first : first + _NUMBERS]) for first in range(0, len(numbers), _NUMBERS)]
        return [job for job in slots if job.id != _NONE]


def begin(slot: memoryview, job_id: int, backend: int | None, error_count: int) -> None:
    """Note that the job with this id runs, under a lock of this server process; and how often it has failed before."""
    slot[2], slot[3] = backend or 0, error_count
    slot[1] = job_id


def end(slot: memoryview) -> None:
    """Note that nothing runs any more."""
    slot[1] = _NONE


def _file_without_name() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("qg-running-jobs")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
