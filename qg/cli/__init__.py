"""The ``qg`` command. Its dependencies are the extra ``qg[cli]``; without them it says so."""

from __future__ import annotations

import sys

__all__ = ["main"]

# 0: done; 1: ran, but not to the right end; 2: couldn't run at all.
_CANNOT_RUN = 2


def main() -> None:
    """Run the command line; the entry point of the package."""
    try:
        from qg.cli.commands import qg
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write(f"qg: the command needs {error.name}, which isn't installed; pip install 'qg[cli]'\n")
        sys.exit(_CANNOT_RUN)
    qg()
