"""Hands: threads that run the jobs of a crew."""

from __future__ import annotations

import threading
from functools import partial

from qg.failures import Logger
from qg.working.crew import Crew
from qg.working.handlers import WorkMap
from qg.working.hooks import NO_HOOKS, Hooks
from qg.working.runner import Runner
from qg.working.threads import BackgroundThread, WakeUp

__all__ = ["Hands"]


class Hands:
    """Threads that run jobs, one at a time each, and one more that settles what has to be settled apart.

    That is no work for a hand: it may have to wait for a connection, and all hands may be busy for long.

    Args:
        names: one for the thread of each hand.
        settler: the name of the other thread.
        work_map: from job type to handler.
        logger: where it is told how each job went.
        hooks: what is called around each job, and after those that fail.

    Attributes:
        size: how many hands there are.
        reporter: says in the log what has become of jobs that are settled together, or apart.
        runners: the reporter and those of the hands.
        threads: the settler and those of the hands, to be started in this order once crew is set.
        crew: where the jobs come from.
    """

    crew: Crew

    def __init__(
        self, names: list[str], settler: str, work_map: WorkMap, logger: Logger, hooks: Hooks = NO_HOOKS
    ) -> None:
        self.size = len(names)
        self.reporter = Runner(work_map, logger, hooks)
        hands = [Runner(work_map, logger, hooks) for _ in names]
        self.runners = [self.reporter, *hands]
        self._settling = WakeUp()
        self.threads = [
            BackgroundThread(settler, self._settle, wake=self._settling.give, logger=logger),
            *(
                BackgroundThread(name, partial(self._work, runner), wake=_nothing, logger=logger)
                for name, runner in zip(names, hands, strict=True)
            ),
        ]
        # Guards the list of those that sleep.
        self._mutex = threading.Lock()
        # The one that worked last is woken first.
        self._asleep: list[WakeUp] = []
        self._dismissed = False

    def wake(self, count: int) -> None:
        """Wake *count* of the hands that sleep, as far as there are so many."""
        with self._mutex:
            woken = [self._asleep.pop() for _ in range(min(count, len(self._asleep)))]
        for each in woken:
            each.give()

    def wake_settler(self) -> None:
        """Have all settled that is apart."""
        self._settling.give()

    def dismiss(self) -> None:
        """Let all threads end; no job may be left for them."""
        self._dismissed = True
        self.wake(self.size)
        for each in self.threads:
            each.stop()

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

    def _settle(self) -> None:
        while not self._dismissed:
            self._settling.wait(None)
            while self.crew.settle_apart(self.reporter):
                pass


def _nothing() -> None:
    """A hand is dismissed by its locker, when all that is locked is settled."""
