"""Sleepers: the workers that have nothing to do, and who of them is woken when there is."""

from __future__ import annotations

import threading
import time

from qg.working.threads import WakeUp
from qg.working.turns import Turns

__all__ = ["Sleepers"]


class Sleepers:
    """Where the workers of a pool sleep. Safe to use from any thread.

    Each sleeps until its time is up or it is woken, by a wake-up of its own. Where it is known when the
    next job falls due, one of them is on watch: it sleeps until then, and is the last to be woken for
    anything else. When it leaves, another one gets up, looks for a job and so learns when the next
    falls due.

    Args:
        batch_size: how many jobs each of them takes at once.

    Attributes:
        turns: whose turn it is to take jobs.
    """

    def __init__(self, batch_size: int = 1) -> None:
        self.turns = Turns()
        self._batch_size = batch_size
        self._mutex = threading.Lock()
        self._asleep: list[WakeUp] = []
        self._watch: WakeUp | None = None
        self._watch_until = 0.0
        self._calls = 0

    @property
    def calls(self) -> int:
        """How often wake() was called; to be read before one looks for a job, and handed to sleep()."""
        return self._calls

    @property
    def count(self) -> int:
        """How many sleep here at the moment."""
        return len(self._asleep)

    def sleep(self, wake_up: WakeUp, seconds: float, due: float | None, calls: int) -> None:
        """Sleep for *seconds*, or until *wake_up* is given.

        Args:
            wake_up: the sleeper's own.
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
                self._watch, self._watch_until = wake_up, time.monotonic() + seconds
                self._asleep.insert(0, wake_up)
            else:
                self._asleep.append(wake_up)
        wake_up.wait(seconds)
        with self._mutex:
            if wake_up in self._asleep:
                self._asleep.remove(wake_up)
            leaves_watch = self._watch is wake_up
            if leaves_watch:
                self._watch = None
        if leaves_watch:
            self.wake(1)

    def pause(self, wake_up: WakeUp, seconds: float) -> None:
        """Sleep for *seconds* without being woken for a job; *wake_up* ends it all the same."""
        wake_up.wait(seconds)

    def wake_for(self, jobs: int) -> None:
        """Wake one for each batch in so many *jobs*, and one at least."""
        self.wake(max(-(-jobs // self._batch_size), 1))

    def wake(self, count: int) -> None:
        """Wake *count* of those who sleep, as far as there are so many."""
        with self._mutex:
            self._calls += 1
            woken = [self._asleep.pop() for _ in range(min(count, len(self._asleep)))]
        for wake_up in woken:
            wake_up.give()

    def _is_before_the_watch(self, due: float) -> bool:
        return self._watch is None or time.monotonic() + due < self._watch_until
