"""``qg schema``: the tables, their versions, and the SQL that makes them."""

from __future__ import annotations

import click

from qg import schema as tables
from qg.cli.asking import ask, yes_option
from qg.cli.commanding import Command, Group
from qg.cli.endings import Ended
from qg.cli.options import Asked, common
from qg.cli.status import Status

__all__ = ["schema"]

_WORKED = range(3, 8)

notify_option = click.option(
    "--notify",
    is_flag=True,
    help="Add a trigger that tells listening pools of new jobs. Version 3 alone needs it.",
)


@click.group(cls=Group, no="there is no table; or another one than is asked for")
def schema() -> None:
    """Create the table, change its version, or print the SQL for that.

    \b
    qg schema install
    qg schema status
    qg schema migrate --version 7
    qg schema sql --version 7 > que_jobs.sql
    """


@schema.command(cls=Command, no="there is no table, or one that qg doesn't work")
@common
def status(asked: Asked) -> Status:
    """Say which version the table has.

    \b
    qg schema status
    qg schema status --quiet      the number alone; 0 if there is no table
    """
    version = tables.schema_version(asked.source)
    if version == 0:
        sentence = "there is no que_jobs table; qg schema install creates it"
    elif version < _WORKED[0]:
        sentence = f"the que_jobs table is of version {version}, which qg doesn't work; qg schema migrate --version 3"
    elif version > _WORKED[-1]:
        sentence = f"the que_jobs table is of version {version}, which this qg doesn't know; upgrade qg"
    else:
        sentence = f"the que_jobs table is of version {version}; qg works versions {_WORKED[0]} to {_WORKED[-1]}"
    asked.out.one({"version": version, "worked": version in _WORKED}, version, sentence)
    return Status.DONE if version in _WORKED else Status.NO


@schema.command(cls=Command, no="there is a table of another version")
@click.option(
    "--version", type=click.IntRange(3, 7), help="The version of the table.  [default: 3, or the one that is there]"
)
@notify_option
@click.option("--jobs", "with_jobs", is_flag=True, help="Also create the tables of qg.jobs; needs the extra qg[jobs].")
@common
def install(asked: Asked, version: int | None, notify: bool, with_jobs: bool) -> Status:
    """Create the table of jobs, and what belongs to it. What exists already isn't changed.

    The owner of the table can run it again at any time, after an upgrade of qg for instance: it adds what is
    missing, such as the table of paused queues.

    \b
    qg schema install
    qg schema install --version 7
    qg schema install --notify --jobs
    """
    found = tables.schema_version(asked.source)
    if found and version not in (None, found):
        raise Ended(
            f"there is a que_jobs table of version {found} already; qg schema migrate --version {version}", Status.NO
        )
    if with_jobs:
        from qg import jobs
    tables.migrate(asked.source, version, notify=notify)
    if with_jobs:
        jobs.migrate(asked.source)
    now = found or version or 3
    what = "was there already, and stays as it is" if found else "is created"
    asked.out.one({"version": now, "created": not found}, now, f"the que_jobs table, of version {now}, {what}")
    return Status.DONE


@schema.command(cls=Command, no="the answer was no")
@click.option(
    "--version",
    type=click.IntRange(0, 7),
    required=True,
    help="The version that the table gets, a higher or a lower one; 0 drops the table.",
)
@notify_option
@yes_option
@common
def migrate(asked: Asked, version: int, notify: bool, yes: bool) -> Status:
    """Change the version of the table, as Ruby's Que.migrate! does.

    Everybody waits while it rewrites the jobs. Python's clients and workers notice, and go on; Ruby's and Go's must
    be of a kind that fits. Down to 3, finished jobs and tags are lost.

    \b
    qg schema migrate --version 7
    qg schema migrate --version 3 --yes
    """
    found = tables.schema_version(asked.source)
    if found and found != version and not yes:
        lost = "drops the table with every job in it" if version == 0 else "keeps everybody out until it is done"
        ask(f"The que_jobs table is of version {found}. Migrating it to {version} {lost}. Go on?")
    tables.migrate(asked.source, version, notify=notify)
    if version == 0:
        sentence = "the que_jobs table is gone" if found else "there was no que_jobs table"
    else:
        sentence = f"the que_jobs table is of version {version}{' already' if found == version else ''}"
    asked.out.one({"version": version, "before": found}, version, sentence)
    return Status.DONE


@schema.command(name="sql", cls=Command)
@click.option(
    "--version", type=click.IntRange(1, 7), default=3, show_default=True, help="The version that the SQL leads to."
)
@click.option(
    "--from",
    "found",
    type=click.IntRange(0, 7),
    default=0,
    show_default=True,
    help="The version that it starts from; 0 is no table.",
)
@click.option("--schema", "place", default="public", show_default=True, help="The schema of the table.")
@notify_option
def print_sql(version: int, found: int, place: str, notify: bool) -> None:
    """Print the SQL that creates the table, for migrations that run elsewhere: Alembic, Django, Flyway, psql.

    It is what qg schema migrate does, to be run in one transaction. It needs no database.

    \b
    qg schema sql
    qg schema sql --version 7
    qg schema sql --from 3 --version 7 --schema app
    qg schema sql | psql --single-transaction
    """
    click.echo(tables.migration_sql(version, found=found, schema=place, notify=notify))
