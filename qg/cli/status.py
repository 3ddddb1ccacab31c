"""Exit statuses, the same for every command."""

from __future__ import annotations

import signal
from enum import IntEnum

__all__ = ["BY_CLOSED_PIPE", "BY_CTRL_C", "Status", "of_signal"]


class Status(IntEnum):
    """With what a command ends."""

    DONE = 0
    """It did what it should."""
    NO = 1
    """It ran, and the answer is no: a finding, nothing found, a refused action."""
    COULD_NOT_RUN = 2
    """It couldn't run: a wrong option, no database, no table, no rights."""


def of_signal(number: int) -> int:
    """Return the exit status of a command that the signal with this number has ended."""
    return 128 + number


BY_CTRL_C = of_signal(signal.SIGINT)
# What a shell says of a program whose reader is gone. Windows has no such signal; 13 is its number elsewhere.
BY_CLOSED_PIPE = of_signal(13)
