"""RowTaker: delete, unlock, lock and check in one message to the server."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import psycopg2

from qg.database.database import Database
from qg.database.rights import grants_for
from qg.database.session import Session
from qg.failures import one_line, printable
from qg.locking.cancelled import CancelledJobs
from qg.locking.marks import Marks
from qg.tables import PollStrategy, Row, Statement, Table
from qg.tables.locking import UNLOCK_JOBS, Walk, array, delete_params, take_jobs_in
from qg.tables.rights import to_create_functions

__all__ = ["RowTaker", "Search", "Taken"]

_Types: TypeAlias = "tuple[str, ...] | None"

# Of so many queues, and in each of so many sets of types, a client knows where walks begin. What it forgets,
# the next walk there learns anew.
_MOST_QUEUES = 1000
_MOST_TYPES = 20


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


class Search(NamedTuple):
    """Which jobs are looked for: of which queue, in which order, and of which types; None means of any."""

    queue: str
    order: PollStrategy = PollStrategy.PRIORITY
    types: _Types = None


class RowTaker:
    """Takes rows for all the sessions of one client. Safe to use from any thread.

    Does it by functions in each session's temporary schema. A session that can't have any takes
    jobs plainly for a minute, by one statement after another, and then tries again.

    Attributes:
        cancelled: which jobs were deleted by somebody while they were being worked.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.cancelled = CancelledJobs()
        self._plainness_logged = False
        self._mutex = threading.Lock()
        # By queue, the one that was used last at the end. A walk that looks for some types passes by the others.
        self._marks: OrderedDict[str, dict[_Types, Marks]] = OrderedDict()

    def marks(self, queue: str, types: _Types = None) -> Marks:
        """Return what is known of *queue*, or of *types* there."""
        with self._mutex:
            of_queue = self._marks.get(queue)
            if of_queue is None:
                of_queue = self._marks[queue] = {}
                if len(self._marks) > _MOST_QUEUES:
                    self._marks.popitem(last=False)
            else:
                self._marks.move_to_end(queue)
            marks = of_queue.get(types)
            if marks is None:
                marks = of_queue[types] = Marks()
                if len(of_queue) > _MOST_TYPES:
                    del of_queue[next(iter(of_queue))]
            return marks

    def take(
        self,
        session: Session,
        table: Table,
        search: Search,
        wanted: int = 1,
        *,
        deleted: Sequence[Row] = (),
        unlock: Sequence[Row] = (),
        held: Sequence[Row] | None = None,
        along: Sequence[tuple[Statement, Sequence[Any]]] = (),
        anew: bool = False,
    ) -> Taken | None:
        """Delete *deleted* and commit; let go of what *session* has locked; lock up to *wanted* jobs.

        One message.

        Args:
            session: an idle one.
            table: the table as it is known.
            search: which jobs.
            wanted: how many jobs at the most.
            deleted: rows that are locked on the session.
            unlock: rows that are locked on the session. With *held* all that it is to let go of; otherwise it
                lets go of everything, and looks of the last of these whether it was locked.
            held: the rows that it is to go on holding, or isn't to lock; None if none.
            along: statements for the transaction that deletes, and their parameters.
            anew: whether to walk from the very start, whatever that costs.

        Returns:
            None if it isn't possible. Then *deleted* may have been deleted; nothing else was done.

        Raises:
            psycopg2.Error: if it fails. How much was done by then, only the table tells.
        """
        if not self._prepare(session, table):
            return None
        queue = table.queue_name(search.queue)
        marks = self.marks(queue, search.types)
        start = marks.start(anew=anew)
        keys = delete_params(deleted) if deleted else None
        let_go: tuple[int | None, str | None, str | None] = (unlock[-1].id if unlock else None, None, None)
        if held is not None:
            let_go = (None, array(row.id for row in unlock), array(row.id for row in held))
        types = None if search.types is None else list(search.types)
        params = (*let_go, queue, wanted, types, *start.params)
        try:
            answer = session.delete_and_run(table, keys, take_jobs_in(search.order), params, along)
        except psycopg2.errors.FeatureNotSupported as error:
            self._give_up(session, error)
            return None
        *found, last = (text for (text,) in answer)
        if self._plainness_logged:
            self._plainness_logged = False
            self._database.logger.info("taking_at_once: a job costs one round trip again")
        walk = Walk(*json.loads(last))
        marks.end(start, walk, len(found))
        wait = walk.seconds_until_next
        if start.at_marks:
            unseen = marks.seconds_until_start()
            wait = unseen if wait is None else min(wait, unseen)
        rows = [Row.read(text) for text in found]
        self.cancelled.forget(row.id for row in rows)
        return Taken(rows, walk.unlocked is not False, walk.more, wait, start.at_marks)

    def release(
        self,
        session: Session,
        table: Table,
        deleted: Sequence[Row],
        waiting: Sequence[Row],
        along: Sequence[tuple[Statement, Sequence[Any]]] = (),
    ) -> bool:
        """Delete *deleted* and commit; unlock these and *waiting*, all of them locked on *session*.

        One message.

        Returns:
            Whether all of them had been locked.

        Raises:
            psycopg2.Error: if it fails. How much was done by then, only the table tells.
        """
        keys = delete_params(deleted) if deleted else None
        ids = [row.id for row in (*deleted, *waiting)]
        ((unlocked,),) = session.delete_and_run(table, keys, UNLOCK_JOBS, (ids,), along)
        for row in waiting:
            self.note_released(row)
        return bool(unlocked == len(ids))

    def free(self, session: Session, table: Table, rows: Sequence[Row]) -> set[int]:
        """Return the ids of those of *rows* that are there as they were, and whose row nobody has locked. One message.

        Raises:
            psycopg2.Error: if it fails.
        """
        return {number for (number,) in session.run(table.free_jobs, delete_params(rows))}

    def note_released(self, row: Row) -> None:
        """Note that *row* is free again and still to be done."""
        with self._mutex:
            concerned = list(self._marks.get(row.queue, {}).values())
        for marks in concerned:
            marks.note_released(row)

    def takes_plainly(self, session: Session) -> bool:
        """Whether take() isn't possible on *session* at the moment, as far as is known."""
        return session.takes_plainly

    def _prepare(self, session: Session, table: Table) -> bool:
        if self.takes_plainly(session):
            return False
        try:
            session.prepare_taking(table)
        except psycopg2.errors.ReadOnlySqlTransaction:
            raise  # where nothing can be written, no job may be taken in any way
        except (psycopg2.ProgrammingError, psycopg2.InternalError, psycopg2.NotSupportedError) as error:
            self._give_up(session, error, lambda: grants_for(session, to_create_functions()))
            return False
        return True

    def _give_up(self, session: Session, cause: psycopg2.Error, remedy: Callable[[], str] = str) -> None:
        session.note_takes_plainly()
        if not self._plainness_logged:
            self._plainness_logged = True
            self._database.logger.warning(
                "taking_plainly: %s; without functions in pg_temp a job costs four round trips instead of one, "
                "and there are no batches; it is tried again every minute%s",
                one_line(cause),
                printable(remedy()),
            )
