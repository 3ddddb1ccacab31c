"""What is done to jobs from outside: each change under the locks of the jobs, which the caller takes and gives up.

A job may be settled, or changed, between the walk that found it and its lock. So each statement here looks again
whether the row is still what was wanted, in a snapshot that was taken after the lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from qg.tables.locking import array
from qg.tables.seeing import layout_of, state
from qg.tables.statements import Layout
from qg.tables.table import Row, Statement, Table
from qg.tables.walks import GIVEN, matches

__all__ = ["TRY_LOCKS", "Acts", "acts_on"]

# (ids) -> those of them whose locks this session has now.
TRY_LOCKS = Statement(
    "SELECT id FROM pg_catalog.unnest($1::bigint[]) AS given (id) WHERE pg_catalog.pg_try_advisory_lock(id)"
)


@dataclass(frozen=True)
class Acts:
    """The statements that change one version of the table in one schema.

    Each takes what row_params() makes of the rows, a filter (:data:`qg.tables.walks.GIVEN`), and what it says itself.
    It returns id and queue of each row that it has changed. It waits for nobody: a row that some transaction has
    locked stays as it is.
    """

    version: int
    # () ->; failed or given up. Runs again now, as if it hadn't failed.
    retry: Statement
    # () ->; to be done, and not due.
    run_now: Statement
    # () ->
    delete: Statement
    # (message if there is none) ->; to be done.
    expire: Statement
    # (timestamp or null, seconds or null) ->; to be done.
    reschedule: Statement
    # (priority) ->; to be done.
    set_priority: Statement
    # (queue) ->; to be done.
    move: Statement
    # () -> the ids of the rows that are there and fit; nothing is changed.
    fit: Statement
    # (wake_params) -> nothing of interest; tells who listens of jobs that are due now.
    wake: Statement

    def row_params(self, rows: Sequence[Row]) -> tuple[Any, ...]:
        """Return what finds *rows* again: in version 3 their keys, which the index has, and otherwise their ids."""
        ids = array(row.id for row in rows)
        if self.version > 3:
            return (ids,)
        return (
            array(row.queue for row in rows),
            array(row.priority for row in rows),
            array(row.run_at for row in rows),
            ids,
        )

    def wake_params(self, changed: Sequence[tuple[int, str]]) -> tuple[Any, ...]:
        """Return the parameters of wake for what a statement has *changed*."""
        if self.version > 3:
            return (array(number for number, _ in changed),)
        jobs = Counter(queue for _, queue in changed)
        return array(jobs), array(jobs.values())


@cache
def acts_on(table: Table) -> Acts:
    """Return what changes *table*: each time the same object."""
    layout, version = layout_of(table), table.version
    now = "run_at = pg_catalog.now()"
    to_be_done = ("ready", "scheduled", "failing")
    later = "run_at = coalesce(given.run_at, pg_catalog.now() + given.seconds * interval '1 second')"
    return Acts(
        version=version,
        retry=_update(layout, layout.revived, ("failing", "expired")),
        run_now=_update(layout, now, to_be_done, also="AND run_at > pg_catalog.now()"),
        delete=_change(layout, f"DELETE FROM {layout.que_jobs} USING chosen"),
        expire=_update(layout, layout.given_up, to_be_done, text="message"),
        reschedule=_update(layout, later, to_be_done, timestamptz="run_at", float8="seconds"),
        set_priority=_update(layout, "priority = given.priority", to_be_done, smallint="priority"),
        move=_update(layout, "queue = given.queue", to_be_done, text="queue"),
        fit=_fit(layout),
        wake=_wake_of_version_3() if version == 3 else _wake(layout, version),
    )


def _update(layout: Layout, change: str, states: Sequence[str], *, also: str = "", **params: str) -> Statement:
    """Return what makes *change* to rows in one of *states*; *params* are those of the change, by their types."""
    first = _first_of_filter(layout) + GIVEN
    given = ", ".join(f"${first + place}::{kind} AS {name}" for place, (kind, name) in enumerate(params.items()))
    where = f"AND {state(layout)} IN ({', '.join(map(repr, states))}) {also}"
    return _change(layout, f"UPDATE {layout.que_jobs} SET {change} FROM chosen, (SELECT {given}) AS given", where)


def _wanted(layout: Layout) -> tuple[str, str]:
    """Return what there is in a FROM, with a filter, and which rows of that are wanted."""
    given, fits = matches(layout, _first_of_filter(layout))
    if _has_keys(layout):
        wanted = f"""unnest($1::text[], $2::smallint[], $3::timestamptz[], $4::bigint[])
             AS wanted ({layout.key}) JOIN {layout.que_jobs} USING ({layout.key})"""
        return f"{wanted}, ({given}) AS given", fits
    wanted = f"(SELECT $1::bigint[] AS ids) AS wanted, {layout.selected}"
    return f"{wanted}, ({given}) AS given", f"{layout.id} = ANY (wanted.ids) AND {fits}"


def _fit(layout: Layout) -> Statement:
    wanted, fits = _wanted(layout)
    return Statement(f"SELECT {layout.id} FROM {wanted} WHERE {fits}")


def _change(layout: Layout, change: str, where: str = "") -> Statement:
    wanted, fits = _wanted(layout)
    key = layout.key if _has_keys(layout) else layout.id
    is_chosen = " AND ".join(f"que_jobs.{each} = chosen.{each}" for each in key.split(", "))
    return Statement(
        without_jit=True,
        text=f"""
WITH chosen AS (
    SELECT {key}
    FROM {wanted}
    WHERE {fits} {where}
    FOR UPDATE OF que_jobs SKIP LOCKED
), changed AS (
    {change} WHERE {is_chosen} RETURNING que_jobs.{layout.id}, que_jobs.queue
)
SELECT * FROM changed
""",
    )


def _has_keys(layout: Layout) -> bool:
    return layout.id == "job_id"


def _first_of_filter(layout: Layout) -> int:
    return 5 if _has_keys(layout) else 2


def _wake_of_version_3() -> Statement:
    return Statement(
        """
SELECT pg_catalog.pg_notify('qg_jobs', number::text || ' ' || queue)
FROM unnest($1::text[], $2::bigint[]) AS given (queue, number)
WHERE pg_catalog.octet_length(queue) < 7900
"""
    )


# As the table's trigger does for new jobs; a hundred are enough to get everybody to look.
def _wake(layout: Layout, version: int) -> Statement:
    same = "AND que_lockers.job_schema_version = que_jobs.job_schema_version" if version >= 5 else ""
    return Statement(
        f"""
SELECT pg_catalog.pg_notify(
    'que_listener_' || locker.pid::text,
    pg_catalog.json_build_object(
        'message_type'::text, 'job_available'::text, 'queue'::text, queue, 'priority'::text, priority, 'id'::text, id,
        'run_at'::text, pg_catalog.to_char(pg_catalog.timezone('UTC', run_at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    )::text
)
FROM {layout.que_jobs}, LATERAL (
    SELECT pid FROM {layout.que_lockers}
    WHERE listening AND worker_count > 0 AND queues OPERATOR(pg_catalog.@>) ARRAY[que_jobs.queue] {same}
    ORDER BY pg_catalog.md5(pid::text || que_jobs.id::text)
    LIMIT 1
) AS locker
WHERE id = ANY ($1::bigint[]) AND {layout.unsettled} AND run_at <= pg_catalog.now()
LIMIT 100
"""
    )
