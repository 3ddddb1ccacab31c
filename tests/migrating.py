"""What the tests of migrations share: what a schema consists of, as text to compare; rows to put in."""

from __future__ import annotations

from typing import Any

from support import Database

# Without the texts of functions: those differ between programs that do the same.
_CATALOG = """
WITH here AS (
    SELECT oid AS namespace FROM pg_namespace WHERE nspname = current_schema()
), rels AS (
    SELECT oid, relname, relkind, relpersistence, reloptions FROM pg_class JOIN here ON relnamespace = namespace
)
SELECT concat_ws(' ', 'relation', relname, relkind, relpersistence, reloptions::text,
                 'comment', quote_nullable(obj_description(oid, 'pg_class')))
FROM rels
UNION ALL
SELECT concat_ws(' ', 'column', relname, CASE WHEN %(order)s THEN
                     lpad(row_number() OVER (PARTITION BY rels.oid ORDER BY attnum)::text, 2, '0') END,
                 attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END,
                 'default ' || pg_get_expr(adbin, adrelid), nullif(attidentity, ''), nullif(attgenerated, ''),
                 attstorage, (SELECT collname FROM pg_collation WHERE oid = attcollation))
FROM rels JOIN pg_attribute ON attrelid = rels.oid LEFT JOIN pg_attrdef ON adrelid = rels.oid AND adnum = attnum
WHERE relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT concat_ws(' ', 'constraint', relname, conname, contype, convalidated, pg_get_constraintdef(pg_constraint.oid))
FROM rels JOIN pg_constraint ON conrelid = rels.oid
UNION ALL
SELECT concat_ws(' ', 'index', pg_get_indexdef(oid)) FROM rels WHERE relkind = 'i'
UNION ALL
SELECT concat_ws(' ', 'sequence', relname, format_type(seqtypid, NULL), seqstart, seqincrement, seqmax, seqmin,
                 seqcache, seqcycle, 'owned by', refobjid::regclass, attname)
FROM rels JOIN pg_sequence ON seqrelid = oid
LEFT JOIN pg_depend ON objid = oid AND classid = 'pg_class'::regclass AND refobjsubid > 0 AND deptype = 'a'
LEFT JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
UNION ALL
SELECT concat_ws(' ', 'function', proname, '(', pg_get_function_arguments(pg_proc.oid), ')',
                 pg_get_function_result(pg_proc.oid), lanname, prokind, provolatile, proparallel, proisstrict,
                 prosecdef, proleakproof, procost, prorows, proconfig::text, CASE WHEN %(source)s THEN prosrc END)
FROM pg_proc JOIN here ON pronamespace = namespace JOIN pg_language ON pg_language.oid = prolang
UNION ALL
SELECT concat_ws(' ', 'trigger', tgenabled, pg_get_triggerdef(pg_trigger.oid))
FROM rels JOIN pg_trigger ON tgrelid = rels.oid WHERE NOT tgisinternal
UNION ALL
SELECT concat_ws(' ', 'type', typname, typtype) FROM pg_type JOIN here ON typnamespace = namespace WHERE typtype <> 'b'
"""


def describe(database: Database, *, order: bool = True, source: bool = False) -> list[str]:
    """Everything in the current schema, a line each, sorted.

    *order*: with the order of the tables' columns. *source*: with the functions' texts.
    """
    return sorted(line for (line,) in database.query(_CATALOG, {"order": order, "source": source}))


def insert(database: Database, table: str = "que_jobs", **values: Any) -> None:
    places = ", ".join(["%s"] * len(values))
    database.query(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", tuple(values.values()))


def insert_locker(database: Database, pid: int, **values: Any) -> None:
    """Register a locker with one worker that listens to the queue "default", unless *values* say otherwise."""
    usual = {
        "worker_count": 1,
        "worker_priorities": [0],
        "ruby_pid": 1,
        "ruby_hostname": "here",
        "queues": ["default"],
        "listening": True,
    }
    insert(database, "que_lockers", pid=pid, **usual | values)
