"""Taking jobs the short way: finish, unlock, lock and check in one message to the server."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import NamedTuple

import psycopg2

from qg.failures import Logger, one_line
from qg.known import KnownTable
from qg.marks import Marks
from qg.session import Session
from qg.tables import PollStrategy, Row
from qg.tables.locking import UNLOCK_JOBS, Walk, finish_params, take_jobs_in

__all__ = ["Taken", "Taker"]


class Taken(NamedTuple):
    """What one message brought.

    ``rows`` are the jobs, locked and looked at, in the order in which they are to be run.
    ``unlocked`` says whether the lock that was given up had been held, ``more`` whether another due
    job may be waiting. ``seconds_until_next`` says, if there is no job, when to look again: one
    falls due then, or what this walk couldn't see can be looked at; None if nothing is known of any.
    ``at_marks`` says that the walk may have missed a job.
    """

    rows: list[Row]
    unlocked: bool
    more: bool
    seconds_until_next: float | None
    at_marks: bool


class Taker:
    """Takes jobs for all the sessions of one client. Safe to use from any thread.

    Does it by functions in each session's temporary schema. Where there can't be any, ``possible``
    turns false for good, and the plain statements do it one by one.
    """

    def __init__(self, known: KnownTable, logger: Logger) -> None:
        self.possible = True
        self._known = known
        self._logger = logger
        self._mutex = threading.Lock()
        # A walk that looks for some types passes by the others.
        self._marks: dict[tuple[str, tuple[str, ...] | None], Marks] = {}

    def marks(self, queue: str, types: tuple[str, ...] | None = None) -> Marks:
        """Return what is known of *queue*, or of *types* there."""
        marks = self._marks.get((queue, types))
        if marks is None:
            with self._mutex:
                marks = self._marks.setdefault((queue, types), Marks())
        return marks

    def take(
        self,
        session: Session,
        queue: str,
        wanted: int = 1,
        *,
        order: PollStrategy = PollStrategy.PRIORITY,
        types: tuple[str, ...] | None = None,
        finished: Sequence[Row] = (),
        unlock: Row | None = None,
        anew: bool = False,
    ) -> Taken | None:
        """Delete *finished* and commit; let go of what *session* has locked; lock up to *wanted* jobs.

        One message.

        Args:
            session: an idle one.
            queue: the queue's name.
            wanted: how many jobs at the most.
            order: which ones come first.
            types: only jobs of these types; None means of any.
            finished: rows that are locked on the session.
            unlock: one of the rows that are locked on the session; None if none is.
            anew: whether to walk from the very start, whatever that costs.

        Returns:
            None if it isn't possible. Then *finished* may have been deleted; nothing else was done.

        Raises:
            psycopg2.Error: if it fails. How much was done by then, only the table tells.
        """
        if not self._prepare(session):
            return None
        queue = self._known.table.queue_name(queue)
        marks = self.marks(queue, types)
        start = marks.start(anew=anew)
        finish = finish_params(finished) if finished else None
        wanted_types = None if types is None else list(types)
        params = (unlock.id if unlock else None, queue, wanted, wanted_types, *start.params)
        try:
            *found, last = (text for (text,) in session.finish_and_run(finish, take_jobs_in(order), params))
        except psycopg2.errors.FeatureNotSupported as error:
            self._give_up(error)
            return None
        walk = Walk(*json.loads(last))
        marks.end(start, walk, len(found))
        wait = walk.seconds_until_next
        if start.at_marks:
            unseen = marks.seconds_until_start()
            wait = unseen if wait is None else min(wait, unseen)
        rows = [Row.read(text) for text in found]
        return Taken(rows, walk.unlocked is not False, walk.more, wait, start.at_marks)

    def release(self, session: Session, finished: Sequence[Row], waiting: Sequence[Row]) -> bool:
        """Delete *finished* and commit; unlock these and *waiting*, all of them locked on *session*.

        One message.

        Returns:
            Whether all of them had been locked.

        Raises:
            psycopg2.Error: if it fails. How much was done by then, only the table tells.
        """
        finish = finish_params(finished) if finished else None
        ids = [row.id for row in (*finished, *waiting)]
        ((unlocked,),) = session.finish_and_run(finish, UNLOCK_JOBS, (ids,))
        for row in waiting:
            self.released(row)
        return bool(unlocked == len(ids))

    def released(self, row: Row) -> None:
        """Note that *row* is free again and still to be done."""
        for (queue, _), marks in list(self._marks.items()):
            if queue == row.queue:
                marks.released(row)

    def _prepare(self, session: Session) -> bool:
        if self.possible:
            try:
                session.prepare_taking()
            except (psycopg2.ProgrammingError, psycopg2.InternalError, psycopg2.NotSupportedError) as error:
                self._give_up(error)
        return self.possible

    def _give_up(self, cause: psycopg2.Error) -> None:
        if self.possible:
            self.possible = False
            self._logger.warning(
                "taking_plainly: %s; without functions in pg_temp a job costs four round trips instead of one "
                "and there are no batches",
                one_line(cause),
            )
