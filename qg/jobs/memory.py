"""MemoryQueue: the contract of PostgresJobs without a database, for development and tests."""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from qg.backoff import Backoff, que_delay
from qg.enqueuing.fields import decode
from qg.failures import Logger, describe, headline, printable, seconds_until_retry
from qg.job import Job, note_row
from qg.jobs.context import JobScope
from qg.jobs.envelope import PersistencePayload
from qg.jobs.errors import ErrInvalidQueueOpt
from qg.jobs.job_func import raised_by_job_func, read_envelope, run_job_func
from qg.jobs.memory_schedules import MemorySchedules
from qg.jobs.memory_store import MemoryStore, utc_now
from qg.jobs.queue import BaseQueue, Options, checked_hooks
from qg.jobs.telemetry import JobSpan, Telemetry
from qg.signals import in_signal_handler
from qg.tables import PollStrategy, Row, iso_text
from qg.verdicts import Discard, Reschedule
from qg.working.event_loop import HandlerLoop
from qg.working.handlers import Running, running_here
from qg.working.hooks import Ending, Middleware, OnError, OnExpired
from qg.working.threads import BackgroundThread, join_all

__all__ = ["MemoryQueue"]

# All queues in memory can store what the JobFunc of another one enqueues.
_PLACE = "memory"


class MemoryQueue(BaseQueue):
    """A queue in this process, whose jobs end with it. Mirrors Go's ``MemoryQueue`` and ``NewMemoryQueue``.

    Jobs are stored as JSON and read back, so that what works here works in PostgreSQL. A job waits
    as long as its type has no function. In a JobFunc ``ctx.tx`` is None; the jobs that it enqueues
    are dropped if it fails. With ``tx=`` or in transaction() jobs are enqueued at once, since no
    transaction reaches into memory. A job is given up if its function's retry policy says so, and is gone then.

    Args:
        queue, poll_interval, pool_size, poll_strategy, middleware, on_error, on_expired, meter_provider,
            tracer_provider: as for PostgresJobs.
        backoff: from a job's error count to the seconds until it is run again.
        logger: by default ``logging.getLogger("qg")``.

    Raises:
        ErrInvalidQueueOpt: if an option is out of bounds.
    """

    def __init__(
        self,
        *,
        queue: str = "",
        poll_interval: float = 5.0,
        pool_size: int = 10,
        poll_strategy: PollStrategy = PollStrategy.PRIORITY,
        backoff: Backoff = que_delay,
        middleware: Sequence[Middleware] = (),
        on_error: OnError | None = None,
        on_expired: OnExpired | None = None,
        logger: Logger | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        hooks = checked_hooks(middleware, on_error, on_expired)
        options = Options(queue, poll_interval, pool_size, poll_strategy, hooks=hooks)
        telemetry = Telemetry(meter_provider, tracer_provider)
        self._memory = MemoryStore(poll_strategy)
        schedules = MemorySchedules(self._memory, queue, telemetry)
        super().__init__(options, logger or logging.getLogger("qg"), telemetry, schedules, _PLACE)
        if not callable(backoff):
            raise ErrInvalidQueueOpt(f"backoff must be a function from error count to seconds, not {backoff!r}")
        self._backoff = backoff
        self._threads: list[BackgroundThread] = []
        self._loop = HandlerLoop(self._logger)

    def _store(self, drafts: list[Job], tx: object) -> list[int]:
        rows = self._memory.rows_for(drafts)
        if isinstance(tx, _Outbox):
            tx.append((self._memory, rows))
        else:
            self._memory.add(rows)
        return [row.id for row in rows]

    def _announce_functions(self) -> None:
        self._memory.wake()

    def _start_workers(self) -> None:
        # Where a thread could not be started, this is called again for the others.
        for number in range(len(self._threads) + 1, self._options.pool_size + 1):
            thread = BackgroundThread(
                f"qg-memory-{number}",
                partial(self._loop.outlive, self._run),
                wake=self._memory.stop_taking,
                logger=self._logger,
            )
            thread.start()
            self._threads.append(thread)

    def _ask_workers_to_stop(self, timeout: float | None) -> None:
        self._stop_threads()
        if in_signal_handler():
            atexit.register(self._stop_workers, timeout)

    def _stop_workers(self, timeout: float | None) -> bool:
        self._stop_threads()
        deadline = None if timeout is None else time.monotonic() + timeout
        ended = join_all(self._threads, timeout)
        ended = self._loop.join(None if deadline is None else max(deadline - time.monotonic(), 0.0)) and ended
        for row in self._memory.attempted():
            self._logger.warning(
                "still_running id=%d type=%s: it hadn't ended at shutdown", row.id, printable(row.type)
            )
        return ended

    def _stop_threads(self) -> None:
        self._memory.stop_taking()  # those too that are being started
        for thread in self._threads:
            thread.stop()
        self._loop.stop()

    def _run(self) -> None:
        """Work jobs until the store gives none any more; several threads run this."""
        running = Running()
        running.loop = self._loop
        running_here.set(running)
        while (row := self._memory.take(self._functions)) is not None:
            self._attempt(row)

    def _attempt(self, row: Row) -> None:
        """Run the job of *row* once and settle it, whatever the JobFunc, a logger or telemetry raises."""
        # An attempt that doesn't get as far as its settlement is repeated, and not at once.
        again: Row | None = _put_off(row, que_delay(1))
        span: JobSpan | None = None
        error: BaseException | None = None
        failed: Job | None = None
        try:
            job = _job_of(row)
            envelope = read_envelope(job)
            span = JobSpan(self._telemetry, job, envelope, self._logger)
            outbox = _Outbox()
            error = self._run_job_func(job, envelope, span, outbox)
            if error is None:
                for store, rows in outbox:
                    store.add(rows)
            again = self._settle(row, error)
            self._log(row, error)
            if not (error is None or isinstance(error, (Reschedule, Discard))):
                failed = job
        finally:
            self._memory.end(row, again)
            if span is not None:
                span.end(error)
        if failed is not None and error is not None:
            self._tell(failed, raised_by_job_func(error), again)

    def _tell(self, job: Job, error: BaseException, again: Row | None) -> None:
        """Call the hooks for *job*, which has failed, and waits as *again*, unless it was given up."""
        if again is not None:
            note_row(job, again)
        self._options.hooks.tell(Ending(job, error, given_up=again is None), self._logger)

    def _run_job_func(
        self, job: Job, envelope: PersistencePayload | None, span: JobSpan, outbox: _Outbox
    ) -> BaseException | None:
        """Run the JobFunc for *job*; return what it raised, if it raised something."""
        try:
            with span.current():
                run_job_func(
                    self._functions,
                    job,
                    envelope,
                    JobScope(self, lambda: outbox, _PLACE),
                    self._logger,
                    has_tx=False,
                    middleware=self._options.hooks.middleware,
                )
        except BaseException as error:  # whatever the JobFunc raises ends its job, not the worker
            return error
        return None

    def _settle(self, row: Row, error: BaseException | None) -> Row | None:
        """Return how the job of *row* waits after an attempt that raised *error*; None if it is gone."""
        if error is None or isinstance(error, Discard):
            return None
        if isinstance(error, Reschedule):
            return row._replace(run_at=iso_text(error.at)) if error.at else _put_off(row, error.after or 0)
        count = row.error_count + 1
        function = self._functions.get(row.type)
        policy = function.policy if function is not None else None
        if policy is not None and policy.gives_up(raised_by_job_func(error), count):
            self._logger.error("job_expired id=%d error_count=%d: it isn't tried again", row.id, count)
            return None
        backoff = self._backoff if policy is None or policy.backoff is None else policy.backoff
        seconds = seconds_until_retry(backoff, count, self._logger)
        return _put_off(row, seconds)._replace(error_count=count, last_error=describe(error))

    def _log(self, row: Row, error: BaseException | None) -> None:
        if error is None:
            self._logger.info("job_worked id=%d type=%s", row.id, printable(row.type))
        elif isinstance(error, Discard):
            self._logger.warning("job_discarded id=%d type=%s: %s", row.id, printable(row.type), printable(error))
        elif isinstance(error, Reschedule):
            self._logger.info("job_rescheduled id=%d type=%s: %s", row.id, printable(row.type), printable(error))
        else:
            self._logger.error(
                "job_failed id=%d type=%s: %s", row.id, printable(row.type), printable(headline(error)), exc_info=error
            )


class _Outbox(list["tuple[MemoryStore, list[Row]]"]):
    """What a JobFunc has enqueued, and where: it is stored if the JobFunc succeeds."""


def _job_of(row: Row) -> Job:
    job = Job(row.type, decode(row.args), row.queue, row.priority, row.due)
    note_row(job, row)
    return job


def _put_off(row: Row, seconds: float) -> Row:
    return row._replace(run_at=iso_text(utc_now() + timedelta(seconds=seconds)))
