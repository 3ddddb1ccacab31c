"""Handlers: the functions that work jobs, found by job type, plain or ``async def``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar, copy_context
from functools import partial

from qg.errors import ErrInvalidOption
from qg.failures import PlainFailure
from qg.forks import end_if_forked, process_number
from qg.job import Job, note_handler
from qg.working.coroutine import HandlerCoroutine
from qg.working.event_loop import HandlerLoop, run_by_itself
from qg.working.hooks import Middleware, within

__all__ = [
    "Running",
    "WorkFunc",
    "WorkMap",
    "call_handler",
    "checked_work_map",
    "run_handler",
    "run_within",
    "running_here",
    "unknown_type",
]

WorkFunc = Callable[[Job], object]
"""Works a job. Returning means success, whatever is returned; a coroutine is run to its end first.
Raising means failure and a retry. Mirrors Go's ``WorkFunc``."""

WorkMap = Mapping[str, WorkFunc]
"""From job type to handler. Mirrors Go's ``WorkMap``."""


class Running:
    """Who runs a handler.

    Attributes:
        coroutine: the handler's that runs at the moment; None if none does.
        loop: in which its coroutines run; None makes one for each.
    """

    coroutine: HandlerCoroutine | None = None
    loop: HandlerLoop | None = None


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


def call_handler(work_map: WorkMap, job: Job, middleware: tuple[Middleware, ...] = ()) -> None:
    """Work *job* with the handler of its type, within *middleware*.

    What a middleware sets in context variables is seen by the handler, and by no later job.

    Raises:
        PlainFailure: if there is no such handler, in Go's words.
        TypeError: if the handler is a generator in disguise.
        ErrMiddleware: if a middleware hasn't had the handler called once.
        BaseException: whatever the handler raises, or a middleware.
    """
    handler = work_map.get(job.type)
    if handler is None:
        raise unknown_type(job)
    note_handler(job, handler)
    if middleware:
        copy_context().run(run_within, middleware, job, handler, job)
    else:
        run_handler(job, handler, job)


def run_within(
    middleware: tuple[Middleware, ...], job: Job, handler: Callable[..., object], *arguments: object
) -> None:
    """Do as run_handler() does, within *middleware*."""
    run_handler(job, within, middleware, job, partial(run_handler, job, handler, *arguments))


def unknown_type(job: Job) -> PlainFailure:
    """Return the failure of a *job* that nobody here can work."""
    return PlainFailure(f"unknown job type: {json.dumps(job.type, ensure_ascii=False)}")


def run_handler(job: Job, handler: Callable[..., object], *arguments: object) -> None:
    """Call *handler* with *arguments* for *job*, and see to it that it has done its work: run a coroutine to its end.

    Where the handler has forked, the child ends here. What follows would be the work of a second worker,
    on the connection of the first.

    Raises:
        TypeError: if the handler is a generator in disguise.
        BaseException: whatever the handler raises.
    """
    here = process_number()
    try:
        _run_to_end(handler(*arguments), job)
    except BaseException as error:
        end_if_forked(here, error)
        raise
    end_if_forked(here)


def _run_to_end(result: object, job: Job) -> None:
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
        _run_coroutine(HandlerCoroutine(result, job))


def _run_coroutine(coroutine: HandlerCoroutine) -> None:
    running = running_here.get() or Running()
    outer, running.coroutine = running.coroutine, coroutine
    try:
        if running.loop is None:
            run_by_itself(coroutine)
        else:
            running.loop.run(coroutine)
    except BaseException:  # there is no thread or no loop to be had, or Ctrl-C ended the loop
        coroutine.close()
        raise
    finally:
        running.coroutine = outer
    coroutine.result()
