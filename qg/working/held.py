"""Held: a job from the message that locked it to the one that unlocks it, whoever runs it."""

from __future__ import annotations

import time
from typing import Protocol

import psycopg2

from qg.database.session import Session
from qg.job import Job, deletes_plainly, locked_attempt_of
from qg.locking.attempt import Attempt, State, successes
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

    @property
    def locker(self) -> Session:
        """The session that holds the lock."""

    @property
    def type(self) -> str:
        """The job's type."""

    def run(self, runner: Runner) -> None:
        """Run the job, and settle it as far as that isn't left to its locker."""

    # Or, where somebody else runs the handler, these. The first three send nothing, and wait for nobody.

    def begin(self) -> Job | None:
        """Return the job; None if run() is to be called instead."""

    def hand_in(self, seconds: float) -> bool:
        """Leave the rest to the locker, after *seconds* of a handler that returned; return whether that can be."""

    def release(self) -> bool:
        """Let the job go as it was, for whoever takes it next; return whether that can be."""

    def conclude(self, runner: Runner, failure: BaseException | None, seconds: float) -> None:
        """Settle the job after *seconds* of its handler, which has raised *failure*, if it has."""

    def abandon(self) -> None:
        """Undo what the job has done, and let it go as it was."""


class HeldAlone:
    """A job with a session to itself, lock included.

    Args:
        job: a locked one.
        session: where; *transactions* has lent it.
        transactions: gets it back.
    """

    def __init__(self, job: Job, session: Session, transactions: Transactions) -> None:
        self.recorded = True
        self.locker = session
        self._job = job
        self._transactions = transactions

    @property
    def type(self) -> str:
        """The job's type."""
        return self._job.type

    def run(self, runner: Runner) -> None:
        """Run the job, and settle it."""
        try:
            self.recorded = runner.run(self._job, complete_now)
        finally:
            self._transactions.give_back(self.locker, has_failed=runner.has_failed)

    def begin(self) -> Job | None:
        """Return the job."""
        return self._job

    def hand_in(self, seconds: float) -> bool:
        """No: it is the only one on its session."""
        return False

    def release(self) -> bool:
        """No: that takes a message."""
        return False

    def conclude(self, runner: Runner, failure: BaseException | None, seconds: float) -> None:
        """Settle the job after *seconds* of its handler, which has raised *failure*, if it has."""
        try:
            self.recorded = runner.conclude(self._job, complete_now, failure, seconds)
        finally:
            failure = None
            self._transactions.give_back(self.locker, has_failed=runner.has_failed)

    def abandon(self) -> None:
        """Undo what the job has done, and let it go as it was."""
        try:
            _abandon(self._job)
        finally:
            self._transactions.give_back(self.locker, has_failed=True)


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
        tried: whether it was tried in vain to delete the row together with others.
    """

    def __init__(self, row: Row, locker: Session, engine: Engine, transactions: Transactions) -> None:
        self.recorded = True
        self.tried = False
        self.row = row
        self.returned = False
        self.seconds = 0.0
        self._engine = engine
        self._lock = SharedLock(locker, row.id, engine.context, transactions)
        self._locked = LockedRow(row, self._lock, engine.context)
        self._job: Job | None = None

    @property
    def type(self) -> str:
        """The job's type."""
        return self.row.type

    @property
    def locker(self) -> Session:
        """The session that holds the lock."""
        return self._lock.locker

    @property
    def attempt(self) -> Attempt:
        """The attempt, once a hand has begun it."""
        return self._job_and_attempt()[1]

    @property
    def unlocked(self) -> bool:
        """Whether that was seen not to hold it any more."""
        return self._lock.unlocked

    @property
    def undone(self) -> bool:
        """Whether the job is still to be done when it is unlocked."""
        return self._job is None or not self.recorded

    def run(self, runner: Runner) -> None:
        """Run the job. If its handler returns in no transaction, the deletion of its row is left to the locker.

        A job that has lost its lock while it waited isn't begun with: somebody else may have it by now.
        """
        try:
            if not self._lock.is_gone_lately and (job := self._read()) is not None:
                self._job = job
                began = time.monotonic()
                self.recorded = runner.run(job, self._complete)
                self.seconds = time.monotonic() - began
        finally:
            self._lock.end(has_failed=runner.has_failed)

    def note_unlocked(self) -> None:
        """Note that the session doesn't hold the lock any more."""
        self._lock.unlocked = True

    def begin(self) -> Job | None:
        """Return the job; None if run() is to be called, for none can be made, or its lock is lost already."""
        if self._lock.is_gone:
            return None
        try:
            self._job = self._engine.jobs.made_of(self._locked)
        except Exception:  # run() meets it again, and records it
            return None
        return self._job

    def hand_in(self, seconds: float) -> bool:
        """Leave the deletion of the row to the locker, if the job has no session of its own."""
        self.seconds = seconds
        job, attempt = self._job_and_attempt()
        if self._lock.has_session or not attempt.mutex.acquire(blocking=False):
            return False
        try:
            self.returned = deletes_plainly(job) and attempt.hand_in() is not None
        finally:
            attempt.mutex.release()
        return self.returned

    def release(self) -> bool:
        """Let the job go as it was, if it has no session of its own."""
        job, attempt = self._job_and_attempt()
        if self._lock.has_session or not attempt.mutex.acquire(blocking=False):
            return False
        try:
            job.done()
        finally:
            attempt.mutex.release()
        self._job = None  # it is as if nobody had begun with it
        return True

    def conclude(self, runner: Runner, failure: BaseException | None, seconds: float) -> None:
        """Settle the job after *seconds* of its handler, which has raised *failure*, if it has."""
        self.seconds = seconds
        try:
            self.recorded = runner.conclude(self._job_and_attempt()[0], self._complete, failure, seconds)
        finally:
            failure = None
            self._lock.end(has_failed=runner.has_failed)

    def abandon(self) -> None:
        """Undo what the job has done, and let it go as it was."""
        try:
            _abandon(self._job_and_attempt()[0])
        finally:
            self._lock.end(has_failed=True)

    def note_deleted(self, runner: Runner) -> None:
        """Note that the row is deleted, and that is committed."""
        job, attempt = self._job_and_attempt()
        attempt.state = State.DELETED
        runner.settle(job, attempt, None, self.seconds)

    def delete_apart(self, runner: Runner, cause: Exception | None) -> None:
        """Delete the row of a job that has returned, or record why that failed.

        Under its lock, which is taken anew if it is lost. On a session of its own.

        Args:
            runner: logs it.
            cause: why the row couldn't be deleted together with others; None if that wasn't tried.
        """
        job, attempt = self._job_and_attempt()
        error = None
        try:
            with attempt.mutex:
                attempt.take_back(held=False)
                try:
                    undone = isinstance(cause, psycopg2.errors.NoDataFound)  # by DELETE_JOBS, so before the commit
                    if undone or self._locked.still_there():
                        self._delete_under_lock(job, attempt)
                    else:
                        attempt.state = State.DELETED
                except Exception as trouble:  # of this job, or of its session; it is recorded like any other
                    error = trouble
                self.recorded = runner.settle(job, attempt, error, self.seconds)
                job.done()
        finally:
            self._lock.end(has_failed=error is not None)

    def _read(self) -> Job | None:
        """Return the job of the row; None if no job can be made of it, which is recorded as its error."""
        try:
            return self._engine.jobs.job_of(self._locked)
        except Exception as trouble:  # of the session on which that was to be recorded
            self._locked.log_unrecorded(trouble)
            self.recorded = False
            return None

    def _complete(self, job: Job, attempt: Attempt) -> bool:
        with attempt.mutex:
            # A handler that swallowed it when its session was lost has lost what it wrote there.
            if deletes_plainly(job) and self._lock.is_sound and attempt.hand_in() is not None:
                self.returned = True
                return True
        attempt.complete(job)
        return False

    def _delete_under_lock(self, job: Job, attempt: Attempt) -> None:
        if not self._lock.is_gone:
            attempt.take_back(held=True)
            attempt.complete(job)
            attempt.state = State.DELETED
            return
        anew = self._locked.lock_anew()
        if anew is None:
            attempt.state = State.GONE
            return
        try:
            for statement, params in successes([attempt]):
                anew.session.run_in_transaction(statement, params)
            anew.delete()
            anew.commit()
            attempt.state = State.DELETED
        finally:
            anew.let_go()

    def _job_and_attempt(self) -> tuple[Job, Attempt]:
        if self._job is None:
            raise AssertionError(f"job {self.row.id} hasn't been run")
        return self._job, locked_attempt_of(self._job)


def _abandon(job: Job) -> None:
    try:
        locked_attempt_of(job).abandon()
    finally:
        job.done()
