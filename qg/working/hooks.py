"""Hooks: what an application has called around each job, and after one that failed or was given up."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from qg.errors import ErrInvalidOption, ErrMiddleware
from qg.failures import Logger, printable
from qg.forks import end_if_forked, process_number
from qg.job import Job
from qg.signals import ends_process

__all__ = [
    "NO_HOOKS",
    "Ending",
    "Hooks",
    "Middleware",
    "OnError",
    "OnExpired",
    "called_once",
    "is_async",
    "never_called",
    "within",
]

Middleware = Callable[[Any, Callable[[], Any]], object]
"""Is called with a job and what runs it, ``call``, which it has to call once."""

OnError = Callable[[Any, BaseException, bool], object]
"""Is called with a job that has failed, what its handler raised, and whether it is tried again."""

OnExpired = Callable[[Any], object]
"""Is called with a job that was given up."""


class Ending(NamedTuple):
    """How an attempt has ended that was no success.

    Attributes:
        job: the job, which isn't locked any more.
        error: what its handler has raised; None if the handler gave the job up without an error.
        given_up: whether the job isn't tried again.
    """

    job: Job
    error: BaseException | None
    given_up: bool


@dataclass(frozen=True)
class Hooks:
    """The hooks of a worker, a pool or a queue; checked by of().

    Attributes:
        middleware: goes around each run of a handler, the first of them outermost.
        on_error: is called after a failure was recorded.
        on_expired: is called after it was recorded that a job is given up.
    """

    middleware: tuple[Middleware, ...] = ()
    on_error: OnError | None = None
    on_expired: OnExpired | None = None

    @classmethod
    def of(cls, middleware: object, on_error: object, on_expired: object, *, awaits: bool = False) -> Hooks:
        """Return these hooks, checked.

        Args:
            middleware: a list or tuple.
            on_error, on_expired: None for none.
            awaits: whether they may be coroutine functions.

        Raises:
            ErrInvalidOption: if one of them can't be called so.
        """
        if not isinstance(middleware, (list, tuple)):
            raise ErrInvalidOption(f"middleware must be a list of functions (job, call), not {middleware!r}")
        for each in middleware:
            _check("middleware", each, "(job, call)", 2, awaits=awaits)
        if on_error is not None:
            _check("on_error", on_error, "(job, error, will_retry)", 3, awaits=awaits)
        if on_expired is not None:
            _check("on_expired", on_expired, "(job)", 1, awaits=awaits)
        return cls(tuple(middleware), on_error, on_expired)  # type: ignore[arg-type]  # as far as can be seen

    @property
    def wants_endings(self) -> bool:
        """Whether there is anybody to be told how a job has ended."""
        return self.on_error is not None or self.on_expired is not None

    def tell(self, ending: Ending, logger: Logger) -> None:
        """Call what is to be called after *ending*. What it raises is logged.

        Raises:
            BaseException: what ends_process().
        """
        if self.on_error is not None and ending.error is not None:
            _call(partial(self.on_error, ending.job, ending.error, not ending.given_up), "on_error", ending.job, logger)
        if self.on_expired is not None and ending.given_up:
            _call(partial(self.on_expired, ending.job), "on_expired", ending.job, logger)


NO_HOOKS = Hooks()


def within(middleware: tuple[Middleware, ...], job: Job, run: Callable[[], object]) -> None:
    """Call *run* for *job* within all of *middleware*, the first outermost.

    Raises:
        ErrMiddleware: if one of them hasn't called what it was given, or has called it twice.
        BaseException: whatever they raise, or *run*.
    """
    for each in reversed(middleware):
        run = partial(_step, each, job, run)
    run()


def _step(middleware: Middleware, job: Job, run: Callable[[], object]) -> None:
    calls: list[None] = []

    def call() -> None:
        called_once(middleware, job, calls)
        run()

    middleware(job, call)
    if not calls:
        raise never_called(middleware, job)


def called_once(middleware: Middleware, job: Any, calls: list[None]) -> None:
    """Note in *calls* that *middleware* has had *job* run.

    Raises:
        ErrMiddleware: if it has done so before.
    """
    if calls:
        raise ErrMiddleware(
            f"middleware {_name(middleware)} has called call() twice for a job of type {job.type!r}; "
            "a job is run once, and tried again only after it has failed: raise an error for that"
        )
    calls.append(None)


def never_called(middleware: Middleware, job: Any) -> ErrMiddleware:
    """Return the error of *middleware* that has returned without having had *job* run."""
    return ErrMiddleware(
        f"middleware {_name(middleware)} has returned without having called call(), so the handler of "
        f"{job.type!r} wasn't run; call it, or raise qg.Discard to drop the job, or qg.Reschedule to run it later"
    )


def is_async(function: object) -> bool:
    """Whether *function*, or the object's ``__call__``, is an ``async def``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _check(option: str, hook: Any, takes: str, count: int, *, awaits: bool) -> None:
    if not callable(hook):
        raise ErrInvalidOption(f"{option} must be a function {takes}, not {hook!r}")
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (hook, hook.__call__)):
        raise ErrInvalidOption(
            f"{option} {_name(hook)} is a generator, which nobody would run; write a function {takes} without a yield"
        )
    if is_async(hook) and not awaits:
        raise ErrInvalidOption(
            f"{option} {_name(hook)} is an async def, and nobody would await it; write a plain function, which goes "
            "for handlers that are coroutines, too, or use qg.aio.WorkerPool"
        )
    try:
        inspect.signature(hook).bind(*[None] * count)
    except TypeError as error:
        raise ErrInvalidOption(f"{option} {_name(hook)} must take {takes}: {error}") from error
    except ValueError:  # it has no signature to look at
        return


def _call(hook: Callable[[], object], option: str, job: Job, logger: Logger) -> None:
    here = process_number()
    try:
        hook()
    except BaseException as error:  # what becomes of the job is recorded already
        end_if_forked(here, error)
        if ends_process(error):
            raise
        logger.exception("hook_failed hook=%s id=%s type=%s", printable(option), printable(job.id), printable(job.type))
    end_if_forked(here)


def _name(hook: object) -> str:
    return getattr(hook, "__qualname__", None) or repr(hook)
