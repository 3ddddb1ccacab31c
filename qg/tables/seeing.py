"""What the statements that look from outside are put together from."""

from __future__ import annotations

from qg.tables import v3, v7
from qg.tables.statements import Layout
from qg.tables.table import Table

__all__ = [
    "FAR",
    "IS_DUE",
    "SHARE",
    "heads",
    "json_time",
    "layout_of",
    "named",
    "of_pair",
    "pair",
    "pairs",
    "state",
]

# In version 3 of the table a job that is given up waits for a hundred years, and in a later one if it came from there.
FAR = "pg_catalog.now() + interval '50 years'"
IS_DUE = "run_at <= pg_catalog.now()"

# How many jobs may be read of each pair, if of all together they may be so many as parameter 2 says.
SHARE = """share AS MATERIALIZED (
    SELECT GREATEST($2::bigint / GREATEST(pg_catalog.count(*), 1::bigint), 20::bigint) AS most FROM pairs
)"""


def layout_of(table: Table) -> Layout:
    """Return what there is in *table*."""
    return v3.layout_of(table.schema) if table.version == 3 else v7.layout_of(table.version, table.schema)


def json_time(expression: str) -> str:
    """Return what writes a time in ISO 8601 whatever the session's DateStyle is."""
    return f"pg_catalog.to_json({expression}) #>> '{{}}'::text[]"


def named(layout: Layout) -> str:
    """Return a condition that is true and costs nothing, but names what other versions of the table haven't, or twice.

    A statement with it, on :attr:`Layout.selected`, fails on another version instead of telling something else.
    """
    if layout.id == "job_id":
        return "coalesce(true, job_id IS NULL)"
    return "coalesce(true, job_schema_version IS NULL, kwargs IS NULL)"


def state(layout: Layout) -> str:
    """Return the expression for the state of a row, one of qg.control's."""
    return f"""CASE
        WHEN {layout.expired_at} IS NOT NULL OR (error_count > 0 AND {layout.unsettled} AND run_at > {FAR})
        THEN 'expired'
        WHEN {layout.finished_at} IS NOT NULL THEN 'finished'
        WHEN error_count > 0 THEN 'failing'
        WHEN run_at > pg_catalog.now() THEN 'scheduled'
        WHEN {named(layout)} THEN 'ready'
    END"""


# Jumps from each pair, as from each job before, to the next one. Which pairs there are is in the index alone.
def pairs(layout: Layout, number: int) -> str:
    """Return the CTEs pair and pairs: so many of them as the parameter with this *number* says."""
    return f"""{pair(layout)}, pairs AS MATERIALIZED (
        SELECT * FROM pair LIMIT ${number}::bigint
    )"""


def pair(layout: Layout) -> str:
    """Return the recursive CTE pair: the columns that lead the index, each combination once."""
    columns = ", ".join(layout.leading)
    places = ", ".join(f"pair.{each}" for each in layout.leading)
    first = f"""
        SELECT {columns} FROM {layout.selected}
        WHERE {layout.unsettled} AND {named(layout)}
        ORDER BY {columns}
        LIMIT 1"""
    following = f"""
        SELECT {columns} FROM {layout.selected}
        WHERE {layout.unsettled} AND ({columns}) > ({places})
        ORDER BY {columns}
        LIMIT 1"""
    return f"""
    pair AS (
        ({first})
      UNION ALL
        SELECT following.* FROM pair, LATERAL ({following}) AS following
    )"""


def of_pair(layout: Layout) -> str:
    """Return the condition that a job is of the combination in pairs."""
    return " AND ".join(f"que_jobs.{each} = pairs.{each}" for each in layout.leading)


def heads(layout: Layout) -> tuple[str, str]:
    """Return what begins a statement, and what there is in its FROM, for the jobs that are taken next."""
    return (
        f"WITH RECURSIVE {pairs(layout, 1)}, {SHARE}",
        f"""
pairs, LATERAL (
    SELECT que_jobs.* FROM {layout.que_jobs}
    WHERE {layout.unsettled} AND {of_pair(layout)} AND {IS_DUE}
    ORDER BY run_at, {layout.id}
    LIMIT (SELECT most FROM share)
) AS head""",
    )
