"""One PostgreSQL for the whole run, one empty que_jobs for each test, and nothing left behind by any."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, settings
from psycopg2.extensions import make_dsn
from support import VERSION, Database, Network, UntilEmpty, eventually, jobs_view, try_locks_with

import qg
import qg.working.batch
from qg.cli.server import temporary_server

settings.register_profile(
    "qg",
    deadline=None,
    derandomize=False,  # in CI too
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("qg")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Keep what no UTF-8 holds out of the report, which xdist sends from process to process."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode("utf-8")) for name, text in report.sections]
    return report


@contextmanager
def server() -> Iterator[str]:
    """QG_TEST_DSN, or an embedded server; without fsync, unless QG_TEST_FSYNC is on."""
    if given := os.environ.get("QG_TEST_DSN"):
        yield given
        return
    with temporary_server() as dsn:
        with closing(psycopg2.connect(dsn)) as conn:
            conn.autocommit = True
            with conn.cursor() as cur:
                # Nobody needs these databases after a power cut.
                cur.execute(f"ALTER SYSTEM SET fsync = {'on' if os.environ.get('QG_TEST_FSYNC') == 'on' else 'off'}")
                cur.execute("SELECT pg_reload_conf()")
        yield dsn


SERVER = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start the one server of all processes, where there are several, and tell each of them where it is."""
    if SERVER not in node.config.stash:
        running = ExitStack()
        node.config.add_cleanup(running.close)
        node.config.stash[SERVER] = running.enter_context(server())
    node.workerinput["server_dsn"] = node.config.stash[SERVER]


@pytest.fixture(scope="session")
def server_dsn(pytestconfig: pytest.Config) -> Iterator[str]:
    """A server for the time of the run."""
    if hasattr(pytestconfig, "workerinput"):
        yield pytestconfig.workerinput["server_dsn"]
    else:
        with server() as dsn:
            yield dsn


@pytest.fixture(scope="session")
def make_database(server_dsn: str) -> Iterator[object]:
    """A function that creates a database and returns its DSN: with a que_jobs table of VERSION, and the view
    jobs, or with a table of another version."""
    names: list[str] = []

    def execute(statement: str, dsn: str = server_dsn) -> None:
        with closing(psycopg2.connect(dsn)) as conn:
            conn.autocommit = True
            with conn.cursor() as cur:
                cur.execute(statement)

    def make(*, migrate: bool = True, version: int | None = None, options: str = "") -> str:
        names.append(f"qg_test_{uuid.uuid4().hex[:12]}")
        execute(f"CREATE DATABASE {names[-1]} {options}")
        dsn = make_dsn(server_dsn, dbname=names[-1])
        if migrate:
            qg.migrate(dsn, VERSION if version is None else version)
        if migrate and version is None:
            execute(jobs_view(VERSION), dsn)
        return dsn

    yield make
    if os.environ.get("QG_TEST_DSN"):  # an embedded server goes with all it has
        for name in names:
            execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def session_dsn(make_database) -> str:
    return make_database()


@pytest.fixture(scope="session")
def observer(session_dsn: str) -> Iterator[Database]:
    with closing(Database(session_dsn)) as database:
        yield database


@pytest.fixture(autouse=True)
def leaves_nothing_behind(observer: Database) -> Iterator[None]:
    """Fail a test that leaves an advisory lock, a session or a thread; but for the lookout, one for all clients."""
    threads = set(threading.enumerate())

    def left() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each not in threads and each.name != "qg-lookout"]

    yield
    eventually(lambda: not observer.sessions(), lambda: f"the end of all sessions; left: {observer.sessions()}")
    assert observer.locks() == []
    eventually(lambda: not left(), lambda: f"the end of all threads; left: {left()}")


# "each": a pool's workers share as many connections as there are workers; "one": they share one; otherwise none.
SHARING = os.environ.get("QG_TEST_CONNECTIONS", "")


@pytest.fixture(autouse=True)
def shared_connections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers of each pool share connections as QG_TEST_CONNECTIONS says, unless the test says how."""
    if not SHARING:
        return
    for name in ("own_sessions", "as_many_sessions")[: 1 if SHARING == "each" else 2]:
        if (marker := request.node.get_closest_marker(name)) is not None:
            pytest.skip(marker.kwargs["reason"])
    init = qg.WorkerPool.__init__

    def share(pool: qg.WorkerPool, client: qg.Client, work_map: qg.WorkMap, count: int, **options: Any) -> None:
        if type(count) is int and count > 0 and options.get("batch_size", 1) == 1:
            options.setdefault("connections", {"each": count, "one": 1}[SHARING])
        init(pool, client, work_map, count, **options)

    monkeypatch.setattr(qg.WorkerPool, "__init__", share)


@pytest.fixture
def database(observer: Database, leaves_nothing_behind: None, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The test's database, with an empty que_jobs table."""
    monkeypatch.delenv("QUE_QUEUE", raising=False)
    monkeypatch.delenv("QUE_WAKE_INTERVAL", raising=False)
    observer.query("TRUNCATE que_jobs RESTART IDENTITY")
    return observer


@pytest.fixture
def dsn(database: Database) -> str:
    return database.dsn


@pytest.fixture
def client(dsn: str) -> Iterator[qg.Client]:
    with qg.Client(dsn) as client:
        yield client


@pytest.fixture
def network(dsn: str) -> Iterator[Network]:
    network = Network(dsn)
    yield network
    network.cut()


@pytest.fixture
def gate(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A DSN whose sessions wait, before they try a job's lock, until nobody has the lock (7, 7)."""
    database.query(
        "CREATE SCHEMA gate;"
        "CREATE FUNCTION gate.pg_try_advisory_lock(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_catalog.pg_advisory_lock(7, 7); PERFORM pg_catalog.pg_advisory_unlock(7, 7);"
        "RETURN pg_catalog.pg_try_advisory_lock(id); END $$"
    )
    try_locks_with(monkeypatch, "gate.pg_try_advisory_lock")
    yield database.dsn
    database.query("DROP SCHEMA gate CASCADE")


@pytest.fixture
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are broken up for other reasons than the time they take."""
    monkeypatch.setattr(qg.working.batch, "_LONGEST_SECONDS", 3600.0)


@pytest.fixture
def written(database: Database) -> Iterator[None]:
    """The table that the handlers of tests/taking.py write to."""
    database.query("CREATE TABLE written (x bigint PRIMARY KEY)")
    yield
    database.query("DROP TABLE written")


@pytest.fixture
def counted(network: Network, database: Database) -> Iterator[qg.Client]:
    """A client whose one session has everything prepared, and whose messages are counted from here."""
    with qg.Client(network.dsn) as client:
        UntilEmpty(client, {}).work()
        network.statements.clear()
        yield client
