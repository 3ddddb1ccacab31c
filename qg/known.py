"""Which table a client works, and hearing that it is another one since it was migrated."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

import psycopg2

from qg.connections import Source, transaction
from qg.tables import Table, detect

__all__ = ["MIGRATED", "KnownTable", "Watcher"]

MIGRATED = (
    psycopg2.ProgrammingError,
    psycopg2.errors.NotNullViolation,
    psycopg2.errors.InvalidSqlStatementName,
)
"""What a statement for one version of the table raises on another, among other occasions."""


class Watcher(Protocol):
    """Who wants to know when the table may be another one, or empty, or the client closed."""

    def look_again(self) -> None:
        """Is called then, from any thread."""


class KnownTable:
    """The table as a client knows it, until a statement finds another one. Safe to use from any thread.

    Whoever uses ``table`` reads it once and, if a statement of it fails, asks Session.finds_another().

    Raises:
        ErrTable: if *source* leads to no table of a version that qg works.
    """

    def __init__(self, source: Source) -> None:
        self._mutex = threading.Lock()
        self._watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        with transaction(source) as cur:
            self.table = detect(cur)

    def watch(self, watcher: Watcher) -> None:
        """Call *watcher* whenever there may be something to see, from any thread."""
        with self._mutex:
            self._watchers.add(watcher)

    def has_become(self, table: Table) -> None:
        """Take note of what a session has found."""
        with self._mutex:
            changed = table is not self.table
            self.table = table
        if changed:
            self.tell()

    def tell(self) -> None:
        """Let the watchers look again."""
        with self._mutex:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.look_again()
