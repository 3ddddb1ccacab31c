"""Running the JobFunc of a job: it gets its payload and its context, and its failures get one shape."""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from typing import Any

from qg.failures import Logger, PlainFailure, headline
from qg.job import Job, note_handler
from qg.jobs.context import CTX_JOB_ID, Context, JobLogger, JobScope, current_scope, current_tx, current_user
from qg.jobs.envelope import PersistencePayload
from qg.jobs.errors import ErrJobFuncFailed
from qg.jobs.functions import Function, Functions
from qg.verdicts import Discard, Reschedule
from qg.working.handlers import run_handler, run_within, unknown_type
from qg.working.hooks import Middleware

__all__ = ["raised_by_job_func", "read_envelope", "run_job_func"]


def read_envelope(job: Job) -> PersistencePayload | None:
    """Return what is stored of *job*; None if this package didn't store it."""
    try:
        return PersistencePayload.read(job.args)
    except ValueError:
        return None


def run_job_func(
    functions: Functions,
    job: Job,
    envelope: PersistencePayload | None,
    scope: JobScope,
    logger: Logger,
    *,
    has_tx: bool,
    middleware: tuple[Middleware, ...] = (),
) -> None:
    """Run the JobFunc for *job* to its end.

    Args:
        functions: where the JobFunc is.
        job: what is to be done.
        envelope: what read_envelope() gave.
        scope: what enqueue() finds in the JobFunc.
        logger: to be told the job's id and type.
        has_tx: whether the JobFunc gets the transaction of *scope*.
        middleware: goes around the JobFunc.

    Raises:
        PlainFailure: if there is no function for it.
        Reschedule, Discard: as the JobFunc raises them.
        ErrJobFuncFailed: if it raises anything else; that is the cause.
    """
    try:
        function = functions.get(job.type)
        if function is None:
            raise unknown_type(job)
        note_handler(job, function.retry or function.call)
        envelope = envelope or PersistencePayload.read(job.args)
        payload = function.takes.decode(envelope.job_data)
        context = Context(
            job_id=str(job.id),
            queue=job.queue,
            run_count=job.error_count,
            tx=None,
            user_id=envelope.ctx.user_id or None,
            logger=JobLogger(logger, {"job_id": job.id, "job_type": job.type}),
            scope=scope if has_tx else None,
            job=job,
        )
        copy_context().run(_call, job, function, context, payload, scope, middleware)
    except (PlainFailure, Reschedule, Discard, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit and CancelledError too: they end the job
        raise ErrJobFuncFailed(headline(error)) from error
    finally:
        scope.end()


def raised_by_job_func(error: BaseException) -> BaseException:
    """Return what the JobFunc has raised, if run_job_func() has made *error* of that; otherwise *error* itself."""
    cause = error.__cause__ if isinstance(error, ErrJobFuncFailed) else None
    return cause if cause is not None and str(error) == headline(cause) else error


def _call(
    job: Job,
    function: Function,
    context: Context,
    payload: Any,
    scope: JobScope,
    middleware: tuple[Middleware, ...],
) -> None:
    CTX_JOB_ID.set(context.job_id)
    current_user.set(context.user_id)
    current_tx.set(None)
    current_scope.set(scope)
    run = partial(run_within, middleware) if middleware else run_handler
    run(job, function.call, context, payload)
