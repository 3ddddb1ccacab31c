"""Batch: the jobs that a worker has locked on its session, and what it still owes for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import psycopg2

from qg.client import Client
from qg.errors import ErrAgain
from qg.failures import one_line
from qg.job import Ending, Job
from qg.locks import LockedRow
from qg.picker import MAX_LOCK_ATTEMPTS
from qg.session import Session
from qg.tables import PollStrategy, Row, Table
from qg.tables.locking import UNLOCK_ALL, UNLOCK_EVERYTHING, UNLOCK_JOB
from qg.taking import Taken

__all__ = ["Batch", "LockLost", "Unrecorded"]

# How long a batch may keep finished jobs in the table and waiting ones from others, and how often
# that is looked at while a handler runs; together they are the tenth of a second that is promised.
_LONGEST_SECONDS = 0.06
_WATCH_SECONDS = 0.03


class LockLost(Exception):  # noqa: N818 - private to the worker
    """The session didn't hold the lock that it took. It was closed."""


class Unrecorded(Exception):  # noqa: N818 - private to the worker
    """What became of a job couldn't be written, so it is still there."""


class _Finished(NamedTuple):
    """A job whose handler has returned and whose row is still to be deleted."""

    job: Job
    locked: LockedRow
    seconds: float


class Batch:
    """Takes up to *size* jobs at once on *session*, hands them out one by one, finishes them together.

    What is owed for the last jobs (deletion, commit, unlocking) is paid with the message that takes
    the next ones; in steady state there is no other.

    A session is nobody's while a handler runs, until the job needs it for the first time: then all
    else that is locked there is finished or freed, and the session is that job's alone. The same is
    done when the batch takes long. So nothing waits for a slow handler, and no handler finds its
    connection in use.

    Args:
        client: where jobs come from.
        session: a worker's; no one else uses it.
        queue: the queue's name.
        size: how many jobs to take at the most.
        order: which ones come first.
        types: returns which types of jobs to take; None means any.
        settle: is told of each job that was finished later than its handler returned: what went
            wrong with that, or None, and how many seconds the handler ran. Records and logs it, and
            returns whether it could.
    """

    def __init__(
        self,
        client: Client,
        session: Session,
        queue: str,
        size: int,
        order: PollStrategy,
        types: Callable[[], tuple[str, ...] | None],
        settle: Callable[[Job, Exception | None, float], bool],
    ) -> None:
        self.session = session
        session.keep()
        # Of the last message: whether there may be more jobs than it took, and when to look again.
        self.more = False
        self.seconds_until_next: float | None = None
        self._client = client
        self._queue = queue
        self._size = self._wanted = size
        self._order = order
        self._types = types
        self._settle = settle
        # Guards all below, and the session while it is nobody's.
        self._mutex = threading.RLock()
        self._waiting: deque[Row] = deque()
        self._running: LockedRow | None = None
        self._handed_over = False
        self._finished: list[_Finished] = []
        self._owed: LockedRow | None = None  # settled, but still locked
        self._ran = 0
        self._taken_at = self._started_at = 0.0
        self._unrecorded = False
        self._watch = _Watch(self._look) if size > 1 else None

    @property
    def empty(self) -> bool:
        """Whether nothing is locked and nothing owed."""
        return not (self._waiting or self._finished or self._owed)

    def next(self) -> Job | None:
        """Return the next job, locked, or None if none was to be had.

        Raises:
            ErrAgain: if ten jobs in a row couldn't be read.
            LockLost, Unrecorded: see there.
            psycopg2.Error: if the database failed; the session isn't to be used again.
        """
        with self._mutex:
            for _ in range(MAX_LOCK_ATTEMPTS):
                self._refill()
                if not self._waiting:
                    return None
                job = self._begin(self._waiting.popleft())
                if job is not None:
                    return job
            self._break_up()
        raise ErrAgain(f"{MAX_LOCK_ATTEMPTS} jobs of queue {self._queue!r} in a row were unreadable; call again")

    def complete(self, job: Job) -> None:
        """Settle *job*, whose handler has returned: with the next message, or now if that can't be.

        Raises:
            ErrNotLocked, psycopg2.Error: if it was no success after all.
        """
        with job._mutex, self._mutex:
            locked = job._hand_in()
            if locked is not None:
                self._finished.append(_Finished(job, locked, time.monotonic() - self._started_at))
                return
        job._complete()
        with job._mutex, self._mutex:
            if self.session.idle:
                self._owed = job._detach()

    def end(self) -> None:
        """Finish and free what there is; a session that can't do that is closed."""
        if self._watch is not None:
            self._watch.end()
        with self._mutex:
            self._break_up()
            try:
                if self._handed_over and self.session.idle:  # the handler may have left locks of its own
                    self.session.run(UNLOCK_EVERYTHING)
            except psycopg2.Error:
                self.session.discard()
            if not self.session.idle:
                self.session.discard()

    def _refill(self) -> None:
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
            self._exchange()
            self._raise_if_unrecorded()

    def _raise_if_unrecorded(self) -> None:
        if self._unrecorded:
            self._break_up()  # the worker sleeps now
            self._unrecorded = False
            raise Unrecorded

    def _begin(self, row: Row) -> Job | None:
        """Return the job of *row*, or None if it can't be read, which is that job's error."""
        context = self._client._context
        unlock = UNLOCK_ALL if self._size == 1 else UNLOCK_JOB
        locked = LockedRow(self.session, row, context, lent=True, unlock=unlock, before_use=self._hand_over)
        job = self._client._picker.read(locked)
        if job is not None:
            self._running, self._handed_over = locked, False
            self._ran += 1
            self._started_at = time.monotonic()
        return job

    def _hand_over(self, locked: LockedRow) -> None:
        """Make the session the running job's own, before its first statement there."""
        with self._mutex:
            if locked is self._running and not self._handed_over:
                self._handed_over = True
                self._break_up()
                if self.session.idle:
                    self.session.tidy()

    def _look(self) -> None:
        """Called by the watch while there is anything to watch."""
        with self._mutex:
            if self._is_older_than(_LONGEST_SECONDS):
                self._break_up()
            if self._watch is not None and not (self._waiting or self._finished):
                self._watch.rest()

    def _is_older_than(self, seconds: float) -> bool:
        return time.monotonic() - self._taken_at > seconds

    def _exchange(self) -> None:
        """Send the message: pay what is owed, and take more."""
        finished, owed = self._settle_accounts()
        if not self._handed_over and self._ran == self._wanted and not self._is_older_than(_LONGEST_SECONDS / 2):
            self._wanted = min(2 * self._wanted, self._size)
        self._ran = 0
        taken = self._take(finished, finished[-1].locked.row if finished else owed.row if owed else None)
        if taken is None:
            # Jobs had to be finished one by one, or it isn't possible: come again, on a session that is sound.
            self.seconds_until_next = 0.0
            if owed is not None:
                owed.let_go()
            return
        self._handed_over = False
        self._taken_at = time.monotonic()
        self.more, self.seconds_until_next = taken.more, taken.seconds_until_next
        self._waiting.extend(taken.rows)
        if self._watch is not None and len(taken.rows) > 1:
            self._watch.begin()

    def _take(self, finished: list[_Finished], unlock: Row | None) -> Taken | None:
        rows = [each.locked.row for each in finished]
        table = self._client._table
        try:
            if self._handed_over and self.session.idle:
                self.session.keep()
            taken = self._client._taker.take(
                self.session,
                self._queue,
                self._wanted,
                order=self._order,
                types=self._types(),
                finished=rows,
                unlock=unlock,
            )
        except psycopg2.Error as error:
            self._look_again(table, error)
            if not self._finish_each(finished, error):
                raise  # it was the taking that failed
            return None
        if taken is None:
            self._finish_each(finished)
            return None
        self._tell(finished)
        if unlock is not None and not taken.unlocked:
            self._client._context.log_pooler(unlock.id)
            self.session.discard()
            raise LockLost
        return taken

    def _break_up(self) -> None:
        """Finish what is finished and free what hasn't begun, so that only the running job stays locked."""
        waiting = list(self._waiting)
        self._waiting.clear()
        finished, owed = self._settle_accounts()
        if owed is not None:
            waiting.append(owed.row)
        if waiting:
            self._wanted = max(self._ran, 1)
        if not (finished or waiting):
            return
        table = self._client._table
        try:
            if not self._client._taker.release(self.session, [each.locked.row for each in finished], waiting):
                self._client._context.log_pooler([*(each.locked.row for each in finished), *waiting][-1].id)
                self.session.discard()
        except psycopg2.Error as error:
            self._look_again(table, error)
            self._finish_each(finished, error)
            self._free(waiting)
        else:
            self._tell(finished)

    def _free(self, rows: list[Row]) -> None:
        """Unlock *rows*, as far as they are locked; a session that can't do that is closed."""
        if not (rows and self.session.idle):
            return
        try:
            self._client._taker.release(self.session, (), rows)
        except psycopg2.Error as error:
            self._client.logger.warning("release_failed queue=%s: %s", self._queue, one_line(error))
            self.session.discard()

    def _settle_accounts(self) -> tuple[list[_Finished], LockedRow | None]:
        finished, self._finished = self._finished, []
        owed, self._owed = self._owed, None
        return finished, owed

    def _tell(self, finished: list[_Finished]) -> None:
        for job, _, seconds in finished:
            job._ending = Ending.DELETED
            self._settle(job, None, seconds)

    def _look_again(self, table: Table, error: psycopg2.Error) -> None:
        """If *error* came because *table* was migrated, go on with the one that there is now."""
        try:
            self._client._is_migrated(error, table, self.session)
        except psycopg2.Error as trouble:
            self._client.logger.warning("table_unknown queue=%s: %s", self._queue, one_line(trouble))

    def _finish_each(self, finished: list[_Finished], cause: psycopg2.Error | None = None) -> bool:
        """Finish jobs one by one, after *cause* kept us from it for all; return whether any was still there."""
        met = False
        gone: list[Row] = []
        undone = isinstance(cause, psycopg2.errors.NoDataFound)  # by finish_jobs, so before the commit
        if not self.session.idle:
            self.session.discard()  # a pool may have no other one to give
        for job, locked, seconds in finished:
            if self._unrecorded:  # nor can the others be, then
                self._client.logger.error("job_unrecorded id=%d: nor were others of its batch", locked.row.id)
                gone.append(locked.row)
                continue
            with job._mutex:
                job._attempt = locked
                error = None
                try:
                    if undone or locked.still_there():
                        met = True
                        if cause is not None and not self.session.idle:
                            raise cause
                        job._bind(locked)
                        job._complete()
                    else:
                        gone.append(locked.row)
                    job._ending = Ending.DELETED
                except Exception as trouble:  # of this job, or of its session; it is recorded like any other
                    met = True
                    error = trouble
                    if job._locked is None and self.session.idle:
                        locked.give_up_session(trouble)
                if not self._settle(job, error, seconds):
                    self._unrecorded = True
                job.done()
        self._free(gone)
        return met


class _Watch:
    """A thread that looks at a batch again and again while there is something to see."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look_at = look
        self._busy = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Look from now on."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="qg-batch", daemon=True)
            thread.start()
            self._thread = thread
        self._busy.set()

    def rest(self) -> None:
        """Look no more until begin()."""
        self._busy.clear()
        if self._ended.is_set():  # end() may have set it before we cleared it
            self._busy.set()

    def end(self) -> None:
        """Return when the thread has ended."""
        self._ended.set()
        self._busy.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._busy.wait() and not self._ended.wait(_WATCH_SECONDS):
            self._look_at()
