"""How long to wait before the next try; pure functions of how often it has failed."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MAX_SECONDS", "Backoff", "exponential", "reconnect_pause"]

Backoff = Callable[[int], float]
"""From a job's error count, 1 after its first failure, to seconds until it runs again."""

MAX_SECONDS = 100 * 365 * 24 * 3600
"""The longest delay, a hundred years: any further and run_at leaves what datetime can hold."""


def exponential(error_count: int) -> float:
    """Return ``error_count ** 4 + 3`` seconds, the delay of every Que, Ruby and Go."""
    return float(min(error_count**4 + 3, MAX_SECONDS))


def reconnect_pause(failures: int, interval: float) -> float:
    """Return how many seconds to wait after the database failed *failures* times in a row.

    The pause doubles from a twentieth of a second up to *interval*, but never beyond 30 s and,
    so that an interval of 0 makes no hot loop, never below that first twentieth.
    """
    first = 0.05
    return min(first * 2.0 ** min(failures - 1, 20), max(interval, first), 30.0)
