"""Pausing queues, and which queues there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import psycopg2

from qg.control.history import find_history, find_pools
from qg.control.overview import sample_percent
from qg.control.sessions import find_workers, instant
from qg.control.standing import Pause
from qg.database.session import Session
from qg.errors import ErrInvalidOption, ErrTable, ErrUnknownQueue
from qg.tables import Table, iso_text, timestamp
from qg.tables.looks import looks_at
from qg.tables.pauses import pauses_in

__all__ = ["find_pauses", "find_queues", "has_pauses", "pause", "require_queue", "resume"]

_MOST_QUEUES = 10_000


def has_pauses(session: Session, table: Table) -> bool:
    """Return whether there is a table of pauses. One message."""
    return bool(session.run(pauses_in(table.schema).readable, (table.schema,)))


def find_pauses(session: Session, table: Table) -> list[Pause]:
    """Return the pauses that hold; none where there is no table of them. One message."""
    try:
        rows = session.run(pauses_in(table.schema).all)
    except psycopg2.errors.UndefinedTable:
        return []
    return [
        Pause(table.queue_name(queue), timestamp(since), instant(until), reason, by)
        for queue, since, until, reason, by in rows
    ]


def pause(session: Session, table: Table, queue: str, until: datetime | None, reason: str, by: str) -> Pause:
    """Pause *queue*, committed at once, and return that, with who doesn't know of it. Four messages.

    Raises:
        ErrInvalidOption: if its time is up already.
        ErrTable: if there is no table of pauses.
    """
    params = (queue, None if until is None else iso_text(until), reason, by)
    # First: once it is paused, nothing may fail any more.
    workers = find_workers(session, table)
    with _table_needed(table):
        rows = session.run(pauses_in(table.schema).pause, params)
    if not rows:
        raise ErrInvalidOption(f"until={until!s} is past by the database's clock, so nothing is paused")
    _, since, ends, *_ = rows[0]
    others = tuple(
        f"{each.holder} has a job of it, and goes on if it locks jobs by hand"
        if each.kind == "qg"
        else f"{each.holder} works it and doesn't know of pauses"
        for each in workers
        if queue in each.queues and not each.obeys_pauses
    )
    return Pause(queue, timestamp(since), instant(ends), reason, by, others)


def resume(session: Session, table: Table, queue: str) -> bool:
    """End the pause of *queue*, committed at once, and return whether there was one. One message.

    Raises:
        ErrTable: if there is no table of pauses.
    """
    with _table_needed(table):
        # It had no name yet, perhaps, when it was paused, and Ruby has migrated the table since.
        names = [name for name in dict.fromkeys((queue, "")) if table.queue_name(name) == queue]
        rows = session.run(pauses_in(table.schema).resume, (names,))
    return any(held for _, held, _ in rows)


@contextmanager
def _table_needed(table: Table) -> Iterator[None]:
    try:
        yield
    except psycopg2.errors.UndefinedTable as error:
        raise ErrTable(
            f"there is no table qg_queues in the schema {table.schema!r}, so a pause can't be kept; "
            "create it with qg.migrate(source), as the owner of que_jobs"
        ) from error


def find_queues(session: Session, table: Table) -> list[str]:
    """Return all queues that are known: that have jobs, or workers, or a pool of qg.jobs, or a pause. Some messages.

    In a large table, one that has nothing but a few settled jobs may be missing.
    """
    looks = looks_at(table)
    queues = {queue for (queue,) in session.run(looks.queues, (_MOST_QUEUES,))}
    if table.version > 3:
        percent = sample_percent(session.run(looks.size)[0][0])
        rows = session.run(looks.count_all) if percent is None else session.run(looks.count_sample, (percent,))
        queues |= {row[0] for row in rows}
    queues |= {each.queue for each in find_pauses(session, table)}
    queues |= {queue for worker in find_workers(session, table) for queue in worker.queues}
    history = find_history(session, table)
    if history is not None:
        queues |= {table.queue_name(each.queue) for each in find_pools(session, history)}
    return sorted(queues)


def require_queue(session: Session, table: Table, queue: str) -> None:
    """Raise ErrUnknownQueue, with the nearest one, if *queue* is none that is known. Some messages."""
    known = find_queues(session, table)
    if queue not in known:
        raise ErrUnknownQueue(
            f"nobody knows a queue {queue!r}: no job waits in it, and nobody works it{_near(queue, known)}"
        )


def _near(queue: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(queue, known, 1)
    if near:
        return f"; the nearest is {near[0]!r}"
    some = ", ".join(map(repr, known[:10]))
    return f"; there are {some}" if some else ""
