"""Transactions: sessions for jobs whose lock is on another one."""

from __future__ import annotations

import threading
import time

import psycopg2

from qg.database.session import Session
from qg.tables.locking import UNLOCK_EVERYTHING
from qg.working.engine import Engine

__all__ = ["Transactions"]

# How long to wait for somebody to give a session back, where the source gives no other one.
_PATIENCE_SECONDS = 10.0


class Transactions:
    """Leases a session to each job that needs one, but to so many at once at the most. Safe to use from any thread.

    Args:
        engine: of the client.
        queue: whose jobs are worked.
        most: how many jobs may have one at once; the next one waits.
    """

    def __init__(self, engine: Engine, queue: str, most: int) -> None:
        self._engine = engine
        self._queue = queue
        self._most = most
        self._out = 0
        # How many there may be at the moment: fewer where the source was seen to have no more to give.
        self._room = most
        # How many have been given back so far.
        self._returns = 0
        self._changed = threading.Condition()

    def lease(self) -> Session:
        """Return a session in the mode for a handler; wait for one, if others have as many as there may be.

        Where the source gives none, it is waited for a while that somebody gives one back.

        Raises:
            Exception: what the source raises passes through.
        """
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        self._enter(None)
        while True:
            returns = self._returns
            try:
                return self._ask()
            except Exception:
                if not (self._note_refused(returns) and self._enter(give_up_at - time.monotonic())):
                    raise
            except BaseException:
                self._leave()
                raise

    def lease_at_once(self) -> Session | None:
        """Return a session as lease() does; None if others have as many as there may be, or the source has to give."""
        if self._engine.database.spare == 0 or not self._enter(0.0):
            return None
        returns = self._returns
        try:
            return self._ask()
        except Exception:
            if not self._note_refused(returns):
                raise
            return None
        except BaseException:
            self._leave()
            raise

    def give_back(self, session: Session, *, has_failed: bool) -> None:
        """Take *session* back from a job that is over, and whose handler has failed, perhaps; as it was before it."""
        try:
            if session.idle and session.is_lent:
                if self._engine.is_kept_by_handler(session, self._queue, has_failed=has_failed):
                    session.close_now()
                else:
                    session.run_last(UNLOCK_EVERYTHING)  # the handler may have left locks of its own
            session.give_back()
        except psycopg2.Error:
            session.close_now()
        finally:
            self._leave()

    def _enter(self, seconds: float | None) -> bool:
        """Wait until there is room for one more, and count it; return False if there was none for so many seconds."""
        with self._changed:
            entered = self._changed.wait_for(lambda: self._out < self._room, seconds)
            self._out += entered
            return entered

    def _ask(self) -> Session:
        session = self._engine.database.lease(even_if_closed=True)
        with self._changed:
            if self._out == self._room < self._most:
                self._room += 1  # where one was to be had, there may be more
                self._changed.notify()
        return session

    def _leave(self) -> None:
        """Count one less, and let the next one ask the source."""
        with self._changed:
            self._out -= 1
            self._returns += 1
            self._room = self._most
            self._changed.notify()

    def _note_refused(self, returns: int) -> bool:
        """Count one less, to whom the source gave none; return whether others have any that they may give back.

        Until then nobody else asks. Otherwise two who get none would wake each other in turn.

        Args:
            returns: how many had been given back when the source was asked. If it is more by now, one may be there.
        """
        with self._changed:
            self._out -= 1
            others = self._out > 0 or returns != self._returns
            if returns == self._returns:
                self._room = max(self._out, 1)
            self._changed.notify()
            return others
