"""Watch: a thread that looks at something again and again while there is something to see."""

from __future__ import annotations

import threading
from collections.abc import Callable

from qg.failures import Logger
from qg.working.threads import BackgroundThread

__all__ = ["Watch"]

_WATCH_SECONDS = 0.03
# After a fault; what it watches waits for it.
_LONGEST_PAUSE_SECONDS = 0.1


class Watch:
    """Calls *look* every few hundredths of a second between begin() and rest(), in a thread of its own."""

    def __init__(self, look: Callable[[], None], logger: Logger) -> None:
        self._look_at = look
        self._busy = threading.Event()
        self._ended = threading.Event()
        self._thread = BackgroundThread(
            "qg-batch", self._run, wake=self._busy.set, logger=logger, longest_pause=_LONGEST_PAUSE_SECONDS
        )

    def begin(self) -> None:
        """Look from now on."""
        self._thread.start()
        self._busy.set()

    def rest(self) -> None:
        """Look no more until begin()."""
        self._busy.clear()
        if self._ended.is_set():  # end() may have set it before we cleared it
            self._busy.set()

    def stop(self) -> None:
        """Ask the thread to end; join() waits for it."""
        self._ended.set()
        self._thread.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, for *timeout* seconds at the most; return whether it has."""
        return self._thread.join(timeout)

    def end(self) -> None:
        """Return when the thread has ended."""
        self.stop()
        self.join()

    def _run(self) -> None:
        while self._busy.wait() and not self._ended.wait(_WATCH_SECONDS):
            self._look_at()
