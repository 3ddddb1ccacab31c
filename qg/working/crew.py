"""Crew: the jobs that a locker has locked for its hands, and what is still to be done for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import psycopg2

from qg.database.known_table import STALE
from qg.database.session import Session
from qg.failures import one_line, printable
from qg.locking.attempt import successes
from qg.locking.row_taker import Search, Taken
from qg.tables import Table
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
# How long a hand waits, where jobs are quick, when it has called the locker.
_GIVE_WAY_SECONDS = 0.0001


class Crew:
    """Hands run jobs, and one locker's session holds the locks of all of them. Safe to use from any thread.

    A row is in one of five states here, from the message that locked it to the one that unlocks it:

    - *waiting*: locked; no hand has begun with it.
    - *running*: a hand has its job.
    - *returned*: its handler has returned, in no transaction. The row is still to be deleted.
    - *apart*: the same, but it couldn't be deleted together with others, or its lock is lost. The settler deletes it.
    - *over*: what became of it is committed, or can't be. The lock is still to be released.

    exchange() sends the message that deletes what has returned, commits, unlocks that and what is over, and takes
    jobs for the hands that are free. Nobody but the locker uses its session. A job that needs more than its deletion
    gets a session of its own; the row is the fence between the two.

    While jobs are quick, more are taken than there are free hands, so that a message brings many; otherwise as many
    more as end while a message is under way. What no hand has begun with after a few hundredths of a second is given
    back, so that it waits for no slow handler.

    If the session is lost, its running jobs go on. What ends then is settled apart, under its lock taken anew, if
    nobody else has that by then. There may be other sessions of the locker's, too old to take more: each holds its
    jobs until the last of them has ended.

    Args:
        engine: of the client.
        search: says which jobs to take.
        size: how many hands there are.
        transactions: lends sessions to jobs that need one of their own.
        reporter: settles, for the log, the jobs whose rows exchange() has deleted.
        wake_locker: is called when there is something to exchange.
        wake_hands: is called with the number of jobs that wait for hands.
        wake_settler: is called when there is something for settle_apart().
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
        wake_settler: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._search = search
        self._size = size
        self._transactions = transactions
        self._reporter = reporter
        self._wake_locker = wake_locker
        self._wake_hands = wake_hands
        self._wake_settler = wake_settler
        # Guards all below.
        self._mutex = threading.Lock()
        self._waiting: deque[Held] = deque()
        self._running: set[Held] = set()
        self._returned: list[HeldTogether] = []
        # Each with what kept it from being deleted with others. The settler is at the first one.
        self._apart: deque[tuple[HeldTogether, Exception | None]] = deque()
        self._over: list[HeldTogether] = []
        # How many jobs to take beyond the free hands, and whether that is because they are quick.
        self._ahead = 0
        self._quick = False
        # How long the last message took; when the last jobs were taken, and how many wait at the most when it is time
        # to take more.
        self._message_seconds = 0.0
        self._taken_at = 0.0
        self._low = 0
        # Of those that ended since then: how many, and how long they ran.
        self._ended = 0
        self._ran_seconds = 0.0
        # Whether anything has ended since then, whether something is left that can't wait for more to end, and whether
        # the locker was told.
        self._has_news = False
        self._is_urgent = False
        self._told = False
        self._unrecorded = False

    # For the hands, and the settler

    def next(self) -> Held | None:
        """Return a job that is to be handed to run(); None if none waits."""
        with self._mutex:
            if not self._waiting:
                return None
            held = self._waiting.popleft()
            self._running.add(held)
            tell = self._is_to_be_told()  # what ended while more were waiting
        if tell:
            self._call_locker()
        return held

    def run(self, held: Held, runner: Runner) -> None:
        """Run the job of next()."""
        try:
            held.run(runner)
        except Exception:
            self._note_fault(held)
        finally:
            self.end(held)

    def settle_apart(self, runner: Runner) -> bool:
        """Settle the next job that is apart; return False if there is none. For one thread alone."""
        with self._mutex:
            if not self._apart:
                return False
            held, cause = self._apart[0]
        try:
            held.delete_apart(runner, cause)
        except Exception:
            self._note_fault(held)
        runner.tell()
        with self._mutex:
            self._apart.popleft()
            self._over.append(held)
            tell = self._note_news(held)
        if tell:
            self._wake_locker()
        return True

    def end(self, held: Held) -> None:
        """Note that a job of next() has ended, whatever came of it; run() does so by itself."""
        with self._mutex:
            self._running.remove(held)
            if isinstance(held, HeldTogether):
                (self._returned if held.returned else self._over).append(held)
                self._ran_seconds += held.seconds
            self._ended += 1
            tell = self._note_news(held)
        if tell:
            self._call_locker()

    def _call_locker(self) -> None:
        """Wake the locker. While jobs are quick, let it go first: it would wait for the interpreter until they end."""
        self._wake_locker()
        if self._quick:
            time.sleep(_GIVE_WAY_SECONDS)

    def _note_fault(self, held: Held) -> None:
        """Log what isn't the job's failure, but a fault of ours, or of a hook or a class that somebody plugged in."""
        held.recorded = False
        self._engine.logger.exception("worker_failed queue=%s; it goes on", printable(self._search().queue))

    def _note_news(self, held: Held) -> bool:
        self._has_news = True
        self._unrecorded = self._unrecorded or not held.recorded
        return self._is_to_be_told()

    def _is_to_be_told(self) -> bool:
        """Whether the locker is to be told now that it is time for another exchange(). Once before each."""
        if not self._told and (self._is_urgent or (self._has_news and len(self._waiting) <= self._low)):
            self._told = True
            return True
        return False

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
        """Whether there are several hands, and one at least runs a job that isn't quick."""
        return self._size > 1 and bool(self._running) and not self._quick

    @property
    def idle(self) -> bool:
        """Whether nothing is locked, run, or to be settled."""
        return not (self._waiting or self._running or self._returned or self._apart or self._over)

    @property
    def told(self) -> bool:
        """Whether enough has ended since the last exchange() for another one."""
        return self._told

    @property
    def waits_long(self) -> bool:
        """Whether there are jobs to give back, since they wait for longer than they may."""
        if time.monotonic() - self._taken_at <= _LONGEST_SECONDS:
            return False
        with self._mutex:
            return any(isinstance(each, HeldTogether) for each in self._waiting)

    def call_hands(self) -> None:
        """Wake a hand for each job that waits."""
        if waiting := len(self._waiting):
            self._wake_hands(waiting)

    def holds(self, session: Session) -> bool:
        """Whether there is something whose lock *session* holds."""
        return bool(self._held_on(session))

    def take_unrecorded(self) -> bool:
        """Whether what became of a job couldn't be written since the last call."""
        with self._mutex:
            unrecorded, self._unrecorded = self._unrecorded, False
            return unrecorded

    def exchange(self, session: Session | None, table: Table, *, takes: bool = True) -> Taken | None:
        """Settle what has ended, as far as *session* holds it, and take jobs for the hands that are free.

        What has ended and was held by a session that is lost goes to the settler.

        Args:
            session: the locker's, and idle; None if it has none at the moment.
            table: the table as it is known.
            takes: whether to take jobs; otherwise those that wait are given back.

        Returns:
            What was taken, already on its way to the hands; None if nothing was to be taken or could be.

        Raises:
            LockLost: if the session didn't hold a lock that it took; it is closed.
            Exception: if the database failed. What has ended is on its way all the same. What else the session has
                locked, unlock_others() unlocks.
        """
        began = time.monotonic()
        try:
            return self._exchange(session, table, takes=takes)
        finally:
            self._end_exchange(time.monotonic() - began)

    def _exchange(self, session: Session | None, table: Table, *, takes: bool) -> Taken | None:
        returned, over, wanted = self._begin_exchange(session, takes=takes)
        if session is None:
            return None
        deleted, unlocked = [each.row for each in returned], [each.row for each in over]
        taken = None
        try:
            along = successes(each.attempt for each in returned)
            if wanted > 0:
                taken = self._engine.rows.take(
                    session,
                    table,
                    self._search(),
                    wanted,
                    deleted=deleted,
                    along=along,
                    unlock=[*deleted, *unlocked],
                    held=[each.row for each in self._known()],
                )
                were_locked = taken is None or taken.unlocked
            else:
                nothing = not (deleted or unlocked)
                were_locked = nothing or self._engine.rows.release(session, table, deleted, unlocked, along)
        except Exception as error:
            if not session.idle:  # nothing can be settled apart before there is another one
                self._keep(returned)
                raise
            concerns_deletions = bool(returned) and self._concerns_deletions(error, session, table)
            again = self._unhindered(returned, error, session, table) if concerns_deletions else []
            self._set_apart([each for each in returned if each not in again], error)
            if not concerns_deletions:
                raise
            self._keep(again)
            self.unlock_others(session)
            self._note_released(over)
            return None
        if taken is None and wanted > 0:  # the session can't, and nothing was unlocked
            self._set_apart(returned, None)
            self._put_back(over)
            return None
        if taken is not None and were_locked:
            self._begin_with(taken, session)
        self._note_deleted(returned)
        self._note_released(over)
        if not were_locked:
            self._engine.context.note_lock_lost(session, (unlocked or deleted)[-1].id)
            raise LockLost
        if taken is not None and taken.at_marks and any(each.undone for each in over):
            taken = taken._replace(more=True)  # the walk passed them by
        return taken

    def take_plainly(self, table: Table, queue: str) -> bool:
        """Take one job on a session of its own, where none can be taken otherwise; return whether there was one."""
        session = self._transactions.lease_at_once()
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
            dropped = [each for each in self._waiting if isinstance(each, HeldTogether)]
            self._waiting = deque(each for each in self._waiting if isinstance(each, HeldAlone))
            self._ahead = 0
        self._note_released(dropped)

    def unlock_others(self, session: Session) -> None:
        """Let go of what *session* has locked and nobody here knows of, and note what it doesn't hold any more.

        To be called after a message that failed: unlocking knows no transaction.
        """
        jobs = self._held_on(session)
        kept = {number for number, _ in session.run(UNLOCK_OTHERS, ([each.row.id for each in jobs],))}
        for each in jobs:
            if each.row.id not in kept:
                each.note_unlocked()

    def _begin_exchange(
        self, session: Session | None, *, takes: bool
    ) -> tuple[list[HeldTogether], list[HeldTogether], int]:
        """Return what *session* is to delete, what it is to unlock besides, and how many jobs are wanted."""
        gives_back = not takes or self.waits_long
        with self._mutex:
            self._told = True  # what ends from here on is asked for at the end
            self._has_news = self._is_urgent = False
            self._learn()
            ended = (*self._returned, *self._over)
            lost = {locker for locker in {each.locker for each in ended} if locker.lost_lately}
            gone = {each for each in ended if each.unlocked or each.locker in lost}
            mine = {each for each in ended if each.locker is session} - gone
            apart = [each for each in self._returned if each in gone]
            returned = [each for each in self._returned if each in mine]
            over = [each for each in self._over if each in mine]
            done = gone | mine
            self._returned = [each for each in self._returned if each not in done]
            self._over = [each for each in self._over if each not in done]
            if gives_back:
                over += [each for each in self._waiting if isinstance(each, HeldTogether) and each.locker is session]
                self._waiting = deque(each for each in self._waiting if each.locker is not session)
                self._ahead = 0
            wanted = self.free + self._ahead if takes and not self._unrecorded else 0
        self._set_apart(apart, None)
        return returned, over, max(wanted, 0)

    def _end_exchange(self, seconds: float) -> None:
        """Let the next exchange() be soon, if it is time already. This one took so many *seconds*."""
        with self._mutex:
            self._message_seconds = seconds
            self._told = False
            tell = self._is_to_be_told()
        if tell:
            self._wake_locker()

    def _learn(self) -> None:
        """Set how many jobs to take ahead by how quick the last ones were."""
        if not self._ended:
            return
        mean = self._ran_seconds / self._ended
        self._quick = mean <= _QUICK_SECONDS
        if not self._quick:
            # As many as end while a message is under way.
            self._ahead = min(int(self._size * self._message_seconds / mean), self._size, _MOST_AHEAD)
        elif len(self._waiting) <= self._low and time.monotonic() - self._taken_at < _LONGEST_SECONDS / 2:
            self._ahead = min(max(2 * self._ahead, self._size), _MOST_AHEAD)
        self._ended = 0
        self._ran_seconds = 0.0

    def _begin_with(self, taken: Taken, session: Session) -> None:
        jobs = [HeldTogether(row, session, self._engine, self._transactions) for row in taken.rows]
        if self._engine.database.closed:  # since the round began; the end of the loop gives them back
            self._put_back(jobs)
        else:
            self._hand_out(jobs)

    def _hand_out(self, taken: Sequence[Held]) -> None:
        if not taken:
            return
        with self._mutex:
            self._waiting.extend(taken)
            waiting = len(self._waiting)
            self._taken_at = time.monotonic()
            self._low = waiting // 2 if self._ahead else 0
        # Of quick ones a single hand may run all, before another one is awake.
        self._wake_hands(1 if self._quick else waiting)

    def _note_deleted(self, returned: Iterable[HeldTogether]) -> None:
        for each in returned:
            try:
                each.note_deleted(self._reporter)
            except Exception:  # the others are none the worse for it
                self._note_fault(each)

    def _note_released(self, over: Iterable[HeldTogether]) -> None:
        for each in over:
            if each.undone:
                self._engine.rows.note_released(each.row)

    def _set_apart(self, returned: Sequence[HeldTogether], cause: Exception | None) -> None:
        if returned:
            with self._mutex:
                self._apart.extend((each, cause) for each in returned)
            self._wake_settler()

    def _keep(self, returned: Sequence[HeldTogether]) -> None:
        """Let the next message see to these, and don't let it wait for others."""
        with self._mutex:
            self._returned.extend(returned)
            self._is_urgent = True

    def _put_back(self, over: Iterable[HeldTogether]) -> None:
        """Let the next message unlock these."""
        with self._mutex:
            self._over.extend(over)
            self._is_urgent = True

    def _concerns_deletions(self, error: Exception, session: Session, table: Table) -> bool:
        """Whether *error* came of deleting these jobs, as far as can be told, so that the next message may succeed."""
        return isinstance(error, psycopg2.Error) and not self._is_migrated(error, session, table)

    def _unhindered(
        self, returned: Sequence[HeldTogether], error: Exception, session: Session, table: Table
    ) -> list[HeldTogether]:
        """Return those that may be deleted together after all, where *error* says that others are gone or locked."""
        if not isinstance(error, (psycopg2.errors.NoDataFound, psycopg2.errors.LockNotAvailable)):
            return []
        try:
            free = self._engine.rows.free(session, table, [each.row for each in returned])
        except psycopg2.Error:  # then each of them is looked at by itself
            return []
        again = [each for each in returned if each.row.id in free and not each.tried]
        for each in again:
            each.tried = True
        return again

    def _is_migrated(self, error: psycopg2.Error, session: Session, table: Table) -> bool:
        try:
            return isinstance(error, STALE) and self._engine.database.recheck(table, session)
        except psycopg2.Error as trouble:
            self._engine.logger.warning(
                "table_unknown queue=%s: %s", printable(self._search().queue), one_line(trouble)
            )
            return False

    def _held_on(self, session: Session) -> list[HeldTogether]:
        """Return the jobs whose locks *session* is to go on holding."""
        return [each for each in self._known() if each.locker is session and not each.unlocked]

    def _known(self) -> list[HeldTogether]:
        """Return all jobs that aren't done with, whether their locks are lost or not."""
        with self._mutex:
            apart = (held for held, _ in self._apart)
            jobs = (*self._waiting, *self._running, *self._returned, *apart, *self._over)
        return [each for each in jobs if isinstance(each, HeldTogether)]
