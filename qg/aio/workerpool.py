"""WorkerPool: many jobs at once in the running event loop, on few connections."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from qg.aio.client import Client, connected, transactions_for
from qg.aio.daemons import Daemons
from qg.aio.hands import CoroutineHands, Handlers
from qg.aio.hooks import check_middleware
from qg.aio.job import Job
from qg.aio.threads import run_in_own_thread
from qg.client import Client as SyncClient
from qg.errors import ErrInvalidOption, ErrPoolState
from qg.job import Job as SyncJob
from qg.tables import PollStrategy
from qg.workerpool import WorkerPool as SyncPool
from qg.workerpool import check_pool_options
from qg.working.handlers import WorkMap, checked_work_map, running_here
from qg.working.hooks import Hooks, Middleware, OnError, OnExpired
from qg.working.locker import CrewHands
from qg.working.options import WorkOptions

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["WorkerPool"]

# How long a cancelled coroutine may go on until the pool leaves it behind.
_LAST_WORDS_SECONDS = 10.0
# How long the threads may take to give their sessions back once all jobs are settled.
_CLOSING_SECONDS = 30.0


class WorkerPool:
    """Works jobs in the running event loop, *count* at once. Use it in an ``async with`` block, or call run().

    An ``async def`` handler gets a :class:`qg.aio.Job`, and runs as a task in the loop, in a copy of the context in
    which the pool was started. So handlers share what belongs to the loop: engines, HTTP sessions, caches. A plain
    function gets a :class:`qg.Job`, and runs in a thread. Returning means success, and raising means failure, as in
    :class:`qg.WorkerPool`.

    To cancel the pool cancels its jobs: they are released, with no error counted, and are run again by whoever takes
    them. That is so when run() or shutdown() is cancelled, when the block is left by CancelledError, and when the
    timeout of shutdown() runs out. What runs in threads can't be cancelled.

    A job whose lock is lost is cancelled, too. A coroutine that blocks the loop for a second is named in the log.

    Args:
        client: where jobs come from. Its source must have *connections* to give, one more to listen on if the table
            notifies, and those for *transactions*.
        work_map: from job type to handler; may be replaced until the start.
        count: how many jobs at once, 0 or more.
        connections: how many sessions lock jobs, 1 to *count*. One will do for hundreds of jobs that mostly wait.
        transactions: how many jobs at once may have a connection of their own at the most: those that record an
            error, or that delete_in_tx() has settled, and plain functions that use ``job.tx``. Blocks of
            ``job.tx()`` are counted apart, up to the same number. None means *count*.
        queue, interval, poll_strategy, only_known_types, listen: as :class:`qg.WorkerPool` has them.
        middleware: functions ``f(job, call)`` that go around each run of a handler, the first of them outermost. An
            ``async def`` goes around ``async def`` handlers, and awaits ``call()``. A plain function goes around plain
            functions, in their thread. A pool that has handlers of both kinds needs middleware of both kinds, or none.
        on_error, on_expired: as :class:`qg.WorkerPool` has them. An ``async def`` is run in the loop, with a
            :class:`qg.aio.Job`; a plain function in a thread, with a :class:`qg.Job`.

    Raises:
        ErrInvalidOption: if an argument, or the environment, is out of bounds.
    """

    def __init__(
        self,
        client: Client,
        work_map: WorkMap,
        count: int,
        *,
        connections: int = 1,
        transactions: int | None = None,
        queue: str | None = None,
        interval: float | None = None,
        poll_strategy: PollStrategy = PollStrategy.PRIORITY,
        only_known_types: bool = False,
        listen: bool = True,
        middleware: Sequence[Middleware] = (),
        on_error: OnError | None = None,
        on_expired: OnExpired | None = None,
    ) -> None:
        options = WorkOptions.with_defaults(queue, interval, 1, poll_strategy, only_known_types)
        if connections is None:
            raise ErrInvalidOption("connections must be a number from 1 to count, not None")
        check_pool_options(count, 1, listen=listen, connections=connections, transactions=transactions)
        if isinstance(client, SyncClient):
            raise ErrInvalidOption(
                "a pool of coroutines needs a qg.aio.Client, not a qg.Client; give qg.aio.Client the same source, "
                "or use qg.WorkerPool"
            )
        if not isinstance(client, Client):
            raise ErrInvalidOption(f"a pool of coroutines needs a qg.aio.Client, not {type(client).__name__}")
        self.work_map = checked_work_map(work_map)
        self._hooks = Hooks.of(middleware, on_error, on_expired, awaits=True)
        check_middleware(self._hooks, work_map)
        self._client = client
        self._count = count
        self._connections = connections
        self._transactions = transactions
        self._options = options
        self._listen = listen
        self._starting = False
        self._run: _Run | None = None

    async def run(self) -> None:
        """Start, work until SIGTERM or SIGINT comes or shutdown() is called, and shut down.

        Running jobs end first. A second signal cancels them, as cancelling this call does. Outside the main thread
        signals are left alone.

        Raises:
            ErrPooler, ErrRights: if jobs can't be worked any more.
            Exception: as ``async with`` does at its start.
        """
        async with self:
            run = self._started_run()
            with _on_signals(run.loop, run.note_signal):
                await run.until_stopped()
                await self.shutdown()
        run.raise_refusal()

    async def shutdown(self, timeout: float | None = None) -> bool:
        """Let running jobs end, take no new ones, and wait for that.

        Does nothing before the start. May be called again, in the event loop of the pool. From one of the pool's own
        handlers it can't wait, and doesn't. If it is cancelled, or after *timeout*, coroutines that still run are
        cancelled, and their jobs released.

        Args:
            timeout: how many seconds to wait for jobs; None waits as long as it takes.

        Returns:
            Whether all jobs have ended by themselves. Those that go on after that are named in the log.
        """
        run = self._run
        return True if run is None else await run.shutdown(timeout)

    async def __aenter__(self) -> Self:
        """Start.

        Raises:
            ErrPoolState: if the pool was started before.
            ErrInvalidOption: if middleware is of another kind than the handlers.
            ErrTooFewConnections: if the source can't give *connections*.
            ErrRights: if the role may not do what working jobs takes.
            ErrClientClosed, psycopg2.Error: as the methods of the client.
        """
        if self._starting or self._run is not None:
            raise ErrPoolState("this pool was started already; create another one")
        check_middleware(self._hooks, self.work_map)
        self._starting = True
        try:
            transactions = transactions_for(self._client, self._transactions or max(self._count, 1))
            run = _Run(self._client.logger, partial(Job, transactions=transactions), self._hooks)
            try:
                await run_in_own_thread(partial(run.start, self._make_pool))
            except asyncio.CancelledError:
                run.give_up()
                raise
            self._run = run
        finally:
            self._starting = False
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.shutdown(0 if isinstance(error, asyncio.CancelledError) else None)

    def _make_pool(self, make_hands: Callable[[int, WorkMap], CrewHands]) -> _Lockers:
        return _Lockers(
            make_hands,
            connected(self._client),
            self.work_map,
            self._count,
            queue=self._options.queue,
            interval=self._options.interval,
            poll_strategy=self._options.poll_strategy,
            only_known_types=self._options.only_known_types,
            listen=self._listen,
            connections=min(self._connections, max(self._count, 1)),
            transactions=self._transactions,
        )

    def _started_run(self) -> _Run:
        if self._run is None:
            raise AssertionError("the pool isn't started")
        return self._run


class _Lockers(SyncPool):
    """The threads that lock and settle jobs, for hands that *make_hands* makes."""

    def __init__(self, make_hands: Callable[[int, WorkMap], CrewHands], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._make_them = make_hands

    @property
    def refusals(self) -> list[Exception]:
        """Why lockers have ended by themselves."""
        return [loop.refused for loop in self._loops if loop.refused is not None]

    def _make_hands(self, names: list[str], work_map: WorkMap) -> CrewHands:
        return self._make_them(len(names), work_map)


class _Run:
    """A pool from its start to its end, in the running event loop."""

    def __init__(self, logger: Any, make_job: Callable[[SyncJob], Job], hooks: Hooks) -> None:
        self._make_job = make_job
        self._hooks = hooks
        self.loop = asyncio.get_running_loop()
        self._logger = logger
        self._context = contextvars.copy_context()
        self._threads = Daemons("qg-aio-worker", logger)
        self._pool: _Lockers | None = None
        self._hands: list[CoroutineHands] = []
        self._dismissed = 0
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._signals = 0
        # Guards what a start that is given up needs.
        self._mutex = threading.Lock()
        self._given_up = False
        # Whoever cancels all tasks cancels this one, too.
        self._never = self.loop.create_future()
        self._keeper = self.loop.create_task(self._keep())

    def start(self, make_pool: Callable[[Callable[[int, WorkMap], CrewHands]], _Lockers]) -> None:
        """Connect, and start the threads; waits for the database."""
        try:
            pool = make_pool(self._make_hands)
            with self._mutex:
                self._pool = pool
                given_up = self._given_up
            if not given_up:
                pool.start()
        except BaseException:
            self._end_keeper()
            self._threads.close()
            raise
        if self._given_up:
            pool.shutdown()
            self._end_keeper()
            self._threads.close()

    def give_up(self) -> None:
        """End a start that is under way, or what it has started; wait for nothing."""
        with self._mutex:
            self._given_up = True
            pool = self._pool
        if pool is not None:
            pool.stop()
        self.cancel_jobs()

    async def until_stopped(self) -> None:
        """Wait for a signal, for shutdown(), or until no locker works any more."""
        await self._stopping.wait()

    def note_signal(self) -> None:
        """Stop; at the second time cancel what still runs."""
        self._signals += 1
        if self._signals == 1:
            self._ask_to_stop()
        else:
            self.cancel_jobs()

    def raise_refusal(self) -> None:
        """Raise why lockers have ended by themselves, if they have."""
        if self._pool is not None and self._pool.refusals:
            raise self._pool.refusals[0]

    async def shutdown(self, timeout: float | None) -> bool:
        """As :meth:`WorkerPool.shutdown`."""
        self._ask_to_stop()
        if any(hands.runs(running_here.get()) for hands in self._hands):
            return False
        cancelled = False
        try:
            if not await self._has_ended(timeout):
                cancelled = self.cancel_jobs()
                await self._has_ended(_LAST_WORDS_SECONDS)
        except asyncio.CancelledError:
            self.cancel_jobs()
            await self._has_ended(_LAST_WORDS_SECONDS)
            await self._finish()
            raise
        return await self._finish() and not cancelled

    def cancel_jobs(self) -> bool:
        """Cancel all coroutines; return whether there were any."""
        return sum(hands.cancel() for hands in self._hands) > 0

    async def _has_ended(self, timeout: float | None) -> bool:
        if not self._ended.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), timeout)
        return self._ended.is_set()

    async def _finish(self) -> bool:
        """Close what is left, once all jobs are settled; otherwise say which aren't."""
        ended = self._ended.is_set()
        if ended and self._pool is not None:
            ended = await run_in_own_thread(partial(self._pool.shutdown, _CLOSING_SECONDS))
        for hands in self._hands:
            hands.log_still_running()
        self._end_keeper()
        self._threads.close()
        return ended

    def _ask_to_stop(self) -> None:
        if self._pool is not None:
            self._pool.stop()
        self._stopping.set()
        if not self._hands:
            self._ended.set()

    async def _keep(self) -> None:
        try:
            await self._never
        except asyncio.CancelledError:
            self._ask_to_stop()
            self.cancel_jobs()
            raise

    def _end_keeper(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(_set, self._never)

    def _make_hands(self, size: int, work_map: WorkMap) -> CrewHands:
        hands = CoroutineHands(
            size,
            Handlers(work_map),
            self._make_job,
            self.loop,
            self._context,
            self._threads,
            self._logger,
            note_dismissed=self._note_dismissed,
            note_closed=self._note_closed,
            is_cancelled=self._never.cancelled,
            hooks=self._hooks,
        )
        self._hands.append(hands)
        return hands

    def _note_dismissed(self) -> None:
        self._dismissed += 1
        if self._dismissed == len(self._hands):
            self._stopping.set()
            self._ended.set()

    def _note_closed(self) -> None:
        if self._pool is not None:
            self._pool.stop()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@contextmanager
def _on_signals(loop: asyncio.AbstractEventLoop, note: Callable[[], None]) -> Iterator[None]:
    """Within the block, *note* is called in *loop* when SIGTERM or SIGINT comes, if that can be."""
    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        previous: Callable[[int, FrameType | None], Any] | int | None = signal.getsignal(number)
        with suppress(NotImplementedError, RuntimeError, ValueError):  # in another thread, or on Windows
            loop.add_signal_handler(number, note)
            before[number] = previous
    try:
        yield
    finally:
        for number, previous in before.items():
            loop.remove_signal_handler(number)
            if previous is not None:
                signal.signal(number, previous)
