"""AtOnce: jobs that run inside enqueue(), for development. No worker, no row, the same handlers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import cast

from qg.database.foreign import Conner, queryer_in, rows_in
from qg.database.session import Session
from qg.enqueuing.fields import decode
from qg.failures import Logger, PlainFailure, first_line, printable
from qg.job import Job, attempt_of
from qg.locking.attempt import InjectedAttempt, State
from qg.retries import policy_of
from qg.tables import Draft, Row, Table, iso_text
from qg.testing import inject_job_conn, inject_job_tx
from qg.verdicts import Discard, Reschedule
from qg.working.handlers import WorkMap, call_handler
from qg.working.hooks import Ending, Hooks

__all__ = ["AtOnce"]


class AtOnce:
    """Runs a job as a worker would, but here and now; Ruby Que has it as its mode ``:sync``.

    The handler gets what it would get from the table: arguments that went through JSON, and a
    connection. What it raises passes to the caller of enqueue(), and nothing is stored. Hooks are told what a worker
    would tell them after a first failure.
    """

    def __init__(self, work_map: WorkMap, job_class: type[Job], logger: Logger, hooks: Hooks) -> None:
        self._work_map = work_map
        self._job_class = job_class
        self._logger = logger
        self._hooks = hooks

    def run(self, draft: Draft, session: Session, table: Table) -> Row | None:
        """Run the job in a transaction of *session*, committed when the handler returns.

        Returns:
            None, or the row of a job that its handler rescheduled and that is stored therefore.
        """
        job = inject_job_conn(inject_job_tx(self._job_of(draft), session.conn), session.conn)
        ending: Ending | None = None
        try:
            call_handler(self._work_map, job, self._hooks.middleware)
            ending = _ending_by_handler(job)
            if ending is not None:
                self._logger.error("job_failed type=%s: its handler called error() or expire()", printable(job.type))
            elif session.in_transaction:
                session.commit()
        except Discard as verdict:
            self._log_discarded(job, verdict)
        except Reschedule as verdict:
            if session.in_transaction:
                session.rollback()
            return Row.read(session.run(table.insert_job, _at(verdict, draft)[: table.width])[0][0])
        except BaseException as error:
            ending = _ending_after(job, error)
            raise
        finally:
            job.done()
            if session.in_transaction:
                session.rollback()
            self._tell(ending)
            ending = None
        return None

    def run_in_tx(self, draft: Draft, tx: object, table: Table) -> Row | None:
        """Run the job within the caller's transaction, which is neither committed nor rolled back.

        Returns:
            As run(). What the handler wrote before it discarded or rescheduled the job stays in
            *tx*, since only the caller can roll that back.
        """
        queryer = queryer_in(tx)
        job = inject_job_conn(inject_job_tx(self._job_of(draft), queryer), cast("Conner", queryer))
        ending: Ending | None = None
        try:
            call_handler(self._work_map, job, self._hooks.middleware)
            ending = _ending_by_handler(job)
        except Discard as verdict:
            self._log_discarded(job, verdict)
        except Reschedule as verdict:
            return Row.read(rows_in(tx, table.insert_job, _at(verdict, draft)[: table.width])[0][0])
        except BaseException as error:
            ending = _ending_after(job, error)
            raise
        finally:
            job.done()
            self._tell(ending)
            ending = None
        return None

    def _job_of(self, draft: Draft) -> Job:
        args = decode(draft.args)
        job = self._job_class(draft.type, args, draft.queue, draft.priority, datetime.now(timezone.utc))
        if draft.kwargs != "{}" or draft.tags != "[]":
            job.kwargs, job.tags = decode(draft.kwargs), decode(draft.tags)
        return job

    def _tell(self, ending: Ending | None) -> None:
        if ending is not None:
            self._hooks.tell(ending, self._logger)

    def _log_discarded(self, job: Job, verdict: Discard) -> None:
        self._logger.warning("job_discarded type=%s reason=%s", printable(job.type), printable(verdict.reason))


def _ending_by_handler(job: Job) -> Ending | None:
    """Return how *job* has ended if its handler has returned, and has called error() or expire() before."""
    attempt = attempt_of(job)
    if not isinstance(attempt, InjectedAttempt) or attempt.state not in (State.FAILED, State.EXPIRED):
        return None
    if attempt.state is State.EXPIRED:
        return Ending(job, None, given_up=True)
    return _ending_after(job, PlainFailure(first_line(attempt.message)))


def _ending_after(job: Job, error: BaseException) -> Ending | None:
    """Return how *job* has ended whose handler has raised *error*; None if that interrupted it."""
    if not isinstance(error, Exception):
        return None
    attempt = attempt_of(job)
    policy = None if attempt is None else policy_of(attempt.handler)
    return Ending(job, error, given_up=policy is not None and policy.gives_up(error, 1))


def _at(verdict: Reschedule, draft: Draft) -> Draft:
    at = verdict.at or datetime.now(timezone.utc) + timedelta(seconds=verdict.after or 0)
    return draft._replace(run_at=iso_text(at))
