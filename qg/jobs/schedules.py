"""Schedules in the database: every process fires the ones it declares, and each tick fires once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg2

from qg.client import Client
from qg.job import Job
from qg.jobs.queue import Schedule
from qg.jobs.tables import (
    ADVANCE_SCHEDULE,
    CLOCK,
    FIND_SCHEDULE,
    INSERT_SCHEDULE,
    INSERT_TICK,
    LOCK_DUE_SCHEDULE,
    NOTE_JOB_OF_TICK,
    SECONDS_UNTIL_TICKS,
)
from qg.jobs.telemetry import Telemetry
from qg.session import Session
from qg.tables import iso_text, timestamp

__all__ = ["Schedules"]

# Somebody else is firing the schedule; they may fail.
_LOOK_AGAIN_SECONDS = 0.5
# A row may be changed or removed by hand.
_LONGEST_SECONDS = 30.0


class Schedules:
    """The schedules of one queue that this process declares.

    There is no leader. The row of a schedule has the time of its next tick; whoever finds that due
    locks the row, and records the tick, enqueues the job and advances the row in one transaction.
    What the machine's clock says doesn't matter, only the database's.

    Args:
        client: enqueues the jobs.
        queue: the queue's name.
        job_of: makes the job of one tick.
        telemetry: is told of the jobs.
    """

    def __init__(self, client: Client, queue: str, job_of: Callable[[Schedule], Job], telemetry: Telemetry) -> None:
        self._client = client
        self._queue = queue
        self._job_of = job_of
        self._telemetry = telemetry
        self._mutex = threading.RLock()
        self._declared: dict[int, Schedule] = {}

    def declare(self, schedule: Schedule) -> None:
        """Let *schedule* fire from now on, when tick() is called. Each statement is committed by itself."""
        with self._client._session() as session:
            number = self._find_or_insert(session, schedule)
        with self._mutex:
            self._declared[number] = schedule

    def tick(self) -> float | None:
        """Enqueue the job of each schedule that is due; return in how many seconds to come again.

        One transaction for each: one that fails is no reason not to fire the others.
        """
        with self._client._session() as session:
            failure: Exception | None = None
            for number in [number for number, wait in self._waits(session).items() if wait <= 0]:
                try:
                    self._fire(session, number, self._declared[number])
                except Exception as error:  # of whatever kind; it is raised below
                    failure = error
                    with suppress(psycopg2.Error):
                        session.rollback()
                    if not session.idle:
                        break
            if failure is not None:
                raise failure
            waits = self._waits(session)
        if not waits:
            return None
        # Those that are due still are in the hands of somebody else.
        return min(wait if wait > 0 else _LOOK_AGAIN_SECONDS for wait in (*waits.values(), _LONGEST_SECONDS))

    def _waits(self, session: Session) -> dict[int, float]:
        """Return in how many seconds the next tick of each schedule is due."""
        with self._mutex:
            numbers = list(self._declared)
        waits = dict(session.run(SECONDS_UNTIL_TICKS, (numbers,))) if numbers else {}
        for number in [number for number in numbers if number not in waits]:  # somebody has removed its row
            anew = self._find_or_insert(session, self._declared[number])
            with self._mutex:
                self._declared[anew] = self._declared.pop(number)
            waits[anew] = _LOOK_AGAIN_SECONDS
        return waits

    def _find_or_insert(self, session: Session, schedule: Schedule) -> int:
        key = (self._queue, schedule.cron.spec, schedule.takes.name, schedule.key)
        known = session.run(FIND_SCHEDULE, key)
        if not known:
            ((text,),) = session.run(CLOCK)
            now = timestamp(text).replace(microsecond=0)
            session.run(INSERT_SCHEDULE, (*key, iso_text(schedule.cron.after(now, now))))
            known = session.run(FIND_SCHEDULE, key)
        ((number,),) = known
        return int(number)

    def _fire(self, session: Session, number: int, schedule: Schedule) -> None:
        session.tidy()
        job: Job | None = None
        due = session.run_in_transaction(LOCK_DUE_SCHEDULE, (number,))
        if due:
            ((tick_at, now),) = due
            # The row says that this tick is due; that it has fired already says the table of ticks.
            if session.run_in_transaction(INSERT_TICK, (number, tick_at)):
                with self._telemetry.enqueuing():
                    job = self._client.enqueue_in_tx(self._job_of(schedule), session.conn)
                session.run_in_transaction(NOTE_JOB_OF_TICK, (job.id, number, tick_at))
            following = schedule.cron.after(timestamp(tick_at), timestamp(now))
            session.run_in_transaction(ADVANCE_SCHEDULE, (tick_at, iso_text(following), number))
        session.commit()
        if job is not None:
            self._telemetry.count_enqueued([job.type], success=True)
