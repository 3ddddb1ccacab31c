"""PoolReport: says in qg_jobs_worker_pool that a pool lives, and that it has left."""

from __future__ import annotations

import threading

from qg.client import Client, engine_of
from qg.failures import Logger, one_line, printable
from qg.jobs.envelope import git_hash
from qg.jobs.functions import Functions
from qg.jobs.tables import JobsTables

__all__ = ["PoolReport"]

_REPORT_SECONDS = 30.0


class PoolReport:
    """The row of one pool in qg_jobs_worker_pool. Safe to use from any thread.

    Args:
        client: where the connections come from.
        tables: where the row is.
        name: of the pool.
        queue: the queue that it works.
        workers: how many it has.
        functions: what it can work.
        logger: is told if the pool's end can't be written.
    """

    def __init__(
        self,
        client: Client,
        tables: JobsTables,
        name: str,
        queue: str,
        workers: int,
        functions: Functions,
        logger: Logger,
    ) -> None:
        self._client = client
        self._tables = tables
        self._name = name
        self._queue = queue
        self._workers = workers
        self._functions = functions
        self._logger = logger
        # Held by whoever writes. Once the pool has left, nobody writes any more.
        self._mutex = threading.Lock()
        self._left = False

    def write(self) -> float:
        """Say that the pool lives, in a transaction of its own; return in how many seconds to say so again."""
        with self._mutex:
            if not self._left:
                self._write(self._workers)
        return _REPORT_SECONDS

    def leave(self, *, worked: bool) -> None:
        """Say, the first time, that the pool has no workers any more; only if it has *worked*. Never raises."""
        with self._mutex:
            first, self._left = not self._left, True
            if not (first and worked):
                return
            try:
                self._write(0)
            except Exception as error:  # of psycopg2 or of the source; the row tells when it was last written
                self._logger.warning("report_failed pool=%s: %s", printable(self._name), one_line(error))

    def _write(self, workers: int) -> None:
        with engine_of(self._client).database.session() as session:
            row = (self._name, self._queue, workers, git_hash(), self._functions.job_types)
            session.run(self._tables.report_pool, row)
