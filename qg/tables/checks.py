"""What a checkup asks of the server and of the table, besides what the looks ask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from qg.tables.seeing import json_time, layout_of
from qg.tables.statements import Layout
from qg.tables.table import Statement, Table

__all__ = ["CLOCK", "OPEN_SCHEMAS", "OTHER_TABLES", "SERVER", "SNAPSHOTS", "Checks", "checks_on"]

# () -> the clock as text.
CLOCK = Statement(f"SELECT {json_time('pg_catalog.clock_timestamp()')}")

# (names of settings) -> whether the server is a standby, how many sessions it serves, how many locks it holds, and the
# settings, null for one that it doesn't know. They are those of this session, which a role or a database may have set.
SERVER = Statement(
    """
SELECT pg_catalog.pg_is_in_recovery(),
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'),
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks),
       ARRAY(
           SELECT pg_catalog.current_setting(name, true)
           FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS given (name, place)
           ORDER BY place
       )
"""
)

# (schema) -> other schemas of this database that have a table of jobs.
OTHER_TABLES = Statement(
    """
SELECT nspname::text
FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace AS space ON space.oid = relnamespace
WHERE relname = 'que_jobs' AND relkind = 'r' AND relpersistence <> 't' AND nspname <> $1::name
ORDER BY nspname
"""
)

# () -> the schemas of the search_path in which everybody may create something, quoted.
OPEN_SCHEMAS = Statement(
    """
SELECT pg_catalog.quote_ident(nspname)
FROM pg_catalog.pg_namespace AS space
WHERE nspname = ANY (pg_catalog.current_schemas(false))
  AND pg_catalog.has_schema_privilege('public', space.oid, 'CREATE')
ORDER BY nspname
"""
)

# () -> what keeps the server from removing dead rows of this database's tables: kind, name, how many transactions ago
# it began, and how many seconds, null where nobody knows. The oldest comes first. A vacuum keeps nothing, nor do
# transactions in other databases; a logical slot's catalog_xmin keeps rows of catalogs alone.
SNAPSHOTS = Statement(
    """
SELECT kind, name, age, seconds
FROM (
    SELECT 'transaction' AS kind,
           'of session ' || pid::text || coalesce(' (' || nullif(application_name, '') || ')', '') AS name,
           GREATEST(pg_catalog.age(backend_xmin), pg_catalog.age(backend_xid)) AS age,
           extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::float8 AS seconds
    FROM pg_catalog.pg_stat_activity
    WHERE pid <> pg_catalog.pg_backend_pid() AND coalesce(backend_xmin, backend_xid) IS NOT NULL
      AND datname = pg_catalog.current_database() AND backend_type NOT IN ('walsender', 'autovacuum worker')
  UNION ALL
    SELECT 'prepared transaction', gid, pg_catalog.age(transaction),
           extract(epoch FROM pg_catalog.clock_timestamp() - prepared)::float8
    FROM pg_catalog.pg_prepared_xacts
    WHERE database = pg_catalog.current_database()
  UNION ALL
    SELECT 'replication slot', slot_name::text, pg_catalog.age(xmin), NULL
    FROM pg_catalog.pg_replication_slots
    WHERE xmin IS NOT NULL
  UNION ALL
    SELECT 'standby', coalesce(application_name, ''), pg_catalog.age(backend_xmin), NULL
    FROM pg_catalog.pg_stat_replication
    WHERE backend_xmin IS NOT NULL
) AS found
ORDER BY age DESC
LIMIT 20
"""
)


@dataclass(frozen=True)
class Checks:
    """The questions about one table, and what mends it."""

    # The indexes without which finding a job reads the whole table, each with what makes it.
    needed: dict[str, str]
    # What makes an index that version 3 hasn't, by id; and what says its version.
    index_by_id: str
    comment: str

    # () -> live and dead rows as the server counts them, bytes, seconds since it was vacuumed last or null, its
    # reloptions, its comment or null.
    table: Statement
    # () -> name, whether it can be used, and the first of its columns, of each index.
    indexes: Statement
    # (names) -> those triggers that are there and fire.
    triggers: Statement
    # () -> other schema versions of jobs than the table's own. None where a table has none.
    strangers: Statement | None


@cache
def checks_on(table: Table) -> Checks:
    """Return the questions about *table*: each time the same object."""
    layout = layout_of(table)
    name = f"{layout.regclass('que_jobs')}::regclass::oid"
    return Checks(
        needed=_needed(layout, table.version),
        index_by_id=f"CREATE UNIQUE INDEX CONCURRENTLY qg_jobs_id ON {layout.que_jobs} ({layout.id})",
        comment=f"COMMENT ON TABLE {layout.que_jobs} IS '{table.version}'",
        table=Statement(
            f"""
SELECT pg_catalog.pg_stat_get_live_tuples(oid), pg_catalog.pg_stat_get_dead_tuples(oid),
       pg_catalog.pg_relation_size(oid::regclass),
       extract(epoch FROM pg_catalog.clock_timestamp() - GREATEST(
           pg_catalog.pg_stat_get_last_vacuum_time(oid), pg_catalog.pg_stat_get_last_autovacuum_time(oid)
       ))::float8,
       coalesce(reloptions, '{{}}'::text[]), pg_catalog.obj_description(oid, 'pg_class')
FROM pg_catalog.pg_class
WHERE oid = {name}
"""
        ),
        indexes=Statement(
            f"""
SELECT relname::text, indisvalid AND indisready, (
    SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = indrelid AND attnum = indkey[0]
)
FROM pg_catalog.pg_index JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
WHERE indrelid = {name}
ORDER BY relname
"""
        ),
        triggers=Statement(
            f"""
SELECT tgname::text FROM pg_catalog.pg_trigger
WHERE tgrelid = {name} AND tgname::text = ANY ($1::text[]) AND tgenabled IN ('O', 'A')
"""
        ),
        strangers=None
        if len(layout.leading) == 2
        else Statement(
            f"""
WITH RECURSIVE version AS (
    (SELECT job_schema_version FROM {layout.que_jobs} WHERE {layout.unsettled} ORDER BY job_schema_version LIMIT 1)
  UNION ALL
    SELECT following.* FROM version, LATERAL (
        SELECT job_schema_version FROM {layout.que_jobs}
        WHERE {layout.unsettled} AND job_schema_version > version.job_schema_version
        ORDER BY job_schema_version
        LIMIT 1
    ) AS following
)
SELECT job_schema_version FROM (SELECT job_schema_version FROM version LIMIT 100) AS found WHERE job_schema_version <> 2
"""
        ),
    )


def _needed(layout: Layout, version: int) -> dict[str, str]:
    if version == 3:
        return {"que_jobs_pkey": f"ALTER TABLE {layout.que_jobs} ADD PRIMARY KEY ({layout.key})"}
    poll = "CREATE INDEX CONCURRENTLY {} ON {} ({}) WHERE {}".format
    needed = {
        "que_jobs_pkey": f"ALTER TABLE {layout.que_jobs} ADD PRIMARY KEY (id)",
        "que_poll_idx": poll("que_poll_idx", layout.que_jobs, layout.key, layout.unsettled),
    }
    if version == 5:
        name = "que_poll_idx_with_job_schema_version"
        needed[name] = poll(name, layout.que_jobs, f"job_schema_version, {layout.key}", layout.unsettled)
    return needed
