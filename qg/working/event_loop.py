"""HandlerLoop: the one event loop in which the coroutines of all handlers of a pool run."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

from qg.failures import Logger
from qg.forks import process_number
from qg.job import Job
from qg.lookout import LOOKOUT
from qg.working.blocked_loop import BlockedLoop
from qg.working.coroutine import HandlerCoroutine
from qg.working.threads import BackgroundThread, WakeUp

__all__ = ["HandlerLoop", "run_by_itself"]

# Whether some event loop stands still until what runs here has ended. It may be any, so none is waited for.
_holds_up_a_loop: ContextVar[bool] = ContextVar("qg_holds_up_a_loop", default=False)


class HandlerLoop:
    """An event loop for threads that run handlers. What the coroutine of one job makes, those of later jobs can use.

    It runs in a thread of its own, from the first coroutine until stop(). What handlers have left behind in it, tasks
    and asynchronous generators, is ended then.

    A coroutine that doesn't let the others run is named in the log after a second, once.

    Args:
        logger: where that goes.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = process_number()
        # Guards the users and the start. A signal handler may interrupt the thread that holds it.
        self._mutex = threading.RLock()
        self._users = 0
        self._stopping = False
        self._thread = BackgroundThread("qg-loop", self._live, wake=self._wake, logger=logger)
        self._lives = False
        self._running: set[HandlerCoroutine] = set()
        self._blocked: BlockedLoop | None = None

    def run(self, coroutine: HandlerCoroutine) -> None:
        """Run *coroutine* to its end in the loop, in the context of the caller, who waits; ask for its result() then.

        It runs by itself where the loop can't: if the caller holds up an event loop, after the end, and in a process
        that was forked.
        """
        loop = None if _is_in_event_loop() or _holds_up_a_loop.get() else self._enter()
        if loop is None:
            run_by_itself(coroutine)
            return
        ended = WakeUp()
        self._running.add(coroutine)
        try:
            loop.call_soon_threadsafe(_begin, coroutine, ended, context=contextvars.copy_context())
            ended.wait(None)
        finally:
            self._running.discard(coroutine)
            self._leave()

    def outlive(self, work: Callable[[], None]) -> None:
        """Call *work*, and don't end before it returns, whoever calls stop()."""
        with self._mutex:
            self._users += 1
        try:
            work()
        finally:
            self._leave()

    def stop(self) -> None:
        """End as soon as nobody uses it any more; join() waits for that. Safe in a signal handler."""
        if self._process != process_number():
            return  # the thread is the parent's
        with self._mutex:
            self._stopping = True
            if not self._users:
                self._thread.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, for *timeout* seconds at the most; return whether it has."""
        ended = self._thread.join(timeout)
        if not ended and self._thread.stopping:
            self._logger.warning(
                "loop_still_running: tasks that handlers have left behind, or what they have given to threads, "
                "hadn't ended at shutdown"
            )
        return ended

    def look(self) -> None:
        """See whether the loop runs what it is given."""
        if self._blocked is not None and self._running:
            self._blocked.look()

    def _enter(self) -> asyncio.AbstractEventLoop | None:
        """Begin to use the loop, until _leave(), and return it; or None if that can't be."""
        if self._process != process_number():
            return None  # whoever held the mutex when this process was forked holds it for ever
        with self._mutex:
            if self._thread.stopping:
                return None
            # What the loop keeps is made in an empty context, since that of the first job has its connection.
            loop = self._loop or contextvars.Context().run(self._start)
            self._users += 1
            return loop

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = loop = asyncio.new_event_loop()
        try:
            self._thread.start()
        except BaseException:
            self._loop = None
            loop.close()
            raise
        self._blocked = BlockedLoop(loop, self._job_of, self._logger)
        LOOKOUT.add(self)
        return loop

    def _leave(self) -> None:
        with self._mutex:
            self._users -= 1
            if self._stopping and not self._users:
                self._thread.stop()

    def _wake(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._stop_living)

    # What follows is called in the loop's thread.

    def _live(self) -> None:
        loop = cast("asyncio.AbstractEventLoop", self._loop)
        try:
            self._lives = True
            while not self._thread.stopping:
                loop.run_forever()  # a handler may have stopped it; SystemExit in a task of one is logged by the thread
        finally:
            self._lives = False
            if self._thread.stopping:
                _end(loop)

    def _stop_living(self) -> None:
        if self._lives:  # otherwise it is about to end what was left behind
            asyncio.get_running_loop().stop()

    def _job_of(self, task: asyncio.Task[Any]) -> Job | None:
        for coroutine in tuple(self._running):
            if coroutine.task is task:
                return coroutine.job
        return None


def _begin(coroutine: HandlerCoroutine, ended: WakeUp) -> None:
    # What is called at the end has an empty context, since that of the task may hold the job's connection.
    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(partial(_note_end, ended), context=contextvars.Context())


def _note_end(ended: WakeUp, task: asyncio.Task[Any]) -> None:
    # One round of the loop later nothing in it refers to the task any more, nor to what its context holds.
    asyncio.get_running_loop().call_soon(ended.give)


def run_by_itself(coroutine: HandlerCoroutine) -> None:
    """Run *coroutine* to its end in an event loop that is made for it; ask for its result() then.

    In the caller's thread, where a KeyboardInterrupt ends it; or, if an event loop runs there, in another one.
    """
    if not _is_in_event_loop():
        with suppress(asyncio.CancelledError):  # result() tells
            asyncio.run(coroutine)
        return
    context = contextvars.copy_context()
    context.run(_holds_up_a_loop.set, True)
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(context.run, run_by_itself, coroutine).result()


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Close *loop*, as asyncio.run() does: cancel what is left in it and wait for that."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                loop.call_exception_handler(
                    {"message": "a task that a handler left behind has failed", "exception": error, "task": task}
                )
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
