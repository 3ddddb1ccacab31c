"""Retry policies: how often, and how soon, a job is tried again whose handler has failed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from qg.backoff import Backoff
from qg.errors import ErrInvalidOption
from qg.verdicts import Discard, Reschedule

__all__ = ["RetryPolicy", "check_backoff", "check_maximum_retry_count", "policy_of", "retry"]

_Handler = TypeVar("_Handler", bound=Callable[..., object])

# Where a handler has its policy. Decorators that copy a function's attributes copy it, too.
_MARK = "__qg_retry__"

_Errors = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True)
class RetryPolicy:
    """How the jobs of a handler go on when it fails. Made by :func:`retry`; decorates handlers, any number of them.

    Attributes:
        maximum_retry_count: how often a job is tried again before it expires; None leaves that to the client.
        backoff: from a job's error count to the seconds until it is run again; None leaves that to the client.
        give_up_on: exceptions, at which a job expires at once.

    Raises:
        ErrInvalidOption: if one of them is out of bounds.
    """

    maximum_retry_count: float | None = None
    backoff: Backoff | None = None
    give_up_on: _Errors = ()

    def __post_init__(self) -> None:
        check_maximum_retry_count(self.maximum_retry_count)
        if self.backoff is not None:
            check_backoff(self.backoff)
        for kind in self.give_up_on if isinstance(self.give_up_on, tuple) else (self.give_up_on,):
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ErrInvalidOption(
                    f"give_up_on must be an exception class, or a tuple of such, and {kind!r} is none; "
                    "write give_up_on=(ValueError, KeyError)"
                )
            if issubclass(kind, (Discard, Reschedule)):
                raise ErrInvalidOption(
                    f"give_up_on holds {kind.__name__}, which is no failure: it says by itself how the job goes on; "
                    "leave it out"
                )

    def __call__(self, handler: _Handler) -> _Handler:
        """Mark *handler* with this policy, and return it as it is; a policy that it had before is replaced.

        Raises:
            ErrInvalidOption: if it can't be called, or can't be marked.
        """
        marked: object = handler
        while isinstance(marked, (staticmethod, classmethod)):
            marked = marked.__func__
        if not callable(marked):
            raise ErrInvalidOption(f"qg.retry() decorates a handler, and {handler!r} can't be called")
        try:
            setattr(marked, _MARK, self)
        except (AttributeError, TypeError) as error:
            raise ErrInvalidOption(
                f"{handler!r} can't be given a retry policy: {error}; decorate the function in its class, "
                "or give functools.partial of it"
            ) from error
        return handler

    def gives_up_on(self, error: BaseException) -> bool:
        """Whether a job expires at once whose handler has raised *error*."""
        return isinstance(error, self.give_up_on)

    def gives_up(self, error: BaseException, error_count: int) -> bool:
        """Whether a job expires that has failed so many times, at last with *error*; as far as this policy says it."""
        most = self.maximum_retry_count
        return self.gives_up_on(error) or (most is not None and error_count > most)


def retry(
    _handler: None = None,
    /,
    *,
    maximum_retry_count: float | None = None,
    backoff: Backoff | None = None,
    give_up_on: _Errors = (),
) -> RetryPolicy:
    """Return a retry policy: a decorator for handlers, and a value for ``register_job_func(retry=)`` of qg.jobs.

    It comes before what the client says, and marks the handler without wrapping it::

        @qg.retry(maximum_retry_count=5, backoff=qg.backoff.exponential(), give_up_on=(ValueError,))
        def charge(job: qg.Job) -> None: ...

    Args:
        maximum_retry_count: after so many retries a job that fails again expires: it stays in the table, and nobody
            runs it until it is brought back. ``math.inf`` never gives up. None leaves that to the client.
        backoff: from a job's error count, 1 after its first failure, to the seconds until it is run again. None
            leaves that to the client.
        give_up_on: an exception class, or a tuple of such: a job whose handler raises one expires at once.

    Raises:
        ErrInvalidOption: if one of them is out of bounds, or nothing is said.
    """
    if _handler is not None:
        raise ErrInvalidOption(f"qg.retry was given {_handler!r}; call it first: @qg.retry(maximum_retry_count=5)")
    policy = RetryPolicy(maximum_retry_count, backoff, give_up_on)
    if policy == RetryPolicy():
        raise ErrInvalidOption("qg.retry() says nothing; give maximum_retry_count=, backoff= or give_up_on=")
    return policy


def policy_of(handler: object) -> RetryPolicy | None:
    """Return the policy that *handler*, or what it wraps, was marked with, or is; None if there is none.

    It may be a function, a method, a partial, or an object whose ``__call__`` is marked.
    """
    if isinstance(handler, RetryPolicy):
        return handler
    seen: list[object] = []
    while not any(handler is each for each in seen):
        policy = _attribute(handler, _MARK)
        if isinstance(policy, RetryPolicy):
            return policy
        seen.append(handler)
        handler = _inside(handler)
    return None


def check_maximum_retry_count(number: object) -> None:
    """Raise ErrInvalidOption if *number* is no number of retries, nor None."""
    if number is None or (isinstance(number, (int, float)) and not isinstance(number, bool) and number >= 0):
        return
    raise ErrInvalidOption(f"maximum_retry_count must be a number of retries, 0 or more, or math.inf, not {number!r}")


def check_backoff(backoff: object) -> None:
    """Raise ErrInvalidOption if *backoff* is no function of an error count, as far as can be seen."""
    if not callable(backoff):
        raise ErrInvalidOption(f"backoff must be a function from error count to seconds, not {backoff!r}")
    try:
        inspect.signature(backoff).bind(1)
    except TypeError as error:
        raise ErrInvalidOption(
            f"backoff must be a function from error count to seconds, and {backoff!r} can't be called with one: "
            f"{error}; write backoff=qg.backoff.exponential(), or a lambda"
        ) from error
    except ValueError:  # it has no signature to look at
        return


def _inside(handler: Any) -> object:
    """Return what *handler* leads to: what it wraps, or its class's ``__call__``; itself if to nothing."""
    wrapped = _attribute(handler, "__wrapped__")
    if wrapped is not None:
        return wrapped
    if isinstance(handler, functools.partial):
        return handler.func
    if inspect.isroutine(handler):
        return handler
    return getattr(type(handler), "__call__", handler)  # noqa: B004 - what is asked for is the function


def _attribute(handler: object, name: str) -> object:
    try:
        return getattr(handler, name, None)
    except Exception:  # a proxy that leads nowhere just now; its job has failed, and that is to be recorded
        return None
