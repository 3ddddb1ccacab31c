"""Runner: runs a locked job with its handler, settles it, and logs how it went."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from qg.failures import Logger, PlainFailure, first_line, headline, printable
from qg.job import Job, locked_attempt_of
from qg.locking.attempt import Attempt, State
from qg.lookout import LOOKOUT
from qg.signals import ends_process
from qg.verdicts import Discard
from qg.working.handlers import Running, WorkMap, call_handler, running_here
from qg.working.hooks import NO_HOOKS, Ending, Hooks
from qg.working.oversight import Seat

__all__ = ["Runner", "complete_now", "log_released"]


# What became of a job in these states stays, even if its attempt is abandoned afterwards.
_COMMITTED = (State.FAILED, State.EXPIRED, State.RESCHEDULED, State.GONE, State.ELSEWHERE)


def complete_now(job: Job, attempt: Attempt) -> bool:
    """Settle *job*, whose handler has returned, and commit; return False: nothing is left to be done later.

    Raises:
        ErrNotLocked, ErrJobGone, ErrNotCommitted, psycopg2.Error: if it was no success after all.
    """
    attempt.complete(job)
    return False


class Runner(Running):
    """Runs the jobs of one worker, one after another.

    Twice a second it is looked whether the running job's lock is lost. That is logged, and ends a coroutine.

    Args:
        work_map: from job type to handler.
        logger: where it is told how each job went.
        hooks: what is called around each job, and after those that fail.

    Attributes:
        seat: what is told of each job, under ``qg work``.
    """

    seat: Seat | None = None
    _abandons = False

    def __init__(self, work_map: WorkMap, logger: Logger, hooks: Hooks = NO_HOOKS) -> None:
        self.work_map = work_map
        self._logger = logger
        self._hooks = hooks
        self._wants_endings = hooks.wants_endings
        # Of jobs that have failed, in whichever thread that was settled; their hooks are still to be called.
        self._endings: deque[Ending] = deque()
        self._current: Job | None = None
        # Whether the last job's handler raised, or its success couldn't be written.
        self.has_failed = False
        LOOKOUT.add(self)

    def run(self, job: Job, complete: Callable[[Job, Attempt], bool]) -> bool:
        """Run the handler of *job*, complete it, and release it; record what went wrong, if something did.

        Args:
            job: a locked one.
            complete: settles it after the handler returned; returns whether that is left for later, when
                somebody calls settle(). Raises if it was no success after all.

        Returns:
            Whether what became of the job could be written.

        Raises:
            BaseException: what ends_process(); nobody is blamed then, and the job is released.
        """
        attempt = locked_attempt_of(job)
        self._current = job
        if self.seat is not None:
            self.seat.begin(job)
        here = running_here.set(self)
        began = time.monotonic()
        failure: BaseException | None = None
        try:
            try:
                call_handler(self.work_map, job, self._hooks.middleware)
                if complete(job, attempt):
                    return True
            except BaseException as error:  # SystemExit and CancelledError too: they end the job, not the worker
                if ends_process(error):
                    raise
                failure = error
            finally:
                running_here.reset(here)
            return self.settle(job, attempt, failure, time.monotonic() - began)
        except BaseException:
            attempt.abandon()  # what the job wrote may not be committed by done()
            raise
        finally:
            self.has_failed = failure is not None
            failure = None  # or its traceback, of which this is a part, would keep the handler's variables
            self._current = None
            if self.seat is not None:
                self.seat.end()
            try:
                job.done()
            finally:
                if self._endings:
                    self.tell()

    def conclude(
        self, job: Job, complete: Callable[[Job, Attempt], bool], failure: BaseException | None, seconds: float
    ) -> bool:
        """Do what run() does after the handler of *job*, which somebody else has run.

        Args:
            job, complete: as run() has them.
            failure: what the handler has raised; None if it has returned.
            seconds: how long it ran.

        Returns, and raises: as run().
        """
        attempt = locked_attempt_of(job)
        try:
            if failure is None:
                try:
                    if complete(job, attempt):
                        return True
                except Exception as error:
                    failure = error
            return self.settle(job, attempt, failure, seconds)
        except BaseException:
            attempt.abandon()
            raise
        finally:
            self.has_failed = failure is not None
            failure = None
            try:
                job.done()
            finally:
                if self._endings:
                    self.tell()

    @property
    def job(self) -> Job | None:
        """The job that runs; None if none does."""
        return self._current

    def abandon(self) -> None:
        """From now on undo what fails, and blame no job for it: the process is about to end."""
        self._abandons = True

    def look(self) -> None:
        """See whether the lock of the running job is lost."""
        job, coroutine = self._current, self.coroutine
        # The coroutine is the job's, if that is still the same.
        if job is not None and job is self._current and job.lost and coroutine is not None:
            coroutine.cancel_as_lost()

    def settle(self, job: Job, attempt: Attempt, error: BaseException | None, seconds: float) -> bool:
        """Record *error*, if there is one, and log how the job went; return whether that could be recorded."""
        if self._abandons and error is not None:
            attempt.abandon()
            if attempt.state not in _COMMITTED:
                log_released(self._logger, job)
            return True
        recorded = error is None or attempt.fail(error, job.error)
        if attempt.observer is not None:
            attempt.observer.settled(error)
        if self._wants_endings and recorded and attempt.is_written:
            self._note_ending(job, attempt, error)
        if self.seat is None:
            self._log(job, attempt.row.id, attempt.state, error, seconds)
        else:
            with self.seat.settled(job, attempt, error, seconds):
                self._log(job, attempt.row.id, attempt.state, error, seconds)
        attempt.observer = None  # it refers to the job, and only the garbage collector would end the circle
        return recorded

    def tell(self) -> None:
        """Call the hooks for the jobs that have failed since the last call. Nothing of ours is held meanwhile.

        Raises:
            BaseException: what ends_process().
        """
        if not self._endings:
            return
        here = running_here.set(self)
        try:
            while self._endings:
                self._hooks.tell(self._endings.popleft(), self._logger)
        finally:
            running_here.reset(here)

    def _note_ending(self, job: Job, attempt: Attempt, error: BaseException | None) -> None:
        if attempt.state is State.FAILED:
            raised = PlainFailure(first_line(job.last_error)) if error is None else attempt.raised(error)
            self._endings.append(Ending(job, raised, attempt.given_up))
        elif attempt.state is State.EXPIRED:
            self._endings.append(Ending(job, None, given_up=True))

    def log_still_running(self) -> None:
        """Name the job that runs, if one does, in the log."""
        job = self._current
        if job is not None:
            self._logger.warning(
                "still_running id=%d type=%s: it hadn't ended at shutdown", job.id, printable(job.type)
            )

    def _log(self, job: Job, number: int, state: State, error: BaseException | None, seconds: float) -> None:
        if state is State.GONE:
            return  # the row said so when it was to be settled
        if isinstance(error, Discard):
            self._logger.warning("job_discarded id=%d type=%s: %s", number, printable(job.type), printable(error))
        elif state is State.RESCHEDULED:
            self._logger.info(
                "job_rescheduled id=%d type=%s: %s", number, printable(job.type), printable(error or "by its handler")
            )
        elif state in (State.DELETED, State.FINISHED, State.ELSEWHERE) and error is None:
            if self._logger.isEnabledFor(logging.INFO):  # most jobs come by here
                self._logger.info("job_worked id=%d type=%s seconds=%.3f", number, printable(job.type), seconds)
        elif state is State.EXPIRED and error is None:
            self._logger.error("job_expired id=%d type=%s: by its handler", number, printable(job.type))
        else:
            line = headline(error) if error else first_line(job.last_error)
            trace = None if isinstance(error, PlainFailure) else error
            self._logger.error(
                "job_failed id=%d type=%s: %s", number, printable(job.type), printable(line), exc_info=trace
            )


def log_released(logger: Logger, job: Job) -> None:
    """Name *job* in the log, which was undone, or will be with the end of the process."""
    logger.warning(
        "job_released id=%d type=%s queue=%s: it hadn't ended, so it was undone; it is free, and no error is counted",
        job.id,
        printable(job.type),
        printable(job.queue),
    )
