"""CancelledJobs: which of the jobs that are being worked were deleted by somebody, as far as was heard."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CancelledJobs"]

_MOST = 10_000


class CancelledJobs:
    """The ids of jobs that lost their rows while they were being worked. One for each client; safe from any thread."""

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def has(self, job_id: int) -> bool:
        """Whether this job was cancelled. Costs no message."""
        return bool(self._ids) and job_id in self._ids

    def note(self, ids: Iterable[int]) -> None:
        """Note that the rows of these jobs are gone. They are forgotten when there are many others."""
        if len(self._ids) > _MOST:
            self._ids.clear()
        self._ids.update(ids)

    def forget(self, ids: Iterable[int]) -> None:
        """Note that jobs with these ids were locked now, and have rows: an id may be used again."""
        if self._ids:
            self._ids.difference_update(ids)
