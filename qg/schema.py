"""Creating the ``que_jobs`` table, leading it from version to version, and telling which is there."""

from __future__ import annotations

from contextlib import closing

from qg.database.sources import source_from, transaction
from qg.errors import ErrInvalidOption, ErrTable
from qg.tables import migrations, version_of

__all__ = ["migrate", "migration_sql", "schema_version"]


def migrate(source: object, version: int | None = None, *, notify: bool = False) -> None:
    """Create the ``que_jobs`` table in the current schema, or lead the one that is there to *version*.

    Without a *version* it creates a table of version 3 where there is none, as ``psql -f schema.sql``
    does, and leaves one of any version alone: a program may do that at each start.

    With one it goes up or down as Ruby Que's ``Que.migrate!`` does, and the table is afterwards what Ruby's
    would be. Python clients and workers that run notice, and go on; Ruby's and Go's must be of a kind that
    fits. Only the table's owner can change it.

    Beside a table of version 3 or above there is afterwards a small one, ``qg_queues``, in which :mod:`qg.control`
    keeps what is paused. It belongs to whoever owns the table of jobs; where this role isn't the owner, a member of it
    or a superuser, it isn't made. No other program looks at it.

    One transaction on a connection of *source*: all of it happens or nothing. It waits for others that
    migrate; if there is something to change, then it waits for every transaction that has touched the
    table, takes an ACCESS EXCLUSIVE lock, and keeps everybody out until it has rewritten all jobs.

    What a version can't hold is turned into what it can:

    - From 4 down to 3, finished jobs are deleted, since version 3 would run them again; expired ones get
      a ``run_at`` in a hundred years; tags are lost.
    - From 6 down to 5, keyword arguments become the last one of the args, where Que 1 looks for them.
      From 5 up to 6 they stay there.
    - Between 5 and 6, the jobs that Que 1 could work become ones that Que 2 can work, or the other way round.

    Args:
        source: a DSN, a psycopg2 pool, a SQLAlchemy engine, or a callable that connects.
        version: 1 to 7, as Ruby Que counts them. 0 drops the table with every job in it.
        notify: whether to add a trigger, ``qg_notify``, to a table of version 3, an old or a new one: each
            statement that enqueues then notifies the pools that listen, so that they start its jobs
            within milliseconds. The table stays what it was for every other client. Adding it waits
            for the transactions that are writing to the table. Without it nothing is taken away; DROP
            TRIGGER does that. From version 4 on the table notifies by itself, and nothing is added;
            below version 3 there is nothing to add.

    Raises:
        ErrInvalidOption: for a *version* that there isn't, or for *notify* with a table below version 3.
        ErrTable: if the table is of no version, or of one above 7; if there are jobs that *version* can't
            hold, such as ``\\u0000`` in the args of version 4: says which. Nothing was changed.
        ErrUnusable: if *source* is of no known kind.
        psycopg2.Error: if the database can't be reached, doesn't let us, or something else needs what
            would change, such as a view of the table.
    """
    _check(version, notify)
    with closing(source_from(source)) as origin, transaction(origin) as cur:
        schema = migrations.enter(cur)
        found = version_of(cur)
        if found > migrations.NEWEST:
            raise ErrTable(
                f"the que_jobs table is of version {found}, but this qg knows 1 to {migrations.NEWEST} only; "
                "upgrade qg, or migrate with the Que that made the table"
            )
        wanted = (found or 3) if version is None else version
        _check(wanted, notify)
        if wanted != found:
            if found:
                # Others, as Ruby's Que, may have been migrating it until now.
                migrations.lock(cur)
                found = version_of(cur)
            migrations.move(cur, schema, found, wanted)
        if notify and wanted == 3:
            migrations.add_notify(cur)
        if wanted:
            migrations.add_queues(cur)
        cur.connection.commit()


def _check(version: int | None, notify: bool) -> None:
    if version is None:
        return
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version <= migrations.NEWEST:
        raise ErrInvalidOption(
            f"there is no version {version!r} of the que_jobs table; give one from 1 to {migrations.NEWEST}, or 0 "
            "to drop it, or none to leave the table as it is"
        )
    if notify and version < 3:
        raise ErrInvalidOption(
            f"a que_jobs table of version {version} has no queues to notify of; migrate to version 3 or above, "
            "or leave notify out"
        )


def migration_sql(version: int = 3, *, found: int = 0, schema: str = "public", notify: bool = False) -> str:
    """Return the SQL that does what migrate() does, for migrations that run elsewhere.

    It is to be run in one transaction, whose search_path it leaves as it was. Needs no database.

    Args:
        version: to which version, 1 to 7.
        found: of which version the table is; 0 where there is none.
        schema: the schema that the table is in, or is to be in.
        notify: as in migrate().

    Raises:
        ErrInvalidOption: for a version that there isn't, or for *notify* with a table below version 3.
    """
    _check(found, notify=False)
    _check(version, notify)
    if version == 0:
        raise ErrInvalidOption("migration_sql leads to versions from 1 on; migrate(source, 0) drops the table")
    return migrations.text(schema, found, version, notify=notify and version == 3)


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
