"""Which schema's tables qg works is found out once: no search_path, and no temporary table, leads it to others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.extensions import make_dsn
from psycopg2.sql import SQL, Identifier
from support import ID, SUFFIX, VERSION, Database, UntilEmpty, on_versions, table_of, take_plainly
from taking import each_batch_size, events, execute, fill

import qg
from qg.tables import table_in

HOSTILE = 'My "App" 100%s $1 :id {x} $$ \\ é\''
WAYS = ["work_one", "work", "work plainly", "batches", "lock_job"]


def work(client: qg.Client, way: str, handler: Callable[[qg.Job], None]) -> None:
    """Work all jobs in this *way*, those that can be had."""
    take_plainly(client, way == "work plainly")
    worker = UntilEmpty(client, {"MyJob": handler}, batch_size=5 if way == "batches" else 1)
    if way == "lock_job":
        while (job := client.lock_job()) is not None:
            with job:
                handler(job)
                job.delete()
                job.tx.commit()
    elif way == "work_one":
        while worker.work_one():
            pass
    else:
        worker.work()


@contextmanager
def one_connection(dsn: str) -> Iterator[psycopg2.pool.ThreadedConnectionPool]:
    """A pool that has only one."""
    pool = psycopg2.pool.ThreadedConnectionPool(1, 1, dsn)
    try:
        yield pool
    finally:
        pool.closeall()


@pytest.fixture
def tenant(database: Database) -> Iterator[str]:
    """A schema with another que_jobs, whose jobs have the ids of the real ones."""
    dsn = make_dsn(database.dsn, options="-c search_path=tenant1")
    database.query("CREATE SCHEMA tenant1")
    qg.migrate(dsn, VERSION)
    with qg.Client(dsn) as client:
        client.enqueue_batch([qg.Job("Theirs") for _ in range(3)])
    yield "tenant1"
    database.query("DROP SCHEMA tenant1 CASCADE")


def theirs(database: Database) -> list[tuple[int, int]]:
    return database.query(f"SELECT {ID}, error_count FROM tenant1.que_jobs ORDER BY {ID}")  # type: ignore[return-value]


def set_local(job: qg.Job) -> None:
    job.tx.cursor().execute("SET LOCAL search_path TO tenant1")


def set_in_transaction(job: qg.Job) -> None:
    job.tx.cursor().execute("SET search_path TO tenant1")


def set_for_good(job: qg.Job) -> None:
    execute(job.conn, "SET search_path TO tenant1")


def make_temporary(job: qg.Job) -> None:
    job.tx.cursor().execute(
        "CREATE TEMPORARY TABLE IF NOT EXISTS que_jobs AS SELECT * FROM tenant1.que_jobs;"
        "CREATE TEMPORARY TABLE IF NOT EXISTS que_lockers (pid integer)"
    )


BY_ALL = pytest.mark.parametrize("leads", [set_local, set_in_transaction, set_for_good, make_temporary])


@BY_ALL
@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_sets_another_search_path_has_its_own_job_deleted(
    client: qg.Client, database: Database, tenant: str, way: str, leads: Callable[[qg.Job], None]
) -> None:
    worked: list[int] = []

    def handler(job: qg.Job) -> None:
        assert len(worked) < 3, "a job runs again"
        worked.append(job.id)
        leads(job)

    fill(database, 3)
    work(client, way, handler)
    assert (worked, database.count()) == ([1, 2, 3], 0)
    assert theirs(database) == [(1, 0), (2, 0), (3, 0)]


@BY_ALL
@each_batch_size
def test_a_failure_of_a_handler_that_sets_another_search_path_is_its_own_jobs(
    client: qg.Client, database: Database, tenant: str, batch_size: int, leads: Callable[[qg.Job], None]
) -> None:
    def handler(job: qg.Job) -> None:
        leads(job)
        raise ValueError("no")

    fill(database, 3)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert [count for _, _, count, _ in database.jobs()] == [1, 1, 1]
    assert theirs(database) == [(1, 0), (2, 0), (3, 0)]


@BY_ALL
def test_all_calls_of_a_client_whose_connection_has_another_search_path_work_its_own_table(
    database: Database, tenant: str, leads: Callable[[qg.Job], None]
) -> None:
    with one_connection(database.dsn) as pool, qg.Client(pool) as client:
        fill(database, 1)
        with client.lock_job() as job:
            leads(job)
            job.delete()
            job.tx.commit()
        assert client.enqueue(qg.Job("MyJob")).id == 2
        assert [job.id for job in client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")], notify=True)] == [3, 4]
        assert [(stats.type, stats.count) for stats in client.stats()] == [("MyJob", 3)]
        with client.lock_job() as job:
            job.error("no")
        with client.lock_job() as job:
            pool_conn = job.conn
            pool_conn.cursor().execute("SET LOCAL search_path TO tenant1")
            client.enqueue_in_tx(qg.Job("Added"), pool_conn)
            job.delete()
            pool_conn.commit()
        assert [(job_id, kind) for job_id, kind, *_ in database.jobs()] == [(2, "MyJob"), (4, "MyJob"), (5, "Added")]
    assert theirs(database) == [(1, 0), (2, 0), (3, 0)]


def test_a_job_enqueued_in_a_callers_transaction_goes_where_the_client_works(
    client: qg.Client, database: Database, tenant: str
) -> None:
    with closing(database.connect()) as conn, conn, conn.cursor() as cur:
        cur.execute("SET LOCAL search_path TO tenant1")
        client.enqueue_in_tx(qg.Job("MyJob"), conn)
        client.enqueue_batch_in_tx([qg.Job("MyJob"), qg.Job("MyJob")], cur)
    assert (database.count(), len(theirs(database))) == (3, 3)


def test_a_pool_whose_handlers_set_other_search_paths_works_on(
    client: qg.Client, database: Database, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    worked: list[int] = []
    done = threading.Event()

    def handler(job: qg.Job) -> None:
        worked.append(job.id)
        (set_local, set_for_good, make_temporary)[job.id % 3](job)
        if len(worked) >= 30:
            done.set()

    fill(database, 30)
    with qg.WorkerPool(client, {"MyJob": handler}, 2, interval=0.01):
        assert done.wait(10)
    assert (sorted(worked), database.count()) == (list(range(1, 31)), 0)
    assert (theirs(database), events(caplog, "job", "lock", "migrat")) == ([(1, 0), (2, 0), (3, 0)], [])


@pytest.mark.parametrize("leads", [set_local, set_for_good])
def test_after_a_migration_the_table_is_looked_for_where_it_was(
    make_database: Callable[..., str], leads: Callable[[qg.Job], None]
) -> None:
    dsn = make_database(version=3)
    with closing(Database(dsn)) as database, qg.Client(dsn) as client:
        database.query("CREATE SCHEMA tenant1")
        qg.migrate(make_dsn(dsn, options="-c search_path=tenant1"), 4)
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        worked: list[int] = []

        def handler(job: qg.Job) -> None:
            worked.append(job.id)
            leads(job)
            if len(worked) == 1:
                job.tx.rollback()
                qg.migrate(dsn, 7)
                leads(job)

        UntilEmpty(client, {"MyJob": handler}).work()
        assert set(worked) == {1, 2}
        assert (table_of(client).version, table_of(client).schema) == (7, "public")
        assert client.enqueue(qg.Job("MyJob")).id == 3
        assert database.value("SELECT count(*) FROM tenant1.que_jobs") == 0


@on_versions(3, 4, 5, 7)
def test_a_schema_may_have_any_name(make_database: Callable[..., str], version: int) -> None:
    dsn = make_database(migrate=False)
    with closing(Database(dsn)) as database:
        database.conn.cursor().execute(SQL("CREATE SCHEMA {}").format(Identifier(HOSTILE)))

        def connect() -> psycopg2.extensions.connection:
            conn = psycopg2.connect(dsn)
            with conn.cursor() as cur:
                cur.execute(SQL("SET search_path TO {}").format(Identifier(HOSTILE)))
            conn.commit()
            return conn

        qg.migrate(connect, version, notify=version == 3)
        with qg.Client(connect) as client:
            client.enqueue(qg.Job("MyJob"))
            client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob"), qg.Job("Failing")])
            with closing(database.connect()) as conn, conn:
                client.enqueue_in_tx(qg.Job("MyJob"), conn)
                client.enqueue_batch_in_tx([qg.Job("MyJob")], conn)
            assert sorted((stats.type, stats.count) for stats in client.stats()) == [("Failing", 1), ("MyJob", 5)]
            worked: list[int] = []
            states: list[int] = []

            def handler(job: qg.Job) -> None:
                worked.append(job.id)
                states.extend(state.id for state in client.job_states())

            take_plainly(client)
            UntilEmpty(client, {"MyJob": handler}, only_known_types=True).work_one()
            take_plainly(client, False)
            for strategy in qg.PollStrategy:
                UntilEmpty(client, {"MyJob": handler}, poll_strategy=strategy, batch_size=2).work_one()
            UntilEmpty(client, {"MyJob": handler}, batch_size=3).work()
            assert sorted(worked) == [1, 2, 3, 5, 6]
            assert set(worked) <= set(states)
            (stats,) = client.stats()
            assert (stats.type, stats.count_errored) == ("Failing", 1)
            done = threading.Event()
            with qg.WorkerPool(client, {"MyJob": lambda job: done.set()}, 1, interval=3600):
                client.enqueue(qg.Job("MyJob"))
                assert done.wait(10)


def test_two_schemas_on_one_connection_share_no_statement_and_no_function(database: Database, tenant: str) -> None:
    with one_connection(database.dsn) as pool, qg.Client(pool) as ours:
        conn = pool.getconn()
        execute(conn, "SET search_path TO tenant1")
        pool.putconn(conn)
        with qg.Client(pool) as their:
            assert (table_of(ours).schema, table_of(their).schema) == ("public", "tenant1")
            for number in range(1, 4):
                assert their.enqueue(qg.Job("Theirs")).id == 3 + number
                assert ours.enqueue(qg.Job("Ours")).id == number
                for plainly in (False, True):
                    for client, kind in ((ours, "Ours"), (their, "Theirs"), (ours, "Ours")):
                        take_plainly(client, plainly)
                        with client.lock_job() as job:
                            assert job.type == kind
                            job.error("once more")
                        make_due(database, client)
            worked: list[str] = []
            work_map = {kind: lambda job: worked.append(job.type) for kind in ("Ours", "Theirs")}
            for client in (ours, their, ours):
                take_plainly(client, False)
                for batch_size in (1, 5):
                    UntilEmpty(client, work_map, batch_size=batch_size).work()
            assert worked == ["Ours"] * 3 + ["Theirs"] * 6
    assert (database.count(), theirs(database)) == (0, [])


def make_due(database: Database, client: qg.Client) -> None:
    """Let all jobs of the client's table be due."""
    database.query(SQL("UPDATE {}.que_jobs SET run_at = '2020-01-01'").format(Identifier(table_of(client).schema)))


def test_statements_that_somebody_has_prepared_for_another_schema_arent_taken_for_ours(
    database: Database, tenant: str
) -> None:
    def connect() -> psycopg2.extensions.connection:
        conn = psycopg2.connect(database.dsn)
        execute(conn, "SET search_path TO tenant1")
        qg.prepare_statements(conn)
        execute(conn, "SET search_path TO public")
        return conn

    with qg.Client(connect) as client:
        take_plainly(client)
        assert client.enqueue(qg.Job("MyJob")).id == 1
        with client.lock_job() as job:
            assert (job.id, job.type) == (1, "MyJob")
            with job.conn.cursor() as cur:  # they are still whose they were
                cur.execute("SELECT statement FROM pg_prepared_statements WHERE name = %s", (f"que_lock_job{SUFFIX}",))
                assert '"tenant1".que_jobs' in cur.fetchone()[0]
            job.delete()
            job.tx.commit()
    assert (database.count(), len(theirs(database))) == (0, 3)


def test_a_temporary_table_is_none_that_a_client_finds(database: Database) -> None:
    with one_connection(database.dsn) as pool:
        conn = pool.getconn()
        execute(conn, "CREATE TEMPORARY TABLE que_jobs (x integer)")
        pool.putconn(conn)
        with qg.Client(pool) as client:
            assert client.enqueue(qg.Job("MyJob")).id == 1
    assert database.count() == 1


def test_a_table_is_made_once_for_each_version_and_schema() -> None:
    assert table_in("a", 3) is table_in("a", 3)
    assert table_in("a", 5) is table_in("a", 5)
    assert len({id(table_in(schema, version)) for schema in ("a", "b") for version in (3, 4, 5, 6, 7)}) == 10
