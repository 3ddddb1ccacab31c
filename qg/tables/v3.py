"""Version 3 of the table: Ruby Que 0.5 to 0.14, que-go and qg."""

from __future__ import annotations

from qg.errors import ErrInvalidJob
from qg.tables.locking import LOCKED
from qg.tables.statements import Layout, statements
from qg.tables.table import Draft, Statement, Table

__all__ = ["layout_of", "table"]


def table(schema: str) -> Table:
    """Return the table in *schema*."""
    layout = layout_of(schema)
    insert_jobs = _insert_jobs(layout)
    return Table(
        version=3,
        schema=schema,
        fit=_fit,
        width=5,
        queue_name=str,
        migrated_queue=lambda queue: "" if queue == "default" else queue,
        longest_queue_name=None,
        maximum_retry_count=None,
        finish_job=None,
        finish_job_by_id=None,
        finish_job_in_tx=None,
        finish_job_by_id_in_tx=None,
        insert_job=_insert_job(layout),
        insert_jobs=insert_jobs,
        insert_jobs_quietly=insert_jobs,
        job_states=_job_states(layout),
        notifies=_notifies(layout),
        channel=lambda pid: "qg_jobs",
        read_notification=_read_notification,
        lockers=None,
        **statements(layout),
    )


# There is no state for a job that is given up. It stays, with its error, where nobody takes it for a
# hundred years, or until somebody sets its run_at.
def layout_of(schema: str) -> Layout:
    """Return what there is in the table in *schema*."""
    return Layout(
        schema=schema,
        suffix="",
        id="job_id",
        unsettled="true",
        workable="true",
        absent=(),
        described="last_error",
        failed="""
        run_at = pg_catalog.now() + coalesce(given.seconds, 3153600000) * interval '1 second',
        last_error = coalesce(given.message, last_error)
    """,
        indexes=("que_jobs_pkey",),
        leading=("queue", "priority"),
        finished_at="NULL::timestamptz",
        expired_at="NULL::timestamptz",
        headline="pg_catalog.left(pg_catalog.split_part(last_error, E'\\n', 1), 500)",
        given_up="""
        run_at = pg_catalog.now() + 3153600000::float8 * interval '1 second',
        error_count = GREATEST(error_count, 1),
        last_error = coalesce(last_error, given.message)
    """,
        revived="run_at = pg_catalog.now(), error_count = 0",
    )


def _insert_job(layout: Layout) -> Statement:
    return Statement(
        name="que_insert_job",
        text=f"""
INSERT INTO {layout.que_jobs} (queue, priority, run_at, job_class, args)
VALUES ($1::text, $2::smallint, coalesce($3::timestamptz, pg_catalog.now()), $4::text, $5::json)
RETURNING {layout.row}
""",
    )


# The sequence is asked after the sort, so the ids ascend in the order of the arrays.
def _insert_jobs(layout: Layout) -> Statement:
    return Statement(
        f"""
WITH stored AS (
    INSERT INTO {layout.que_jobs} (queue, priority, run_at, job_class, args)
    SELECT queue, priority, coalesce(run_at::timestamptz, pg_catalog.now()), job_class, args::json
    FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[])
         WITH ORDINALITY AS given (queue, priority, run_at, job_class, args, position)
    ORDER BY position
    RETURNING job_id, run_at
)
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(job_id, run_at) ORDER BY job_id)::text FROM stored
"""
    )


def _job_states(layout: Layout) -> Statement:
    return Statement(
        f"""
SELECT job_id, queue, job_class, priority, pg_catalog.to_json(run_at) #>> '{{}}'::text[], error_count,
       locked.pid, NULL::integer, coalesce(client_hostname, pg_catalog.host(client_addr)),
       pg_catalog.to_json(coalesce(xact_start, query_start)) #>> '{{}}'::text[]
FROM ({LOCKED}) AS locked
JOIN {layout.que_jobs} ON job_id = locked.id
LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = locked.pid
ORDER BY job_id
"""
    )


def _notifies(layout: Layout) -> Statement:
    return Statement(
        f"""
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_trigger
    WHERE tgrelid = {layout.regclass("que_jobs")}::regclass::oid AND tgname = 'qg_notify' AND tgenabled IN ('O', 'A')
)
"""
    )


def _fit(draft: Draft) -> Draft:
    if draft.kwargs != "{}":
        raise ErrInvalidJob(
            f"a {draft.type!r} job has kwargs, but the table is of version 3, which holds args alone; "
            "put them into args as a last object, or migrate the table to version 4 or later"
        )
    if draft.tags != "[]":
        raise ErrInvalidJob(
            f"a {draft.type!r} job has tags, but the table is of version 3, which holds none; "
            "leave them out, or migrate the table to version 4 or later"
        )
    return draft


def _read_notification(payload: str) -> tuple[str, int] | None:
    count, _, queue = payload.partition(" ")
    # Anybody may notify any channel of anything.
    return (queue, int(count)) if count.isdecimal() and len(count) < 10 else None
