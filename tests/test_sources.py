"""Where connections come from: each kind of source, and what comes back to it."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extras
import psycopg2.pool
import pytest
from psycopg2.extensions import ISOLATION_LEVEL_SERIALIZABLE, TRANSACTION_STATUS_IDLE, connection, parse_dsn
from support import VERSION, Database, eventually, lease, name_of, needs, table_of

import qg


def work_by_hand(client: qg.Client) -> None:
    """One job through the whole API, on its own connection each time."""
    client.enqueue(qg.Job("MyJob", [1]))
    with client.lock_job() as job:
        with job.tx.cursor() as cur:
            cur.execute("SELECT 1")
        job.delete()
    assert client.stats() == []


def url_of(dsn: str) -> str:
    given = parse_dsn(dsn)
    password = f":{given['password']}" if "password" in given else ""
    query = "&".join(f"{key}={given[key]}" for key in ("host", "port") if key in given)
    return f"postgresql://{given.get('user', '')}{password}@/{given['dbname']}?{query}"


def test_a_dsn(dsn: str) -> None:
    with qg.Client(dsn) as client:
        work_by_hand(client)


def test_a_url(dsn: str) -> None:
    with qg.Client(url_of(dsn)) as client:
        work_by_hand(client)


@pytest.mark.parametrize("kind", [psycopg2.pool.ThreadedConnectionPool, psycopg2.pool.SimpleConnectionPool])
def test_a_psycopg2_pool_keeps_its_connections(dsn: str, database: Database, kind: Any) -> None:
    with closing_pool(kind(1, 3, dsn)) as pool:
        with qg.Client(pool) as client:
            work_by_hand(client)
        # The client is closed, the pool isn't.
        conn = pool.getconn()
        assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE
        assert conn.autocommit is False
        pool.putconn(conn)
        assert len(database.sessions()) == 1


class closing_pool:  # noqa: N801 - reads like contextlib.closing
    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def __enter__(self) -> Any:
        return self.pool

    def __exit__(self, *exception: object) -> None:
        self.pool.closeall()


def test_a_sqlalchemy_engine_keeps_its_connections(dsn: str) -> None:
    engine = needs("sqlalchemy").create_engine("postgresql+psycopg2://", connect_args=parse_dsn(dsn), pool_size=2)
    with qg.Client(engine) as client:
        work_by_hand(client)
    assert engine.pool.checkedout() == 0
    with engine.connect() as conn:
        assert conn.scalar(needs("sqlalchemy").text("SELECT 1")) == 1
    engine.dispose()


def test_a_callable_is_asked_for_a_connection_at_a_time(dsn: str) -> None:
    opened = []

    def connect() -> Any:
        opened.append(psycopg2.connect(dsn))
        return opened[-1]

    with qg.Client(connect) as client:
        work_by_hand(client)
        assert len(opened) == 1
    assert opened[0].closed


def test_settings_that_a_callable_made_stay(dsn: str, database: Database) -> None:
    def connect() -> Any:
        conn = psycopg2.connect(dsn)
        conn.cursor().execute("SET application_name = 'set by the callable'")
        return conn

    with qg.Client(connect) as client:
        client.enqueue(qg.Job("MyJob"))
        assert database.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'set by the callable'")


def test_a_connection_is_used_whatever_its_settings_and_gets_them_back(dsn: str, database: Database) -> None:
    def connect() -> Any:
        conn = psycopg2.connect(dsn, cursor_factory=psycopg2.extras.RealDictCursor)
        conn.set_session(isolation_level=ISOLATION_LEVEL_SERIALIZABLE, autocommit=True)
        connections.append(conn)
        return conn

    connections: list[Any] = []
    with qg.Client(connect) as client:
        client.enqueue(qg.Job("MyJob"))
        with client.lock_job() as job:
            assert job.conn.autocommit is False
            with job.tx.cursor() as cur:
                cur.execute("SHOW transaction_isolation")
                assert cur.fetchone() == {"transaction_isolation": "serializable"}
            job.delete()
        assert connections[0].autocommit is True
        assert connections[0].isolation_level == ISOLATION_LEVEL_SERIALIZABLE
        qg.migrate(connect)
        assert qg.schema_version(connect) == VERSION
    for conn in connections:
        conn.close()


def test_what_a_handler_did_to_its_connection_is_undone_for_the_next_job(client: qg.Client) -> None:
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    modes: list[tuple] = []

    def meddle(job: qg.Job) -> None:
        modes.append((job.conn.autocommit, job.conn.isolation_level, job.conn.readonly))
        job.conn.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=True)
        job.conn.set_session(readonly=False)

    with qg.WorkerPool(client, {"MyJob": meddle}, 1, interval=0.01):
        eventually(lambda: len(modes) == 2)
    assert modes == [(False, None, None)] * 2


def test_idle_connections_are_kept_up_to_a_number(dsn: str, database: Database) -> None:
    with qg.Client(dsn) as client:
        client.enqueue_batch(qg.Job("MyJob") for _ in range(20))
        jobs = [client.lock_job() for _ in range(20)]
        assert len(database.sessions()) == 20
        for job in jobs:
            job.done()
        eventually(lambda: len(database.sessions()) == 16)


def test_a_connection_that_died_while_idle_is_replaced_unnoticed(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    ((pid, _, _),) = database.sessions()
    database.terminate(pid)
    client.enqueue(qg.Job("MyJob"))
    assert database.count() == 2


@pytest.mark.parametrize("make", ["pool", "engine"])
def test_a_connection_that_died_in_somebodys_pool_is_replaced_unnoticed(
    dsn: str, database: Database, make: str
) -> None:
    engine = needs("sqlalchemy").create_engine(
        "postgresql+psycopg2://", connect_args=parse_dsn(dsn), pool_size=1, max_overflow=0, pool_timeout=1
    )
    pool = psycopg2.pool.ThreadedConnectionPool(1, 1, dsn)
    with qg.Client(engine if make == "engine" else pool) as client:
        client.enqueue(qg.Job("MyJob"))
        for pid, _, _ in database.sessions():
            database.terminate(pid)
        client.enqueue(qg.Job("MyJob"))
        assert database.count() == 2
    engine.dispose()
    pool.closeall()


@pytest.mark.parametrize("make", ["pool", "engine"])
def test_a_transaction_that_somebody_left_open_in_their_pool_is_rolled_back(
    dsn: str, database: Database, make: str
) -> None:
    engine = needs("sqlalchemy").create_engine(
        "postgresql+psycopg2://", connect_args=parse_dsn(dsn), pool_reset_on_return=None, pool_size=1
    )

    class Careless(psycopg2.pool.ThreadedConnectionPool):
        def getconn(self, key: Any = None) -> Any:
            conn = super().getconn(key)
            conn.cursor().execute("INSERT INTO jobs (job_class) VALUES ('Unfinished')")
            return conn

    pool = Careless(1, 2, dsn)
    if make == "engine":
        proxy = engine.raw_connection()
        proxy.cursor().execute("INSERT INTO jobs (job_class) VALUES ('Unfinished')")
        proxy.close()
    with qg.Client(engine if make == "engine" else pool) as client:
        client.enqueue(qg.Job("MyJob"))
    assert [job[1] for job in database.jobs()] == ["MyJob"]
    engine.dispose()
    pool.closeall()


@pytest.mark.parametrize("make", ["pool", "engine", "callable"])
def test_a_transaction_that_somebody_began_by_hand_doesnt_swallow_a_job(
    dsn: str, database: Database, make: str
) -> None:
    """In autocommit mode psycopg2 knows nothing of a BEGIN, and so doesn't roll it back."""

    def connect() -> Any:
        conn = psycopg2.connect(dsn)
        conn.autocommit = True
        conn.cursor().execute("BEGIN")
        return conn

    engine = needs("sqlalchemy").create_engine("postgresql+psycopg2://", creator=connect, isolation_level="AUTOCOMMIT")
    pool = psycopg2.pool.ThreadedConnectionPool(1, 1, dsn)
    conn = pool.getconn()
    conn.autocommit = True
    conn.cursor().execute("BEGIN")
    pool.putconn(conn)
    with qg.Client({"pool": pool, "engine": engine, "callable": connect}[make]) as client:
        client.enqueue(qg.Job("MyJob"))
        assert database.count() == 1
        with client.lock_job() as job:
            assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
    engine.dispose()
    pool.closeall()


def test_a_source_that_gives_one_connection_twice_is_refused(dsn: str, database: Database) -> None:
    with closing(psycopg2.connect(dsn)) as conn, qg.Client(lambda: conn) as client:
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        with client.lock_job() as job:
            job.tx.cursor().execute("INSERT INTO jobs (job_class) VALUES ('Unfinished')")
            with pytest.raises(qg.ErrUnusable, match="gave before and hasn't got back; make it open a new one"):
                client.lock_job()
            assert database.locks() == [job.id]
            assert database.count() == 2
            job.tx.rollback()
            job.delete()


@pytest.mark.parametrize("make", ["pool", "engine"])
def test_a_forgotten_jobs_connection_doesnt_go_back_with_its_lock(dsn: str, database: Database, make: str) -> None:
    engine = needs("sqlalchemy").create_engine("postgresql+psycopg2://", connect_args=parse_dsn(dsn))
    pool = psycopg2.pool.ThreadedConnectionPool(0, 1, dsn)
    with qg.Client(engine if make == "engine" else pool) as client:
        client.enqueue(qg.Job("MyJob"))
        job = client.lock_job()
        assert database.locks() == [job.id]
        del job
        eventually(lambda: database.locks() == [])
        with client.lock_job() as job:
            assert job.id == 1
    engine.dispose()
    pool.closeall()


def test_a_workers_connection_goes_back_free_of_the_locks_that_handlers_took(dsn: str, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        job.tx.cursor().execute("SELECT pg_advisory_lock(4711)")

    pool = psycopg2.pool.ThreadedConnectionPool(1, 1, dsn)
    with qg.Client(pool) as client:
        client.enqueue(qg.Job("MyJob"))
        assert qg.Worker(client, {"MyJob": handler}).work_one()
        assert database.locks() == []
    pool.closeall()


@pytest.mark.parametrize("method", ["work", "work_one"])
def test_a_worker_interrupted_at_a_bad_moment_keeps_its_connection_from_the_pool(
    dsn: str, database: Database, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def interrupted(job: qg.Job) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(qg.Job, "done", interrupted)
    pool = psycopg2.pool.ThreadedConnectionPool(1, 1, dsn)
    with qg.Client(pool) as client:
        client.enqueue(qg.Job("MyJob"))
        with pytest.raises(KeyboardInterrupt):
            getattr(qg.Worker(client, {"MyJob": lambda job: None}), method)()
        eventually(lambda: database.locks() == [])
        assert client.stats() == []
    pool.closeall()


def test_a_broken_connection_doesnt_go_back_to_its_pool(dsn: str, database: Database) -> None:
    with closing_pool(psycopg2.pool.ThreadedConnectionPool(1, 1, dsn)) as pool, qg.Client(pool) as client:
        client.enqueue(qg.Job("MyJob"))
        job = client.lock_job()
        job.conn.close()
        job.done()
        with client.lock_job() as again:
            assert again.id == job.id


def test_a_pool_that_was_closed_under_a_job_doesnt_trouble_done(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(1, 1, dsn)
    with qg.Client(pool) as client:
        client.enqueue(qg.Job("MyJob"))
        job = client.lock_job()
        pool.closeall()
        job.done()
    assert job.conn is None
    assert caplog.records == []


def test_a_pool_that_isnt_safe_between_threads_is_asked_by_one_at_a_time(dsn: str) -> None:
    class Fragile(psycopg2.pool.SimpleConnectionPool):
        inside = 0

        def getconn(self, key: Any = None) -> Any:
            self.inside += 1
            time.sleep(0.02)
            most.append(self.inside)
            self.inside -= 1
            return super().getconn(key)

    most: list[int] = []
    with closing_pool(Fragile(0, 8, dsn)) as pool, qg.Client(pool) as client:
        threads = [threading.Thread(target=client.stats) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(most) == 1


def test_a_table_that_went_away_costs_no_connection(make_database: Any) -> None:
    dsn = make_database()
    with closing(Database(dsn)) as database, closing_pool(psycopg2.pool.ThreadedConnectionPool(0, 1, dsn)) as pool:
        client = qg.Client(pool)
        database.query("DROP TABLE que_jobs CASCADE")
        for pid, _, _ in database.sessions():
            database.terminate(pid)
        for _ in range(2):
            with pytest.raises(psycopg2.errors.UndefinedTable):
                client.stats()
        assert pool._used == {}
        client.close()


def test_a_connection_that_dies_before_its_settings_are_restored_is_closed(dsn: str, database: Database) -> None:
    def connect() -> Any:
        conn = psycopg2.connect(dsn)
        conn.set_session(isolation_level=ISOLATION_LEVEL_SERIALIZABLE, autocommit=True)
        return conn

    with qg.Client(connect) as client:
        session = lease(client)
        database.terminate(session.conn.info.backend_pid)
        session.give_back()
        assert session.conn.closed
        assert client.stats() == []


def test_a_forked_process_opens_connections_of_its_own(client: qg.Client, database: Database) -> None:
    client.enqueue_batch([qg.Job("Parent"), qg.Job("Parent")])
    job, leased, idle = client.lock_job(), lease(client), lease(client)
    idle.give_back()
    used_by_parent = {each.conn.info.backend_pid for each in (job, leased, idle)}

    child = os.fork()
    if child == 0:
        try:
            leased.give_back()
            session = lease(client)
            own = session.conn.info.backend_pid not in used_by_parent
            session.give_back()
            del job  # its connection is the parent's, who still uses it
            client.enqueue(qg.Job("Child"))
            client.close()
            os._exit(0 if own else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    assert job.id in database.locks()
    job.delete()
    job.done()
    leased.run(table_of(client).stats)
    leased.give_back()
    client.enqueue(qg.Job("Parent"))
    assert sorted(job[1] for job in database.jobs()) == ["Child", "Parent", "Parent"]


def test_a_session_is_given_back_once_and_never_in_a_transaction(client: qg.Client, database: Database) -> None:
    session = lease(client)
    session.give_back()
    session.give_back()
    session.close_now()
    first, second = lease(client), lease(client)
    assert first.conn is not second.conn
    second.conn.cursor().execute("SELECT 1")
    second.give_back()
    assert second.conn.closed
    first.give_back()


@pytest.mark.parametrize("source", [None, 5, b"postgresql:///app", {"dsn": "x"}, object()], ids=name_of)
def test_an_object_that_gives_no_connections_is_refused_and_told_what_would_do(source: Any) -> None:
    with pytest.raises(TypeError, match="give a DSN or postgresql:// URL, a psycopg2 pool") as caught:
        qg.Client(source)
    assert isinstance(caught.value, qg.ErrUnusable)


def test_a_single_connection_is_refused_with_the_reason(dsn: str) -> None:
    with closing(psycopg2.connect(dsn)) as conn, pytest.raises(qg.ErrUnusable, match="every locked job owns one"):
        qg.Client(conn)


def test_an_engine_over_another_driver_is_refused(dsn: str) -> None:
    engine = needs("sqlalchemy").create_engine("postgresql+psycopg://", connect_args=parse_dsn(dsn))
    with pytest.raises(qg.ErrUnusable, match=r"create it with a postgresql\+psycopg2:// URL"):
        qg.Client(engine)


def test_an_async_engine_is_refused() -> None:
    engine = needs("sqlalchemy.ext.asyncio").create_async_engine("postgresql+psycopg://")
    with pytest.raises(qg.ErrUnusable, match=r'AsyncEngine .* give its DSN: engine.url.set\(drivername="postgresql"\)'):
        qg.Client(engine)


async def connect() -> None:
    """As drivers for asyncio have it."""


class AsyncPool:
    async def getconn(self) -> None:
        pass

    async def putconn(self, conn: object) -> None:
        pass


@pytest.mark.parametrize("source", [connect, AsyncPool()], ids=["callable", "pool"])
def test_what_is_awaited_is_no_source(source: object) -> None:
    with pytest.raises(qg.ErrUnusable, match="a source can't be awaited, as .* is; give the DSN"):
        qg.Client(source)


def test_a_pool_of_psycopg_3_is_refused_and_gets_its_connection_back(dsn: str) -> None:
    with needs("psycopg_pool").ConnectionPool(dsn, min_size=1, max_size=1) as pool:
        with pytest.raises(qg.ErrUnusable, match="instead of a psycopg2 connection"):
            qg.Client(pool)
        pool.putconn(pool.getconn(timeout=5))


def test_a_callable_that_gives_something_else_is_refused() -> None:
    with pytest.raises(qg.ErrUnusable, match="instead of a psycopg2 connection"):
        qg.Client(lambda: "a connection, honestly")


def test_a_bad_dsn_is_refused_without_repeating_it() -> None:
    with pytest.raises(qg.ErrUnusable, match="neither a libpq DSN nor a postgresql:// URL") as caught:
        qg.Client("app:hunter2@localhost/app")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@pw@localhost/db", "postgresql://u:s3/cret@localhost/db"])
def test_a_url_whose_password_isnt_escaped_is_refused_without_repeating_a_part_of_it(url: str) -> None:
    with pytest.raises(qg.ErrUnusable, match="password probably isn't escaped") as caught:
        qg.Client(url)
    assert not {"s3", "s3cret", "pw", "cret"} & set(str(caught.value).replace("/", " ").split())


def test_a_database_that_isnt_there_is_psycopg2s_error() -> None:
    with pytest.raises(psycopg2.OperationalError):
        qg.Client("host=127.0.0.1 port=1 dbname=none")


class Stubborn(connection):
    """A connection that complains when it is closed, as one that is broken may."""

    def close(self) -> None:
        super().close()
        raise psycopg2.OperationalError("it was closed already")


def test_a_connection_that_complains_when_it_is_closed_is_closed_all_the_same(dsn: str, database: Database) -> None:
    def connect() -> Any:
        conn = psycopg2.connect(dsn, connection_factory=Stubborn)
        conn.set_session(isolation_level=ISOLATION_LEVEL_SERIALIZABLE, autocommit=True)
        return conn

    with qg.Client(connect) as client:
        session = lease(client)
        database.terminate(session.conn.info.backend_pid)
        session.give_back()
        assert session.conn.closed
