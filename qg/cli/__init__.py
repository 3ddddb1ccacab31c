"""The ``qg`` command. Its dependencies are the extra ``qg[cli]``; without them it says so."""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point of the package.

    Exit status: as :mod:`qg.cli.status` has them.
    """
    try:
        from qg.cli.commands import commands
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("Error: the qg command needs click, which isn't installed; pip install 'qg[cli]'\n")
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name that the terminal's encoding can't show is no reason to end.
        sys.stdout.reconfigure(errors="backslashreplace")
    commands(prog_name="qg")
