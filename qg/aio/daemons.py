"""Daemons: threads for what would block the event loop, which nobody waits for when the process ends."""

from __future__ import annotations

import queue as queues
import threading
from collections.abc import Callable

from qg.failures import Logger, printable

__all__ = ["Daemons"]


class Daemons:
    """As many threads as there is work at once; each waits for more, until close().

    Args:
        name: of the threads.
        logger: where it goes if work raises.
    """

    def __init__(self, name: str, logger: Logger) -> None:
        self._name = name
        self._logger = logger
        self._work: queues.SimpleQueue[Callable[[], object] | None] = queues.SimpleQueue()
        self._mutex = threading.Lock()
        self._count = 0
        # How many threads wait for work, without those for which there is some.
        self._idle = 0
        self._closed = False

    def begin(self, work: Callable[[], object]) -> None:
        """Do *work* in a thread, and wait for nothing.

        Raises:
            RuntimeError: if the system has no more threads.
        """
        with self._mutex:
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(target=self._live, name=f"{self._name}-{self._count + 1}", daemon=True).start()
                self._count += 1
        self._work.put(work)

    def close(self) -> None:
        """Let the threads end that have nothing to do, and the others after that."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._work.put(None)

    def _live(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException:  # a fault of ours, or of a logger; this thread has other work to do
                self._logger.exception("thread_failed name=%s: it goes on", printable(self._name))
            del work  # or it would keep the handler's variables while this thread sleeps
            with self._mutex:
                if self._closed:
                    return
                self._idle += 1
