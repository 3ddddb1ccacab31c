"""LockContext: what is the same for all rows that a client locks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from qg.backoff import Backoff
from qg.database.database import Database
from qg.failures import Logger
from qg.locking.row_taker import RowTaker
from qg.tables import Table

__all__ = ["LockContext"]


@dataclass(frozen=True)
class LockContext:
    """What a locked row needs besides its lock; one for each client.

    Attributes:
        database: where the row is.
        rows: is told of rows that are unlocked undone.
        backoff: from a job's error count to the seconds until it is run again.
        maximum_retry_count: how often a job is tried again before it expires; None leaves that to the table.
    """

    database: Database
    rows: RowTaker
    backoff: Backoff
    maximum_retry_count: float | None
    _pooler_logged: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def table(self) -> Table:
        """The table as it is known by now."""
        return self.database.table

    @property
    def logger(self) -> Logger:
        """Where all that happens to rows is logged."""
        return self.database.logger

    def expires(self, error_count: int) -> bool:
        """Whether a job that has failed so many times is given up."""
        most = self.maximum_retry_count
        if most is None:
            most = self.table.maximum_retry_count
        return most is not None and error_count > most

    def log_pooler(self, job_id: int) -> None:
        """Say once what it means that a session doesn't hold the lock it took."""
        if not self._pooler_logged.is_set():
            self._pooler_logged.set()
            self.logger.error(
                "lock_not_ours id=%d: the session doesn't hold the lock that it took, which is what a pooler "
                "in transaction mode does to it; connect to PostgreSQL directly or pool by session",
                job_id,
            )
