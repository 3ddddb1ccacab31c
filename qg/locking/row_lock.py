"""Lock: the advisory lock of one row, and the session for what is written about it. RowLock: both on one session."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from qg.database.session import Session
from qg.failures import one_line
from qg.locking.context import LockContext
from qg.tables import Statement
from qg.tables.locking import RELOCK_JOB, UNLOCK_ALL

__all__ = ["Lock", "RowLock", "lock_anew"]

_RETRY_PAUSES_SECONDS = (0.01, 0.03, 0.1, 0.3)


class Lock(Protocol):
    """The lock of one row, and the session for all that is written about the row, and for its handler."""

    @property
    def session(self) -> Session:
        """The session for this row, ready for use."""

    @property
    def unused_session(self) -> Session:
        """The session, for a look at it, or one that it takes while it is idle. That isn't using it.

        Whoever runs something on it keeps out whoever else may.
        """

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on the session. Asking that isn't using it."""

    @property
    def lost(self) -> bool:
        """Whether the lock has gone with its session, as far as can be seen without a message. Not a use either."""

    def require(self) -> None:
        """Raise ErrLockLost if what is written on the session isn't under the lock any more."""

    def release(self) -> None:
        """Unlock, and part with the session. Ctrl-C passes on after that; no failure does."""

    def close(self) -> None:
        """Close the session, if there is one."""

    @property
    def backend_pid(self) -> int | None:
        """The server process that holds the lock. Asking that isn't using the session."""

    def cancel_statement(self) -> None:
        """Cancel the statement that another thread runs on the session, if there is one. Not a use of it."""

    def reached(self) -> AbstractContextManager[Session]:
        """Within the block there is a session for what is still to be asked about the row after the lock was lost."""

    def anew(self) -> Lock | None:
        """Lock the row anew after its lock was lost or given up; return None if somebody else has it."""


class RowLock:
    """The lock of the row *id* on a session, which is the row's as long as it is locked.

    Args:
        session: the one that holds the lock.
        id: the job's.
        context: of the client.
        lent: whether the session is a worker's, which goes on with it after this row. Otherwise it is
            given back together with the lock.
        unlock: how to unlock, (id) -> whether the session held the lock.
        before_use: is called each time before the session is used for this row.
    """

    __slots__ = ("_before_use", "_context", "_id", "_lent", "_session", "_unlock")

    def __init__(
        self,
        session: Session,
        id: int,  # noqa: A002 - it is the row's id, and has no other name anywhere
        context: LockContext,
        *,
        lent: bool,
        unlock: Statement = UNLOCK_ALL,
        before_use: Callable[[RowLock], None] | None = None,
    ) -> None:
        self._session = session
        self._id = id
        self._context = context
        self._lent = lent
        self._unlock = unlock
        self._before_use = before_use

    @property
    def session(self) -> Session:
        """The session that holds the lock, ready for use."""
        if self._before_use is not None:
            self._before_use(self)
        return self._session

    @property
    def unused_session(self) -> Session:
        """The session; before_use isn't called."""
        return self._session

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on the session; before_use isn't called."""
        return self._session.in_transaction

    @property
    def lost(self) -> bool:
        """Whether the session has ended; before_use isn't called."""
        return self._session.lost

    def require(self) -> None:
        """Nothing: where the lock is gone, nothing can be written either."""

    def release(self) -> None:
        """Unlock, and give the session back unless it is lent.

        What can't be unlocked is unlocked by closing the session. Ctrl-C passes on after that; no failure does.
        """
        session = self._session
        try:
            session = self.session
            if not session.idle:
                session.close_now()
            elif not (session.run if self._lent else session.run_last)(self._unlock, (self._id,))[0][0]:
                self._context.note_lock_lost(session, self._id)
            elif not self._lent:
                session.give_back()
        except BaseException as trouble:
            session.close_now()
            if not isinstance(trouble, Exception):
                raise  # Ctrl-C, after which the lock is gone all the same
            self._context.logger.warning("unlock_failed id=%d: %s; its session was closed", self._id, one_line(trouble))

    def close(self) -> None:
        """Close the session, and free the lock with it."""
        self.session.close_now()

    @property
    def backend_pid(self) -> int | None:
        """The server process of the session; before_use isn't called."""
        return self._session.backend_pid

    def cancel_statement(self) -> None:
        """Cancel the statement that another thread runs on the session; before_use isn't called."""
        self._session.cancel_statement()

    @contextmanager
    def reached(self) -> Iterator[Session]:
        """Within the block there is a session for what is still to be asked about the row after the lock was lost."""
        session, lent = self._reach()
        try:
            yield session
        finally:
            if not lent:
                session.give_back()

    def _reach(self) -> tuple[Session, bool]:
        """Return the worker's session where that is sound, otherwise a new one, and whether it is the worker's."""
        if self._lent and self.session.idle:
            return self._session, True
        return self._context.database.lease(even_if_closed=True), False

    def anew(self) -> RowLock | None:
        """Lock the row anew after its lock was lost or given up; return None if somebody else has it."""
        session, lent = self._reach()
        return lock_anew(session, self._id, self._context, lent=lent, unlock=self._unlock)


def lock_anew(
    session: Session,
    id: int,  # noqa: A002 - as above
    context: LockContext,
    *,
    lent: bool,
    unlock: Statement = UNLOCK_ALL,
) -> RowLock | None:
    """Lock the row *id* on *session* after its lock was lost elsewhere; return None if somebody else has it.

    The session is given back then, unless it is *lent*; see RowLock. After an exception it is closed.
    """
    try:
        # The server may take a moment to notice that the session which had the lock is gone.
        for pause in (0, *_RETRY_PAUSES_SECONDS):
            time.sleep(pause)
            if session.run(RELOCK_JOB, (id,))[0][0]:
                return RowLock(session, id, context, lent=lent, unlock=unlock)
        if not lent:
            session.give_back()
    except BaseException:
        session.close_now()
        raise
    return None
