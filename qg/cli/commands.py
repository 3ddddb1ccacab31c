"""The commands there are. Each group of them is a module, imported when one of its commands runs."""

from __future__ import annotations

import click

from qg import __version__
from qg.cli.commanding import Commands

__all__ = ["commands"]

_LAZY = {
    "enqueue": ("qg.cli.enqueue:enqueue", "Store a job, or many."),
    "jobs": ("qg.cli.jobs:jobs", "Find jobs, look at one, retry, delete or move them."),
    "stats": ("qg.cli.looking:stats", "Show how the queues stand."),
    "workers": ("qg.cli.looking:workers", "Show who works what."),
    "errors": ("qg.cli.looking:errors", "Show what fails, and why."),
    "queues": ("qg.cli.queues:queues", "List the queues, and which are paused."),
    "pause": ("qg.cli.queues:pause", "Let workers take no more jobs of a queue."),
    "resume": ("qg.cli.queues:resume", "Let workers take jobs of a queue again."),
    "schedules": ("qg.cli.history:schedules", "List the schedules of qg.jobs."),
    "history": ("qg.cli.history:history", "List the attempts that qg.jobs has kept."),
    "prune": ("qg.cli.history:prune", "Delete old attempts from the history of qg.jobs."),
    "schema": ("qg.cli.schema:schema", "Create the table, change its version."),
    "doctor": ("qg.cli.doctor:doctor", "Check everything, and say what to mend."),
    "work": ("qg.cli.work:work", "Work the jobs of an application."),
    "health": ("qg.cli.health:health", "Say whether a worker does well, for probes."),
    "demo": ("qg.cli.demo_command:run_demo", "Count the words of your files, one job a file."),
}


@click.group(cls=Commands, lazy=_LAZY, no="the answer is no: a finding, nothing found, a refused action")
@click.version_option(__version__, prog_name="qg")
def commands() -> None:
    """A job queue in PostgreSQL, on Que's table.

    \b
    qg demo             see it work
    qg stats            how the queues stand
    qg errors           what fails, and why
    qg COMMAND --help   what a command does, with examples

    The database is given by --dsn, QG_DSN, DATABASE_URL, or libpq's own variables (PGHOST, PGDATABASE, …).
    """
