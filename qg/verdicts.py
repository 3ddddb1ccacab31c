"""What a handler can raise to say how its job goes on; neither counts as a failure."""

from __future__ import annotations

from datetime import datetime

from qg.backoff import MAX_SECONDS
from qg.errors import ErrInvalidOption

__all__ = ["Discard", "Reschedule"]


class Reschedule(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by a handler: roll back what it wrote, run the job again later, count no error.

    Args:
        at: when to run again, an aware datetime; or
        after: in how many seconds, by the database's clock. Fractions are allowed.

    Raises:
        ErrInvalidOption: for both or neither, a naive *at*, an *after* that is negative or
            longer than a hundred years.
    """

    def __init__(self, *, at: datetime | None = None, after: float | None = None) -> None:
        if (at is None) == (after is None):
            raise ErrInvalidOption("Reschedule takes either at= or after=; give exactly one")
        if at is not None and not (isinstance(at, datetime) and at.utcoffset() is not None):
            raise ErrInvalidOption(f"Reschedule(at={at!r}) is no aware datetime; give one with a time zone")
        if after is not None and not (isinstance(after, (int, float)) and 0 <= after <= MAX_SECONDS):
            raise ErrInvalidOption(f"Reschedule(after={after!r}) must lie between 0 and {MAX_SECONDS} seconds")
        super().__init__(f"run again at {at.isoformat()}" if at else f"run again after {after} s")
        self.at = at
        self.after = after


class Discard(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by a handler: roll back what it wrote and drop the job for good.

    Args:
        reason: why, for the log.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
