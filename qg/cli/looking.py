"""``qg stats``, ``qg workers`` and ``qg errors``: how things stand, once or again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import click

from qg.cli.commanding import Command
from qg.cli.options import Asked, common
from qg.cli.output import Listing
from qg.cli.status import Status
from qg.cli.watching import Looks, watch, watch_option
from qg.control import Control, Count, ErrorGroup, Overview, QueueView, Trend, WorkerView

__all__ = ["errors", "stats", "workers"]

_exact_option = click.option("--exact", is_flag=True, help="Count every job, even if it takes long; no estimates.")


class _Standing(NamedTuple):
    """How a queue stands, when, and what has changed lately."""

    queue: QueueView
    at: datetime
    trend: Trend | None

    @property
    def overdue(self) -> timedelta | None:
        """How long the job that is due for longest has been."""
        due = self.queue.oldest_due
        return None if due is None else max(self.at - due, timedelta(0))


def _standing_fields(standing: _Standing) -> dict[str, Any]:
    queue, trend = standing.queue, standing.trend
    counts = {
        "waiting": queue.waiting,
        "due": queue.due,
        "scheduled": queue.scheduled,
        "failing": queue.failing,
        "working": queue.working,
        "expired": queue.expired,
        "finished": queue.finished,
    }
    return {
        "queue": queue.queue,
        "status": queue.status,
        **counts,
        "estimated": [name for name, count in counts.items() if isinstance(count, Count) and count.estimated],
        "oldest_due": queue.oldest_due,
        "overdue_seconds": standing.overdue,
        "workers": queue.workers,
        "at": standing.at,
        "change_per_minute": None if trend is None else trend.per_minute,
        "empty_in_seconds": None if trend is None else trend.empty_in,
    }


_STANDING: Mapping[str, Callable[[_Standing], Any]] = {
    "queue": lambda each: each.queue.queue,
    "status": lambda each: each.queue.status,
    "workers": lambda each: each.queue.workers,
    "working": lambda each: each.queue.working,
    "due": lambda each: each.queue.due,
    "scheduled": lambda each: each.queue.scheduled,
    "failing": lambda each: each.queue.failing,
    "expired": lambda each: each.queue.expired,
    "finished": lambda each: each.queue.finished,
    "late by": lambda each: each.overdue,
}
_TREND: Mapping[str, Callable[[_Standing], Any]] = {
    "change a minute": lambda each: None if each.trend is None else f"{each.trend.per_minute:+.0f}",
    "empty in": lambda each: None if each.trend is None else each.trend.empty_in,
}


@click.command(cls=Command)
@_exact_option
@watch_option
@common
def stats(asked: Asked, exact: bool, watched: bool) -> None:
    """Show how the queues stand.

    A queue is working, idle, paused, or nobody works it. Its jobs are due, scheduled for later, failing (they will
    be tried again; a failing job that is due counts as due, too), expired (given up) or finished. "late by" is how
    long the oldest due job has been waiting. In a table of more than 16 MB some numbers are estimates, marked by ≈.

    \b
    qg stats
    qg stats --watch       with rates: is it getting better?
    qg stats --json | jq 'select(.overdue_seconds > 60)'
    """
    looks: Looks[Overview] = Looks()

    def draw(control: Control) -> None:
        overview = control.overview(exact=exact)
        earlier = looks.add(overview)
        trends = overview.since(earlier)
        standings = [_Standing(each, overview.at, trends.get(each.queue)) for each in overview.queues]
        columns = {**_STANDING, **_TREND} if watched else _STANDING
        listing: Listing[_Standing] = Listing(columns, _standing_fields, lambda each: each.queue.queue)
        if not asked.out.rows(standings, listing):
            asked.out.say("There are no jobs, and nobody is there to work any.")
        if watched and (per_minute := overview.deleted_per_minute(earlier)) is not None:
            asked.out.say(f"{per_minute:.0f} jobs a minute are done, or deleted.")

    with asked.control(deadline=None if exact else 60.0) as control:
        if watched:
            watch(asked.out, lambda: draw(control))
        draw(control)


def _worker_fields(worker: WorkerView) -> dict[str, Any]:
    return {
        "worker": str(worker.holder),
        "kind": worker.kind,
        "name": worker.holder.name,
        "pid": worker.holder.pid,
        "host": worker.holder.host,
        "backend_pid": worker.holder.backend_pid,
        "queues": worker.queues,
        "listens": worker.listens,
        "jobs": [{"id": number, "queue": queue, "type": job_type} for number, queue, job_type in worker.jobs],
        "state": worker.state,
        "since": worker.holder.since,
        "connected_at": worker.connected_at,
        "transaction_since": worker.transaction_since,
        "waits_for": worker.waits_for,
        "blocked_by": worker.blocked_by,
        "statement": worker.statement,
        "other_locks": worker.other_locks,
    }


_WORKERS: Listing[WorkerView] = Listing(
    {
        "worker": lambda worker: worker.holder,
        "kind": lambda worker: worker.kind,
        "session": lambda worker: worker.holder.backend_pid,
        "queues": lambda worker: worker.queues,
        "works": lambda worker: [f"{number} {job_type}" for number, _, job_type in worker.jobs],
        "state": lambda worker: worker.state,
        "since": lambda worker: worker.holder.since,
        "waits for": lambda worker: worker.waits_for,
        "blocked by": lambda worker: worker.blocked_by,
        "statement": lambda worker: " ".join(worker.statement.split())[:80],
    },
    _worker_fields,
    lambda worker: worker.holder.backend_pid,
)


def _works(worker: WorkerView) -> bool:
    """Whether it works jobs, or listens for them, or is in the way of somebody who does; others only look."""
    return bool(worker.queues or worker.jobs or worker.other_locks) or worker.kind == "locker"


@click.command(cls=Command, no="there are no workers")
@watch_option
@common
def workers(asked: Asked, watched: bool) -> Status:
    """Show who works what: each session that works jobs, or holds the lock of one.

    Workers in Python, Ruby and Go are listed. --quiet prints the process numbers of their sessions on the server;
    pg_terminate_backend() takes such a number. PostgreSQL shows the statements and times of other roles only to
    members of pg_read_all_stats.

    \b
    qg workers
    qg workers --watch
    qg workers --json | jq 'select(.jobs != [])'
    """

    def draw(control: Control) -> int:
        count = asked.out.rows(filter(_works, control.workers()), _WORKERS)
        if not count:
            asked.out.note("nobody works any queue")
        return count

    with asked.control() as control:
        if watched:
            watch(asked.out, lambda: draw(control))
        return Status.DONE if draw(control) else Status.NO


class _Failing(NamedTuple):
    """Jobs that fail in the same way, and how many more they get a minute."""

    group: ErrorGroup
    per_minute: float | None


def _failing_fields(failing: _Failing) -> dict[str, Any]:
    group = failing.group
    counts = {"failing": group.failing, "expired": group.expired}
    return {
        "type": group.type,
        "message": group.message,
        **counts,
        "estimated": [name for name, count in counts.items() if count.estimated],
        "first_due": group.first_due,
        "last_due": group.last_due,
        "example": group.example,
        "change_per_minute": failing.per_minute,
    }


_FAILING: Mapping[str, Callable[[_Failing], Any]] = {
    "type": lambda each: each.group.type,
    "failing": lambda each: each.group.failing,
    "expired": lambda each: each.group.expired,
    "for example": lambda each: each.group.example,
    "last due": lambda each: each.group.last_due,
    "error": lambda each: each.group.message,
}
_FAILING_TREND: Mapping[str, Callable[[_Failing], Any]] = {
    "change a minute": lambda each: None if each.per_minute is None else f"{each.per_minute:+.0f}"
}


class _ErrorsAt(NamedTuple):
    """What failed at a time: how many jobs, by type and message."""

    at: datetime
    counts: dict[tuple[str, str], int]


@click.command(cls=Command)
@_exact_option
@watch_option
@common
def errors(asked: Asked, exact: bool, watched: bool) -> None:
    """Show what fails, and why: jobs by their type and the first line of their error, the most frequent first.

    "for example" is the last enqueued job of a line; qg jobs show prints its traceback. In a table of more than 16 MB
    some numbers are estimates, marked by ≈. --quiet prints one job of each group.

    \b
    qg errors
    qg errors --watch
    qg jobs show $(qg errors --quiet | head -1)
    """
    looks: Looks[_ErrorsAt] = Looks()

    def draw(control: Control) -> None:
        groups = control.errors(exact=exact)
        now = _ErrorsAt(control.now(), {(each.type, each.message): each.failing + each.expired for each in groups})
        earlier = looks.add(now)
        minutes = (now.at - earlier.at).total_seconds() / 60
        failing = [
            _Failing(each, (now.counts[key] - earlier.counts.get(key, 0)) / minutes if minutes else None)
            for each in groups
            for key in [(each.type, each.message)]
        ]
        columns = {**_FAILING_TREND, **_FAILING} if watched else _FAILING
        listing: Listing[_Failing] = Listing(columns, _failing_fields, lambda each: each.group.example)
        if not asked.out.rows(failing, listing):
            asked.out.say("Nothing fails.")

    with asked.control(deadline=None if exact else 60.0) as control:
        if watched:
            watch(asked.out, lambda: draw(control))
        draw(control)
