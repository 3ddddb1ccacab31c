"""Unrecorded: deaths whose jobs still need their errors, and which process was asked to record them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qg.failures import printable
from qg.supervisor.messages import Death
from qg.supervisor.offspring import Child
from qg.supervisor.running_jobs import RunningJob

__all__ = ["Unrecorded"]

_logger = logging.getLogger("qg")


class Unrecorded:
    """The deaths that are still to be recorded.

    Attributes:
        died: how many processes have died in the midst of jobs.
    """

    def __init__(self) -> None:
        self.died = 0
        # Each with the child that was asked to record it; None if none was yet.
        self._deaths: dict[int, tuple[Death, Child | None]] = {}

    def add(self, jobs: Sequence[RunningJob], cause: str, at: float) -> None:
        """Note a death that nobody was asked to record yet; as Death has the arguments."""
        self.died += 1
        self._deaths[self.died] = (Death(self.died, tuple(jobs), cause, at), None)

    def waiting(self) -> list[Death]:
        """Return those that nobody was asked to record."""
        return [death for death, child in self._deaths.values() if child is None]

    def give(self, deaths: Sequence[Death], child: Child) -> None:
        """Note that *child* was asked to record these."""
        for death in deaths:
            self._deaths[death.number] = (death, child)

    def take_back_from(self, child: Child) -> None:
        """Note that *child* has ended, and records nothing any more."""
        self._deaths = {
            number: (death, None if whom is child else whom) for number, (death, whom) in self._deaths.items()
        }

    def hear(self, number: int, *, recorded: bool) -> None:
        """Note what a child says of the death with this number."""
        if recorded:
            self._deaths.pop(number, None)
        elif number in self._deaths:
            self._deaths[number] = (self._deaths[number][0], None)

    def log(self) -> None:
        """Name what is left, since nobody will record it any more."""
        for death, _ in self._deaths.values():
            _logger.warning(
                "deaths_unrecorded ids=%s: %s; nobody is left to record it",
                printable(",".join(str(job.id) for job in death.jobs)),
                printable(death.cause),
            )
