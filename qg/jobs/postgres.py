"""PostgresJobs: typed jobs, functions and schedules on the ``que_jobs`` table."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from typing import cast

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from psycopg2.extensions import connection

from qg.client import Client
from qg.failures import one_line
from qg.handlers import WorkFunc
from qg.job import Job
from qg.jobs.attempt import Attempt
from qg.jobs.context import current_tx, running_job
from qg.jobs.envelope import git_hash
from qg.jobs.errors import ErrInvalidQueueOpt
from qg.jobs.functions import Functions
from qg.jobs.queue import Options, RunningQueue, Schedule
from qg.jobs.schedules import Schedules
from qg.jobs.tables import REPORT_POOL, require_tables
from qg.jobs.telemetry import Telemetry
from qg.locks import Logger
from qg.tables import PollStrategy
from qg.workerpool import WorkerPool

__all__ = ["PostgresJobs", "PostgresJobsHandler"]

_REPORT_SECONDS = 30.0


class PostgresJobs(RunningQueue):
    """A queue in PostgreSQL. Mirrors Go's ``NewPostgresJobs`` and ``PostgresJobsHandler``.

    Args:
        source: as for :class:`qg.Client`; or a client, whose backoff and logger then hold, and which
            stays open at shutdown(). It must have *pool_size* connections to give and two more: to
            listen on (see :func:`qg.migrate`), and for schedules.
        queue: the queue's name.
        poll_interval: seconds that an idle worker sleeps, and that pass after the last
            registration before work starts.
        pool_size: how many workers, each with a thread and a connection.
        pool_name: names the pool in qg_jobs_worker_pool; by default host, process and four
            characters.
        poll_strategy: which due job is taken first.
        logger: for all that the queue, its jobs and its workers log; by default the client's.
        meter_provider: where metrics go; by default OpenTelemetry's global one.
        tracer_provider: where spans go; by default OpenTelemetry's global one.

    Raises:
        ErrInvalidQueueOpt: if an option is out of bounds.
        ErrTable: if :func:`qg.migrate` or :func:`qg.jobs.migrate` hasn't been run.
        ErrUnusable: if *source* is of no known kind.
        psycopg2.Error: if the database can't be reached.
    """

    def __init__(
        self,
        source: object,
        *,
        queue: str = "",
        poll_interval: float = 5.0,
        pool_size: int = 10,
        pool_name: str | None = None,
        poll_strategy: PollStrategy = PollStrategy.PRIORITY,
        logger: Logger | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        options = Options(queue, poll_interval, pool_size, poll_strategy)
        if pool_name is not None and (not isinstance(pool_name, str) or not pool_name):
            raise ErrInvalidQueueOpt(f"pool_name must be a non-empty string, not {pool_name!r}")
        self._owns_client = not isinstance(source, Client)
        self._client = source if isinstance(source, Client) else Client(source, logger=logger)
        super().__init__(options, logger or self._client.logger, Telemetry(meter_provider, tracer_provider))
        self._pool_name = pool_name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._pool: WorkerPool | None = None
        self._left = False
        self._work_map = _WorkMap(self._functions, self._work)
        self._schedules = Schedules(self._client, queue, self._job_of)
        try:
            with self._client._session() as session:
                require_tables(session)
                self._database = _database(session.conn)
        except BaseException:
            if self._owns_client:
                self._client.close()
            raise

    def _store(self, drafts: list[Job], tx: object) -> list[int]:
        if tx is None:
            tx = current_tx.get()
        if tx is None:
            tx = self._transaction_of_running_job()
        if len(drafts) == 1:
            stored = [self._client.enqueue(drafts[0]) if tx is None else self._client.enqueue_in_tx(drafts[0], tx)]
        else:
            stored = self._client.enqueue_batch(drafts) if tx is None else self._client.enqueue_batch_in_tx(drafts, tx)
        return [cast("int", job.id) for job in stored]

    def _transaction_of_running_job(self) -> object:
        running = running_job.get()
        # A queue in another database has a transaction of its own.
        if running is None or getattr(running.queue, "_database", None) != self._database:
            return None
        return running.tx

    def _declare(self, schedule: Schedule) -> None:
        self._schedules.declare(schedule)

    def _tick(self) -> float | None:
        return self._schedules.tick()

    def _begin_soon(self) -> None:
        super()._begin_soon()
        if self._working:
            self._conductor.carry_out(self._report)

    def _start_workers(self) -> None:
        options = self._options
        pool = WorkerPool(
            self._client,
            self._work_map,
            options.pool_size,
            queue=options.queue,
            interval=options.poll_interval,
            poll_strategy=options.poll_strategy,
        )
        pool.start()
        self._pool = pool
        self._conductor.carry_out(self._report)

    def _ask_workers_to_stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(0.0)

    def _stop_workers(self, timeout: float | None) -> bool:
        ended = self._pool is None or self._pool.shutdown(timeout)
        if not self._left:
            self._left = True
            self._leave()
        return ended

    def _work(self, job: Job) -> None:
        Attempt(job, self._telemetry).run(self._functions, self, self._logger)

    def _report(self) -> float:
        """Say in qg_jobs_worker_pool that the pool lives."""
        self._write_report(self._options.pool_size)
        return _REPORT_SECONDS

    def _write_report(self, workers: int) -> None:
        with self._client._session() as session:
            session.run(
                REPORT_POOL,
                (self._pool_name, self._options.queue, workers, git_hash(), self._functions.job_types),
            )

    def _leave(self) -> None:
        try:
            if self._pool is not None:
                self._write_report(0)
        except Exception as error:  # of psycopg2 or of the source; the row says when it was written last
            self._logger.warning("report_failed pool=%s: %s", self._pool_name, one_line(error))
        if self._owns_client:
            self._client.close()


PostgresJobsHandler = PostgresJobs
"""The name that the type has in Go."""


class _WorkMap(Mapping[str, WorkFunc]):
    """Leads every job to *work*: of one whose type has no function the history tells, too."""

    def __init__(self, functions: Functions, work: WorkFunc) -> None:
        self._functions = functions
        self._work = work

    def __getitem__(self, job_type: str) -> WorkFunc:
        return self._work

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions.job_types)

    def __len__(self) -> int:
        return len(self._functions.job_types)


def _database(conn: connection) -> tuple[str, int, str, str]:
    """Return what tells whether another connection leads to the same tables."""
    info = conn.info
    return info.host, info.port, info.dbname, info.options
