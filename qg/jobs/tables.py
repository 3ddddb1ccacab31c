"""The tables of qg.jobs: their statements, creating them, keeping them small."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from typing import Any

from qg.database.session import Session
from qg.database.sources import source_from, transaction
from qg.errors import ErrInvalidOption, ErrTable
from qg.tables import Statement, identifier, script
from qg.tables.rights import Right

__all__ = ["JobsTables", "find_tables", "migrate", "prune_history", "prune_ticks"]

_TABLES = ("qg_jobs_history", "qg_jobs_worker_pool", "qg_jobs_schedule", "qg_jobs_tick")

# A time as JSON is written in ISO 8601 whatever the session's DateStyle is.
_CLOCK = "pg_catalog.to_json(pg_catalog.clock_timestamp()) #>> '{}'::text[]"


class JobsTables:
    """The statements on the tables in *schema*, which each of them names: a handler may set any search_path."""

    def __init__(self, schema: str) -> None:
        place = identifier(schema)

        self.rights_to_work = _rights(schema, _TO_WORK)
        self.rights_to_schedule = _rights(schema, _TO_SCHEDULE)

        self.clock = Statement(f"SELECT {_CLOCK}")

        self.begin_attempt = Statement("SAVEPOINT qg_job")

        # (JSON array of attempts) -> their ids in the history. Of an attempt it is told how many seconds ago it began
        # and ended; the server's clock makes times of that.
        self.insert_attempts = Statement(
            f"""
INSERT INTO {place}.qg_jobs_history
    (job_id, job_type, queue, priority, run_at, args, run_count, run_error, success, started_at, finished_at)
SELECT job_id, job_type, queue, priority, run_at, args::json, run_count, run_error, run_error IS NULL,
       pg_catalog.clock_timestamp() - began_ago * interval '1 second',
       pg_catalog.clock_timestamp() - ended_ago * interval '1 second'
FROM pg_catalog.json_to_recordset($1::json) AS given (
    job_id bigint, job_type text, queue text, priority smallint, run_at timestamptz, args text, run_count integer,
    run_error text, began_ago float8, ended_ago float8
)
RETURNING id
"""
        )

        self.end_attempt = Statement(f"RELEASE SAVEPOINT qg_job; {self.insert_attempts.text}")

        # It also deletes the rows of pools that have written nothing for a day.
        self.report_pool = Statement(
            f"""
WITH given (id, queue, workers, git_hash, job_types) AS (
    VALUES ($1::text, $2::text, $3::integer, $4::text, $5::text[])
), gone AS (
    DELETE FROM {place}.qg_jobs_worker_pool
    WHERE id IN (
        SELECT id FROM {place}.qg_jobs_worker_pool
        WHERE updated_at < pg_catalog.now() - interval '1 day' AND id NOT IN (SELECT id FROM given)
        FOR UPDATE SKIP LOCKED
    )
)
INSERT INTO {place}.qg_jobs_worker_pool (id, queue, workers, git_hash, job_types)
SELECT id, queue, workers, git_hash, job_types FROM given
ON CONFLICT (id) DO UPDATE
SET queue = excluded.queue, workers = excluded.workers, git_hash = excluded.git_hash,
    job_types = excluded.job_types, updated_at = pg_catalog.now()
RETURNING id
"""
        )

        self.find_schedule = Statement(
            f"""
SELECT id FROM {place}.qg_jobs_schedule
WHERE queue = $1::text AND spec = $2::text AND job_type = $3::text
  AND pg_catalog.md5(args::text) = pg_catalog.md5($4::text)
"""
        )

        # Only for a schedule that find_schedule doesn't find: ON CONFLICT waits for a process that is firing its row.
        self.insert_schedule = Statement(
            f"""
INSERT INTO {place}.qg_jobs_schedule (queue, spec, job_type, args, next_tick_at)
VALUES ($1::text, $2::text, $3::text, $4::json, $5::timestamptz)
ON CONFLICT (queue, spec, job_type, pg_catalog.md5(args::text)) DO NOTHING
RETURNING id
"""
        )

        self.seconds_until_ticks = Statement(
            f"""
SELECT id, (extract(epoch FROM next_tick_at) - extract(epoch FROM pg_catalog.clock_timestamp()))::float8
FROM {place}.qg_jobs_schedule
WHERE id = ANY ($1::bigint[])
"""
        )

        # Only one process at a time fires a schedule; the others don't wait for it. If it freezes during its
        # transaction, the server ends its session, so that another process can fire the schedule.
        self.lock_due_schedule = Statement(
            f"""
SET LOCAL idle_in_transaction_session_timeout = '10s';
SELECT pg_catalog.to_json(next_tick_at) #>> '{{}}'::text[], {_CLOCK}
FROM {place}.qg_jobs_schedule
WHERE id = $1::bigint AND next_tick_at <= pg_catalog.clock_timestamp()
FOR UPDATE SKIP LOCKED
"""
        )

        self.insert_tick = Statement(
            f"""
INSERT INTO {place}.qg_jobs_tick (schedule, tick_at) VALUES ($1::bigint, $2::timestamptz)
ON CONFLICT DO NOTHING
RETURNING true
"""
        )

        self.note_job_of_tick = Statement(
            f"""
UPDATE {place}.qg_jobs_tick SET job_id = $1::bigint WHERE schedule = $2::bigint AND tick_at = $3::timestamptz
RETURNING true
"""
        )

        self.advance_schedule = Statement(
            f"""
UPDATE {place}.qg_jobs_schedule
SET last_tick_at = $1::timestamptz, next_tick_at = $2::timestamptz, updated_at = pg_catalog.now()
WHERE id = $3::bigint
RETURNING true
"""
        )


# By the table and the privilege, the columns that these statements name; none of a privilege on whole rows.
_TO_WORK = {
    ("qg_jobs_history", "SELECT"): "id",
    ("qg_jobs_history", "INSERT"): (
        "job_id job_type queue priority run_at args run_count run_error success started_at finished_at"
    ),
    # What ON CONFLICT reads of the row that wasn't inserted counts as read of the table.
    ("qg_jobs_worker_pool", "SELECT"): "id queue workers git_hash job_types updated_at",
    ("qg_jobs_worker_pool", "INSERT"): "id queue workers git_hash job_types",
    ("qg_jobs_worker_pool", "UPDATE"): "queue workers git_hash job_types updated_at",
    ("qg_jobs_worker_pool", "DELETE"): "",
}
_TO_SCHEDULE = {
    ("qg_jobs_schedule", "SELECT"): "id queue spec job_type args next_tick_at",
    ("qg_jobs_schedule", "INSERT"): "queue spec job_type args next_tick_at",
    ("qg_jobs_schedule", "UPDATE"): "last_tick_at next_tick_at updated_at",
    ("qg_jobs_tick", "SELECT"): "schedule tick_at",
    ("qg_jobs_tick", "INSERT"): "schedule tick_at",
    ("qg_jobs_tick", "UPDATE"): "job_id",
}


def _rights(schema: str, columns: Mapping[tuple[str, str], str]) -> list[Right]:
    on_tables = [
        Right(privilege, "TABLE", schema, table, tuple(names.split())) for (table, privilege), names in columns.items()
    ]
    return [Right("USAGE", "SCHEMA", schema), *on_tables]


# (names) -> each one's schema, or null where the search_path finds none.
_SCHEMAS = Statement(
    """
SELECT (
    SELECT nspname::text FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace AS space ON space.oid = relnamespace
    WHERE pg_class.oid = pg_catalog.to_regclass(given.name)::oid
)
FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS given (name, position)
ORDER BY position
"""
)

# With both limits, a row goes that is beyond either of them.
_OLD_ATTEMPTS = """
finished_at < pg_catalog.now() - %(seconds)s::float8 * interval '1 second'
OR id <= (SELECT id FROM qg_jobs_history ORDER BY id DESC OFFSET coalesce(%(keep)s, 9223372036854775807) LIMIT 1)
"""

_PRUNE_HISTORY = f"DELETE FROM qg_jobs_history WHERE {_OLD_ATTEMPTS}"
_COUNT_HISTORY = f"SELECT pg_catalog.count(*) FROM qg_jobs_history WHERE {_OLD_ATTEMPTS}"

_WITH_PAYLOAD = f"pruned_at IS NULL AND ({_OLD_ATTEMPTS})"
_PRUNE_PAYLOADS = f"UPDATE qg_jobs_history SET args = NULL, pruned_at = pg_catalog.now() WHERE {_WITH_PAYLOAD}"
_COUNT_PAYLOADS = f"SELECT pg_catalog.count(*) FROM qg_jobs_history WHERE {_WITH_PAYLOAD}"

_OLD_TICKS = """
WITH old AS (
    SELECT schedule, tick_at
    FROM (
        SELECT schedule, tick_at, pg_catalog.row_number() OVER (PARTITION BY schedule ORDER BY tick_at DESC) AS number
        FROM qg_jobs_tick
    ) AS numbered
    WHERE tick_at < pg_catalog.now() - %(seconds)s::float8 * interval '1 second' OR number > %(keep)s::bigint
)
"""
_PRUNE_TICKS = f"""{_OLD_TICKS}
DELETE FROM qg_jobs_tick AS tick USING old WHERE tick.schedule = old.schedule AND tick.tick_at = old.tick_at
"""
_COUNT_TICKS = f"{_OLD_TICKS} SELECT pg_catalog.count(*) FROM old"


def migrate(source: object) -> None:
    """Create the tables of qg.jobs in the current schema, unless they are there already.

    One transaction on a connection of *source*. Drops nothing; may be run twice, and by several
    processes at once. The table of the jobs themselves is :func:`qg.migrate`'s.

    Args:
        source: a DSN, a psycopg2 pool, a SQLAlchemy engine, or a callable that connects.

    Raises:
        ErrUnusable: if *source* is of no known kind.
        psycopg2.Error: if the database can't be reached, or refuses.
    """
    _change(source, script("tables.sql", "qg.jobs"))


def prune_history(
    source: object,
    *,
    older_than: timedelta | None = None,
    keep: int | None = None,
    payloads_only: bool = False,
    dry_run: bool = False,
) -> int:
    """Delete attempts from the history, and return how many.

    One transaction on a connection of *source*.

    Args:
        source: as in migrate().
        older_than: those that ended longer ago than this.
        keep: those beyond so many of the newest.
        payloads_only: keep their rows, but without args; pruned_at says when.
        dry_run: only count them.

    Raises:
        ErrInvalidOption: if neither limit is given, or one is negative.
        psycopg2.Error: if the database can't be reached.
    """
    limits = _limits(older_than, keep)
    if dry_run:
        return _count(source, _COUNT_PAYLOADS if payloads_only else _COUNT_HISTORY, limits)
    return _change(source, _PRUNE_PAYLOADS if payloads_only else _PRUNE_HISTORY, limits)


def prune_ticks(
    source: object, *, older_than: timedelta | None = None, keep: int | None = None, dry_run: bool = False
) -> int:
    """Delete ticks that have fired, and return how many. No schedule fires one of them again.

    One transaction on a connection of *source*.

    Args:
        source: as in migrate().
        older_than: those that were due longer ago than this.
        keep: those beyond so many of the newest of each schedule.
        dry_run: only count them.

    Raises:
        ErrInvalidOption: if neither limit is given, or one is negative.
        psycopg2.Error: if the database can't be reached.
    """
    limits = _limits(older_than, keep)
    return _count(source, _COUNT_TICKS, limits) if dry_run else _change(source, _PRUNE_TICKS, limits)


def find_tables(session: Session) -> JobsTables:
    """Return the tables that the search_path of *session* finds; no handler may have used that.

    Raises:
        ErrTable: if one isn't there.
    """
    schemas = [schema for (schema,) in session.run(_SCHEMAS, (list(_TABLES),))]
    if None in schemas:
        missing = _TABLES[schemas.index(None)]
        raise ErrTable(
            f"there is no table {missing} in this connection's search_path; create it with qg.jobs.migrate(source), "
            "or GRANT this role USAGE on its schema"
        )
    if len(set(schemas)) > 1:
        raise ErrTable(
            f"the tables of qg.jobs are in several schemas, {', '.join(sorted(set(schemas)))}; "
            "let the search_path find those that qg.jobs.migrate(source) made together"
        )
    return JobsTables(schemas[0])


def _change(source: object, sql: str, params: dict[str, Any] | None = None) -> int:
    with closing(source_from(source)) as origin, transaction(origin) as cur:
        cur.execute(sql, params)
        changed = cur.rowcount
        cur.connection.commit()
    return changed


def _count(source: object, sql: str, params: dict[str, Any]) -> int:
    with closing(source_from(source)) as origin, transaction(origin) as cur:
        cur.execute(sql, params)
        ((count,),) = cur.fetchall()
    return int(count)


def _limits(older_than: timedelta | None, keep: int | None) -> dict[str, Any]:
    if older_than is None and keep is None:
        raise ErrInvalidOption("give older_than= or keep=, so that it is clear what may go")
    if older_than is not None and not (isinstance(older_than, timedelta) and older_than >= timedelta(0)):
        raise ErrInvalidOption(f"older_than must be a timedelta of 0 or more, not {older_than!r}")
    if keep is not None and not (isinstance(keep, int) and not isinstance(keep, bool) and 0 <= keep < 2**63):
        raise ErrInvalidOption(f"keep must be a number of rows, 0 or more, not {keep!r}")
    return {"seconds": None if older_than is None else older_than.total_seconds(), "keep": keep}
