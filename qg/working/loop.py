"""Loop: one round after another on one session, and what comes next when something else happens than work."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from enum import Enum

import psycopg2

from qg.backoff import reconnect_pause
from qg.database.known_table import STALE
from qg.database.outage import Outage
from qg.database.paused import LOOK_SECONDS
from qg.database.session import Session
from qg.errors import ErrAgain, ErrClientClosed, ErrPooler, ErrRights
from qg.failures import one_line, printable
from qg.tables import Table
from qg.working.batch import LockLost, Unrecorded
from qg.working.engine import Engine
from qg.working.options import WorkOptions
from qg.working.sleepers import Sleepers
from qg.working.threads import WakeUp

__all__ = ["Loop", "Outcome"]

# An interval of 0 makes no hot loop.
_SHORTEST_SLEEP_SECONDS = 0.05


class Outcome(Enum):
    """How one round went. What comes next for each, :meth:`WorkLoop.run` says."""

    WORKED = "a job was worked, well or badly"
    IDLE = "no job was due"
    TURNED_AWAY = "enough other workers are taking jobs"
    PAUSED = "the queue is paused"
    MIGRATED = "the table is another one now"
    LOCK_LOST = "the session had lost its locks"
    UNRECORDED = "what became of a job couldn't be written"
    OUTAGE = "the database can't be reached, or doesn't let us work"
    FAULT = "something else went wrong, and that is no job's failure"
    REFUSED = "jobs can't be worked here: a pooler in between pools transactions, or rights are missing"
    CLOSED = "the client was closed"


class _SourceFailed(Exception):
    """The source gave no session, because of *cause*, which is none of psycopg2's."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Loop(ABC):
    """Rounds on one session: take jobs, and have them run and settled.

    Args:
        engine: of the client.
        options: which jobs to take, and how.
        outage: tells of outages, for all who share it.
        sleepers: where to sleep, together with all who share it.
        session: to work on at first; None leases one.
        requires_rights: whether to look at the role's rights first.

    Attributes:
        session: the one it works on; None when it has none.
        refused: why run() ended by itself; None if it was stopped, or the client closed.
        outcome: how the last round went; None while one is under way.
        turned_at: when that ended, as time.monotonic() counts.
    """

    def __init__(
        self,
        engine: Engine,
        options: WorkOptions,
        outage: Outage,
        sleepers: Sleepers,
        session: Session | None = None,
        *,
        requires_rights: bool = False,
    ) -> None:
        self._engine = engine
        self._database = engine.database
        self._options = options
        self._interval = max(options.interval, _SHORTEST_SLEEP_SECONDS)
        self._outage = outage
        self._sleepers = sleepers
        self.session = session
        self.refused: ErrPooler | ErrRights | None = None
        self._requires_rights = requires_rights
        # In how many seconds a job falls due, or the queue is to be looked at, as far as the last round knows.
        self._due: float | None = None
        # How many rounds in a row failed before they got a job.
        self._failures = 0
        self.outcome: Outcome | None = None
        self.turned_at = time.monotonic()
        self._stopping = False
        self._wake_up = WakeUp()

    def run(self) -> None:
        """Work jobs until stop() is called or the client is closed, and give the session back.

        Raises:
            BaseException: what ends the process; the session is closed then.
        """
        try:
            while not self._stopping:
                # A wake-up from here on may mean a job that this round doesn't see.
                calls = self._sleepers.calls
                self.outcome = None
                outcome = self.outcome = self._work_one_round()
                self.turned_at = time.monotonic()
                if outcome in (Outcome.CLOSED, Outcome.REFUSED):
                    break
                self._go_on_after(outcome, calls)
            self._end()
        except BaseException:
            self._close_session()
            raise
        finally:
            self.give_session_back()

    def stop(self) -> None:
        """Let the running job end, and begin no other. Safe in a signal handler."""
        self._stopping = True
        self._wake_up.give()

    def give_session_back(self) -> None:
        """Give the session back; for a loop that run() wasn't called for, too."""
        session, self.session = self.session, None
        if session is not None:
            session.give_back()

    def _work_one_round(self) -> Outcome:
        """Work, and return how that went, whatever happened."""
        table = self._database.table
        self._due = None
        try:
            self._engine.context.require_locks()
            self._database.require_open()
            return self._work_on(table)
        except ErrClientClosed:
            self._engine.logger.warning("worker_ends queue=%s: its client was closed", printable(self._options.queue))
            return Outcome.CLOSED
        except (ErrPooler, ErrRights) as error:
            self.refused = error
            self._engine.logger.error("worker_ends queue=%s: %s", printable(self._options.queue), one_line(error))
            return Outcome.REFUSED
        except ErrAgain as error:
            # Others settle the jobs faster than we can lock one, or none of them can be read.
            self._engine.logger.info("no_job queue=%s: %s", printable(self._options.queue), one_line(error))
            return Outcome.IDLE
        except LockLost:
            return Outcome.LOCK_LOST
        except Unrecorded:
            return Outcome.UNRECORDED
        except _SourceFailed as failed:
            self._outage.begin_for(self, failed.cause)
            return Outcome.OUTAGE
        except psycopg2.Error as error:
            if isinstance(error, STALE) and self._is_migrated(table):
                return Outcome.MIGRATED
            self._outage.begin_for(self, error)
            return Outcome.OUTAGE
        except Exception:  # a fault of ours, or of a class that the client was given
            self._engine.logger.exception("worker_failed queue=%s; it goes on", printable(self._options.queue))
            return Outcome.FAULT

    def _go_on_after(self, outcome: Outcome, calls: int) -> None:
        """Do what comes next after a round: nothing before the next one, or sleep first, or get rid of the session."""
        match outcome:
            case Outcome.WORKED:
                self._failures = 0
                self._end_outage()
            case Outcome.IDLE:
                self._failures = 0
                self._end_outage()
                if not self._stopping:
                    self._sleepers.sleep(self._wake_up, self._interval, self._due, calls)
            case Outcome.TURNED_AWAY:
                if not self._stopping:
                    self._sleepers.sleep(self._wake_up, self._interval, None, calls)
            case Outcome.PAUSED:
                self._failures = 0
                self._end_outage()
                if not self._stopping:
                    self._sleepers.sleep(self._wake_up, min(self._interval, LOOK_SECONDS), None, calls)
            case Outcome.MIGRATED:
                self._free_session()
            case Outcome.LOCK_LOST:
                self._close_session()
            case Outcome.UNRECORDED:
                self._end_outage()
                self._pause(self._interval)
            case Outcome.OUTAGE | Outcome.FAULT:
                self._leave_session()
                self._failures += 1
                self._pause(reconnect_pause(self._failures, self._options.interval))

    def _end_outage(self) -> None:
        if self._outage.end_for(self):
            self._database.call_watchers()

    def _pause(self, seconds: float) -> None:
        if not self._stopping:
            self._sleepers.pause(self._wake_up, seconds)

    @abstractmethod
    def _work_on(self, table: Table) -> Outcome:
        """Do the work of a round, on *table* as it is known. May raise what _work_one_round() has an outcome for."""

    @abstractmethod
    def _let_go(self) -> None:
        """Settle and unlock what the session holds, as far as that is possible. It is used no more, or for others."""

    @abstractmethod
    def _unlock_what_failed(self, session: Session) -> None:
        """Unlock what a statement that failed has locked on *session*."""

    def _end(self) -> None:
        """Finish what has begun, at the end of run()."""
        self._let_go()

    def _sound_session(self) -> Session:
        """Return the session; another one, if it has been lost as far as we can see."""
        if self.session is None or not self._is_sound(self.session):
            self._close_session()
            self.session = self._lease()
        return self.session

    def _is_sound(self, session: Session) -> bool:
        return session.alive

    def _is_paused(self, session: Session | None, table: Table) -> bool:
        """Whether the queue is paused, as somebody saw last; look first, on *session*, unless that is None."""
        paused = self._engine.paused
        if session is not None:
            paused.look(session, table)
        if not paused.has(self._options.queue, table):
            return False
        self._engine.logger.debug("queue_paused queue=%s", printable(self._options.queue))
        return True

    def _enlist(self, session: Session, table: Table) -> None:
        if session.enlisted_in is not table:
            self._engine.enlist(session, self._options.queue)

    def _lease(self) -> Session:
        try:
            if self._requires_rights:
                self._engine.require_rights()
                self._requires_rights = False
            return self._database.lease()
        except (ErrClientClosed, ErrPooler, ErrRights, psycopg2.Error):
            raise
        except Exception as error:  # of somebody's pool or callable
            raise _SourceFailed(error) from error

    def _is_migrated(self, table: Table) -> bool:
        """Whether a statement failed only because *table* was migrated; nothing is locked on the session then."""
        try:
            if not self._database.recheck(table, self.session):
                return False
        except psycopg2.Error:  # what the round met first is what counts
            return False
        version = self._database.table.version
        self._engine.logger.info("table_migrated queue=%s version=%d", printable(self._options.queue), version)
        return True

    def _free_session(self) -> None:
        """Let go of what a statement that failed has locked; keep the session if that can be."""
        try:
            self._let_go()
            if self.session is not None and self.session.idle:
                self._unlock_what_failed(self.session)
                self.session.prepare(self._database.table)
                return
        except psycopg2.Error:
            pass  # it is closed, which frees the locks
        self._close_session()

    def _leave_session(self) -> None:
        """Begin with another session after something failed on this one, or was left half done."""
        self._close_session()

    def _close_session(self) -> None:
        session, self.session = self.session, None
        try:
            self._let_go()
        finally:
            if session is not None:
                session.close_now()
