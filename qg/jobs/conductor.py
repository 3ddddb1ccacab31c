"""Conductor: the thread that does what a queue has to do at some time, and does it again where it failed."""

from __future__ import annotations

import queue as queues
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from qg.backoff import reconnect_pause
from qg.failures import Logger, one_line

__all__ = ["Conductor", "Duty"]

# Some systems can't wait for months.
_LONGEST_WAIT_SECONDS = 86_400.0

Duty = Callable[[], "float | None"]
"""Does something, and returns in how many seconds it is due again; None means not any more."""


class Conductor:
    """Carries out duties, each when it is due, in a thread that begins with the first of them.

    A duty that raises is logged, once until it succeeds, and tried again with growing pauses.

    Args:
        name: of the thread.
        logger: where failures go.
        longest_pause: how many seconds to wait at the most before trying again.
    """

    def __init__(self, name: str, logger: Logger, longest_pause: float) -> None:
        self._name = name
        self._logger = logger
        self._longest_pause = longest_pause
        # A signal handler may interrupt the thread that holds it.
        self._mutex = threading.RLock()
        self._due: dict[Duty, float] = {}
        self._failures: dict[Duty, int] = {}
        self._wakeups: queues.SimpleQueue[None] = queues.SimpleQueue()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def carry_out(self, duty: Duty, after: float = 0.0) -> None:
        """Carry out *duty* in *after* seconds; what was said of it before doesn't count any more."""
        with self._mutex:
            if self._stopping:
                return
            self._due[duty] = time.monotonic() + after
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._wakeups.put(None)

    def stop(self) -> None:
        """Begin nothing more; join() waits for the end."""
        self._stopping = True
        self._wakeups.put(None)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, but no longer than *timeout* seconds; return whether it has."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            duty, seconds = self._next()
            if duty is None:
                with suppress(queues.Empty):
                    self._wakeups.get(timeout=seconds)
            else:
                self._do(duty)

    def _next(self) -> tuple[Duty | None, float | None]:
        """Return the duty that is due, or how many seconds there are until one is."""
        with self._mutex:
            if not self._due:
                return None, None
            duty = min(self._due, key=self._due.__getitem__)
            seconds = self._due[duty] - time.monotonic()
            if seconds > 0:
                return None, min(seconds, _LONGEST_WAIT_SECONDS)
            del self._due[duty]
            return duty, None

    def _do(self, duty: Duty) -> None:
        try:
            again = duty()
            self._failures.pop(duty, None)
        except Exception as error:  # of psycopg2 or of the source; the thread outlives them all
            failures = self._failures[duty] = self._failures.get(duty, 0) + 1
            if failures == 1 and not self._stopping:
                name = getattr(duty, "__name__", "duty").strip("_")
                self._logger.error(
                    "%s_failed %s: %s; trying again until it is done", name, type(error).__name__, one_line(error)
                )
            again = reconnect_pause(failures, self._longest_pause)
        if again is not None:
            with self._mutex:
                self._due.setdefault(duty, time.monotonic() + again)
