"""Signals: heard in a thread of their own, or through a socket, even while the main thread is held up in C code."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from qg.failures import printable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Signals", "end_process", "listen_in_thread", "name_of"]

_logger = logging.getLogger("qg")

# Windows has few of them.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


class Signals:
    """Gets signals as numbers from a socket, which Python writes to at once, whatever the main thread does.

    Install it in the main thread, before the first connection and before the application is imported; and again
    after that, since the application may have handlers of its own. A process that is forked from this one begins
    with the system's handlers, or a signal to it would be heard here.

    Args:
        of_children: whether to hear of children that have ended, too.

    Attributes:
        socket: each byte that is read from it is the number of a signal.
    """

    def __init__(self, *, of_children: bool = False) -> None:
        self._numbers = [*_SIGNALS, signal.SIGCHLD] if of_children else _SIGNALS
        self.socket, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave_to_system)

    def install(self) -> Self:
        """Hear signals from now on. In the main thread only."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, _heard_elsewhere)
        return self

    def _leave_to_system(self) -> None:
        if signal.getsignal(signal.SIGTERM) is _heard_elsewhere:
            signal.set_wakeup_fd(-1)
            for number in self._numbers:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def listen_in_thread(signals: Signals, heard: Callable[[int], None]) -> None:
    """Call *heard* with the number of each signal, in a thread that lasts as long as the process.

    What *heard* raises is logged: nobody else would hear the next signal.
    """

    def listen() -> None:
        while numbers := signals.socket.recv(64):
            for number in numbers:
                try:
                    heard(number)
                except Exception:
                    _logger.exception("signal_failed signal=%s", printable(name_of(number)))

    threading.Thread(target=listen, name="qg-signals", daemon=True).start()


def name_of(number: int) -> str:
    """Return what the signal with this number is called."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_process(status: int) -> None:
    """End the process at once, with nothing unwound: no handler is waited for, and connections end with it."""
    os._exit(status)  # the way to do that; it is public in all but its name


def _heard_elsewhere(number: int, frame: FrameType | None) -> None:
    """Nothing: Python has written the number to the socket."""
