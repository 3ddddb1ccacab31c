"""LockContext: what is the same for all rows that a client locks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import psycopg2

from qg.backoff import Backoff
from qg.database.database import Database
from qg.database.session import Session
from qg.failures import Logger
from qg.locking.row_taker import RowTaker
from qg.retries import RetryPolicy
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
    _lost_lock_logged: threading.Event = field(default_factory=threading.Event, init=False)
    _pooler_found: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def table(self) -> Table:
        """The table as it is known by now."""
        return self.database.table

    @property
    def logger(self) -> Logger:
        """Where all that happens to rows is logged."""
        return self.database.logger

    def expires(self, error_count: int, policy: RetryPolicy | None) -> bool:
        """Whether a job that has failed so many times is given up; its handler's *policy* comes first."""
        most = self.maximum_retry_count if policy is None else policy.maximum_retry_count
        if most is None:
            most = self.maximum_retry_count
        if most is None:
            most = self.table.maximum_retry_count
        return most is not None and error_count > most

    def backoff_of(self, policy: RetryPolicy | None) -> Backoff:
        """Return what says how long a job waits whose handler has this *policy*."""
        return self.backoff if policy is None or policy.backoff is None else policy.backoff

    def require_locks(self) -> None:
        """Raise ErrPooler if a lock was lost because transactions are pooled; no worker may go on then."""
        if self._pooler_found.is_set():
            raise self.database.pooler_error()

    def note_lock_lost(self, session: Session, job_id: int) -> None:
        """Find out why *session* doesn't hold the lock it took, and say so once. The session is closed."""
        if session.idle and _is_moved(session):
            self._pooler_found.set()
        if not self._lost_lock_logged.is_set():
            self._lost_lock_logged.set()
            self.logger.error(
                "lock_not_ours id=%d: the session doesn't hold the lock that it took; that is what a handler does "
                "that unlocks more than its own locks, and what a pooler does that pools transactions",
                job_id,
            )
        session.close_now()


def _is_moved(session: Session) -> bool:
    try:
        return session.is_moved()
    except psycopg2.Error:  # gone altogether, which is something else
        return False
