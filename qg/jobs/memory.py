"""MemoryQueue: the contract of PostgresJobs without a database, for development and tests."""

from __future__ import annotations

import atexit
import itertools
import logging
import threading
import time
from bisect import insort
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from qg.backoff import Backoff, exponential
from qg.failures import Logger, describe, headline, seconds_until_retry
from qg.fields import decode, draft_of
from qg.job import Job
from qg.jobs.context import RunningJob
from qg.jobs.errors import ErrInvalidQueueOpt
from qg.jobs.queue import Options, RunningQueue, Schedule
from qg.jobs.running import read_envelope, run_job_func
from qg.jobs.telemetry import Run, Telemetry
from qg.signals import in_signal_handler
from qg.tables import PollStrategy, Row, iso_text
from qg.verdicts import Discard, Reschedule

__all__ = ["MemoryQueue"]

_ORDERS: dict[PollStrategy, Callable[[Row], tuple[object, ...]]] = {
    PollStrategy.PRIORITY: lambda row: (row.priority, row.due, row.id),
    PollStrategy.RUN_AT: lambda row: (row.due, row.priority, row.id),
}


class MemoryQueue(RunningQueue):
    """A queue in this process, whose jobs end with it. Mirrors Go's ``MemoryQueue`` and ``NewMemoryQueue``.

    Jobs are stored as JSON and read back, so that what works here works in PostgreSQL. A job whose
    type has no function waits for it. In a JobFunc ``ctx.tx`` is None; the jobs it enqueues are
    dropped if it fails. A transaction given as ``tx=`` or by transaction() belongs to no memory
    queue: with it jobs are enqueued at once.

    Args:
        queue, poll_interval, pool_size, poll_strategy, meter_provider, tracer_provider: as for
            PostgresJobs.
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
        backoff: Backoff = exponential,
        logger: Logger | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        options = Options(queue, poll_interval, pool_size, poll_strategy)
        super().__init__(options, logger or logging.getLogger("qg"), Telemetry(meter_provider, tracer_provider))
        if not callable(backoff):
            raise ErrInvalidQueueOpt(f"backoff must be a function from error count to seconds, not {backoff!r}")
        self._backoff = backoff
        self._ids = itertools.count(1)
        # Guards what follows; told of each change. A signal handler may interrupt who holds it.
        self._changed = threading.Condition(threading.RLock())
        self._order = _ORDERS[poll_strategy]
        self._waiting: list[Row] = []
        self._running: dict[int, Row] = {}
        self._ticks: dict[tuple[str, str, str], tuple[Schedule, datetime]] = {}
        self._threads: list[threading.Thread] = []

    def _store(self, drafts: list[Job], tx: object) -> list[int]:
        now = _now()
        rows = [
            Row(next(self._ids), each.queue, each.priority, each.run_at or iso_text(now), each.type, each.args, 0, None)
            for each in map(draft_of, drafts)
        ]
        if isinstance(tx, _Outbox):
            tx.append((self, rows))
        else:
            self._add(rows)
        return [row.id for row in rows]

    def _shares_transaction_of(self, queue: object) -> bool:
        return isinstance(queue, MemoryQueue)

    def _add(self, rows: list[Row]) -> None:
        with self._changed:
            for row in rows:
                insort(self._waiting, row, key=self._order)
            self._changed.notify_all()

    def _declare(self, schedule: Schedule) -> None:
        now = _now().replace(microsecond=0)
        key = (schedule.cron.spec, schedule.takes.name, schedule.key)
        with self._changed:
            self._ticks.setdefault(key, (schedule, schedule.cron.after(now, now)))

    def _tick(self) -> float | None:
        now = _now()
        with self._changed:
            for key, (schedule, tick) in self._ticks.items():
                if tick <= now:
                    with self._telemetry.enqueuing():
                        self._store([self._job_of(schedule)], None)
                    self._telemetry.count_enqueued([schedule.takes.name], success=True)
                    self._ticks[key] = schedule, schedule.cron.after(tick, now)
            times = [tick for _, tick in self._ticks.values()]
        return max((min(times) - _now()).total_seconds(), 0.0) if times else None

    def _begin_soon(self) -> None:
        super()._begin_soon()
        self._wake()

    def _start_workers(self) -> None:
        for number in range(1, self._options.pool_size + 1):
            thread = threading.Thread(target=self._work, name=f"qg-memory-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _ask_workers_to_stop(self, timeout: float | None) -> None:
        self._wake()
        if in_signal_handler():
            atexit.register(self._stop_workers, timeout)

    def _stop_workers(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        self._wake()
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        with self._changed:
            for row in self._running.values():
                self._logger.warning("still_running id=%d type=%s: not finished at shutdown", row.id, row.type)
        return not any(thread.is_alive() for thread in self._threads)

    def _wake(self) -> None:
        """Let the workers look again."""
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        while (row := self._next()) is not None:
            try:
                self._attempt(row)
            finally:
                with self._changed:
                    del self._running[row.id]

    def _next(self) -> Row | None:
        """Wait for a job that is due and has a function, and return it; None at the end."""
        with self._changed:
            while not self._stopped:
                wait = None
                for position, row in enumerate(self._waiting):
                    if self._functions.get(row.type) is None:
                        continue
                    seconds = (row.due - _now()).total_seconds()
                    if seconds <= 0:
                        self._running[row.id] = self._waiting.pop(position)
                        return row
                    wait = min(seconds, threading.TIMEOUT_MAX if wait is None else wait)
                self._changed.wait(wait)
        return None

    def _attempt(self, row: Row) -> None:
        job = Job(row.type, decode(row.args), row.queue, row.priority, row.due)
        job._row = row
        envelope = read_envelope(job)
        run = Run(self._telemetry, job, envelope.ctx.carrier if envelope else {}, self._logger)
        enqueued = _Outbox()
        failure: BaseException | None = None
        try:
            with run.current():
                run_job_func(self._functions, job, envelope, RunningJob(self, enqueued), self._logger, None)
        except BaseException as error:  # whatever the JobFunc raises ends its job, not the worker
            failure = error
        if failure is None:
            for queue, rows in enqueued:
                queue._add(rows)
            self._logger.info("job_worked id=%d type=%s", row.id, row.type)
        else:
            self._settle(row, failure)
        run.end(failure)

    def _settle(self, row: Row, error: BaseException) -> None:
        """See to what becomes of a job that didn't succeed."""
        if isinstance(error, Discard):
            self._logger.warning("job_discarded id=%d type=%s: %s", row.id, row.type, error)
        elif isinstance(error, Reschedule):
            self._logger.info("job_rescheduled id=%d type=%s: %s", row.id, row.type, error)
            at = error.at or _now() + timedelta(seconds=error.after or 0)
            self._add([row._replace(run_at=iso_text(at))])
        else:
            self._logger.error("job_failed id=%d type=%s: %s", row.id, row.type, headline(error), exc_info=error)
            count = row.error_count + 1
            at = _now() + timedelta(seconds=seconds_until_retry(self._backoff, count, self._logger))
            self._add([row._replace(run_at=iso_text(at), error_count=count, last_error=describe(error))])


class _Outbox(list["tuple[MemoryQueue, list[Row]]"]):
    """What a JobFunc has enqueued, to come to be if it succeeds."""


def _now() -> datetime:
    return datetime.now(timezone.utc)
