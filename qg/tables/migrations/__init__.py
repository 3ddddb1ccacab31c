"""The way from one version of the ``que_jobs`` table to another: each step a script up and one down.

The scripts run on a search_path of the table's schema alone, so they name what they change as it is.
What a function says is looked up when it runs, on anybody's search_path, so there the schema stands
in front: ``{schema}``, which is the quoted name when the script runs.
"""

from __future__ import annotations

from typing import Any

from psycopg2 import DataError, IntegrityError
from psycopg2.errors import ProgramLimitExceeded

from qg.errors import ErrTable
from qg.tables.table import identifier, script

__all__ = ["NEWEST", "add_notify", "add_queues", "enter", "lock", "move", "text"]

NEWEST = 7

# Reading committed: a transaction of another kind would go on to see what was there before it waited.
_ENTER = """
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('que_jobs'), pg_catalog.hashtext('migrate'));
SELECT pg_catalog.quote_ident(pg_catalog.current_schema())
"""
# Last, pg_temp hides nothing; left out, it would come first.
_NARROW = "SELECT pg_catalog.set_config('search_path', %s || ', pg_temp', true)"
_LOCK = "LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE"
_COMMENT = "COMMENT ON TABLE que_jobs IS '%s'"

# The same as a script, which gives the search_path back in the end.
_BEGIN = """\
-- The que_jobs table in the schema {schema}, from version {found} (0: none) to {wanted}; to be run in one transaction.
SELECT set_config('qg.search_path', current_setting('search_path'), true);
SET LOCAL search_path TO {schema}, pg_temp;
SELECT pg_advisory_xact_lock(hashtext('que_jobs'), hashtext('migrate'));
"""
_END = "SELECT set_config('search_path', current_setting('qg.search_path'), true);\n"

# The scripts of the steps that are more than one file of the same name.
_SCRIPTS = {
    "0_to_3": ["v3.sql"],
    "4_up": ["migrations/4_job_notify.sql", "migrations/4_up.sql"],
    "5_up": ["migrations/5_up.sql", "migrations/5_job_notify.sql"],
    "5_down": ["migrations/5_down.sql", "migrations/4_job_notify.sql"],
}

# The steps that can meet jobs which the version they lead to can't hold; see <step>_obstacles.sql.
_OBSTRUCTED = {"3_up", "4_up"}


def enter(cursor: Any) -> str:
    """Wait until nobody else migrates, and return the current schema's name, quoted.

    Must be the first of *cursor*'s transaction. Until that ends the others wait, and the search_path
    is the current schema alone.

    Raises:
        ErrTable: if no schema of the search_path exists.
    """
    cursor.execute(_ENTER)
    schema = cursor.fetchone()[0]
    if schema is None:
        raise ErrTable(
            "no schema of this connection's search_path exists, or none that this role may use, so a que_jobs table "
            "has no place; create the schema, GRANT this role USAGE on it, or set search_path"
        )
    cursor.execute(_NARROW, (schema,))
    return str(schema)


def lock(cursor: Any) -> None:
    """Keep everybody away from the table until *cursor*'s transaction ends."""
    cursor.execute(_LOCK)


def move(cursor: Any, schema: str, found: int, wanted: int) -> None:
    """Lead the table, if it is there a locked one, from version *found* to *wanted*, after enter().

    Raises:
        ErrTable: if there are jobs that *wanted*, or a version on the way, can't hold; says which.
    """
    for step in _way(found, wanted):
        cursor.execute("SAVEPOINT qg_step")
        try:
            for name in _SCRIPTS.get(step, [f"migrations/{step}.sql"]):
                cursor.execute(_text(name, schema))
        except (DataError, IntegrityError, ProgramLimitExceeded) as trouble:
            if step in _OBSTRUCTED:
                cursor.execute("ROLLBACK TO SAVEPOINT qg_step")
                _name_obstacles(cursor, step, schema, found, trouble)
            raise
    if wanted:
        cursor.execute(_COMMENT, (wanted,))


def text(schema: str, found: int, wanted: int, *, notify: bool) -> str:
    """Return as one script what leads the table in *schema* from version *found* to *wanted*, which isn't 0."""
    place = identifier(schema)
    parts = [_BEGIN.format(schema=place, found=found, wanted=wanted)]
    if found and found != wanted:
        parts.append(f"{_LOCK};\n")
    for step in _way(found, wanted):
        parts += [_text(name, place) for name in _SCRIPTS.get(step, [f"migrations/{step}.sql"])]
    parts.append(f"{_COMMENT % wanted};\n")
    if notify:
        parts.append(script("v3_notify.sql"))
    parts += [script("v3.sql"), _END]
    return "\n".join(parts)


def add_notify(cursor: Any) -> None:
    """Add the trigger qg_notify to a table of version 3 unless it has it, in *cursor*'s transaction."""
    cursor.execute(script("v3_notify.sql"))


def add_queues(cursor: Any) -> None:
    """Create the table of paused queues, in *cursor*'s transaction, unless it is there or isn't this role's to create.

    There must be a table of jobs. Nobody who uses that waits.
    """
    cursor.execute(script("v3.sql"))


def _way(found: int, wanted: int) -> list[str]:
    if found > wanted:
        return [f"{version}_down" for version in range(found, wanted, -1)]
    if found == 0 and wanted >= 3:
        return ["0_to_3", *_way(3, wanted)]
    return [f"{version}_up" for version in range(found + 1, wanted + 1)]


def _text(name: str, schema: str) -> str:
    # A schema's name can hold anything, so that which ends a function's text too.
    quote = "$function$"
    while quote in schema:
        quote = f"{quote[:-1]}_$"
    return script(name).replace("$function$", quote).replace("{schema}", schema)


def _name_obstacles(cursor: Any, step: str, schema: str, found: int, trouble: Exception) -> None:
    """Raise ErrTable with the jobs that *step* can't take along, if there are any."""
    cursor.execute(_text(f"migrations/{step}_obstacles.sql", schema))
    obstacles = [
        f"{obstacle}: {', '.join(map(str, ids))}" + (f" and {count - len(ids)} more" if count > len(ids) else "")
        for obstacle, count, ids in cursor.fetchall()
    ]
    if obstacles:
        raise ErrTable(
            f"the que_jobs table is still of version {found}, since version {step[0]} can't hold all of its jobs. "
            f"By job_id, those with {'; with '.join(obstacles)}. Change or delete them, then migrate again"
        ) from trouble
