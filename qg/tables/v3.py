"""Version 3 of the table: Ruby Que 0.5 to 0.14, que-go and qg.

A row is found by its whole primary key (queue, priority, run_at, job_id). The advisory lock of a
job is ``pg_try_advisory_lock(job_id)``, as in every Que.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qg.tables.table import Row, Statement, Table, Taking, script

__all__ = ["TABLE"]

_STORED = "job_id, queue, priority, run_at, job_class, args, error_count, last_error"
# In the order of Row's fields. A time as JSON is written in ISO 8601 whatever the session's DateStyle is.
_ROW = """json_build_array(
    job_id, queue, priority, run_at, job_class, args::text, error_count, last_error
)::text"""


def _key(row: Row) -> tuple[str, int, str, int]:
    return row.queue, row.priority, row.run_at, row.id


# Walks the due jobs in the order of the primary key and tries each one's lock, a row at a time,
# until one is had. A plain "WHERE pg_try_advisory_lock(job_id) LIMIT 1" would leave it to the
# planner how many rows it locks on the way; here a step is taken only if the last lock failed.
#
# The rows come from this statement's snapshot, so the job may have been finished by its worker
# before we got the lock that the worker gave up: the caller must look again (check_job).
_LOCK_JOB = Statement(
    name="que_lock_job",
    text=f"""
WITH RECURSIVE due AS (
    SELECT head.*, pg_try_advisory_lock(head.job_id) AS locked
    FROM (
        SELECT {_STORED} FROM que_jobs
        WHERE queue = $1::text AND run_at <= now()
        ORDER BY priority, run_at, job_id
        LIMIT 1
    ) AS head
  UNION ALL
    SELECT following.*, pg_try_advisory_lock(following.job_id)
    FROM due, LATERAL (
        SELECT {_STORED} FROM que_jobs
        WHERE queue = due.queue AND run_at <= now()
          AND (priority, run_at, job_id) > (due.priority, due.run_at, due.job_id)
        ORDER BY priority, run_at, job_id
        LIMIT 1
    ) AS following
    WHERE NOT due.locked
)
SELECT {_ROW} FROM due WHERE locked LIMIT 1
""",
)

# No index is in this order, so this may read the keys of all due jobs of the queue, and sort them.
# OFFSET 0 keeps the condition out of the sorted list: locks are tried from its top down, and LIMIT
# stops at the first one that is had. The caller must look again, as above.
_LOCK_JOB_BY_RUN_AT = Statement(
    name="que_lock_job_by_run_at",
    text=f"""
WITH first AS (
    SELECT due.*
    FROM (
        SELECT queue, priority, run_at, job_id FROM que_jobs
        WHERE queue = $1::text AND run_at <= now()
        ORDER BY run_at, priority, job_id
        OFFSET 0
    ) AS due
    WHERE pg_try_advisory_lock(due.job_id)
    LIMIT 1
)
SELECT {_ROW} FROM first JOIN que_jobs USING (queue, priority, run_at, job_id)
""",
)

# Has its name only for those who call prepare_statements(); it is sent in full.
_CHECK_JOB = Statement(
    name="que_check_job",
    fresh_snapshot=True,
    text="""
SELECT true FROM que_jobs
WHERE queue = $1::text AND priority = $2::smallint AND run_at = $3::timestamptz AND job_id = $4::bigint
""",
)

_RELOCK_JOB = Statement("SELECT pg_try_advisory_lock($1::bigint)")

_UNLOCK_JOB = Statement(name="que_unlock_job", text="SELECT pg_advisory_unlock($1::bigint)")

_UNLOCK_ALL = Statement("SELECT pg_advisory_unlock($1::bigint), pg_advisory_unlock_all()")

_DESTROY_JOB = Statement(
    name="que_destroy_job",
    text="""
WITH destroyed AS (
    DELETE FROM que_jobs
    WHERE queue = $1::text AND priority = $2::smallint AND run_at = $3::timestamptz AND job_id = $4::bigint
    RETURNING job_id
)
SELECT count(*), txid_current() FROM destroyed
""",
)

_DESTROY_JOB_BY_ID = Statement(
    """
WITH destroyed AS (DELETE FROM que_jobs WHERE job_id = $1::bigint RETURNING job_id)
SELECT count(*), txid_current() FROM destroyed
"""
)

_JOB_EXISTS = Statement("SELECT true FROM que_jobs WHERE job_id = $1::bigint")

# A handler can roll back to before the deletion, or commit it and begin another transaction.
_DELETION_PENDING = Statement(
    """
SELECT txid_current() = $1::bigint AND NOT EXISTS (SELECT FROM que_jobs WHERE job_id = $2::bigint)
"""
)

_SET = """
UPDATE que_jobs
SET error_count = $1::integer,
    run_at = now() + $2::float8 * interval '1 second',
    last_error = $3::text
"""

_SET_ERROR = Statement(
    name="que_set_error",
    text=f"""{_SET}
WHERE queue = $4::text AND priority = $5::smallint AND run_at = $6::timestamptz AND job_id = $7::bigint
RETURNING {_ROW}
""",
)

_SET_ERROR_BY_ID = Statement(f"{_SET} WHERE job_id = $4::bigint RETURNING {_ROW}")

_RESCHEDULE = Statement(
    f"""
UPDATE que_jobs
SET run_at = coalesce($1::timestamptz, now() + $2::float8 * interval '1 second')
WHERE job_id = $3::bigint
RETURNING {_ROW}
"""
)

_INSERT_JOB = Statement(
    name="que_insert_job",
    text=f"""
INSERT INTO que_jobs (queue, priority, run_at, job_class, args)
VALUES ($1::text, $2::smallint, coalesce($3::timestamptz, now()), $4::text, $5::json)
RETURNING {_ROW}
""",
)

# The sequence is asked after the sort, so the ids ascend in the order of the arrays.
_INSERT_JOBS = Statement(
    """
WITH stored AS (
    INSERT INTO que_jobs (queue, priority, run_at, job_class, args)
    SELECT queue, priority, coalesce(run_at::timestamptz, now()), job_class, args::json
    FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[])
         WITH ORDINALITY AS given (queue, priority, run_at, job_class, args, position)
    ORDER BY position
    RETURNING job_id, run_at
)
SELECT json_agg(json_build_array(job_id, run_at) ORDER BY job_id)::text FROM stored
"""
)


def _array(values: Iterable[str | int | None]) -> str:
    # PostgreSQL reads an array in this form twice as fast as the ARRAY[…] that psycopg2 makes of a list.
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: str | int | None) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "NULL" if value is None else str(value)


# A job is being worked while its id is advisory-locked. pg_locks shows the locks of the whole
# server: those of other databases, of two-integer keys (objsubid 2) and those that somebody still
# waits for say nothing about this table. IN counts a job once however often its lock is listed.
_STATS = Statement(
    """
SELECT queue,
       job_class,
       count(*),
       count(*) FILTER (WHERE job_id IN (
           SELECT (classid::bigint << 32) | objid::bigint
           FROM pg_locks
           WHERE locktype = 'advisory' AND objsubid = 1 AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       )),
       count(*) FILTER (WHERE error_count > 0),
       max(error_count),
       to_json(min(run_at)) #>> '{}'
FROM que_jobs
GROUP BY queue, job_class
ORDER BY queue, job_class
"""
)


def _finish_params(rows: Sequence[Row]) -> tuple[str, str, str, str]:
    return (
        rows[0].queue,
        _array(row.priority for row in rows),
        _array(row.run_at for row in rows),
        _array(row.id for row in rows),
    )


def _take_jobs(function: str) -> Statement:
    return Statement(
        name=function,
        text=f"""
SELECT pg_temp.{function}(
    $1::bigint, $2::text, $3::integer, $4::integer[], $5::text[], $6::bigint[], $7::boolean
)
""",
    )


_TAKING = Taking(
    functions=script("v3_session.sql") + script("v3_session_by_run_at.sql"),
    finish_params=_finish_params,
    finish_jobs=Statement(
        name="que_finish_jobs",
        text="SELECT pg_temp.que_finish_jobs($1::text, $2::smallint[], $3::timestamptz[], $4::bigint[])",
    ),
    take_jobs=_take_jobs("que_take_jobs"),
    take_jobs_by_run_at=_take_jobs("que_take_jobs_by_run_at"),
    unlock_everything=Statement("SELECT pg_advisory_unlock_all()"),
    unlock_jobs=Statement("SELECT count(*) FROM unnest($1::bigint[]) AS id WHERE pg_advisory_unlock(id)"),
)

_NOTIFIES = Statement(
    """
SELECT EXISTS (
    SELECT FROM pg_trigger
    WHERE tgrelid = 'que_jobs'::regclass AND tgname = 'qg_notify' AND tgenabled IN ('O', 'A')
)
"""
)

TABLE = Table(
    version=3,
    key=_key,
    lock_job=_LOCK_JOB,
    lock_job_by_run_at=_LOCK_JOB_BY_RUN_AT,
    check_job=_CHECK_JOB,
    relock_job=_RELOCK_JOB,
    unlock_job=_UNLOCK_JOB,
    unlock_all=_UNLOCK_ALL,
    destroy_job=_DESTROY_JOB,
    destroy_job_by_id=_DESTROY_JOB_BY_ID,
    job_exists=_JOB_EXISTS,
    deletion_pending=_DELETION_PENDING,
    set_error=_SET_ERROR,
    set_error_by_id=_SET_ERROR_BY_ID,
    reschedule=_RESCHEDULE,
    insert_job=_INSERT_JOB,
    insert_jobs=_INSERT_JOBS,
    array=_array,
    stats=_STATS,
    taking=_TAKING,
    notifies=_NOTIFIES,
    listen="LISTEN qg_jobs",
    stop_listening="UNLISTEN qg_jobs",
)
