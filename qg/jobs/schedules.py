"""Schedules in the database: every process fires the ones it declares, and each tick fires once."""

from __future__ import annotations

import threading
from contextlib import suppress

import psycopg2

from qg.client import Client, engine_of
from qg.database.rights import require_rights
from qg.database.session import Session
from qg.job import Job
from qg.jobs.drafts import Schedule
from qg.jobs.tables import JobsTables
from qg.jobs.telemetry import Telemetry
from qg.tables import iso_text, timestamp

__all__ = ["Schedules"]

# A due schedule that another process is firing is looked at again so soon: that process may fail.
_RECHECK_SECONDS = 0.5
# Somebody may change or remove a row by hand, so all are looked at again after so long.
_LONGEST_SECONDS = 30.0


class Schedules:
    """The schedules of one queue that this process declares.

    There is no leader. The row of a schedule has the time of its next tick. A process that finds the
    tick due locks the row; it records the tick, enqueues the job and advances the row in one
    transaction. Only the database's clock counts, not the machine's.

    Args:
        client: enqueues the jobs.
        tables: where the schedules are.
        queue: the queue's name.
        telemetry: is told of the jobs.
    """

    def __init__(self, client: Client, tables: JobsTables, queue: str, telemetry: Telemetry) -> None:
        self._client = client
        self._tables = tables
        self._queue = queue
        self._telemetry = telemetry
        self._mutex = threading.RLock()
        self._declared: dict[int, Schedule] = {}
        self._has_rights = False

    def declare(self, schedule: Schedule) -> None:
        """Let *schedule* fire from now on, when tick() is called. Each statement is committed by itself.

        Raises:
            ErrRights: if the role may not do what firing takes. That is looked at until it may, once.
            psycopg2.Error: if the database fails.
        """
        with engine_of(self._client).database.session() as session:
            if not self._has_rights:
                require_rights(session, self._tables.rights_to_schedule, "no schedule could fire")
                self._has_rights = True
            number = self._find_or_insert(session, schedule)
        with self._mutex:
            self._declared[number] = schedule

    def tick(self) -> float | None:
        """Enqueue the job of each schedule that is due; return in how many seconds to come again.

        One transaction for each: one that fails is no reason not to fire the others.
        """
        with engine_of(self._client).database.session() as session:
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
        # What is still due is locked by another process.
        return min(wait if wait > 0 else _RECHECK_SECONDS for wait in (*waits.values(), _LONGEST_SECONDS))

    def _waits(self, session: Session) -> dict[int, float]:
        """Return in how many seconds the next tick of each schedule is due."""
        with self._mutex:
            numbers = list(self._declared)
        waits = dict(session.run(self._tables.seconds_until_ticks, (numbers,))) if numbers else {}
        for number in [number for number in numbers if number not in waits]:  # somebody has removed its row
            anew = self._find_or_insert(session, self._declared[number])
            with self._mutex:
                self._declared[anew] = self._declared.pop(number)
            waits[anew] = _RECHECK_SECONDS
        return waits

    def _find_or_insert(self, session: Session, schedule: Schedule) -> int:
        key = (self._queue, schedule.cron.spec, schedule.takes.name, schedule.key)
        known = session.run(self._tables.find_schedule, key)
        if not known:
            ((text,),) = session.run(self._tables.clock)
            now = timestamp(text).replace(microsecond=0)
            session.run(self._tables.insert_schedule, (*key, iso_text(schedule.cron.after(now, now))))
            known = session.run(self._tables.find_schedule, key)
        ((number,),) = known
        return int(number)

    def _fire(self, session: Session, number: int, schedule: Schedule) -> None:
        session.make_ready_for_handler()
        job: Job | None = None
        due = session.run_in_transaction(self._tables.lock_due_schedule, (number,))
        if due:
            ((tick_at, now),) = due
            # The row says that this tick is due. The table of ticks says whether it has fired already.
            if session.run_in_transaction(self._tables.insert_tick, (number, tick_at)):
                with self._telemetry.enqueuing():
                    job = self._client.enqueue_in_tx(schedule.job(self._queue), session.conn)
                session.run_in_transaction(self._tables.note_job_of_tick, (job.id, number, tick_at))
            following = schedule.cron.after(timestamp(tick_at), timestamp(now))
            session.run_in_transaction(self._tables.advance_schedule, (tick_at, iso_text(following), number))
        session.commit()
        if job is not None:
            self._telemetry.count_enqueued([job.type], success=True)
