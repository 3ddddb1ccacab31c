"""``qg demo`` on the command line."""

from __future__ import annotations

from pathlib import Path

import click

from qg.cli.commanding import Command
from qg.cli.endings import Ended
from qg.cli.files import text_files
from qg.cli.options import database_option
from qg.cli.server import temporary_server
from qg.cli.status import BY_CTRL_C, Status
from qg.cli.termination import orderly_termination
from qg.errors import ErrMissingExtra

__all__ = ["run_demo"]


@click.command(name="demo", cls=Command, no="not every file was counted exactly once")
@click.option("--path", type=click.Path(path_type=Path), default=".", help="Folder of text files.  [default: .]")
@database_option
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Threads that work.")
def run_demo(path: Path, dsn: str, workers: int) -> Status:
    """Count the words of your files, one job a file.

    Without a DSN it starts a temporary PostgreSQL of its own.

    \b
    qg demo                          on a temporary server
    qg demo --path ~/notes           other files
    qg demo --dsn postgresql:///app  in your database, leaving nothing behind but que_jobs
    """
    try:
        from qg.cli import demo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise ErrMissingExtra("qg demo needs rich, which isn't installed; pip install 'qg[demo]'") from None
    try:
        with orderly_termination():
            files, left_out = text_files(path)
            if dsn:
                complete = demo.run(dsn, files, left_out, workers)
            else:
                with temporary_server() as server_dsn:
                    complete = demo.run(server_dsn, files, left_out, workers)
    except KeyboardInterrupt:
        raise Ended("stopped; what the demo had set up was removed", BY_CTRL_C) from None
    return Status.DONE if complete else Status.NO
