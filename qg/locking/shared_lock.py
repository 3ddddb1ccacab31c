"""SharedLock: the lock of a row on a session that holds those of many, while the row is written on another one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from qg.database.session import Session
from qg.errors import ErrLockLost
from qg.locking.context import LockContext
from qg.locking.row_lock import Lock, lock_anew

__all__ = ["Lender", "SharedLock"]


class Lender(Protocol):
    """Lends sessions for what is written about rows. Safe to use from any thread."""

    def lease(self) -> Session:
        """Return a session in the mode for a handler. Raises whatever the source raises."""

    def give_back(self, session: Session, *, has_failed: bool) -> None:
        """Take *session* back from a job that is over, and whose handler has failed, perhaps."""


class SharedLock:
    """The lock of the row *id* on *locker*, a session that only locks, unlocks and deletes.

    What is written about the row otherwise, by its handler or by qg, is written on a session of the row's own, which is
    leased when it is first used. release() doesn't unlock: whoever has *locker* does that after end(). So what
    becomes of the job can be written under its lock as long as a thread has the job.

    Args:
        locker: the session that holds the lock.
        id: the job's.
        context: of the client.
        lender: lends the row's own session.

    Attributes:
        unlocked: whether the locker's session was seen not to hold the lock any more.
    """

    __slots__ = ("_context", "_id", "_lender", "_mutex", "_own", "locker", "unlocked")

    def __init__(
        self,
        locker: Session,
        id: int,  # noqa: A002 - it is the row's id, and has no other name anywhere
        context: LockContext,
        lender: Lender,
    ) -> None:
        self.locker = locker
        self.unlocked = False
        self._id = id
        self._context = context
        self._lender = lender
        self._own: Session | None = None
        # A handler may ask for its connection from several threads.
        self._mutex = threading.Lock()

    @property
    def session(self) -> Session:
        """The row's own session."""
        own = self._own
        if own is None:
            with self._mutex:
                own = self._own
                if own is None:
                    own = self._own = self._lender.lease()
        return own

    @property
    def unused_session(self) -> Session:
        """The row's own session."""
        return self.session

    @property
    def has_session(self) -> bool:
        """Whether the row has a session of its own."""
        return self._own is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on the row's own session, if it has one."""
        return self._own is not None and self._own.in_transaction

    @property
    def lost(self) -> bool:
        """Whether the lock has gone, or the row's own session."""
        own = self._own
        return self.is_gone or (own is not None and own.lost)

    @property
    def is_gone(self) -> bool:
        """Whether the lock has gone, with its session for instance, as far as can be seen without a message."""
        return self.unlocked or self.locker.lost

    @property
    def is_gone_lately(self) -> bool:
        """As is_gone, for one job after another: all of them together look once in a millisecond at the most."""
        return self.unlocked or self.locker.lost_lately

    @property
    def is_sound(self) -> bool:
        """Whether the row's own session, if it has one, is as far as can be seen still there. No message."""
        own = self._own
        return own is None or own.alive or own.in_transaction

    def require(self) -> None:
        """Raise ErrLockLost if the lock has gone, as far as can be seen without a message."""
        if self.is_gone:
            raise ErrLockLost("the session that held the job's lock has ended")

    def release(self) -> None:
        """Close the row's own session, unless it is idle. The lock is the locker's to release."""
        if self._own is not None and not self._own.idle:
            self.close()

    def close(self) -> None:
        """Close the row's own session, if it has one."""
        self.end(has_failed=True, reusable=False)

    def end(self, *, has_failed: bool, reusable: bool = True) -> None:
        """Part with the row's own session, if it has one.

        Args:
            has_failed: whether the handler has.
            reusable: whether somebody else may have the session after that.
        """
        with self._mutex:
            own, self._own = self._own, None
        if own is not None:
            if not reusable:
                own.close_now()
            self._lender.give_back(own, has_failed=has_failed)

    @property
    def backend_pid(self) -> int | None:
        """The server process that holds the lock."""
        return self.locker.backend_pid

    def cancel_statement(self) -> None:
        """Cancel the statement that another thread runs on the row's own session, if it has one."""
        if (own := self._own) is not None:
            own.cancel_statement()

    @contextmanager
    def reached(self) -> Iterator[Session]:
        """Within the block there is a session for what is to be asked about the row: its own, or another one."""
        if self._own is not None and not self._own.alive:
            self.close()
        yield self.session

    def anew(self) -> Lock | None:
        """Return the lock if it is still held; otherwise lock the row anew, on its own session.

        None if somebody else has it.
        """
        if not self.is_gone:
            return self
        with self.reached() as session:
            return lock_anew(session, self._id, self._context, lent=True)
