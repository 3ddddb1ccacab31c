"""An outage of the database as several workers see it, told in the log once."""

from __future__ import annotations

import threading
import time

from qg.failures import Logger, one_line

__all__ = ["Outage"]


class Outage:
    """Who can't reach the database at the moment; logs the first one that can't and the last one that can."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._mutex = threading.Lock()
        self._affected: set[object] = set()
        self._began = 0.0

    def met_by(self, worker: object, cause: Exception) -> None:
        """Note that *worker* got no job because of *cause*."""
        with self._mutex:
            first = not self._affected
            self._affected.add(worker)
            if first:
                self._began = time.monotonic()
        if first:
            self._logger.error(
                "outage_begins %s: %s; trying again until it is over",
                type(cause).__name__,
                one_line(cause),
            )

    def over_for(self, worker: object) -> bool:
        """Note that *worker* reached the database; return whether that ended the outage."""
        if worker not in self._affected:
            return False
        with self._mutex:
            self._affected.discard(worker)
            last = not self._affected
            seconds = time.monotonic() - self._began
        if last:
            self._logger.warning("outage_over after=%.1fs", seconds)
        return last
