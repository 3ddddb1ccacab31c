"""Locker: a loop that locks jobs on one session, for the hands of its crew."""

from __future__ import annotations

import time
from typing import Protocol

import psycopg2

from qg.database.outage import Outage
from qg.database.session import Session
from qg.failures import printable
from qg.locking.row_taker import Search
from qg.tables import Table
from qg.working.batch import LockLost, Unrecorded
from qg.working.crew import Crew
from qg.working.engine import Engine
from qg.working.loop import Loop, Outcome
from qg.working.options import WorkOptions
from qg.working.runner import Runner
from qg.working.sleepers import Sleepers
from qg.working.transactions import Transactions

__all__ = ["CrewHands", "Locker"]

# Where jobs wait that are quick: how long one hand may have for them before others are called.
_HEAD_START_SECONDS = 0.002
# How often it is looked whether jobs wait for too long.
_LOOK_SECONDS = 0.03
# How long to wait, once a job has ended, for others that end at about the same time.
_GATHER_SECONDS = 0.001


class CrewHands(Protocol):
    """What runs the jobs of a crew, several at once. Safe to use from any thread.

    Attributes:
        size: how many at once.
        reporter: says in the log what has become of jobs that are settled together.
        crew: where the jobs come from.
    """

    size: int
    reporter: Runner
    crew: Crew

    def wake(self, count: int) -> None:
        """Have *count* jobs taken from the crew, as far as there are hands for so many."""

    def wake_settler(self) -> None:
        """Have Crew.settle_apart() called, in one thread, until it returns False. Waits for nothing."""

    def dismiss(self) -> None:
        """Expect no more jobs: none is left."""


class Locker(Loop):
    """Takes jobs for hands, and settles together what they have ended.

    Args:
        engine: of the client.
        options: which jobs to take, and how.
        outage: tells of outages, for all who share it.
        sleepers: where to sleep, together with all who share it.
        session: to lock on at first; None leases one.
        hands: they run the jobs; dismissed when all is settled.
        transactions: lends sessions to jobs that need one of their own.
    """

    def __init__(
        self,
        engine: Engine,
        options: WorkOptions,
        outage: Outage,
        sleepers: Sleepers,
        session: Session | None,
        hands: CrewHands,
        transactions: Transactions,
    ) -> None:
        super().__init__(engine, options, outage, sleepers, session)
        self._hands = hands
        self._crew = hands.crew = Crew(
            engine,
            self._search,
            hands.size,
            transactions,
            hands.reporter,
            wake_locker=self._wake_up.give,
            wake_hands=hands.wake,
            wake_settler=hands.wake_settler,
        )
        # Sessions that are too old, and are closed when the last job that they hold has ended.
        self._old: list[Session] = []

    def _work_on(self, table: Table) -> Outcome:
        self._wait_for_hands()
        if self._stopping:
            return Outcome.WORKED
        self._replace_if_old()
        session = self._sound_session()
        self._enlist(session, table)
        if self._is_paused(session if self._engine.paused.overdue else None, table):
            self._settle()
            return Outcome.PAUSED
        if self._crew.take_unrecorded():
            self._settle()
            raise Unrecorded  # or the job would be taken again at once
        return self._take(session, table)

    def _wait_for_hands(self) -> None:
        """Return when a hand is free, or enough of them have ended something, or something has waited too long."""
        crew = self._crew
        seconds = _HEAD_START_SECONDS
        while not (crew.told or crew.free > 0 or crew.waits_long or self._stopping):
            self._wake_up.wait(seconds if crew.waiting else None)
            crew.call_hands()
            seconds = _LOOK_SECONDS
        if crew.told and crew.runs_several:
            time.sleep(_GATHER_SECONDS)
        self._wake_up.forget()  # whatever it was for, this round sees to it

    def _search(self) -> Search:
        options = self._options
        return Search(options.queue, options.poll_strategy, options.types(self._hands.reporter.work_map))

    def _take(self, session: Session, table: Table) -> Outcome:
        crew = self._crew
        if self._engine.rows.takes_plainly(session):
            return self._take_plainly(session, table)
        gives_back = crew.waits_long
        try:
            taken = crew.exchange(session, table)
        except psycopg2.errors.ReadOnlySqlTransaction:
            self._close_session()  # another one may lead to a server that can write
            raise
        if gives_back:
            self._sleepers.wake(1)  # somebody who is free
        if taken is None:
            return Outcome.WORKED
        if taken.more:
            self._sleepers.wake(1)
        if crew.free > 0 and not taken.more:
            return self._idle(taken.seconds_until_next)
        return Outcome.WORKED

    def _take_plainly(self, session: Session, table: Table) -> Outcome:
        self._crew.exchange(session, table, takes=False)
        if self._crew.free <= 0 or self._crew.take_plainly(table, self._options.queue):
            return Outcome.WORKED
        return self._idle(None)

    def _idle(self, due: float | None) -> Outcome:
        """Sleep next: until a job is due, or enqueued, or a hand has ended something."""
        if self._crew.waiting:
            self._wake_up.wait(_HEAD_START_SECONDS)
            self._crew.call_hands()
        if self._crew.told:  # that may have been the wake-up
            return Outcome.WORKED
        self._due = due
        self._engine.logger.debug("no_job queue=%s", printable(self._options.queue))
        return Outcome.IDLE

    def _is_sound(self, session: Session) -> bool:
        # What has arrived may be no more than a notice, and to close it would cost all running jobs their locks.
        return session.idle and not session.lost_lately

    def _replace_if_old(self) -> None:
        if self.session is not None and self.session.expired:
            self._old.append(self.session)
            self.session = None
        for session in list(self._old):
            self._settle_on(session)
            if not self._crew.holds(session):
                self._old.remove(session)
                session.close_now()

    def _pause(self, seconds: float) -> None:
        """Take nothing for *seconds*, and settle what ends meanwhile; without a session, later."""
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._sleepers.pause(self._wake_up, left)
            if self._crew.told and self.session is not None:
                self._settle()

    def _settle(self) -> None:
        """Settle what has ended, and take nothing."""
        for session in self._old if self.session is None else [*self._old, self.session]:
            self._settle_on(session)
        self._crew.exchange(None, self._database.table, takes=False)

    def _settle_on(self, session: Session) -> None:
        """Settle what has ended and *session* holds, and give back what waits; if that fails, the settler has it."""
        try:
            self._crew.exchange(session, self._database.table, takes=False)
        except (psycopg2.Error, LockLost):
            session.close_now()

    def _let_go(self) -> None:
        """Let what waits go. What runs goes on, and is settled when it has ended."""
        self._crew.drop_waiting()

    def _unlock_what_failed(self, session: Session) -> None:
        self._crew.unlock_others(session)

    def _leave_session(self) -> None:
        """Keep the session as long as it works, and jobs run under its locks."""
        if self.session is not None and self._crew.holds(self.session):
            self._free_session()
        else:
            self._close_session()

    def _end(self) -> None:
        """Wait until all that runs has ended, and settle it."""
        self._settle()
        while not self._crew.idle:
            self._wake_up.wait(None)
            self._settle()
        self._hands.dismiss()
        for session in self._old:
            session.close_now()
