"""The shape that every table module fills in: a row, a statement, a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from enum import Enum
from functools import cached_property
from importlib import resources
from typing import Any, NamedTuple

__all__ = [
    "PREPARED_NAMES",
    "PollStrategy",
    "Row",
    "Statement",
    "Table",
    "Taking",
    "Walk",
    "iso_text",
    "script",
    "timestamp",
]


class PollStrategy(Enum):
    """In which order workers take the jobs that are due. Mirrors gue's ``PollStrategy``.

    ``PRIORITY`` takes the most urgent first, however long others have been due: gue's
    ``PriorityPollStrategy``. ``RUN_AT`` takes the earliest first, however urgent others are: gue's
    ``RunAtPollStrategy``.
    """

    PRIORITY = "priority, run_at, id"
    RUN_AT = "run_at, priority, id"


class Row(NamedTuple):
    """A job as the table holds it.

    ``run_at`` and ``args`` are text: the one in ISO 8601, so that the key of a row finds it again
    whatever Python's datetime can't hold (infinity, the year 12000), the other so that a document
    Python can't parse is the trouble of one job and not of the statement.
    """

    id: int
    queue: str
    priority: int
    run_at: str
    type: str
    args: str
    error_count: int
    last_error: str | None

    @classmethod
    def read(cls, text: str) -> Row:
        """Return the row that a statement gave as a JSON array."""
        return cls(*json.loads(text))

    @property
    def due(self) -> datetime:
        """``run_at`` as an aware datetime, or as near to it as a datetime comes."""
        return timestamp(self.run_at)


def iso_text(when: datetime) -> str:
    """Return the aware datetime *when* as text that PostgreSQL reads, whatever its offset.

    PostgreSQL takes offsets below 16 hours and of whole seconds; in UTC there is none.
    """
    try:
        return when.astimezone(timezone.utc).isoformat()
    except OverflowError:  # within hours of the first or the last datetime there is
        return when.isoformat()


def script(name: str, package: str = "qg.tables") -> str:
    """Return the text of the SQL script *name* in *package*."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def timestamp(iso: str) -> datetime:
    """Return PostgreSQL's ISO 8601 text as an aware datetime, or the nearest one there is."""
    try:
        return datetime.fromisoformat(iso)
    except ValueError:  # no datetime, or a fraction that Python 3.10 reads with six digits only
        match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{1,6})([+-][\d:]+)", iso)
    if match is None:
        far_past = iso.endswith("BC") or iso.startswith("-")
        return (datetime.min if far_past else datetime.max).replace(tzinfo=timezone.utc)
    seconds, fraction, offset = match.groups()
    return datetime.fromisoformat(f"{seconds}.{fraction.ljust(6, '0')}{offset}")


@dataclass(frozen=True)
class Statement:
    """One SQL statement with parameters ``$1``, ``$2`` …, each used once and in order.

    A statement with a name is prepared on each connection and called by that name, unless it
    needs a ``fresh_snapshot``: EXECUTE takes its snapshot first and waits for table locks
    afterwards, so what happened while it waited is hidden from it. The statement in full doesn't.
    """

    text: str
    name: str | None = None
    fresh_snapshot: bool = False

    @property
    def prepare_sql(self) -> str:
        """The PREPARE that gives the statement its name."""
        return f"PREPARE {self.name} AS {self.text}"

    @cached_property
    def plain_sql(self) -> str:
        """The statement with DB-API parameters, for a connection where nothing is prepared."""
        # In brackets, since drivers write a parameter as it stands: of -32768::smallint only 32768 is cast.
        return re.sub(r"\$\d+", "(%s)", self.text)

    @cached_property
    def call_sql(self) -> str:
        """What to execute on a connection where the named statements are prepared."""
        if self.name is None or self.fresh_snapshot:
            return self.plain_sql
        count = len(re.findall(r"\$\d+", self.text))
        return f"EXECUTE {self.name}({', '.join(['%s'] * count)})"


@dataclass(frozen=True)
class Taking:
    """How a session finishes jobs and takes others in one message, by functions of its own."""

    # Creates the functions, or replaces them, for this session alone.
    functions: str
    # From the rows to the parameters of finish_jobs.
    finish_params: Callable[[Sequence[Row]], tuple[Any, ...]]
    # (finish_params) -> nothing; fails unless each of the rows was there under its key, and deleted.
    finish_jobs: Statement
    # (id to unlock or null, queue, how many, priorities, run_ats and ids of the marks, learn) -> one
    # column of JSON arrays: a Row for each job, then a Walk.
    take_jobs: Statement
    # The same in the order of run_at, priority and id.
    take_jobs_by_run_at: Statement
    # (ids) -> how many of them this session had locked.
    unlock_jobs: Statement
    # () -> nothing; unlocks all that this session has locked.
    unlock_everything: Statement

    def take_jobs_in(self, order: PollStrategy) -> Statement:
        """The statement that takes jobs in *order*."""
        return self.take_jobs_by_run_at if order is PollStrategy.RUN_AT else self.take_jobs


class Walk(NamedTuple):
    """What taking jobs told besides the jobs.

    ``unlocked`` says whether the lock to be given up was held, ``more`` that another due job may be
    there, ``seconds_until_next`` when the next one falls due if no job was found, ``entries`` and
    ``pages`` how many of the index were read. Then come the marks for the next walk, if they were
    asked for: up to where in each priority every job was gone or locked. A walk in the order of
    ``run_at`` tells besides of how many priorities it read the ``heads``, and how many ``jumps`` down
    from the root of the index it took to get from entry to entry.
    """

    unlocked: bool | None
    more: bool
    seconds_until_next: float | None
    entries: int | None
    pages: int | None
    priorities: list[int] | None
    run_ats: list[str] | None
    ids: list[int] | None
    heads: int = 0
    jumps: int = 0


@dataclass(frozen=True)
class Table:
    """What a kind of table offers: its statements, and the key that names one row.

    A statement returns a job as one column, the JSON array that :meth:`Row.read` reads: psycopg2
    takes longer over eight columns than json over one.
    """

    version: int
    key: Callable[[Row], tuple[Any, ...]]

    # ($1 queue) -> the first due job that this session could lock, locked.
    lock_job: Statement
    # The same, of the first one by run_at, priority and id.
    lock_job_by_run_at: Statement
    # (key) -> one row if the job is still as it was locked.
    check_job: Statement
    # (id) -> whether the lock was had, for a job known by its id.
    relock_job: Statement
    # (id) -> whether this session held the lock.
    unlock_job: Statement
    # The same, and then every advisory lock that is left on the session.
    unlock_all: Statement

    # (key), (id) -> how many rows went, and the transaction they went in.
    destroy_job: Statement
    destroy_job_by_id: Statement
    # (id) -> one row if the job is there.
    job_exists: Statement
    # (transaction, id) -> whether we are in that transaction and the job is gone in it.
    deletion_pending: Statement
    # (error count, seconds, message, key or id) -> the job.
    set_error: Statement
    set_error_by_id: Statement
    # (timestamp or null, seconds or null, id) -> the job.
    reschedule: Statement

    # (queue, priority, run_at or null, type, args) -> the job.
    insert_job: Statement
    # The same, an array each -> one JSON array of ids and run_ats, in the order of the arrays.
    insert_jobs: Statement
    # From values to an array as a parameter.
    array: Callable[[Iterable[str | int | None]], str]

    # () -> queue, type, count, working, errored, highest error count, oldest run_at as text.
    stats: Statement

    taking: Taking

    # () -> whether the table notifies of jobs that are enqueued.
    notifies: Statement
    # What to execute to hear of them; each notification is the number of due jobs and their queue.
    listen: str
    stop_listening: str

    def lock_job_in(self, order: PollStrategy) -> Statement:
        """The statement that locks the first job in *order*."""
        return self.lock_job_by_run_at if order is PollStrategy.RUN_AT else self.lock_job

    @property
    def prepared(self) -> Sequence[Statement]:
        """The statements that have a name."""
        every = (getattr(self, field.name) for field in fields(self))
        return [each for each in every if isinstance(each, Statement) and each.name]


# What the connection has prepared already, by whomever.
PREPARED_NAMES = Statement("SELECT name FROM pg_prepared_statements")
