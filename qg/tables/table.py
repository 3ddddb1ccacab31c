"""The shape that every table module fills in: a row, a statement, a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, NamedTuple

__all__ = ["PREPARED_NAMES", "Row", "Statement", "Table", "iso_text", "timestamp"]


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


def timestamp(iso: str) -> datetime:
    """Return PostgreSQL's ISO 8601 text as an aware datetime, or the nearest one there is."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?([+-][\d:]+)", iso)
    if match is None:
        far_past = iso.endswith("BC") or iso.startswith("-")
        return (datetime.min if far_past else datetime.max).replace(tzinfo=timezone.utc)
    seconds, fraction, offset = match.groups()
    # Python 3.10 reads a fraction of six digits only.
    return datetime.fromisoformat(f"{seconds}.{(fraction or '').ljust(6, '0')}{offset}")


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
        return re.sub(r"\$\d+", "%s", self.text)

    @cached_property
    def call_sql(self) -> str:
        """What to execute on a connection where the named statements are prepared."""
        if self.name is None or self.fresh_snapshot:
            return self.plain_sql
        count = len(re.findall(r"\$\d+", self.text))
        return f"EXECUTE {self.name}({', '.join(['%s'] * count)})"


@dataclass(frozen=True)
class Table:
    """What a kind of table offers: its statements, and the key that names one row.

    The columns that a statement returns are those of :class:`Row`, in its order, unless said.
    """

    version: int
    key: Callable[[Row], tuple[Any, ...]]

    # ($1 queue) -> the first due job that this session could lock, locked.
    lock_job: Statement
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
    # The same, an array each -> the jobs; their ids ascend in the order of the arrays.
    insert_jobs: Statement

    # () -> queue, type, count, working, errored, highest error count, oldest run_at as text.
    stats: Statement

    @property
    def prepared(self) -> Sequence[Statement]:
        """The statements that have a name."""
        every = (getattr(self, field.name) for field in fields(self))
        return [each for each in every if isinstance(each, Statement) and each.name]


# What the connection has prepared already, by whomever.
PREPARED_NAMES = Statement("SELECT name FROM pg_prepared_statements")
