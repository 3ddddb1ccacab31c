"""The books of an experiment, and the handlers that keep them. Runs are kept on a server that no fault reaches."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psycopg2
from psycopg2.extensions import connection, make_dsn

import qg

RUNS = """
CREATE TABLE runs (
    id bigserial PRIMARY KEY,
    number bigint NOT NULL,                           -- of the job; its id begins anew with a new table
    place text NOT NULL,                              -- the DSN of the server that has the session
    pid int,                                          -- of the session; NULL: there was none any more
    began timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended timestamptz,
    well boolean                                      -- whether the handler returned
);
CREATE INDEX ON runs (number);
CREATE TABLE pairs (earlier bigint, later bigint, PRIMARY KEY (earlier, later));
CREATE TABLE faults (at timestamptz NOT NULL DEFAULT clock_timestamp())
"""
EFFECTS = "CREATE TABLE effects (number bigint NOT NULL)"

# A session that ends gives its locks up a moment before it can't be seen any more.
_DYING_SECONDS = 1.0
_HOLDER = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32) | objid::bigint = %s
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Ledger:
    """Notes runs. For all threads of a process.

    Args:
        dsn: the database with the tables RUNS.
        queue: the database with the queue, by a way that no fault is on.
    """

    def __init__(self, dsn: str, queue: str) -> None:
        self.queue = queue
        self._process = os.getpid()
        self._conn = psycopg2.connect(dsn)
        self._conn.autocommit = True
        self._looking = threading.Lock()
        self._look: connection | None = None

    @contextmanager
    def run(self, number: int, pid: int | None, place: str | None = None) -> Iterator[None]:
        """Note the run of a job in this block, on the session *pid* of the server *place*."""
        place = place or self.queue
        run = self._begin(number, pid, place)
        well = False
        try:
            yield
            well = True
        finally:
            if os.getpid() == self._process:  # not a child that the handler forked
                self._query("UPDATE runs SET ended = clock_timestamp(), well = %s WHERE id = %s", well, run)

    def _begin(self, number: int, pid: int | None, place: str) -> int:
        ((run,),) = self._query(
            "INSERT INTO runs (number, place, pid) VALUES (%s, %s, %s) RETURNING id", number, place, pid
        )
        # In a statement of its own, so that of two that begin at once the second sees the first.
        for other, its_place, its_pid in self._query(
            "SELECT id, place, pid FROM runs WHERE number = %s AND id <> %s AND ended IS NULL AND pid IS NOT NULL",
            number,
            run,
        ):
            if pid is not None and _stay([(its_place, its_pid), (place, pid)]):
                self._query("INSERT INTO pairs VALUES (%s, %s) ON CONFLICT DO NOTHING", *sorted((other, run)))
        return run

    def count_runs(self, number: int) -> int:
        """How often the job has run, here or elsewhere, this run too."""
        return int(self._query("SELECT count(*) FROM runs WHERE number = %s", number)[0][0])

    def holder(self, job_id: int) -> int | None:
        """The session that holds a job's lock. To ask a job for its connection would break up its batch."""
        with self._looking, suppress(psycopg2.Error):
            if self._look is None or self._look.closed:
                self._look = psycopg2.connect(make_dsn(self.queue, application_name="ledger"))
                self._look.autocommit = True
            with self._look.cursor() as cur:
                cur.execute(_HOLDER, (job_id,))
                for (pid,) in cur.fetchall():
                    return pid
        return None

    def close(self) -> None:
        for conn in (self._conn, self._look):
            if conn is not None:
                conn.close()

    def _query(self, sql: str, *params: object) -> list[tuple]:
        with self._conn.cursor() as cur:
            cur.execute(sql, params)
            return cur.fetchall() if cur.description else []


def _stay(sessions: list[tuple[str, int]]) -> bool:
    """Whether all *sessions* live, and not only because a server hasn't got round to the end of one."""
    deadline = time.monotonic() + _DYING_SECONDS
    while all(_lives(place, pid) for place, pid in sessions):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.02)
    return False


def _lives(place: str, pid: int) -> bool:
    try:
        with closing(psycopg2.connect(make_dsn(place, application_name="ledger"))) as conn, conn.cursor() as cur:
            cur.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", (pid,))
            return cur.fetchall() != [(0,)]
    except psycopg2.OperationalError:  # the server is down, and its sessions with it
        return False


def place_of(conn: connection) -> str:
    """The DSN of the server that *conn* has reached, of the several that its own DSN may name."""
    return make_dsn(host=conn.info.host, port=conn.info.port, dbname=conn.info.dbname, user=conn.info.user)


class Handlers:
    """The well-behaved handlers: each notes its run, and Effect writes one row through job.tx.

    Args:
        ledger: where runs are noted.
        several: whether the queue may be on one of several servers.
    """

    def __init__(self, ledger: Ledger, *, several: bool = False) -> None:
        self.ledger = ledger
        self._several = several
        self.work_map: dict[str, Callable[[qg.Job], None]] = {"Effect": self.effect, "Plain": self.plain}

    def effect(self, job: qg.Job) -> None:
        (number,) = job.args
        place = place_of(job.conn) if self._several else None
        # Whoever holds the lock; that needn't be the session of job.conn.
        holder = job.conn.info.backend_pid if self._several else self.ledger.holder(job.id)
        with self.ledger.run(number, holder, place):
            write_effect(job)

    def plain(self, job: qg.Job) -> None:
        (number,) = job.args
        with self.ledger.run(number, self.ledger.holder(job.id)):
            pass


def write_effect(job: qg.Job) -> None:
    with job.tx.cursor() as cur:
        cur.execute("INSERT INTO public.effects VALUES (%s)", (job.args[0],))
