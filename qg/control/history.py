"""What the tables of qg.jobs tell, if they are there: attempts, schedules, pools."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from qg.control.records import Attempt
from qg.control.sessions import instant
from qg.control.standing import PoolView, ScheduleView
from qg.database.session import Session
from qg.errors import ErrTable
from qg.tables import Table, timestamp
from qg.tables.history import HISTORY_SCHEMA, History, history_in
from qg.tables.table import GREATEST_ID

__all__ = ["find_attempts", "find_attempts_of", "find_history", "find_pools", "find_schedules", "require_history"]

_READ = 10_000
_OF_ONE_JOB = 100


def find_history(session: Session, table: Table) -> History | None:
    """Return what there is beside *table*, or in the search_path; None if nothing. One message."""
    rows = session.run(HISTORY_SCHEMA, (table.schema,))
    return history_in(rows[0][0]) if rows else None


def require_history(session: Session, table: Table) -> History:
    """Do as find_history(), but raise ErrTable if there is nothing."""
    history = find_history(session, table)
    if history is None:
        raise ErrTable(
            "there are no tables of qg.jobs beside the que_jobs table, nor in this connection's search_path; "
            "qg.jobs.migrate(source) makes them, and jobs of qg.jobs fill them"
        )
    return history


def find_attempts_of(session: Session, history: History, job: int) -> tuple[Attempt, ...]:
    """Return the last attempts of the job with this id, the last one first. One message."""
    return tuple(map(_attempt, session.run(history.of_job, (job, _OF_ONE_JOB))))


def find_attempts(
    session: Session,
    history: History,
    *,
    type: str | None,  # noqa: A002 - what everybody calls it
    queue: str | None,
    success: bool | None,
    before: int | None,
    limit: int,
) -> tuple[list[Attempt], int | None]:
    """Return attempts, the last one first, and before which one the list goes on; None at its end. One message."""
    first = GREATEST_ID if before is None else before
    rows = session.run(history.attempts, (first, _READ, type, queue, success, first, limit))
    found = [_attempt(row[:11]) for row in rows if row[0] is not None]
    *_, end, number = rows[0]
    if len(found) == limit:
        return found, found[-1].id
    return found, end if number == _READ else None


def find_schedules(session: Session, history: History) -> list[ScheduleView]:
    """Return the schedules. One message."""
    return [
        ScheduleView(queue, spec, job_type, args, instant(last), timestamp(following))
        for queue, spec, job_type, args, last, following in session.run(history.schedules)
    ]


def find_pools(session: Session, history: History) -> list[PoolView]:
    """Return the pools that were heard of within the last day or so. One message."""
    return [
        PoolView(name, queue, workers, version, tuple(types), timestamp(since), timedelta(seconds=silent))
        for name, queue, workers, version, types, since, silent in session.run(history.pools)
    ]


def _attempt(row: Sequence[Any]) -> Attempt:
    number, job, job_type, queue, priority, failures, success, error, started, finished, args = row
    return Attempt(
        number,
        job,
        job_type,
        queue,
        priority,
        failures,
        success,
        error,
        timestamp(started),
        timestamp(finished),
        args,
    )
