"""Emptiness: whether a pool has nothing left to do, for a process that is to end then."""

from __future__ import annotations

from qg.workerpool import WorkerPool

__all__ = ["nothing_is_due"]


def nothing_is_due(pool: WorkerPool) -> bool:
    """Whether the queue of *pool*, whose workers have found no job, has none that is due and that nobody works.

    Workers may pass by a job that has appeared behind the place where they search, for some seconds. So one is locked
    here, by the plainest way, and released at once. Of a paused queue, and of a pool that leaves some types to others,
    what its workers say is what counts.
    """
    if pool.look().paused or pool.only_known_types:
        return True
    job = pool.client.lock_job(pool.queue)
    if job is None:
        return True
    job.done()
    return False
