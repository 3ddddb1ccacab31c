"""WorkLoop: a worker's own loop: take a job, run it, settle it, again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qg.database.outage import Outage
from qg.database.session import Session
from qg.failures import printable
from qg.job import Job
from qg.locking.attempt import Attempt
from qg.tables import Table
from qg.tables.locking import UNLOCK_EVERYTHING
from qg.working.batch import Batch, Unrecorded
from qg.working.engine import Engine
from qg.working.loop import Loop, Outcome
from qg.working.options import WorkOptions
from qg.working.runner import Runner, complete_now
from qg.working.sleepers import Sleepers

__all__ = ["WorkLoop"]


class WorkLoop(Loop):
    """Works the jobs of one queue, one after another, on one session, in the thread that calls run().

    Args:
        engine: of the client.
        runner: runs the jobs.
        options: which jobs to take, and how.
        outage: tells of outages, for all who share it.
        sleepers: where to sleep, together with all who share it.
        session: to work on at first; None leases one.
        requires_rights: whether to look at the role's rights first.
    """

    def __init__(
        self,
        engine: Engine,
        runner: Runner,
        options: WorkOptions,
        outage: Outage,
        sleepers: Sleepers,
        session: Session | None = None,
        *,
        requires_rights: bool = False,
    ) -> None:
        super().__init__(engine, options, outage, sleepers, session, requires_rights=requires_rights)
        self._runner = runner
        self._batch: Batch | None = None

    def _work_on(self, table: Table) -> Outcome:
        if self._is_paused(self._session_to_look_on(), table):
            self._let_go()
            self._enlist(self._sound_session(), table)
            return Outcome.PAUSED
        batch = self._batch_to_take_from(table)
        try:
            outcome = self._work_next(batch, table)
        finally:
            self._runner.tell()  # of jobs that couldn't be deleted with others
        self._due = batch.seconds_until_next
        return outcome

    def _session_to_look_on(self) -> Session | None:
        """Return a session on which to look for pauses if it is time to; what has ended there is settled then.

        None while jobs wait that are locked already: their turn is short.
        """
        if not self._engine.paused.overdue:
            return None
        if self._batch is not None:
            if not self._batch.sends_next:
                return None
            batch = self._batch
            if self._is_used_up(batch):
                self._close_session()
            self._let_go()
            if batch.unrecorded:
                raise Unrecorded  # or the job would be taken again at once
        return self._sound_session()

    def _batch_to_take_from(self, table: Table) -> Batch:
        """Return the batch, on a session that is alive as far as we can see, and nobody else's."""
        if self._batch is not None and self._batch.sends_next and self._is_used_up(self._batch):
            self._close_session()
        if self._batch is None:
            types = partial(self._options.types, self._runner.work_map)
            self._batch = Batch(
                self._engine,
                self._sound_session(),
                self._options,
                types,
                settle=self._runner.settle,
                sleepers=self._sleepers,
            )
        self._enlist(self._batch.session, table)
        return self._batch

    def _is_used_up(self, batch: Batch) -> bool:
        """Whether another session is to take the place of the batch's, between two jobs."""
        session = batch.session
        return (
            session.expired
            or (batch.empty and not session.alive)
            or self._engine.is_kept_by_handler(session, self._options.queue, has_failed=self._runner.has_failed)
        )

    def _work_next(self, batch: Batch, table: Table) -> Outcome:
        """Work the next job, in the way that is possible on this database."""
        complete: Callable[[Job, Attempt], bool]
        if not (batch.empty and self._engine.rows.takes_plainly(batch.session)):
            job, complete = batch.next(table), batch.complete
        else:
            batch.seconds_until_next = None
            job, complete = self._take_plainly(batch.session, table), complete_now
        if job is None and batch.turned_away:
            return Outcome.TURNED_AWAY
        if job is None:
            self._engine.logger.debug("no_job queue=%s", printable(self._options.queue))
            return Outcome.IDLE
        if batch.more:
            batch.more = False
            if not self._sleepers.turns.crowded:
                self._sleepers.wake(1)
        return Outcome.WORKED if self._runner.run(job, complete) else Outcome.UNRECORDED

    def _take_plainly(self, session: Session, table: Table) -> Job | None:
        session.make_ready_for_handler()
        types = self._options.types(self._runner.work_map)
        return self._engine.jobs.take_plainly(
            session, table, self._options.queue, self._options.poll_strategy, types, lent=True
        )

    def _let_go(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.end()
        self._runner.tell()

    def _unlock_what_failed(self, session: Session) -> None:
        session.run(UNLOCK_EVERYTHING)
