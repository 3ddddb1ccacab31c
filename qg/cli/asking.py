"""Asking before something is done that can't be undone."""

from __future__ import annotations

import sys

import click

from qg.cli.endings import Ended
from qg.cli.status import Status

__all__ = ["ask", "yes_option"]

yes_option = click.option("--yes", "-y", is_flag=True, help="Do it without a question.")


def ask(question: str) -> None:
    """Ask *question* on the terminal.

    Raises:
        Ended: with status 1 if the answer is no, or nobody is there to be asked.
    """
    if not _somebody_there():
        raise Ended(f"{question} Nobody can be asked, since the input is no terminal; give --yes", Status.NO)
    if not click.confirm(question, err=True):
        raise Ended("nothing was done", Status.NO)


def _somebody_there() -> bool:
    return sys.stdin.isatty()
