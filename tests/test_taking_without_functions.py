"""Where a session can have no functions of its own, everything works plainly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, make_dsn
from psycopg2.pool import ThreadedConnectionPool
from support import ID, VERSION, Database, UntilEmpty, lease, take
from taking import each_batch_size, events, execute, fill

import qg


@pytest.fixture(scope="module")
def no_temp(make_database) -> Iterator[str]:
    """A DSN of a role that may work the table and nothing else."""
    dsn = make_database()
    with closing(Database(dsn)) as database:
        name = database.value("SELECT current_database()")
        role = f"{name}_role"
        database.query(f"REVOKE TEMP ON DATABASE {name} FROM PUBLIC; CREATE ROLE {role}")
        database.query(f"GRANT SELECT, INSERT, UPDATE, DELETE ON que_jobs TO {role}")
        database.query(f"GRANT SELECT ON jobs, qg_queues TO {role}")
        if VERSION > 3:
            database.query(f"GRANT SELECT, INSERT, DELETE ON que_lockers TO {role}")
        database.query(f"GRANT USAGE ON SEQUENCE que_jobs_{ID}_seq TO {role}")
        yield make_dsn(dsn, options=f"-c role={role}")
        database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture(params=["no temp", "repeatable read"])
def plain_dsn(request: pytest.FixtureRequest, dsn: str) -> str:
    if request.param == "no temp":
        return request.getfixturevalue("no_temp")
    return make_dsn(dsn, options="-c default_transaction_isolation=repeatable\\ read")


@each_batch_size
def test_where_there_can_be_no_functions_everything_works_plainly_with_one_warning(
    plain_dsn: str, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.args[0])
        assert database.locks() == [job.id]
        if job.args[0] == 4:
            raise LookupError("no 4")

    with closing(Database(plain_dsn)) as database:
        database.query("DELETE FROM que_jobs")
        with qg.Client(plain_dsn) as client:
            first = client.enqueue_batch(qg.Job("MyJob", [number]) for number in range(6))[0]
            with client.lock_job() as job:
                assert (job.id, database.locks()) == (first.id, [first.id])
                assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
                assert not job.conn.autocommit
                job.delete()
            UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
            UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
            assert client.lock_job() is None
            assert database.locks() == []
        assert order == [1, 2, 3, 4, 5]
        assert [(count, text.split("\n")[0]) for _, _, count, text in database.jobs()] == [(1, "LookupError: no 4")]
        database.query("DELETE FROM que_jobs")
    assert [each.split(" ")[0] for each in events(caplog)] == ["taking_plainly", "job_failed"]


@each_batch_size
def test_work_alone_finds_out_by_itself_that_there_can_be_no_functions(
    plain_dsn: str, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    order: list[int] = []
    with closing(Database(plain_dsn)) as database:
        database.query("DELETE FROM que_jobs")
        with qg.Client(plain_dsn) as client:
            client.enqueue_batch(qg.Job("MyJob", [number]) for number in range(4))
            UntilEmpty(client, {"MyJob": lambda job: order.append(job.args[0])}, batch_size=batch_size).work()
            assert database.locks() == []
        assert (order, database.count()) == ([0, 1, 2, 3], 0)
    assert events(caplog) == ["taking_plainly"]


@each_batch_size
def test_a_session_that_refuses_while_another_has_a_job_to_finish_doesnt_make_it_run_twice(
    dsn: str, database: Database, no_hurry: None, batch_size: int
) -> None:
    refusing = make_dsn(dsn, options="-c default_transaction_isolation=repeatable\\ read")
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 3:
            target.append(refusing)
            held = [lease(client) for _ in range(3)]  # the idle ones are used up
            assert take(client, held[-1], "elsewhere") is None
            for session in held:
                session.give_back()

    target = [dsn]
    with qg.Client(lambda: psycopg2.connect(target[-1])) as client:
        fill(database, 10)
        UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
        assert database.locks() == []
    assert (order, database.count()) == (list(range(1, 11)), 0)


@each_batch_size
def test_an_isolation_level_that_a_handler_leaves_behind_leaves_no_lock(
    dsn: str, database: Database, batch_size: int
) -> None:
    pool = ThreadedConnectionPool(1, 3, dsn)
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        execute(job.conn, "SET default_transaction_isolation = 'repeatable read'")

    with qg.Client(pool) as client:
        fill(database, 1)
        UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
        locks = database.locks()
    pool.closeall()
    assert (order, database.count(), locks) == ([1], 0, [])
