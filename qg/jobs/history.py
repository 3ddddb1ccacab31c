"""AttemptHistory: the row that qg_jobs_history gets for each attempt, in the transaction of the job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import psycopg2
from psycopg2.extensions import connection

from qg.database.driver import plain_cursor
from qg.failures import Logger, describe, headline, storable
from qg.job import Job, locked_attempt_of
from qg.jobs.context import JobScope
from qg.jobs.envelope import git_hash, json_of
from qg.jobs.errors import ErrJobFuncFailed
from qg.jobs.functions import Functions
from qg.jobs.job_func import raised_by_job_func, read_envelope, run_job_func
from qg.jobs.tables import JobsTables
from qg.jobs.telemetry import JobSpan, Telemetry
from qg.tables import Statement
from qg.verdicts import Discard, Reschedule
from qg.working.hooks import Middleware

__all__ = ["AttemptHistory"]


class AttemptHistory:
    """The history of one attempt at *job*; the core calls it as the job's observer.

    run() runs the JobFunc. If that uses the job's transaction, run() writes the row of a success there. Otherwise
    the worker asks success() for it, and writes it together with the rows of others. In either case the worker
    deletes the job in the same transaction, and commits it. Where something fails, the worker rolls everything back,
    asks record() for the row of the failure, and writes that row together with the retry.
    """

    def __init__(self, job: Job, tables: JobsTables, telemetry: Telemetry, logger: Logger) -> None:
        self._attempt = attempt = locked_attempt_of(job)
        self._job = job
        self._tables = tables
        self._row = attempt.row
        self._envelope = read_envelope(job)
        self._logger = logger
        self._span = JobSpan(telemetry, job, self._envelope, logger)
        self._began = self._ended = time.monotonic()
        self._is_written = False
        attempt.observer = self

    def run(self, functions: Functions, queue: object, place: object, middleware: tuple[Middleware, ...] = ()) -> None:
        """Run the JobFunc, and write the history if it has used the job's transaction, which is left open.

        Args:
            functions: where the JobFunc is.
            queue: the queue object that runs the job.
            place: which queues can store in the job's transaction; see JobScope.
            middleware: goes around the JobFunc.

        Raises:
            PlainFailure, Reschedule, Discard, ErrJobFuncFailed: as run_job_func().
            psycopg2.Error: if the database failed.
        """
        scope = JobScope(queue, self._begin, place)
        try:
            with self._span.current():
                run_job_func(
                    functions, self._job, self._envelope, scope, self._logger, has_tx=True, middleware=middleware
                )
        finally:
            self._ended = time.monotonic()
        if scope.has_begun:
            self._end_transaction()

    def _begin(self) -> connection:
        """Begin the job's transaction, for its JobFunc."""
        tx: connection = self._job.tx
        with plain_cursor(tx) as cur:
            cur.execute(self._tables.begin_attempt.plain_sql)
        return tx

    def _end_transaction(self) -> None:
        """Write the row of a success in the job's transaction, unless the JobFunc has ended that."""
        try:
            self._attempt.write_beside_handler(self._tables.end_attempt, (f"[{self._history(None)}]",))
            self._is_written = True
        except (
            psycopg2.errors.InvalidSavepointSpecification,
            psycopg2.errors.NoActiveSqlTransaction,
        ) as error:
            raise ErrJobFuncFailed(
                "it ended the transaction of its job; leave commit() and rollback() to the queue, "
                "or use a connection of your own"
            ) from error
        except psycopg2.errors.InFailedSqlTransaction as error:
            raise ErrJobFuncFailed(
                "it swallowed a database error, after which nothing of its transaction can be kept; "
                "let it pass, or use a savepoint"
            ) from error

    def record(self, error: BaseException, conn: connection) -> tuple[Statement, Sequence[Any]]:
        """Return the history row of an attempt that failed."""
        text = headline(error) if isinstance(error, (Reschedule, Discard)) else describe(error)
        return self._tables.insert_attempts, (f"[{self._history(storable(text, conn))}]",)

    def raised(self, error: BaseException) -> BaseException:
        """Return what the JobFunc has raised, if *error* was made of that."""
        return raised_by_job_func(error)

    def success(self) -> tuple[Statement, str] | None:
        """Return the history row of an attempt that succeeded; None if run() has written it."""
        return None if self._is_written else (self._tables.insert_attempts, self._history(None))

    @property
    def trace_id(self) -> str | None:
        """The id of the trace that the span is in; None if nobody records any."""
        return self._span.trace_id

    def settled(self, error: BaseException | None) -> None:
        """End the span."""
        self._span.end(error)

    def _history(self, run_error: str | None) -> str:
        """Return the JSON of an object that insert_attempts takes."""
        row, args = self._row, self._row.args
        if self._envelope is not None:
            processed = msgspec.structs.replace(self._envelope, git_hash_processed=git_hash())
            with suppress(ValueError):  # args with a number that Python can't hold stay as they are
                args = json_of(processed)
        now = time.monotonic()
        record = {
            "job_id": row.id,
            "job_type": row.type,
            "queue": row.queue,
            "priority": row.priority,
            "run_at": row.run_at,
            "args": args,
            "run_count": row.error_count,
            "began_ago": now - self._began,
            "ended_ago": now - self._ended,
        }
        return json_of(record if run_error is None else {**record, "run_error": run_error})
