"""Client: enqueue jobs, lock them one by one, and see how the queues stand."""

from __future__ import annotations

import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg2

from qg.backoff import Backoff, exponential
from qg.connections import source_from, transaction
from qg.errors import ErrClientClosed, ErrInvalidJob, ErrInvalidOption
from qg.failures import Logger, one_line
from qg.fields import check_queue, draft_of
from qg.handlers import WorkMap, checked_work_map
from qg.job import Job
from qg.known import MIGRATED, KnownTable
from qg.locks import LockContext
from qg.picker import Picker
from qg.session import Session
from qg.stats import JobState, JobStats
from qg.synchronous import Synchronous
from qg.tables import Draft, Row, Statement, Table, detect, timestamp
from qg.tables.locking import array
from qg.taking import Taker
from qg.transactions import rows_in

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Client"]

_Result = TypeVar("_Result")


class Client:
    """Enqueues into and works from the ``que_jobs`` table. Mirrors Go's ``Client``.

    A client may be used from any thread. Used in a ``with`` block it closes itself.

    Args:
        source: where connections come from: a DSN or URL, a psycopg2 pool (anything with getconn
            and putconn), a SQLAlchemy engine over psycopg2, or a callable that returns a new
            psycopg2 connection. qg closes only what it opened.
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
        maximum_retry_count: float | None = None,
        job_class: type[Job] = Job,
        run_synchronously: WorkMap | None = None,
        logger: Logger | None = None,
    ) -> None:
        if not callable(backoff):
            raise ErrInvalidOption(f"backoff must be a function from error count to seconds, not {backoff!r}")
        if maximum_retry_count is not None and not _is_count(maximum_retry_count):
            raise ErrInvalidOption(
                f"maximum_retry_count must be a number of retries, 0 or more, or math.inf, not {maximum_retry_count!r}"
            )
        if not (isinstance(job_class, type) and issubclass(job_class, Job)):
            raise ErrInvalidOption(f"job_class must be a subclass of qg.Job, not {job_class!r}")
        if not (logger is None or isinstance(logger, (logging.Logger, logging.LoggerAdapter))):
            raise ErrInvalidOption(f"logger must be a logging.Logger, not {logger!r}")
        work_map = None if run_synchronously is None else checked_work_map(run_synchronously)
        self._source = source_from(source)
        self._mutex = threading.Lock()
        self._closed = False
        # The jobs that lock_job() gave out, by their identity: a subclass may not be hashable.
        self._given_out: weakref.WeakValueDictionary[int, Job] = weakref.WeakValueDictionary()
        self._known = KnownTable(self._source)
        logger = logger or logging.getLogger("qg")
        self._taker = Taker(self._known, logger)
        self._context = LockContext(self._known, backoff, maximum_retry_count, logger, self._open, self._taker.released)
        self._enlisting_failed = threading.Event()
        self._picker = Picker(self._taker, self._context, job_class)
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
        self._known.tell()

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
        draft = self._draft(job)
        if self._synchronous and job.run_at is None:
            with self._session() as session:
                row = self._synchronous.run(self._fitting(job, draft, self._table), session, self._table)
        else:
            row = self._with_table(lambda session, table: self._insert(session, table, job, draft))
        return _filled(job, row)

    def _insert(self, session: Session, table: Table, job: Job, draft: Draft) -> Row:
        return Row.read(session.run(table.insert_job, self._fitting(job, draft, table)[: table.width])[0][0])

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
        table, (draft,) = self._fitting_in_tx([job], [self._draft(job)])
        if self._synchronous and job.run_at is None:
            row = self._synchronous.run_in_tx(draft, tx, table)
        else:
            row = Row.read(self._rows_in(tx, table.insert_job, draft[: table.width])[0][0])
        return _filled(job, row)

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
        batch, drafts = self._drafts(jobs)
        if self._synchronous:
            return [self.enqueue(job) for job in batch]
        if not batch:
            return []

        def insert(session: Session, table: Table) -> list[Job]:
            statement = table.insert_jobs if notify else table.insert_jobs_quietly
            given = self._all_fitting(batch, drafts, table)
            return _all_filled(batch, given, session.run(statement, _arrays(given, table)))

        return self._with_table(insert)

    def enqueue_batch_in_tx(self, jobs: Iterable[Job], tx: object, *, notify: bool = False) -> list[Job]:
        """Store all *jobs* in the caller's transaction and return them with their ids.

        As enqueue_batch(), on *tx* as enqueue_in_tx() has it.
        """
        batch, drafts = self._drafts(jobs)
        if self._synchronous:
            return [self.enqueue_in_tx(job, tx) for job in batch]
        if not batch:
            return []
        table, given = self._fitting_in_tx(batch, drafts)
        statement = table.insert_jobs if notify else table.insert_jobs_quietly
        return _all_filled(batch, given, self._rows_in(tx, statement, _arrays(given, table)))

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
        while True:
            session, table = self._lease(), self._table
            try:
                job = self._picker.pick(session, queue)
            except BaseException as error:
                try:
                    if not self._is_migrated(error, table, session):
                        raise
                finally:
                    # Between lock and check the session may hold a lock: only closing it is safe.
                    session.discard()
                continue
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
        rows = self._with_table(lambda session, table: session.run(table.stats))
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
        rows = self._with_table(lambda session, table: session.run(table.job_states))
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

    @property
    def _table(self) -> Table:
        return self._known.table

    def _with_table(self, run: Callable[[Session, Table], _Result]) -> _Result:
        """Lease a session, *run* something on it, and again if the table turned out to be another one."""
        while True:
            table = self._table
            with self._session() as session:
                try:
                    return run(session, table)
                except (*MIGRATED, ErrInvalidJob):
                    if not session.finds_another(table):
                        raise

    def _rows_in(self, tx: object, statement: Statement, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run *statement* in the caller's transaction; if that fails, look whether the table was migrated."""
        try:
            return rows_in(tx, statement, params)
        except Exception:  # of whatever driver; the caller hears of it, and the next try may succeed
            self._look_again()
            raise

    def _look_again(self) -> None:
        """Look which table there is while a transaction of the caller's is open, if there is a connection for it."""
        if self._source.spare() != 0:
            # Without a Session, whose statements would wait for whoever waits for that transaction.
            with suppress(Exception), transaction(self._source) as cur:
                self._known.has_become(detect(cur))

    def _is_migrated(self, error: BaseException, table: Table, session: Session | None) -> bool:
        """Whether *error* came because the table isn't *table* any more; asks on *session* if it can."""
        if not isinstance(error, MIGRATED):
            return False
        if session is not None and session.idle:
            return session.finds_another(table)
        return self._table is not table

    def _enlist(self, session: Session, queue: str, workers: int = 0) -> bool:
        """Register *session* as a locker's, to be notified of jobs for *workers*; if it can't be, say so once."""
        table = self._table
        try:
            session.enlist(workers, queue, listening=workers > 0)
        except psycopg2.ProgrammingError as error:
            if session.finds_another(table):
                return self._enlist(session, queue, workers)
            if not self._enlisting_failed.is_set():
                self._enlisting_failed.set()
                self.logger.warning(
                    "not_enlisted: %s; nobody sees in que_lockers what this process works, and it isn't notified "
                    "of jobs; grant SELECT, INSERT and DELETE on que_lockers",
                    one_line(error),
                )
            return False
        return True

    def _lease(self) -> Session:
        self._require_open()
        return self._open()

    def _open(self) -> Session:
        """Lease a session even from a closed client, for a job that is still being worked."""
        return Session(self._source, self._known)

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

    def _draft(self, job: Job) -> Draft:
        if not isinstance(job, Job):
            raise ErrInvalidJob(f"only a qg.Job can be enqueued, not {type(job).__name__}")
        if job._locked is not None:
            raise ErrInvalidJob(f"{job!r} is locked and so in the queue already; enqueue a new Job")
        return draft_of(job)

    def _drafts(self, jobs: Iterable[Job]) -> tuple[list[Job], list[Draft]]:
        batch = list(jobs)
        drafts = [self._draft(job) for job in batch]
        if len({id(job) for job in batch}) < len(batch):
            raise ErrInvalidJob("a batch has the same Job object twice, which can't have two ids; make one each")
        return batch, drafts

    def _fitting(self, job: Job, draft: Draft, table: Table) -> Draft:
        if table.wants_array and job._one_argument:
            draft = draft._replace(args=f"[{draft.args}]")
        return table.fit(draft)

    def _fitting_in_tx(self, batch: list[Job], drafts: list[Draft]) -> tuple[Table, list[Draft]]:
        table = self._table
        try:
            return table, self._all_fitting(batch, drafts, table)
        except ErrInvalidJob:
            self._look_again()
            if self._table is table:
                raise
            return self._table, self._all_fitting(batch, drafts, self._table)

    def _all_fitting(self, batch: list[Job], drafts: list[Draft], table: Table) -> list[Draft]:
        return [self._fitting(job, draft, table) for job, draft in zip(batch, drafts, strict=True)]


def _filled(job: Job, row: Row | None) -> Job:
    if row is not None:
        job._row = row
        job.queue, job.priority, job.run_at = row.queue, row.priority, row.due
    return job


def _all_filled(batch: list[Job], given: list[Draft], rows: list[tuple[Any, ...]]) -> list[Job]:
    for job, draft, (number, run_at) in zip(batch, given, json.loads(rows[0][0]), strict=True):
        queue, priority, _, job_type, args, kwargs, tags = draft
        _filled(job, Row(number, queue, priority, run_at, job_type, args, 0, None, kwargs, tags))
    return batch


def _arrays(given: list[Draft], table: Table) -> list[str]:
    return [array(column) for column in list(zip(*given, strict=True))[: table.width]]


def _is_count(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and number >= 0
