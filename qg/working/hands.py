"""Hands: threads that run the jobs of a crew."""

from __future__ import annotations

import threading
from functools import partial

from qg.failures import Logger
from qg.working.crew import Crew
from qg.working.handlers import WorkMap
from qg.working.runner import Runner
from qg.working.threads import BackgroundThread, WakeUp

__all__ = ["Hands"]


class Hands:
    """Threads that run jobs, one at a time each.

    Args:
        names: one for each thread.
        work_map: from job type to handler.
        logger: where it is told how each job went.

    Attributes:
        runners: one for each thread.
        threads: to be started once crew is set.
        size: how many there are.
        reporter: says in the log what has become of jobs that are settled together.
        crew: where the jobs come from.
    """

    crew: Crew

    def __init__(self, names: list[str], work_map: WorkMap, logger: Logger) -> None:
        self.runners = [Runner(work_map, logger) for _ in names]
        self.threads = [
            BackgroundThread(name, partial(self._work, runner), wake=_nothing, logger=logger)
            for name, runner in zip(names, self.runners, strict=True)
        ]
        self.size = len(names)
        self.reporter = Runner(work_map, logger)
        # Guards the list of those that sleep.
        self._mutex = threading.Lock()
        # The one that worked last is woken first.
        self._asleep: list[WakeUp] = []
        self._dismissed = False

    def wake(self, count: int) -> None:
        """Wake *count* of those that sleep, as far as there are so many."""
        with self._mutex:
            woken = [self._asleep.pop() for _ in range(min(count, len(self._asleep)))]
        for each in woken:
            each.give()

    def dismiss(self) -> None:
        """Let all threads end; no job may be left for them."""
        self._dismissed = True
        self.wake(len(self.threads))

    def _work(self, runner: Runner) -> None:
        wake_up = WakeUp()
        while True:
            held = self.crew.next()
            if held is not None:
                self.crew.run(held, runner)
                del held  # or it would keep the handler's connection while this thread sleeps
                continue
            with self._mutex:
                if self._dismissed:
                    return
                self._asleep.append(wake_up)
            # A job that has come since then has woken nobody, perhaps.
            wake_up.wait(0 if self.crew.waiting else None)
            with self._mutex:
                if wake_up in self._asleep:
                    self._asleep.remove(wake_up)


def _nothing() -> None:
    """A hand is dismissed by its locker, when all that is locked is settled."""
