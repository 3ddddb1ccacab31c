"""What is seen from outside of the tables of qg.jobs, if they are there: attempts, schedules and pools.

They are made, and written, by qg.jobs. Whoever only looks needs neither it nor what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from qg.tables.seeing import json_time
from qg.tables.table import Statement, identifier

__all__ = ["HISTORY_SCHEMA", "History", "history_in"]

# (schema of que_jobs) -> the schema that has qg_jobs_history, that one or the first of the search_path; no row if none.
HISTORY_SCHEMA = Statement(
    """
SELECT nspname::text
FROM (
    SELECT $1::name AS name, 0::bigint AS place
  UNION ALL
    SELECT name, place FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS path (name, place)
) AS given
JOIN pg_catalog.pg_namespace AS space ON nspname = given.name
JOIN pg_catalog.pg_class ON relnamespace = space.oid AND relname = 'qg_jobs_history'
ORDER BY given.place
LIMIT 1
"""
)


@dataclass(frozen=True)
class History:
    """The statements on the tables of qg.jobs in one schema. Times are text.

    An attempt is its id, job, type, queue, priority, how often the job had failed before, whether it succeeded, its
    error or null, from when to when it took, and its args as JSON or null.
    """

    # (job, how many) -> its attempts, the last first.
    of_job: Statement
    # (attempt before which, how many to read, type or null, queue or null, success or null, attempt before which, how
    # many to give) -> attempts, the last first, and where the walk ended, and how many it read; as Looks.newest.
    attempts: Statement
    # () -> queue, spec, type, args as JSON, last and next tick.
    schedules: Statement
    # () -> name, queue, workers, version of its program, types, since, seconds since it was last heard of.
    pools: Statement


@cache
def history_in(schema: str) -> History:
    """Return the statements on the tables in *schema*: each time the same object."""
    place = identifier(schema)
    attempt = (
        "id, job_id, job_type, queue, priority, run_count, success, run_error, "
        f"{json_time('started_at')} AS started, {json_time('finished_at')} AS finished, args::text AS args"
    )
    return History(
        of_job=Statement(
            f"""
SELECT {attempt} FROM {place}.qg_jobs_history WHERE job_id = $1::bigint ORDER BY id DESC LIMIT $2::bigint
"""
        ),
        attempts=Statement(
            without_jit=True,
            by_index=True,
            text=f"""
WITH walk AS MATERIALIZED (
    SELECT pg_catalog.min(id) AS last, pg_catalog.count(*) AS number
    FROM (
        SELECT id FROM {place}.qg_jobs_history WHERE id < $1::bigint ORDER BY id DESC LIMIT $2::bigint
    ) AS walked
)
SELECT found.*, walk.last, walk.number
FROM walk LEFT JOIN LATERAL (
    SELECT {attempt}
    FROM {place}.qg_jobs_history,
         (SELECT $3::text AS of_type, $4::text AS in_queue, $5::boolean AS with_success) AS given
    WHERE id >= walk.last AND id < $6::bigint
      AND (of_type IS NULL OR job_type = of_type)
      AND (in_queue IS NULL OR queue = in_queue)
      AND (with_success IS NULL OR success = with_success)
    ORDER BY id DESC
    LIMIT $7::bigint
) AS found ON true
ORDER BY found.id DESC
""",
        ),
        schedules=Statement(
            f"""
SELECT queue, spec, job_type, args::text, {json_time("last_tick_at")}, {json_time("next_tick_at")}
FROM {place}.qg_jobs_schedule
ORDER BY queue, job_type, spec
"""
        ),
        pools=Statement(
            f"""
SELECT id, queue, workers, git_hash, job_types, {json_time("created_at")},
       (extract(epoch FROM pg_catalog.now()) - extract(epoch FROM updated_at))::float8
FROM {place}.qg_jobs_worker_pool
ORDER BY queue, id
"""
        ),
    )
