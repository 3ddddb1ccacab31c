"""The commands there are. Each group of them is a module, imported when one of its commands runs."""

from __future__ import annotations

import click

from qg import __version__
from qg.cli.commanding import Commands

__all__ = ["commands"]

_LAZY = {
    "demo": ("qg.cli.demo_command:run_demo", "Count the words of your files, one job a file."),
}


@click.group(cls=Commands, lazy=_LAZY, no="the answer is no: a finding, nothing found, a refused action")
@click.version_option(__version__, prog_name="qg")
def commands() -> None:
    """A job queue in PostgreSQL, on Que's table.

    \b
    qg demo             see it work
    qg COMMAND --help   what a command does, with examples
    """
