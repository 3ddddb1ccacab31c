"""Typed jobs, the functions that work them, and cron, on top of qg. Mirrors the ``jobs`` package of Go's arrower.

::

    from dataclasses import dataclass
    from qg import jobs

    @dataclass(frozen=True)
    class GreetUser:
        user_id: int

    queue = jobs.PostgresJobs("postgresql:///app", pool_size=4)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: GreetUser) -> None:
        with ctx.tx.cursor() as cur:
            cur.execute("UPDATE users SET greeted = true WHERE id = %s", (job.user_id,))

    queue.enqueue(GreetUser(7))

Needs the extra ``qg[jobs]``.
"""

from __future__ import annotations

from qg.errors import ErrMissingExtra

try:
    from qg.jobs.context import CTX_JOB_ID, Context, from_context, transaction, user
    from qg.jobs.envelope import PersistenceCTXPayload, PersistencePayload
    from qg.jobs.errors import (
        ErrEnqueueFailed,
        ErrInvalidJobFunc,
        ErrInvalidJobOpt,
        ErrInvalidJobType,
        ErrInvalidQueueOpt,
        ErrJobFuncFailed,
        ErrOtherContext,
        ErrRegisterJobFuncFailed,
        ErrScheduleFailed,
        ErrStartFailed,
    )
    from qg.jobs.functions import JobFunc
    from qg.jobs.memory import MemoryQueue
    from qg.jobs.noop import NoopQueue
    from qg.jobs.payloads import Payload
    from qg.jobs.postgres import PostgresJobs, PostgresJobsHandler
    from qg.jobs.protocols import Enqueuer, Queue, Scheduler
    from qg.jobs.tables import migrate, prune_history, prune_ticks
    from qg.jobs.testing import TestAssertions, TestQueue
    from qg.tables import PollStrategy
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in ("cronsim", "msgspec", "opentelemetry"):
        raise
    raise ErrMissingExtra(f"qg.jobs needs {error.name}, which isn't installed; pip install 'qg[jobs]'") from error

__all__ = [
    "CTX_JOB_ID",
    "Context",
    "Enqueuer",
    "ErrEnqueueFailed",
    "ErrInvalidJobFunc",
    "ErrInvalidJobOpt",
    "ErrInvalidJobType",
    "ErrInvalidQueueOpt",
    "ErrJobFuncFailed",
    "ErrOtherContext",
    "ErrRegisterJobFuncFailed",
    "ErrScheduleFailed",
    "ErrStartFailed",
    "JobFunc",
    "MemoryQueue",
    "NoopQueue",
    "Payload",
    "PersistenceCTXPayload",
    "PersistencePayload",
    "PollStrategy",
    "PostgresJobs",
    "PostgresJobsHandler",
    "Queue",
    "Scheduler",
    "TestAssertions",
    "TestQueue",
    "from_context",
    "migrate",
    "prune_history",
    "prune_ticks",
    "transaction",
    "user",
]
