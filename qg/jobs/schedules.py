"""Schedules in the database: every process fires the ones it declares, and each tick fires once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

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
    """

    def __init__(self, client: Client, queue: str, job_of: Callable[[Schedule], Job]) -> None:
        self._client = client
        self._queue = queue
        self._job_of = job_of
        self._mutex = threading.RLock()
        self._declared: dict[int, Schedule] = {}

    def declare(self, schedule: Schedule) -> None:
        """Let *schedule* fire from now on, when tick() is called. One transaction."""
        with self._client._session() as session:
            number = self._find_or_insert(session, schedule)
        with self._mutex:
            self._declared[number] = schedule

    def tick(self) -> float | None:
        """Enqueue the job of each schedule that is due; return in how many seconds to come again.

        One transaction for each.
        """
        with self._mutex:
            declared = dict(self._declared)
        if not declared:
            return None
        with self._client._session() as session:
            waits = self._waits(session, declared)
            for number in [number for number, wait in waits.items() if wait <= 0]:
                self._fire(session, number, declared[number])
            waits = self._waits(session, declared)
        # Those that are due still are in the hands of somebody else.
        return min(wait if wait > 0 else _LOOK_AGAIN_SECONDS for wait in (*waits.values(), _LONGEST_SECONDS))

    def _waits(self, session: Session, declared: dict[int, Schedule]) -> dict[int, float]:
        waits = dict(session.run(SECONDS_UNTIL_TICKS, (list(declared),)))
        for number in declared.keys() - waits.keys():  # somebody has removed its row
            with self._mutex:
                self._declared.pop(number, None)
                self._declared[self._find_or_insert(session, declared[number])] = declared[number]
        return waits

    def _find_or_insert(self, session: Session, schedule: Schedule) -> int:
        key = (self._queue, schedule.cron.spec, schedule.takes.name, json.dumps(schedule.document))
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
        due = session.run_in_transaction(LOCK_DUE_SCHEDULE, (number,))
        if due:
            ((tick_at, now),) = due
            # The row says that this tick is due; that it has fired already says the table of ticks.
            if session.run_in_transaction(INSERT_TICK, (number, tick_at)):
                job = self._client.enqueue_in_tx(self._job_of(schedule), session.conn)
                session.run_in_transaction(NOTE_JOB_OF_TICK, (job.id, number, tick_at))
            following = schedule.cron.after(timestamp(tick_at), timestamp(now))
            session.run_in_transaction(ADVANCE_SCHEDULE, (tick_at, iso_text(following), number))
        session.commit()
