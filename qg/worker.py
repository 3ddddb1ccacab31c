"""Worker: works the jobs of one queue, one after another."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from qg.client import Client, engine_of, name_of_other
from qg.database.outage import Outage
from qg.errors import ErrInvalidOption, ErrPoolState
from qg.failures import printable
from qg.signals import in_signal_handler
from qg.tables import PollStrategy
from qg.working.handlers import WorkMap, checked_work_map, running_here
from qg.working.hooks import Hooks, Middleware, OnError, OnExpired
from qg.working.options import Configurable, WorkOptions
from qg.working.runner import Runner, complete_now
from qg.working.sleepers import Sleepers
from qg.working.work_loop import WorkLoop

__all__ = ["Worker"]


class Worker(Configurable):
    """Works the jobs of one queue, one after another, on one connection. Mirrors Go's ``Worker``.

    Args:
        client: where jobs come from.
        work_map: from job type to handler. A type that isn't in it is an error of that job.
        queue: the queue's name; None means the environment's QUE_QUEUE, or "".
        interval: seconds to sleep when no job is due, fractions allowed; None means the
            environment's QUE_WAKE_INTERVAL, or 5. It sleeps 0.05 s at the least.
        batch_size: how many jobs to lock at once, 1 to 1000. From 2 on, those that don't use
            ``job.tx`` are deleted together, about 0.1 s after they were locked at the latest; a
            crash in between runs them again.
        poll_strategy: which of the due jobs comes first: the most urgent, or with
            ``PollStrategy.RUN_AT`` the earliest.
        only_known_types: whether to leave jobs whose type isn't in *work_map* to others that work
            the same queue, instead of failing them.
        middleware: functions ``f(job, call)`` that go around each run of a handler, the first of them outermost. Each
            calls ``call()`` once.
        on_error: a function ``f(job, error, will_retry)`` that is called after a failure was recorded.
        on_expired: a function ``f(job)`` that is called after it was recorded that a job is given up: by a retry
            policy, by the client's limit, or by its handler. What hooks raise is logged.

    Raises:
        ErrInvalidOption: if an argument, or the environment, is out of bounds.
    """

    def __init__(
        self,
        client: Client,
        work_map: WorkMap,
        *,
        queue: str | None = None,
        interval: float | None = None,
        batch_size: int = 1,
        poll_strategy: PollStrategy = PollStrategy.PRIORITY,
        only_known_types: bool = False,
        middleware: Sequence[Middleware] = (),
        on_error: OnError | None = None,
        on_expired: OnExpired | None = None,
    ) -> None:
        super().__init__(WorkOptions.with_defaults(queue, interval, batch_size, poll_strategy, only_known_types))
        if not isinstance(client, Client):
            raise ErrInvalidOption(f"a worker needs a qg.Client, not {name_of_other(client)}")
        self._engine = engine_of(client)
        hooks = Hooks.of(middleware, on_error, on_expired)
        self._runner = Runner(checked_work_map(work_map), client.logger, hooks)
        self._loop: WorkLoop | None = None
        self._stopping = False
        # Held for as long as work() runs, so that shutdown() can wait for it.
        self._working = threading.Lock()

    def work(self) -> None:
        """Work jobs until shutdown() is called.

        Tries at once, goes on until the queue is empty, then sleeps the interval. Run it in a
        thread of its own, or in the main thread. A database that goes away is waited for. Mirrors
        Go's ``Worker.Work``.

        In the main thread Ctrl-C ends it, and so does what a signal handler raises, ``sys.exit()`` for
        instance. A job that is running then is undone and released, and no error is counted.

        Raises:
            ErrPoolState: if the worker is working already.
            ErrPooler: if a pooler in between pools transactions, so that no lock can be held.
            ErrRights: if the role may not do what working jobs takes; that is looked at before the first job.
        """
        if not self._working.acquire(blocking=False):
            raise ErrPoolState("this worker is working already; create another one for another thread")
        try:
            self._started = True
            outage, sleepers = Outage(self._engine.logger), Sleepers()
            self._loop = WorkLoop(self._engine, self._runner, self._options, outage, sleepers, requires_rights=True)
            if self._stopping:  # before there was a loop to be told
                self._loop.stop()
            self._loop.run()
            if self._loop.refused is not None:
                raise self._loop.refused
        finally:
            self._working.release()

    def work_one(self) -> bool:
        """Work one job if one is due, and return whether one was. Mirrors Go's ``Worker.WorkOne``.

        Leases a connection for this one job and takes a statement for each step; what work() does
        with one message a job comes to the same. A failure of the handler is the job's and is
        recorded there; it isn't raised. While the queue is paused, no job is worked.

        Raises:
            ErrAgain, ErrClientClosed, psycopg2.Error: if no job could be locked.
        """
        database, options = self._engine.database, self._options
        session = database.lease()
        try:
            if self._engine.paused.overdue:
                database.on_table(session, lambda table: self._engine.paused.look(session, table))
            if self._engine.paused.has(options.queue, database.table):
                session.give_back()
                return False
            types = options.types(self._runner.work_map)
            job = database.on_table(
                session,
                lambda table: self._engine.jobs.take_plainly(
                    session, table, options.queue, options.poll_strategy, types, lent=True
                ),
            )
            if job is None:
                self._engine.logger.debug("no_job queue=%s", printable(options.queue))
            else:
                self._runner.run(job, complete_now)
        except BaseException:
            session.close_now()
            raise
        if self._engine.is_kept_by_handler(session, options.queue, has_failed=self._runner.has_failed):
            session.close_now()
        else:
            session.give_back()
        return job is not None

    def shutdown(self, timeout: float | None = None) -> bool:
        """Let the running job end, take no new one, and wait until work() has returned.

        May be called again, and from any thread. From the worker's own handler, or from a signal
        handler, it can't wait and doesn't. Mirrors Go's ``Worker.Shutdown``.

        Args:
            timeout: how many seconds to wait at the most; None waits as long as it takes.

        Returns:
            Whether work() has ended. If it hasn't, the job that still runs is named in the log.
        """
        self._stopping = True
        if self._loop is not None:
            self._loop.stop()
        if running_here.get() is self._runner or in_signal_handler():
            return False
        if self._working.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            self._working.release()
            return True
        self._runner.log_still_running()
        return False
