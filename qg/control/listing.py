"""Lists of jobs, page by page, and one job by its id."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from qg.control.filters import Filter
from qg.control.options import checked_text
from qg.control.records import Holder, JobView, Order, Page, State
from qg.control.sessions import find_holders, find_locks, instant
from qg.database.session import Session
from qg.errors import ErrInvalidOption
from qg.tables import Row, Table
from qg.tables.looks import looks_at
from qg.tables.table import GREATEST_ID

__all__ = ["Seen", "Step", "check_after", "find_by_ids", "find_page", "no_key", "view_of", "walk"]

# How many jobs are read in one message. By id they lie side by side, and in any other order each one is elsewhere.
_READ_BY_ID, _READ = 5_000, 2_000
# A page goes on reading for so long while it isn't full.
_PAGE_SECONDS = 0.05


class Seen(NamedTuple):
    """A row, and how it stood when it was seen."""

    row: Row
    state: State
    finished_at: str | None
    expired_at: str | None
    due: bool

    @classmethod
    def read(cls, job: str, state: str, finished: str | None, expired: str | None, due: bool) -> Seen:
        """Return what a statement gave."""
        return cls(Row.read(job), State(state), finished, expired, due)


class Step(NamedTuple):
    """One step of a walk: what was found, where the walk goes on, None if it is over, and how many jobs it has read."""

    found: list[Seen]
    key: str | None
    read: int


def check_after(after: str | None, order: Order, table: Table) -> str:
    """Return the key that *after* is.

    Raises:
        ErrInvalidOption: if it is none for this order and this version of the table.
    """
    if after is None:
        return ""
    kinds: tuple[type, ...] = (str, int, str, int)
    if order is Order.NEWEST:
        kinds = (str, int) if table.version == 3 else (int,)
    try:
        key = json.loads(after)
        if [type(each) for each in key] == list(kinds) and all(map(_is_storable, key)):
            return json.dumps(key)
    except (TypeError, ValueError, RecursionError):
        pass
    raise no_key(after, table)


def no_key(after: str, table: Table) -> ErrInvalidOption:
    """Return what is raised where *after* continues no list of *table*."""
    return ErrInvalidOption(
        f"after={after!r} continues no list of this order in a table of version {table.version}; "
        "give the after of a page, or begin anew without it"
    )


def _is_storable(part: object) -> bool:
    if isinstance(part, int):
        return -GREATEST_ID <= part <= GREATEST_ID
    return checked_text("after", part) is not None


def walk(
    session: Session,
    table: Table,
    where: Filter,
    order: Order,
    key: str,
    limit: int,
    states: Collection[State] = tuple(State),
) -> Step:
    """Look for at most *limit* jobs in *states* from *key* on, among so many as can be read quickly. One message."""
    looks, given = looks_at(table), where.params(table, states)
    if order is Order.NEXT:
        statement, params, key_of, read = looks.next_up, looks.next_up_params, looks.next_up_key, _READ
    else:
        statement, params, key_of = looks.newest, looks.newest_params, looks.newest_key
        read = _READ if table.version == 3 else _READ_BY_ID
    rows = session.run(statement, params(key, read, given, limit))
    found = [Seen.read(*row[:5]) for row in rows if row[0] is not None]
    *_, end, number = rows[0]
    if len(found) == limit:
        return Step(found, key_of(found[-1].row), number)
    return Step(found, end if number == read else None, number)


def find_page(session: Session, table: Table, where: Filter, order: Order, key: str, limit: int) -> Page:
    """Return the page that begins at *key*. One message or some, and two more if somebody works one of its jobs."""
    began = time.monotonic()
    found: list[Seen] = []
    read, more = 0, True
    while more:
        step = walk(session, table, where, order, key, limit - len(found))
        found += step.found
        read += step.read
        key = step.key or ""
        more = bool(key) and len(found) < limit and time.monotonic() - began < _PAGE_SECONDS
    return Page(tuple(_with_holders(session, table, found)), key or None, read)


def find_by_ids(session: Session, table: Table, ids: Sequence[int]) -> list[Seen]:
    """Return those jobs with one of *ids* that are there. One message."""
    return [Seen.read(*row) for row in session.run(looks_at(table).by_ids, (list(ids),))]


def view_of(session: Session, table: Table, seen: Seen) -> JobView:
    """Return the view of one job. One message, and one more if somebody works it."""
    (view,) = _with_holders(session, table, [seen])
    return view


def _with_holders(session: Session, table: Table, found: Iterable[Seen]) -> Iterator[JobView]:
    found = list(found)
    locks = find_locks(session) if found else {}
    held = {each.row.id: locks[each.row.id] for each in found if each.row.id in locks}
    holders = find_holders(session, table, held)
    for each in found:
        yield _view(each, holders.get(each.row.id))


def _view(seen: Seen, holder: Holder | None) -> JobView:
    row = seen.row
    return JobView(
        row.id,
        row.queue,
        row.type,
        row.priority,
        row.due,
        seen.state,
        row.error_count,
        row.last_error,
        row.args,
        row.kwargs,
        row.tags,
        instant(seen.finished_at),
        instant(seen.expired_at),
        holder,
    )
