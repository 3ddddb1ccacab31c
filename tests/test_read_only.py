"""A session that can't write: no handler is called on it, and work goes on when it can, or when another one can."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from psycopg2.extensions import connection, make_dsn
from psycopg2.pool import ThreadedConnectionPool
from support import Database, UntilEmpty, eventually, take_plainly
from taking import events, fill

import qg


@pytest.fixture
def read_only(database: Database) -> Iterator[None]:
    """Let sessions that begin now be read-only, as after a failover that left us on the old side."""
    name = database.value("SELECT current_database()")
    database.query(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    yield
    allow_writing(database)


def allow_writing(database: Database) -> None:
    database.query(f"ALTER DATABASE {database.value('SELECT current_database()')} RESET default_transaction_read_only")


def connect_read_only(dsn: str) -> connection:
    return psycopg2.connect(make_dsn(dsn, options="-c default_transaction_read_only=on"))


@pytest.mark.parametrize("plainly", [False, True])
@pytest.mark.parametrize("way", ["work_one", "lock_job"])
def test_on_a_session_that_cant_write_no_job_is_locked_by_hand(
    dsn: str, database: Database, read_only: None, way: str, plainly: bool
) -> None:
    fill(database, 1)
    ran: list[qg.Job] = []
    with qg.Client(dsn) as client:
        take_plainly(client, plainly)
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            client.lock_job() if way == "lock_job" else qg.Worker(client, {"MyJob": ran.append}).work_one()
    eventually(lambda: database.locks() == [], "the end of the lock")
    assert (ran, database.count()) == ([], 1)


@pytest.mark.parametrize("plainly", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_pool_on_sessions_that_cant_write_waits_and_goes_on_when_they_can(
    dsn: str, database: Database, read_only: None, caplog: pytest.LogCaptureFixture, batch_size: int, plainly: bool
) -> None:
    ran: list[int] = []
    with qg.Client(dsn) as client:
        take_plainly(client, plainly)
        fill(database, 3)
        with qg.WorkerPool(client, {"MyJob": lambda job: ran.append(job.id)}, 2, interval=0.05, batch_size=batch_size):
            eventually(lambda: events(caplog, "outage_begins"), "the outage")
            assert (ran, database.count()) == ([], 3)
            allow_writing(database)
            eventually(lambda: database.count() == 0)
            eventually(lambda: events(caplog, "outage_over"), "the end of the outage")
    assert sorted(ran) == [1, 2, 3]
    assert events(caplog, "taking_plainly", "job_failed", "job_unrecorded") == []
    assert [record.exc_info for record in caplog.records if record.message.startswith("outage_begins")] == [None]


def test_a_pool_that_finds_its_sessions_read_only_later_takes_other_ones(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A pool of the application's that was left on the old primary gives a new connection for one that is closed."""
    target = [connect_read_only]
    ran = threading.Event()

    def connect() -> connection:
        return target[-1](dsn)

    with qg.Client(connect) as client:
        database.query("INSERT INTO jobs (job_class) VALUES ('MyJob')")
        with qg.WorkerPool(client, {"MyJob": lambda job: ran.set()}, 1, interval=0.05):
            eventually(lambda: events(caplog, "outage_begins"), "the outage")
            assert not ran.is_set()
            target.append(psycopg2.connect)
            assert ran.wait(10)
            eventually(lambda: database.count() == 0)


@pytest.mark.parametrize(
    "setting",
    [
        "SET default_transaction_read_only = on",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET default_transaction_isolation = 'repeatable read'",
    ],
)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_what_a_handler_makes_of_later_transactions_ends_with_its_job(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int, setting: str
) -> None:
    seen = []

    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("SHOW transaction_isolation")
            level = cur.fetchone()[0]
            cur.execute("SHOW transaction_read_only")
            seen.append((level, cur.fetchone()[0]))
            cur.execute(setting)

    pool = ThreadedConnectionPool(1, 2, dsn)
    try:
        fill(database, 4)
        with qg.Client(pool) as client:
            UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
        assert (database.count(), seen) == (0, [("read committed", "off")] * 4)
        assert events(caplog) == []
        assert len(database.sessions()) == 1, "the session had to be replaced"
    finally:
        pool.closeall()


def test_a_job_whose_session_can_no_longer_write_is_recorded_on_another_one(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("SET TRANSACTION READ ONLY")

    fill(database, 1)
    with qg.Client(dsn) as client:
        UntilEmpty(client, {"MyJob": handler}).work()
    assert [(count, text.split(":")[0]) for _, _, count, text in database.jobs()] == [
        (1, "psycopg2.errors.ReadOnlySqlTransaction")
    ]


def test_the_idle_connection_of_a_client_isnt_kept_read_only(dsn: str, database: Database) -> None:
    fill(database, 1)
    with qg.Client(dsn) as client:
        with client.lock_job() as job:
            with closing(job.tx.cursor()) as cur:
                cur.execute("SET default_transaction_read_only = on")
            job.tx.commit()
        client.enqueue(qg.Job("MyJob"))
    assert database.count() == 2


def test_what_an_administrator_sets_later_holds_for_sessions_that_handlers_had(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A session sees a new default of its database when it begins; so the role's default stands for the server's."""
    seen = []

    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only'")
            seen.append(cur.fetchone()[0])

    fill(database, 3)
    with qg.Client(dsn) as client:
        UntilEmpty(client, {"MyJob": handler}).work()
    assert seen == ["default"] * 3
