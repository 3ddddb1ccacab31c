"""The commands and their options; each one's work is in a module of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import psycopg2

from qg import QgError, __version__
from qg.cli import demo
from qg.cli.files import text_files
from qg.cli.server import temporary_server
from qg.cli.termination import orderly_termination
from qg.failures import one_line

__all__ = ["commands"]


@click.group()
@click.version_option(__version__, prog_name="qg")
def commands() -> None:
    """A job queue in PostgreSQL, on Que's table."""


@commands.command(name="demo")
@click.option("--path", type=click.Path(path_type=Path), default=".", help="Folder of text files.  [default: .]")
@click.option("--dsn", envvar="DATABASE_URL", help="Database to use (or DATABASE_URL); without it a temporary one.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Threads that work.")
def run_demo(path: Path, dsn: str | None, workers: int) -> None:
    """Count the words of every text file below a folder, one job a file.

    \b
    qg demo                          on a temporary server of its own
    qg demo --path ~/notes           other files
    qg demo --dsn postgresql:///app  in your database, leaving nothing behind but que_jobs

    Exit status: 0 if every file was counted exactly once, 1 if not, 2 if it couldn't run, 128 and
    the signal's number if it was stopped.
    """
    try:
        with orderly_termination():
            files, left_out = text_files(path)
            if dsn:
                complete = demo.run(dsn, files, left_out, workers)
            else:
                with temporary_server() as server_dsn:
                    complete = demo.run(server_dsn, files, left_out, workers)
    except KeyboardInterrupt:
        raise _Ended("stopped; what the demo had set up was removed", 130) from None
    except (QgError, psycopg2.Error, OSError) as error:
        raise _Ended(one_line(error), 2) from error
    sys.exit(0 if complete else 1)


class _Ended(click.ClickException):
    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]
