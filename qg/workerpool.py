"""WorkerPool: several workers on one queue, each in a thread of its own."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Sequence
from enum import Enum
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import psycopg2

from qg.client import Client, engine_of, name_of_other
from qg.database.outage import Outage
from qg.database.session import Session
from qg.errors import ErrInvalidOption, ErrPoolState, ErrTooFewConnections, QgError
from qg.failures import one_line
from qg.job import Job, locked_attempt_of
from qg.signals import in_signal_handler
from qg.tables import PollStrategy
from qg.working.event_loop import HandlerLoop
from qg.working.handlers import WorkMap, checked_work_map, running_here
from qg.working.hands import Hands
from qg.working.hooks import Hooks, Middleware, OnError, OnExpired
from qg.working.listener import Listener
from qg.working.locker import CrewHands, Locker
from qg.working.loop import Loop, Outcome
from qg.working.options import Configurable, WorkOptions
from qg.working.oversight import Oversight, PoolState
from qg.working.runner import Runner
from qg.working.sleepers import Sleepers
from qg.working.threads import BackgroundThread, join_all
from qg.working.transactions import Transactions
from qg.working.work_loop import WorkLoop

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["WorkerPool", "check_pool_options"]


# A worker that has found no job, or may not look for one, and waits.
_RESTING = (Outcome.IDLE, Outcome.TURNED_AWAY, Outcome.PAUSED)


class _Stage(Enum):
    """How far a pool has come."""

    NEW = "not started"
    STARTING = "start() connects"
    RUNNING = "its threads were started"
    STOPPED = "shut down"


class WorkerPool(Configurable):
    """*count* workers, each with a thread and a connection. Mirrors Go's ``WorkerPool``.

    The threads are daemons: a script that ends without shutdown() ends, and the jobs that were
    running are run again by somebody else. In a ``with`` block the pool starts, and at its end is
    shut down.

    Args:
        client: where jobs come from; its source must have *count* connections to give, and one more
            for the pool to listen on if the table notifies (see :func:`qg.migrate`). With *connections* it must have
            so many to give, one more for what can't be done on these, and that one to listen on.
        work_map: from job type to handler; may be replaced until the start.
        count: how many workers, 0 or more.
        queue: the queue's name; None means the environment's QUE_QUEUE, or "".
        interval: seconds that an idle worker sleeps; None means the environment's
            QUE_WAKE_INTERVAL, or 5. It sleeps 0.05 s at the least.
        batch_size: how many jobs a worker locks at once; as for a Worker.
        poll_strategy: which of the due jobs comes first; as for a Worker.
        only_known_types: whether to leave jobs of other types to others; as for a Worker.
        listen: whether to listen, if the table notifies. From version 4 on, where each job is told to
            one listening locker in turn, Ruby's or ours, that may be too many or too few for a pool
            that works only some types; it polls in any case.
        connections: how many sessions lock jobs for all workers, 1 to *count*; None means that each worker has its
            own. For jobs that mostly wait. A worker that uses ``job.tx``, or has to record an error, then leases a
            connection for as long as that job takes. Jobs that don't use ``job.tx`` are deleted together, as with
            *batch_size*, which has to be left at 1.
        transactions: how many of these connections are leased at once at the most, beside *connections*; a job
            that needs another one waits. None means as many as the source gives.
        middleware, on_error, on_expired: as for a Worker.

    Raises:
        ErrInvalidOption: if an argument, or the environment, is out of bounds.
    """

    def __init__(
        self,
        client: Client,
        work_map: WorkMap,
        count: int,
        *,
        queue: str | None = None,
        interval: float | None = None,
        batch_size: int = 1,
        poll_strategy: PollStrategy = PollStrategy.PRIORITY,
        only_known_types: bool = False,
        listen: bool = True,
        connections: int | None = None,
        transactions: int | None = None,
        middleware: Sequence[Middleware] = (),
        on_error: OnError | None = None,
        on_expired: OnExpired | None = None,
    ) -> None:
        super().__init__(WorkOptions.with_defaults(queue, interval, batch_size, poll_strategy, only_known_types))
        check_pool_options(count, batch_size, listen=listen, connections=connections, transactions=transactions)
        if not isinstance(client, Client):
            raise ErrInvalidOption(f"a worker pool needs a qg.Client, not {name_of_other(client)}")
        self.work_map = checked_work_map(work_map)
        self.client = client
        # Is told what the workers do; ``qg work`` sets it before the start.
        self.oversight: Oversight | None = None
        self.hooks = Hooks.of(middleware, on_error, on_expired)
        self._engine = engine_of(client)
        self._count = count
        # How many sessions hold locks; each worker has its own unless they share them.
        self._lockers = count if connections is None else min(connections, count)
        # How many of them may have sessions of their own at once; None where each worker has its own anyway.
        self._most_transactions = None if connections is None else transactions or max(count, 1)
        self._listen = listen
        self._outage = Outage(client.logger)
        self._sleepers = Sleepers(batch_size if connections is None else max(count // max(self._lockers, 1), 1))
        self._runners: list[Runner] = []
        self._loops: list[Loop] = []
        self._threads: list[BackgroundThread] = []
        self._hands: list[BackgroundThread] = []
        self._listener: Listener | None = None
        self._event_loop = HandlerLoop(client.logger)
        # Guards the stage, and nothing that takes long. A signal handler may interrupt who holds it.
        self._mutex = threading.RLock()
        self._stage = _Stage.NEW
        self._start_has_succeeded = False
        # Is set whenever no start() is under way.
        self._not_starting = threading.Event()
        self._not_starting.set()

    def start(self) -> None:
        """Start the workers. Mirrors Go's ``WorkerPool.Start``.

        A shutdown() meanwhile ends it: then it returns without a worker.

        Raises:
            ErrPoolState: if the pool was started before, or has been shut down since.
            ErrTooFewConnections: if the source can't give each worker a connection; none is
                started then.
            ErrRights: if the role may not do what working jobs takes; none is started then.
            psycopg2.OperationalError: if the database can't be reached at all.
        """
        begun = False
        try:
            with self._mutex:
                if self._stage is _Stage.STOPPED:
                    raise ErrPoolState("this pool was shut down; create another one")
                if self._stage is not _Stage.NEW:
                    raise ErrPoolState("this pool was started already; create another one for more workers")
                begun = True
                self._stage = _Stage.STARTING
                self._started = True
                self._not_starting.clear()
            self._start()
        finally:
            if begun:
                self._note_how_it_started()
                self._not_starting.set()

    def shutdown(self, timeout: float | None = None) -> bool:
        """Let running jobs end, take no new ones, and wait for the workers to end.

        Does nothing before start(); may be called again, and from any thread. From one of the
        pool's own handlers, or from a signal handler, it can't wait and doesn't; after a signal
        handler the process, when it ends, waits in its place. Mirrors Go's
        ``WorkerPool.Shutdown``.

        Args:
            timeout: how many seconds to wait at the most, for all of them together; None waits as
                long as it takes.

        Returns:
            Whether all workers have ended. If not, the jobs that still run are named in the log;
            their locks go when the process ends.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._begin_shutdown():
            return True
        if running_here.get() in self._runners:
            return False
        if in_signal_handler():
            atexit.register(self._wait, deadline)
            return False
        return self._wait(deadline)

    def stop(self) -> None:
        """Ask the workers to take no new jobs; shutdown() waits for them. Does nothing before start()."""
        self._begin_shutdown()

    def look(self) -> PoolState:
        """Return how the pool stands. Asks nobody, and waits for nothing."""
        now, loops, runners = time.monotonic(), list(self._loops), list(self._runners)
        busy = [runner.job is not None for runner in runners]
        # The hands of a locker come and go with their jobs; where each worker has its own loop, the two go in pairs.
        shared = self._most_transactions is not None
        waits = [not (any(busy) if shared else busy[number]) for number in range(min(len(loops), len(runners)))]
        silent = [now - loop.turned_at for loop, waits in zip(loops, waits, strict=False) if waits]
        return PoolState(
            queue=self.queue,
            workers=self._count,
            busy=sum(busy),
            started=self._stage in (_Stage.RUNNING, _Stage.STOPPED),
            alive=all(thread.alive for thread in [*self._threads, *self._hands]),
            silent_seconds=max(silent, default=0.0),
            cut_off=self._outage.affected,
            resting=not any(busy) and all(loop.outcome in _RESTING for loop in loops),
            paused=any(loop.outcome is Outcome.PAUSED for loop in loops),
            interval=self.interval,
            refusal=next((loop.refused for loop in loops if loop.refused is not None), None),
        )

    def running(self) -> list[Job]:
        """Return the jobs that run at the moment."""
        return [job for runner in list(self._runners) if (job := runner.job) is not None]

    def abandon(self) -> None:
        """Undo what still runs, and blame no job for it: the process is about to end.

        The statements of handlers on their ``job.tx`` are cancelled, each by a connection of its own, which may take
        as long as connecting does. What a handler does elsewhere ends with the process.
        """
        for runner in list(self._runners):
            runner.abandon()
        for job in self.running():
            locked_attempt_of(job).cancel_statement()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def _begin_shutdown(self) -> bool:
        """Ask all workers to end; return False if none was ever started, nor is being."""
        with self._mutex:
            if self._stage is _Stage.NEW:
                return False
            self._stage = _Stage.STOPPED
        self._ask_to_stop()
        return True

    @property
    def _stopped(self) -> bool:
        return self._stage is _Stage.STOPPED

    def _start(self) -> None:
        """Connect and start the threads; undo all of that where something fails, or the pool was stopped meanwhile."""
        sessions: list[Session] = []
        try:
            work_map = checked_work_map(self.work_map)
            self._event_loop = HandlerLoop(self._engine.logger)  # a start that failed has stopped the other
            self._lease_all(sessions)
            if sessions and self._listen and not self._stopped:
                listener = Listener(self._engine, self.queue, self._count, self._sleepers, self.interval)
                self._listener = listener
                listener.start(sessions[0])
            while len(sessions) > self._lockers:  # what is left when the listener has its own
                sessions.pop().close_now()
            start = self._start_worker
            if self._most_transactions is not None:
                transactions = Transactions(self._engine, self.queue, self._most_transactions)
                start = partial(self._start_locker, transactions)
            while sessions and not self._stopped:
                start(work_map, sessions)
            self._start_has_succeeded = True
        finally:
            if self._stopped or not self._start_has_succeeded:
                self._ask_to_stop()
                if self._listener is not None:
                    self._listener.join()
            for session in sessions:
                session.give_back()
            for loop, thread in zip(self._loops, self._threads, strict=False):
                if not thread.alive:  # nor will it be; one that has ended gave its session back already
                    loop.give_session_back()

    def _note_how_it_started(self) -> None:
        with self._mutex:
            if self._stopped:
                return
            if self._start_has_succeeded:
                self._stage = _Stage.RUNNING
            elif self._threads:
                self._stage = _Stage.STOPPED
            else:  # it may be tried again
                self._stage = _Stage.NEW
                self._started = False

    def _start_worker(self, work_map: WorkMap, sessions: list[Session]) -> None:
        """Start a worker on the first of *sessions*, which is its own from then on."""
        runner = Runner(work_map, self._engine.logger, self.hooks)
        runner.loop = self._event_loop
        self._seat(runner)
        loop = WorkLoop(self._engine, runner, self._options, self._outage, self._sleepers, sessions[0])
        name = f"qg-worker-{self.queue}-{len(self._threads) + 1}"
        run = partial(self._event_loop.outlive, loop.run)
        thread = BackgroundThread(name, run, wake=loop.stop, logger=self._engine.logger)
        self._runners.append(runner)
        self._loops.append(loop)
        self._threads.append(thread)
        del sessions[0]
        thread.start()

    def _start_locker(self, transactions: Transactions, work_map: WorkMap, sessions: list[Session]) -> None:
        """Start a locker on the first of *sessions*, which is its own from then on, and its share of the workers."""
        number = len(self._threads)
        share = self._count // self._lockers + (number < self._count % self._lockers)
        first = len(self._hands) - number + 1
        hands = self._make_hands([f"qg-worker-{self.queue}-{each}" for each in range(first, first + share)], work_map)
        loop = Locker(self._engine, self._options, self._outage, self._sleepers, sessions[0], hands, transactions)
        name = f"qg-locker-{self.queue}-{number + 1}"
        run = partial(self._event_loop.outlive, loop.run)
        thread = BackgroundThread(name, run, wake=loop.stop, logger=self._engine.logger)
        self._loops.append(loop)
        self._threads.append(thread)
        del sessions[0]
        thread.start()
        for hand in self._hands:
            hand.start()

    def _make_hands(self, names: list[str], work_map: WorkMap) -> CrewHands:
        """Return what runs the jobs of one locker: a worker for each of *names*, to be started after it."""
        settler = f"qg-settler-{self.queue}-{len(self._threads) + 1}"
        hands = Hands(names, settler, work_map, self._engine.logger, self.hooks)
        for runner in hands.runners:
            runner.loop = self._event_loop
            self._seat(runner)
        self._runners.extend(hands.runners)
        self._hands.extend(hands.threads)
        return hands

    def _seat(self, runner: Runner) -> None:
        if self.oversight is not None:
            runner.seat = self.oversight.seat()

    def _wait(self, deadline: float | None) -> bool:
        started = self._not_starting.wait(_seconds_until(deadline))
        ended = join_all([*self._threads, *self._hands], _seconds_until(deadline))
        ended = self._event_loop.join(_seconds_until(deadline)) and ended
        if self._listener is not None:
            self._listener.join(_seconds_until(deadline))
        for runner, thread in zip(self._runners, self._hands or self._threads, strict=False):
            if thread.alive:
                runner.log_still_running()
        return started and ended

    def _ask_to_stop(self) -> None:
        for thread in self._threads:
            thread.stop()
        self._event_loop.stop()
        if self._listener is not None:
            self._listener.stop()

    def _lease_all(self, sessions: list[Session]) -> None:
        """Lease a connection for each worker now, so that a source too small shows here and not as a hang.

        Where workers share connections, look whether there is one more: without it no error could be recorded.
        Before that it is looked whether the role may work jobs.
        """
        spare = self._engine.database.spare
        if spare is not None and spare < self._needed:
            raise self._too_few(spare, "that is all its pool has to spare")
        try:
            if self._count:
                self._engine.require_rights()
            while len(sessions) < self._needed and not self._stopped:
                sessions.append(self._engine.database.lease())
        except Exception as error:
            unreachable = not sessions and isinstance(error, psycopg2.OperationalError)
            if unreachable or isinstance(error, QgError):
                raise
            raise self._too_few(len(sessions), one_line(error)) from error

    @property
    def _needed(self) -> int:
        """How many connections the source must have to give at the start."""
        return self._lockers + (self._lockers > 0 and self._most_transactions is not None)

    def _too_few(self, given: int, cause: str) -> ErrTooFewConnections:
        return ErrTooFewConnections(
            f"queue {self.queue!r} needs {self._needed} connections but the source gives {given}: {cause}; "
            f"raise its limit or lower {'count' if self._most_transactions is None else 'connections'}"
        )


def check_pool_options(
    count: int, batch_size: int, *, listen: object, connections: object, transactions: object
) -> None:
    """Refuse options of a pool that are out of bounds.

    Raises:
        ErrInvalidOption: if one of them is.
    """
    if not isinstance(listen, bool):
        raise ErrInvalidOption(f"listen must be True or False, not {listen!r}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ErrInvalidOption(f"count must be a number of workers, 0 or more, not {count!r}")
    if connections is None:
        if transactions is not None:
            raise ErrInvalidOption(
                "transactions= says how many connections workers lease beside connections=; give that, too"
            )
        return
    if not _is_between(connections, 1, max(count, 1)):
        raise ErrInvalidOption(f"connections must be a number from 1 to count, {count}, not {connections!r}")
    if transactions is not None and not _is_between(transactions, 1, max(count, 1)):
        raise ErrInvalidOption(f"transactions must be a number from 1 to count, {count}, not {transactions!r}")
    if batch_size != 1:
        raise ErrInvalidOption(
            "batch_size has no meaning beside connections=, where jobs are taken for the workers that are free; "
            "leave it out"
        )


def _is_between(number: object, least: int, most: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and least <= number <= most


def _seconds_until(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
