"""Hooks of a pool of coroutines: those that are coroutine functions themselves, and where the others go."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from qg.errors import ErrInvalidOption
from qg.job import Job as SyncJob
from qg.working.handlers import WorkMap
from qg.working.hooks import Hooks, Middleware, called_once, is_async, never_called

__all__ = ["check_middleware", "in_threads", "within"]

# How often a thread that waits for the loop looks whether that is closed.
_LOOK_SECONDS = 0.5


def check_middleware(hooks: Hooks, work_map: WorkMap) -> None:
    """Refuse middleware that goes around some of the handlers only: it is of one kind, and they are of both.

    Raises:
        ErrInvalidOption: if there is a handler of the other kind.
    """
    kinds = {is_async(each) for each in hooks.middleware}
    for job_type, handler in work_map.items():
        if len(kinds) == 1 and is_async(handler) not in kinds:
            kind, other = (
                ("an async def", "plain functions") if is_async(handler) else ("a plain function", "async def")
            )
            raise ErrInvalidOption(
                f"the handler of {job_type!r} is {kind}, and all middleware is {other}, which goes around its own kind "
                f"only; give {kind} as middleware, too"
            )


async def within(middleware: tuple[Middleware, ...], job: Any, handler: Callable[[Any], Awaitable[object]]) -> None:
    """Await *handler* for *job* within all of *middleware* that is awaited, the first outermost.

    Raises:
        ErrMiddleware: if one of them hasn't awaited what it was given, or has done so twice.
        BaseException: whatever they raise, or *handler*.
    """
    run: Callable[[], Any] = partial(handler, job)
    for each in reversed(middleware):
        run = partial(_step, each, job, run)
    await run()


async def _step(middleware: Middleware, job: Any, run: Callable[[], Awaitable[object]]) -> None:
    calls: list[None] = []

    async def call() -> None:
        called_once(middleware, job, calls)
        await run()

    result: Any = middleware(job, call)
    await result
    if not calls:
        raise never_called(middleware, job)


def in_threads(hooks: Hooks, make_job: Callable[[SyncJob], object], loop: asyncio.AbstractEventLoop) -> Hooks:
    """Return *hooks* as threads call them: plain middleware alone; what is awaited runs in *loop*, and is waited for.

    Args:
        hooks: of the pool.
        make_job: gives what a coroutine gets in place of the qg.Job.
        loop: in which the pool runs.
    """

    def called(hook: Any) -> Any:
        return partial(_run_in_loop, hook, make_job, loop) if hook is not None and is_async(hook) else hook

    return replace(
        hooks,
        middleware=tuple(each for each in hooks.middleware if not is_async(each)),
        on_error=called(hooks.on_error),
        on_expired=called(hooks.on_expired),
    )


def _run_in_loop(
    hook: Callable[..., Any],
    make_job: Callable[[SyncJob], object],
    loop: asyncio.AbstractEventLoop,
    job: SyncJob,
    *more: object,
) -> None:
    """Run the coroutine of *hook* in *loop*, and return when it has ended, or can't any more."""
    coroutine = hook(make_job(job), *more)
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise
    while not concurrent.futures.wait([future], _LOOK_SECONDS).done:
        if loop.is_closed():
            coroutine.close()
            raise RuntimeError("the event loop was closed before it had ended")
    future.result()
