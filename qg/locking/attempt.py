"""Attempt: what is being done with one job, from its lock to what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Protocol

from psycopg2.extensions import connection

from qg.errors import ErrJobGone, ErrNotCommitted, ErrNotLocked
from qg.failures import describe
from qg.forks import process_number
from qg.locking.locked_row import LockedRow
from qg.locking.settling import Run
from qg.retries import policy_of
from qg.tables import Row, Statement
from qg.verdicts import Discard, Reschedule

__all__ = ["Attempt", "InjectedAttempt", "Observer", "State", "successes"]


class State(Enum):
    """How far an attempt has come.

    An attempt begins RUNNING, with the lock. delete() and finish() make it DELETED or FINISHED. In an open
    transaction that isn't durable before the commit, and the handler may still roll it back, so
    complete() and done() look whether it stands. error(), expire() and a verdict are committed at once;
    after them the attempt is FAILED, EXPIRED or RESCHEDULED. It is GONE where the row wasn't there any more
    when it was to be settled in a transaction: somebody else has settled the job, so that is rolled back.

    delete_in_tx() and finish_in_tx() make it ELSEWHERE: the row is settled in a transaction that others begin and end,
    which they must have committed when the handler returns. complete() looks whether they have.

    A RETURNED attempt has a handler that returned and said nothing. Its worker deletes the row together
    with others, and until then nobody who still has the job can do anything to it. take_back() makes it
    RUNNING again, where that deletion failed.

    Whether the lock is still held is another question: :attr:`Attempt.held`.
    """

    RUNNING = "running"
    RETURNED = "returned, to be deleted with others"
    DELETED = "deleted"
    FINISHED = "kept as finished"
    FAILED = "failed"
    EXPIRED = "given up"
    RESCHEDULED = "rescheduled"
    GONE = "settled by somebody else, or removed"
    ELSEWHERE = "settled in a transaction of the handler's own"


_SETTLED = (State.DELETED, State.FINISHED)
_RECORDED = (State.FAILED, State.EXPIRED, State.RESCHEDULED, State.GONE)


class Observer(Protocol):
    """Who follows an attempt to its end, and keeps a record of it."""

    @property
    def trace_id(self) -> str | None:
        """The id of the trace that the attempt is in, in hexadecimal; None if it is in none."""

    def record(self, error: BaseException, conn: connection) -> tuple[Statement, Sequence[Any]]:
        """Return what to write on *conn* in the transaction that records *error*."""

    def raised(self, error: BaseException) -> BaseException:
        """Return what the handler has raised, where *error* was made of that."""

    def success(self) -> tuple[Statement, str] | None:
        """Return what to write in the transaction that deletes the job as worked; None if it is written already.

        A statement whose one parameter is a JSON array, and the JSON of the job's object in that. Others' may be in
        it, too.
        """

    def settled(self, error: BaseException | None) -> None:
        """Is told that the attempt is over: with *error*, or its deletion committed."""


def successes(attempts: Iterable[Attempt]) -> list[tuple[Statement, tuple[str]]]:
    """Return what to write in the transaction that deletes the rows of *attempts* as worked: few statements for all."""
    found: dict[Statement, list[str]] = {}
    for attempt in attempts:
        if attempt.observer is not None and (success := attempt.observer.success()) is not None:
            found.setdefault(success[0], []).append(success[1])
    return [(statement, (f"[{','.join(records)}]",)) for statement, records in found.items()]


_noting_loss = threading.Lock()


class _Settling(Protocol):
    """A job, whose class may do more in these than we do."""

    def delete(self) -> None: ...

    def finish(self) -> None: ...


class Attempt:
    """An attempt to work the job whose row is *locked*. Safe to use from any thread.

    Attributes:
        row: what this attempt has made of the row.
        state: how far it has come.
        held: whether the lock is this attempt's to release.
        entered: whether somebody is inside the job's ``with`` block.
        observer: who follows the attempt.
        handler: who works the job, or the retry policy that holds for it; None if that isn't known.
        given_up: whether the job was given up.
        is_written: whether what became of the row was written to it, and not only found to be somebody else's.
        mutex: is held while the attempt changes; whoever needs it for longer may take it.
    """

    # What each begins with stands here, and not in the constructor: there is one for every job.
    state = State.RUNNING
    held = True
    entered = False
    _lost = False
    _settling = False
    observer: Observer | None = None
    handler: object = None
    given_up = False
    is_written = False
    _gives_up = False

    def __init__(self, locked: LockedRow) -> None:
        self.row: Row = locked.row
        self.mutex = threading.RLock()
        self._locked = locked
        self._process = process_number()

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one whose attempt it is. The lock and the session are the parent's.

        The mutex is as some thread of the parent had it, so nothing here may wait for it.
        """
        return self._process != process_number()

    @property
    def conn(self) -> connection | None:
        """The connection for the job's statements; None when the lock isn't held, and in a forked process."""
        if self.forked:
            return None
        with self.mutex:  # or a thread of the handler's would get one that its end has just given back
            return self._locked.lend() if self.held else None

    @property
    def tx(self) -> connection | None:
        """The transaction of the job, on the same connection."""
        return self.conn

    @property
    def lost(self) -> bool:
        """Whether the session that held the lock was seen to have ended while the attempt held it. Logged once."""
        if not (self._lost or self._settling) and self.held and not self.forked and self._locked.lost:
            # Not under the mutex: who settles a job holds that while it waits for the server, and it may be up
            # to us to end the wait. What is lost while that goes on is no handler's business.
            with _noting_loss:
                noted, self._lost = self._lost, True
            if not noted:
                self._locked.log_lost()
        return self._lost

    def write_beside_handler(self, statement: Statement, params: Sequence[Any]) -> None:
        """Run *statement* in the handler's transaction, as the session's own user whatever role the handler has set."""
        self._locked.session.run_beside_handler(statement, params)

    def delete(self) -> None:
        """Delete the row: in the open transaction, otherwise committed at once."""
        self._locked.delete()
        self.state = State.DELETED

    def finish(self) -> None:
        """Keep the row as finished: in the open transaction, otherwise committed at once."""
        self._locked.finish()
        self.state = State.FINISHED

    def delete_in_tx(self, tx: object) -> None:
        """Delete the row in the caller's transaction *tx*."""
        if self._locked.delete_in(tx):
            self.state = State.ELSEWHERE

    def finish_in_tx(self, tx: object) -> None:
        """Keep the row as finished, in the caller's transaction *tx*."""
        if self._locked.finish_in(tx):
            self.state = State.ELSEWHERE

    async def settle_by(self, run: Run, *, keep: bool) -> None:
        """Do as delete_in_tx(), or finish_in_tx() to *keep* the row, where *run* runs statements."""
        if await self._locked.settle_by(run, keep=keep):
            self.state = State.ELSEWHERE

    def set_error(self, message: str) -> None:
        """Roll back what is open, count one failure, and commit."""
        self._locked.set_error(message, policy_of(self.handler), gives_up=self._gives_up)
        self._end(State.FAILED)

    def expire(self) -> None:
        """Roll back what is open, count one failure, give the job up, and commit."""
        self._locked.expire()
        self._end(State.EXPIRED)

    def done(self) -> None:
        """Commit an open transaction in which the row was settled, roll back any other, and release the lock.

        A second call does nothing, nor does one in a forked process.

        Raises:
            psycopg2.Error: if the commit fails; the lock is released all the same.
        """
        if self.forked:
            return
        with self.mutex:
            if not self.held:
                return
            self.held = False
            try:
                if self._locked.is_settled_in_transaction():
                    self._locked.commit()
            finally:
                self._locked.let_go()

    def complete(self, job: _Settling) -> None:
        """Settle the row after the handler of *job* returned, and commit.

        Under the lock, so that a commit which fails can still be recorded before anybody else gets the job.

        Raises:
            ErrNotLocked, ErrJobGone, ErrNotCommitted, psycopg2.Error: if it was no success after all.
        """
        with self.mutex:
            self._settling = True
            if self.state is State.ELSEWHERE:
                self._locked.require_settled_in_tx()
                if self.held:
                    self._locked.commit()
            elif not self.held:
                if self._was_released_unsettled():
                    raise ErrNotLocked(
                        f"the handler of {job!r} called done(), but neither deleted it nor recorded an error"
                    )
            elif self.state not in (State.FAILED, State.EXPIRED):
                if self.state not in _SETTLED or not self._locked.is_settled():
                    for statement, params in successes([self]):
                        self._locked.session.run_beside_handler(statement, params)
                    job.finish() if self.state is State.FINISHED else job.delete()
                self._locked.commit()

    def raised(self, error: BaseException) -> BaseException:
        """Return what the handler has raised, where *error* was made of that by whoever follows the attempt."""
        return error if self.observer is None else self.observer.raised(error)

    def hand_in(self) -> LockedRow | None:
        """Part with the row if all that is left to do is its deletion, in no transaction of the handler's.

        Its release is the caller's from then on. None otherwise.
        """
        if self.state is not State.RUNNING or not self.held or self._locked.in_transaction:
            return None
        self.state = State.RETURNED
        return self.detach()

    def hand_in_settled(self) -> LockedRow | None:
        """Part with the row if nothing is left to do but its release, since the handler's own transaction settled it.

        One statement on the job's session, which isn't used for the job by that. None otherwise; the rest is for
        complete() then.
        """
        if self.state is not State.ELSEWHERE or not self.held or self._locked.in_transaction:
            return None
        return self.detach() if self._locked.is_settled_in_tx() else None

    def take_back(self, *, held: bool) -> None:
        """Run again after hand_in(); *held* says whether the lock is this attempt's again."""
        self.state = State.RUNNING
        self.held = held

    def detach(self) -> LockedRow | None:
        """Part with the row and its lock, whose release is the caller's from then on; None if that was released."""
        if not self.held:
            return None
        self.held = False
        return self._locked

    @property
    def backend_pid(self) -> int | None:
        """The server process that holds the lock, as far as that is known."""
        return self._locked.backend_pid

    def cancel_statement(self) -> None:
        """Cancel the statement that runs on the job's session, if one does. May take as long as connecting does.

        From a thread that doesn't run the job, and without the mutex: who waits for the statement may hold that.
        """
        if self.held and not self.forked:
            self._locked.cancel_statement()

    def abandon(self) -> None:
        """Undo what isn't committed yet, so that done() has nothing to commit: nobody has settled the job."""
        if self.forked:
            return
        with self.mutex:
            if self.held:
                self._locked.roll_back()

    def fail(self, error: BaseException, set_error: Callable[[str], None]) -> bool:
        """Carry out what *error* means for the job; return whether that could be written. Raises no Exception.

        Where the job's session is gone, or doesn't take it, that happens on a new one: under the
        job's lock taken anew, and only if the row is as it was when it was locked.

        Args:
            error: a failure or a verdict.
            set_error: records a failure on the job, for its class may do more than set_error() does.
        """
        if self.forked:
            return False
        with self.mutex:
            self._settling = True
            if self.state is State.RETURNED or (not self.held and self.state in _RECORDED):
                return True  # there is nothing to record, or a block of the handler's own has recorded it
            if self.held:
                try:
                    self._locked.require_lock()
                    self._carry_out(error, set_error)
                    return True
                except ErrNotCommitted as trouble:  # another session wouldn't get the row either
                    self._locked.log_unrecorded(trouble)
                    return False
                except Exception as trouble:  # of any kind; the new session below is the answer
                    self._locked.give_up_session(trouble)
            try:
                self._carry_out_anew(error)
                return True
            except Exception as trouble:  # the job stays as it was, and will be run again
                self._locked.log_unrecorded(trouble)
                return False

    def _carry_out_anew(self, error: BaseException) -> None:
        given_up = self._locked
        anew = given_up.lock_anew()
        if anew is not None:
            self._locked = anew
            try:
                self._carry_out(error, self.set_error)
            finally:
                anew.let_go()
                self._locked = given_up

    def _carry_out(self, error: BaseException, set_error: Callable[[str], None]) -> None:
        if isinstance(error, ErrJobGone) and self._locked.turns_out_gone():
            self._end(State.GONE)
            return
        if self._locked.may_have_failed_stale(error) and self._locked.was_migrated():
            error = Reschedule(after=0)
        if self.observer is not None:
            self._locked.along = self.observer.record(error, self._locked.session.conn)
        if isinstance(error, Reschedule):
            self._locked.reschedule(error)
            self._end(State.RESCHEDULED)
        elif isinstance(error, Discard):
            self._locked.discard()
            self._end(State.DELETED)
        else:
            policy = policy_of(self.handler)
            self._gives_up = policy is not None and policy.gives_up_on(self.raised(error))
            set_error(describe(error))
            self._end(State.FAILED)

    def _end(self, state: State) -> None:
        self.row = self._locked.row
        self.given_up = self._locked.expired
        self.is_written = self._locked.row is not self._locked.as_locked
        self.state = state

    def _was_released_unsettled(self) -> bool:
        if self.state in _SETTLED:
            # It may have been rolled back, or the commit may have failed, before or in done().
            return self._locked.still_there()
        return self.state is State.RUNNING


class InjectedAttempt:
    """What a job has in place of an Attempt while its handler is tested: there is no row to write to."""

    row: None = None
    observer: None = None
    handler: object = None
    forked = False
    lost = False

    def __init__(self) -> None:
        self.conn: Any = None
        self.tx: Any = None
        self.message: str | None = None
        self.state = State.RUNNING
        self.held = True
        self.entered = False
        self.mutex = threading.RLock()

    def delete(self) -> None:
        """Note that the handler deleted its job."""
        self.state = State.DELETED

    def finish(self) -> None:
        """Note that the handler finished its job."""
        self.state = State.FINISHED

    def delete_in_tx(self, tx: object) -> None:
        """Note that the handler deleted its job."""
        self.state = State.DELETED

    def finish_in_tx(self, tx: object) -> None:
        """Note that the handler finished its job."""
        self.state = State.FINISHED

    async def settle_by(self, run: Run, *, keep: bool) -> None:
        """Note that the handler deleted its job, or finished it."""
        self.state = State.FINISHED if keep else State.DELETED

    def set_error(self, message: str) -> None:
        """Note that the handler recorded an error."""
        self.message = message
        self.state = State.FAILED

    def expire(self) -> None:
        """Note that the handler gave its job up."""
        self.state = State.EXPIRED

    def abandon(self) -> None:
        """Nothing: there is nothing to undo."""

    def fail(self, error: BaseException, set_error: Callable[[str], None]) -> bool:
        """Nothing: there is no row to write *error* to."""
        return True

    def done(self) -> None:
        """Take connection and transaction off the job; they stay open."""
        self.held = False
        self.conn = self.tx = None
