"""What a client tells about the jobs in its table: how they stand, and who works them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = ["JobState", "JobStats"]


@dataclass(frozen=True)
class JobStats:
    """How one type of job stands in one queue. Mirrors Go's ``JobStats``.

    Attributes:
        queue: the queue's name.
        type: the job type.
        count: jobs in the table, but for those that are finished or expired.
        count_working: those of them that some session has locked.
        count_errored: those that have failed at least once.
        highest_error_count: the most failures that one of them has.
        oldest_run_at: the earliest run_at, an aware datetime.
    """

    queue: str
    type: str
    count: int
    count_working: int
    count_errored: int
    highest_error_count: int
    oldest_run_at: datetime


@dataclass(frozen=True)
class JobState:
    """A job that some session has locked, and whose that is. Mirrors Ruby's ``Que.job_states``.

    Attributes:
        id: the job's.
        queue: its queue's name.
        type: its type.
        priority: lower runs first.
        run_at: when it was due, an aware datetime.
        error_count: how many times it has failed.
        backend_pid: the server's process that serves the session.
        pid: the process that works the job; None where that isn't known: in version 3 of the table,
            and for jobs that are worked by hand.
        host: where that is: a host's name or, where no more is known, its address; None for one that
            came through a local socket.
        since: since when the session has done nothing else, or been in this transaction, an aware
            datetime: where workers share connections, since one of them has last begun or ended a job.
            None for a locker of Ruby's, whose one session serves all of its workers and asks for jobs
            all the time, and where the database doesn't show us the sessions of others.
    """

    id: int
    queue: str
    type: str
    priority: int
    run_at: datetime
    error_count: int
    backend_pid: int
    pid: int | None
    host: str | None
    since: datetime | None
