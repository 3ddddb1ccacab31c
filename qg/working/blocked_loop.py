"""BlockedLoop: notices that an event loop doesn't get to what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from qg.failures import Logger, printable
from qg.job import Job
from qg.working.coroutine import job_here

__all__ = ["BlockedLoop"]

# The lookout comes twice a second.
_LOOKS_UNTIL_BLOCKED = 2


class BlockedLoop:
    """Names in the log, once, what has held up *loop* for a second.

    Args:
        loop: the event loop.
        job_of: says whose coroutine a task runs; None if it is no job's.
        logger: where that goes.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, job_of: Callable[[asyncio.Task[Any]], Job | None], logger: Logger
    ) -> None:
        self._loop = loop
        self._job_of = job_of
        self._logger = logger
        # Whether the loop has come to what was wanted of it, and how often look() was called since.
        self._has_answered = True
        self._looks = 0

    def look(self) -> None:
        """See whether the loop runs what it is given; to be called twice a second, from another thread."""
        if self._has_answered:
            self._has_answered, self._looks = False, 0
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._answer)
            return
        self._looks += 1
        if self._looks == _LOOKS_UNTIL_BLOCKED:
            self._log()

    def _answer(self) -> None:
        self._has_answered = True

    def _log(self) -> None:
        task = asyncio.current_task(self._loop)
        job = None if task is None else self._job_of(task)
        if job is None and task is not None and hasattr(task, "get_context"):  # from Python 3.12 on
            job = task.get_context().get(job_here)
        if job is not None:
            who = f"id={job.id} type={job.type}"
        else:
            who = f"by={getattr(task and task.get_coro(), '__qualname__', 'a callback')}"
        self._logger.warning(
            "loop_blocked %s: it has held up the event loop for a second, and with it all coroutines of the pool; "
            "let what waits or computes run in asyncio.to_thread()",
            printable(who),
        )
