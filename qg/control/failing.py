"""What fails, and how: jobs grouped by type and the first line of their error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qg.control.overview import sample_percent
from qg.control.records import Count, ErrorGroup, ErrorGroups
from qg.database.session import Session
from qg.tables import Table, timestamp
from qg.tables.counts import MOST_ERRORS
from qg.tables.looks import looks_at

__all__ = ["find_errors"]

# In how many queues and priorities, and how many jobs of each, those are looked for that wait to be tried again.
_PAIRS, _AHEAD = 500, 500


def find_errors(session: Session, table: Table, *, exact: bool) -> ErrorGroups:
    """Return the groups, the largest first. Two messages or three.

    In a large table a sample tells about those that were given up or are due again. Those that wait to be tried again
    are looked up, so that what has begun to fail just now is seen in any case.

    Args:
        session: an idle one.
        table: the table.
        exact: whether to look at every job, however long that takes.
    """
    looks = looks_at(table)
    pages = session.run(looks.size)[0][0]
    percent = None if exact else sample_percent(pages)
    if percent is None:
        return _groups(session.run(looks.errors_all), [], 1.0, estimated=False)
    ahead = session.run(looks.errors_ahead, (_PAIRS, _AHEAD))
    return _groups(ahead, session.run(looks.errors_sample, (percent,)), 100 / percent, estimated=True)


def _groups(
    counted: Sequence[Sequence[Any]], sampled: Sequence[Sequence[Any]], factor: float, *, estimated: bool
) -> ErrorGroups:
    groups: dict[tuple[str, str], ErrorGroup] = {}
    for rows, scale in ((counted, 1.0), (sampled, factor)):
        for job_type, message, given_up, number, first, last, example in rows[:MOST_ERRORS]:
            count = Count(round(number * scale), estimated=estimated)
            nothing = Count(0, estimated=estimated)
            failing, expired = (nothing, count) if given_up else (count, nothing)
            group = ErrorGroup(job_type, message, failing, expired, timestamp(first), timestamp(last), example)
            known = groups.get((job_type, message))
            groups[job_type, message] = group if known is None else _together(known, group)
    largest_first = sorted(
        groups.values(), key=lambda group: (-group.failing - group.expired, group.type, group.message)
    )
    return ErrorGroups(largest_first, more=max(len(counted), len(sampled)) > MOST_ERRORS)


def _together(one: ErrorGroup, other: ErrorGroup) -> ErrorGroup:
    return ErrorGroup(
        one.type,
        one.message,
        one.failing + other.failing,
        one.expired + other.expired,
        min(one.first_due, other.first_due),
        max(one.last_due, other.last_due),
        max(one.example, other.example),
    )
