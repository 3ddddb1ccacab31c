"""The shape that every table module fills in: a row, a statement, a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from enum import Enum
from functools import cached_property
from importlib import resources
from typing import Any, NamedTuple

__all__ = [
    "ANSWER",
    "GREATEST_ID",
    "Draft",
    "Lockers",
    "PollStrategy",
    "Row",
    "Statement",
    "Table",
    "answer",
    "identifier",
    "iso_text",
    "literal",
    "script",
    "timestamp",
]


GREATEST_ID = 2**63 - 1
"""No job has a greater id."""


class PollStrategy(Enum):
    """In which order workers take the jobs that are due. Mirrors gue's ``PollStrategy``.

    ``PRIORITY`` takes the most urgent first, however long others have been due: gue's
    ``PriorityPollStrategy``. ``RUN_AT`` takes the earliest first, however urgent others are: gue's
    ``RunAtPollStrategy``.
    """

    PRIORITY = "priority, run_at, id"
    RUN_AT = "run_at, priority, id"


class Draft(NamedTuple):
    """A job on its way into the table.

    ``run_at`` is in ISO 8601, or None for now. ``args``, ``kwargs`` and ``tags`` are JSON text. With
    ``one_argument`` the args are a single argument; a table whose args are arrays puts them into one.
    """

    queue: str
    priority: int
    run_at: str | None
    type: str
    args: str
    kwargs: str
    tags: str
    one_argument: bool = False


# json.loads looks each time what it was given.
_decode = json.JSONDecoder().decode

# What Python's "surrogateescape" makes of a byte that is no text.
_UNTEXT = re.compile("[\udc80-\udcff]")


class Row(NamedTuple):
    """A job as the table holds it.

    ``run_at`` and what is JSON are text: the one in ISO 8601, so that the key of a row finds it again
    whatever Python's datetime can't hold (infinity, the year 12000), the others so that a document
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
    kwargs: str = "{}"
    tags: str = "[]"

    @classmethod
    def read(cls, text: str) -> Row:
        """Return the row that a statement gave as a JSON array."""
        return cls(*_decode(text))

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What finds the row again as long as nobody has changed any of it."""
        return self.queue, self.priority, self.run_at, self.id

    def require_text(self) -> None:
        """Raise ValueError if the row has bytes that aren't text in the database's encoding."""
        texts = (self.queue, self.run_at, self.type, self.args, self.last_error or "", self.kwargs, self.tags)
        if "".join(texts).isascii():
            return
        for name, value in zip(self._fields, self, strict=True):
            if isinstance(value, str) and not value.isascii() and (found := _UNTEXT.search(value)):
                raise ValueError(
                    f"the byte 0x{ord(found[0]) - 0xDC00:x} in its {name} isn't text in the database's encoding; "
                    "an SQL_ASCII database is taken to hold UTF-8"
                )

    @property
    def due(self) -> datetime:
        """``run_at`` as an aware datetime, or as near to it as a datetime comes."""
        return timestamp(self.run_at)


ANSWER = "qg.answer"
"""The setting in which a statement that may be run in a handler's transaction leaves its answer."""


def answer(text: str) -> str:
    """Return what gives the expression *text*, of type text, and leaves it in ANSWER until the transaction ends."""
    return f"pg_catalog.set_config('{ANSWER}', {text}, true)"


def identifier(name: str) -> str:
    """Return *name* as a quoted identifier, in a form that no template or driver takes for anything else.

    What is neither a letter nor a digit of ASCII is escaped, so there is no ``%``, ``$`` or ``:`` in it.
    """
    escaped = _escaped(name, "\\{:04x}")
    return f'"{name}"' if escaped == name else f'U&"{escaped}"'


def literal(text: str) -> str:
    """Return *text* as a string constant, as harmless as an identifier()."""
    return f"E'{_escaped(text, chr(92) + 'u{:04x}')}'"


def _escaped(text: str, form: str) -> str:
    return "".join(each if each.isalnum() or each in "_ " or each > "\x7f" else form.format(ord(each)) for each in text)


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
    # Whether it is never to be compiled, however dear its plan looks. Costs no message; holds where it is
    # run by itself, by call_sql.
    without_jit: bool = False
    # Whether it is to follow an index, and neither to read nor to sort all that there is. The planner may know nothing
    # yet of a table that has grown, or know it as it was. Holds where it is run by itself, too.
    by_index: bool = False
    # Whether it is to fail, and not to wait for longer than a tenth of a second, where somebody has locked a table. As
    # the others.
    gives_up_soon: bool = False

    @property
    def prepare_sql(self) -> str:
        """The PREPARE that gives the statement its name."""
        return f"PREPARE {self.name} AS {self.text}"

    @cached_property
    def plain_sql(self) -> str:
        """The statement with DB-API parameters, for a connection where nothing is prepared."""
        # In brackets, since drivers write a parameter as it stands: of -32768::smallint only 32768 is cast.
        return re.sub(r"\$\d+", "(%s)", self.text)

    def message(self, params: Sequence[Any], *, numbered: bool) -> tuple[str, tuple[Any, ...]]:
        """The statement and its parameters for a connection where nothing is prepared.

        Args:
            params: strings, whole numbers, booleans and None, if they are *numbered*.
            numbered: whether the driver takes ``$1``, as the server does. Such a driver writes a parameter in the
                way of its type there, by codecs that its user may have replaced, so each of them is sent as text.
        """
        if not numbered:
            return self.plain_sql, tuple(params)
        return self._numbered_sql, tuple(None if each is None else str(each) for each in params)

    @cached_property
    def _numbered_sql(self) -> str:
        return re.sub(r"(\$\d+)::", r"\1::text::", self.text)

    @cached_property
    def call_sql(self) -> str:
        """What to execute on a connection where the named statements are prepared."""
        if self.name is None or self.fresh_snapshot:
            return self.full_sql
        count = len(re.findall(r"\$\d+", self.text))
        return f"{self._settings}EXECUTE {self.name}({', '.join(['%s'] * count)})"

    @cached_property
    def full_sql(self) -> str:
        """The same where they aren't."""
        return self._settings + self.plain_sql

    @property
    def _settings(self) -> str:
        # A message of several statements is one transaction, unless one was begun before.
        off = ["jit"] if self.without_jit else []
        if self.by_index:
            off += ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"]
        patience = "SET LOCAL lock_timeout = 100; " if self.gives_up_soon else ""  # ms
        return patience + "".join(f"SET LOCAL {name} = off; " for name in off)


@dataclass(frozen=True)
class Lockers:
    """How a session says in the table of lockers whose it is."""

    # (the session's name, workers, process id, host, queue, listening) -> one row. The session's old row, and those of
    # sessions that are gone, go first.
    register: Statement
    # (the session's name) -> nothing of interest; the session's row goes.
    leave: Statement


# Equal are only two that are the same: whoever compares them wants to know whether the table was migrated.
@dataclass(frozen=True, eq=False)
class Table:
    """What a version of the table in one schema offers: its statements, and how a job gets into it.

    Every statement names the schema, so that a handler's search_path, or a temporary table, leads to no
    other table.

    A statement returns a job as one column, the JSON array that :meth:`Row.read` reads: psycopg2
    takes longer over ten columns than json over one. A statement of another version fails rather
    than read or write what isn't meant: a column that it names is missing, or there twice.
    """

    version: int
    # The schema's name as the server knows it, not quoted.
    schema: str

    # How the table holds a draft; raises ErrInvalidJob if it can't. How many fields of a draft, from
    # the first one on, the INSERTs take.
    fit: Callable[[Draft], Draft]
    width: int
    # What a queue is called in the table, and what migrating makes of its name in another version.
    queue_name: Callable[[str], str]
    migrated_queue: Callable[[str], str]
    # How many characters a queue's name may have; None where there is no limit.
    longest_queue_name: int | None
    # How often a job is tried again before it expires; None means for ever.
    maximum_retry_count: int | None

    # ($1 queue) -> the first due job that this session could lock, locked.
    lock_job: Statement
    # The same, of the first one by run_at, priority and id.
    lock_job_by_run_at: Statement
    # ($1 types, $2 queue) -> the same two, only among jobs of these types.
    lock_job_of_types: Statement
    lock_job_of_types_by_run_at: Statement
    # (key) -> one row if the job is still as it was locked: whether this session can write.
    check_job: Statement

    # (key), (id, whether one that is settled already, too) -> an answer(), in JSON: how many rows went, and in
    # which transaction.
    destroy_job: Statement
    destroy_job_by_id: Statement
    # The same, of rows that are kept as finished; None where there is no such state.
    finish_job: Statement | None
    finish_job_by_id: Statement | None
    # The same four for a transaction of the caller's, where they wait 10 s at most for somebody's lock of the row.
    destroy_job_in_tx: Statement
    destroy_job_by_id_in_tx: Statement
    finish_job_in_tx: Statement | None
    finish_job_by_id_in_tx: Statement | None
    # (id) -> one row if the job is there and still to be done.
    job_exists: Statement
    # (delete_params) -> the ids of those that are there under their key, still to be done, and whose
    # row nobody has locked. Waits for nobody.
    free_jobs: Statement
    # (ids) -> those of them that somebody works, and that have no row any more.
    gone_jobs: Statement
    # (id, transaction) -> an answer(), in JSON: what became of a job that was settled in that transaction. "here": we
    # are in it, and the job is settled; "open": others are; "committed", and the job is settled; "undone": the job is
    # still to be done; "gone": the transaction was rolled back, and somebody else has settled the job.
    settlement: Statement
    # (error count, seconds or null to expire, message or null, key) -> the job.
    set_error: Statement
    # (the same, but id, whether one that is settled already, too) -> the job.
    set_error_by_id: Statement
    # (timestamp or null, seconds or null, id, whether one that is settled already, too) -> the job.
    reschedule: Statement

    # (the first *width* fields of a draft) -> the job.
    insert_job: Statement
    # The same, an array each -> one JSON array of ids and run_ats, in the order of the arrays.
    insert_jobs: Statement
    # The same, waking nobody where the table lets us.
    insert_jobs_quietly: Statement

    # () -> queue, type, count, working, errored, highest error count, oldest run_at as text.
    stats: Statement
    # () -> id, queue, type, priority, run_at, error count, backend, process, host, since.
    job_states: Statement

    # The functions behind TAKE_JOBS and DELETE_JOBS: creates or replaces them, for this session alone.
    functions: str

    # () -> whether the table notifies of jobs that are enqueued.
    notifies: Statement
    # From the pid of a session's backend to the channel where it hears of them.
    channel: Callable[[int], str]
    # From a notification to a queue and how many jobs are due there; None if it says nothing of that.
    read_notification: Callable[[str], tuple[str, int] | None]
    # None where the table knows of none.
    lockers: Lockers | None

    def lock_job_in(self, order: PollStrategy, types: Sequence[str] | None) -> Statement:
        """The statement that locks the first job in *order*, of any type or of *types*."""
        if types is None:
            return self.lock_job_by_run_at if order is PollStrategy.RUN_AT else self.lock_job
        return self.lock_job_of_types_by_run_at if order is PollStrategy.RUN_AT else self.lock_job_of_types

    @cached_property
    def locking(self) -> Sequence[Statement]:
        """The statements that lock a job."""
        return [
            self.lock_job,
            self.lock_job_by_run_at,
            self.lock_job_of_types,
            self.lock_job_of_types_by_run_at,
        ]

    @cached_property
    def prepared(self) -> Sequence[Statement]:
        """The statements that have a name."""
        every = (getattr(self, field.name) for field in fields(self))
        return [each for each in every if isinstance(each, Statement) and each.name]
