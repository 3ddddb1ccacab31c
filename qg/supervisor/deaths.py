"""Deaths: jobs that ran in a process which died get that as their error, so that they back off like any other."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial

import psycopg2

from qg.client import engine_of
from qg.control.listing import find_by_ids
from qg.control.records import State
from qg.database.session import Session
from qg.failures import PlainFailure, one_line
from qg.locking.context import LockContext
from qg.locking.row_lock import RowLock, lock_anew
from qg.supervisor.running_jobs import RunningJob
from qg.supervisor.seats import Seats
from qg.supervisor.targets import Target
from qg.tables import Row, Table
from qg.tables.locking import END_HOLDER
from qg.working.runner import Runner, complete_now

__all__ = ["record_deaths"]

_logger = logging.getLogger("qg")


def record_deaths(
    targets: Sequence[Target], oversight: Sequence[Seats], dead: Sequence[RunningJob], cause: str, died_at: float
) -> None:
    """Record *cause* as the error of each job that ran when a process died, under its lock, which is taken for that.

    The delay until the next try, and whether there is one, is that of the client and its handlers; on_error and
    on_expired hear of it. A job that somebody else has by now is left to them, and so is one that isn't due any more,
    or has another number of failures, since somebody has worked it. What else goes wrong with a job is logged, and the
    others are recorded all the same.

    Args:
        targets: what the process works.
        oversight: who oversees each of them.
        dead: the jobs, and for which of the targets they ran.
        cause: the error.
        died_at: when it was, by time.monotonic().

    Raises:
        psycopg2.OperationalError: if the database can't be reached. Those that are recorded by then stay so.
    """
    for number, (target, overseer) in enumerate(zip(targets, oversight, strict=True)):
        runner = Runner(target.work_map, target.client.logger, target.hooks)
        runner.seat = overseer.unseen
        for job in dead:
            if job.target == number:
                _record_or_say_why_not(target, runner, job, cause, died_at)


def _record_or_say_why_not(target: Target, runner: Runner, dead: RunningJob, cause: str, died_at: float) -> None:
    try:
        _record(target, runner, dead, cause, died_at)
    except psycopg2.OperationalError:
        raise
    except Exception as error:  # the job is free, and will be worked again
        _logger.error("death_unrecorded id=%d: %s", dead.id, one_line(error), exc_info=error)


def _record(target: Target, runner: Runner, dead: RunningJob, cause: str, died_at: float) -> None:
    engine = engine_of(target.client)
    session = engine.database.lease()
    try:
        lock = _lock(session, dead, engine.context, died_at)
        row = None
        if lock is not None:
            row = engine.database.on_table(session, partial(_due_row, session, dead))
            job = None if row is None else engine.jobs.read(row, lock)
            if job is None:
                lock.release()
            else:
                target.follow(job)
                runner.conclude(job, complete_now, PlainFailure(cause), 0.0)
        if row is None:
            _logger.info("death_unrecorded id=%d: somebody else has it by now, or has worked it", dead.id)
    except BaseException:
        session.close_now()
        raise
    session.give_back()


def _lock(session: Session, dead: RunningJob, context: LockContext, died_at: float) -> RowLock | None:
    """Lock the job, even if the server hasn't noticed yet that the process is gone, since it is in a long statement."""
    lock = lock_anew(session, dead.id, context, lent=True)
    seconds = time.monotonic() - died_at
    if lock is None and dead.backend and session.run(END_HOLDER, (dead.id, dead.backend, seconds)):
        lock = lock_anew(session, dead.id, context, lent=True)
    return lock


def _due_row(session: Session, dead: RunningJob, table: Table) -> Row | None:
    """Return the row of the job, if it is there to be worked, and hasn't failed since."""
    for seen in find_by_ids(session, table, [dead.id]):
        is_due = seen.due and seen.state in (State.READY, State.FAILING)
        if is_due and seen.row.error_count == dead.error_count:
            return seen.row
    return None
