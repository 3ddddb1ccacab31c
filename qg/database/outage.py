"""Outage: what several workers see of a database that is away, said in the log once."""

from __future__ import annotations

import threading
import time

import psycopg2

from qg.failures import Logger, one_line

__all__ = ["Outage"]

_ABOUT_CONNECTIONS = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    psycopg2.errors.ReadOnlySqlTransaction,
)


class Outage:
    """Who can't work with the database at the moment. Logs when the first one can't, and when the last one can."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._mutex = threading.Lock()
        self._affected: set[object] = set()
        self._began = 0.0

    @property
    def affected(self) -> int:
        """How many workers it concerns."""
        return len(self._affected)

    def begin_for(self, worker: object, cause: Exception) -> None:
        """Note that *worker* got no job because of *cause*, which the driver or the source raised."""
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
                # Of what isn't about connections the place is of interest, too.
                exc_info=None if isinstance(cause, _ABOUT_CONNECTIONS) else cause,
            )

    def end_for(self, worker: object) -> bool:
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
