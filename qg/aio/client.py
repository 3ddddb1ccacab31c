"""Client: enqueue jobs from coroutines, lock them one by one, and see how the queues stand."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from qg.aio.awaited import rows_in
from qg.aio.job import Job
from qg.aio.own_transactions import OwnTransactions
from qg.aio.threads import Threads, run_in_own_thread
from qg.backoff import Backoff, que_delay
from qg.client import Client as SyncClient
from qg.client import check_options, engine_of
from qg.database.sources import source_from
from qg.enqueuing.storing import Storing, drafted
from qg.errors import ErrInvalidJob, ErrInvalidOption
from qg.failures import Logger
from qg.job import Job as SyncJob
from qg.job import attempt_of
from qg.stats import JobState, JobStats
from qg.tables import Table

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Client", "connected", "transactions_for"]

_Result = TypeVar("_Result")


class Client:
    """Enqueues into and works from the ``que_jobs`` table. The methods of :class:`qg.Client`, awaited.

    It connects when it is first used, or where its ``async with`` block begins. What needs a connection of qg's own
    runs in threads that belong to the client, and never blocks the event loop. What is done in a transaction of the
    caller's is awaited there, in no thread. A client may be used from several event loops. Used in an ``async with``
    block it closes itself.

    A call that is cancelled stops waiting. What it has begun is done to its end: what an enqueue() was about to store
    may be stored. What it hasn't begun isn't begun. No lock and no connection is left behind.

    Args:
        source, backoff, maximum_retry_count, job_class, deadline, max_lifetime, logger: as :class:`qg.Client` has
            them. *source* leads to psycopg2 connections, whatever your transactions are.
        threads: how many calls run at once, each on a connection of its own. More wait for their turn. Transactions
            of the caller's, and jobs that are locked, need none of them.

    Raises:
        ErrUnusable: if *source* is of no known kind.
        ErrInvalidOption: if another argument is out of bounds.
    """

    def __init__(
        self,
        source: object,
        *,
        backoff: Backoff = que_delay,
        maximum_retry_count: float | None = None,
        job_class: type[SyncJob] = SyncJob,
        deadline: float | None = 60.0,
        max_lifetime: float | None = 3600.0,
        logger: Logger | None = None,
        threads: int = 4,
    ) -> None:
        options: dict[str, Any] = {
            "backoff": backoff,
            "maximum_retry_count": maximum_retry_count,
            "job_class": job_class,
            "deadline": deadline,
            "max_lifetime": max_lifetime,
            "logger": logger,
        }
        check_options(**options)
        source_from(source)
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise ErrInvalidOption(f"threads must be a number of threads, 1 or more, not {threads!r}")
        self.logger = logger or logging.getLogger("qg")
        self._connect: Callable[[], SyncClient] = partial(SyncClient, source, **options)
        self._source = source
        self._transactions = OwnTransactions(source)
        self._connecting = threading.Lock()
        self._client: SyncClient | None = None
        self._closed = False
        self._threads = Threads(threads)
        # The jobs that lock_job() gave out, and to whom.
        self._given_out: weakref.WeakKeyDictionary[Job, weakref.ref[asyncio.Task[object]]] = weakref.WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        await self._threads.run(self._connected)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Take nothing more, and close the connections that qg opened and nobody uses.

        Waits for nobody: a job that is being worked goes on and releases itself. Jobs that the calling task, or one
        that has ended, locked and left lying outside an ``async with`` block are released. A second call does
        nothing. If the caller is cancelled, the client is closed all the same.
        """
        self._closed = True
        here = asyncio.current_task()
        left = []
        for job, reference in list(self._given_out.items()):
            task, attempt = reference(), attempt_of(job.sync)
            if not (attempt is None or attempt.entered) and (task is None or task is here or task.done()):
                left.append(job.sync)
        await run_in_own_thread(partial(self._close, left))

    def _close(self, left: Iterable[SyncJob]) -> None:
        client = self._client
        try:
            for job in left:
                try:
                    job.done()
                except Exception:  # the commit that it owed failed; the other jobs are released all the same
                    self.logger.exception("release_failed id=%d", job.id)
            if client is not None:
                # It releases what was locked by threads that have ended. Ours haven't: a task has the job.
                client.close()
        finally:
            self._threads.close()

    async def enqueue(self, job: SyncJob) -> SyncJob:
        """Store *job*, committed at once, and return it with what the row has. See :meth:`qg.Client.enqueue`.

        If the caller is cancelled, the job may be stored all the same: don't use the object again.

        Raises:
            ErrMissingType, ErrInvalidJob, ErrClientClosed, psycopg2.Error: as there.
        """
        return await self._run(lambda client: client.enqueue(job))

    async def enqueue_in_tx(self, job: SyncJob, tx: object) -> SyncJob:
        """Store *job* in the caller's transaction: it lives and dies with that.

        One statement, awaited on *tx*, which is neither committed nor rolled back. If the caller is cancelled, *tx* is
        as its driver leaves it then: roll it back.

        Args:
            job: the job.
            tx: a SQLAlchemy AsyncSession or AsyncConnection, a psycopg 3 AsyncConnection or AsyncCursor, or an
                asyncpg Connection.

        Raises:
            ErrUnusable: if *tx* is nothing of that kind.
            ErrMissingType, ErrInvalidJob: as enqueue(), before *tx* is touched.
            Exception: what the driver of *tx* raises passes through.
        """
        await self._store_in_tx(drafted([job]).one_in, tx)
        return job

    async def enqueue_batch(self, jobs: Iterable[SyncJob], *, notify: bool = False) -> list[SyncJob]:
        """Store all *jobs* or none, committed at once, and return them with their ids.

        See :meth:`qg.Client.enqueue_batch`. If the caller is cancelled, they may be stored all the same.

        Raises:
            ErrMissingType, ErrInvalidJob, ErrClientClosed, psycopg2.Error: as there.
        """
        batch = list(jobs)
        return await self._run(lambda client: client.enqueue_batch(batch, notify=notify))

    async def enqueue_batch_in_tx(self, jobs: Iterable[SyncJob], tx: object, *, notify: bool = False) -> list[SyncJob]:
        """Store all *jobs* in the caller's transaction and return them with their ids.

        As enqueue_batch(), on *tx* as enqueue_in_tx() has it.
        """
        batch = drafted(jobs)
        if batch.jobs:
            await self._store_in_tx(lambda table: batch.all_in(table, notify=notify), tx)
        return batch.jobs

    async def lock_job(self, queue: str = "") -> Job | None:
        """Lock the next due job of *queue*, or return None. The caller must call done().

        See :meth:`qg.Client.lock_job`. If the caller is cancelled, a job that is locked is released again.

        Returns:
            The job, whose methods are awaited; None if no job is due and free.

        Raises:
            ErrClientClosed, ErrPooler, ErrAgain, ErrInvalidOption, psycopg2.Error: as there.
        """
        locked = await self._run(lambda client: client.lock_job(queue), _release)
        if locked is None:
            return None
        job, task = Job(locked, self._transactions), asyncio.current_task()
        if task is not None:
            self._given_out[job] = weakref.ref(task)
        return job

    async def stats(self) -> list[JobStats]:
        """Return how each type stands in each queue, ordered by queue and type. See :meth:`qg.Client.stats`.

        Raises:
            ErrClientClosed, psycopg2.Error: as there.
        """
        return await self._run(lambda client: client.stats())

    async def job_states(self) -> list[JobState]:
        """Return which jobs are being worked, and by whom, ordered by id. See :meth:`qg.Client.job_states`.

        Raises:
            ErrClientClosed, psycopg2.Error: as there.
        """
        return await self._run(lambda client: client.job_states())

    async def _run(
        self, work: Callable[[SyncClient], _Result], undo: Callable[[_Result], object] | None = None
    ) -> _Result:
        """Return what *work* gives, in a thread; *undo* gets it if the caller was cancelled meanwhile."""
        return await self._threads.run(lambda: work(self._connected()), undo)

    def _connected(self) -> SyncClient:
        """Return the client, which connects the first time. Waits for the database."""
        with self._connecting:
            if self._client is None:
                client = self._client = self._connect()
                if self._closed:  # meanwhile, so that close() may not have seen it
                    client.close()
            return self._client

    async def _store_in_tx(self, storing_in: Callable[[Table], Storing], tx: object) -> None:
        client = self._client
        if client is None:
            client = await self._threads.run(self._connected)
        database = engine_of(client).database
        table = database.table
        try:
            storing = storing_in(table)
        except ErrInvalidJob:
            if not await run_in_own_thread(partial(database.recheck_apart, table)):
                raise
            table = database.table
            storing = storing_in(table)
        storing.fill_in(await rows_in(tx, database, table, storing.statement, storing.params))


def connected(client: Client) -> SyncClient:
    """Return what *client* has its work done by, for the rest of qg.aio. Connects the first time: call it in a thread.

    Raises:
        Exception: as qg.Client does.
    """
    return client._connected()


def transactions_for(client: Client, most: int) -> OwnTransactions:
    """Return what opens transactions for the jobs of a pool, for the rest of qg.aio; *most* at once at the most."""
    return OwnTransactions(client._source, most)


def _release(job: SyncJob | None) -> None:
    if job is not None:
        job.done()
