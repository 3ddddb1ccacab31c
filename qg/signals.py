"""Whether a signal has interrupted this very thread."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from types import CodeType

__all__ = ["in_signal_handler"]


def in_signal_handler() -> bool:
    """Return whether the caller runs below a handler that signal.signal() installed.

    The code that was interrupted goes on only when the handler returns, and may hold any lock
    meanwhile, the log's for instance: to wait there for another thread can be to wait for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code in handlers:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    # A function or method has code, an object that can be called has it in its method.
    for each in (handler, getattr(handler, "__call__", None)):  # noqa: B004 - it is the method we want
        if (code := getattr(each, "__code__", None)) is not None:
            return code  # type: ignore[no-any-return]
    return None
