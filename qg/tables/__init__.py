"""The kinds of ``que_jobs`` table, and finding out which one a database has.

Every other module speaks to the table through the :class:`Table` it is given, so that what one
version calls its columns, and how it finds a row again, stands in that version's module alone.
"""

from __future__ import annotations

import re
import threading
from typing import Any, NamedTuple

from qg.errors import ErrTable
from qg.tables import v3, v7
from qg.tables.columns import misfits
from qg.tables.table import (
    Draft,
    PollStrategy,
    Row,
    Statement,
    Table,
    identifier,
    iso_text,
    script,
    timestamp,
)
from qg.tables.v7 import WRAPPER

__all__ = [
    "WRAPPER",
    "Draft",
    "PollStrategy",
    "Row",
    "Statement",
    "Table",
    "detect",
    "identifier",
    "iso_text",
    "script",
    "table_in",
    "timestamp",
    "version_of",
]

# By version and schema. Two that are equal are the same object; to make one takes milliseconds.
_made: dict[tuple[int, str], Table] = {}
_making = threading.Lock()

# Ruby Que keeps the version in the table's comment; where a dump lost that, the columns tell. A temporary
# table is none: only one session has it.
_SEEN = """
SELECT found.schema,
       pg_catalog.obj_description(found.oid, 'pg_class'),
       ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
             WHERE attrelid = found.oid AND attnum > 0 AND NOT attisdropped),
       EXISTS (SELECT FROM pg_catalog.pg_trigger
               WHERE tgrelid = found.oid AND tgname = 'que_job_notify' AND tgqual IS NOT NULL)
FROM (
    SELECT jobs.oid, nspname::text AS schema
    FROM pg_catalog.unnest(coalesce(%s::name[], pg_catalog.current_schemas(false)))
         WITH ORDINALITY AS path (name, place)
    JOIN pg_catalog.pg_namespace AS space ON nspname = path.name
    JOIN pg_catalog.pg_class AS jobs ON relnamespace = space.oid AND relname = 'que_jobs' AND relpersistence <> 't'
    ORDER BY path.place
    LIMIT 1
) AS found
"""

_V3_COLUMNS = {"priority", "run_at", "job_id", "job_class", "args", "error_count", "last_error", "queue"}


class _Found(NamedTuple):
    version: int
    schema: str
    columns: set[str]


def version_of(cursor: Any) -> int:
    """Return the version of the que_jobs table that *cursor*'s search_path finds, 0 for none.

    Runs one query in whatever transaction the cursor is in.

    Raises:
        ErrTable: if the table is none that any Que has made; says which columns it has.
    """
    found = _find(cursor, None)
    return 0 if found is None else found.version


def _find(cursor: Any, schema: str | None) -> _Found | None:
    cursor.execute(_SEEN, (None if schema is None else [schema],))
    row = cursor.fetchone()
    if row is None:
        return None
    columns = set(row[2])
    return _Found(_read_version(row[1], columns, row[3]), row[0], columns)


def _read_version(comment: str | None, columns: set[str], conditional_notify: bool) -> int:
    if comment is not None and re.fullmatch(r"[1-9]\d*", comment):
        return int(comment)
    if columns >= _V3_COLUMNS:
        return 3
    if {"id", "last_error_message"} <= columns:
        if "job_schema_version" not in columns:
            return 4
        if "kwargs" not in columns:
            return 5
        return 7 if conditional_notify else 6
    raise ErrTable(
        f"the que_jobs table is of no version that Que ever made: its columns are "
        f"{', '.join(sorted(columns))}; point search_path at the right schema"
    )


def detect(cursor: Any, schema: str | None = None) -> Table:
    """Return the :class:`Table` for the database that *cursor* is connected to.

    Runs one query in whatever transaction the cursor is in.

    Args:
        cursor: of a psycopg2 connection.
        schema: where to look. None means the search_path, which is right only as long as no handler
            has used the connection.

    Raises:
        ErrTable: if there is no que_jobs table, or none of a version that this qg can work, or one whose
            columns aren't those of its version.
    """
    found = _find(cursor, schema)
    if found is None:
        place = "this connection's search_path" if schema is None else f"the schema {schema!r}"
        raise ErrTable(
            f"there is no que_jobs table in {place}; create it with qg.migrate(source) or psql -f schema.sql, "
            "or GRANT this role USAGE on its schema"
        )
    if found.version != 3 and found.version not in v7.VERSIONS:
        raise ErrTable(
            f"the que_jobs table is of version {found.version}, but this qg works versions 3 to 7; "
            "migrate it to one of them"
        )
    if wrong := misfits(found.version, found.columns):
        raise ErrTable(
            f"the que_jobs table says that it is of version {found.version}, but {wrong}; "
            "correct its comment or its columns, or point search_path at the right schema"
        )
    return table_in(found.schema, found.version)


def table_in(schema: str, version: int) -> Table:
    """Return the :class:`Table` of *version*, 3 to 7, in *schema*: each time the same object."""
    with _making:
        table = _made.get((version, schema))
        if table is None:
            table = v3.table(schema) if version == 3 else v7.table(version, schema)
            _made[version, schema] = table
        return table
