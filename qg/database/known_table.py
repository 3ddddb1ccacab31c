"""KnownTable: which table a client works, and who wants to hear that it is another one since a migration."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

import psycopg2

from qg.database.sources import Source, transaction
from qg.errors import ErrInvalidJob, ErrTable
from qg.tables import Table, detect

__all__ = ["MIGRATED", "STALE", "KnownTable", "Watcher"]

MIGRATED = (
    psycopg2.ProgrammingError,
    psycopg2.errors.NotNullViolation,
    psycopg2.errors.InvalidSqlStatementName,
)
"""What the server answers, among other occasions, to a statement for another version of the table."""

STALE = (*MIGRATED, ErrInvalidJob, ErrTable)
"""The same, and what we raise ourselves where a table of another version would do it."""


class Watcher(Protocol):
    """Who wants to know when the table may be another one, or empty, or the client closed."""

    def recheck(self) -> None:
        """Is called then, from any thread."""


class KnownTable:
    """The table as a client knows it, until somebody finds another version. Safe to use from any thread.

    Which schema it is in, the search_path of the first connection says, once and for all.

    Args:
        source: where to look.
        deadline: how many seconds that may take; None means any time.

    Raises:
        ErrTable: if *source* leads to no table of a version that qg works.
    """

    def __init__(self, source: Source, deadline: float | None = None) -> None:
        self._mutex = threading.Lock()
        self._watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        with transaction(source, deadline) as cur:
            self.table = detect(cur)

    def add_watcher(self, watcher: Watcher) -> None:
        """Call *watcher* whenever there may be something to see, from any thread."""
        with self._mutex:
            self._watchers.add(watcher)

    def set(self, table: Table) -> None:
        """Take note of what somebody has found; if it is another table, the watchers hear of it."""
        with self._mutex:
            changed = table is not self.table
            self.table = table
        if changed:
            self.call_watchers()

    def call_watchers(self) -> None:
        """Let the watchers look again."""
        with self._mutex:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.recheck()
