"""Threads: the one life that all kinds of thread here have, and the wake-up that ends a thread's sleep."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress

from qg.backoff import reconnect_pause
from qg.failures import Logger, printable

__all__ = ["BackgroundThread", "WakeUp", "join_all"]


class WakeUp:
    """Ends the sleep of one thread.

    A signal handler may interrupt any thread anywhere, that which holds a lock included. A bare lock can be
    released at any point; an Event, which takes a lock to be set, can't. Nor is a SimpleQueue any good: where its get()
    wakes for something that is gone already, and the timeout is over by then, it waits for ever.
    """

    def __init__(self) -> None:
        # Locked as long as nobody has given anything.
        self._not_given = threading.Lock()
        self._not_given.acquire()

    def give(self) -> None:
        """End the sleep, or the next one if nobody sleeps. Safe in a signal handler."""
        with suppress(RuntimeError):  # it was given already
            self._not_given.release()

    def wait(self, seconds: float | None) -> bool:
        """Sleep until give() is called, unless it was already; return False after *seconds* without it."""
        return self._not_given.acquire(timeout=-1 if seconds is None else max(seconds, 0.0))

    def forget(self) -> None:
        """Let what was given until now end no sleep."""
        self.wait(0)


class BackgroundThread:
    """A daemon thread that is started once, can be asked to stop from anywhere, and is joined with a timeout.

    It ends when *run* returns. When *run* raises instead, which is a fault of ours or of what somebody
    plugged in (a logger, a hook), that is logged with its traceback, and *run* is called again after a pause.

    Args:
        name: of the thread.
        run: does the thread's work; returns soon after ``stopping`` has become true.
        wake: ends whatever *run* waits for. Where a signal handler may call stop(), it must be safe there.
        logger: where faults go.
        longest_pause: seconds until *run* is called again at the latest.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], None],
        *,
        wake: Callable[[], None],
        logger: Logger,
        longest_pause: float = 30.0,
    ) -> None:
        self._name = name
        self._run = run
        self._wake = wake
        self._logger = logger
        self._longest_pause = longest_pause
        self._stopping = False
        self._pause = WakeUp()
        self._thread: threading.Thread | None = None

    @property
    def stopping(self) -> bool:
        """Whether the thread was asked to stop."""
        return self._stopping

    @property
    def alive(self) -> bool:
        """Whether the thread was started and hasn't ended."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, once; a second call does nothing.

        Raises:
            RuntimeError: if the system has no more threads.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._live, name=self._name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                raise

    def stop(self) -> None:
        """Ask the thread to end; join() waits for it. Safe in a signal handler, and before start()."""
        self._stopping = True
        self._wake()
        self._pause.give()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, but no longer than *timeout* seconds; return whether it has.

        One that was never started has ended. From the thread itself it returns False at once.
        """
        if self._thread is None:
            return True
        if self._thread is threading.current_thread():
            return False
        try:
            self._thread.join(timeout)
        except RuntimeError:  # Ctrl-C came before it began
            return True
        return not self._thread.is_alive()

    def _live(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                self._run()
                return
            except BaseException:  # whatever it is, this thread still has its work to do
                self._log_failure()
            if self._stopping:
                return
            # One that ran for long has no part in what failed before.
            failures = 1 if time.monotonic() - began > self._longest_pause else failures + 1
            self._pause.wait(reconnect_pause(failures, self._longest_pause))

    def _log_failure(self) -> None:
        try:
            self._logger.exception("thread_failed name=%s: it goes on", printable(self._name))
        except BaseException:  # the logger itself raises, so the traceback goes to where there is no logger
            traceback.print_exc()


def join_all(threads: Iterable[BackgroundThread], timeout: float | None) -> bool:
    """Wait until all *threads* have ended, but no longer than *timeout* seconds in all; return whether they have."""
    deadline = None if timeout is None else time.monotonic() + timeout
    ended = [thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0)) for thread in threads]
    return all(ended)
