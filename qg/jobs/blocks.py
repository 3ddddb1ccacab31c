"""Blocks: what a ``with`` statement says to all code within it, and where that code couldn't hear it.

A block sets a context variable. Pools of threads run each function in a copy of the caller's context and throw the
copy away. A block that is entered there and left open is seen by nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from inspect import CO_GENERATOR
from types import FrameType
from typing import Any, TypeVar

from qg.jobs.errors import ErrOtherContext

__all__ = ["block", "require_no_unseen"]

_Value = TypeVar("_Value")

# Packages that call functions of others, each in a context of its own.
_RUNNERS = {"anyio", "asyncio", "concurrent", "fastapi", "starlette", "threading", "trio"}
_REMEDY = "give tx= to enqueue(), or enter the block in an async def, such as a dependency of FastAPI that is one"

# For each open block that a generator has entered: that generator's frame, and the variable.
_in_generators: dict[object, tuple[FrameType, ContextVar[Any]]] = {}


@contextmanager
def block(variable: ContextVar[_Value], value: _Value, name: str) -> Iterator[None]:
    """Within the block, *variable* is *value*.

    Args:
        variable: to be set, and to be reset at the end.
        value: what it is set to.
        name: of the block, for errors.

    Raises:
        ErrOtherContext: if the block is entered where no code within it could see that, or if it is left in another
            context than it was entered in. An exception that leaves the block passes instead.
    """
    generator = _generator_that_enters(name)
    opened = object()
    token = variable.set(value)
    try:
        if generator is not None:
            _in_generators[opened] = generator, variable
        del generator
        yield
    except BaseException:
        with suppress(ValueError):
            variable.reset(token)
        raise
    finally:
        _in_generators.pop(opened, None)
    try:
        variable.reset(token)
    except ValueError:
        raise ErrOtherContext(
            f"{name} is left in another context than it was entered in, so what enqueue() has stored since isn't part "
            f"of it; {_REMEDY}"
        ) from None


def require_no_unseen(variable: ContextVar[Any], name: str) -> None:
    """Go on only if no block for *variable*, which isn't set here, is open in the code that calls us.

    A generator that has entered one may be resumed in another context than it was begun in.

    Raises:
        ErrOtherContext: if one is.
    """
    generators = {frame for frame, each in list(_in_generators.values()) if each is variable}
    frame = sys._getframe(1) if generators else None  # the way to see who calls
    while frame is not None:
        if frame in generators:
            raise ErrOtherContext(
                f"{name} was entered in another context, from which {frame.f_code.co_name}() was resumed in this one; "
                f"{_REMEDY}"
            )
        frame = frame.f_back


def _generator_that_enters(name: str) -> FrameType | None:
    """Return the outermost generator that is suspended as soon as our caller, which is one, has yielded; or None.

    Raises:
        ErrOtherContext: if a pool of threads goes on then, and no code that is part of the block.
    """
    generator = None
    frame = _behind_enter(sys._getframe(1).f_back)
    while frame is not None and frame.f_code.co_flags & CO_GENERATOR:
        generator = frame
        if not _enters(frame.f_back):
            return generator
        frame = _behind_enter(frame.f_back)
    if frame is None or frame.f_globals.get("__name__", "").partition(".")[0] in _RUNNERS:
        raise ErrOtherContext(
            f"{name} is entered in a thread that throws its context away at once, as it is with a dependency of "
            f"FastAPI that isn't async, so enqueue() couldn't see it; {_REMEDY}"
        )
    return generator


def _behind_enter(frame: FrameType | None) -> FrameType | None:
    while _enters(frame):
        frame = frame and frame.f_back
    return frame


def _enters(frame: FrameType | None) -> bool:
    """Whether *frame* is that of a method which enters a block and returns."""
    return frame is not None and frame.f_code.co_name in ("__enter__", "enter_context")
