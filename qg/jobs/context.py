"""What surrounds a job: the context that its JobFunc gets, and what the enqueuer says for a whole block."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extensions import connection

from qg.errors import ErrInvalidOption
from qg.failures import Logger, printable
from qg.job import Job
from qg.jobs.blocks import block, require_no_unseen

__all__ = [
    "CTX_JOB_ID",
    "Context",
    "JobLogger",
    "JobScope",
    "current_tx",
    "current_user",
    "current_scope",
    "from_context",
    "require_seen",
    "transaction",
    "user",
]

CTX_JOB_ID: ContextVar[str | None] = ContextVar("qg.jobs", default=None)
"""The id of the job that is running. Mirrors Go's ``CTXJobID``."""

current_tx: ContextVar[object] = ContextVar("qg.jobs.tx", default=None)
"""The caller's transaction within transaction()."""

current_user: ContextVar[str | None] = ContextVar("qg.jobs.user", default=None)
"""Whose request it is."""


class _Line(str):
    """A log line: a message, and the job behind it. Logging fills its arguments into the message alone."""

    message: str
    job: str

    # It has no __init__, since str(line), which logging calls, would call that with the line alone.
    def __new__(cls, message: Any, job: str) -> _Line:
        line = super().__new__(cls, f"{message} {job}")
        line.message, line.job = str(message), job
        return line

    def __str__(self) -> str:
        return self

    def __mod__(self, arguments: Any) -> str:
        return f"{self.message % arguments} {self.job}"


class JobLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # it has no parameters at run time in Python 3.10
    """Adds the job's id and type to each line, and to each record as ``job_id`` and ``job_type``."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Return *msg* with the job's id and type behind it."""
        job = dict(self.extra or {})
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **job}
        return _Line(msg, " ".join(f"{key}={printable(value)}" for key, value in job.items())), kwargs


class JobScope:
    """What enqueue() finds inside a JobFunc: whose job runs here, and the transaction of that job.

    The scope can outlive its job, for instance in a thread that the JobFunc has started. So whoever
    uses *tx* holds *mutex*, and uses *tx* only while the job isn't *over*.

    Attributes:
        queue: the queue object that runs the job.
        place: which queues can store in *tx*: those with the same place.
        mutex: held by whoever uses *tx*.
        over: whether the JobFunc has returned.
    """

    def __init__(self, queue: object, begin: Callable[[], Any], place: object) -> None:
        self.queue = queue
        self._begin = begin
        self._tx: Any = None
        self.place = place
        self.mutex = threading.RLock()
        self.over = False

    @property
    def tx(self) -> Any:
        """Where jobs are stored that live and die with the job that runs; begins with the first use."""
        with self.mutex:
            if self._tx is None and not self.over:
                self._tx = self._begin()
            return self._tx

    @property
    def has_begun(self) -> bool:
        """Whether tx was used."""
        return self._tx is not None

    def end(self) -> None:
        """Note that the JobFunc has returned."""
        with self.mutex:
            self.over = True


current_scope: ContextVar[JobScope | None] = ContextVar("qg.jobs.scope", default=None)
"""The scope of the job that is running here."""


@dataclass(frozen=True, init=False)
class Context:
    """What a JobFunc gets besides its payload; stands for the ``context.Context`` that Go hands over.

    Attributes:
        job_id: the job's id, as from_context() gives it.
        queue: the queue's name.
        run_count: how often the job has failed before.
        user_id: whose user() block enqueued the job; None if none did.
        logger: the queue's logger, which adds the job's id and type.
    """

    job_id: str
    queue: str
    run_count: int
    user_id: str | None
    logger: Logger
    _tx: Any = field(repr=False, compare=False)
    _scope: JobScope | None = field(repr=False, compare=False)
    _job: Job | None = field(repr=False, compare=False)

    def __init__(
        self,
        job_id: str,
        queue: str,
        run_count: int,
        tx: Any,
        user_id: str | None,
        logger: Logger,
        *,
        scope: JobScope | None = None,
        job: Job | None = None,
    ) -> None:
        self.__dict__.update(
            job_id=job_id,
            queue=queue,
            run_count=run_count,
            user_id=user_id,
            logger=logger,
            _tx=tx,
            _scope=scope,
            _job=job,
        )

    @property
    def tx(self) -> connection | Any:
        """The transaction of the job, a psycopg2 connection; it begins with the first use.

        What is written through it is committed together with the job's deletion; leave commit() and rollback() to
        the queue. None on a MemoryQueue.
        """
        return self._tx if self._scope is None else self._scope.tx

    @property
    def lost(self) -> bool:
        """Whether the session that holds the job's lock has ended, so that somebody else may work the job by now.

        As :attr:`qg.Job.lost`; always False on a MemoryQueue.
        """
        return self._job is not None and self._job.lost

    def check(self) -> None:
        """Go on only if the job's lock isn't lost; for a JobFunc that takes long, between its steps.

        Raises:
            ErrLockLost: if :attr:`lost`.
        """
        if self._job is not None:
            self._job.check()


def from_context() -> str | None:
    """Return the id of the job that is running here, or None; also below a JobFunc and in coroutines.

    Mirrors Go's ``FromContext``.
    """
    return CTX_JOB_ID.get()


def transaction(tx: object) -> AbstractContextManager[None]:
    """Within the block, enqueue() of any queue stores jobs in the caller's transaction *tx*.

    They live and die with it; it is neither committed nor rolled back. Stands for the
    transaction that Go carries in its context. It holds for this thread or coroutine.

    Args:
        tx: as for :meth:`qg.Client.enqueue_in_tx`.

    Raises:
        ErrOtherContext: if the block is entered where enqueue() couldn't see it, such as a dependency of FastAPI
            that isn't ``async def``; or left in another context.
    """
    return block(current_tx, tx, "transaction()")


def user(user_id: str) -> AbstractContextManager[None]:
    """Within the block, jobs are enqueued on behalf of *user_id*, which their JobFunc finds in its context.

    It holds for this thread or coroutine.

    Raises:
        ErrInvalidOption: if *user_id* is no string, or an empty one.
        ErrOtherContext: as transaction().
    """
    if not isinstance(user_id, str) or not user_id:
        raise ErrInvalidOption(f"a user id must be a non-empty string, not {user_id!r}; write a number as str(number)")
    return block(current_user, user_id, "user()")


def require_seen(tx: object) -> None:
    """Go on only if no block around the call is open that can't be seen in this context.

    Args:
        tx: the transaction that is given or found; None if none is.

    Raises:
        ErrOtherContext: if one is.
    """
    if tx is None:
        require_no_unseen(current_tx, "transaction()")
    if current_user.get() is None:
        require_no_unseen(current_user, "user()")
