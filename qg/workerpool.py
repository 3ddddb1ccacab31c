"""WorkerPool: several workers on one queue, each in a thread of its own."""

from __future__ import annotations

import atexit
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

import psycopg2

from qg.client import Client
from qg.errors import ErrInvalidOption, ErrPoolState, ErrTooFewConnections, QgError
from qg.failures import one_line
from qg.handlers import WorkMap, checked_work_map
from qg.listener import Listener
from qg.outage import Outage
from qg.polling import Polling
from qg.session import Session
from qg.signals import in_signal_handler
from qg.sleepers import Sleepers
from qg.tables import PollStrategy
from qg.worker import Worker, working_now

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["WorkerPool"]


class WorkerPool(Polling):
    """*count* workers, each with a thread and a connection. Mirrors Go's ``WorkerPool``.

    The threads are daemons: a script that ends without shutdown() ends, and the jobs that were
    running are run again by somebody else. In a ``with`` block the pool starts, and at its end is
    shut down.

    Args:
        client: where jobs come from; its source must have *count* connections to give, and one more
            for the pool to listen on if the table notifies (see :func:`qg.migrate`).
        work_map: from job type to handler; may be replaced until the start.
        count: how many workers, 0 or more.
        queue: the queue's name; None means the environment's QUE_QUEUE, or "".
        interval: seconds that an idle worker sleeps; None means the environment's
            QUE_WAKE_INTERVAL, or 5.
        batch_size: how many jobs a worker locks at once; as for a Worker.
        poll_strategy: which of the due jobs comes first; as for a Worker.
        only_known_types: whether to leave jobs of other types to others; as for a Worker.
        listen: whether to listen, if the table notifies. From version 4 on, where each job is told to
            one listening locker in turn, Ruby's or ours, that may be too many or too few for a pool
            that works only some types; it polls in any case.

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
    ) -> None:
        super().__init__(queue, interval, batch_size, poll_strategy, only_known_types)
        if not isinstance(listen, bool):
            raise ErrInvalidOption(f"listen must be True or False, not {listen!r}")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ErrInvalidOption(f"count must be a number of workers, 0 or more, not {count!r}")
        if not isinstance(client, Client):
            raise ErrInvalidOption(f"a worker pool needs a qg.Client, not {type(client).__name__}")
        self.work_map = checked_work_map(work_map)
        self._client = client
        self._count = count
        self._listen = listen
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self._listener: Listener | None = None
        # A signal handler may shut the pool down in the middle of the main thread's start().
        self._mutex = threading.RLock()
        self._stopped = False

    def start(self) -> None:
        """Start the workers. Mirrors Go's ``WorkerPool.Start``.

        Raises:
            ErrPoolState: if the pool was started before, or has been shut down since.
            ErrTooFewConnections: if the source can't give each worker a connection; none is
                started then.
            psycopg2.OperationalError: if the database can't be reached at all.
        """
        with self._mutex:
            if self._stopped:
                raise ErrPoolState("this pool was shut down; create another one")
            if self._started:
                raise ErrPoolState("this pool was started already; create another one for more workers")
            self._started = True
            try:
                self._workers = self._hire()
            except BaseException:
                self._started = False
                raise
            if self._stopped:  # by a signal that came meanwhile
                self._ask_to_stop()
            self._run_threads()

    def shutdown(self, timeout: float | None = None) -> bool:
        """Let running jobs finish, take no new ones, and wait for the workers to end.

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
        with self._mutex:
            if not self._started:
                return True
            self._stopped = True
        self._ask_to_stop()
        if working_now.get() in self._workers:
            return False
        if in_signal_handler():
            atexit.register(self._wait, deadline)
            return False
        return self._wait(deadline)

    def _wait(self, deadline: float | None) -> bool:
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        if self._listener is not None:
            self._listener.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        running = [w for w, thread in zip(self._workers, self._threads, strict=False) if thread.is_alive()]
        for worker in running:
            worker._log_still_running()
        return not running

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def _run_threads(self) -> None:
        try:
            for number, worker in enumerate(self._workers, start=1):
                thread = threading.Thread(target=worker.work, name=f"qg-worker-{self.queue}-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:  # the system has no more threads
            self._stopped = True
            self._ask_to_stop()
            for worker in self._workers[len(self._threads) :]:
                worker._give_session_back()
            raise

    def _ask_to_stop(self) -> None:
        for worker in self._workers:
            worker._ask_to_stop()
        if self._listener is not None:
            self._listener.stop()

    def _hire(self) -> list[Worker]:
        work_map = checked_work_map(self.work_map)
        outage, sleepers = Outage(self._client.logger), Sleepers()
        workers: list[Worker] = []
        sessions = self._lease_all()
        try:
            if sessions and self._listen:
                self._listener = Listener(self._client, self.queue, self._count, sleepers, self.interval)
                self._listener.start(sessions[0])
        except BaseException:
            for session in sessions:
                session.give_back()
            raise
        for session in sessions:
            worker = Worker(
                self._client,
                work_map,
                queue=self.queue,
                interval=self.interval,
                batch_size=self.batch_size,
                poll_strategy=self.poll_strategy,
                only_known_types=self.only_known_types,
            )
            worker._join_pool(session, outage, sleepers)
            workers.append(worker)
        return workers

    def _lease_all(self) -> list[Session]:
        """Lease a connection for each worker now, so that a source too small shows here and not as a hang."""
        spare = self._client._source.spare()
        if spare is not None and spare < self._count:
            raise self._too_few(spare, "that is all its pool has to spare")
        sessions: list[Session] = []
        try:
            while len(sessions) < self._count:
                sessions.append(self._client._lease())
        except BaseException as error:
            for session in sessions:
                session.give_back()
            unreachable = not sessions and isinstance(error, psycopg2.OperationalError)
            if unreachable or isinstance(error, QgError) or not isinstance(error, Exception):
                raise
            raise self._too_few(len(sessions), one_line(error)) from error
        return sessions

    def _too_few(self, given: int, cause: str) -> ErrTooFewConnections:
        return ErrTooFewConnections(
            f"queue {self.queue!r} needs {self._count} connections but the source gives {given}: {cause}; "
            "raise its limit or lower count"
        )
