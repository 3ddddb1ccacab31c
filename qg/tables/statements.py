"""The statements that every version of the table has, given what it calls its columns.

A row is found again by (queue, priority, run_at, id), in version 3 its primary key. The advisory
lock of a job is ``pg_try_advisory_lock(id)``, as in every Que.

Others may have functions and operators in a schema of the search_path. pg_catalog is searched first,
but one elsewhere is called all the same if it takes just the types that are given. So each function here
is called by its schema, and each operator is given two values of just the types that pg_catalog has it
for: of ``json #>> '{}'`` the right one is of no type yet, so a ``json #>> json`` would be called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from qg.tables.locking import LOCKED
from qg.tables.table import Statement, answer, identifier, literal, script

__all__ = ["Layout", "settling", "settling_by_id", "settling_by_id_in_tx", "settling_in_tx", "statements"]


@dataclass(frozen=True)
class Layout:
    """What there is in one version of the table, and where it is."""

    # The name of the schema that has it all.
    schema: str
    # What the names of its prepared statements end with.
    suffix: str
    # The column with a job's id.
    id: str
    # Which rows are no job any more, or not yet settled, and which of those this version works.
    unsettled: str
    workable: str
    # The columns that a later version has, as this one means them, "expression AS name". A statement
    # that reads them fails as ambiguous as soon as the table has them, instead of not seeing them.
    absent: tuple[str, ...]
    # The last fields of a Row, from last_error on.
    described: str
    # What set_error sets, from given.seconds and given.message, besides error_count.
    failed: str
    # The indexes that may lead from one due job to the next.
    indexes: tuple[str, ...]
    # The columns that stand before run_at in the one that always does.
    leading: tuple[str, ...]
    # When a row was kept as finished, and when given up; and the first line of its last error.
    finished_at: str
    expired_at: str
    headline: str
    # What else there is to change where a job is given up by hand, and where one is to run again.
    given_up: str
    revived: str

    @property
    def que_jobs(self) -> str:
        """The table, where it is changed."""
        return f"{identifier(self.schema)}.que_jobs"

    @property
    def que_lockers(self) -> str:
        """The table of lockers."""
        return f"{identifier(self.schema)}.que_lockers"

    @property
    def selected(self) -> str:
        """The table, in a FROM."""
        return self.sampled("")

    def sampled(self, sample: str) -> str:
        """A TABLESAMPLE of the table, in a FROM; the whole of it if that is empty."""
        table = f"{self.que_jobs} {sample}".rstrip()
        return f"{table}, (SELECT {', '.join(self.absent)}) AS absent" if self.absent else table

    @property
    def key(self) -> str:
        """The columns that lead from job to job in an index, in its order."""
        return f"{', '.join(self.leading)}, run_at, {self.id}"

    def regclass(self, name: str) -> str:
        """The table or index *name*, as to_regclass() and ::regclass read it."""
        schema = self.schema.replace('"', '""')
        return literal(f'"{schema}".{name}')

    @property
    def row(self) -> str:
        """A Row. A time as JSON is written in ISO 8601 whatever the session's DateStyle is."""
        return f"""pg_catalog.json_build_array(
            {self.id}, queue, priority, run_at, job_class, args::text, error_count, {self.described}
        )::text"""

    def has_key(self, first: int) -> str:
        """The condition that a row has the key in the parameters from number *first* on."""
        return (
            f"queue = ${first}::text AND priority = ${first + 1}::smallint "
            f"AND run_at = ${first + 2}::timestamptz AND {self.has_id(first + 3)}"
        )

    def has_id(self, number: int) -> str:
        """The condition that a row has the id in the parameter with this number."""
        return f"{self.id} = ${number}::bigint"


def statements(layout: Layout) -> dict[str, Any]:
    """Return those fields of a Table that *layout* is all there is to say about."""
    row, has_key, has_id, suffix = layout.row, layout.has_key, layout.has_id, layout.suffix
    return {
        "lock_job": Statement(_lock_job(layout), f"que_lock_job{suffix}", without_jit=True),
        "lock_job_by_run_at": Statement(
            _lock_job_by_run_at(layout), f"que_lock_job_by_run_at{suffix}", without_jit=True
        ),
        "lock_job_of_types": Statement(_lock_job(layout, of_types=True), without_jit=True),
        "lock_job_of_types_by_run_at": Statement(_lock_job_by_run_at(layout, of_types=True), without_jit=True),
        # Has its name only for those who call prepare_statements(); it is sent in full.
        "check_job": Statement(
            name=f"que_check_job{suffix}",
            fresh_snapshot=True,
            text=f"""
SELECT pg_catalog.current_setting('transaction_read_only') = 'off'
FROM {layout.selected} WHERE {layout.workable} AND {has_key(1)}
""",
        ),
        "destroy_job": settling(f"DELETE FROM {layout.que_jobs}", layout, name=f"que_destroy_job{suffix}"),
        "destroy_job_by_id": settling_by_id(f"DELETE FROM {layout.que_jobs}", layout),
        "destroy_job_in_tx": settling_in_tx(f"DELETE FROM {layout.que_jobs}", layout),
        "destroy_job_by_id_in_tx": settling_by_id_in_tx(f"DELETE FROM {layout.que_jobs}", layout),
        "job_exists": Statement(f"SELECT true FROM {layout.que_jobs} WHERE {layout.unsettled} AND {has_id(1)}"),
        "free_jobs": _free_jobs(layout),
        "gone_jobs": Statement(
            f"""
SELECT id FROM ({LOCKED}) AS locked
WHERE id = ANY ($1::bigint[])
  AND NOT EXISTS (SELECT FROM {layout.que_jobs} WHERE que_jobs.{layout.id} = locked.id)
"""
        ),
        "settlement": _settlement(layout),
        "set_error": Statement(
            name=f"que_set_error{suffix}",
            text=f"{_set_error(layout)} WHERE {layout.unsettled} AND {has_key(4)} RETURNING {row}",
        ),
        "set_error_by_id": Statement(
            f"{_set_error(layout)} WHERE {has_id(4)} AND ({layout.unsettled} OR $5::boolean) RETURNING {row}"
        ),
        "reschedule": Statement(
            f"""
UPDATE {layout.que_jobs}
SET run_at = coalesce($1::timestamptz, pg_catalog.now() + $2::float8 * interval '1 second')
FROM (SELECT {", ".join(layout.absent)}) AS absent
WHERE {has_id(3)} AND ({layout.unsettled} OR $4::boolean)
RETURNING {row}
"""
        ),
        "stats": _stats(layout),
        "functions": _functions(layout),
    }


# Walks the due jobs in the order of the index and tries each one's lock, a row at a time, until one
# is had. A plain "WHERE pg_try_advisory_lock(id) LIMIT 1" would leave it to the planner how many rows
# it locks on the way; here a step is taken only if the last lock failed.
#
# The rows come from this statement's snapshot, so the job may have been deleted by its worker
# before we got the lock that the worker gave up: the caller must look again (check_job).
def _lock_job(layout: Layout, *, of_types: bool = False) -> str:
    given, is_wanted, queue = _wanted(layout, of_types)
    wanted = f"""
        SELECT queue, priority, run_at, {layout.id} AS id, {layout.row} AS job
        FROM {layout.selected}
        WHERE {is_wanted}"""
    return f"""
WITH RECURSIVE {given} due AS (
    SELECT head.*, pg_catalog.pg_try_advisory_lock(head.id) AS locked
    FROM ({wanted} AND queue = {queue}
        ORDER BY priority, run_at, {layout.id}
        LIMIT 1
    ) AS head
  UNION ALL
    SELECT following.*, pg_catalog.pg_try_advisory_lock(following.id)
    FROM due, LATERAL ({wanted} AND queue = due.queue
          AND (priority, run_at, {layout.id}) > (due.priority, due.run_at, due.id)
        ORDER BY priority, run_at, {layout.id}
        LIMIT 1
    ) AS following
    WHERE NOT due.locked
)
SELECT job FROM due WHERE locked LIMIT 1
"""


# No index is in this order, so this may read the keys of all due jobs of the queue, and sort them.
# OFFSET 0 keeps the condition out of the sorted list: locks are tried from its top down, and LIMIT
# stops at the first one that is had. The caller must look again, as above.
def _lock_job_by_run_at(layout: Layout, *, of_types: bool = False) -> str:
    given, is_wanted, queue = _wanted(layout, of_types)
    return f"""
WITH {given} first AS (
    SELECT due.*
    FROM (
        SELECT queue, priority, run_at, {layout.id} AS id
        FROM {layout.selected}
        WHERE {is_wanted} AND queue = {queue}
        ORDER BY run_at, priority, {layout.id}
        OFFSET 0
    ) AS due
    WHERE pg_catalog.pg_try_advisory_lock(due.id)
    LIMIT 1
)
SELECT job
FROM first, LATERAL (
    SELECT {layout.row} AS job FROM {layout.selected}
    WHERE queue = first.queue AND priority = first.priority AND run_at = first.run_at AND {layout.id} = first.id
) AS locked
"""


def _wanted(layout: Layout, of_types: bool) -> tuple[str, str, str]:
    """Return what is given, which rows are wanted of it, and where the queue is given."""
    is_due = f"{layout.workable} AND run_at <= pg_catalog.now()"
    if not of_types:
        return "", is_due, "$1::text"
    has_type = "job_class = ANY ((SELECT types FROM given)::text[])"
    return "given AS (SELECT $1::text[] AS types),", f"{is_due} AND {has_type}", "$2::text"


def settling(change: str, layout: Layout, *, name: str | None = None) -> Statement:
    """Return the statement that makes *change* to the row with a key, unless that is settled already."""
    return Statement(_counted(f"{change} WHERE {_has_unsettled_key(layout)}", layout), name)


def settling_by_id(change: str, layout: Layout) -> Statement:
    """Return the same, given an id, and whether to make the change to a row that is settled, too."""
    return Statement(_counted(f"{change} WHERE {_has_id_to_settle(layout)}", layout))


def settling_in_tx(change: str, layout: Layout) -> Statement:
    """Return what settling() does, for a transaction of the caller's."""
    return Statement(_counted_in_tx(f"{change} WHERE {_has_unsettled_key(layout)}", layout))


def settling_by_id_in_tx(change: str, layout: Layout) -> Statement:
    """Return what settling_by_id() does, for a transaction of the caller's."""
    return Statement(_counted_in_tx(f"{change} WHERE {_has_id_to_settle(layout)}", layout))


def _has_unsettled_key(layout: Layout) -> str:
    return f"{layout.unsettled} AND {layout.has_key(1)}"


def _has_id_to_settle(layout: Layout) -> str:
    return f"{layout.has_id(1)} AND ({layout.unsettled} OR $2::boolean)"


def _free_jobs(layout: Layout) -> Statement:
    return Statement(
        f"""
SELECT key.id
FROM (SELECT $1::text AS queue) AS given,
     unnest($2::smallint[], $3::timestamptz[], $4::bigint[]) AS key (priority, run_at, id),
     LATERAL (
         SELECT FROM {layout.que_jobs}
         WHERE {layout.unsettled}
           AND queue = given.queue AND priority = key.priority AND run_at = key.run_at AND {layout.id} = key.id
         FOR UPDATE SKIP LOCKED
     ) AS found
"""
    )


_COUNT = "pg_catalog.json_build_array(pg_catalog.count(*), pg_catalog.txid_current())::text"


def _counted(change: str, layout: Layout) -> str:
    """Return what makes *change*, and says how many rows changed, and in which transaction."""
    return f"""
WITH changed AS ({change} RETURNING {layout.id})
SELECT {answer(_COUNT)} FROM changed
"""


# Somebody may have left a transaction open in which he deleted the row, and a handler that meets him would wait
# for as long as he does. A lock_timeout that the caller has set counts; otherwise one holds for this statement. The
# condition on it is looked at before a row is, and what it was is put back after all rows are.
def _counted_in_tx(change: str, layout: Layout) -> str:
    """Return the same for a transaction of the caller's, where it waits 10 s at most for somebody's lock of the row."""
    return f"""
WITH waiting AS MATERIALIZED (
    SELECT before,
           CASE before WHEN '0' THEN pg_catalog.set_config('lock_timeout', '10s', true) ELSE before END AS set
    FROM (SELECT pg_catalog.current_setting('lock_timeout') AS before OFFSET 0) AS setting
), changed AS (
    {change} AND (SELECT set FROM waiting) IS NOT NULL RETURNING {layout.id}
), counted AS (
    SELECT {_COUNT} AS answer FROM changed
)
SELECT {answer("answer")}, pg_catalog.set_config('lock_timeout', before, true) FROM counted, waiting
"""


# A handler can roll back to before it settled the job, or commit that and begin another transaction, and a
# transaction of its own elsewhere may be in any state. What became of the transaction is what holds now; the row is
# as this statement's snapshot has it, which may be older: then it says nothing about a transaction that was committed.
def _settlement(layout: Layout) -> Statement:
    settlement = """pg_catalog.to_json(CASE
    WHEN here AND there THEN 'undone'
    WHEN here THEN 'here'
    WHEN status = 'in progress' THEN 'open'
    WHEN status = 'aborted' AND there THEN 'undone'
    WHEN status = 'aborted' THEN 'gone'
    WHEN there AND seen THEN 'undone'
    ELSE 'committed'
END)::text"""
    return Statement(
        f"""
SELECT {answer(settlement)}
FROM (
    SELECT EXISTS (SELECT FROM {layout.que_jobs} WHERE {layout.unsettled} AND {layout.has_id(1)}) AS there,
           pg_catalog.txid_current_if_assigned() = number AS here,
           pg_catalog.txid_status(number) AS status,
           pg_catalog.txid_visible_in_snapshot(number, pg_catalog.txid_current_snapshot()) AS seen
    FROM (SELECT $2::bigint AS number) AS given
) AS found
"""
    )


def _set_error(layout: Layout) -> str:
    given = ", ".join(("$1::integer AS failures", "$2::float8 AS seconds", "$3::text AS message", *layout.absent))
    # Somebody else may have counted further meanwhile, if the lock was lost; an attempt counts once in any case.
    count = "error_count = GREATEST(error_count, given.failures)"
    return f"UPDATE {layout.que_jobs} SET {count}, {layout.failed} FROM (SELECT {given}) AS given"


# IN counts a job once however often its lock is listed.
def _stats(layout: Layout) -> Statement:
    return Statement(
        f"""
SELECT queue,
       job_class,
       pg_catalog.count(*),
       pg_catalog.count(*) FILTER (WHERE {layout.id} IN (SELECT id FROM ({LOCKED}) AS locked)),
       pg_catalog.count(*) FILTER (WHERE error_count > 0),
       pg_catalog.max(error_count),
       pg_catalog.to_json(pg_catalog.min(run_at)) #>> '{{}}'::text[]
FROM {layout.que_jobs}
WHERE {layout.unsettled}
GROUP BY queue, job_class
ORDER BY queue, job_class
"""
    )


def _functions(layout: Layout) -> str:
    indexes = [f"to_regclass({layout.regclass(each)})" for each in layout.indexes]
    parts = {
        "entries": " + ".join(f"pg_stat_get_xact_tuples_returned({each})" for each in indexes),
        "id": layout.id,
        "pages": " + ".join(f"pg_stat_get_xact_blocks_fetched({each})" for each in indexes),
        "que_jobs": layout.que_jobs,
        "row": layout.row,
        "selected": layout.selected,
        "workable": layout.workable,
    }
    text = script("session.sql") + script("session_by_run_at.sql")
    return re.sub(r"(?<!:):([a-z]\w*)", lambda part: parts[part.group(1)], text)
