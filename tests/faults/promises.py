"""What qg promises, and a program that looks in each state of the model whether it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from model import Fault, Protocol
from world import Phase, Session, World

__all__ = ["Exploration", "Promise", "explore"]


class Promise(str, Enum):
    """What must hold in every state; its value says what has happened where it doesn't."""

    ONCE = "the effects of a job were committed twice"
    NOT_LOST = "a job is gone, but its effects were never committed"
    DONE = "a worker holds a job for done that is still in the table"
    UNDISTURBED = "two workers are at the same job, though no lock was lost"
    NOT_STALE = "a job is run that somebody else has settled, though no lock was lost"  # and no transaction left open
    COUNTED_ONCE = "more errors were counted than attempts failed"
    RECORDED_NOT_TWICE = "more failures were recorded than attempts failed"
    COUNTED_UP = "errors that were counted are counted no more"
    RECORDED_ONCE = "an error was recorded without being counted, though no lock was lost"
    CANCELLED = "the effects of a job were committed, though a person had removed it"
    UNLOCKED = "a worker that has nothing to do holds a lock"
    NOT_STUCK = "there is no way any more to a state in which all jobs are settled and all workers idle"


def broken(world: World) -> Iterator[Promise]:
    """Which promises *world* breaks."""
    for row in world.rows:
        if row.effects > 1:
            yield Promise.ONCE
        if row.effects and row.fate == "removed":
            yield Promise.CANCELLED
        if row.there and row.fate:
            yield Promise.DONE
        if row.errors > row.failures:
            yield Promise.COUNTED_ONCE
        if row.records > row.failures:
            yield Promise.RECORDED_NOT_TWICE
        if row.errors < row.most_errors:
            yield Promise.COUNTED_UP
        if row.errors != row.records and not row.lock_lost:
            yield Promise.RECORDED_ONCE
    for me in world.workers:
        if me.phase is Phase.LOOK and me.session != Session():
            yield Promise.UNLOCKED
        if me.running and me.phase in (Phase.RUN, Phase.SETTLE):
            row = world.rows[me.running.job]
            excused = row.lock_lost or row.left_open or row.edited or row.fate == "removed"
            if not excused and not world.has(me.running):
                yield Promise.NOT_STALE
    busy = [job for me in world.workers for job in me.jobs]
    if any(busy.count(job) > 1 and not row.lock_lost for job, row in enumerate(world.rows)):
        yield Promise.UNDISTURBED


def broken_at_the_end(world: World) -> Iterator[Promise]:
    """The same for a world in which nothing can happen any more but faults."""
    if any(row.fate == "done in a transaction" and not row.effects for row in world.rows):
        yield Promise.NOT_LOST
    if any(row.there for row in world.rows) or any(me.phase is not Phase.LOOK for me in world.workers):
        yield Promise.NOT_STUCK


@dataclass
class Exploration:
    """What was seen.

    Attributes:
        states: how many there are; those that differ only in the workers' numbers count once.
        ends: in how many of them nothing is left to do.
        faults: how often each fault happened, each time in another state.
        said: everything that happened, as sentences.
        broken: the promise that was found broken, the first one that was looked at.
        trace: how it came to that, as sentences.
    """

    states: int = 0
    ends: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    said: set[str] = field(default_factory=set)
    broken: Promise | None = None
    trace: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """The trace and what it led to, a line each."""
        return "\n".join([*self.trace, f"So {self.broken.value}."] if self.broken else [])


def explore(protocol: Protocol, promises: Sequence[Promise] = tuple(Promise)) -> Exploration:
    """Visit each state that can come about, those first that take the fewest steps, up to one that breaks a promise.

    If none is broken, look whether everything can still come to an end, from each state and without more faults.
    """
    seen = Exploration()
    states = [protocol.start()]
    numbers = {states[0].unnamed: 0}
    came_from = [0]
    preceding: list[list[int]] = [[]]
    ends: list[int] = []

    def reach(after: World, number: int) -> int:
        known = numbers.setdefault(after.unnamed, len(states))
        if known == len(states):
            states.append(after)
            came_from.append(number)
            preceding.append([])
        return known

    def note_broken(broken: Iterator[Promise], number: int) -> bool:
        seen.states = len(states)
        seen.broken = next((each for each in broken if each in promises), None)
        seen.trace = _trace(protocol, states, came_from, number) if seen.broken else []
        return seen.broken is not None

    for number, world in enumerate(states):  # which grows meanwhile
        steps = list(protocol.steps(world))
        if note_broken(broken(world), number):
            return seen
        if not steps:
            ends.append(number)
            if note_broken(broken_at_the_end(world), number):
                return seen
        for text, after in steps:
            seen.said.add(text)
            preceding[reach(after, number)].append(number)
        for fault, text, after in protocol.faults_in(world):
            seen.faults[fault] += 1
            seen.said.add(text)
            reach(after, number)

    seen.ends = len(ends)
    can_end = set(ends)
    while ends:
        more = {each for number in ends for each in preceding[number]} - can_end
        can_end |= more
        ends = list(more)
    if len(can_end) < len(states):
        stuck = next(number for number in range(len(states)) if number not in can_end)
        note_broken(iter([Promise.NOT_STUCK]), stuck)
    return seen


def _trace(protocol: Protocol, states: list[World], came_from: list[int], number: int) -> list[str]:
    texts: list[str] = []
    while number:
        before = states[came_from[number]]
        steps = [*protocol.steps(before), *((text, after) for _, text, after in protocol.faults_in(before))]
        texts.append(next(text for text, after in steps if after == states[number]))
        number = came_from[number]
    return texts[::-1]
