"""Client: enqueue jobs, lock them one by one, and see how the queues stand."""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from qg.backoff import Backoff, que_delay
from qg.database.database import Database
from qg.database.session import Session
from qg.enqueuing.fields import check_queue
from qg.enqueuing.storing import Storing, drafted, fill_in
from qg.errors import ErrInvalidJob, ErrInvalidOption
from qg.failures import Logger
from qg.job import Job, locked_attempt_of
from qg.locking.attempt import Attempt
from qg.retries import check_maximum_retry_count
from qg.stats import JobState, JobStats
from qg.tables import Row, Table, timestamp
from qg.working.at_once import AtOnce
from qg.working.engine import Engine
from qg.working.handlers import WorkMap, checked_work_map
from qg.working.hooks import NO_HOOKS, Hooks, Middleware, OnError, OnExpired

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Client", "check_options", "engine_of", "name_of_other"]

_Result = TypeVar("_Result")


class Client:
    """Enqueues into and works from the ``que_jobs`` table. Mirrors Go's ``Client``.

    A client may be used from any thread. Used in a ``with`` block it closes itself.

    Args:
        source: where connections come from: a DSN or URL, a psycopg2 pool (anything with getconn
            and putconn), a SQLAlchemy engine over psycopg2, or a callable that returns a new
            psycopg2 connection. qg closes only what it opened. On connections from a DSN or URL it sets
            connect_timeout (10 s), keepalives (30 s, then 3 every 10 s) and tcp_user_timeout (30 s), each
            unless the DSN says otherwise.
        backoff: from a job's error count, 1 after its first failure, to the seconds until it is
            run again; by default ``error_count ** 4 + 3``, as in every Que.
        maximum_retry_count: after so many retries a job that fails again expires: it stays in the
            table, and nobody runs it. None means as usual in the table: 15 from version 4 on, and
            in version 3 no limit, ``math.inf``. Set there, it moves run_at a hundred years ahead.
        job_class: what lock_job() and workers make of a row: a subclass of Job that is
            constructed with the same arguments. Overrides of delete() and error() call super();
            a job that is discarded is removed without delete().
        run_synchronously: a work map, for development: enqueue() then runs a job without run_at
            at once instead of storing it, and raises what its handler raises.
        middleware, on_error, on_expired: for jobs that run synchronously, as a :class:`qg.Worker` has them for its own.
        deadline: how many seconds qg waits for the answer to a statement of its own, a table lock that
            somebody else has included. After that it gives the connection up, as one that is lost; None waits
            for ever. A handler's own statements may take as long as they like.
        max_lifetime: after how many seconds a worker replaces its connection, between two jobs, and after
            which a connection that qg opened isn't used again; up to a tenth less, at random. None means never.
        logger: for all that the client, its jobs and its workers log; by default
            ``logging.getLogger("qg")``.

    Raises:
        ErrUnusable: if *source* is of no known kind.
        ErrTable: if there is no table that this qg works.
        ErrInvalidOption: if another argument is out of bounds.
        psycopg2.Error: if the database can't be reached or used.
    """

    def __init__(
        self,
        source: object,
        *,
        backoff: Backoff = que_delay,
        maximum_retry_count: float | None = None,
        job_class: type[Job] = Job,
        run_synchronously: WorkMap | None = None,
        middleware: Sequence[Middleware] = (),
        on_error: OnError | None = None,
        on_expired: OnExpired | None = None,
        deadline: float | None = 60.0,
        max_lifetime: float | None = 3600.0,
        logger: Logger | None = None,
    ) -> None:
        check_options(
            backoff=backoff,
            maximum_retry_count=maximum_retry_count,
            job_class=job_class,
            deadline=deadline,
            max_lifetime=max_lifetime,
            logger=logger,
        )
        work_map = None if run_synchronously is None else checked_work_map(run_synchronously)
        hooks = Hooks.of(middleware, on_error, on_expired)
        if work_map is None and hooks != NO_HOOKS:
            raise ErrInvalidOption(
                "middleware, on_error and on_expired of a client are for run_synchronously; give them to the Worker or "
                "WorkerPool that runs its jobs"
            )
        self._database = Database(
            source, logger or logging.getLogger("qg"), deadline=deadline, max_lifetime=max_lifetime
        )
        self._engine = Engine(self._database, backoff, maximum_retry_count, job_class)
        self._at_once = None if work_map is None else AtOnce(work_map, job_class, self.logger, hooks)
        # Guards the attempts that lock_job() gave out, and to whom, and that it gives out none after close().
        self._mutex = threading.Lock()
        self._given_out: weakref.WeakKeyDictionary[Attempt, threading.Thread] = weakref.WeakKeyDictionary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def logger(self) -> Logger:
        """What the client, its jobs and its workers log to."""
        return self._database.logger

    @property
    def runs_synchronously(self) -> bool:
        """Whether the client was given a work map, and enqueue() runs jobs at once."""
        return self._at_once is not None

    def close(self) -> None:
        """Take nothing more, and close the connections that qg opened and nobody uses.

        Waits for nobody: a job that is being worked goes on and releases itself. Jobs that the
        calling thread, or one that has ended, locked and left lying outside a ``with`` block are
        released. A second call does nothing. Mirrors Go's ``Client.Close``.
        """
        with self._mutex:
            self._database.refuse_leases()
            given_out = list(self._given_out.items())
        for attempt, thread in given_out:
            # Nobody else can be working it, as far as we can see from this thread.
            if not attempt.entered and (thread is threading.current_thread() or not thread.is_alive()):
                try:
                    attempt.done()
                except Exception:  # the commit that it owed failed; the other jobs are released all the same
                    self.logger.exception("release_failed id=%d", attempt.row.id)
        self._database.close()

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
        jobs = drafted([job])
        if self._at_once is not None and job.run_at is None:
            table, (draft,) = self._made_for_table(jobs.fitting)
            with self._database.session() as session:
                _fill_in_rescheduled(job, self._at_once.run(draft, session, table))
        else:
            self._store(jobs.one_in)
        return job

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
        jobs = drafted([job])
        if self._at_once is not None and job.run_at is None:
            table, (draft,) = self._made_for_table(jobs.fitting)
            _fill_in_rescheduled(job, self._at_once.run_in_tx(draft, tx, table))
        else:
            self._store_in_tx(jobs.one_in, tx)
        return job

    def enqueue_batch(self, jobs: Iterable[Job], *, notify: bool = False) -> list[Job]:
        """Store all *jobs* or none, committed at once, and return them with their ids.

        One statement however many there are; the ids ascend in the order given. With
        run_synchronously each is enqueued by itself. Mirrors gue's ``EnqueueBatch``.

        Args:
            jobs: the jobs.
            notify: whether version 7 of the table is to tell its lockers of each job. Otherwise they
                find them when they look next, as those of Ruby's ``bulk_enqueue``. Versions 4 to 6
                tell of each job in any case, version 3 never or once a queue.

        Raises:
            ErrMissingType, ErrInvalidJob: as enqueue(), before anything is written.
        """
        batch = drafted(jobs)
        if self._at_once is not None:
            return [self.enqueue(job) for job in batch.jobs]
        if batch.jobs:
            self._store(lambda table: batch.all_in(table, notify=notify))
        return batch.jobs

    def enqueue_batch_in_tx(self, jobs: Iterable[Job], tx: object, *, notify: bool = False) -> list[Job]:
        """Store all *jobs* in the caller's transaction and return them with their ids.

        As enqueue_batch(), on *tx* as enqueue_in_tx() has it.
        """
        batch = drafted(jobs)
        if self._at_once is not None:
            return [self.enqueue_in_tx(job, tx) for job in batch.jobs]
        if batch.jobs:
            self._store_in_tx(lambda table: batch.all_in(table, notify=notify), tx)
        return batch.jobs

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
            ErrPooler: if a pooler in between pools transactions, so that no lock can be held.
            ErrAgain: if ten jobs in a row couldn't be read, or, where functions in pg_temp aren't
                allowed, were settled by others before they could be locked.
            ErrInvalidOption: if *queue* is no queue's name.
            psycopg2.Error: if the database can't be reached, or this session can't write.
        """
        check_queue(queue)
        session = self._database.lease()
        try:
            job = self._database.on_table(session, lambda table: self._engine.jobs.take(session, table, queue))
        except BaseException:
            # Between lock and check the session may hold a lock: only closing it is safe.
            session.close_now()
            raise
        if job is None:
            session.give_back()
            return None
        with self._mutex:
            if not self._database.closed:
                self._given_out[locked_attempt_of(job)] = threading.current_thread()
                return job
        job.done()
        raise self._database.closed_error()

    def stats(self) -> list[JobStats]:
        """Return how each type stands in each queue, ordered by queue and type.

        One statement on a connection of its own. Mirrors Go's ``Client.Stats``.

        Raises:
            ErrClientClosed: after close().
            psycopg2.Error: if the database can't be reached.
        """
        rows = self._database.run(lambda session, table: session.run(table.stats))
        return [
            JobStats(queue, job_type, count, working, errored, highest, timestamp(oldest))
            for queue, job_type, count, working, errored, highest, oldest in rows
        ]

    def job_states(self) -> list[JobState]:
        """Return which jobs are being worked, and by whom, ordered by id.

        Those whose advisory lock some session has, be it Python's, Ruby's or Go's. One statement on
        a connection of its own. Mirrors Ruby's ``Que.job_states``.

        Raises:
            ErrClientClosed: after close().
            psycopg2.Error: if the database can't be reached, or doesn't let us read que_lockers.
        """
        rows = self._database.run(lambda session, table: session.run(table.job_states))
        return [
            JobState(
                number,
                queue,
                job_type,
                priority,
                timestamp(due),
                errors,
                backend,
                pid,
                host,
                since and timestamp(since),
            )
            for number, queue, job_type, priority, due, errors, backend, pid, host, since in rows
        ]

    def _store(self, storing_in: Callable[[Table], Storing]) -> None:
        """Store jobs on a session of our own, committed at once."""

        def store(session: Session, table: Table) -> None:
            storing = storing_in(table)
            storing.fill_in(session.run(storing.statement, storing.params))

        self._database.run(store)

    def _store_in_tx(self, storing_in: Callable[[Table], Storing], tx: object) -> None:
        """Store jobs in the caller's transaction."""
        table, storing = self._made_for_table(storing_in)
        storing.fill_in(self._database.rows_in(tx, table, storing.statement, storing.params))

    def _made_for_table(self, make: Callable[[Table], _Result]) -> tuple[Table, _Result]:
        """Return the table, and what *make* makes for it, while a transaction of the caller's is open.

        Raises:
            ErrInvalidJob: as *make* does, even after a look whether the table was migrated.
        """
        table = self._database.table
        try:
            return table, make(table)
        except ErrInvalidJob:
            if not self._database.recheck_apart(table):
                raise
        table = self._database.table
        return table, make(table)


def check_options(
    *,
    backoff: object,
    maximum_retry_count: object,
    job_class: object,
    deadline: object,
    max_lifetime: object,
    logger: object,
) -> None:
    """Raise ErrInvalidOption if one of a client's options is out of bounds."""
    if not callable(backoff):
        raise ErrInvalidOption(f"backoff must be a function from error count to seconds, not {backoff!r}")
    check_maximum_retry_count(maximum_retry_count)
    if not (isinstance(job_class, type) and issubclass(job_class, Job)):
        raise ErrInvalidOption(f"job_class must be a subclass of qg.Job, not {job_class!r}")
    if not (logger is None or isinstance(logger, (logging.Logger, logging.LoggerAdapter))):
        raise ErrInvalidOption(f"logger must be a logging.Logger, not {logger!r}")
    for name, seconds in (("deadline", deadline), ("max_lifetime", max_lifetime)):
        if seconds is not None and (not _is_count(seconds) or seconds == 0):
            raise ErrInvalidOption(f"{name} must be a number of seconds above 0, or None, not {seconds!r}")


def engine_of(client: Client) -> Engine:
    """Return what works the jobs of *client*, for the rest of qg. It isn't public, so Client doesn't offer it."""
    return client._engine


def name_of_other(client: object) -> str:
    """Return what to call an object that is given where a Client should be."""
    if inspect.iscoroutinefunction(getattr(client, "enqueue", None)):
        return "a client whose methods are awaited; qg.aio.WorkerPool takes a qg.aio.Client"
    return type(client).__name__


def _fill_in_rescheduled(job: Job, row: Row | None) -> None:
    """Fill in what was stored of a job that ran at once; None if it is done."""
    if row is not None:
        fill_in(job, row)


def _is_count(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and number >= 0
