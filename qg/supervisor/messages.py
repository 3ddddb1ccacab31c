"""Messages: what parent and child say to each other, as lines of JSON through two pipes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from qg.supervisor.running_jobs import RunningJob

__all__ = ["Death", "Lines", "Speaker"]


@dataclass(frozen=True)
class Death:
    """A process that has died while jobs ran.

    Attributes:
        number: by which the child says that it has recorded the errors.
        jobs: what ran.
        cause: the error of each.
        at: when it was, by time.monotonic(), which is the same for all processes.
    """

    number: int
    jobs: tuple[RunningJob, ...]
    cause: str
    at: float

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"number": self.number, "jobs": [list(job) for job in self.jobs], "cause": self.cause, "at": self.at}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Death:
        """Return what to_plain() was asked of."""
        return cls(plain["number"], tuple(RunningJob(*job) for job in plain["jobs"]), plain["cause"], plain["at"])


class Speaker:
    """Writes messages to a pipe. Safe to use from any thread. Where nobody reads any more, nothing is written."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._mutex = threading.Lock()

    def say(self, **message: Any) -> None:
        """Write a message; waits until there is room for it."""
        rest = memoryview(json.dumps(message).encode() + b"\n")
        with self._mutex, suppress(OSError):
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def close(self) -> None:
        """Close the pipe, which tells its reader that nobody writes any more."""
        with suppress(OSError):
            os.close(self._file)


class Lines:
    """Takes what comes from a pipe apart into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def messages(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the messages that are complete with *data*."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
