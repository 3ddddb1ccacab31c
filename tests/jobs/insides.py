"""What tests see of the insides of a queue. The other files here reach into no private name."""

from __future__ import annotations

import threading

from qg import jobs
from qg.jobs.memory_store import MemoryStore


def store_of(queue: jobs.MemoryQueue) -> MemoryStore:
    """Return where *queue* has its jobs."""
    return queue._memory


def pending(queue: jobs.MemoryQueue | jobs.PostgresJobs) -> dict[str, float]:
    """Return when the duties of *queue* that wait are due, by name, as time.monotonic() counts."""
    return queue._conductor.pending


def workers() -> list[threading.Thread]:
    """Return the threads of this process that work jobs."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(("qg-memory-", "qg-worker-"))]
