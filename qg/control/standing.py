"""How things stand: queues, pauses, who works them, schedules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from qg.control.records import Count, Holder

__all__ = [
    "Overview",
    "Pause",
    "PoolView",
    "QueueView",
    "ScheduleView",
    "Trend",
    "WorkerView",
]


@dataclass(frozen=True)
class Pause:
    """A queue that is paused.

    Attributes:
        queue: its name.
        since: an aware datetime.
        until: when workers go on by themselves; None if they don't.
        reason: as it was given.
        by: who did it.
        others: of a pause that was just made: who works the queue and doesn't know of pauses, in words.
    """

    queue: str
    since: datetime
    until: datetime | None
    reason: str
    by: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueueView:
    """How a queue stands.

    Attributes:
        queue: its name.
        waiting: jobs that are still to be done: the next three, of which two overlap.
        due: those of them that are due.
        scheduled: those that aren't, and never failed.
        failing: those that have failed, due or not.
        working: those that somebody works at the moment.
        expired: jobs that were given up.
        finished: jobs that are done and kept; None in version 3 of the table.
        oldest_due: the earliest run_at of those that are due, an aware datetime; None if none is.
        workers: how many sessions are there to work it, as far as they can be told.
        pause: None if it isn't paused.
    """

    queue: str
    waiting: Count
    due: Count
    scheduled: Count
    failing: Count
    working: int
    expired: Count
    finished: Count | None
    oldest_due: datetime | None
    workers: int
    pause: Pause | None

    @property
    def status(self) -> str:
        """In a word or four: "paused", "working", "nobody works it", "idle"."""
        if self.pause is not None:
            return "paused"
        if self.working:
            return "working"
        return "idle" if self.workers or not self.due else "nobody works it"


@dataclass(frozen=True)
class Trend:
    """What has changed in a queue between two looks.

    Attributes:
        per_minute: by how many jobs its waiting ones grow a minute; below 0 if there are fewer and fewer.
        empty_in: how long that takes until none is left; None if it doesn't come to that.
        estimated: whether one of the looks has only estimated how many there were.
    """

    per_minute: float
    empty_in: timedelta | None
    estimated: bool


@dataclass(frozen=True)
class Overview:
    """How all queues stand.

    Attributes:
        at: by the database's clock, an aware datetime.
        version: of the table.
        queues: ordered by their names.
        stored: how many jobs were stored in the table since its statistics began; of use in a difference only.
        deleted: the same of those that were deleted, done or not.
    """

    at: datetime
    version: int
    queues: tuple[QueueView, ...]
    stored: int
    deleted: int

    def since(self, earlier: Overview) -> dict[str, Trend]:
        """Return by queue what has changed since an *earlier* look; of queues that are in both."""
        seconds = (self.at - earlier.at).total_seconds()
        before = {each.queue: each.waiting for each in earlier.queues}
        if seconds <= 0:
            return {}
        return {
            each.queue: _trend(before[each.queue], each.waiting, seconds)
            for each in self.queues
            if each.queue in before
        }

    def deleted_per_minute(self, earlier: Overview) -> float | None:
        """Return how many jobs were deleted a minute since an *earlier* look, mostly since they were done.

        The server counts with a delay of a second or so. None where that can't be said.
        """
        seconds = (self.at - earlier.at).total_seconds()
        deleted = self.deleted - earlier.deleted
        return 60 * deleted / seconds if seconds > 0 and deleted >= 0 else None


def _trend(before: Count, now: Count, seconds: float) -> Trend:
    change = (int(now) - int(before)) / seconds
    empty_in = timedelta(seconds=now / -change) if change < 0 else None
    return Trend(60 * change, timedelta(0) if now == 0 else empty_in, before.estimated or now.estimated)


@dataclass(frozen=True)
class WorkerView:
    """A session that works jobs, or holds a lock that could be a job's, or listens for jobs.

    Attributes:
        holder: which one it is.
        kind: "qg" for one of qg's, "locker" for another that is in que_lockers (Ruby's), otherwise "other".
        queues: what it works, as far as it says so. In version 3 that is in the session's name, which PostgreSQL cuts
            at 63 bytes and strips of what isn't ASCII: empty where it can't be told by that.
        listens: whether it is notified of jobs, as far as it says so.
        connected_at: an aware datetime.
        state: as pg_stat_activity has it: "idle", "active", "idle in transaction"; None where we may not see it.
        transaction_since: since when its transaction is open; None if none is.
        waits_for: an event that the server knows, such as "Lock: transactionid"; None if nothing.
        blocked_by: the backends that are in its way.
        statement: what it runs, or ran last.
        jobs: id, queue and type of each job that it has locked.
        other_locks: further locks that are no job's of this table.
    """

    holder: Holder
    kind: str
    queues: tuple[str, ...]
    listens: bool
    connected_at: datetime | None
    state: str | None
    transaction_since: datetime | None
    waits_for: str | None
    blocked_by: tuple[int, ...]
    statement: str
    jobs: tuple[tuple[int, str, str], ...]
    other_locks: tuple[int, ...]

    @property
    def obeys_pauses(self) -> bool:
        """Whether it is a worker of qg's, or what listens for one; what is locked by hand isn't kept back."""
        return self.holder.name.startswith(("qg worker", "qg listener"))


@dataclass(frozen=True)
class ScheduleView:
    """A schedule of qg.jobs.

    Attributes:
        queue: the queue's name.
        spec: when it fires.
        type: the type of the job that it enqueues.
        args: the JSON text of that.
        last_tick_at: when it fired last, an aware datetime; None if it never did.
        next_tick_at: when it fires next, if a process that declares it is running.
    """

    queue: str
    spec: str
    type: str
    args: str
    last_tick_at: datetime | None
    next_tick_at: datetime


@dataclass(frozen=True)
class PoolView:
    """A pool of workers of qg.jobs.

    Attributes:
        name: of the pool.
        queue: the queue that it works.
        workers: how many it has; 0 once it was shut down.
        version: of its program.
        types: which types of jobs it has functions for.
        since: when it was first heard of, an aware datetime.
        silent_for: how long ago it was last heard of; every 30 s while it lives.
    """

    name: str
    queue: str
    workers: int
    version: str
    types: tuple[str, ...]
    since: datetime
    silent_for: timedelta

    @property
    def alive(self) -> bool:
        """Whether it has workers, and was heard of in the last minute and a half."""
        return self.workers > 0 and self.silent_for < timedelta(seconds=90)
