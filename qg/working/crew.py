"""Crew: the jobs that a locker has locked for its hands, and what is still to be done for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection

import psycopg2

from qg.database.known_table import STALE
from qg.database.session import Session
from qg.failures import one_line, printable
from qg.locking.attempt import successes
from qg.locking.row_taker import Search, Taken
from qg.tables import Row, Table
from qg.tables.locking import UNLOCK_OTHERS
from qg.working.batch import LockLost
from qg.working.engine import Engine
from qg.working.held import Held, HeldAlone, HeldTogether
from qg.working.runner import Runner
from qg.working.transactions import Transactions

__all__ = ["Crew"]

# How long a job may wait, locked, for a hand.
_LONGEST_SECONDS = 0.06
# Jobs that take no longer than this on average are quick. Of these more are taken than there are free hands.
_QUICK_SECONDS = 0.002
# How many more at the most.
_MOST_AHEAD = 500


class Crew:
    """Hands run jobs, and one locker's session holds the locks of all of them. Safe to use from any thread.

    A row is in one of four states here, from the message that locked it to the one that unlocks it:

    - *waiting*: locked; no hand has begun with it.
    - *running*: a hand has its job.
    - *returned*: its handler has returned, in no transaction. The row is still to be deleted.
    - *over*: what became of it is committed, or can't be. The lock is still to be released.

    exchange() sends the message that deletes what has returned, commits, unlocks that and what is over, and takes
    jobs for the hands that are free. No hand uses the locker's session. A job that needs more than its deletion gets a
    session of its own; the row is the fence between the two.

    While jobs are quick, more are taken than there are free hands, so that a message brings many. What no hand has
    begun with after a few hundredths of a second is given back, so that it waits for no slow handler.

    If the session is lost, its running jobs go on. What ends then is settled by a hand, under its lock taken anew, if
    nobody else has that by then.

    Args:
        engine: of the client.
        search: says which jobs to take.
        size: how many hands there are.
        transactions: lends sessions to jobs that need one of their own.
        reporter: settles, for the log, the jobs whose rows exchange() has deleted.
        wake_locker: is called when there is something to exchange.
        wake_hands: is called with the number of jobs that wait for hands.
    """

    def __init__(
        self,
        engine: Engine,
        search: Callable[[], Search],
        size: int,
        transactions: Transactions,
        reporter: Runner,
        *,
        wake_locker: Callable[[], None],
        wake_hands: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._search = search
        self._size = size
        self._transactions = transactions
        self._reporter = reporter
        self._wake_locker = wake_locker
        self._wake_hands = wake_hands
        # Guards all below.
        self._mutex = threading.Lock()
        self._waiting: deque[Held] = deque()
        self._running: set[Held] = set()
        self._returned: list[HeldTogether] = []
        self._over: list[HeldTogether] = []
        # How many jobs to take beyond the free hands; when the last ones were taken, and how many wait at the most
        # when it is time to take more.
        self._ahead = 0
        self._taken_at = 0.0
        self._low = 0
        # Of those that ended since then: how many, and how long they ran.
        self._ended = 0
        self._ran_seconds = 0.0
        self._told = False
        self._unrecorded = False

    # For the hands

    def next(self) -> Held | None:
        """Return a job to run; end() is to be called for it. None if none waits."""
        with self._mutex:
            if not self._waiting:
                return None
            held = self._waiting.popleft()
            self._running.add(held)
            return held

    def run(self, held: Held, runner: Runner) -> None:
        """Run the job of next()."""
        try:
            held.run(runner)
        finally:
            self.end(held)

    def end(self, held: Held) -> None:
        """Note that a hand has ended a job of next(), whatever came of it."""
        with self._mutex:
            self._running.remove(held)
            if isinstance(held, HeldTogether):
                (self._returned if held.returned else self._over).append(held)
                self._ran_seconds += held.seconds
            self._ended += 1
            self._unrecorded = self._unrecorded or not held.recorded
            tell = not self._told and len(self._waiting) <= self._low
            self._told = self._told or tell
        if tell:
            self._wake_locker()

    # For the locker

    @property
    def free(self) -> int:
        """How many hands there are for which no job waits."""
        return self._size - len(self._running) - len(self._waiting)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a hand."""
        return len(self._waiting)

    @property
    def runs_several(self) -> bool:
        """Whether there are several hands, and one at least runs a job."""
        return self._size > 1 and bool(self._running)

    @property
    def idle(self) -> bool:
        """Whether nothing is locked, run, or to be settled."""
        return not (self._waiting or self._running or self._returned or self._over)

    @property
    def told(self) -> bool:
        """Whether enough has ended since the last exchange() for another one."""
        return self._told

    @property
    def waits_long(self) -> bool:
        """Whether jobs wait for longer than they may."""
        return bool(self._waiting) and time.monotonic() - self._taken_at > _LONGEST_SECONDS

    def call_hands(self) -> None:
        """Wake a hand for each job that waits."""
        if waiting := len(self._waiting):
            self._wake_hands(waiting)

    def holds(self, session: Session) -> bool:
        """Whether there is something whose lock *session* holds."""
        with self._mutex:
            return any(each.locker is session for each in self._together())

    def take_unrecorded(self) -> bool:
        """Whether what became of a job couldn't be written since the last call."""
        with self._mutex:
            unrecorded, self._unrecorded = self._unrecorded, False
            return unrecorded

    def exchange(self, session: Session | None, table: Table, *, takes: bool = True) -> Taken | None:
        """Settle what has ended, on *session*, and take jobs for the hands that are free.

        Args:
            session: the locker's, and idle; None if it has none at the moment.
            table: the table as it is known.
            takes: whether to take jobs.

        Returns:
            What was taken, already on its way to the hands; None if nothing was to be taken or could be.

        Raises:
            LockLost: if the session didn't hold a lock that it took; it is closed.
            psycopg2.Error: if the database failed. What has ended is on its way all the same.
        """
        returned, over, given_up, wanted = self._begin_exchange(session, takes=takes)
        if session is None:
            return None
        rows = [each.row for each in returned]
        along = successes(each.attempt for each in returned)
        unlock = [*rows, *(each.row for each in over), *(each.row for each in given_up)]
        taken = None
        try:
            if wanted > 0:
                taken = self._engine.rows.take(
                    session,
                    table,
                    self._search(),
                    wanted,
                    deleted=rows,
                    along=along,
                    unlock=unlock,
                    held=self._rows_on(session),
                )
                unlocked = taken is None or taken.unlocked
            else:
                unlocked = not unlock or self._engine.rows.release(session, table, rows, unlock[len(rows) :], along)
        except psycopg2.Error as error:
            self._go_on_after(error, session, table, returned, over)
            return None
        if taken is None and wanted > 0:  # the session can't
            self._delete_alone(returned, None)
            self._put_back([*over, *given_up])
            return None
        for each in returned:
            each.note_deleted(self._reporter)
        for each in given_up:
            self._engine.rows.note_released(each.row)
        if unlock and not unlocked:
            self._engine.context.note_lock_lost(session, unlock[-1].id)
            raise LockLost
        if taken is not None:
            self._hand_out([HeldTogether(row, session, self._engine, self._transactions) for row in taken.rows])
        return taken

    def take_plainly(self, table: Table, queue: str) -> bool:
        """Take one job on a session of its own, where none can be taken otherwise; return whether there was one."""
        session = self._transactions.lease_at_once() if self.free > 0 else None
        if session is None:
            return False
        search = self._search()
        try:
            job = self._engine.jobs.take_plainly(session, table, queue, search.order, search.types, lent=True)
        except BaseException:
            session.close_now()
            self._transactions.give_back(session, has_failed=True)
            raise
        if job is None:
            self._transactions.give_back(session, has_failed=False)
            return False
        self._hand_out([HeldAlone(job, session, self._transactions)])
        return True

    def drop_waiting(self) -> None:
        """Let what waits go: its locks are gone, or will be."""
        with self._mutex:
            dropped = [each for each in self._waiting if isinstance(each, HeldTogether) and not each.returned]
            self._waiting = deque(each for each in self._waiting if each not in dropped)
            self._ahead = 0
        for each in dropped:
            self._engine.rows.note_released(each.row)

    def unlock_others(self, session: Session) -> None:
        """Let go of what *session* has locked and nobody here knows of."""
        session.run(UNLOCK_OTHERS, ([row.id for row in self._rows_on(session)],))

    def _begin_exchange(
        self, session: Session | None, *, takes: bool
    ) -> tuple[list[HeldTogether], list[HeldTogether], list[HeldTogether], int]:
        """Return what is to be deleted, what is over, what is given up undone, and how many jobs are wanted."""
        with self._mutex:
            self._told = False
            returned, self._returned = self._returned, []
            over, self._over = self._over, []
            self._learn()
            given_up = []
            if not takes or self.waits_long:
                given_up = [each for each in self._waiting if isinstance(each, HeldTogether) and not each.returned]
                self._waiting = deque(each for each in self._waiting if each not in given_up)
                self._ahead = 0
            wanted = self.free + self._ahead if takes and not self._unrecorded else 0
        elsewhere = [each for each in returned if each.locker is not session]
        if elsewhere:
            self._delete_alone(elsewhere, None)
            returned = [each for each in returned if each.locker is session]
        # What another session holds, that one lets go of when it is closed.
        over = [each for each in over if each.locker is session]
        return returned, over, [each for each in given_up if each.locker is session], max(wanted, 0)

    def _learn(self) -> None:
        """Set how many jobs to take ahead by how quick the last ones were."""
        if not self._ended:
            return
        if self._ran_seconds / self._ended > _QUICK_SECONDS:
            self._ahead = 0
        elif len(self._waiting) <= self._low and time.monotonic() - self._taken_at < _LONGEST_SECONDS / 2:
            self._ahead = min(max(2 * self._ahead, self._size), _MOST_AHEAD)
        self._ended = 0
        self._ran_seconds = 0.0

    def _hand_out(self, taken: Collection[Held]) -> None:
        if not taken:
            return
        with self._mutex:
            self._waiting.extend(taken)
            waiting = len(self._waiting)
            self._taken_at = time.monotonic()
            self._low = waiting // 2 if self._ahead else 0
        # Of quick ones a single hand may run all, before another one is awake.
        self._wake_hands(1 if self._ahead else waiting)

    def _delete_alone(self, returned: Collection[HeldTogether], cause: psycopg2.Error | None) -> None:
        """Have hands delete rows one by one, each as far as it is there."""
        for each in returned:
            each.delete_alone(cause)
        with self._mutex:
            self._waiting.extendleft(returned)
        self.call_hands()

    def _put_back(self, over: Collection[HeldTogether]) -> None:
        with self._mutex:
            self._over.extend(over)

    def _go_on_after(
        self,
        error: psycopg2.Error,
        session: Session,
        table: Table,
        returned: Collection[HeldTogether],
        over: Collection[HeldTogether],
    ) -> None:
        """Do what can be done after a message failed; raise *error* if the next one would fail as well."""
        self._delete_alone(returned, error)
        self._put_back(over)
        if not returned or not session.idle or self._is_migrated(error, session, table):
            raise error
        self.unlock_others(session)

    def _is_migrated(self, error: psycopg2.Error, session: Session, table: Table) -> bool:
        try:
            return isinstance(error, STALE) and self._engine.database.recheck(table, session)
        except psycopg2.Error as trouble:
            self._engine.logger.warning(
                "table_unknown queue=%s: %s", printable(self._search().queue), one_line(trouble)
            )
            return False

    def _rows_on(self, session: Session) -> list[Row]:
        """Return the rows that *session* is to go on holding."""
        with self._mutex:
            return [each.row for each in self._together() if each.locker is session]

    def _together(self) -> list[HeldTogether]:
        everything = (*self._waiting, *self._running, *self._returned, *self._over)
        return [each for each in everything if isinstance(each, HeldTogether)]
