"""Marks: up to where a queue is known to be done, so that taking a job needn't walk over dead rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from qg.tables import Row, timestamp
from qg.tables.locking import Walk

__all__ = ["Marks", "WalkStart"]

# What a walk may cost, in entries of the index, beyond what each job costs anyway. That is about as
# much as walking from the marks costs. Up to there every walk begins at the start, and the order is strict.
_CHEAP = 250
# A page whose entries are known to be dead costs as much as so many entries that have to be looked up.
_ENTRIES_A_PAGE = 8
# What taking a job costs anyway: its entry is read on the way and under the lock, from the root down.
_ENTRIES_A_JOB, _PAGES_A_JOB = 2, 4
_PAGES_A_WALK = 10
# What a walk in the order of run_at costs anyway: it reads the first entry of each priority, and goes
# down from the root for every single entry.
_ENTRIES_A_HEAD, _PAGES_A_JUMP = 1, 4
# How long walks may begin at the marks before one begins at the start again: the shortest and the
# longest time, and between them this multiple of what the last walk from the start took.
_REST_SECONDS = (1.0, 5.0)
_REST_FACTOR = 20
# A row that falls due so much later is before no mark, even if this machine's clock is wrong by that.
_FAR_FROM_DUE = timedelta(minutes=1)
# Priorities in use, and with them marks, are few. Where they aren't, the least urgent go without.
_MOST_MARKS = 50


class WalkStart(NamedTuple):
    """Where one walk begins: at the marks, or, without any, at the very start of the queue."""

    began: float
    marks: dict[int, tuple[str, int]] | None = None
    learn: bool = False
    lowered: int = 0

    @property
    def at_marks(self) -> bool:
        """Whether the walk may miss a job that is before a mark."""
        return self.marks is not None

    @property
    def params(self) -> tuple[list[int] | None, list[str] | None, list[int] | None, bool]:
        """The marks as take_jobs has them: priorities in order, run_ats, ids, and whether to learn."""
        if self.marks is None:
            return None, None, None, self.learn
        priorities = sorted(self.marks)
        run_ats, ids = zip(*(self.marks[priority] for priority in priorities), strict=True)
        return priorities, list(run_ats), list(ids), self.learn


class Marks:
    """What this process knows of one queue. Safe to use from any thread.

    While an old snapshot is open somewhere, VACUUM removes nothing. The rows of jobs that were done stay
    in the index, in front of those that are to be done, and a walk from the start reads all of them each
    time. So once that has become dear, walks begin where the last ones ended. A walk begins at the start
    again after one to five seconds. The pause grows with the time that such a walk takes, so that these
    walks cost about a twentieth of one worker's time.

    Meanwhile a job can appear before a mark. The next walk from the start finds it. That concerns a job
    with an earlier run_at than others of its priority, one whose transaction took longer than a quarter of
    a second to commit, and one whose worker died or lost its lock. A job of a priority that has no mark is
    before no mark.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, cheap: int = _CHEAP) -> None:
        self._clock = clock
        self._cheap = cheap
        self._mutex = threading.Lock()
        self._dear = False
        self._marks: dict[int, tuple[str, int]] = {}
        self._rest_until = 0.0
        # How often marks were taken back; what a walk learned before that isn't true any more.
        self._lowered = 0

    def start(self, *, anew: bool = False) -> WalkStart:
        """Return where the next walk is to begin, *anew* at the very start; end() is to hear how it went."""
        if not self._dear:
            return WalkStart(self._clock())
        with self._mutex:
            now = self._clock()
            if anew or not self._marks or now >= self._rest_until:
                # The other workers go on from the marks meanwhile.
                self._rest_until = now + _REST_SECONDS[1]
                return WalkStart(now, None, True, self._lowered)
            return WalkStart(now, dict(self._marks), True, self._lowered)

    def end(self, start: WalkStart, walk: Walk, taken: int) -> None:
        """Learn from a *walk* that began at *start* and took so many jobs."""
        dear = self._is_dear(walk, taken)
        if not (self._dear or dear):
            return
        with self._mutex:
            if not start.at_marks:
                self._dear = dear
                seconds = self._clock() - start.began
                rest = min(max(seconds * _REST_FACTOR, _REST_SECONDS[0]), _REST_SECONDS[1])
                self._rest_until = self._clock() + rest
            if not self._dear:
                self._marks = {}
            elif start.learn and start.lowered == self._lowered and walk.priorities is not None:
                # Of a priority without any job a walk from the start learns nothing, so its mark stays.
                for priority, at, number in zip(walk.priorities, walk.run_ats or (), walk.ids or (), strict=True):
                    self._marks[priority] = (at, number)
                for priority in sorted(self._marks)[_MOST_MARKS:]:
                    del self._marks[priority]

    def note_released(self, row: Row) -> None:
        """Take back what hides *row*, whose lock was given up although it is still to be done."""
        if not self._dear or row.due > datetime.now(timezone.utc) + _FAR_FROM_DUE:
            return  # there is no mark that could hide it
        with self._mutex:
            self._lowered += 1
            mark = self._marks.get(row.priority)
            if mark is not None and (timestamp(mark[0]), mark[1]) >= (row.due, row.id):
                self._marks[row.priority] = (row.run_at, row.id - 1)

    def seconds_until_start(self) -> float:
        """How long walks still begin at the marks."""
        return max(self._rest_until - self._clock(), 0.0)

    def _is_dear(self, walk: Walk, taken: int) -> bool:
        entries = (walk.entries or 0) - _ENTRIES_A_JOB * taken - _ENTRIES_A_HEAD * walk.heads
        pages = (walk.pages or 0) - _PAGES_A_JOB * taken - _PAGES_A_JUMP * walk.jumps - _PAGES_A_WALK
        return entries + _ENTRIES_A_PAGE * max(pages, 0) > self._cheap
