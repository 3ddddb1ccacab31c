"""Walks: so many jobs, from a key on, in the order of an index; and jobs by their ids."""

from __future__ import annotations

from qg.tables.seeing import FAR, IS_DUE, json_time, of_pair, pair, state
from qg.tables.statements import Layout
from qg.tables.table import Statement

__all__ = ["GIVEN", "by_ids", "matches", "newest_by_id", "newest_by_run_at", "next_up"]

GIVEN = 8
"""How many parameters a filter has: queue, type, states, text in the error, how many seconds it must have been due at
least and at the most, args, the first line of the error."""


def matches(layout: Layout, first: int) -> tuple[str, str]:
    """Return what is given of a filter, in the parameters from number *first* on, and the condition that a row fits it.

    Each may be null, which any row fits. Args are a JSON array of pairs: an array of steps, as text, and the text that
    is to be there.
    """
    given = f"""
    SELECT ${first}::text AS in_queue, ${first + 1}::text AS of_type, ${first + 2}::text[] AS in_states,
           ${first + 3}::text AS with_error, ${first + 4}::float8 AS older, ${first + 5}::float8 AS younger,
           ${first + 6}::json AS with_args, ${first + 7}::text AS with_message"""
    fits = f"""
    (in_queue IS NULL OR queue = in_queue)
    AND (of_type IS NULL OR job_class = of_type)
    AND (in_states IS NULL OR {state(layout)} = ANY (in_states))
    AND (with_error IS NULL OR pg_catalog.strpos(pg_catalog.lower({_error(layout)}), pg_catalog.lower(with_error)) > 0)
    AND (older IS NULL OR run_at <= pg_catalog.now() - older * interval '1 second')
    AND (younger IS NULL OR run_at >= pg_catalog.now() - younger * interval '1 second')
    AND (with_message IS NULL OR coalesce({layout.headline}, '') = with_message)
    AND CASE WHEN with_args IS NULL THEN true{_unless_args_are_readable(layout)} ELSE NOT EXISTS (
        SELECT FROM pg_catalog.json_array_elements(with_args) AS wanted (pair)
        WHERE args #>> ARRAY(SELECT pg_catalog.json_array_elements_text(pair -> 0)) IS DISTINCT FROM (pair ->> 1)
    ) END"""
    return given, fits


# Version 3 stores what is JSON, but what no server takes apart: a NUL, or half of a surrogate pair, in an escape.
# Escaped backslashes and whole pairs are taken out before these are looked for.
def _unless_args_are_readable(layout: Layout) -> str:
    if layout.id != "job_id":
        return ""
    return r"""
        WHEN pg_catalog.strpos(args::text, E'\\u') > 0 AND pg_catalog.regexp_replace(
            args::text, E'\\\\\\\\|\\\\u[dD][89abAB]..\\\\u[dD][c-fC-F]..', '', 'g'
        ) ~* E'\\\\u(0000|d[89a-f])' THEN false"""


def _error(layout: Layout) -> str:
    if layout.id == "job_id":
        return "coalesce(last_error, '')"
    return "coalesce(last_error_message, '') || E'\\n' || coalesce(last_error_backtrace, '')"


# Where the walk ends is known before a job is read, so it stops at the last one that is wanted.
def newest_by_id(layout: Layout) -> Statement:
    """Return the walk from the greatest id down."""
    given, fits = matches(layout, 3)
    return Statement(
        without_jit=True,
        by_index=True,
        text=f"""
WITH walk AS MATERIALIZED (
    SELECT pg_catalog.min(id) AS last, pg_catalog.count(*) AS number
    FROM (
        SELECT id FROM {layout.que_jobs} WHERE id < $1::bigint ORDER BY id DESC LIMIT $2::bigint
    ) AS walked
), given AS (
    {given}
)
SELECT job, state, finished, expired, due, pg_catalog.json_build_array(walk.last)::text, walk.number
FROM walk LEFT JOIN LATERAL (
    SELECT id, {_seen(layout)}
    FROM {layout.selected}, given
    WHERE id >= walk.last AND id < $11::bigint AND {fits}
    ORDER BY id DESC
    LIMIT $12::bigint
) AS found ON true
ORDER BY found.id DESC
""",
    )


# Version 3 has no index on the id alone, so the newest are those that fall due last: each pair's, and of them all.
# Jobs that are given up come first, or they would be in the way of all others; where the state is given, the index
# leads past them.
def newest_by_run_at(layout: Layout) -> Statement:
    """Return the walk from the latest run_at down."""
    given, fits = matches(layout, 8)
    latest_first = f"run_at DESC, {layout.id} DESC"
    return Statement(
        without_jit=True,
        by_index=True,
        text=f"""
WITH RECURSIVE {pair(layout)}, walk AS MATERIALIZED (
    SELECT latest.*
    FROM pair AS pairs, LATERAL (
        SELECT {layout.key} FROM {layout.que_jobs}
        WHERE {of_pair(layout)} AND (run_at, {layout.id}) < ($1::timestamptz, $2::bigint)
          AND pairs.queue = coalesce($3::text, pairs.queue)
          AND (run_at <= {FAR} OR $4::boolean) AND (run_at > {FAR} OR $5::boolean)
        ORDER BY {latest_first}
        LIMIT $6::bigint
    ) AS latest
    ORDER BY {latest_first}
    LIMIT $7::bigint
), given AS (
    {given}
), found AS MATERIALIZED (
    SELECT que_jobs.* FROM walk JOIN {layout.que_jobs} USING ({layout.key}), given
    WHERE {fits}
    ORDER BY {latest_first}
    LIMIT $16::bigint
)
SELECT job, state, finished, expired, due,
       (SELECT pg_catalog.json_build_array(run_at, {layout.id}) FROM walk ORDER BY run_at, {layout.id} LIMIT 1)::text,
       (SELECT pg_catalog.count(*) FROM walk)
FROM (VALUES (1)) AS one LEFT JOIN (
    SELECT {layout.id}, run_at, {_seen(layout)} FROM found
) AS seen ON true
ORDER BY {latest_first}
""",
    )


def next_up(layout: Layout) -> Statement:
    """Return the walk in the order in which workers take jobs, queue by queue."""
    key = f"queue, priority, run_at, {layout.id}"
    given, fits = matches(layout, 7)
    return Statement(
        without_jit=True,
        by_index=True,
        text=f"""
WITH walk AS MATERIALIZED (
    SELECT {key}
    FROM {layout.selected}
    WHERE {layout.workable} AND ({key}) > ($1::text, $2::smallint, $3::timestamptz, $4::bigint)
      AND queue = coalesce($5::text, queue)
    ORDER BY {key}
    LIMIT $6::bigint
), given AS (
    {given}
), final AS MATERIALIZED (
    SELECT queue AS last_queue, priority AS last_priority, run_at AS last_run_at, {layout.id} AS last_id
    FROM walk
    ORDER BY queue DESC, priority DESC, run_at DESC, {layout.id} DESC
    LIMIT 1
)
SELECT job, state, finished, expired, due,
       (SELECT pg_catalog.json_build_array(last_queue, last_priority, last_run_at, last_id) FROM final)::text,
       (SELECT pg_catalog.count(*) FROM walk)
FROM (VALUES (1)) AS one LEFT JOIN (
    SELECT found.*
    FROM final, LATERAL (
        SELECT {key}, {_seen(layout)}
        FROM {layout.selected}, given
        WHERE {layout.workable} AND ({key}) > ($15::text, $16::smallint, $17::timestamptz, $18::bigint)
          AND ({key}) <= (last_queue, last_priority, last_run_at, last_id)
          AND {fits}
        ORDER BY {key}
        LIMIT $19::bigint
    ) AS found
) AS seen ON true
ORDER BY {key}
""",
    )


def _seen(layout: Layout) -> str:
    return (
        f"{layout.row} AS job, {state(layout)} AS state, {json_time(layout.finished_at)} AS finished, "
        f"{json_time(layout.expired_at)} AS expired, {IS_DUE} AS due"
    )


# The keys first, which the index has: version 3 has no other way to find an id.
def by_ids(layout: Layout) -> Statement:
    """Return what gives jobs by their ids."""
    if layout.id != "job_id":
        return Statement(
            by_index=True,
            text=f"SELECT {_seen(layout)} FROM {layout.selected} WHERE id = ANY ($1::bigint[]) ORDER BY id",
        )
    return Statement(
        without_jit=True,
        by_index=True,
        text=f"""
WITH found AS MATERIALIZED (
    SELECT {layout.key} FROM {layout.que_jobs} WHERE {layout.id} = ANY ($1::bigint[])
)
SELECT {_seen(layout)}
FROM found JOIN {layout.selected} USING ({layout.key})
ORDER BY {layout.id}
""",
    )
