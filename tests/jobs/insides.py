"""What tests see of the insides of a queue. The other files here reach into no private name."""

from __future__ import annotations

import threading

from support import UntilEmpty

import qg
from qg import jobs
from qg.jobs.memory_store import MemoryStore


def store_of(queue: jobs.MemoryQueue) -> MemoryStore:
    """Return where *queue* has its jobs."""
    return queue._memory


def schedules_in(queue: jobs.MemoryQueue) -> int:
    """Return how many schedules *queue* has."""
    return len(queue._schedules.next_ticks)


def client_of(queue: jobs.PostgresJobs) -> qg.Client:
    """Return the client that *queue* enqueues with."""
    return queue._client


def worker_of(queue: jobs.PostgresJobs, hands: int = 0) -> UntilEmpty:
    """Return a worker that does what those of the pool of *queue* do, here and now; or *hands* of them."""
    return UntilEmpty(client_of(queue), queue._work_map, queue=queue._options.queue, hands=hands)


def pending(queue: jobs.MemoryQueue | jobs.PostgresJobs) -> dict[str, float]:
    """Return when the duties of *queue* that wait are due, by name, as time.monotonic() counts."""
    return queue._conductor.pending


def workers() -> list[threading.Thread]:
    """Return the threads of this process that work jobs."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(("qg-memory-", "qg-worker-"))]
