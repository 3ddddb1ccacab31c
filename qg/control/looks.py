"""Looking: how the queues stand, which jobs there are, who works them, and what fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import psycopg2

from qg.control.acting import checked_ids
from qg.control.base import Base
from qg.control.failing import find_errors
from qg.control.filters import Filter
from qg.control.history import (
    find_attempts,
    find_attempts_of,
    find_history,
    find_pools,
    find_schedules,
    require_history,
)
from qg.control.listing import check_after, find_by_ids, find_page, no_key, view_of
from qg.control.overview import find_overview
from qg.control.pausing import find_pauses, find_queues, require_queue
from qg.control.records import Attempt, ErrorGroups, JobDetail, JobView, Order, Page, State
from qg.control.sessions import find_workers
from qg.control.standing import Overview, Pause, PoolView, ScheduleView, WorkerView
from qg.database.rights import require_rights
from qg.database.session import Session
from qg.errors import ErrInvalidOption, ErrUnknownJob
from qg.tables import Table, timestamp
from qg.tables.checks import CLOCK
from qg.tables.rights import to_enqueue

__all__ = ["Looking"]

_LONGEST_PAGE = 10_000


class Looking(Base):
    """The part of :class:`qg.control.Control` that changes nothing."""

    def overview(self, *, exact: bool = False) -> Overview:
        """Return how all queues stand.

        In a table of more than 16 MB what would take long to count is estimated, and says so (:class:`Count`).

        Args:
            exact: count every job, however long it takes; no deadline ends that.
        """

        def find(session: Session, table: Table) -> Overview:
            return find_overview(session, table, find_pauses(session, table), exact=exact)

        return self._look(find, hurries=not exact)

    def now(self) -> datetime:
        """Return what time it is by the database's clock, an aware datetime."""
        return self._look(lambda session, table: timestamp(session.run(CLOCK)[0][0]))

    def require_rights_to_enqueue(self) -> None:
        """Raise ErrRights, with the GRANT, if the database's role may not enqueue; for one that has just been refused.

        Raises:
            ErrRights: if it may not.
        """
        self._look(lambda session, table: require_rights(session, to_enqueue(table), "no job is stored"))

    def jobs(
        self,
        where: Filter | None = None,
        *,
        queue: str | None = None,
        type: str | None = None,  # noqa: A002 - what everybody calls it
        state: State | str | None = None,
        error: str | None = None,
        older_than: timedelta | None = None,
        younger_than: timedelta | None = None,
        args: Mapping[str, Any] | None = None,
        message: str | None = None,
        order: Order | str = Order.NEWEST,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """Return a page of the jobs that fit.

        At most 0.05 s is spent on looking for them. So a page may be short, or empty, although there are more to
        come: its ``after`` says whether there are, and goes on from there. each_job() does that by itself.

        Args:
            where: which jobs; or what a :class:`Filter` is made of, *queue* to *message*.
            queue, type, state, error, older_than, younger_than, args, message: as in Filter.
            order: which come first; an Order, or its value as text.
            limit: how many at the most, up to 10,000.
            after: that of the page before; None begins.

        Raises:
            ErrInvalidOption: if an argument is out of bounds.
            ErrTable: for finished jobs in a table of version 3, which keeps none.
            ErrUnknownQueue: if the queue is one that nobody knows.
        """
        said = Filter(queue, type, state, error, older_than, younger_than, args, message)
        if where is not None and not (isinstance(where, Filter) and said.says_nothing):
            raise ErrInvalidOption("give a Filter, or what one is made of, and not both")
        wanted, order = where or said, _checked_order(order)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LONGEST_PAGE:
            raise ErrInvalidOption(f"limit must be a number of jobs, 1 to {_LONGEST_PAGE}, not {limit!r}")

        def find(session: Session, table: Table) -> Page:
            try:
                page = find_page(session, table, wanted, order, check_after(after, order, table), limit)
            except psycopg2.DataError as error:  # a day that no calendar has
                if after is None:
                    raise
                raise no_key(after, table) from error
            if not page.jobs and wanted.queue is not None and after is None:
                require_queue(session, table, table.queue_name(wanted.queue))
            return page

        return self._look(find)

    def each_job(self, where: Filter | None = None, *, order: Order | str = Order.NEWEST) -> Iterator[JobView]:
        """Yield the jobs that fit, to the last one. One jobs() after the other; raises what that raises."""
        after: str | None = None
        while True:
            page = self.jobs(where, order=order, limit=1000, after=after)
            yield from page.jobs
            after = page.after
            if after is None:
                return

    def job(self, id: int) -> JobDetail:  # noqa: A002 - it is the job's id, and has no other name anywhere
        """Return the job with this id, and its attempts where qg.jobs keeps a history.

        Raises:
            ErrInvalidOption: if *id* is no number.
            ErrUnknownJob: if neither the table nor the history has such a job.
        """
        (number,) = checked_ids([id])

        def find(session: Session, table: Table) -> JobDetail:
            rows = find_by_ids(session, table, [number])
            history = find_history(session, table)
            attempts = None if history is None else find_attempts_of(session, history, number)
            if not rows and not attempts:
                raise ErrUnknownJob(
                    f"there is no job {number} in {table.schema}.que_jobs: it is done, or was deleted, or never was; "
                    "give the id of one that jobs() lists"
                )
            return JobDetail(view_of(session, table, rows[0]) if rows else None, attempts)

        return self._look(find)

    def workers(self) -> list[WorkerView]:
        """Return the sessions that work jobs, or hold their locks, or listen for them; of qg's, Ruby's and others.

        What others do, and since when, PostgreSQL shows to members of pg_read_all_stats alone.
        """
        return self._look(find_workers)

    def errors(self, *, exact: bool = False) -> ErrorGroups:
        """Return what fails, and has failed for good, grouped by type and first line; the largest groups first.

        ``Filter(type=group.type, message=group.message)`` means the jobs of a group. A thousand groups are told at the
        most; ``more`` of the list says whether there are others.

        In a table of more than 16 MB the numbers are estimates, and say so. Groups of a few jobs may be missing there,
        but those of which some wait to be tried again.

        Args:
            exact: look at every job, however long it takes; no deadline ends that.
        """
        return self._look(lambda session, table: find_errors(session, table, exact=exact), hurries=not exact)

    def queues(self) -> list[str]:
        """Return the names of all queues that are known: that have jobs to be done, or workers, or are paused."""
        return self._look(find_queues)

    def history(
        self,
        *,
        type: str | None = None,  # noqa: A002 - what everybody calls it
        queue: str | None = None,
        success: bool | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[list[Attempt], int | None]:
        """Return attempts from the history of qg.jobs, the last one first, and *before* for the next call.

        That is None at the end. Ten thousand attempts are read at the most, so there may be fewer than *limit*, or
        none, and more to come.

        Raises:
            ErrInvalidOption: if an argument is out of bounds.
            ErrTable: if there are no tables of qg.jobs.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LONGEST_PAGE:
            raise ErrInvalidOption(f"limit must be a number of attempts, 1 to {_LONGEST_PAGE}, not {limit!r}")
        if before is not None:
            (before,) = checked_ids([before])
        if success is not None and not isinstance(success, bool):
            raise ErrInvalidOption(f"success must be True, False or None, not {success!r}")
        fits = Filter(queue=queue, type=type)

        def find(session: Session, table: Table) -> tuple[list[Attempt], int | None]:
            history = require_history(session, table)
            return find_attempts(
                session, history, type=fits.type, queue=fits.queue, success=success, before=before, limit=limit
            )

        return self._look(find)

    def schedules(self) -> list[ScheduleView]:
        """Return the schedules of qg.jobs. Raises ErrTable if there are no tables of it."""
        return self._look(lambda session, table: find_schedules(session, require_history(session, table)))

    def pools(self) -> list[PoolView]:
        """Return the pools of qg.jobs that were heard of lately. Raises ErrTable if there are no tables of it."""
        return self._look(lambda session, table: find_pools(session, require_history(session, table)))

    def pauses(self) -> list[Pause]:
        """Return the queues that are paused."""
        return self._look(find_pauses)


def _checked_order(order: object) -> Order:
    try:
        return Order(order)
    except ValueError:
        raise ErrInvalidOption(
            f"there is no order {order!r} of jobs; give one of {', '.join(str(each) for each in Order)}"
        ) from None
