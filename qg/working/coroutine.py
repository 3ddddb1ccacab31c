"""HandlerCoroutine: what an ``async def`` handler has returned, while it runs in whichever event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from qg.errors import ErrLockLost
from qg.forks import end_if_forked, process_number
from qg.job import Job

__all__ = ["HandlerCoroutine", "job_here"]

job_here: ContextVar[Job | None] = ContextVar("qg_job", default=None)
"""The job whose coroutine runs here, or in whose tasks and callbacks this is."""


class HandlerCoroutine(Coroutine[Any, Any, None]):
    """The coroutine of a handler, to be run once, as a task. It is cancelled from any thread.

    The task isn't told what the coroutine raises, unless that is CancelledError; :meth:`result` tells. SystemExit
    would end the loop, and a task keeps its exception, and with it the handler's variables.

    A child that the coroutine has forked ends where the coroutine returns, raises or awaits. Whatever else the loop
    has to do is the parent's: jobs of others, and their sockets.

    Args:
        awaitable: what the handler has returned.
        job: the one that it works.

    Attributes:
        job: as given.
        task: that runs it; None before and after that.
    """

    def __init__(self, awaitable: Awaitable[object], job: Job) -> None:
        self.job = job
        self.task: asyncio.Task[Any] | None = None
        self._steps = _wait_for(awaitable)
        self._process = process_number()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_lost = False
        # In a list, to be taken out: a variable would be part of the traceback that it keeps.
        self._raised: list[BaseException] = []

    def cancel_as_lost(self) -> None:
        """Cancel it because the lock of its job is lost; a second call does nothing, so that it can tidy up."""
        task, loop = self.task, self._loop
        if task is not None and loop is not None and not self._is_lost:
            self._is_lost = True
            with suppress(RuntimeError):  # it has ended since
                loop.call_soon_threadsafe(task.cancel)

    def result(self) -> None:
        """Raise what the coroutine has raised, if it has; ErrLockLost where it was cancelled for that."""
        if not self._raised:
            return
        if self._is_lost and isinstance(self._raised[0], asyncio.CancelledError):
            raise ErrLockLost(
                "the job's session ended while its coroutine ran, which was cancelled"
            ) from self._raised.pop()
        raise self._raised.pop()

    def send(self, value: Any) -> Any:
        """Run until it awaits; for its task."""
        return self._step(self._steps.send, value)

    def throw(self, error: Any, *more: Any) -> Any:
        """Raise *error* where it awaits, and run until it awaits again; for its task."""
        return self._step(self._steps.throw, error)

    def close(self) -> None:
        """End it where it awaits."""
        self._steps.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("it is run as a task, and not awaited")

    def _step(self, go_on: Callable[[Any], Any], given: Any) -> Any:
        self._end_if_forked()
        if self._loop is None:
            self.task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
            job_here.set(self.job)
        try:
            awaited = go_on(given)
        except StopIteration:
            end_if_forked(self._process)
            self.task = None  # it refers to us
            raise
        except BaseException as error:
            end_if_forked(self._process, error)
            self.task = None
            self._raised.append(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self._end_if_forked()
            return awaited
        raise StopIteration

    def _end_if_forked(self) -> None:
        if self._process != process_number():
            end_if_forked(
                self._process, RuntimeError("a forked child of a coroutine can't await: the event loop is its parent's")
            )


async def _wait_for(awaitable: Awaitable[object]) -> None:
    await awaitable
