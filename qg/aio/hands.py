"""CoroutineHands: the jobs of a crew, as tasks of one event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

from qg.aio.daemons import Daemons
from qg.aio.hooks import in_threads, within
from qg.aio.job import Job
from qg.errors import ErrLockLost
from qg.failures import Logger, printable
from qg.job import Job as SyncJob
from qg.job import note_handler
from qg.lookout import LOOKOUT
from qg.signals import ends_process
from qg.working.blocked_loop import BlockedLoop
from qg.working.coroutine import HandlerCoroutine
from qg.working.crew import Crew
from qg.working.handlers import Running, WorkMap, running_here
from qg.working.held import Held
from qg.working.hooks import Hooks, is_async
from qg.working.runner import Runner

__all__ = ["CoroutineHands", "Handlers"]

# How many jobs are begun before the loop does what else there is.
_AT_ONCE = 32


class Handlers(Mapping[str, Callable[[Any], object]]):
    """A work map for threads: what its functions return is nothing to be awaited."""

    def __init__(self, work_map: WorkMap) -> None:
        self._work_map = work_map

    def __getitem__(self, job_type: str) -> Callable[[Any], object]:
        handler = self._work_map[job_type]
        call = partial(_call_plainly, handler)
        call.__wrapped__ = handler  # type: ignore[attr-defined]  # its retry policy is found there
        return call

    def __iter__(self) -> Any:
        return iter(self._work_map)

    def __len__(self) -> int:
        return len(self._work_map)

    def coroutine_function(self, job_type: str) -> Callable[[Any], Any] | None:
        """Return the handler of *job_type* if it is an ``async def``."""
        handler = self._work_map.get(job_type)
        return handler if handler is not None and is_async(handler) else None


class CoroutineHands:
    """Runs jobs in the event loop: coroutines there, plain functions in threads.

    What can be settled without a message is settled in the loop, and the locker does the rest for many jobs at once.
    What waits for the database is done in a thread.

    Args:
        size: how many jobs at once.
        handlers: from job type to handler.
        make_job: gives what a coroutine gets in place of the qg.Job.
        loop: runs already.
        context: each job gets a copy.
        threads: for what would block the loop.
        logger: where it is told how each job went.
        note_dismissed: is called in the loop when all is settled.
        note_closed: is called in a thread if the loop was closed before that.
        is_cancelled: whether all that runs in the loop is being cancelled.
        hooks: what is called around each job, and after those that fail.

    Attributes:
        size, reporter, crew: as CrewHands has them.
    """

    crew: Crew

    def __init__(
        self,
        size: int,
        handlers: Handlers,
        make_job: Callable[[SyncJob], Job],
        loop: asyncio.AbstractEventLoop,
        context: Context,
        threads: Daemons,
        logger: Logger,
        *,
        note_dismissed: Callable[[], None],
        note_closed: Callable[[], None],
        is_cancelled: Callable[[], bool],
        hooks: Hooks,
    ) -> None:
        self.size = size
        self._middleware = tuple(each for each in hooks.middleware if is_async(each))
        self._hooks = in_threads(hooks, make_job, loop)
        self.reporter = Runner(handlers, logger, self._hooks)
        self._handlers = handlers
        self._make_job = make_job
        self._loop = loop
        self._context = context.copy()
        self._context.run(running_here.set, self.reporter)
        self._threads = threads
        self._logger = logger
        self._note_dismissed = note_dismissed
        self._note_closed = note_closed
        self._is_cancelled = is_cancelled
        # Guards whether a thread settles what is apart, and how often that was called for.
        self._settling = threading.Lock()
        self._settles = False
        self._settler_calls = 0
        # How many jobs have been begun, and aren't settled as far as that is left to us.
        self._busy = 0
        self._called = False
        self._begins_none = False
        self._running: set[_Running] = set()
        self._runners: list[Runner] = []
        self._idle_runners: list[Runner] = []
        self._blocked = BlockedLoop(loop, self._job_of, logger)
        LOOKOUT.add(self)

    def wake(self, count: int) -> None:
        """Have jobs taken from the crew."""
        if not self._called:
            self._called = True
            try:
                self._loop.call_soon_threadsafe(self._take, context=self._context)
            except RuntimeError:
                self._called = False
                self._begin_after_loop()

    def wake_settler(self) -> None:
        """Have all settled that is apart, in one thread."""
        with self._settling:
            self._settler_calls += 1
            if self._settles:
                return
            self._settles = True
        try:
            self._threads.begin(self._settle_apart)
        except RuntimeError:  # there is no thread to be had; the next call tries again
            self._settles = False

    def dismiss(self) -> None:
        """Expect no more jobs: none is left."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._note_dismissed)

    def cancel(self) -> int:
        """Cancel what runs in the loop; return how many jobs that are. What runs in threads goes on."""
        self._begins_none = True
        running = list(self._running)
        for each in running:
            each.cancel()
        return len(running)

    def runs(self, running: Running | None) -> bool:
        """Whether *running* is one that runs handlers here, or calls hooks."""
        return running is self.reporter or running in self._runners

    def log_still_running(self) -> None:
        """Name the jobs that run in the log."""
        for each in tuple(self._running):
            self._logger.warning(
                "still_running id=%d type=%s: it hadn't ended at shutdown", each.job.id, printable(each.job.type)
            )
        for runner in tuple(self._runners):
            runner.log_still_running()

    def look(self) -> None:
        """See whether locks are lost, and whether the loop is blocked, or closed."""
        running = tuple(self._running)
        if not running:
            return
        if self._loop.is_closed():
            self._begin_after_loop()
            return
        for each in running:
            if each.job.lost:
                each.coroutine.cancel_as_lost()
        self._blocked.look()

    # In the loop

    def _take(self) -> None:
        self._called = False
        for _ in range(_AT_ONCE):
            if self._busy >= self.size or not self.crew.waiting:
                return
            held = self.crew.next()
            if held is None:
                return
            self._busy += 1
            self._begin(held)
        self.wake(1)

    def _begin(self, held: Held) -> None:
        handler = self._handlers.coroutine_function(held.type)
        job = held.begin() if handler is not None or self._begins_none else None
        if job is not None and self._begins_none:
            self._release(held)
            return
        if handler is None or job is None:
            self._in_thread(held, held.run)
            return
        note_handler(job, handler)
        try:
            returned = self._begin_coroutine(handler, self._make_job(job))
        except Exception as error:  # it takes no argument, for instance
            self._in_thread(held, partial(held.conclude, failure=error, seconds=0.0))
            return
        running = _Running(held, job, returned)
        self._running.add(running)
        running.task = self._loop.create_task(running.coroutine)
        running.task.add_done_callback(partial(self._end, running), context=self._context)

    def _begin_coroutine(self, handler: Callable[[Any], Any], job: Job) -> Any:
        return within(self._middleware, job, handler) if self._middleware else handler(job)

    def _end(self, running: _Running, task: asyncio.Task[Any]) -> None:
        self._running.discard(running)
        held, seconds = running.held, time.monotonic() - running.began
        running.task = None
        failure = running.failure()
        try:
            if failure is None:
                if held.hand_in(seconds):
                    self._note_end(held)
                    return
            elif isinstance(failure, KeyboardInterrupt) or ends_process(failure):
                self._log_released(running.job)
                self._release(held)
                raise failure
            elif running.is_cancelled or (isinstance(failure, asyncio.CancelledError) and self._is_cancelled()):
                self._log_released(running.job)
                self._release(held)
                return
            self._in_thread(held, partial(held.conclude, failure=failure, seconds=seconds))
        finally:
            failure = None  # or its traceback, of which this is a part, would keep the handler's variables

    def _log_released(self, job: SyncJob) -> None:
        self._logger.info("job_released id=%d type=%s: it was cancelled", job.id, printable(job.type))

    def _release(self, held: Held) -> None:
        if held.release():
            self._note_end(held)
        else:
            self._in_thread(held, lambda runner: held.abandon())

    def _note_end(self, held: Held) -> None:
        self.crew.end(held)
        self._free()

    def _free(self) -> None:
        self._busy -= 1
        if self.crew.waiting:
            self._take()

    def _job_of(self, task: asyncio.Task[Any]) -> SyncJob | None:
        return next((each.job for each in tuple(self._running) if each.task is task), None)

    # In threads

    def _in_thread(self, held: Held, work: Callable[[Runner], None]) -> None:
        """Let a thread do what is still to be done for *held*."""
        context = self._context.copy()
        try:
            self._threads.begin(partial(context.run, self._work, held, work))
        except RuntimeError:  # there is no thread to be had
            self._logger.exception(
                "thread_failed name=qg-aio-worker: a job of type %s goes on waiting", printable(held.type)
            )
            self._note_end(held)

    def _work(self, held: Held, work: Callable[[Runner], None]) -> None:
        runner = self._idle_runners.pop() if self._idle_runners else self._new_runner()
        try:
            work(runner)
        finally:
            self.crew.end(held)
            self._idle_runners.append(runner)
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._free, context=self._context)

    def _settle_apart(self) -> None:
        while True:
            calls = self._settler_calls
            while self.crew.settle_apart(self.reporter):
                pass
            with self._settling:
                if calls == self._settler_calls:
                    self._settles = False
                    return

    def _new_runner(self) -> Runner:
        runner = Runner(self._handlers, self._logger, self._hooks)
        self._runners.append(runner)
        return runner

    def _begin_after_loop(self) -> None:
        with suppress(RuntimeError):  # there is no thread to be had; the lookout comes again
            self._threads.begin(self._work_after_loop)

    def _work_after_loop(self) -> None:
        """Let go of everything: the loop was closed, and nothing in it will ever end."""
        self._note_closed()
        while self._running:
            running = self._running.pop()
            running.held.abandon()
            self.crew.end(running.held)
        while (held := self.crew.next()) is not None:
            if held.begin() is None:
                self._work(held, held.run)
            else:
                self._work(held, lambda runner, held=held: held.abandon())  # type: ignore[misc]
        self._threads.close()


class _Running:
    """A job whose coroutine runs."""

    __slots__ = ("_returned", "began", "coroutine", "held", "is_cancelled", "job", "task")

    def __init__(self, held: Held, job: SyncJob, returned: Any) -> None:
        self.held = held
        self.job = job
        self.coroutine = HandlerCoroutine(returned, job)
        self._returned = returned
        self.task: asyncio.Task[Any] | None = None
        self.is_cancelled = False
        self.began = time.monotonic()

    def cancel(self) -> None:
        """Cancel the task because its pool is cancelled."""
        if self.task is not None:
            self.is_cancelled = True
            self.task.cancel()

    def failure(self) -> BaseException | None:
        """Return what the coroutine, which has ended, has raised."""
        try:
            self.coroutine.result()
        except BaseException as error:
            if not isinstance(error, (asyncio.CancelledError, ErrLockLost)):
                self.is_cancelled = False  # it has failed in its own way
            self._returned.close()  # it may not have begun
            return error
        return None


def _call_plainly(handler: Callable[[SyncJob], object], job: SyncJob) -> object:
    result = handler(job)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(
            f"the handler of {job.type!r} is a plain function, so it ran in a thread, and it has returned something "
            "to be awaited; declare it with async def"
        )
    return result
