"""What is the same in every version: the locks, and the calls of the functions that a session has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from qg.tables.table import PollStrategy, Row, Statement

__all__ = [
    "DELETE_JOBS",
    "END_HOLDER",
    "LOCKED",
    "PREPARED",
    "RELOCK_JOB",
    "TAKE_JOBS",
    "TAKE_JOBS_BY_RUN_AT",
    "UNLOCK_ALL",
    "UNLOCK_EVERYTHING",
    "UNLOCK_JOB",
    "UNLOCK_JOBS",
    "UNLOCK_OTHERS",
    "Walk",
    "array",
    "delete_params",
    "take_jobs_in",
]

# A job is being worked while its id is advisory-locked. pg_locks shows the locks of the whole
# server: those of other databases, of two-integer keys (objsubid 2) and those that somebody still
# waits for say nothing about this table.
LOCKED = """
SELECT (classid::bigint << 32) | objid::bigint AS id, pid
FROM pg_catalog.pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


# (id, server process, seconds) -> a row if it is this one that has the job's lock, and its last statement began longer
# ago than that; its session is ended then. Behind a pooler somebody else may have the session by now.
END_HOLDER = Statement(
    f"""
SELECT pg_catalog.pg_terminate_backend(locked.pid) FROM ({LOCKED}) AS locked
JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid OPERATOR(pg_catalog.=) locked.pid
WHERE id OPERATOR(pg_catalog.=) $1::bigint
  AND locked.pid OPERATOR(pg_catalog.=) $2::integer
  AND query_start OPERATOR(pg_catalog.<)
    (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => $3::double precision))
"""
)


# (names, texts) -> the names that the connection has already, by whomever, and whether they are these statements.
# Several may have been prepared in one message; the server has the whole of it for the text of each then.
PREPARED = Statement(
    """
SELECT known.name, pg_catalog.strpos(known.statement, 'PREPARE ' || given.name || ' AS ' || given.text) > 0
FROM unnest($1::text[], $2::text[]) AS given (name, text)
JOIN pg_catalog.pg_prepared_statements AS known ON known.name = given.name
"""
)

# (id) -> whether the lock was had, for a job known by its id.
RELOCK_JOB = Statement("SELECT pg_catalog.pg_try_advisory_lock($1::bigint)")
# (id) -> whether this session held the lock.
UNLOCK_JOB = Statement(name="que_unlock_job", text="SELECT pg_catalog.pg_advisory_unlock($1::bigint)")
# The same, and then every advisory lock that is left on the session.
UNLOCK_ALL = Statement("SELECT pg_catalog.pg_advisory_unlock($1::bigint), pg_catalog.pg_advisory_unlock_all()")
# (ids) -> how many of them this session had locked.
UNLOCK_JOBS = Statement(
    "SELECT pg_catalog.count(*) FROM pg_catalog.unnest($1::bigint[]) AS id WHERE pg_catalog.pg_advisory_unlock(id)"
)
# (ids) -> what this session has locked: ids, and null for each of the given ones; all others are unlocked.
UNLOCK_OTHERS = Statement(
    f"""
SELECT id, CASE WHEN id <> ALL ($1::bigint[]) THEN pg_catalog.pg_advisory_unlock(id) END
FROM ({LOCKED}) AS locked
WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
"""
)
# () -> nothing; unlocks all that this session has locked.
UNLOCK_EVERYTHING = Statement("SELECT pg_catalog.pg_advisory_unlock_all()")

# (delete_params) -> nothing; fails unless each of the rows was there under its key, and deleted.
DELETE_JOBS = Statement(
    name="que_delete_jobs",
    text="SELECT pg_temp.que_delete_jobs($1::text, $2::smallint[], $3::timestamptz[], $4::bigint[])",
)


def delete_params(rows: Sequence[Row]) -> tuple[str, str, str, str]:
    """Return the parameters of DELETE_JOBS for *rows*, all of one queue."""
    return (
        rows[0].queue,
        array(row.priority for row in rows),
        array(row.run_at for row in rows),
        array(row.id for row in rows),
    )


def _take_jobs(function: str) -> Statement:
    return Statement(
        name=function,
        text=f"""
SELECT pg_temp.{function}(
    $1::bigint, $2::bigint[], $3::bigint[], $4::text, $5::integer, $6::text[], $7::integer[], $8::text[], $9::bigint[],
    $10::boolean
)
""",
    )


# (id to unlock or null; ids to unlock and ids to keep locked, or null; queue, how many, types or null; priorities,
# run_ats and ids of the marks; learn) -> one column of JSON arrays: a Row for each job, then a Walk.
TAKE_JOBS = _take_jobs("que_take_jobs")
# The same in the order of run_at, priority and id.
TAKE_JOBS_BY_RUN_AT = _take_jobs("que_take_jobs_by_run_at")


def take_jobs_in(order: PollStrategy) -> Statement:
    """Return the statement that takes jobs in *order*."""
    return TAKE_JOBS_BY_RUN_AT if order is PollStrategy.RUN_AT else TAKE_JOBS


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


def array(values: Iterable[str | int | None]) -> str:
    """Return *values* as a parameter that is an array.

    PostgreSQL reads one in this form twice as fast as the ARRAY[…] that psycopg2 makes of a list.
    """
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: str | int | None) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "NULL" if value is None else str(value)
