"""Forks: whether this is still the process that began something, and the end of a handler's child."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress

__all__ = ["end_if_forked", "process_number"]

# How many forks lie between this process and the first one. To count them costs nothing where there is none;
# getpid() is a system call, and would be one for each job.
_number = 0


def process_number() -> int:
    """Return a number that is another one in a process forked from this one."""
    return _number


def end_if_forked(began_in: int, error: BaseException | None = None) -> None:
    """End this process, as a program ends, if it was forked since *began_in* was asked for.

    Nothing is unwound, and nothing is closed, for all that is the parent's. The status is the one that
    sys.exit() was given, 0 without an *error*, and 1 after one, whose traceback goes to stderr.

    Args:
        began_in: what process_number() was.
        error: what was raised, SystemExit included.
    """
    if began_in == _number:
        return
    status = 1
    try:
        status = _status_after(error)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # closed, or None
                stream.flush()
    finally:
        os._exit(status)  # the way to end without unwinding; it is public in all but its name


def _status_after(error: BaseException | None) -> int:
    """Return the exit status that Python would give, and print what it would print."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(type(error), error, error.__traceback__)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _note_fork() -> None:
    global _number
    _number += 1


os.register_at_fork(after_in_child=_note_fork)
