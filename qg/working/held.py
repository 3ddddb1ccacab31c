"""Held: a job from the message that locked it to the one that unlocks it, whoever runs it."""

from __future__ import annotations

import time
from typing import Protocol

import psycopg2

from qg.database.session import Session
from qg.job import Job, deletes_plainly, locked_attempt_of
from qg.locking.attempt import Attempt, State
from qg.locking.locked_row import LockedRow
from qg.locking.shared_lock import SharedLock
from qg.tables import Row
from qg.working.engine import Engine
from qg.working.runner import Runner, complete_now
from qg.working.transactions import Transactions

__all__ = ["Held", "HeldAlone", "HeldTogether"]


class Held(Protocol):
    """A job that waits for a hand, is run by one, or has ended. One thread at a time has it.

    Attributes:
        recorded: whether what became of it could be written, or is still to be.
    """

    recorded: bool

    def run(self, runner: Runner) -> None:
        """Run the job, and settle it as far as that isn't left to its locker."""


class HeldAlone:
    """A job with a session to itself, lock included.

    Args:
        job: a locked one.
        session: where; *transactions* has lent it.
        transactions: gets it back.
    """

    def __init__(self, job: Job, session: Session, transactions: Transactions) -> None:
        self.recorded = True
        self._job = job
        self._session = session
        self._transactions = transactions

    def run(self, runner: Runner) -> None:
        """Run the job, and settle it."""
        try:
            self.recorded = runner.run(self._job, complete_now)
        finally:
            self._transactions.give_back(self._session, has_failed=runner.has_failed)


class HeldTogether:
    """A job whose lock is on a locker's session, together with others.

    Args:
        row: as it was locked.
        locker: the session that holds the lock.
        engine: of the client.
        transactions: lends the job a session of its own when it needs one.

    Attributes:
        returned: whether all that is left to do is to delete the row.
        seconds: how long the handler ran.
    """

    def __init__(self, row: Row, locker: Session, engine: Engine, transactions: Transactions) -> None:
        self.recorded = True
        self.row = row
        self.returned = False
        self.seconds = 0.0
        self._engine = engine
        self._lock = SharedLock(locker, row.id, engine.context, transactions)
        self._locked = LockedRow(row, self._lock, engine.context)
        self._job: Job | None = None
        # Why the row is to be deleted by itself, if it is.
        self._cause: psycopg2.Error | None = None

    @property
    def locker(self) -> Session:
        """The session that holds the lock."""
        return self._lock.locker

    def run(self, runner: Runner) -> None:
        """Run the job. If its handler returns in no transaction, the deletion of its row is left to the locker."""
        try:
            if self.returned:
                self._delete_alone(runner)
            elif (job := self._engine.jobs.job_of(self._locked)) is not None:
                self._job = job
                began = time.monotonic()
                self.recorded = runner.run(job, self._complete)
                self.seconds = time.monotonic() - began
        finally:
            self._lock.end(has_failed=runner.has_failed)

    @property
    def attempt(self) -> Attempt:
        """The attempt, once a hand has begun it."""
        return self._job_and_attempt()[1]

    def note_deleted(self, runner: Runner) -> None:
        """Note that the row is deleted, and that is committed."""
        job, attempt = self._job_and_attempt()
        attempt.state = State.DELETED
        runner.settle(job, attempt, None, self.seconds)

    def delete_alone(self, cause: psycopg2.Error | None) -> None:
        """Let the next run() delete the row by itself, since that failed for many together, because of *cause*."""
        self._cause = cause

    def _complete(self, job: Job, attempt: Attempt) -> bool:
        with attempt.mutex:
            # A handler that swallowed it when its session was lost has lost what it wrote there.
            if deletes_plainly(job) and self._lock.is_sound and attempt.hand_in() is not None:
                self.returned = True
                return True
        attempt.complete(job)
        return False

    def _delete_alone(self, runner: Runner) -> None:
        """Delete the row, or record why that failed: under its lock, which is taken anew if it is lost."""
        job, attempt = self._job_and_attempt()
        self.returned = False
        error = None
        with attempt.mutex:
            attempt.take_back(held=False)
            try:
                undone = isinstance(self._cause, psycopg2.errors.NoDataFound)  # by DELETE_JOBS, so before the commit
                if undone or self._locked.still_there():
                    self._delete_under_lock(job, attempt)
                else:
                    attempt.state = State.DELETED
            except Exception as trouble:  # of this job, or of its session; it is recorded like any other
                error = trouble
            self.recorded = runner.settle(job, attempt, error, self.seconds)
            job.done()

    def _delete_under_lock(self, job: Job, attempt: Attempt) -> None:
        if not self._lock.is_lost_with_locker:
            attempt.take_back(held=True)
            attempt.complete(job)
            attempt.state = State.DELETED
            return
        anew = self._locked.lock_anew()
        if anew is None:
            attempt.state = State.GONE
            return
        try:
            anew.delete()
            attempt.state = State.DELETED
        finally:
            anew.let_go()

    def _job_and_attempt(self) -> tuple[Job, Attempt]:
        if self._job is None:
            raise AssertionError(f"job {self.row.id} hasn't been run")
        return self._job, locked_attempt_of(self._job)
