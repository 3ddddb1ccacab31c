"""PostgresJobs: typed jobs, functions and schedules on the ``que_jobs`` table."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from qg.client import Client, engine_of
from qg.database.session import Session
from qg.failures import Logger
from qg.job import Job, note_handler
from qg.jobs.errors import ErrInvalidQueueOpt
from qg.jobs.functions import Functions
from qg.jobs.history import AttemptHistory
from qg.jobs.pool_report import PoolReport
from qg.jobs.queue import BaseQueue, Options, checked_hooks
from qg.jobs.schedules import Schedules
from qg.jobs.tables import JobsTables, find_tables
from qg.jobs.telemetry import Telemetry
from qg.tables import PollStrategy, Table
from qg.workerpool import WorkerPool
from qg.working.handlers import WorkFunc, WorkMap
from qg.working.hooks import Hooks, Middleware, OnError, OnExpired
from qg.working.oversight import Oversight

__all__ = ["PostgresJobs", "PostgresJobsHandler"]


class PostgresJobs(BaseQueue):
    """A queue in PostgreSQL. Mirrors Go's ``NewPostgresJobs`` and ``PostgresJobsHandler``.

    Args:
        source: as for :class:`qg.Client`; or a client, whose backoff and logger then hold, and which
            stays open at shutdown(). It must have *connections* to give and two more: to listen on (see
            :func:`qg.migrate`), and for schedules; besides, one for each job that uses ``ctx.tx`` at the time.
        queue: the queue's name.
        poll_interval: seconds that an idle worker sleeps, and that pass after the last
            registration before work starts.
        pool_size: how many workers, each with a thread.
        connections: how many sessions lock jobs for them; as for a :class:`qg.WorkerPool`, and None means here, too,
            that each worker has its own.
        pool_name: names the pool in qg_jobs_worker_pool; by default host, process and four
            characters.
        poll_strategy: which due job is taken first.
        middleware, on_error, on_expired: as for a :class:`qg.Worker`. The job that they are given is a
            :class:`qg.Job`; middleware goes around the function, in its context; the error is what the function raised.
        logger: for what the queue and its functions log, and its workers too unless *source* is a
            client, which has a logger of its own; by default that one.
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
        connections: int | None = 1,
        pool_name: str | None = None,
        poll_strategy: PollStrategy = PollStrategy.PRIORITY,
        middleware: Sequence[Middleware] = (),
        on_error: OnError | None = None,
        on_expired: OnExpired | None = None,
        logger: Logger | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        hooks = checked_hooks(middleware, on_error, on_expired)
        options = Options(queue, poll_interval, pool_size, poll_strategy, connections, hooks)
        if pool_name is not None and (not isinstance(pool_name, str) or not pool_name):
            raise ErrInvalidQueueOpt(f"pool_name must be a non-empty string, not {pool_name!r}")
        if isinstance(source, Client) and source.runs_synchronously:
            raise ErrInvalidQueueOpt("a client with run_synchronously runs jobs itself; give one without")
        telemetry = Telemetry(meter_provider, tracer_provider)
        self._owns_client = not isinstance(source, Client)
        self._client = source if isinstance(source, Client) else Client(source, logger=logger)
        try:
            self._tables, place = engine_of(self._client).database.run(_find_tables)
            schedules = Schedules(self._client, self._tables, queue, telemetry)
            super().__init__(options, logger or self._client.logger, telemetry, schedules, place)
        except BaseException:
            if self._owns_client:
                self._client.close()
            raise
        self._pool: WorkerPool | None = None
        # Is told what the workers do; ``qg work`` sets it before the start.
        self.oversight: Oversight | None = None
        self._work_map = _WorkMap(self._functions, self._work)
        name = pool_name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._report = PoolReport(self._client, self._tables, name, queue, pool_size, self._functions, self._logger)

    @property
    def client(self) -> Client:
        """What the queue enqueues with, and works with."""
        return self._client

    @property
    def worker_pool(self) -> WorkerPool | None:
        """What works the jobs; None before that begins."""
        return self._pool

    @property
    def work_map(self) -> WorkMap:
        """From job type to what works such a job: the queue itself, for each type that has a function."""
        return self._work_map

    @property
    def hooks(self) -> Hooks:
        """What is called around each job, and after those that fail."""
        return self._options.hooks

    def follow(self, job: Job) -> None:
        """Keep a history of an attempt at *job*, which is locked, and which somebody else has begun and will end.

        The retry policy is that of the function which works it.
        """
        AttemptHistory(job, self._tables, self._telemetry, self._logger)
        function = self._functions.get(job.type)
        if function is not None:
            note_handler(job, function.retry or function.call)

    def _store(self, drafts: list[Job], tx: object) -> list[int]:
        if len(drafts) == 1:
            stored = [self._client.enqueue(drafts[0]) if tx is None else self._client.enqueue_in_tx(drafts[0], tx)]
        else:
            client = self._client
            stored = (
                client.enqueue_batch(drafts, notify=True)
                if tx is None
                else client.enqueue_batch_in_tx(drafts, tx, notify=True)
            )
        return [cast("int", job.id) for job in stored]

    def _announce_functions(self) -> None:
        if self._working:
            self._conductor.carry_out("report", self._report.write)

    def _start_workers(self) -> None:
        # Without a history each job would fail, and be run again.
        engine_of(self._client).require_rights(self._tables.rights_to_work)
        options = self._options
        pool = WorkerPool(
            self._client,
            self._work_map,
            options.pool_size,
            queue=options.queue,
            interval=options.poll_interval,
            poll_strategy=options.poll_strategy,
            connections=options.connections,
            on_error=options.hooks.on_error,
            on_expired=options.hooks.on_expired,
        )
        pool.oversight = self.oversight
        self._pool = pool  # before it starts, so that a shutdown meanwhile finds it
        pool.start()
        self._conductor.carry_out("report", self._report.write)

    def _ask_workers_to_stop(self, timeout: float | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(timeout)

    def _stop_workers(self, timeout: float | None) -> bool:
        ended = self._pool is None or self._pool.shutdown(timeout)
        self._report.leave(worked=self._pool is not None)
        if self._owns_client:
            self._client.close()
        return ended

    def _work(self, job: Job) -> None:
        history = AttemptHistory(job, self._tables, self._telemetry, self._logger)
        history.run(self._functions, self, self._place, self._options.hooks.middleware)


PostgresJobsHandler = PostgresJobs
"""The name that the type has in Go."""


class _WorkMap(Mapping[str, WorkFunc]):
    """Leads every job to *work*, even if its type has no function: the history tells of that attempt too."""

    def __init__(self, functions: Functions, work: WorkFunc) -> None:
        self._functions = functions
        self._work = work

    def __getitem__(self, job_type: str) -> WorkFunc:
        return self._work

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions.job_types)

    def __len__(self) -> int:
        return len(self._functions.job_types)


def _find_tables(session: Session, table: Table) -> tuple[JobsTables, tuple[str, int, str, str]]:
    """Return the tables of qg.jobs, and what is the same for two queues only if they have the same que_jobs."""
    info = session.conn.info
    return find_tables(session), (info.host, info.port, info.dbname, table.schema)
