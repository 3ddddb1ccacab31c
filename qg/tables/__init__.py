"""The kinds of ``que_jobs`` table, and finding out which one a database has.

Every other module speaks to the table through the :class:`Table` it is given, so that what one
version calls its columns, and how it finds a row again, stands in that version's module alone.
"""

from __future__ import annotations

import re
from typing import Any

from qg.errors import ErrTable
from qg.tables import v3, v7
from qg.tables.columns import misfits
from qg.tables.table import Draft, PollStrategy, Row, Statement, Table, iso_text, script, timestamp
from qg.tables.v7 import WRAPPER

__all__ = [
    "WRAPPER",
    "Draft",
    "PollStrategy",
    "Row",
    "Statement",
    "Table",
    "detect",
    "iso_text",
    "script",
    "timestamp",
    "version_of",
]

_TABLES = {3: v3.TABLE, **v7.TABLES}

# Ruby Que keeps the version in the table's comment; where a dump lost that, the columns tell.
_SEEN = """
SELECT obj_description(found.oid, 'pg_class'),
       ARRAY(SELECT attname::text FROM pg_attribute
             WHERE attrelid = found.oid AND attnum > 0 AND NOT attisdropped),
       EXISTS (SELECT FROM pg_trigger
               WHERE tgrelid = found.oid AND tgname = 'que_job_notify' AND tgqual IS NOT NULL)
FROM (SELECT to_regclass('que_jobs')::oid AS oid) AS found
WHERE found.oid IS NOT NULL
"""

_V3_COLUMNS = {"priority", "run_at", "job_id", "job_class", "args", "error_count", "last_error", "queue"}


def version_of(cursor: Any) -> int:
    """Return the version of the que_jobs table that *cursor*'s search_path finds, 0 for none.

    Runs one query in whatever transaction the cursor is in.

    Raises:
        ErrTable: if the table is none that any Que has made; says which columns it has.
    """
    return _look(cursor)[0]


def _look(cursor: Any) -> tuple[int, set[str]]:
    """Return what version_of() does, and the columns that are there."""
    cursor.execute(_SEEN)
    row = cursor.fetchone()
    if row is None:
        return 0, set()
    comment, columns, conditional_notify = row[0], set(row[1]), row[2]
    if comment is not None and re.fullmatch(r"[1-9]\d*", comment):
        return int(comment), columns
    if columns >= _V3_COLUMNS:
        return 3, columns
    if {"id", "last_error_message"} <= columns:
        if "job_schema_version" not in columns:
            return 4, columns
        if "kwargs" not in columns:
            return 5, columns
        return (7 if conditional_notify else 6), columns
    raise ErrTable(
        f"the que_jobs table is of no version that Que ever made: its columns are "
        f"{', '.join(sorted(columns))}; point search_path at the right schema"
    )


def detect(cursor: Any) -> Table:
    """Return the :class:`Table` for the database that *cursor* is connected to.

    Raises:
        ErrTable: if there is no que_jobs table, or none of a version that this qg can work, or one whose
            columns aren't those of its version.
    """
    version, columns = _look(cursor)
    if version == 0:
        raise ErrTable(
            "there is no que_jobs table in this connection's search_path; "
            "create it with qg.migrate(source) or psql -f schema.sql"
        )
    if version not in _TABLES:
        raise ErrTable(
            f"the que_jobs table is of version {version}, but this qg works versions 3 to 7; migrate it to one of them"
        )
    if wrong := misfits(version, columns):
        raise ErrTable(
            f"the que_jobs table says that it is of version {version}, but {wrong}; "
            "correct its comment or its columns, or point search_path at the right schema"
        )
    return _TABLES[version]
