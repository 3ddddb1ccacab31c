"""Counts: how many jobs there are of each kind, in the whole table, a sample of it, or the heads of its queues."""

from __future__ import annotations

from qg.tables.seeing import FAR, IS_DUE, SHARE, heads, json_time, named, of_pair, pairs, state
from qg.tables.statements import Layout
from qg.tables.table import Statement

__all__ = [
    "MOST_ERRORS",
    "SAMPLE",
    "count_heads",
    "counted",
    "errors",
    "errors_ahead",
    "names",
    "names_in_heads",
    "queues",
    "size",
    "types",
]

MOST_ERRORS = 1000
"""How many groups of errors are told; one more is given if there are others."""

SAMPLE = "TABLESAMPLE pg_catalog.system ($1::real) REPEATABLE (0)"


def size(layout: Layout) -> Statement:
    """Return what tells the size of the table, and the time."""
    table = f"{layout.regclass('que_jobs')}::regclass"
    return Statement(
        f"""
SELECT pg_catalog.pg_relation_size({table}) / pg_catalog.current_setting('block_size')::bigint,
       pg_catalog.pg_stat_get_tuples_inserted({table}::oid), pg_catalog.pg_stat_get_tuples_deleted({table}::oid),
       {json_time("pg_catalog.clock_timestamp()")}
"""
    )


# With the same seed two samples have most of their pages in common, so that what differs is what has changed.
def counted(layout: Layout, sample: str) -> Statement:
    """Return what counts the jobs of a *sample*, or of the whole table if that is empty."""
    return Statement(
        without_jit=True,
        text=f"""
SELECT queue, state, due, pg_catalog.count(*), {json_time("pg_catalog.min(run_at)")}
FROM (
    SELECT queue, run_at, {state(layout)} AS state, {IS_DUE} AS due FROM {layout.sampled(sample)}
) AS seen
GROUP BY queue, state, due
""",
    )


def count_heads(layout: Layout) -> Statement:
    """Return what counts some jobs of each queue and priority."""

    def counted(when: str) -> str:
        return f"""LATERAL (
    SELECT pg_catalog.count(*) AS number, pg_catalog.count(*) FILTER (WHERE error_count > 0) AS failed,
           pg_catalog.min(run_at) AS oldest
    FROM (
        SELECT run_at, error_count FROM {layout.que_jobs}
        WHERE {layout.unsettled} AND {of_pair(layout)} AND {when}
        ORDER BY run_at, {layout.id}
        LIMIT (SELECT most FROM share)
    ) AS head
)"""

    return Statement(
        without_jit=True,
        by_index=True,
        text=f"""
WITH RECURSIVE {pairs(layout, 1)}, {SHARE}
SELECT pairs.queue, share.most, due.number, due.failed, ahead.number, ahead.failed, far.number, far.failed,
       {json_time("due.oldest")}
FROM share, pairs,
{counted(IS_DUE)} AS due,
{counted(f"run_at > pg_catalog.now() AND run_at <= {FAR}")} AS ahead,
{counted(f"run_at > {FAR}")} AS far
""",
    )


def names(layout: Layout) -> Statement:
    """Return what names jobs by their ids."""
    if layout.id != "job_id":
        return Statement(
            by_index=True, text=f"SELECT id, queue, job_class FROM {layout.que_jobs} WHERE id = ANY ($1::bigint[])"
        )
    return Statement(
        without_jit=True,
        by_index=True,
        text=f"""
WITH found AS MATERIALIZED (
    SELECT {layout.key} FROM {layout.que_jobs} WHERE job_id = ANY ($1::bigint[])
)
SELECT job_id, queue, job_class FROM found JOIN {layout.que_jobs} USING ({layout.key})
""",
    )


def names_in_heads(layout: Layout) -> Statement:
    """Return what names those among the jobs that are taken next."""
    begin, following = heads(layout)
    return Statement(
        without_jit=True,
        by_index=True,
        text=f"""
{begin}
SELECT {layout.id}, head.queue, job_class FROM {following} WHERE {layout.id} = ANY ($3::bigint[])
""",
    )


def types(layout: Layout) -> Statement:
    """Return what lists the types of the jobs that are taken next, and have been due for so many seconds."""
    begin, following = heads(layout)
    return Statement(
        without_jit=True,
        by_index=True,
        text=f"""
{begin}
SELECT head.queue, job_class FROM {following}
WHERE head.run_at <= pg_catalog.now() - $3::float8 * interval '1 second'
GROUP BY head.queue, job_class
ORDER BY head.queue, job_class
""",
    )


def queues(layout: Layout) -> Statement:
    """Return what lists the queues that have jobs to be done."""
    place = ", ".join(layout.leading[:-1])
    last = ", ".join(f"place.{each}" for each in layout.leading[:-1])
    return Statement(
        by_index=True,
        text=f"""
WITH RECURSIVE place AS (
    (SELECT {place} FROM {layout.selected} WHERE {layout.unsettled} AND {named(layout)} ORDER BY {place} LIMIT 1)
  UNION ALL
    SELECT following.* FROM place, LATERAL (
        SELECT {place} FROM {layout.que_jobs} WHERE {layout.unsettled} AND ({place}) > ({last}) ORDER BY {place} LIMIT 1
    ) AS following
)
SELECT DISTINCT queue FROM (SELECT queue FROM place LIMIT $1::bigint) AS found
""",
    )


def errors(layout: Layout, sample: str, which: str) -> Statement:
    """Return what groups the errors of a *sample*, or of the whole table if that is empty; of the jobs *which*."""
    return Statement(
        without_jit=True,
        text=_grouped(
            layout,
            f"""
    SELECT {_error_columns(layout)}
    FROM {layout.sampled(sample)}
    WHERE {which}""",
        ),
    )


def errors_ahead(layout: Layout) -> Statement:
    """Return what groups the errors of jobs that wait to be tried again."""
    return Statement(
        without_jit=True,
        by_index=True,
        text=f"WITH RECURSIVE {pairs(layout, 1)}"
        + _grouped(
            layout,
            f"""
    SELECT ahead.*
    FROM pairs, LATERAL (
        SELECT {_error_columns(layout)}, error_count
        FROM {layout.selected}
        WHERE {layout.unsettled} AND {of_pair(layout)} AND run_at > pg_catalog.now() AND run_at <= {FAR}
        ORDER BY run_at, {layout.id}
        LIMIT $2::bigint
    ) AS ahead
    WHERE error_count > 0""",
        ),
    )


def _error_columns(layout: Layout) -> str:
    return (
        f"job_class, coalesce({layout.headline}, '') AS headline, {state(layout)} = 'expired' AS given_up, "
        f"que_jobs.run_at, {layout.id} AS id"
    )


def _grouped(layout: Layout, errors: str) -> str:
    return f"""
SELECT job_class, headline, given_up, pg_catalog.count(*), {json_time("pg_catalog.min(run_at)")},
       {json_time("pg_catalog.max(run_at)")}, pg_catalog.max(id)
FROM ({errors}) AS failed
GROUP BY job_class, headline, given_up
ORDER BY pg_catalog.count(*) DESC, job_class, headline
LIMIT {MOST_ERRORS + 1}
"""
