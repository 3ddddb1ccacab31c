"""JobTaker: locks the next job on a session, and makes a Job of its row."""

from __future__ import annotations

import psycopg2

from qg.database.known_table import STALE
from qg.database.session import Session
from qg.enqueuing.fields import decode
from qg.errors import ErrAgain
from qg.failures import describe, printable
from qg.job import Job, bind
from qg.locking.attempt import Attempt
from qg.locking.context import LockContext
from qg.locking.locked_row import LockedRow
from qg.locking.row_lock import RowLock
from qg.locking.row_taker import Search
from qg.tables import PollStrategy, Row, Table
from qg.tables.locking import UNLOCK_EVERYTHING, UNLOCK_JOB

__all__ = ["MAX_LOCK_ATTEMPTS", "JobTaker"]

# As in Go: so many jobs in a row that were locked in vain, and lock_job gives up.
MAX_LOCK_ATTEMPTS = 10


class JobTaker:
    """Locks jobs for one client. Safe to use from any thread.

    After an exception the session that jobs are taken on may hold a lock; only closing it is safe. The
    exception to that is one of STALE, after which it holds none.
    """

    def __init__(self, context: LockContext, job_class: type[Job]) -> None:
        self._context = context
        self._job_class = job_class

    def take(self, session: Session, table: Table, queue: str) -> Job | None:
        """Lock the next due job of *queue* in the shortest way; the session goes back with the job's lock.

        Raises:
            ErrAgain: if ten jobs in a row couldn't be read, or were settled by others meanwhile.
            psycopg2.Error: if the database fails.
        """
        rows, search = self._context.rows, Search(queue)
        try:
            for _ in range(MAX_LOCK_ATTEMPTS):
                taken = rows.take(session, table, search)
                if taken is not None and taken.at_marks and not taken.rows:
                    taken = rows.take(session, table, search, anew=True)
                if taken is None:
                    return self.take_plainly(session, table, queue, lent=False)
                if not taken.rows:
                    return None
                job = self.read(taken.rows[0], self._lock(session, taken.rows[0], lent=False))
                if job is not None:
                    return job
        except STALE:
            _unlock_everything(session)
            raise
        raise ErrAgain(f"{MAX_LOCK_ATTEMPTS} jobs of queue {queue!r} in a row were unreadable; call again")

    def take_plainly(
        self,
        session: Session,
        table: Table,
        queue: str,
        order: PollStrategy = PollStrategy.PRIORITY,
        types: tuple[str, ...] | None = None,
        *,
        lent: bool,
    ) -> Job | None:
        """Lock the next due job of *queue*, a statement a step.

        Raises:
            ErrAgain, psycopg2.Error: as take().
            ErrClientClosed: if the client was closed meanwhile; nothing is locked then.
        """
        try:
            job = self._take_plainly(session, table, queue, order, types, lent)
        except STALE:
            _unlock_everything(session)
            raise
        if job is not None and self._context.database.closed:
            job.done()
            self._context.database.require_open()
        return job

    def _take_plainly(
        self,
        session: Session,
        table: Table,
        queue: str,
        order: PollStrategy,
        types: tuple[str, ...] | None,
        lent: bool,
    ) -> Job | None:
        lock_job = table.lock_job_in(order, types)
        name = table.queue_name(queue)
        for _ in range(MAX_LOCK_ATTEMPTS):
            rows = session.run(lock_job, (name,) if types is None else (list(types), name))
            if not rows:
                return None
            row = Row.read(rows[0][0])
            # The lock statement saw the table as it was when it began. If the job was being worked
            # then, and was settled just before we tried its lock, we hold the lock of a job that is
            # gone or not due again yet. A new statement sees that.
            checked = session.run(table.check_job, row.key)
            if not checked:
                session.run(UNLOCK_JOB, (row.id,))
                continue
            if not checked[0][0]:
                raise psycopg2.errors.ReadOnlySqlTransaction("this session can't write, so no job is taken on it")
            self._context.rows.cancelled.forget([row.id])
            job = self.read(row, self._lock(session, row, lent=lent))
            if job is not None:
                return job
        raise ErrAgain(
            f"{MAX_LOCK_ATTEMPTS} jobs of queue {queue!r} in a row were settled by others, or unreadable, "
            "when they were locked; call again"
        )

    def read(self, row: Row, lock: RowLock) -> Job | None:
        """Return the job of *row*, whose *lock* is held.

        None if no job can be made of it. That is recorded as its error then, and the lock is gone.
        """
        job = self.job_of(LockedRow(row, lock, self._context))
        if job is None:
            lock.session.run(UNLOCK_JOB, (row.id,))
        return job

    def job_of(self, locked: LockedRow) -> Job | None:
        """Return the job of a *locked* row; None if no job can be made of it, which is recorded as its error."""
        try:
            return self.made_of(locked)
        except Exception as error:  # JSON beyond Python, or a job_class that refuses: this job's error
            row = locked.row
            self._context.logger.exception("job_unreadable id=%d type=%s", row.id, printable(row.type))
            locked.set_error(describe(error))
            return None

    def made_of(self, locked: LockedRow) -> Job:
        """Return the job of a *locked* row. Sends nothing.

        Raises:
            Exception: if no job can be made of it.
        """
        row = locked.row
        row.require_text()
        job = self._job_class(row.type, decode(row.args), row.queue, row.priority, row.due)
        if row.kwargs != "{}" or row.tags != "[]":
            job.kwargs, job.tags = decode(row.kwargs), decode(row.tags)
        bind(job, Attempt(locked))
        return job

    def _lock(self, session: Session, row: Row, *, lent: bool) -> RowLock:
        return RowLock(session, row.id, self._context, lent=lent)


def _unlock_everything(session: Session) -> None:
    """Let go of what a statement that failed has locked."""
    if session.idle:
        session.run(UNLOCK_EVERYTHING)
