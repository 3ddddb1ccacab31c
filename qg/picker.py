"""Picker: locks the next job on a session, and makes a Job of its row."""

from __future__ import annotations

from collections.abc import Sequence

from qg.errors import ErrAgain
from qg.failures import describe
from qg.fields import decode
from qg.job import Job
from qg.locks import LockContext, LockedRow
from qg.session import Session
from qg.tables import PollStrategy, Row
from qg.tables.locking import UNLOCK_JOB
from qg.taking import Taker

__all__ = ["MAX_LOCK_ATTEMPTS", "Picker"]

# As in Go: so many jobs in a row that were locked in vain, and lock_job gives up.
MAX_LOCK_ATTEMPTS = 10


class Picker:
    """Locks jobs for one client. Safe to use from any thread."""

    def __init__(self, taker: Taker, context: LockContext, job_class: type[Job]) -> None:
        self._taker = taker
        self._context = context
        self._job_class = job_class

    def pick(self, session: Session, queue: str) -> Job | None:
        """Lock the next due job of *queue* in the shortest way; after an exception only discard() is safe."""
        for _ in range(MAX_LOCK_ATTEMPTS):
            taken = self._taker.take(session, queue)
            if taken is not None and taken.at_marks and not taken.rows:
                taken = self._taker.take(session, queue, anew=True)
            if taken is None:
                return self.pick_plainly(session, queue, lent=False)
            if not taken.rows:
                return None
            job = self.read(LockedRow(session, taken.rows[0], self._context))
            if job is not None:
                return job
        raise ErrAgain(f"{MAX_LOCK_ATTEMPTS} jobs of queue {queue!r} in a row were unreadable; call again")

    def pick_plainly(
        self,
        session: Session,
        queue: str,
        order: PollStrategy = PollStrategy.PRIORITY,
        types: Sequence[str] | None = None,
        *,
        lent: bool,
    ) -> Job | None:
        """Lock the next due job of *queue*, a statement a step; after an exception only discard() is safe."""
        table = self._context.table
        lock_job = table.lock_job_in(order, types)
        name = table.queue_name(queue)
        for _ in range(MAX_LOCK_ATTEMPTS):
            rows = session.run(lock_job, (name,) if types is None else (list(types), name))
            if not rows:
                return None
            row = Row.read(rows[0][0])
            # The lock statement saw the table as it was when it began. If the job was being worked
            # then, and finished just before we tried its lock, we hold the lock of a job that is
            # gone or not due again yet. A new statement sees that.
            if not session.run(table.check_job, row.key):
                session.run(UNLOCK_JOB, (row.id,))
                continue
            job = self.read(LockedRow(session, row, self._context, lent=lent))
            if job is not None:
                return job
        raise ErrAgain(
            f"{MAX_LOCK_ATTEMPTS} jobs of queue {queue!r} in a row were finished by others, or unreadable, "
            "when they were locked; call again"
        )

    def read(self, locked: LockedRow) -> Job | None:
        """Return the job that is *locked*; None if it can't be made, which is recorded, and the lock gone."""
        row = locked.row
        try:
            job = self._job_class(row.type, decode(row.args), row.queue, row.priority, row.due)
            if row.kwargs != "{}" or row.tags != "[]":
                job.kwargs, job.tags = decode(row.kwargs), decode(row.tags)
        except Exception as error:  # JSON beyond Python, or a job_class that refuses: this job's error
            self._context.logger.exception("job_unreadable id=%d type=%s", row.id, row.type)
            locked.set_error(describe(error))
            locked.session.run(UNLOCK_JOB, (row.id,))
            return None
        job._bind(locked)
        return job
