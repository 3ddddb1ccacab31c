"""Worker: lock a job, run it, settle it, again."""

from __future__ import annotations

import queue as queues
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from enum import Enum

import psycopg2

from qg.backoff import reconnect_pause
from qg.batch import Batch, LockLost, Unrecorded
from qg.client import Client
from qg.errors import ErrAgain, ErrClientClosed, ErrInvalidOption, ErrPoolState
from qg.failures import PlainFailure, headline
from qg.handlers import WorkMap, call_handler, checked_work_map
from qg.job import Ending, Job
from qg.outage import Outage
from qg.polling import Polling
from qg.session import Session
from qg.signals import in_signal_handler
from qg.sleepers import Sleepers
from qg.tables import PollStrategy, Table
from qg.tables.locking import UNLOCK_EVERYTHING
from qg.verdicts import Discard

__all__ = ["Worker", "working_now"]


# The worker whose handler is running, here or in a coroutine or thread that works for the handler.
working_now: ContextVar[Worker | None] = ContextVar("qg_worker", default=None)


class _Round(Enum):
    """How one round of a worker went."""

    IDLE = "no job was due"
    WORKED = "a job was worked, well or badly"
    UNRECORDED = "a job was worked, but what became of it couldn't be written"


class Worker(Polling):
    """Works the jobs of one queue, one after another, on one connection. Mirrors Go's ``Worker``.

    Args:
        client: where jobs come from.
        work_map: from job type to handler. A type that isn't in it is an error of that job.
        queue: the queue's name; None means the environment's QUE_QUEUE, or "".
        interval: seconds to sleep when no job is due, fractions allowed; None means the
            environment's QUE_WAKE_INTERVAL, or 5.
        batch_size: how many jobs to lock at once, 1 to 1000. From 2 on, those that don't use
            ``job.tx`` are finished together, about 0.1 s after they were locked at the latest; a
            crash in between runs them again.
        poll_strategy: which of the due jobs comes first: the most urgent, or with
            ``PollStrategy.RUN_AT`` the earliest.
        only_known_types: whether to leave jobs whose type isn't in *work_map* to others that work
            the same queue, instead of failing them.

    Raises:
        ErrInvalidOption: if an argument, or the environment, is out of bounds.
    """

    def __init__(
        self,
        client: Client,
        work_map: WorkMap,
        *,
        queue: str | None = None,
        interval: float | None = None,
        batch_size: int = 1,
        poll_strategy: PollStrategy = PollStrategy.PRIORITY,
        only_known_types: bool = False,
    ) -> None:
        super().__init__(queue, interval, batch_size, poll_strategy, only_known_types)
        if not isinstance(client, Client):
            raise ErrInvalidOption(f"a worker needs a qg.Client, not {type(client).__name__}")
        self._client = client
        self._work_map = checked_work_map(work_map)
        self._logger = client.logger
        self._outage = Outage(self._logger)
        self._session: Session | None = None
        self._batch: Batch | None = None
        self._current: Job | None = None
        self._stopping = False
        # Signal handlers shut workers down, and may interrupt this very thread anywhere. A
        # SimpleQueue can be put to at any point; an Event, which takes a lock to be set, can't.
        self._wakeups: queues.SimpleQueue[None] = queues.SimpleQueue()
        self._sleepers = Sleepers()
        # Held for as long as work() runs, so that shutdown() can wait for it.
        self._working = threading.Lock()

    def work(self) -> None:
        """Work jobs until shutdown() is called.

        Tries at once, goes on until the queue is empty, then sleeps the interval. Run it in a
        thread of its own, or in the main thread. A database that goes away is waited for. Mirrors
        Go's ``Worker.Work``.

        Raises:
            ErrPoolState: if the worker is working already.
        """
        if not self._working.acquire(blocking=False):
            raise ErrPoolState("this worker is working already; create another one for another thread")
        try:
            self._started = True
            self._work_until_stopped()
            self._end_batch()
        except BaseException:
            self._discard_session()
            raise
        finally:
            self._give_session_back()
            self._working.release()

    def work_one(self) -> bool:
        """Work one job if one is due, and return whether one was. Mirrors Go's ``Worker.WorkOne``.

        Leases a connection for this one job and takes a statement for each step; what work() does
        with one message a job comes to the same. A failure of the handler is the job's and is
        recorded there; it isn't raised.

        Raises:
            ErrAgain, ErrClientClosed, psycopg2.Error: if no job could be locked.
        """
        while True:
            session, table = self._client._lease(), self._client._table
            try:
                worked = self._work_one(session) is not _Round.IDLE
            except BaseException as error:
                try:
                    if not self._client._is_migrated(error, table, session):
                        raise
                finally:
                    session.discard()
            else:
                session.give_back()
                return worked

    def shutdown(self, timeout: float | None = None) -> bool:
        """Let the running job finish, take no new one, and wait until work() has returned.

        May be called again, and from any thread. From the worker's own handler, or from a signal
        handler, it can't wait and doesn't. Mirrors Go's ``Worker.Shutdown``.

        Args:
            timeout: how many seconds to wait at the most; None waits as long as it takes.

        Returns:
            Whether work() has ended. If it hasn't, the job that still runs is named in the log.
        """
        self._ask_to_stop()
        if working_now.get() is self or in_signal_handler():
            return False
        if self._working.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            self._working.release()
            return True
        self._log_still_running()
        return False

    def _join_pool(self, session: Session, outage: Outage, sleepers: Sleepers) -> None:
        """Work on *session* at first; tell of outages, and sleep, together with the other workers."""
        self._session = session
        self._outage = outage
        self._sleepers = sleepers

    def _ask_to_stop(self) -> None:
        self._stopping = True
        self._wakeups.put(None)

    def _log_still_running(self) -> None:
        job = self._current
        if job is not None:
            self._logger.warning("still_running id=%d type=%s: not finished at shutdown", job.id, job.type)

    def _work_until_stopped(self) -> None:
        failures = 0
        while not self._stopping:
            due: float | None = None
            calls = self._sleepers.calls
            table = self._client._table
            try:
                batch = self._own_batch()
                outcome = self._work_next(batch)
                due = batch.seconds_until_next
            except ErrClientClosed:
                self._logger.warning("worker_ends queue=%s: its client was closed", self.queue)
                return
            except ErrAgain as error:
                # Others finish the jobs faster than we can lock one, or none of them can be read.
                self._logger.info("no_job queue=%s: %s", self.queue, error)
                outcome = _Round.IDLE
            except LockLost:
                self._discard_session()
                continue
            except Unrecorded:
                outcome = _Round.UNRECORDED
            except Exception as error:  # of psycopg2 or of the source; the worker outlives them all
                if self._goes_on_after(error, table):
                    continue
                self._discard_session()
                self._outage.met_by(self, error)
                failures += 1
                self._sleep(reconnect_pause(failures, self.interval))
                continue
            failures = 0
            if self._outage.over_for(self):
                self._client._known.tell()
            if outcome is _Round.IDLE:
                self._sleep(self.interval, due, calls)
            elif outcome is _Round.UNRECORDED:
                self._sleep(self.interval)

    def _goes_on_after(self, error: Exception, table: Table) -> bool:
        """Whether *error* is only that *table* was migrated; nothing is locked on the session then."""
        try:
            if not self._client._is_migrated(error, table, self._session):
                return False
        except psycopg2.Error:  # the caller says what it met first
            return False
        self._logger.info("table_migrated queue=%s version=%d", self.queue, self._client._table.version)
        self._free_session()
        return True

    def _free_session(self) -> None:
        """End the batch, and let go of what a statement that failed has locked; keep the session if that can be."""
        try:
            self._end_batch()
            if self._session is not None and self._session.idle:
                self._session.run(UNLOCK_EVERYTHING)
                return
        except psycopg2.Error:
            pass  # it is closed, which frees the locks
        self._discard_session()

    def _work_next(self, batch: Batch) -> _Round:
        """Work the next job of *batch*; comes to the same as _work_one() in fewer messages.

        After an exception other than ErrAgain and Unrecorded its session isn't to be used again.
        """
        if not self._client._taker.possible and batch.empty:
            batch.seconds_until_next = None
            batch.session.tidy()
            return self._work_one(batch.session)
        job = batch.next()
        if job is None:
            self._logger.debug("no_job queue=%s", self.queue)
            return _Round.IDLE
        if batch.more:
            batch.more = False
            self._sleepers.wake(1)
        self._current = job
        try:
            began = time.monotonic()
            error = self._run(job, batch.complete)
            return _Round.WORKED if job._handed_in else self._settle(job, error, time.monotonic() - began)
        finally:
            self._current = None
            job.done()

    def _work_one(self, session: Session) -> _Round:
        """Lock, run, settle and unlock one job on *session*: the whole life of a job on one page.

        After an exception other than ErrAgain, *session* isn't to be used again.
        """
        job = self._client._picker.pick_plainly(session, self.queue, self.poll_strategy, self._types(), lent=True)
        if job is None:
            self._logger.debug("no_job queue=%s", self.queue)
            return _Round.IDLE
        self._current = job
        try:
            began = time.monotonic()
            error = self._run(job, Job._complete)
            return self._settle(job, error, time.monotonic() - began)
        finally:
            self._current = None
            job.done()
            if session.idle:
                session.tidy()

    def _run(self, job: Job, complete: Callable[[Job], None]) -> BaseException | None:
        """Run the handler and *complete* the job; return what went wrong, if something did."""
        working = working_now.set(self)
        try:
            call_handler(self._work_map, job)
            complete(job)
        except KeyboardInterrupt as error:
            if threading.current_thread() is threading.main_thread():
                job._abandon()
                raise  # somebody wants this process to end; the job is no worse for it
            return error
        except BaseException as error:  # SystemExit and CancelledError too: they end the job, not the worker
            return error
        finally:
            working_now.reset(working)
        return None

    def _settle(self, job: Job, error: BaseException | None, seconds: float) -> _Round:
        """Record how the job went, if it failed, and log it."""
        recorded = error is None or job._fail(error)
        if job._observer is not None:
            job._observer.settled(error)
        self._log(job, error, seconds)
        return _Round.WORKED if recorded else _Round.UNRECORDED

    def _log(self, job: Job, error: BaseException | None, seconds: float) -> None:
        if isinstance(error, Discard):
            self._logger.warning("job_discarded id=%d type=%s: %s", job.id, job.type, error)
        elif job._ending is Ending.RESCHEDULED:
            self._logger.info("job_rescheduled id=%d type=%s: %s", job.id, job.type, error or "by its handler")
        elif job._ending in (Ending.DELETED, Ending.FINISHED) and error is None:
            self._logger.info("job_worked id=%d type=%s seconds=%.3f", job.id, job.type, seconds)
        elif job._ending is Ending.EXPIRED and error is None:
            self._logger.error("job_expired id=%d type=%s: by its handler", job.id, job.type)
        else:
            line = headline(error) if error else (job.last_error or "").split("\n", 1)[0]
            trace = None if isinstance(error, PlainFailure) else error
            self._logger.error("job_failed id=%d type=%s: %s", job.id, job.type, line, exc_info=trace)

    def _sleep(self, seconds: float, due: float | None = None, calls: int | None = None) -> None:
        """Sleep *seconds*; with *calls*, so that one is woken when there is a job, and when one is *due*."""
        if self._stopping:
            return
        if calls is not None:
            self._sleepers.sleep(self._wakeups, seconds, due, calls)
        else:
            with suppress(queues.Empty):
                self._wakeups.get(timeout=seconds)

    def _own_batch(self) -> Batch:
        self._client._require_open()
        if self._batch is not None and self._batch.empty and not self._batch.session.alive:
            self._discard_session()
        if self._batch is None:
            if self._session is None or not self._session.alive:
                self._discard_session()
                self._session = self._client._lease()
            self._batch = Batch(
                self._client,
                self._session,
                self.queue,
                self.batch_size,
                self.poll_strategy,
                self._types,
                self._settle_later,
            )
        if self._batch.session.enlisted_in is not self._client._table:
            self._client._enlist(self._batch.session, self.queue)
        return self._batch

    def _types(self) -> tuple[str, ...] | None:
        return tuple(self._work_map) if self.only_known_types else None

    def _settle_later(self, job: Job, error: Exception | None, seconds: float) -> bool:
        return self._settle(job, error, seconds) is _Round.WORKED

    def _discard_session(self) -> None:
        session, self._session = self._session, None
        try:
            self._end_batch()
        finally:
            if session is not None:
                session.discard()

    def _end_batch(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.end()

    def _give_session_back(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.give_back()
