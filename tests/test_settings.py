"""What a session that locks jobs sets, and what its connection gets back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg2.pool
import pytest
from psycopg2.extensions import connection, make_dsn
from support import Database, Network, UntilEmpty

import qg

TCP = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def show(conn: connection, setting: str) -> str:
    with conn.cursor() as cur:
        cur.execute(f"SHOW {setting}")
        return cur.fetchone()[0]


def set_in_session(conn: connection) -> set[str]:
    with conn.cursor() as cur:
        cur.execute("SELECT name FROM pg_settings WHERE source = 'session'")
        return {name for (name,) in cur.fetchall()}


@pytest.fixture
def impatient(dsn: str, database: Database) -> str:
    """A DSN whose sessions are ended when they are idle for a fifth of a second."""
    if database.conn.server_version < 140000:
        pytest.skip("PostgreSQL has idle_session_timeout from version 14 on")
    return make_dsn(dsn, options="-c idle_session_timeout=200")


@pytest.fixture
def pool(impatient: str) -> Iterator[psycopg2.pool.ThreadedConnectionPool]:
    pool = psycopg2.pool.ThreadedConnectionPool(1, 2, impatient)
    yield pool
    pool.closeall()


def test_a_session_is_not_ended_for_being_idle_while_a_handler_is_busy_elsewhere(
    impatient: str, database: Database
) -> None:
    runs: list[int] = []

    def handle(job: qg.Job) -> None:
        runs.append(job.id)
        database.query("SELECT pg_sleep(0.5)")

    with qg.Client(impatient) as client:
        client.enqueue(qg.Job("MyJob"))
        UntilEmpty(client, {"MyJob": handle}).work()
        client.enqueue(qg.Job("MyJob"))
        with client.lock_job() as job:
            handle(job)
            job.delete()
    assert (len(runs), database.count()) == (2, 0)


def test_a_session_that_locks_nothing_keeps_its_settings(impatient: str) -> None:
    conns: list[connection] = []

    def connect() -> connection:
        conns.append(psycopg2.connect(impatient))
        return conns[-1]

    with qg.Client(connect) as client:
        client.enqueue(qg.Job("MyJob"))
        client.stats()
        (conn,) = conns
        assert (show(conn, "idle_session_timeout"), set_in_session(conn)) == ("200ms", set())


def test_a_pools_connection_gets_its_own_timeout_back_each_time(pool: psycopg2.pool.ThreadedConnectionPool) -> None:
    with qg.Client(pool) as client:
        for _ in range(3):
            client.enqueue(qg.Job("MyJob"))
            with client.lock_job() as job:
                assert show(job.conn, "idle_session_timeout") == "0"
                job.conn.rollback()
                job.delete()
            conn = pool.getconn()
            assert show(conn, "idle_session_timeout") == "200ms"
            pool.putconn(conn)


def test_a_timeout_costs_two_messages_a_lease_and_only_a_pool_that_has_one(network: Network) -> None:
    def messages(source: object) -> int:
        with qg.Client(source) as client:
            for _ in range(2):
                client.enqueue(qg.Job("MyJob"))
                before = len(network.statements)
                client.lock_job().done()
                UntilEmpty(client, {"MyJob": lambda job: None}).work()
                count = len(network.statements) - before
            return count

    with_timeout = make_dsn(network.dsn, options="-c idle_session_timeout=1min")
    counts = []
    for dsn in (network.dsn, with_timeout):
        counts.append(messages(dsn))
        with ExitStack() as stack:
            pool = psycopg2.pool.ThreadedConnectionPool(1, 2, dsn)
            stack.callback(pool.closeall)
            counts.append(messages(pool))
    assert counts[2] == counts[0]
    assert counts[3] == counts[1] + 4  # for two leases


def test_what_throws_settings_away_is_noticed_with_the_statements(impatient: str) -> None:
    with qg.Client(impatient) as client:
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        with client.lock_job() as job:
            job.conn.autocommit = True
            job.conn.cursor().execute("RESET ALL; DEALLOCATE ALL")
            job.conn.autocommit = False
        with client.lock_job() as job:
            assert show(job.conn, "idle_session_timeout") == "0"
            job.conn.rollback()


def test_the_server_is_to_notice_within_a_minute_that_the_client_is_gone(client: qg.Client) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        assert set_in_session(job.conn) >= set(TCP)
        if not job.conn.info.host.startswith("/"):  # on a Unix socket all of them show 0
            assert {name: show(job.conn, name).removesuffix("ms") for name in TCP} == TCP
        job.conn.rollback()


def test_keepalives_that_somebody_has_set_on_the_server_stay(dsn: str) -> None:
    with qg.Client(make_dsn(dsn, options="-c tcp_keepalives_idle=77 -c tcp_user_timeout=0")) as client:
        client.enqueue(qg.Job("MyJob"))
        with client.lock_job() as job:
            assert set_in_session(job.conn) & set(TCP) == {"tcp_keepalives_interval", "tcp_keepalives_count"}
            job.conn.rollback()
