"""Signal handlers: whether one runs below us, and whether one wants the process to end."""

from __future__ import annotations

import functools
import inspect
import signal
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType

__all__ = ["ends_process", "in_signal_handler"]


def in_signal_handler() -> bool:
    """Return whether the caller runs below a handler that signal.signal() installed.

    The code that was interrupted goes on only when the handler returns, and may hold any lock
    meanwhile, the log's for instance: to wait there for another thread can be to wait for ever.
    """
    return _is_main_thread() and _is_below_handler(_callers(sys._getframe(1)))  # the way to see who calls


def ends_process(error: BaseException) -> bool:
    """Return whether *error* is there to end the process, and not the failure of what it interrupted.

    That is Ctrl-C, and what a signal handler raises that is no Exception, such as SystemExit. It comes to
    the main thread alone.
    """
    if isinstance(error, Exception) or not _is_main_thread():
        return False
    return isinstance(error, KeyboardInterrupt) or _is_below_handler(_raisers(error))


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_below_handler(frames: Iterator[FrameType]) -> bool:
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    return any(frame.f_code in handlers or _has_interrupted_its_caller(frame) for frame in frames)


def _has_interrupted_its_caller(frame: FrameType) -> bool:
    """Whether *frame* was given the frame below it, as a signal handler is; it may have reset the signal since."""
    code, interrupted = frame.f_code, frame.f_back
    if interrupted is None:
        return False
    count = code.co_argcount + bool(code.co_flags & inspect.CO_VARARGS) + code.co_kwonlyargcount
    given = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    return any(each is interrupted or (isinstance(each, tuple) and interrupted in each) for each in given)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _raisers(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    # A function or method has code, an object that can be called has it in its method.
    for each in (handler, getattr(handler, "__call__", None)):  # noqa: B004 - it is the method we want
        if (code := getattr(each, "__code__", None)) is not None:
            return code  # type: ignore[no-any-return]
    return None
