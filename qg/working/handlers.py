"""Handlers: the functions that work jobs, found by job type, plain or ``async def``."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType

from qg.errors import ErrInvalidOption, ErrLockLost
from qg.failures import PlainFailure
from qg.forks import end_if_forked, process_number
from qg.job import Job

__all__ = [
    "Coroutine",
    "Running",
    "WorkFunc",
    "WorkMap",
    "call_handler",
    "checked_work_map",
    "run_handler",
    "running_here",
    "unknown_type",
]

WorkFunc = Callable[[Job], object]
"""Works a job. Returning means success, whatever is returned; a coroutine is run to its end first.
Raising means failure and a retry. Mirrors Go's ``WorkFunc``."""

WorkMap = Mapping[str, WorkFunc]
"""From job type to handler. Mirrors Go's ``WorkMap``."""


class Coroutine:
    """A handler's coroutine while it runs; made and entered by itself, and cancelled from another thread."""

    def __init__(self) -> None:
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        self._is_lost = False

    def cancel_as_lost(self) -> None:
        """Cancel it because the lock of its job is lost; a second call does nothing, so that it can tidy up."""
        if self._task is not None and not self._is_lost:
            self._is_lost = True
            with suppress(RuntimeError):  # it has ended since
                self._loop.call_soon_threadsafe(self._task.cancel)

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_lost and isinstance(error, asyncio.CancelledError):
            raise ErrLockLost("the job's session ended while its coroutine ran, which was cancelled") from error


class Running:
    """Who runs a handler.

    Attributes:
        coroutine: the handler's that runs at the moment; None if none does.
    """

    coroutine: Coroutine | None = None


# Who runs the handler that is running here, or the coroutine or thread that works for it.
running_here: ContextVar[Running | None] = ContextVar("qg_runner", default=None)


def checked_work_map(work_map: WorkMap) -> WorkMap:
    """Return *work_map* if it is one.

    Raises:
        ErrInvalidOption: if it is no mapping of strings to callables.
    """
    if not isinstance(work_map, Mapping):
        raise ErrInvalidOption(f"a work map must map job types to functions, not be of type {type(work_map).__name__}")
    for job_type, handler in work_map.items():
        if not isinstance(job_type, str) or not job_type:
            raise ErrInvalidOption(f"a work map's keys are job types, so {job_type!r} must be a non-empty string")
        if not callable(handler):
            raise ErrInvalidOption(f"the handler of {job_type!r} must be a function, not {handler!r}")
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise ErrInvalidOption(
                f"the handler of {job_type!r} is a generator, which nobody would run: it has a yield"
            )
    return work_map


def call_handler(work_map: WorkMap, job: Job) -> None:
    """Work *job* with the handler of its type.

    Raises:
        PlainFailure: if there is no such handler, in Go's words.
        TypeError: if the handler is a generator in disguise.
        BaseException: whatever the handler raises.
    """
    handler = work_map.get(job.type)
    if handler is None:
        raise unknown_type(job)
    run_handler(handler, job)


def unknown_type(job: Job) -> PlainFailure:
    """Return the failure of a *job* that nobody here can work."""
    return PlainFailure(f"unknown job type: {json.dumps(job.type, ensure_ascii=False)}")


def run_handler(handler: Callable[..., object], *arguments: object) -> None:
    """Call *handler* and see to it that it has done its work: run a coroutine to its end.

    Where the handler has forked, the child ends here. What follows would be the work of a second worker,
    on the connection of the first.

    Raises:
        TypeError: if the handler is a generator in disguise.
        BaseException: whatever the handler raises.
    """
    here = process_number()
    try:
        _run_to_end(handler(*arguments))
    except BaseException as error:
        end_if_forked(here, error)
        raise
    end_if_forked(here)


def _run_to_end(result: object) -> None:
    """Run what a handler returned, if it is a coroutine.

    Raises:
        TypeError: if *result* is a generator.
        BaseException: whatever the coroutine raises.
    """
    if result is None:
        return
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError("the handler returned a generator, which nobody runs; let it do its work and return")
    if inspect.isawaitable(result):
        _run_coroutine(result)


def _run_coroutine(awaitable: Awaitable[object]) -> None:
    here = process_number()

    running = running_here.get() or Running()
    raised: list[Exception] = []

    async def wait() -> None:
        # Behind this the event loop is closed, and a child shares its selector with the parent.
        outer, running.coroutine = running.coroutine, Coroutine()
        try:
            with running.coroutine:
                await awaitable
        except Exception as error:  # not through the task, which would keep it, and with it the handler's variables
            end_if_forked(here, error)
            raised.append(error)
        except BaseException as error:
            end_if_forked(here, error)
            raise
        finally:
            running.coroutine = outer
        end_if_forked(here)

    if not _in_event_loop():
        asyncio.run(wait())
    else:
        # We are called from a coroutine, and one thread runs one event loop: this one gets another.
        context = contextvars.copy_context()
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(context.run, asyncio.run, wait()).result()
    if raised:
        raise raised.pop()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
