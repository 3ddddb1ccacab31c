"""What there is in the model of the protocol: rows, sessions and workers, and what PostgreSQL does with them.

All of it is values. Whoever changes something gets another world, so that worlds can be compared and kept.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["Change", "Locked", "Phase", "Row", "Session", "Worker", "World"]


class Row(NamedTuple):
    """A job in the table, as far as it is committed; below that what is known of its past, for the promises alone."""

    there: bool = True
    due: bool = True
    key: int = 0  # stands for priority and run_at: another number after every change of them
    errors: int = 0

    effects: int = 0  # commits of what handlers wrote through job.tx
    failures: int = 0  # attempts that have failed, recorded or not
    records: int = 0  # commits of a failure
    most_errors: int = 0  # that were counted at any time
    fate: str = ""  # why it is gone
    edited: bool = False
    lock_lost: bool = False
    left_open: bool = False  # whether an attempt has ended before the transaction of its handler's own


class Locked(NamedTuple):
    """A job as a worker has found it: ``LockedRow.as_locked``."""

    job: int
    key: int
    errors: int


class Change(NamedTuple):
    """What a transaction has done, and nobody else sees yet."""

    kind: str  # "wrote" through job.tx, or "deleted", "failed", "rescheduled" the row
    job: int
    errors: int = 0


class Session(NamedTuple):
    """What the server keeps of a session. No transaction is open if there is no change."""

    locks: tuple[int, ...] = ()
    tx: tuple[Change, ...] = ()
    committing: bool = False  # of a ghost: whether it has got the COMMIT

    def without(self, job: int) -> Session:
        """The same session without the lock of *job*, which it may have lost already."""
        return self._replace(locks=tuple(each for each in self.locks if each != job))


class Phase(str, Enum):
    """What a worker does next."""

    LOOK = "look for due jobs"
    LOCK = "try the lock of the next job that it has seen"
    LOOK_AGAIN = "look whether that job is still as it was"
    RUN = "go on with a handler that has written nothing"
    SETTLE = "delete the row in the transaction that the handler has left open"
    IN_TX = "commit the handler's own transaction, in which it has deleted the row"
    LOOK_IN_TX = "look what became of the handler's own transaction"
    DELETE = "delete the rows of jobs whose handlers left no transaction open"
    RECORD = "record the failure"
    RESCHEDULE = "let the job run again, uncounted"
    COMMIT = "commit"
    UNLOCK = "unlock"
    LOCK_ANEW = "lock the job anew, on another session"
    CHECK_ANEW = "look whether the row is as it was when it was locked at first"


class Worker(NamedTuple):
    """A worker: Batch and Attempt. ``waiting``, ``running`` and ``returned`` are the states of a row in a Batch."""

    phase: Phase = Phase.LOOK
    session: Session | None = Session()  # None: it was cut off
    is_behind: bool = False  # whether the table was migrated since it learned the version
    seen: tuple[Locked, ...] = ()  # by the statement that locks, in its snapshot
    waiting: tuple[Locked, ...] = ()
    running: Locked | None = None
    returned: tuple[Locked, ...] = ()
    anew: tuple[Locked, ...] = ()  # whose failure is to be recorded on another session
    uncounted: bool = False  # whether that was a migration, and no failure
    deletes_anew: bool = False  # whether it is a deletion that is to be done there
    is_unlocked: bool = False  # whether the session with the locks, another one than that with the transaction, is gone
    own: Session | None = None  # of the handler that runs
    is_left_open: bool = False  # whether the handler may have left its own transaction open

    @property
    def jobs(self) -> set[int]:
        """The jobs whose attempts haven't come to their end."""
        mine = set() if self.running is None else {self.running.job}
        mine |= {each.job for each in self.returned}
        if self.anew and self.phase not in (Phase.LOCK_ANEW, Phase.UNLOCK):
            mine.add(self.anew[0].job)
        return mine

    def hand_out(self) -> Worker:
        """Begin with a job that waits; if none does, delete those that have returned; if none has, look for more."""
        if self.waiting:
            return self._replace(phase=Phase.RUN, running=self.waiting[0], waiting=self.waiting[1:])
        return self._replace(phase=Phase.DELETE if self.returned else Phase.LOOK)

    def end_anew(self) -> Worker:
        """Go on after what could be recorded anew was recorded; the session for that is given back."""
        me = self._replace(
            anew=self.anew[1:], session=None if self.running else Session(), uncounted=False, is_unlocked=False
        )
        if me.anew:
            return me._replace(phase=Phase.LOCK_ANEW)
        me = me._replace(deletes_anew=False)
        return me._replace(phase=Phase.RUN) if me.running else me.hand_out()


class World(NamedTuple):
    """All there is."""

    rows: tuple[Row, ...]
    workers: tuple[Worker, ...]
    ghosts: tuple[Session, ...] = ()
    faults_left: int = 0

    @property
    def sessions(self) -> list[Session]:
        """Those that the server has."""
        of_workers = [session for each in self.workers for session in (each.session, each.own) if session is not None]
        return [*self.ghosts, *of_workers]

    def is_locked(self, job: int) -> bool:
        """Whether somebody has the advisory lock of *job*."""
        return any(job in each.locks for each in self.sessions)

    def is_changing(self, job: int) -> bool:
        """Whether an open transaction has changed the row of *job*: whoever wants to change it too must wait."""
        return any(change.job == job and change.kind != "wrote" for each in self.sessions for change in each.tx)

    def has(self, locked: Locked, *, whole_key: bool = True) -> bool:
        """Whether the row is there, and under the key that it had."""
        row = self.rows[locked.job]
        return row.there and (row.key == locked.key or not whole_key)

    @property
    def unnamed(self) -> World:
        """The same for all worlds that differ only in which worker is called the first, and which the second."""
        workers = tuple(sorted(self.workers, key=hash))
        return World(self.rows, workers, tuple(sorted(self.ghosts, key=hash)), self.faults_left)

    def put(self, number: int, worker: Worker) -> World:
        """The same world with another worker at this place."""
        workers = (*self.workers[:number], worker, *self.workers[number + 1 :])
        return World(self.rows, workers, self.ghosts, self.faults_left)

    def note(self, job: int, row: Row) -> World:
        """The same world with another row at this place."""
        rows = (*self.rows[:job], row, *self.rows[job + 1 :])
        return World(rows, self.workers, self.ghosts, self.faults_left)

    def fail(self, *failed: Locked) -> World:
        """Note that these attempts have failed."""
        world = self
        for job, _, _ in failed:
            world = world.note(job, world.rows[job]._replace(failures=world.rows[job].failures + 1))
        return world

    def lose(self, *jobs: int) -> World:
        """Note that the locks of *jobs* were lost."""
        world = self
        for job in jobs:
            world = world.note(job, world.rows[job]._replace(lock_lost=True))
        return world

    def haunt(self, session: Session | None) -> World:
        """Leave *session* to the server, which doesn't know yet that nobody is there any more."""
        return self if session is None or session == Session() else self._replace(ghosts=(*self.ghosts, session))

    def leave_open(self, own: Session | None) -> World:
        """Leave the session that a handler has for itself to others, who commit its transaction or roll it back."""
        world = self.haunt(own and own._replace(committing=True))
        for change in own.tx if own else ():
            world = world.note(change.job, world.rows[change.job]._replace(left_open=True))
        return world

    def commit(self, tx: tuple[Change, ...]) -> World:
        """Make what *tx* has changed visible to all."""
        world = self
        has_effects = any(change.kind == "wrote" for change in tx)
        for kind, job, errors in tx:
            row = world.rows[job]
            assert row.there or kind == "wrote", "somebody else has changed a row that was locked by a change"
            if kind == "wrote":
                row = row._replace(effects=row.effects + 1)
            elif kind == "deleted":
                row = row._replace(there=False, fate="done in a transaction" if has_effects else "done without one")
            elif kind == "failed":
                most = max(row.most_errors, errors)
                row = row._replace(key=row.key + 1, due=False, errors=errors, records=row.records + 1, most_errors=most)
            else:
                row = row._replace(key=row.key + 1, due=True)
            world = world.note(job, row)
        return world
