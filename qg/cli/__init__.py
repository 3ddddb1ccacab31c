"""The ``qg`` command. Its dependencies are the extra ``qg[cli]``; without them it says so."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point of the package.

    Exit status: as :mod:`qg.cli.status` has them.
    """
    _open_what_is_closed()
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


def _open_what_is_closed() -> None:
    """Open the null device for each of the three files that whoever starts the command has closed (``>&-``).

    In their order, so that each gets its own number: otherwise a connection to the database would get it, and a
    process started from here would write to that.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            file = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - it stays open as long as the process
            os.set_inheritable(file.fileno(), True)
            setattr(sys, name, file)
            setattr(sys, f"__{name}__", file)
