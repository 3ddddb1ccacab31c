"""Engine: what all workers of a client share."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import psycopg2

from qg.backoff import Backoff
from qg.database.database import Database
from qg.database.paused import PausedQueues
from qg.database.rights import grants_for, require_rights
from qg.database.session import Session
from qg.failures import Logger, one_line, printable
from qg.job import Job
from qg.locking.context import LockContext
from qg.locking.row_taker import RowTaker
from qg.tables import Table
from qg.tables.pauses import Told
from qg.tables.rights import Right, to_enlist, to_work
from qg.working.job_taker import JobTaker

__all__ = ["Engine"]


class Engine:
    """The database, and the takers of one client.

    Args:
        database: where the jobs are.
        backoff: from a job's error count to the seconds until it is run again.
        maximum_retry_count: how often a job is tried again before it expires; None leaves that to the table.
        job_class: what is made of a row.
    """

    def __init__(
        self, database: Database, backoff: Backoff, maximum_retry_count: float | None, job_class: type[Job]
    ) -> None:
        self.database = database
        self.rows = RowTaker(database)
        self.context = LockContext(database, self.rows, backoff, maximum_retry_count)
        self.jobs = JobTaker(self.context, job_class)
        self.paused = PausedQueues(database.logger)
        self._enlisting_failed = threading.Event()
        self._kept_logged = threading.Event()

    @property
    def logger(self) -> Logger:
        """What workers log to."""
        return self.database.logger

    def is_kept_by_handler(self, session: Session, queue: str, *, has_failed: bool) -> bool:
        """Whether something that outlived its handler has still got the connection of *session*; say so once.

        What it writes there could get into the transaction of a later job. So the session isn't to be used again.
        It isn't said of a handler that has failed: what keeps its error has its variables, too.
        """
        kept = session.is_held_by_handler
        if kept and not has_failed and not self._kept_logged.is_set():
            self._kept_logged.set()
            self.logger.warning(
                "connection_kept queue=%s: something has kept the connection of a job, or a cursor, after the handler "
                "returned; the connection is closed, and another one takes its place",
                printable(queue),
            )
        return kept

    def note_told(self, told: Sequence[Told], session: Session, table: Table) -> None:
        """Note what was heard of: jobs that were cancelled, or that a queue was paused or goes on.

        Anybody may say anything, and other schemas have jobs with the same ids. So *table* is asked which of the
        jobs are gone, in one message on *session*, which must be idle; only these are noted.
        """
        ids = sorted({number for each in told if each.schema == table.schema for number in each.cancelled})
        if ids:
            self.rows.cancelled.note(number for (number,) in session.run(table.gone_jobs, (ids,)))
        self.paused.look_soon()

    def require_rights(self, also: Sequence[Right] = ()) -> None:
        """Look whether the role may work jobs, so that none is run whose outcome can't be written.

        One message, on a connection of its own: without USAGE on the schema no session can be prepared. What is
        only of help isn't looked at; it is said in the log where it is missing.

        Args:
            also: what the role needs besides.

        Raises:
            ErrRights: if it may not; says what is missing, and how to grant it.
            Exception: as Database.run().
        """
        self.database.run(
            lambda session, table: require_rights(
                session, list(dict.fromkeys([*to_work(table), *also])), "no outcome of a job could be written"
            )
        )

    def enlist(self, session: Session, queue: str, workers: int = 0) -> bool:
        """Register *session* as a locker's, to be notified of jobs for *workers*.

        Where that can't be, it is said in the log once; return whether it could.
        """
        try:
            self.database.on_table(session, lambda table: session.enlist(table, workers, queue, listening=workers > 0))
        except psycopg2.ProgrammingError as error:
            if not self._enlisting_failed.is_set():
                self._enlisting_failed.set()
                self.logger.warning(
                    "not_enlisted: %s; nobody sees in que_lockers what this process works, and it isn't notified "
                    "of jobs%s",
                    one_line(error),
                    printable(grants_for(session, to_enlist(self.database.table))),
                )
            return False
        return True
