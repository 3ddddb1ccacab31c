"""RunningJobs: which jobs run in a process, in memory that its parent can still read when the process has died."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import NamedTuple

__all__ = ["RunningJob", "RunningJobs"]

# Jobs that run at once in one process, and that the parent can hear of. 64 kB.
_SLOTS = 4096
_BYTES = 2 * 8 * _SLOTS
# No job has this id.
_NONE = -(2**63)


class RunningJob(NamedTuple):
    """A job that runs: its id, and the number of the target that works it, which has its own database perhaps."""

    target: int
    id: int


class RunningJobs:
    """A slot for each runner of a process, in a file without a name that parent and child have in memory.

    A slot is two numbers: the target, which is written once, and the id of the job that runs. One number is written
    when a job begins, and one when it ends.

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
        with tempfile.TemporaryFile() as file:
            file.write(bytes(_BYTES))
            file.flush()
            number = os.dup(file.fileno())
        running = cls(number)
        running.clear()
        return running, number

    def clear(self) -> None:
        """Note that nothing runs."""
        for slot in range(_SLOTS):
            self._numbers[2 * slot + 1] = _NONE

    def slot(self, target: int) -> memoryview | None:
        """Return a slot for a runner of this target; None if there are no more. begin() and end() take it."""
        if self._taken == _SLOTS:
            return None
        slot = self._numbers[2 * self._taken : 2 * self._taken + 2]
        self._taken += 1
        slot[0] = target
        return slot

    def read(self) -> list[RunningJob]:
        """Return what runs; of a process that has died, what ran."""
        pairs = [self._numbers[2 * slot : 2 * slot + 2].tolist() for slot in range(_SLOTS)]
        return [RunningJob(target, number) for target, number in pairs if number != _NONE]


def begin(slot: memoryview, number: int) -> None:
    """Note that the job with this id runs."""
    slot[1] = number


def end(slot: memoryview) -> None:
    """Note that nothing runs any more."""
    slot[1] = _NONE
