"""A handler that sets a role, or who the user is: the job is settled as the session's own user all the same."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest
from psycopg2.extensions import connection, make_dsn
from psycopg2.pool import ThreadedConnectionPool
from support import Database, UntilEmpty
from taking import WAYS, all_written, execute, fill, work

import qg

pytestmark = pytest.mark.usefixtures("written")

LOCAL = ["SET LOCAL ROLE {}", "SET LOCAL SESSION AUTHORIZATION {}"]
each_way = pytest.mark.parametrize("way", ["by hand", *WAYS])


@pytest.fixture
def tenant(database: Database) -> Iterator[str]:
    """A role that may write into written, and nothing else."""
    name = f"qg_tenant_{uuid.uuid4().hex[:8]}"
    database.query(f"CREATE ROLE {name}; GRANT SELECT, INSERT ON written TO {name}")
    yield name
    database.query(f"DROP OWNED BY {name}; DROP ROLE {name}")


def run(client: qg.Client, handler: Callable[[qg.Job], None], way: str) -> None:
    """Run *handler* for all jobs, in the *way* that it says."""
    if way != "by hand":
        work(client, way, handler)
        return
    while (job := client.lock_job()) is not None:
        with job:
            handler(job)
            job.delete()


def who(conn: connection) -> tuple[str, ...]:
    with conn.cursor() as cur:
        cur.execute("SELECT session_user, current_user")
        return cur.fetchone()  # type: ignore[no-any-return]


def write_as(job: qg.Job, setting: str) -> None:
    with job.tx.cursor() as cur:
        cur.execute(setting)
        cur.execute("INSERT INTO written VALUES (%s)", (job.id,))


@each_way
@pytest.mark.parametrize("setting", [*LOCAL, "SET ROLE {}", "SET SESSION AUTHORIZATION {}"])
def test_a_job_whose_handler_has_set_a_role_is_deleted_once_with_what_it_wrote(
    client: qg.Client, database: Database, tenant: str, setting: str, way: str
) -> None:
    seen = []

    def handler(job: qg.Job) -> None:
        seen.append(who(job.tx))
        write_as(job, setting.format(tenant))

    fill(database, 5)
    own = database.query("SELECT session_user, current_user")
    run(client, handler, way)
    assert (database.jobs(), all_written(database), database.locks()) == ([], [1, 2, 3, 4, 5], [])
    if "LOCAL" in setting:
        assert seen == own * 5


@each_way
def test_a_failure_is_recorded_whatever_role_the_handler_has_set(
    client: qg.Client, database: Database, tenant: str, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        write_as(job, f"SET ROLE {tenant}")
        job.tx.commit()
        who(job.tx)
        raise LookupError("no")

    fill(database, 2)
    if way == "by hand":
        for _ in range(2):
            with pytest.raises(LookupError):
                run(client, handler, way)
    else:
        run(client, handler, way)
    assert [(number, count) for number, _, count, _ in database.jobs()] == [(1, 1), (2, 1)]
    assert (all_written(database), database.locks()) == ([1, 2], [])


@each_way
def test_a_role_that_was_set_outside_a_transaction_ends_with_the_job(
    client: qg.Client, database: Database, tenant: str, way: str
) -> None:
    seen = []

    def handler(job: qg.Job) -> None:
        seen.append(who(job.conn))
        job.conn.rollback()
        execute(job.conn, f"SET ROLE {tenant}")

    fill(database, 3)
    run(client, handler, way)
    assert database.jobs() == []
    assert seen == database.query("SELECT session_user, current_user") * 3


@pytest.mark.parametrize("setting", LOCAL)
def test_what_a_handler_does_after_delete_is_still_done_in_its_role(
    client: qg.Client, database: Database, tenant: str, setting: str
) -> None:
    fill(database, 1)
    with client.lock_job() as job, job.tx.cursor() as cur:
        cur.execute(setting.format(tenant))
        before = who(job.tx)
        job.delete()
        assert who(job.tx) == before
        assert before[1] == tenant
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cur.execute("SELECT FROM que_jobs")
        job.tx.rollback()
        cur.execute(setting.format(tenant))
        job.delete()
    assert database.jobs() == []


def test_a_session_whose_own_role_is_not_its_users_goes_on_in_that(dsn: str, database: Database, tenant: str) -> None:
    """A role that comes with the DSN is the session's own, and so is one that a pool sets when it connects."""
    owner = f"{tenant}_worker"
    database.query(f"CREATE ROLE {owner}; GRANT ALL ON que_jobs, written TO {owner}")
    database.query(f"GRANT TEMPORARY ON DATABASE {database.value('SELECT current_database()')} TO {owner}")
    if database.value("SELECT to_regclass('que_lockers') IS NOT NULL"):
        database.query(f"GRANT ALL ON que_lockers TO {owner}")
    seen = []

    def handler(job: qg.Job) -> None:
        seen.append(who(job.conn)[1])
        write_as(job, f"SET ROLE {tenant}")

    def connect() -> connection:
        conn = psycopg2.connect(dsn)
        execute(conn, f"SET ROLE {owner}")
        return conn

    try:
        for source in (make_dsn(dsn, options=f"-c role={owner}"), connect):
            fill(database, 3)
            with qg.Client(source) as client:
                UntilEmpty(client, {"MyJob": handler}).work()
        assert (database.jobs(), seen) == ([], [owner] * 6)
    finally:
        database.query(f"DROP OWNED BY {owner}; DROP ROLE {owner}")


def test_a_pools_connection_comes_back_in_the_role_that_it_had(dsn: str, database: Database, tenant: str) -> None:
    with closing(psycopg2.connect(dsn)) as conn:
        own = who(conn)
    pool = ThreadedConnectionPool(1, 1, dsn)
    try:
        fill(database, 1)
        with qg.Client(pool) as client:
            job = client.lock_job()
            write_as(job, f"SET ROLE {tenant}")
            job.delete()
            job.done()
        conn = pool.getconn()
        assert who(conn) == own
        pool.putconn(conn)
    finally:
        pool.closeall()


@pytest.mark.parametrize("when", ["in the transaction", "after it"])
def test_a_role_that_is_set_after_delete_ends_with_the_job_as_well(
    dsn: str, database: Database, tenant: str, when: str
) -> None:
    fill(database, 2)
    own = database.query("SELECT session_user, current_user")
    pool = ThreadedConnectionPool(1, 1, dsn)
    try:
        with qg.Client(pool) as client:

            def handler(job: qg.Job) -> None:
                assert [who(job.tx)] == own
                job.delete()
                if when == "after it":
                    job.tx.commit()
                with job.tx.cursor() as cur:
                    cur.execute(f"SET ROLE {tenant}")
                if when == "after it":
                    job.tx.commit()

            UntilEmpty(client, {"MyJob": handler}).work()
            fill(database, 1)
            with client.lock_job() as job:
                handler(job)
        conn = pool.getconn()
        assert [who(conn)] == own
        pool.putconn(conn)
    finally:
        pool.closeall()
    assert database.jobs() == []


@pytest.mark.parametrize(
    "also",
    ["SET default_transaction_read_only = on", "SET default_transaction_isolation = serializable", "DISCARD TEMP"],
)
@pytest.mark.parametrize("way", ["work", "batches"])
def test_a_role_ends_with_the_job_where_the_next_message_has_to_be_sent_again(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, tenant: str, way: str, also: str
) -> None:
    def handler(job: qg.Job) -> None:
        execute(job.conn, also)
        execute(job.conn, f"SET ROLE {tenant}")

    fill(database, 3)
    run(client, handler, way)
    assert (database.jobs(), database.locks()) == ([], [])
    assert [each for each in caplog.messages if each.startswith(("outage", "taking", "job_failed"))] == []
