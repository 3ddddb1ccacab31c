"""The workers that have nothing to do, and who of them is woken when there is."""

from __future__ import annotations

import queue as queues
import threading
import time
from contextlib import suppress

__all__ = ["Sleepers"]


class Sleepers:
    """Where the workers of a pool sleep. Safe to use from any thread.

    Each sleeps until its time is up or its *bell*, a queue of its own, rings. One of them is on watch
    where it is known when the next job falls due: it sleeps until then, and is the last to be called
    for anything else. When it leaves, another one gets up, looks for a job and so learns when the
    next falls due.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._asleep: list[queues.SimpleQueue[None]] = []
        self._watch: queues.SimpleQueue[None] | None = None
        self._watch_until = 0.0
        self._calls = 0

    @property
    def calls(self) -> int:
        """How often wake() was called; to be read before one looks for a job, and handed to sleep()."""
        return self._calls

    def sleep(self, bell: queues.SimpleQueue[None], seconds: float, due: float | None, calls: int) -> None:
        """Sleep for *seconds*, or until *bell* rings.

        Args:
            bell: the sleeper's own.
            seconds: how long at the most.
            due: in how many seconds a job falls due; None if that isn't known.
            calls: as it was before the sleeper looked for a job. If there was a call since, it
                doesn't sleep, for that call may have meant a job it didn't see.
        """
        with self._mutex:
            if calls != self._calls:
                return
            if due is not None and due < seconds and self._is_before_the_watch(due):
                seconds = max(due, 0.0)
                self._watch, self._watch_until = bell, time.monotonic() + seconds
                self._asleep.insert(0, bell)
            else:
                self._asleep.append(bell)
        with suppress(queues.Empty):
            bell.get(timeout=seconds)
        with self._mutex:
            if bell in self._asleep:
                self._asleep.remove(bell)
            leaves_watch = self._watch is bell
            if leaves_watch:
                self._watch = None
        if leaves_watch:
            self.wake(1)

    def wake(self, count: int) -> None:
        """Wake *count* of those who sleep, as far as there are so many."""
        with self._mutex:
            self._calls += 1
            bells = [self._asleep.pop() for _ in range(min(count, len(self._asleep)))]
        for bell in bells:
            bell.put(None)

    def _is_before_the_watch(self, due: float) -> bool:
        return self._watch is None or time.monotonic() + due < self._watch_until
