"""Reports: what came of an action, and what a checkup has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

__all__ = [
    "Finding",
    "Left",
    "Report",
    "Severity",
]


@dataclass(frozen=True)
class Left:
    """A job that was left alone.

    Attributes:
        id: the job's.
        reason: why, in words: "being worked by pid 41 on web-2".
    """

    id: int
    reason: str


@dataclass(frozen=True)
class Report:
    """What came of an action.

    Attributes:
        action: its name.
        count: how many jobs were changed, or would be.
        ids: theirs, the first thousand of them.
        left: those that were left alone, the first thousand of them. With a filter that is only who is being worked,
            or locked otherwise.
        left_count: how many were left alone.
        cancelled: the ids of those that were being worked, and whose rows were deleted all the same.
        dry_run: whether it was only looked at.
    """

    action: str
    count: int
    ids: tuple[int, ...]
    left: tuple[Left, ...]
    left_count: int
    cancelled: tuple[int, ...]
    dry_run: bool

    _LONGEST = 1000

    @classmethod
    def empty(cls, action: str, *, dry_run: bool) -> Report:
        """Return the report on nothing."""
        return cls(action, 0, (), (), 0, (), dry_run)

    def adding(self, ids: Sequence[int], left: Sequence[Left], cancelled: Sequence[int] = ()) -> Report:
        """Return the report on that, too."""
        return replace(
            self,
            count=self.count + len(ids),
            ids=(*self.ids, *ids[: max(self._LONGEST - len(self.ids), 0)]),
            left=(*self.left, *left[: max(self._LONGEST - len(self.left), 0)]),
            left_count=self.left_count + len(left),
            cancelled=(*self.cancelled, *cancelled),
        )


class Severity(IntEnum):
    """How much a finding matters."""

    INFO = 0
    """Good to know."""
    WARNING = 1
    """Something will go wrong, or is slower than it needs to be."""
    ERROR = 2
    """Something doesn't work."""


@dataclass(frozen=True)
class Finding:
    """Something that doctor() has found.

    Attributes:
        severity: how much it matters.
        check: which check has found it, in a word.
        seen: what was seen.
        mend: what to do about it.
    """

    severity: Severity
    check: str
    seen: str
    mend: str
