"""qg: a job queue in PostgreSQL, on the table of Ruby Que and with the names of Go's qg.

::

    import qg

    client = qg.Client("postgresql:///app")
    client.enqueue(qg.Job("SendMail", args=[42], queue="mail"))

    job = client.lock_job("mail")
    if job is not None:
        with job:
            print(job.type, job.args)
            job.delete()

Workers in threads are :class:`WorkerPool`; the table comes from :func:`migrate`.
"""

from __future__ import annotations

from qg import activejob, backoff, testing
from qg.client import Client
from qg.database.foreign import Conner, Queryer, Txer
from qg.database.prepared import prepare_statements
from qg.errors import (
    ErrAgain,
    ErrClientClosed,
    ErrInvalidJob,
    ErrInvalidOption,
    ErrJobGone,
    ErrLockLost,
    ErrMiddleware,
    ErrMissingExtra,
    ErrMissingType,
    ErrNotCommitted,
    ErrNotLocked,
    ErrPooler,
    ErrPoolState,
    ErrRights,
    ErrTable,
    ErrTooFewConnections,
    ErrUnknownJob,
    ErrUnknownQueue,
    ErrUnusable,
    QgError,
)
from qg.job import Job
from qg.retries import RetryPolicy, retry
from qg.schema import migrate, schema_version
from qg.stats import JobState, JobStats
from qg.tables import PollStrategy
from qg.verdicts import Discard, Reschedule
from qg.worker import Worker
from qg.workerpool import WorkerPool
from qg.working.handlers import WorkFunc, WorkMap

__version__ = "0.1.0.dev0"

__all__ = [
    "Client",
    "Conner",
    "Discard",
    "ErrAgain",
    "ErrClientClosed",
    "ErrInvalidJob",
    "ErrInvalidOption",
    "ErrJobGone",
    "ErrLockLost",
    "ErrMiddleware",
    "ErrMissingExtra",
    "ErrMissingType",
    "ErrNotCommitted",
    "ErrNotLocked",
    "ErrPoolState",
    "ErrPooler",
    "ErrRights",
    "ErrTable",
    "ErrTooFewConnections",
    "ErrUnknownJob",
    "ErrUnknownQueue",
    "ErrUnusable",
    "Job",
    "JobState",
    "JobStats",
    "PollStrategy",
    "QgError",
    "Queryer",
    "Reschedule",
    "RetryPolicy",
    "Txer",
    "WorkFunc",
    "WorkMap",
    "Worker",
    "WorkerPool",
    "activejob",
    "backoff",
    "migrate",
    "prepare_statements",
    "retry",
    "schema_version",
    "testing",
]
