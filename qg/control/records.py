"""Jobs as they are seen from outside: what their state is, who has them, what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, SupportsInt

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Attempt",
    "Count",
    "ErrorGroup",
    "ErrorGroups",
    "Holder",
    "JobDetail",
    "JobView",
    "Order",
    "Page",
    "State",
]


class State(str, Enum):
    """How a job stands. A job that is being worked is in one of these states as well; its lock says so."""

    READY = "ready"
    """Due, and never failed."""
    SCHEDULED = "scheduled"
    """Not due yet, and never failed."""
    FAILING = "failing"
    """Failed, and to be tried again."""
    EXPIRED = "expired"
    """Given up. In version 3 of the table: failed, and not due for more than fifty years."""
    FINISHED = "finished"
    """Done, and kept; from version 4 of the table on."""

    def __str__(self) -> str:
        return self.value


class Order(str, Enum):
    """In which order jobs are listed."""

    NEWEST = "newest"
    """The last that was enqueued comes first; in version 3 of the table, the one with the latest run_at."""
    NEXT = "next"
    """Queue by queue, as workers take them; only jobs that are still to be done."""

    def __str__(self) -> str:
        return self.value


class Count(int):
    """A number of jobs. Written as text, an estimate begins with ≈.

    Attributes:
        estimated: whether it was counted in a sample of a large table, and may be off by some percent, or miss few
            jobs altogether.
    """

    estimated: bool

    def __new__(cls, number: SupportsInt, *, estimated: bool = False) -> Self:  # noqa: D102 - as the class says
        count = super().__new__(cls, number)
        count.estimated = estimated
        return count

    def __repr__(self) -> str:
        return f"Count({int(self)}{', estimated=True' if self.estimated else ''})"

    def __str__(self) -> str:
        return f"{'≈' if self.estimated else ''}{int(self)}"

    def __add__(self, other: object) -> Count:
        if not isinstance(other, int):
            return NotImplemented
        return Count(int(self) + int(other), estimated=self.estimated or getattr(other, "estimated", False))


@dataclass(frozen=True)
class Holder:
    """The session that has a job's lock.

    Attributes:
        backend_pid: the server's process that serves it.
        name: its application_name: "qg worker mail" for a worker of qg's.
        pid: the process that has it; None where that isn't known: in version 3 of the table, and for jobs that are
            worked by hand.
        host: where that is, as far as it is known.
        since: since when it has been in the state that it is in, an aware datetime.
    """

    backend_pid: int
    name: str = ""
    pid: int | None = None
    host: str | None = None
    since: datetime | None = None

    def __str__(self) -> str:
        if self.pid is not None:
            return f"pid {self.pid} on {self.host}"
        name = f" ({self.name})" if self.name else ""
        return f"session {self.backend_pid}{name}{f' from {self.host}' if self.host else ''}"


@dataclass(frozen=True)
class JobView:
    """A job as it is in the table.

    Attributes:
        id: the job's.
        queue: its queue's name.
        type: its type.
        priority: lower runs first.
        run_at: when it is, or was, due, an aware datetime.
        state: how it stands.
        error_count: how many times it has failed.
        last_error: the last error with its traceback; None if there is none.
        args: the JSON text, with every number as it is stored.
        kwargs: the same of Ruby's keyword arguments; "{}" before version 6 of the table.
        tags: the same of the tags; "[]" in version 3.
        finished_at: when it was kept as finished, an aware datetime; None if it wasn't.
        expired_at: when it was given up; None if it wasn't, and in version 3.
        holder: who works it at the moment; None if nobody does.
    """

    id: int
    queue: str
    type: str
    priority: int
    run_at: datetime
    state: State
    error_count: int
    last_error: str | None
    args: str
    kwargs: str
    tags: str
    finished_at: datetime | None
    expired_at: datetime | None
    holder: Holder | None = None


@dataclass(frozen=True)
class Page:
    """Some jobs of a list.

    Attributes:
        jobs: in the order of the list; may be fewer than were asked for although there are more to come.
        after: what continues the list behind them; None at its end.
        read: how many jobs were looked at for it.
    """

    jobs: tuple[JobView, ...]
    after: str | None
    read: int


@dataclass(frozen=True)
class Attempt:
    """An attempt to work a job, from the history of qg.jobs.

    Attributes:
        id: its number; a later attempt has a greater one.
        job_id: the job's.
        type: the job's type.
        queue: the queue's name.
        priority: the job's.
        run_count: how often the job had failed before.
        success: whether it went well.
        error: what went wrong, None if nothing did.
        started_at: an aware datetime.
        finished_at: an aware datetime.
        args: the JSON text; None once it was pruned.
    """

    id: int
    job_id: int
    type: str
    queue: str
    priority: int
    run_count: int
    success: bool
    error: str | None
    started_at: datetime
    finished_at: datetime
    args: str | None


@dataclass(frozen=True)
class JobDetail:
    """A job, and what has become of it so far.

    Attributes:
        job: None where only the history knows it any more: it is done, or was deleted.
        attempts: the last hundred, the last one first; None where there is no history of qg.jobs.
    """

    job: JobView | None
    attempts: tuple[Attempt, ...] | None


@dataclass(frozen=True)
class ErrorGroup:
    """Jobs that fail, or have failed for good, in the same way.

    Attributes:
        type: their type.
        message: the first line of their last error.
        failing: how many are to be tried again.
        expired: how many were given up.
        first_due: the earliest run_at among them, an aware datetime.
        last_due: the latest.
        example: the id of the one that was enqueued last.
    """

    type: str
    message: str
    failing: Count
    expired: Count
    first_due: datetime
    last_due: datetime
    example: int


class ErrorGroups(list[ErrorGroup]):
    """What errors() returns.

    Attributes:
        more: whether there are smaller groups that aren't in it.
    """

    def __init__(self, groups: Iterable[ErrorGroup] = (), *, more: bool = False) -> None:
        super().__init__(groups)
        self.more = more
