"""How long to wait before the next try; functions of how often it has failed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from qg.errors import ErrInvalidOption

__all__ = ["MAX_SECONDS", "Backoff", "exponential", "que_delay", "reconnect_pause"]

Backoff = Callable[[int], float]
"""From a job's error count, 1 after its first failure, to seconds until it runs again."""

MAX_SECONDS = 100 * 365 * 24 * 3600
"""The longest delay, a hundred years: any further and run_at leaves what datetime can hold."""


def que_delay(error_count: int) -> float:
    """Return ``error_count ** 4 + 3`` seconds, the delay of every Que, Ruby and Go; qg's if nothing else is said."""
    return float(min(error_count**4 + 3, MAX_SECONDS))


def exponential(*, base: float = 2, factor: float = 1, maximum: float = 3600, jitter: float = 0.1) -> Backoff:
    """Return a backoff of *factor* seconds after the first failure, and *base* times as long after each further one.

    Args:
        base: 1 or more; 1 waits equally long each time.
        factor: seconds, above 0.
        maximum: seconds that it never exceeds, up to a hundred years.
        jitter: from 0 to 1: the delay is at random up to such a part of it shorter or longer, so that jobs which
            failed together aren't all run again together.

    Raises:
        ErrInvalidOption: if one of them is out of bounds.
    """
    for name, value in (("base", base), ("factor", factor), ("maximum", maximum), ("jitter", jitter)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ErrInvalidOption(f"{name} of an exponential backoff must be a number, not {value!r}")
    if not 1 <= base <= MAX_SECONDS:
        raise ErrInvalidOption(f"base of an exponential backoff must be 1 or more, and finite, not {base!r}")
    for name, value in (("factor", factor), ("maximum", maximum)):
        if not 0 < value <= MAX_SECONDS:
            raise ErrInvalidOption(
                f"{name} of an exponential backoff must be seconds above 0, {MAX_SECONDS} at the most, not {value!r}"
            )
    if not 0 <= jitter <= 1:
        raise ErrInvalidOption(f"jitter of an exponential backoff must be from 0 to 1, not {jitter!r}")
    return _Exponential(float(base), float(factor), float(maximum), float(jitter))


@dataclass(frozen=True)
class _Exponential:
    base: float
    factor: float
    maximum: float
    jitter: float

    def __call__(self, error_count: int) -> float:
        try:
            seconds = self.factor * self.base ** (error_count - 1)
        except OverflowError:
            seconds = self.maximum
        seconds = min(seconds, self.maximum)
        return min(seconds * random.uniform(1 - self.jitter, 1 + self.jitter), self.maximum)  # noqa: S311 - no secret


def reconnect_pause(failures: int, interval: float) -> float:
    """Return how many seconds to wait after the database failed *failures* times in a row.

    The pause doubles from a twentieth of a second up to *interval*, but never beyond 30 s and,
    so that an interval of 0 makes no hot loop, never below that first twentieth.
    """
    first = 0.05
    return min(first * 2.0 ** min(failures - 1, 20), max(interval, first), 30.0)
