"""What queues that run jobs have in common, wherever the jobs are stored."""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from qg.enqueuing.fields import check_queue, draft_of
from qg.errors import ErrInvalidJob, ErrInvalidOption, ErrUnusable, QgError
from qg.failures import Logger, one_line
from qg.job import Job
from qg.jobs.conductor import Conductor
from qg.jobs.context import Context, current_scope, current_tx, require_seen
from qg.jobs.drafts import Schedule, ctx_here, draft
from qg.jobs.envelope import git_hash
from qg.jobs.errors import (
    ErrEnqueueFailed,
    ErrInvalidJobFunc,
    ErrInvalidJobOpt,
    ErrInvalidQueueOpt,
    ErrRegisterJobFuncFailed,
    ErrScheduleFailed,
    ErrStartFailed,
)
from qg.jobs.functions import Functions
from qg.jobs.payloads import Payload, PayloadT, payloads_in
from qg.jobs.telemetry import Telemetry
from qg.retries import RetryPolicy
from qg.signals import in_signal_handler
from qg.tables import PollStrategy
from qg.working.hooks import NO_HOOKS, Hooks
from qg.working.options import WorkOptions

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BaseQueue", "Options", "checked_hooks"]

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Options:
    """The options that every queue has which runs jobs.

    Raises:
        ErrInvalidQueueOpt: if one of them is out of bounds.
    """

    queue: str
    poll_interval: float
    pool_size: int
    poll_strategy: PollStrategy
    connections: int | None = None
    hooks: Hooks = NO_HOOKS

    def __post_init__(self) -> None:
        try:
            check_queue(self.queue)
            if self.poll_interval is None:  # a worker of the core would read the environment
                raise ErrInvalidOption("poll_interval must be a number of seconds, not None")
            WorkOptions(self.queue, self.poll_interval, poll_strategy=self.poll_strategy)
        except ErrInvalidOption as error:
            raise ErrInvalidQueueOpt(str(error)) from error
        if isinstance(self.pool_size, bool) or not isinstance(self.pool_size, int) or self.pool_size < 1:
            raise ErrInvalidQueueOpt(f"pool_size must be a number of workers, 1 or more, not {self.pool_size!r}")
        number = self.connections
        if number is not None and (
            isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= self.pool_size
        ):
            raise ErrInvalidQueueOpt(
                f"connections must be a number from 1 to pool_size, {self.pool_size}, or None, not {number!r}"
            )


def checked_hooks(middleware: object, on_error: object, on_expired: object) -> Hooks:
    """Return the hooks of a queue.

    Raises:
        ErrInvalidQueueOpt: if one of them can't be called as it has to be.
    """
    try:
        return Hooks.of(middleware, on_error, on_expired)
    except ErrInvalidOption as error:
        raise ErrInvalidQueueOpt(str(error)) from error


class _Schedules(Protocol):
    """The schedules of one queue."""

    def declare(self, schedule: Schedule) -> None:
        """Let *schedule* fire from now on, when tick() is called."""

    def tick(self) -> float | None:
        """Fire the schedules that are due; return in how many seconds to come again, None if there are none."""


class BaseQueue(ABC):
    """A queue that runs jobs: what doesn't depend on where they are stored.

    Safe to use from any thread. Work begins one poll interval after the last call of
    register_job_func() or schedule(): by then all functions are known. With start() it begins at
    once. In a ``with`` block the queue is shut down at the end.

    Args:
        options: checked already.
        logger: what the queue and its functions log to.
        telemetry: is told of each job.
        schedules: what schedule() declares, and fires.
        place: the same for queues that can store jobs in one transaction.
    """

    def __init__(
        self, options: Options, logger: Logger, telemetry: Telemetry, schedules: _Schedules, place: object
    ) -> None:
        if not isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
            raise ErrInvalidQueueOpt(f"logger must be a logging.Logger, not {logger!r}")
        git_hash()  # may ask git, for which no transaction should wait
        self._options = options
        self._logger = logger
        self._telemetry = telemetry
        self._schedules = schedules
        self._place = place
        self._functions = Functions()
        self._conductor = Conductor(f"qg-jobs-{options.queue}", logger, options.poll_interval)
        self._process = os.getpid()
        self._asked_to_start = False
        self._working = False
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def enqueue(
        self, job: Payload | Sequence[Payload], *, priority: int = 0, run_at: datetime | None = None, tx: object = None
    ) -> list[int]:
        """Store *job* to be worked once, and return its id; of a list or tuple each one, all or none.

        The transaction is *tx*. Without *tx* it is that of transaction() around the call. Without that
        too it is, in a JobFunc, that of the running job, if this queue is in the same database. The
        jobs live and die with the transaction, which is neither committed nor rolled back here. With
        no transaction at all they are committed at once. Mirrors Go's ``Enqueue``.

        Args:
            job: a payload: an instance of a dataclass, NamedTuple, msgspec.Struct, attrs class or
                pydantic model; or a list or tuple of payloads, of one type or several.
            priority: lower runs first, from -32768 to 32767.
            run_at: an aware datetime; the job isn't run earlier. None means now.
            tx: as for :meth:`qg.Client.enqueue_in_tx`.

        Returns:
            The ids, in the order of the payloads.

        Raises:
            ErrInvalidJobType: if *job* is no payload, or one that JSON can't hold.
            ErrInvalidJobOpt: if another argument is out of bounds.
            ErrEnqueueFailed: if it can't be stored; its cause says why. Nothing is stored then. Only if
                the connection was lost during the commit, nobody knows.
        """
        with self._telemetry.enqueuing():
            payloads = payloads_in(job)
            success = False
            try:
                self._check_job_options(priority, run_at)
                ctx = ctx_here()
                drafts = [
                    draft(takes, takes.encode(each), ctx, self._options.queue, priority, run_at)
                    for takes, each in payloads
                ]
                ids = self._store_in_transaction(drafts, current_tx.get() if tx is None else tx)
                success = True
            finally:
                self._telemetry.count_enqueued([takes.name for takes, _ in payloads], success=success)
        return ids

    @overload
    def register_job_func(
        self, fn: Callable[[Context, PayloadT], _Result], *, retry: RetryPolicy | None = None
    ) -> Callable[[Context, PayloadT], _Result]: ...

    @overload
    def register_job_func(
        self, *, retry: RetryPolicy
    ) -> Callable[[Callable[[Context, PayloadT], _Result]], Callable[[Context, PayloadT], _Result]]: ...

    def register_job_func(self, fn: Any = None, *, retry: RetryPolicy | None = None) -> Any:
        """Run *fn* for each job of its payload type, and return it, so that this can decorate.

        Mirrors Go's ``RegisterJobFunc``; a queue that works already isn't restarted.

        Args:
            fn: a function of (context, payload) whose second parameter is annotated with the
                payload's class. It may be ``async``. Without it, a decorator is returned.
            retry: what :func:`qg.retry` returns; it comes before a policy that *fn* was decorated with.

        Raises:
            ErrInvalidJobFunc: if it isn't such a function, or if the type has one already.
            ErrRegisterJobFuncFailed: after shutdown().
        """
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise ErrInvalidJobFunc(f"retry must be what qg.retry() returns, not {retry!r}")
        self._require_usable(ErrRegisterJobFuncFailed)
        if fn is None and retry is not None:
            return partial(self.register_job_func, retry=retry)
        self._functions.add(fn, retry)
        self._begin_soon()
        self._announce_functions()
        return fn

    def schedule(self, spec: str, job: Payload) -> None:
        """Enqueue *job* at each tick of *spec*, once for all processes that say so. Mirrors Go's ``Schedule``.

        Ticks that pass while no process declares this schedule come to one.

        Args:
            spec: five cron fields, ``@daily`` and the like, or ``@every 1h30m``, in UTC unless it begins
                with ``CRON_TZ=Zone``.
            job: one payload. Another payload, or another spec, is another schedule.

        Raises:
            ErrScheduleFailed: if *spec* means nothing, *job* is no payload, or it can't be recorded.
                Nothing is recorded then.
        """
        self._require_usable(ErrScheduleFailed)
        schedule = Schedule.of(spec, job)
        try:
            self._schedules.declare(schedule)
        except Exception as error:  # of psycopg2 or of the source
            raise ErrScheduleFailed(f"the schedule {schedule.cron.spec!r} wasn't recorded: {_cause(error)}") from error
        self._begin_soon()

    def start(self) -> None:
        """Begin to work now, without waiting for more functions; a second call does nothing.

        Workers start when there is a function. What fails is logged and tried again.

        Raises:
            ErrStartFailed: after shutdown(), or in a process forked from the one that made the queue.
        """
        self._require_usable(ErrStartFailed)
        self._asked_to_start = True
        self._conductor.carry_out("start", self._start)
        self._conductor.carry_out("tick", self._schedules.tick)

    def shutdown(self, timeout: float | None = None) -> bool:
        """Let running jobs end, take no new ones, fire no schedule, and wait for the end.

        May be called again, and from any thread. In a JobFunc and in a signal handler it doesn't wait,
        since it can't. Mirrors Go's ``Shutdown``, with a timeout that works.

        Args:
            timeout: how many seconds to wait at the most; None waits as long as it takes.

        Returns:
            Whether all jobs have ended. Those that still run are named in the log.
        """
        if self._process != os.getpid():
            return True  # a forked process has none of the threads
        deadline = None if timeout is None else time.monotonic() + timeout
        self._stopped = True
        self._conductor.stop()
        scope = current_scope.get()
        if in_signal_handler() or (scope is not None and scope.queue is self):
            self._ask_workers_to_stop(timeout)
            return False
        begins_nothing = self._conductor.join(timeout)
        ended = self._stop_workers(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        return begins_nothing and ended

    @abstractmethod
    def _store(self, drafts: list[Job], tx: object) -> list[int]:
        """Store all *drafts* or none, in *tx* if it isn't None, and return their ids."""

    @abstractmethod
    def _announce_functions(self) -> None:
        """Let workers, or whoever looks at the queue from outside, know of a function that was added."""

    @abstractmethod
    def _start_workers(self) -> None:
        """Work jobs from now on."""

    @abstractmethod
    def _ask_workers_to_stop(self, timeout: float | None) -> None:
        """Let workers begin nothing more, and return; after a signal handler the process waits at its end."""

    @abstractmethod
    def _stop_workers(self, timeout: float | None) -> bool:
        """Work no more jobs; return whether all that were running ended within *timeout* seconds."""

    def _begin_soon(self) -> None:
        """Start to work and to fire schedules: at once after start(), otherwise one poll interval from now."""
        after = 0.0 if self._working or self._asked_to_start else self._options.poll_interval
        self._conductor.carry_out("start", self._start, after)
        self._conductor.carry_out("tick", self._schedules.tick, after)

    def _start(self) -> None:
        """Start the workers, once there is a function."""
        if not (self._working or self._stopped) and self._functions.job_types:
            self._start_workers()
            self._working = True
            if self._stopped:  # a shutdown that couldn't wait came while the workers started
                self._ask_workers_to_stop(0.0)

    def _check_job_options(self, priority: int, run_at: datetime | None) -> None:
        try:
            draft_of(Job("any", None, self._options.queue, priority, run_at))
        except ErrInvalidJob as error:
            raise ErrInvalidJobOpt(str(error)) from error

    def _store_in_transaction(self, drafts: list[Job], tx: object) -> list[int]:
        """Store all *drafts* or none: in *tx*, in the running job's transaction, or at once."""
        try:
            require_seen(tx)
            scope = current_scope.get()
            if scope is None:
                return self._store_unless_stopped(drafts, tx)
            with scope.mutex:
                if scope.over:
                    return self._store_unless_stopped(drafts, tx)
                if tx is None and scope.place == self._place:
                    tx = scope.tx
                # A job that still runs may enqueue while its own queue is shut down.
                return self._store(drafts, tx) if scope.queue is self else self._store_unless_stopped(drafts, tx)
        except ErrEnqueueFailed:
            raise
        except Exception as error:  # of whichever driver the transaction is
            if isinstance(error, ErrUnusable) and tx is not None:
                raise ErrInvalidJobOpt(str(error)) from error
            raise ErrEnqueueFailed(f"{len(drafts)} jobs weren't enqueued: {_cause(error)}") from error

    def _store_unless_stopped(self, drafts: list[Job], tx: object) -> list[int]:
        if self._stopped:
            raise ErrEnqueueFailed("this queue was shut down; create another one")
        return self._store(drafts, tx)

    def _require_usable(self, kind: type[QgError]) -> None:
        if self._stopped:
            raise kind("this queue was shut down; create another one")
        if self._process != os.getpid():
            raise kind("this queue was made before a fork and can only enqueue here; create one in each process")


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
