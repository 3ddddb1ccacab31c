"""The overview: how all queues stand; counted where that is quick, and estimated where it isn't."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from qg.control.records import Count, State
from qg.control.sessions import find_workers
from qg.control.standing import Overview, Pause, QueueView, WorkerView
from qg.database.session import Session
from qg.tables import Table, timestamp
from qg.tables.looks import looks_at

__all__ = ["SAMPLED_PAGES", "find_overview", "sample_percent"]

SAMPLED_PAGES = 500
"""How many pages of a large table are read for a sample of it; a page has 8 kB."""

# So many pages are read as a whole within some hundredths of a second.
_SMALL_PAGES = 2_000
# In how many queues and priorities, and how many jobs in all, are counted one by one in a large table.
_PAIRS, _HEADS = 500, 15_000


@dataclass
class _Tally:
    """What was counted in one queue, by state; and of those that fail, how many are due."""

    counts: dict[State, Count] = field(default_factory=dict)
    failing_due: Count = Count(0)
    oldest_due: datetime | None = None

    def count(self, state: State) -> Count:
        return self.counts.get(state, Count(0))

    def note_due(self, oldest: str | None) -> None:
        if oldest is not None:
            due = timestamp(oldest)
            self.oldest_due = due if self.oldest_due is None else min(due, self.oldest_due)


def sample_percent(pages: int) -> float | None:
    """Return how many percent of a table with so many pages are a sample of it; None if it is read as a whole."""
    return None if pages <= _SMALL_PAGES else min(100.0, 100 * SAMPLED_PAGES / max(pages, 1))


def find_overview(session: Session, table: Table, pauses: Sequence[Pause], *, exact: bool) -> Overview:
    """Return how the queues of *table* stand. Five messages or six, each a look at another moment.

    Args:
        session: an idle one.
        table: the table.
        pauses: those that hold.
        exact: whether to count every job, however long that takes.
    """
    looks = looks_at(table)
    ((pages, stored, deleted, now),) = session.run(looks.size)
    percent = None if exact else sample_percent(pages)
    if percent is None:
        tallies = _whole(session.run(looks.count_all))
    else:
        sample = session.run(looks.count_sample, (percent,))
        heads = session.run(looks.count_heads, (_PAIRS, _HEADS))
        tallies = _estimate(table, sample, percent, heads)
    workers = find_workers(session, table)
    return Overview(
        timestamp(now),
        table.version,
        tuple(_views(tallies, table, workers, {each.queue: each for each in pauses})),
        stored,
        deleted,
    )


def _whole(rows: Iterable[Sequence[Any]]) -> dict[str, _Tally]:
    """Return what was counted when every job was looked at."""
    tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
    for queue, state, due, number, oldest in rows:
        tally = tallies[queue]
        tally.counts[State(state)] = tally.count(State(state)) + number
        if due and state in (State.READY, State.FAILING):
            tally.note_due(oldest)
            if state == State.FAILING:
                tally.failing_due += number
    return dict(tallies)


def _estimate(
    table: Table, sample: Iterable[Sequence[Any]], percent: float, heads: Sequence[Sequence[Any]]
) -> dict[str, _Tally]:
    """Return what is to be expected of a *sample*, but where the *heads* were counted to their end."""
    sampled: defaultdict[str, Counter[tuple[str, bool]]] = defaultdict(Counter)
    for queue, state, due, number, _ in sample:
        sampled[queue][state, due] += round(100 * number / percent)
    counted: defaultdict[str, list[_Head]] = defaultdict(list)
    for queue, *head in heads:
        counted[queue].append(_Head(*head))
    all_seen = len(heads) < _PAIRS
    return {queue: _tally(table, sampled[queue], counted[queue], all_seen) for queue in {*sampled, *counted}}


class _Head(NamedTuple):
    """What was counted in one queue and priority."""

    most: int
    due: int
    due_failed: int
    ahead: int
    ahead_failed: int
    far: int
    far_failed: int
    oldest: str | None


def _tally(table: Table, sampled: Counter[tuple[str, bool]], heads: Sequence[_Head], all_seen: bool) -> _Tally:
    """Return the tally of one queue.

    A kind of jobs that was counted to its end in each of its heads is known. Of another one there are at least as many
    as were counted.
    """

    def count(number: int, is_known: bool, *kinds: tuple[State, bool]) -> Count:
        estimate = sum(sampled[str(state), is_due] for state, is_due in kinds)
        return Count(number) if is_known else Count(max(number, estimate), estimated=True)

    due_known = all_seen and all(each.due < each.most for each in heads)
    ahead_known = all_seen and all(each.ahead < each.most for each in heads)
    far_known = all_seen and all(each.far < each.most for each in heads)
    due_failed, ahead_failed = sum(each.due_failed for each in heads), sum(each.ahead_failed for each in heads)
    scheduled = sum(each.ahead - each.ahead_failed + each.far - each.far_failed for each in heads)
    tally = _Tally(failing_due=count(due_failed, due_known, (State.FAILING, True)))
    tally.counts = {
        State.READY: count(sum(each.due for each in heads) - due_failed, due_known, (State.READY, True)),
        State.SCHEDULED: count(scheduled, ahead_known and far_known, (State.SCHEDULED, False)),
        State.FAILING: tally.failing_due + count(ahead_failed, ahead_known, (State.FAILING, False)),
        # No index leads to those that have a state of their own.
        State.EXPIRED: count(
            sum(each.far_failed for each in heads),
            far_known and table.version == 3,
            (State.EXPIRED, True),
            (State.EXPIRED, False),
        ),
        State.FINISHED: count(0, table.version == 3, (State.FINISHED, True), (State.FINISHED, False)),
    }
    for each in heads:
        tally.note_due(each.oldest)
    return tally


def _views(
    tallies: dict[str, _Tally], table: Table, workers: Sequence[WorkerView], pauses: dict[str, Pause]
) -> Iterator[QueueView]:
    working = Counter(queue for worker in workers for _, queue, _ in worker.jobs)
    sessions = Counter(queue for worker in workers for queue in worker.queues)
    for queue in sorted({*tallies, *working, *sessions, *pauses}):
        tally = tallies.get(queue, _Tally())
        ready, scheduled, failing = map(tally.count, (State.READY, State.SCHEDULED, State.FAILING))
        yield QueueView(
            queue=queue,
            waiting=ready + scheduled + failing,
            due=ready + tally.failing_due,
            scheduled=scheduled,
            failing=failing,
            working=working[queue],
            expired=tally.count(State.EXPIRED),
            finished=None if table.version == 3 else tally.count(State.FINISHED),
            oldest_due=tally.oldest_due,
            workers=sessions[queue],
            pause=pauses.get(queue),
        )
