"""Job: a locked job whose methods are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qg.aio.awaited import rows_in
from qg.aio.own_transactions import OwnTransactions
from qg.aio.threads import begin_in_own_thread, run_in_own_thread
from qg.errors import ErrUnusable
from qg.job import Job as SyncJob
from qg.job import attempt_of, held_attempt_of
from qg.signals import ends_process

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Job"]


class Job:
    """A locked job, for a coroutine. Its methods are those of :class:`qg.Job`, awaited.

    A job from :meth:`qg.aio.Client.lock_job` owns one database connection until :meth:`done`, and on it the advisory
    lock that keeps every other worker away. Use it in an ``async with`` block::

        async with job:
            async with AsyncSession(engine) as session, session.begin():
                user = await session.get_one(User, job.args[0])
                user.greeted = True
                await job.delete_in_tx(session)

    Leaving the block calls :meth:`done`. An exception first becomes the job's error and passes on;
    :class:`qg.Reschedule` and :class:`qg.Discard` are carried out and end there. To cancel what is in the block only
    releases the job, as Ctrl-C does.

    What is awaited is done in a thread, but for the statements of delete_in_tx() and finish_in_tx(). If the coroutine
    that awaits it is cancelled, it is done to its end all the same.

    Args:
        job: a job from :meth:`qg.Client.lock_job`, or one that a worker gives to its handler.
        transactions: for tx(); a client or pool of qg.aio gives them.
    """

    def __init__(self, job: SyncJob, transactions: OwnTransactions | None = None) -> None:
        self._job = job
        self._transactions = transactions

    def __repr__(self) -> str:
        return repr(self._job)

    @property
    def sync(self) -> SyncJob:
        """The same job, for a function in a thread of its own: its ``tx`` is a psycopg2 connection there.

        It is of the client's job_class.
        """
        return self._job

    @property
    def type(self) -> str:
        """The name of the handler; Ruby's job_class."""
        return self._job.type

    @property
    def args(self) -> Any:
        """The arguments, decoded."""
        return self._job.args

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._job.queue

    @property
    def priority(self) -> int:
        """Lower runs first."""
        return self._job.priority

    @property
    def run_at(self) -> datetime | None:
        """When the job fell due."""
        return self._job.run_at

    @property
    def kwargs(self) -> dict[str, Any]:
        """Ruby's keyword arguments, from version 6 of the table on."""
        return self._job.kwargs

    @property
    def tags(self) -> Sequence[str]:
        """The tags, from version 4 of the table on."""
        return self._job.tags

    @property
    def id(self) -> int | None:
        """The id that the database gave the job."""
        return self._job.id

    @property
    def error_count(self) -> int:
        """How many times the job has failed."""
        return self._job.error_count

    @property
    def last_error(self) -> str | None:
        """What error() recorded last, None if the job never failed."""
        return self._job.last_error

    @property
    def lost(self) -> bool:
        """Whether the session that holds the job's lock has ended, as :attr:`qg.Job.lost`. Sends no message."""
        return self._job.lost

    def check(self) -> None:
        """Go on only if the job's lock isn't lost. Sends no message, so it isn't awaited.

        Raises:
            ErrLockLost: if :attr:`lost`.
        """
        self._job.check()

    async def delete(self) -> None:
        """Delete the job from the table, on its own connection: its work is done. See :meth:`qg.Job.delete`.

        Raises:
            ErrNotLocked, ErrJobGone, ErrNotCommitted, psycopg2.Error: as there.
        """
        await run_in_own_thread(self._job.delete)

    async def error(self, message: str) -> None:
        """Record a failure, on the job's own connection. See :meth:`qg.Job.error`.

        Raises:
            ErrInvalidOption, ErrNotLocked, ErrNotCommitted, psycopg2.Error: as there.
        """
        await run_in_own_thread(partial(self._job.error, message))

    async def finish(self) -> None:
        """Keep the job in the table as finished, on its own connection. See :meth:`qg.Job.finish`.

        Raises:
            ErrTable, ErrNotLocked, ErrJobGone, ErrNotCommitted, psycopg2.Error: as there.
        """
        await run_in_own_thread(self._job.finish)

    async def expire(self) -> None:
        """Give the job up, on its own connection. See :meth:`qg.Job.expire`.

        Raises:
            ErrNotLocked, ErrNotCommitted, psycopg2.Error: as there.
        """
        await run_in_own_thread(self._job.expire)

    async def delete_in_tx(self, tx: object) -> None:
        """Delete the job in the caller's transaction: its work is done if that commits, and only then.

        One statement, awaited on *tx*, which is neither committed nor rolled back. All else is as
        :meth:`qg.Job.delete_in_tx` has it. If the caller is cancelled, *tx* is as its driver leaves it then: roll it
        back. The job is still there.

        Args:
            tx: as :meth:`qg.aio.Client.enqueue_in_tx` takes it.

        Raises:
            ErrNotLocked, ErrJobGone, ErrNotCommitted, ErrUnusable, Exception: as there.
        """
        await held_attempt_of(self._job, "delete_in_tx").settle_by(partial(rows_in, tx), keep=False)

    async def finish_in_tx(self, tx: object) -> None:
        """Keep the job as finished, in the caller's transaction. From version 4 of the table on.

        In all else as delete_in_tx().

        Raises:
            ErrTable: if the table is of version 3, which keeps no finished jobs; nothing was done.
            ErrNotLocked, ErrJobGone, ErrNotCommitted, ErrUnusable, Exception: as delete_in_tx().
        """
        await held_attempt_of(self._job, "finish_in_tx").settle_by(partial(rows_in, tx), keep=True)

    @asynccontextmanager
    async def tx(self) -> AsyncIterator[Any]:
        """Within the block there is a transaction, at whose end the job is deleted. For where psycopg 3 is installed.

        ::

            async with job.tx() as conn:
                await conn.execute("UPDATE users SET greeted = true WHERE id = %s", job.args)

        What is written there and the deletion are one commit, at the end of the block. If the block is left by an
        exception, everything is rolled back, and the job is still there. The connection is opened for the block, by
        the DSN of the client. With a pool of yours and delete_in_tx(), none has to be opened.

        Yields:
            A psycopg.AsyncConnection.

        Raises:
            ErrMissingExtra: if psycopg 3 isn't installed.
            ErrUnusable: if the client's source is no DSN, or the job was made by hand of a qg.Job.
            ErrNotLocked, ErrJobGone, ErrNotCommitted: as delete_in_tx().
            psycopg.Error: if it can't connect or commit.
        """
        held_attempt_of(self._job, "tx")
        if self._transactions is None:
            raise ErrUnusable(
                "this job has no client of qg.aio, which knows where to connect; open a transaction of your own, "
                "and give it to job.delete_in_tx()"
            )
        async with self._transactions.opened() as conn:
            yield conn
            await self.delete_in_tx(conn)
            await conn.commit()

    async def done(self) -> None:
        """Release the job: unlock it and give its connection back. See :meth:`qg.Job.done`.

        May be called again. If the caller is cancelled, the job is released all the same.

        Raises:
            psycopg2.Error: if the commit it owes fails; nothing is lost, the job is still there.
        """
        await run_in_own_thread(self._job.done)

    async def __aenter__(self) -> Self:
        held_attempt_of(self._job, "enter").entered = True
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        if isinstance(error, GeneratorExit):  # nobody runs this coroutine any more, so it can't wait
            begin_in_own_thread(partial(_release, self._job))
            return False
        if isinstance(error, asyncio.CancelledError) or (error is not None and ends_process(error)):
            await run_in_own_thread(partial(_release, self._job))
            return False
        kind = None if error is None else type(error)
        return await run_in_own_thread(partial(self._job.__exit__, kind, error, trace))


def _release(job: SyncJob) -> None:
    """Release *job*, and blame it for nothing."""
    attempt = attempt_of(job)
    try:
        if attempt is not None:
            attempt.abandon()
    finally:
        job.done()
