"""Batch: the jobs that a worker has locked on its session, and what is still to be done for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import psycopg2

from qg.database.known_table import STALE
from qg.database.session import Session
from qg.errors import ErrAgain
from qg.failures import one_line, printable
from qg.job import Job, deletes_plainly
from qg.locking.attempt import Attempt, State, successes
from qg.locking.locked_row import LockedRow
from qg.locking.row_lock import RowLock
from qg.locking.row_taker import Search, Taken
from qg.tables import Row, Table
from qg.tables.locking import UNLOCK_ALL, UNLOCK_EVERYTHING, UNLOCK_JOB
from qg.working.engine import Engine
from qg.working.job_taker import MAX_LOCK_ATTEMPTS
from qg.working.options import WorkOptions
from qg.working.sleepers import Sleepers
from qg.working.watch import Watch

__all__ = ["Batch", "LockLost", "Unrecorded"]

# How long a batch may keep returned jobs in the table, and waiting ones from others. With the time between
# two looks of the watch it makes the tenth of a second that is promised.
_LONGEST_SECONDS = 0.06


class LockLost(Exception):  # noqa: N818 - private to the worker
    """The session didn't hold the lock that it took. It was closed."""


class Unrecorded(Exception):  # noqa: N818 - private to the worker
    """What became of a job couldn't be written, so it is still there."""


@dataclass(slots=True)
class _Returned:
    """A job whose handler has returned, and whose row is still to be deleted."""

    job: Job
    attempt: Attempt
    locked: LockedRow
    seconds: float


class Batch:
    """Takes jobs on *session*, hands them out one by one, and deletes together those that returned.

    A row is in one of four states here, from the message that locked it to the one that unlocks it:

    - *waiting*: locked; its handler hasn't begun.
    - *running*: its job was handed out by next(). There is one at most.
    - *returned*: its handler has returned, in no transaction of its own. The row is still to be deleted.
    - *settled*: what became of it is committed. The lock is still to be released. There may be several whose
      handlers settled them in transactions of their own, and otherwise one.

    The message that takes the next jobs deletes the returned ones, commits and unlocks everything
    before that. In steady state there is no other message.

    The session is nobody's while a handler runs. When the running job needs it for the first time, the
    batch is broken up, and the session is that job's alone: it is *handed over*. To break up means to
    delete what has returned, and to unlock that and what waits, so that only the running job stays
    locked. A batch that takes long is broken up as well. So nothing waits for a slow handler, and no
    handler finds its connection in use.

    Args:
        engine: of the client.
        session: a worker's; no one else uses it.
        options: the queue, and how many jobs are taken in which order.
        types: returns which types of jobs to take; None means any.
        settle: is told of each job that was deleted later than its handler returned: what went
            wrong with that, or None, and how many seconds the handler ran. Records and logs it, and
            returns whether it could.
        sleepers: the other workers of the pool: who takes jobs at the moment, and whom to wake for jobs that are
            freed here.
    """

    def __init__(
        self,
        engine: Engine,
        session: Session,
        options: WorkOptions,
        types: Callable[[], tuple[str, ...] | None],
        settle: Callable[[Job, Attempt, Exception | None, float], bool],
        sleepers: Sleepers,
    ) -> None:
        self.session = session
        session.make_ready_for_statements()
        # Whether the last message was left to others, since enough of them are taking jobs.
        self.turned_away = False
        # Of the last message: whether there may be more jobs than it took, and when to look again.
        self.more = False
        self.seconds_until_next: float | None = None
        self._engine = engine
        self._options = options
        self._size = self._wanted = options.batch_size
        # Where there is one job at a time, its lock goes with all that its handler may have locked.
        self._unlock = UNLOCK_ALL if self._size == 1 else UNLOCK_JOB
        self._types = types
        self._settle = settle
        self._sleepers = sleepers
        # Guards all below, and the session while it is nobody's.
        self._mutex = threading.RLock()
        self._waiting: deque[Row] = deque()
        self._running: RowLock | None = None
        self._handed_over = False
        self._returned: list[_Returned] = []
        self._settled: list[LockedRow] = []
        self._ran = 0
        self._taken_at = self._started_at = 0.0
        self._unrecorded = False
        self._watch = Watch(self._look, engine.logger) if self._size > 1 else None

    @property
    def unrecorded(self) -> bool:
        """Whether what became of a job couldn't be written, and nobody has been told so."""
        return self._unrecorded

    @property
    def empty(self) -> bool:
        """Whether nothing is locked here but the running job."""
        return not (self._waiting or self._returned or self._settled)

    @property
    def sends_next(self) -> bool:
        """Whether next() has to send a message; otherwise a job waits here."""
        return not self._waiting

    def next(self, table: Table) -> Job | None:
        """Return the next job, locked, or None if none was to be had.

        Raises:
            ErrAgain: if ten jobs in a row couldn't be read.
            ErrClientClosed: if the client was closed while jobs were taken; end() frees them.
            LockLost, Unrecorded: see there.
            psycopg2.Error: if the database failed; the session isn't to be used again.
        """
        with self._mutex:
            for _ in range(MAX_LOCK_ATTEMPTS):
                self._refill(table)
                if not self._waiting:
                    return None
                job = self._begin(self._waiting.popleft())
                if job is not None:
                    return job
            self._break_up()
            if self.more:
                self._sleepers.wake(1)
        raise ErrAgain(
            f"{MAX_LOCK_ATTEMPTS} jobs of queue {self._options.queue!r} in a row were unreadable; call again"
        )

    def complete(self, job: Job, attempt: Attempt) -> bool:
        """Settle *job*, whose handler has returned; return whether that is left to the next message.

        Raises:
            ErrNotLocked, ErrJobGone, ErrNotCommitted, psycopg2.Error: if it was no success after all.
        """
        with attempt.mutex, self._mutex:
            locked = attempt.hand_in() if deletes_plainly(job) else None
            if locked is not None:
                self._returned.append(_Returned(job, attempt, locked, time.monotonic() - self._started_at))
                return True
            locked = None if self._handed_over else attempt.hand_in_settled()
            if locked is not None:
                self._settled.append(locked)
                return False
        attempt.complete(job)
        with attempt.mutex, self._mutex:
            locked = attempt.detach() if self.session.idle else None
            if locked is not None:
                self._settled.append(locked)
        return False

    def end(self) -> None:
        """Delete and free what there is; a session that can't do that is closed."""
        if self._watch is not None:
            self._watch.end()
        with self._mutex:
            self._break_up()
            try:
                if self._handed_over and self.session.idle:  # the handler may have left locks of its own
                    self.session.run(UNLOCK_EVERYTHING)
            except psycopg2.Error:
                self.session.close_now()
            if not self.session.idle:
                self.session.close_now()

    def _refill(self, table: Table) -> None:
        """See that what waits is still locked, and not kept for long; where nothing waits, take more."""
        if self._waiting and not self.session.alive:
            self._waiting.clear()  # their locks are gone, and somebody else may have them
            self._break_up()
            self._raise_if_unrecorded()
            raise LockLost
        self._raise_if_unrecorded()
        if self._waiting and self._is_older_than(_LONGEST_SECONDS):
            self._break_up()
        if not self._waiting:
            self._take_turn(table)
            self._raise_if_unrecorded()

    def _raise_if_unrecorded(self) -> None:
        if self._unrecorded:
            self._break_up()  # the worker sleeps now
            self._unrecorded = False
            raise Unrecorded

    def _begin(self, row: Row) -> Job | None:
        """Return the job of *row*, or None if it can't be read, which is that job's error."""
        lock = RowLock(
            self.session,
            row.id,
            self._engine.context,
            lent=True,
            unlock=self._unlock,
            before_use=self._hand_over,
        )
        job = self._engine.jobs.read(row, lock)
        if job is not None:
            self._running, self._handed_over = lock, False
            self._ran += 1
            self._started_at = time.monotonic()
        return job

    def _hand_over(self, lock: RowLock) -> None:
        """Make the session the running job's own, before the first statement for it."""
        with self._mutex:
            if lock is self._running and not self._handed_over:
                self._handed_over = True
                self._break_up()
                if self.session.idle:
                    self.session.make_ready_for_handler()

    def _look(self) -> None:
        """Called by the watch while there is anything to watch."""
        with self._mutex:
            if self._is_older_than(_LONGEST_SECONDS):
                self._break_up()
            if self._watch is not None and not (self._waiting or self._returned):
                self._watch.rest()

    def _is_older_than(self, seconds: float) -> bool:
        return time.monotonic() - self._taken_at > seconds

    def _take_turn(self, table: Table) -> None:
        """Take more when it is this worker's turn; where enough others do that, only delete and unlock."""
        self.turned_away = False
        if self._size == 1:  # a job costs one message, and so few locks are never in the way
            self._exchange(table)
            return
        turn = self._sleepers.turns.begin(self._wanted)
        if turn is None:
            self.turned_away, self.more, self.seconds_until_next = True, False, None
            self._break_up()
            if self._handed_over and self.session.idle:
                self.session.run(UNLOCK_EVERYTHING)  # the handler may have left locks of its own
                self.session.make_ready_for_statements()
                self._handed_over = False
            return
        looked = False
        try:
            self._exchange(table)
            looked = True
        finally:
            if self._sleepers.turns.end(turn, looked=looked):
                self._sleepers.wake(1)

    def _exchange(self, table: Table) -> None:
        """Send the message: delete what has returned, unlock, and take more."""
        returned, settled = self._empty_out()
        if not self._handed_over and self._ran == self._wanted and not self._is_older_than(_LONGEST_SECONDS / 2):
            self._wanted = min(2 * self._wanted, self._size)
        self._ran = 0
        last = returned[-1].locked.row if returned else settled[-1].row if settled else None
        taken = self._take(table, returned, last)
        if taken is None:
            # Jobs had to be deleted one by one, or it isn't possible: come again, on a session that is sound.
            self.seconds_until_next = 0.0
            for each in settled:
                each.let_go()
            return
        self._handed_over = False
        self._taken_at = time.monotonic()
        self.more, self.seconds_until_next = taken.more, taken.seconds_until_next
        self._waiting.extend(taken.rows)
        self._engine.database.require_open()  # it may have been closed while they were taken
        if self._watch is not None and len(taken.rows) > 1:
            self._watch.begin()

    def _take(self, table: Table, returned: list[_Returned], unlock: Row | None) -> Taken | None:
        rows = [each.locked.row for each in returned]
        try:
            if self._handed_over and self.session.idle:
                self.session.make_ready_for_statements()
            taken = self._engine.rows.take(
                self.session,
                table,
                Search(self._options.queue, self._options.poll_strategy, self._types()),
                self._wanted,
                deleted=rows,
                along=successes(each.attempt for each in returned),
                unlock=() if unlock is None else (unlock,),
            )
        except psycopg2.Error as error:
            self._recheck(table, error)
            if not self._delete_each(returned, error):
                raise  # it was the taking that failed
            return None
        if taken is None:
            self._delete_each(returned)
            return None
        self._note_deleted(returned)
        if unlock is not None and not taken.unlocked:
            self._engine.context.note_lock_lost(self.session, unlock.id)
            raise LockLost
        return taken

    def _break_up(self) -> None:
        """Delete what has returned and free what waits, so that only the running job stays locked."""
        waiting = list(self._waiting)
        self._waiting.clear()
        frees = bool(waiting)
        returned, settled = self._empty_out()
        waiting.extend(each.row for each in settled)
        if waiting:
            self._wanted = max(self._ran, 1)
        if not (returned or waiting):
            return
        table = self._engine.database.table  # another one than when they were taken, perhaps
        rows = [each.locked.row for each in returned]
        try:
            along = successes(each.attempt for each in returned)
            if not self._engine.rows.release(self.session, table, rows, waiting, along):
                self._engine.context.note_lock_lost(self.session, [*rows, *waiting][-1].id)
        except psycopg2.Error as error:
            self._recheck(table, error)
            self._delete_each(returned, error)
            self._free(waiting)
        else:
            self._note_deleted(returned)
        if frees:
            self._sleepers.wake(1)  # this worker is busy, or sleeps next

    def _free(self, rows: list[Row]) -> None:
        """Unlock *rows*, as far as they are locked; a session that can't do that is closed."""
        if not (rows and self.session.idle):
            return
        try:
            self._engine.rows.release(self.session, self._engine.database.table, (), rows)
        except psycopg2.Error as error:
            self._engine.logger.warning("release_failed queue=%s: %s", printable(self._options.queue), one_line(error))
            self.session.close_now()

    def _empty_out(self) -> tuple[list[_Returned], list[LockedRow]]:
        returned, self._returned = self._returned, []
        settled, self._settled = self._settled, []
        return returned, settled

    def _note_deleted(self, returned: list[_Returned]) -> None:
        for each in returned:
            each.attempt.state = State.DELETED
            self._settle(each.job, each.attempt, None, each.seconds)

    def _recheck(self, table: Table, error: psycopg2.Error) -> None:
        """Find out, if *error* may mean that, whether *table* was migrated; the rest goes on with what there is now."""
        try:
            if isinstance(error, STALE):
                self._engine.database.recheck(table, self.session)
        except psycopg2.Error as trouble:
            self._engine.logger.warning("table_unknown queue=%s: %s", printable(self._options.queue), one_line(trouble))

    def _delete_each(self, returned: list[_Returned], cause: psycopg2.Error | None = None) -> bool:
        """Delete jobs one by one, after *cause* kept us from it for all; return whether any was still there."""
        met = False
        gone: list[Row] = []
        undone = isinstance(cause, psycopg2.errors.NoDataFound)  # by DELETE_JOBS, so before the commit
        if not self.session.idle:
            self.session.close_now()  # a pool may have no other one to give
        for each in returned:
            if self._unrecorded:  # nor can the others be, then
                self._engine.logger.error("job_unrecorded id=%d: nor were others of its batch", each.locked.row.id)
                gone.append(each.locked.row)
            elif self._delete(each, cause, undone):
                met = True
            else:
                gone.append(each.locked.row)
        self._free(gone)
        return met

    def _delete(self, returned: _Returned, cause: psycopg2.Error | None, undone: bool) -> bool:
        """Delete one job, or record why that failed; return whether it was still there."""
        job, attempt, locked = returned.job, returned.attempt, returned.locked
        met = undone
        error = None
        with attempt.mutex:
            attempt.take_back(held=False)
            try:
                met = met or locked.still_there()
                if met:
                    if cause is not None and not self.session.idle:
                        raise cause
                    attempt.take_back(held=True)
                    attempt.complete(job)
                attempt.state = State.DELETED
            except Exception as trouble:  # of this job, or of its session; it is recorded like any other
                met = True
                error = trouble
                if not attempt.held and self.session.idle:
                    locked.give_up_session(trouble)
            if not self._settle(job, attempt, error, returned.seconds):
                self._unrecorded = True
            job.done()
        return met
