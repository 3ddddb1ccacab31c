"""Watching a process while it works: the most that a reading comes to, and processor time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from benchmarks.run import in_thread

__all__ = ["cpu_seconds", "memory_mb", "most_of"]


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time that *process* has used so far, in its own code and for it in the system."""
    times = process.cpu_times()
    return float(times.user + times.system)


def memory_mb(process: psutil.Process) -> float:
    """Return what *process* has in memory."""
    return float(process.memory_info().rss) / 1e6


@contextmanager
def most_of(read: Callable[[], float], every_seconds: float) -> Iterator[list[float]]:
    """Read again and again during the block; yields a list whose one element is the most so far."""
    most = [0.0]

    def watch(done: threading.Event) -> None:
        while not done.wait(every_seconds):
            most[0] = max(most[0], read())

    with in_thread(watch):
        yield most
