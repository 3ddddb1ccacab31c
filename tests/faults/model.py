"""A model of the job protocol, so that a program can try every order of its steps with faults between them.

It is the protocol of qg without qg: a few workers, a few jobs, one PostgreSQL, each as small as can be. A step is
about what one statement does, and names in its docstring the methods of qg that it mirrors. Between any two steps any
other worker may take one, and a :class:`Fault` may happen. ``promises.py`` goes through all of that, and stops at the
first state that breaks a promise. A :class:`Rule` can be left out, to see which promise it keeps.

What PostgreSQL does is taken seriously:

- A statement sees what was committed when it began (READ COMMITTED). So the statement that locks may see a job that
  is settled before it gets the lock.
- Whoever changes a row that an open transaction has changed waits for the end of that. Then it sees what was committed.
- Advisory locks belong to the session, and know no transaction.
- A server doesn't notice at once that the other side is gone. Until then the session keeps its locks and its
  transaction, and one that was committing may still commit. Here such a session is a *ghost*.

What isn't here: time, priorities, finished and expired rows, verdicts, handlers that delete their job or commit on its
own session, and batches of jobs that are deleted in transactions of their handlers' own. A deletion by key and then by
id is one step, since nothing between them changes what they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from world import Change, Locked, Phase, Row, Session, Worker, World

__all__ = ["Fault", "Protocol", "Rule"]


class Rule(Enum):
    """What the protocol rests on; its value says what would happen without it."""

    LOOK_AGAIN = "A job that was settled between the locking statement's snapshot and the lock would be run again."
    WHOLE_KEY = "A job that has just failed would be run again at once: its id is still there, and only run_at differs."
    FENCE = "Who has lost the lock would commit what its transaction wrote, though somebody else has settled the job."
    EFFECTS_WITH_DELETION = "Effects would be committed before the deletion, and a crash between the two repeats them."
    DELETION_WITH_EFFECTS = (
        "The deletion would be committed before the effects, and a crash between the two loses them."
    )
    DELETE_BY_ID = "A job whose run_at was edited while it ran would be taken for done, and would be run again."
    LOOK_IN_TX = "A job would be taken for done whose handler's own transaction, with the deletion, was rolled back."
    UNLOCK_LAST = "Who gets the lock before the commit would still see the row, and run the job a second time."
    ROLL_BACK_FIRST = "What a failed attempt wrote would be committed together with the record of its failure."
    LOCK_ANEW = "After a commit in doubt, a failure would be recorded on a job that somebody else has locked by then."
    CHECK_ANEW = "After a commit in doubt, a failure would be recorded that is recorded already, or settled since."
    KEY_ANEW = "After a commit in doubt that comes late, a failure would be recorded a second time."
    COUNT_UP = "A failure that is recorded late would take back what others have counted since the lock was lost."


class Fault(str, Enum):
    """What goes wrong: for a worker, or because a person does something to the table meanwhile."""

    CRASH = "crashes, and another process takes its place"
    LOCK_LOST = "loses the lock of job {}, and doesn't notice"
    CUT = "is cut off from its session, and doesn't notice before it uses it"
    IN_DOUBT = "is cut off from its session while that commits"
    FAILURE = "has a handler that fails"
    EDIT = "A person changes the run_at of job {}"
    REMOVAL = "A person deletes job {}"
    MIGRATION = "A person migrates the table"


# What happens, and the world after that.
_Step = tuple[str, World]
_Mishap = tuple[Fault, str, World]
# What a worker does, the world after that, and what the worker is then.
_Deed = tuple[str, World, Worker]


@dataclass(frozen=True)
class Protocol:
    """The protocol among so many workers and jobs, with so many faults of these kinds, *without* some of its rules.

    With *in_tx*, a handler may delete its job in a transaction of its own, on a session of its own. If *shared*, the
    lock of a job and its transaction are on two sessions, each of which may be lost without the other: SharedLock. Here
    they are one, of which a part is lost.
    """

    in_tx: bool = False
    shared: bool = False
    workers: int = 2
    jobs: int = 1
    batch_size: int = 1
    faults: int = 0
    kinds: tuple[Fault, ...] = tuple(Fault)
    without: frozenset[Rule] = frozenset()

    def start(self) -> World:
        """The world in which nothing has happened yet."""
        return World((Row(),) * self.jobs, (Worker(),) * self.workers, faults_left=self.faults)

    def steps(self, world: World) -> Iterator[_Step]:
        """What may happen next, if nothing goes wrong."""
        for number, me in enumerate(world.workers):
            for text, after, becomes in _DEEDS[me.phase](self, world, me):
                yield f"Worker {number + 1} {text}.", after.put(number, becomes)
        for job, row in enumerate(world.rows):
            if row.there and not row.due:
                yield f"Job {job + 1} falls due.", world.note(job, row._replace(due=True))
        for number, ghost in enumerate(world.ghosts):
            after = world._replace(ghosts=world.ghosts[:number] + world.ghosts[number + 1 :])
            yield "The server ends a session that was left, and rolls back.", after
            if ghost.committing:
                yield "The server commits in a session that was left, and ends it.", after.commit(ghost.tx)

    def look(self, world: World, me: Worker) -> Iterator[_Deed]:
        """RowTaker.take, JobTaker.take_plainly: the statement that locks takes its snapshot."""
        due = tuple(Locked(job, row.key, row.errors) for job, row in enumerate(world.rows) if row.there and row.due)
        if me.is_behind:
            yield "finds that the table was migrated", world, me._replace(is_behind=False)
        elif due:
            found = " and ".join(f"job {each.job + 1}" for each in due)
            yield f"begins the statement that locks, which sees {found}", world, me._replace(phase=Phase.LOCK, seen=due)

    def lock(self, world: World, me: Worker) -> Iterator[_Deed]:
        """The same: pg_try_advisory_lock for the next row of that snapshot."""
        job = me.seen[0].job
        if me.session is None:
            yield "begins a new session", world, Worker(is_behind=me.is_behind)
        elif world.is_locked(job):
            yield f"doesn't get the lock of job {job + 1}", world, self._walk_on(me)
        else:
            session = me.session._replace(locks=(*me.session.locks, job))
            after = me._replace(phase=Phase.LOOK_AGAIN, session=session)
            yield f"gets the lock of job {job + 1}", world, after

    def look_again(self, world: World, me: Worker) -> Iterator[_Deed]:
        """The same, check_job: a new statement, with a new snapshot."""
        locked = me.seen[0]
        if me.session is None:
            yield "begins a new session", world, Worker(is_behind=me.is_behind)
        elif Rule.LOOK_AGAIN in self.without:
            yield "doesn't look again", world, self._walk_on(me._replace(waiting=(*me.waiting, locked)))
        elif world.has(locked, whole_key=Rule.WHOLE_KEY not in self.without):
            text = f"looks again, and job {locked.job + 1} is there"
            yield text, world, self._walk_on(me._replace(waiting=(*me.waiting, locked)))
        else:
            session = me.session.without(locked.job)
            text = f"looks again, job {locked.job + 1} isn't there as it was, and unlocks it"
            yield text, world, self._walk_on(me._replace(session=session))

    def _walk_on(self, me: Worker) -> Worker:
        me = me._replace(seen=me.seen[1:])
        if me.seen and len(me.waiting) < self.batch_size:
            return me._replace(phase=Phase.LOCK)
        return me._replace(seen=()).hand_out()

    def run(self, world: World, me: Worker) -> Iterator[_Deed]:
        """Runner.run: the handler goes on. Before it uses the session that is its alone: Batch._hand_over."""
        assert me.running is not None
        job = me.running.job
        returned = me._replace(running=None, returned=(*me.returned, me.running)).hand_out()
        yield f"has run job {job + 1}, without a transaction", world, returned
        if (me.returned or me.waiting) and not self.shared:
            text = f"breaks up its batch while it runs job {job + 1}"
            yield text, world, me._replace(waiting=(), phase=Phase.DELETE if me.returned else Phase.UNLOCK)
        elif me.session is None:
            yield "can't use its session, so the handler fails", world.fail(me.running), me._replace(phase=Phase.RECORD)
        else:
            session = me.session._replace(tx=(Change("wrote", job),))
            text = f"runs job {job + 1}, whose handler writes in a transaction and returns"
            yield text, world, me._replace(phase=Phase.SETTLE, session=session)
        if self.in_tx and not world.is_changing(job):  # otherwise the deletion waits
            yield self._delete_in_tx(world, me, job)

    def _delete_in_tx(self, world: World, me: Worker, job: int) -> _Deed:
        """Job.delete_in_tx, LockedRow.delete_in: the row is the fence there too."""
        text = f"runs job {job + 1}, whose handler writes in a transaction of its own and"
        wrote, deleted = Change("wrote", job), Change("deleted", job)
        if world.rows[job].there:
            return (
                f"{text} deletes the job in it",
                world,
                me._replace(phase=Phase.IN_TX, own=Session(tx=(wrote, deleted))),
            )
        if Rule.FENCE in self.without:
            return f"{text} meets no row", world, me._replace(phase=Phase.IN_TX, own=Session(tx=(wrote,)))
        return f"{text} finds the job gone, and rolls back", world, me._replace(phase=Phase.UNLOCK, running=None)

    def end_tx(self, world: World, me: Worker) -> Iterator[_Deed]:
        """The handler commits the transaction of its own."""
        assert me.own is not None
        yield "commits its handler's own", world.commit(me.own.tx), me._replace(phase=Phase.LOOK_IN_TX, own=None)

    def look_in_tx(self, world: World, me: Worker) -> Iterator[_Deed]:
        """LockedRow.require_settled_in_tx, on whatever session; what is open is found out when it is recorded."""
        assert me.running is not None
        job = me.running.job
        row = world.rows[job]
        done = me._replace(phase=Phase.UNLOCK, running=None)
        if Rule.LOOK_IN_TX in self.without:
            after = world.note(job, row._replace(fate=row.fate or "done in a transaction"))
            yield "doesn't look what became of its handler's transaction", after, done
        elif world.is_changing(job):
            yield (
                "finds its handler's transaction still open",
                world,
                me._replace(phase=Phase.RECORD, is_left_open=True),
            )
        elif row.there:
            yield "finds its handler's transaction rolled back", world, me._replace(phase=Phase.RECORD)
        else:
            yield f"finds job {job + 1} settled by its handler's transaction", world, done

    def settle(self, world: World, me: Worker) -> Iterator[_Deed]:
        """Attempt.complete, LockedRow._settle: delete the row in the open transaction; the row is the fence."""
        assert me.running is not None
        job = me.running.job
        if me.session is None:
            yield "finds its session gone", world.fail(me.running), me._replace(phase=Phase.RECORD)
        elif me.is_behind:
            undone = me._replace(phase=Phase.RESCHEDULE, is_behind=False, session=me.session._replace(tx=()))
            yield "finds that the table was migrated, and rolls back", world, undone
        elif world.is_changing(job):
            return  # the deletion waits
        elif Rule.EFFECTS_WITH_DELETION in self.without:
            yield f"leaves the deletion of job {job + 1} for later", world, me._replace(phase=Phase.COMMIT)
        elif Rule.DELETION_WITH_EFFECTS in self.without and world.has(me.running):
            row = world.rows[job]._replace(there=False, fate="done in a transaction")
            yield f"deletes job {job + 1} on another session", world.note(job, row), me._replace(phase=Phase.COMMIT)
        elif world.has(me.running, whole_key=Rule.DELETE_BY_ID in self.without):
            locks = () if Rule.UNLOCK_LAST in self.without else me.session.locks
            session = me.session._replace(locks=locks, tx=(*me.session.tx, Change("deleted", job)))
            yield f"deletes job {job + 1} in that", world, me._replace(phase=Phase.COMMIT, session=session)
        elif Rule.FENCE in self.without:
            yield f"deletes job {job + 1} in that, and meets no row", world, me._replace(phase=Phase.COMMIT)
        else:
            undone = me._replace(phase=Phase.UNLOCK, running=None, session=me.session._replace(tx=()))
            yield f"finds job {job + 1} gone, and rolls back", world, undone

    def delete(self, world: World, me: Worker) -> Iterator[_Deed]:
        """Batch._exchange, Batch._break_up: all returned rows, by their keys; or, Batch._delete_each, one by its id."""
        by_id = Rule.DELETE_BY_ID not in self.without
        first = me.returned[0]
        if self.shared and (me.is_unlocked or me.session is None):
            lost = me._replace(phase=Phase.LOCK_ANEW, returned=(), anew=me.returned, deletes_anew=True)
            yield "finds the session with the locks gone", world, lost
        elif me.session is None:
            lost = me._replace(phase=Phase.LOCK_ANEW, returned=(), anew=me.returned)
            yield "finds its session gone", world.fail(*me.returned), lost
        elif any(world.is_changing(each.job) for each in me.returned):
            return  # the deletion waits
        elif all(world.has(each) for each in me.returned) or (by_id and world.rows[first.job].there):
            them = me.returned if all(world.has(each) for each in me.returned) else (first,)
            session = me.session._replace(tx=tuple(Change("deleted", each.job) for each in them))
            names = " and ".join(f"job {each.job + 1}" for each in them)
            yield f"deletes {names}", world, me._replace(phase=Phase.COMMIT, session=session)
        else:
            row = world.rows[first.job]
            after = world.note(first.job, row._replace(fate=row.fate or "done without one"))
            rest = me.returned[1:]
            becomes = me._replace(phase=Phase.DELETE if rest else Phase.UNLOCK, returned=rest)
            yield f"finds job {first.job + 1} gone, with nothing to undo", after, becomes

    def record(self, world: World, me: Worker) -> Iterator[_Deed]:
        """Attempt._carry_out, LockedRow.set_error and reschedule: on the row under its key or, if edited, its id."""
        locked = me.anew[0] if me.anew else me.running
        assert locked is not None
        job = locked.job
        if me.session is None and me.anew:
            yield "can't record the failure", world, me.end_anew()
        elif me.session is None or (me.is_unlocked and not me.anew):
            uncounted = me.phase is Phase.RESCHEDULE
            becomes = me._replace(phase=Phase.LOCK_ANEW, running=None, anew=(locked,), uncounted=uncounted)
            yield "gives its session up", world, becomes
        elif world.is_changing(job):
            # The update waits, but for no more than a second for a transaction that the handler has left.
            if me.is_left_open:
                text = f"can't write to job {job + 1}, and leaves it as it is"
                yield text, world, me._replace(phase=Phase.UNLOCK, running=None)
        elif not world.rows[job].there:
            becomes = me._replace(phase=Phase.UNLOCK, running=None, session=me.session._replace(tx=()))
            yield f"finds no job {job + 1} to record anything on", world, becomes
        elif (
            me.anew
            and me.phase is Phase.RECORD
            and not (self.without & {Rule.CHECK_ANEW, Rule.KEY_ANEW} or world.has(locked))
        ):
            yield f"finds that job {job + 1} has moved on", world, me._replace(phase=Phase.UNLOCK)
        else:
            failed = me.phase is Phase.RECORD
            change = Change("failed", job, self.count(world, locked)) if failed else Change("rescheduled", job)
            session = me.session._replace(tx=(*me.session.tx, change))
            text = f"records the failure of job {job + 1}" if failed else f"reschedules job {job + 1}, uncounted"
            yield text, world, me._replace(phase=Phase.COMMIT, session=session)

    def count(self, world: World, locked: Locked) -> int:
        """set_error: how many errors the row has after one more attempt has failed."""
        counted = 0 if Rule.COUNT_UP in self.without else world.rows[locked.job].errors
        return max(counted, locked.errors + 1)

    def commit(self, world: World, me: Worker) -> Iterator[_Deed]:
        """LockedRow.commit, Session.delete_and_run."""
        assert me.session is not None
        settled = {change.job for change in me.session.tx}
        rest = tuple(each for each in me.returned if each.job not in settled)
        running = None if me.running and me.running.job in settled else me.running
        if Rule.EFFECTS_WITH_DELETION in self.without and me.running and me.session.tx[-1].kind == "wrote":
            rest = (me.running,)
        becomes = me._replace(
            phase=Phase.DELETE if rest else Phase.UNLOCK,
            session=me.session._replace(tx=()),
            running=running,
            returned=rest,
        )
        yield "commits", world.commit(me.session.tx), becomes

    def unlock(self, world: World, me: Worker) -> Iterator[_Deed]:
        """RowLock.release, RowTaker.release, the beginning of RowTaker.take; all locks but that of a running job."""
        me = me._replace(is_left_open=False)
        if me.anew:
            yield "unlocks", world, me.end_anew()
        elif me.running is None:
            yield "unlocks", world, me._replace(session=Session(), is_unlocked=False).hand_out()
        else:
            locks = () if me.session is None else tuple(job for job in me.session.locks if job == me.running.job)
            session = me.session and me.session._replace(locks=locks)
            yield "unlocks all others", world, me._replace(phase=Phase.RUN, session=session)

    def lock_anew(self, world: World, me: Worker) -> Iterator[_Deed]:
        """LockedRow.lock_anew, RowLock.anew, SharedLock.anew."""
        job = me.anew[0].job
        if self.shared and me.session is not None and job in me.session.locks:
            yield f"has the lock of job {job + 1} still", world, me._replace(phase=Phase.CHECK_ANEW)
        elif Rule.LOCK_ANEW in self.without:
            yield "takes a new session", world, me._replace(phase=Phase.CHECK_ANEW, session=Session())
        elif world.is_locked(job):
            yield f"doesn't get the lock of job {job + 1} again, and records nothing", world, me.end_anew()
        else:
            session = Session(locks=(job,))
            text = f"locks job {job + 1} anew on a new session"
            yield text, world, me._replace(phase=Phase.CHECK_ANEW, session=session, is_unlocked=False)

    def check_anew(self, world: World, me: Worker) -> Iterator[_Deed]:
        """LockedRow.lock_anew: check_job with the key that it was locked with."""
        job = me.anew[0].job
        if me.session is None:
            yield "can't record the failure", world, me.end_anew()
        elif me.deletes_anew and world.has(me.anew[0]):
            becomes = me._replace(phase=Phase.DELETE, returned=me.anew[:1])
            yield f"may delete job {job + 1}", world, becomes
        elif Rule.CHECK_ANEW in self.without or world.has(me.anew[0]):
            phase = Phase.RESCHEDULE if me.uncounted else Phase.RECORD
            yield f"may record what became of job {job + 1}", world, me._replace(phase=phase)
        else:
            yield f"finds that job {job + 1} has moved on", world, me._replace(phase=Phase.UNLOCK)

    def faults_in(self, world: World) -> Iterator[_Mishap]:
        """What may go wrong next."""
        if world.faults_left:
            world = world._replace(faults_left=world.faults_left - 1)
            for mishap in (*self._faults_of_workers(world), *self._faults_of_people(world)):
                if mishap[0] in self.kinds:
                    yield mishap

    def _faults_of_workers(self, world: World) -> Iterator[_Mishap]:
        for number, me in enumerate(world.workers):
            if me.phase is not Phase.LOOK:
                for fault, job, after, becomes in self._faults_of(world, me):
                    yield fault, f"Worker {number + 1} {fault.value.format(job)}.", after.put(number, becomes)

    def _faults_of_people(self, world: World) -> Iterator[_Mishap]:
        for job, row in enumerate(world.rows):
            if row.there and not world.is_changing(job):
                edited = row._replace(key=row.key + 1, edited=True)
                yield Fault.EDIT, f"{Fault.EDIT.value.format(job + 1)}.", world.note(job, edited)
                removed = row._replace(there=False, fate="removed")
                yield Fault.REMOVAL, f"{Fault.REMOVAL.value.format(job + 1)}.", world.note(job, removed)
        if not any(world.is_changing(job) for job in range(self.jobs)):
            workers = tuple(me._replace(is_behind=True) for me in world.workers)
            yield Fault.MIGRATION, f"{Fault.MIGRATION.value}.", world._replace(workers=workers)

    def _faults_of(self, world: World, me: Worker) -> Iterator[tuple[Fault, int, World, Worker]]:
        session = me.session
        left = session and session._replace(committing=me.phase is Phase.COMMIT)
        if self.shared and session is not None:  # each of the two sessions ends in its own time
            apart = world.haunt(Session(session.locks)).haunt(left and left._replace(locks=())).lose(*session.locks)
            yield Fault.CRASH, 0, apart, Worker()
        else:
            yield Fault.CRASH, 0, world.haunt(left).leave_open(me.own), Worker()
        if me.running and me.phase is Phase.IN_TX:
            failed, returned = world.fail(me.running), me._replace(phase=Phase.LOOK_IN_TX, own=None)
            yield Fault.FAILURE, 0, failed, me._replace(phase=Phase.RECORD, own=None)  # it raises
            yield Fault.FAILURE, 0, failed, returned  # it rolls back
            yield Fault.FAILURE, 0, failed.leave_open(me.own), returned  # it leaves its transaction to others
            becomes = me._replace(phase=Phase.RECORD, own=None, is_left_open=True)
            yield Fault.IN_DOUBT, 0, failed.leave_open(me.own), becomes  # it raises in its commit
        if me.running and (me.phase is Phase.SETTLE or (me.phase is Phase.RUN and not (me.returned or me.waiting))):
            undo = session is not None and Rule.ROLL_BACK_FIRST not in self.without
            rolled_back = session._replace(tx=()) if session and undo else session
            yield Fault.FAILURE, 0, world.fail(me.running), me._replace(phase=Phase.RECORD, session=rolled_back)
        if session is None:
            return
        for job in session.locks:
            yield Fault.LOCK_LOST, job + 1, world.lose(job), me._replace(session=session.without(job))
        if self.shared and me.running:
            yield from self._faults_of_two(world, me, session)
        elif me.phase is Phase.COMMIT:
            yield self._in_doubt(world.haunt(left), me, session)
        else:
            yield Fault.CUT, 0, world.haunt(left).lose(*session.locks), me._replace(session=None)

    def _faults_of_two(self, world: World, me: Worker, session: Session) -> Iterator[tuple[Fault, int, World, Worker]]:
        """While a job runs, the session that has its lock is lost, or the one that has its transaction."""
        assert me.running is not None
        locks, tx = Session(session.locks), Session(tx=session.tx, committing=me.phase is Phase.COMMIT)
        if not me.is_unlocked:
            unlocked = me._replace(session=session._replace(locks=()), is_unlocked=True)
            yield Fault.CUT, 0, world.haunt(locks).lose(*session.locks), unlocked
        if me.phase is Phase.COMMIT:
            last = session.tx[-1].kind
            becomes = me._replace(
                phase=Phase.LOCK_ANEW,
                running=None,
                anew=(me.running,),
                uncounted=last == "rescheduled",
                session=None if me.is_unlocked else locks,
            )
            after = world.haunt(tx)
            yield Fault.IN_DOUBT, 0, after.fail(me.running) if last == "deleted" else after, becomes
        elif session.tx:
            failed = world.haunt(tx).fail(me.running) if me.phase is Phase.SETTLE else world.haunt(tx)
            yield Fault.CUT, 0, failed, me._replace(phase=Phase.RECORD, session=locks)

    def _in_doubt(self, world: World, me: Worker, session: Session) -> tuple[Fault, int, World, Worker]:
        """Attempt.fail, Batch._delete_each: what can't be known is an error, recorded only if nothing was committed.

        HeldTogether.delete_apart: of a deletion on the session that has the locks it is looked whether it was.
        """
        changed = [change.job for change in session.tx]
        world = world.lose(*(job for job in session.locks if job not in changed))
        me = me._replace(session=None)
        if me.anew:
            return Fault.IN_DOUBT, 0, world, me._replace(returned=()).end_anew()
        if me.running and me.running.job in changed:
            last = session.tx[-1].kind
            uncounted = last == "rescheduled"
            becomes = me._replace(phase=Phase.LOCK_ANEW, running=None, anew=(me.running,), uncounted=uncounted)
            return Fault.IN_DOUBT, 0, world.fail(me.running) if last == "deleted" else world, becomes
        becomes = me._replace(phase=Phase.LOCK_ANEW, returned=(), anew=me.returned, deletes_anew=self.shared)
        return Fault.IN_DOUBT, 0, world if self.shared else world.fail(*me.returned), becomes


_DEEDS: dict[Phase, Callable[[Protocol, World, Worker], Iterator[_Deed]]] = {
    Phase.LOOK: Protocol.look,
    Phase.LOCK: Protocol.lock,
    Phase.LOOK_AGAIN: Protocol.look_again,
    Phase.RUN: Protocol.run,
    Phase.SETTLE: Protocol.settle,
    Phase.IN_TX: Protocol.end_tx,
    Phase.LOOK_IN_TX: Protocol.look_in_tx,
    Phase.DELETE: Protocol.delete,
    Phase.RECORD: Protocol.record,
    Phase.RESCHEDULE: Protocol.record,
    Phase.COMMIT: Protocol.commit,
    Phase.UNLOCK: Protocol.unlock,
    Phase.LOCK_ANEW: Protocol.lock_anew,
    Phase.CHECK_ANEW: Protocol.check_anew,
}
