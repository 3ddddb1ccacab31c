"""JobFuncs: which functions can work jobs, and which one works which type."""

from __future__ import annotations

import functools
import inspect
import threading
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from qg.jobs.context import Context
from qg.jobs.errors import ErrInvalidJobFunc, ErrInvalidJobType
from qg.jobs.payloads import PayloadT, PayloadType, payload_type
from qg.retries import RetryPolicy, policy_of

__all__ = ["Function", "Functions", "JobFunc"]

JobFunc: TypeAlias = Callable[[Context, PayloadT], object]
"""Works a job: takes the context and the payload. Returning means success, whatever is returned; a coroutine is
run to its end first. Raising means failure and a retry. Mirrors Go's ``JobFunc``."""


@dataclass(frozen=True)
class Function:
    """A JobFunc, the type of its payload, and the retry policy that it was registered with."""

    call: Callable[[Context, Any], object]
    takes: PayloadType
    retry: RetryPolicy | None = None

    @property
    def policy(self) -> RetryPolicy | None:
        """The retry policy that holds: the one that it was registered with, or else its own."""
        return self.retry or policy_of(self.call)


class Functions:
    """The JobFuncs of one queue, by job type. Safe to use from any thread."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._by_type: dict[str, Function] = {}

    def add(self, fn: object, retry: RetryPolicy | None = None) -> None:
        """Add *fn*, which takes a context and a payload, with a policy that comes before its own.

        Raises:
            ErrInvalidJobFunc: if *fn* takes something else, or if its payload's type has a function already.
        """
        function = replace(_checked(fn), retry=retry)
        name = function.takes.name
        with self._mutex:
            if name in self._by_type:
                raise ErrInvalidJobFunc(
                    f"job type {name!r} has a function already, {_name(self._by_type[name].call)}; "
                    f"{_name(fn)} needs a payload type of its own"
                )
            self._by_type[name] = function

    def get(self, job_type: str) -> Function | None:
        """Return the function for *job_type*, None if there is none."""
        return self._by_type.get(job_type)

    def __contains__(self, job_type: object) -> bool:
        return job_type in self._by_type

    @property
    def job_types(self) -> list[str]:
        """The types that have a function, sorted."""
        with self._mutex:
            return sorted(self._by_type)


def _checked(fn: Any) -> Function:
    if not callable(fn) or isinstance(fn, type):
        raise ErrInvalidJobFunc(f"a JobFunc must be a function that takes (context, payload), not {fn!r}")
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (fn, fn.__call__)):
        raise ErrInvalidJobFunc(f"{_name(fn)} is a generator, which nobody would run: it has a yield")
    try:
        parameters = list(inspect.signature(fn).parameters.values())
        inspect.signature(fn).bind(None, None)
        second = parameters[1]
    except (TypeError, ValueError, IndexError) as error:
        raise ErrInvalidJobFunc(f"{_name(fn)} must take two arguments, (context, payload): {error}") from error
    if second.kind is inspect.Parameter.VAR_POSITIONAL:
        raise ErrInvalidJobFunc(f"{_name(fn)} must take two arguments, (context, payload), not any number of them")
    if second.annotation is inspect.Parameter.empty:
        raise ErrInvalidJobFunc(
            f"{_name(fn)}: its second parameter, {second.name}, has no annotation; annotate it with the payload type"
        )
    cls = _resolved(fn, second)
    try:
        return Function(fn, payload_type(cls))
    except (ErrInvalidJobType, TypeError) as error:  # TypeError: it can't be hashed, so it is no class
        raise ErrInvalidJobFunc(f"{_name(fn)}: its second parameter, {second.name}, is no payload: {error}") from error


def _resolved(fn: Any, parameter: inspect.Parameter) -> Any:
    """Return the class that *parameter* is annotated with, which may be written as a string."""
    bare = inspect.unwrap(fn)
    while isinstance(bare, functools.partial):
        bare = inspect.unwrap(bare.func)
    if not hasattr(bare, "__globals__"):
        bare = getattr(bare, "__func__", None) or bare.__call__
    annotated = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        cls = typing.get_type_hints(annotated, globalns=getattr(bare, "__globals__", {}))[parameter.name]
    except Exception as error:  # whatever evaluating somebody's annotation raises
        raise ErrInvalidJobFunc(
            f"{_name(fn)}: the annotation {parameter.annotation!r} of {parameter.name} can't be resolved: {error}"
        ) from error
    if not isinstance(cls, type):
        raise ErrInvalidJobFunc(f"{_name(fn)}: its second parameter, {parameter.name}, must be one class, not {cls!r}")
    return cls


def _name(fn: object) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)
