"""Pausing: which queues workers are to leave alone."""

from __future__ import annotations

from datetime import datetime

from qg.control.base import Base
from qg.control.options import checked_text
from qg.control.pausing import pause, resume
from qg.control.standing import Pause
from qg.enqueuing.fields import check_queue
from qg.errors import ErrInvalidOption
from qg.failures import printable
from qg.tables.rights import to_look, to_pause

__all__ = ["Pausing"]


class Pausing(Base):
    """The part of :class:`qg.control.Control` that pauses queues."""

    def pause(
        self,
        queue: str,
        *,
        until: datetime | None = None,
        reason: str = "",
        by: str | None = None,
        even_if_unknown: bool = False,
    ) -> Pause:
        """Let workers take no more jobs of *queue*; those that are running end.

        qg's workers obey within two seconds, and at once where their pool listens. Ruby's and Go's don't know of it:
        those that are seen are in the answer. A queue that is paused already is paused anew.

        Args:
            queue: its name.
            until: when to go on by themselves, an aware datetime in the future; None means at resume().
            reason: for those who see the pause.
            by: who does it, instead of the one that the Control was made with.
            even_if_unknown: whether it may be a queue that nobody knows yet.

        Raises:
            ErrInvalidOption: if an argument is out of bounds.
            ErrUnknownQueue: if nobody knows the queue.
            ErrTable: if there is no table to keep it in; qg.migrate(source) makes it.
        """
        if until is not None and not (isinstance(until, datetime) and until.utcoffset() is not None):
            raise ErrInvalidOption(f"until={until!r} is no aware datetime; give one with a time zone")
        reason = checked_text("reason", reason) or ""
        name, who = self._known_queue(queue, even_if_unknown=even_if_unknown), self._name(by)
        with self._rights(
            lambda table: [*to_pause(table), *to_look(table)], lambda: f"the queue {name!r} isn't paused"
        ):
            paused = self._database.run(lambda session, table: pause(session, table, name, until, reason, who))
        self._logger.info(
            "control_pause queue=%s until=%s by=%s reason=%s",
            printable(name),
            printable(paused.until),
            printable(who),
            printable(reason),
        )
        return paused

    def resume(self, queue: str, *, by: str | None = None) -> bool:
        """Let workers take jobs of *queue* again, and return whether it was paused.

        Raises:
            ErrInvalidOption: if *queue* is no queue's name.
            ErrUnknownQueue: if it wasn't paused, and nobody knows it.
            ErrTable: if there is no table of pauses.
        """
        who = self._name(by)
        check_queue(queue)
        with self._rights(to_pause, lambda: f"the queue {queue!r} isn't resumed"):
            resumed = self._database.run(lambda session, table: resume(session, table, table.queue_name(queue)))
        if not resumed:
            self._known_queue(queue)
        else:
            self._logger.info("control_resume queue=%s by=%s", printable(queue), printable(who))
        return resumed
