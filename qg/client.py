"""Client: enqueue jobs, lock them one by one, and see how the queues stand."""

from __future__ import annotations

import json
import logging
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qg.backoff import Backoff, exponential
from qg.connections import source_from
from qg.errors import ErrAgain, ErrClientClosed, ErrInvalidJob, ErrInvalidOption
from qg.failures import Logger, describe
from qg.fields import InsertParams, check_queue, decode_args, insert_params
from qg.handlers import WorkMap, checked_work_map
from qg.job import Job, JobStats
from qg.locks import LockContext, LockedRow
from qg.session import Session, find_table
from qg.synchronous import Synchronous
from qg.tables import PollStrategy, Row, timestamp
from qg.taking import Taker
from qg.transactions import rows_in

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MAX_LOCK_ATTEMPTS", "Client"]

# As in Go: so many jobs in a row that were locked in vain, and lock_job gives up.
MAX_LOCK_ATTEMPTS = 10


class Client:
    """Enqueues into and works from the ``que_jobs`` table. Mirrors Go's ``Client``.

    A client may be used from any thread. Used in a ``with`` block it closes itself.

    Args:
        source: where connections come from: a DSN or URL, a psycopg2 pool (anything with getconn
            and putconn), a SQLAlchemy engine over psycopg2, or a callable that returns a new
            psycopg2 connection. qg closes only what it opened.
        backoff: from a job's error count, 1 after its first failure, to the seconds until it is
            run again; by default ``error_count ** 4 + 3``, as in every Que.
        job_class: what lock_job() and workers make of a row: a subclass of Job that is
            constructed with the same arguments. Overrides of delete() and error() call super();
            a job that is discarded is removed without delete().
        run_synchronously: a work map, for development: enqueue() then runs a job without run_at
            at once instead of storing it, and raises what its handler raises.
        logger: for all that the client, its jobs and its workers log; by default
            ``logging.getLogger("qg")``.

    Raises:
        ErrUnusable: if *source* is of no known kind.
        ErrTable: if there is no table that this qg works.
        psycopg2.Error: if the database can't be reached or used.
    """

    def __init__(
        self,
        source: object,
        *,
        backoff: Backoff = exponential,
        job_class: type[Job] = Job,
        run_synchronously: WorkMap | None = None,
        logger: Logger | None = None,
    ) -> None:
        if not callable(backoff):
            raise ErrInvalidOption(f"backoff must be a function from error count to seconds, not {backoff!r}")
        if not (isinstance(job_class, type) and issubclass(job_class, Job)):
            raise ErrInvalidOption(f"job_class must be a subclass of qg.Job, not {job_class!r}")
        if not (logger is None or isinstance(logger, (logging.Logger, logging.LoggerAdapter))):
            raise ErrInvalidOption(f"logger must be a logging.Logger, not {logger!r}")
        work_map = None if run_synchronously is None else checked_work_map(run_synchronously)
        self._source = source_from(source)
        self._job_class = job_class
        self._mutex = threading.Lock()
        self._closed = False
        # The jobs that lock_job() gave out, by their identity: a subclass may not be hashable.
        self._given_out: weakref.WeakValueDictionary[int, Job] = weakref.WeakValueDictionary()
        self._table = find_table(self._source)
        logger = logger or logging.getLogger("qg")
        self._taker = Taker(self._table, logger)
        self._context = LockContext(self._table, backoff, logger, self._open, self._taker.released)
        self._synchronous = None if work_map is None else Synchronous(work_map, job_class, self._context.logger)
        # Prepared once here, so that a table which only looks right shows now and not at the first job.
        self._lease().give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def logger(self) -> Logger:
        """What the client, its jobs and its workers log to."""
        return self._context.logger

    def close(self) -> None:
        """Take nothing more, and close the connections that qg opened and nobody uses.

        Waits for nobody: a job that is being worked goes on and releases itself. Jobs that the
        calling thread, or one that has ended, locked and left lying outside a ``with`` block are
        released. A second call does nothing. Mirrors Go's ``Client.Close``.
        """
        with self._mutex:
            self._closed = True
            given_out = list(self._given_out.values())
        for job in given_out:
            if job._left_lying():
                try:
                    job.done()
                except Exception:  # the commit that it owed failed; the other jobs are released all the same
                    self.logger.exception("release_failed id=%d", job.id)
        self._source.close()

    def enqueue(self, job: Job) -> Job:
        """Store *job*, committed at once, and return it with what the row has.

        One statement on a connection of its own. ``id``, ``run_at`` and the rest of the fields are
        filled in from the row. With run_synchronously a job without run_at isn't stored but run
        before this returns. Mirrors Go's ``Client.Enqueue``.

        Raises:
            ErrMissingType: if the job has no type.
            ErrInvalidJob: if a field can't be stored, or the job is locked.
            psycopg2.Error: if the database refuses; nothing is stored then.
        """
        params = self._params(job)
        with self._session() as session:
            if self._synchronous and job.run_at is None:
                row = self._synchronous.run(params, session, self._table)
            else:
                row = Row.read(session.run(self._table.insert_job, params)[0][0])
        return _filled(job, row)

    def enqueue_in_tx(self, job: Job, tx: object) -> Job:
        """Store *job* in the caller's transaction: it lives and dies with that.

        One statement on *tx*, which is neither committed nor rolled back. With run_synchronously
        a job without run_at is run within *tx*. Mirrors Go's ``Client.EnqueueInTx``.

        Args:
            job: the job.
            tx: a psycopg2 or psycopg 3 connection or cursor, a Django connection, a SQLAlchemy
                Connection or Session.

        Raises:
            ErrUnusable: if *tx* is nothing of that kind.
            ErrMissingType, ErrInvalidJob: as enqueue(), before *tx* is touched.
            Exception: what the driver of *tx* raises passes through.
        """
        params = self._params(job)
        if self._synchronous and job.run_at is None:
            row = self._synchronous.run_in_tx(params, tx, self._table)
        else:
            row = Row.read(rows_in(tx, self._table.insert_job, params)[0][0])
        return _filled(job, row)

    def enqueue_batch(self, jobs: Iterable[Job]) -> list[Job]:
        """Store all *jobs* or none, committed at once, and return them with their ids.

        One statement however many there are; the ids ascend in the order given. With
        run_synchronously each is enqueued by itself. Mirrors gue's ``EnqueueBatch``.

        Raises:
            ErrMissingType, ErrInvalidJob: as enqueue(), before anything is written.
        """
        batch, given = self._batch_params(jobs)
        if self._synchronous:
            return [self.enqueue(job) for job in batch]
        if not batch:
            return []
        with self._session() as session:
            return _all_filled(batch, given, session.run(self._table.insert_jobs, self._arrays(given)))

    def enqueue_batch_in_tx(self, jobs: Iterable[Job], tx: object) -> list[Job]:
        """Store all *jobs* in the caller's transaction and return them with their ids.

        As enqueue_batch(), on *tx* as enqueue_in_tx() has it.
        """
        batch, given = self._batch_params(jobs)
        if self._synchronous:
            return [self.enqueue_in_tx(job, tx) for job in batch]
        if not batch:
            return []
        return _all_filled(batch, given, rows_in(tx, self._table.insert_jobs, self._arrays(given)))

    def lock_job(self, queue: str = "") -> Job | None:
        """Lock the next due job of *queue*, or return None. The caller must call done().

        The job owns a connection from then on, which is handed over outside any transaction. A
        job that can't be read is recorded as failed and passed over. Mirrors Go's
        ``Client.LockJob``.

        Args:
            queue: the queue's name.

        Returns:
            The job, an instance of the client's job_class; None if no job is due and free.

        Raises:
            ErrClientClosed: after close().
            ErrAgain: if ten jobs in a row couldn't be read, or, where functions in pg_temp aren't
                allowed, were finished by others before they could be locked.
            ErrInvalidOption: if *queue* is no queue's name.
            psycopg2.Error: if the database can't be reached.
        """
        check_queue(queue)
        session = self._lease()
        try:
            job = self._lock(session, queue)
        except BaseException:
            # Between lock and check the session may hold a lock: only closing it is safe.
            session.discard()
            raise
        if job is None:
            session.give_back()
            return None
        with self._mutex:
            self._given_out[id(job)] = job
        return job

    def stats(self) -> list[JobStats]:
        """Return how each type stands in each queue, ordered by queue and type.

        One statement on a connection of its own. Mirrors Go's ``Client.Stats``.

        Raises:
            ErrClientClosed: after close().
            psycopg2.Error: if the database can't be reached.
        """
        with self._session() as session:
            rows = session.run(self._table.stats)
        return [
            JobStats(queue, job_type, count, working, errored, highest, timestamp(oldest))
            for queue, job_type, count, working, errored, highest, oldest in rows
        ]

    def _lease(self) -> Session:
        self._require_open()
        return self._open()

    def _open(self) -> Session:
        """Lease a session even from a closed client, for a job that is still being worked."""
        return Session(self._source, self._table)

    def _require_open(self) -> None:
        if self._closed:
            raise ErrClientClosed("this client was closed and takes nothing more; create another one")

    @contextmanager
    def _session(self) -> Iterator[Session]:
        session = self._lease()
        try:
            yield session
        finally:
            session.give_back()

    def _params(self, job: Job) -> InsertParams:
        if not isinstance(job, Job):
            raise ErrInvalidJob(f"only a qg.Job can be enqueued, not {type(job).__name__}")
        if job._locked is not None:
            raise ErrInvalidJob(f"{job!r} is locked and so in the queue already; enqueue a new Job")
        return insert_params(job)

    def _batch_params(self, jobs: Iterable[Job]) -> tuple[list[Job], list[InsertParams]]:
        batch = list(jobs)
        given = [self._params(job) for job in batch]
        if len({id(job) for job in batch}) < len(batch):
            raise ErrInvalidJob("a batch has the same Job object twice, which can't have two ids; make one each")
        return batch, given

    def _arrays(self, given: list[InsertParams]) -> list[str]:
        return [self._table.array(column) for column in zip(*given, strict=True)]

    def _lock(self, session: Session, queue: str) -> Job | None:
        """Lock the next due job of *queue* in the shortest way; after an exception only discard() is safe."""
        for _ in range(MAX_LOCK_ATTEMPTS):
            taken = self._taker.take(session, queue)
            if taken is not None and taken.at_marks and not taken.rows:
                taken = self._taker.take(session, queue, anew=True)
            if taken is None:
                return self._lock_plainly(session, queue, lent=False)
            if not taken.rows:
                return None
            job = self._read(LockedRow(session, taken.rows[0], self._context))
            if job is not None:
                return job
        raise ErrAgain(f"{MAX_LOCK_ATTEMPTS} jobs of queue {queue!r} in a row were unreadable; call again")

    def _lock_plainly(
        self, session: Session, queue: str, order: PollStrategy = PollStrategy.PRIORITY, *, lent: bool
    ) -> Job | None:
        """Lock the next due job of *queue*, a statement a step; after an exception only discard() is safe."""
        lock_job = self._table.lock_job_in(order)
        for _ in range(MAX_LOCK_ATTEMPTS):
            rows = session.run(lock_job, (queue,))
            if not rows:
                return None
            row = Row.read(rows[0][0])
            # The lock statement saw the table as it was when it began. If the job was being worked
            # then, and finished just before we tried its lock, we hold the lock of a job that is
            # gone or not due again yet. A new statement sees that.
            if not session.run(self._table.check_job, self._table.key(row)):
                session.run(self._table.unlock_job, (row.id,))
                continue
            job = self._read(LockedRow(session, row, self._context, lent=lent))
            if job is not None:
                return job
        raise ErrAgain(
            f"{MAX_LOCK_ATTEMPTS} jobs of queue {queue!r} in a row were finished by others, or unreadable, "
            "when they were locked; call again"
        )

    def _read(self, locked: LockedRow) -> Job | None:
        """Return the job that is *locked*; None if it can't be made, which is recorded, and the lock gone."""
        row = locked.row
        try:
            job = self._job_class(row.type, decode_args(row.args), row.queue, row.priority, row.due)
        except Exception as error:  # JSON beyond Python, or a job_class that refuses: this job's error
            self.logger.exception("job_unreadable id=%d type=%s", row.id, row.type)
            locked.set_error(describe(error))
            locked.session.run(self._table.unlock_job, (row.id,))
            return None
        job._bind(locked)
        return job


def _filled(job: Job, row: Row | None) -> Job:
    if row is not None:
        job._row = row
        job.queue, job.priority, job.run_at = row.queue, row.priority, row.due
    return job


def _all_filled(batch: list[Job], given: list[InsertParams], rows: list[tuple[Any, ...]]) -> list[Job]:
    ((stored,),) = rows
    for job, params, (number, run_at) in zip(batch, given, json.loads(stored), strict=True):
        queue, priority, _, job_type, args = params
        _filled(job, Row(number, queue, priority, run_at, job_type, args, 0, None))
    return batch
