"""Creating the ``que_jobs`` table, and telling which version is there."""

from __future__ import annotations

from contextlib import closing

from qg.connections import source_from, transaction
from qg.errors import ErrTable
from qg.tables import ddl, version_of

__all__ = ["migrate", "schema_version"]


def migrate(source: object, version: int = 3, *, notify: bool = False) -> None:
    """Create the ``que_jobs`` table in the current schema unless it is there already.

    One transaction on a connection of *source*. Drops nothing; may be run twice, and by several
    processes at once. Without *notify*, ``psql -f schema.sql`` does the same.

    Args:
        source: a DSN, a psycopg2 pool, a SQLAlchemy engine, or a callable that connects.
        version: of the table, as Ruby Que counts them; this qg creates 3.
        notify: whether to add a trigger, ``qg_notify``, to the table, an old or a new one: each
            statement that enqueues then notifies the pools that listen, so that they start its jobs
            within milliseconds. The table stays what it was for every other client. Only its owner
            can add it, and adding it waits for the transactions that are writing to the table.
            Without it nothing is taken away; DROP TRIGGER does that.

    Raises:
        ErrInvalidOption: for a version that qg can't create.
        ErrTable: if there is a table of another version.
        ErrUnusable: if *source* is of no known kind.
        psycopg2.Error: if the database can't be reached, or doesn't let us.
    """
    script = ddl(version, notify=notify)
    with closing(source_from(source)) as origin, transaction(origin) as cur:
        cur.execute(script)
        found = version_of(cur)
        if found != version:
            raise ErrTable(
                f"there is a que_jobs table of version {found} already, so none of version {version} was created; "
                "migrate another schema or database"
            )
        cur.connection.commit()


def schema_version(source: object) -> int:
    """Return the version of the ``que_jobs`` table that *source* finds, 0 where there is none.

    Args:
        source: as in migrate().

    Raises:
        ErrTable: if the table is none that any Que has made.
        ErrUnusable: if *source* is of no known kind.
        psycopg2.Error: if the database can't be reached.
    """
    with closing(source_from(source)) as origin, transaction(origin) as cur:
        return version_of(cur)
