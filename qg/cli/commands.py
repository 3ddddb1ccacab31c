"""The commands and their options; each one's work is in a module of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import psycopg2

import qg as package
from qg.cli import demo
from qg.cli.server import temporary_server
from qg.failures import one_line

__all__ = ["qg"]


@click.group()
@click.version_option(package.__version__, prog_name="qg")
def qg() -> None:
    """A job queue in PostgreSQL, on Que's table."""


@qg.command(name="demo")
@click.option("--path", type=click.Path(path_type=Path), default=".", help="Folder of text files.  [default: .]")
@click.option("--dsn", envvar="DATABASE_URL", help="Database to use (or DATABASE_URL); without it a temporary one.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Threads that work.")
def run_demo(path: Path, dsn: str | None, workers: int) -> None:
    """Count the words of every text file below a folder, one job a file.

    \b
    qg demo                          on a temporary server of its own
    qg demo --path ~/notes           other files
    qg demo --dsn postgresql:///app  in your database, leaving nothing behind but que_jobs

    Exit status: 0 if every file was counted exactly once, 1 if not, 2 if it couldn't run.
    """
    try:
        files = demo.text_files(path)
        if dsn:
            done = demo.run(dsn, files, workers)
        else:
            with temporary_server() as server_dsn:
                done = demo.run(server_dsn, files, workers)
    except (package.QgError, psycopg2.Error, OSError) as error:
        raise _CannotRun(one_line(error)) from error
    sys.exit(0 if done else 1)


class _CannotRun(click.ClickException):
    exit_code = 2
