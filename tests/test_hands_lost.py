"""Pools whose workers share connections: what becomes of jobs when one of these is lost, old, or in doubt."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg2
import pytest
from support import PATIENCE, Database, Network, eventually, locker_of, sleepers_of, try_locks_with
from taking import all_written, do_nothing, events, fill, left, write
from test_hands import Gate, hands

import qg
from qg.database.session import Session

pytestmark = pytest.mark.usefixtures("written")


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.opened.set()


def end_locks(database: Database) -> None:
    """End the one session that has locks."""
    (pid,) = set(database.lock_holders())
    database.terminate(pid)


# The session that has the locks


def test_jobs_whose_locks_are_lost_together_hear_of_it_and_are_deleted_under_new_ones(
    client: qg.Client, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[int] = []

    def handler(job: qg.Job) -> None:
        assert not job.lost
        gate.entered.release()
        eventually(lambda: job.lost, "the loss", timeout=5)
        with pytest.raises(qg.ErrLockLost):
            job.check()
        lost.append(job.id)

    fill(database, 3)
    with hands(client, {"MyJob": handler}, 3):
        gate.wait_for(3)
        end_locks(database)
        eventually(lambda: database.count() == 0)
    assert sorted(lost) == [1, 2, 3]  # once each: they aren't taken again by those who know that they still run
    assert sorted(events(caplog)) == [f"lock_lost id={number}" for number in (1, 2, 3)]


def test_coroutines_whose_locks_are_lost_are_cancelled_and_that_is_an_error_each(
    client: qg.Client, database: Database
) -> None:
    begun: list[int] = []
    told: list[int] = []

    async def wait_for_ever(job: qg.Job) -> None:
        begun.append(job.id)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            told.append(job.id)
            raise

    fill(database, 3)
    with hands(client, {"MyJob": wait_for_ever}, 3, transactions=1):
        eventually(lambda: len(begun) == 3)
        end_locks(database)
        eventually(lambda: [count for _, _, count, _ in database.jobs()] == [1, 1, 1])
    assert sorted(told) == [1, 2, 3]
    assert {text.split(":")[0] for _, _, _, text in database.jobs()} == {"qg.errors.ErrLockLost"}


@pytest.mark.parametrize("ending", ["returns", "fails", "has written"])
def test_a_job_that_somebody_else_has_by_then_is_left_alone(
    client: qg.Client, dsn: str, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    def handler(job: qg.Job) -> None:
        if ending == "has written":
            write(job)
        gate(job)
        if ending == "fails":
            raise LookupError

    fill(database, 1)
    with hands(client, {"MyJob": handler}, 2), qg.Client(dsn) as other:
        gate.wait_for(1)
        end_locks(database)
        with other.lock_job() as theirs:
            assert theirs.id == 1
            gate.opened.set()
            if ending == "has written":  # the row is the fence, and it was there
                eventually(lambda: all_written(database) == [1])
                theirs.delete()
            else:
                eventually(lambda: events(caplog, "job_moved_on"))
                assert [count for _, _, count, _ in database.jobs()] == [0]
                theirs.delete()
    assert events(caplog, "lock_not_ours", "worker_failed", "outage") == []
    assert database.count() == 0


def test_what_others_have_written_and_committed_is_not_written_again(
    client: qg.Client, dsn: str, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("INSERT INTO written VALUES (1000)")
        gate(job)

    fill(database, 1)
    with hands(client, {"MyJob": handler}, 2), qg.Client(dsn) as other:
        gate.wait_for(1)
        end_locks(database)
        with other.lock_job() as theirs:
            write(theirs)
            theirs.delete()
        gate.opened.set()
        eventually(lambda: events(caplog, "job_gone"))
    assert all_written(database) == [1]


def test_a_notice_on_the_session_is_no_loss_of_it(
    client: qg.Client, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """So it is when a setting is reloaded that clients are told of."""
    fill(database, 1, "Slow")
    with hands(client, {"Slow": gate, "MyJob": do_nothing}, 3, listen=False) as pool:
        gate.wait_for(1)
        eventually(lambda: sleepers_of(pool).count == 1)
        conn = locker_of(pool)
        with conn.cursor() as cur:
            cur.execute("LISTEN news")
        if not conn.autocommit:
            conn.commit()
        database.query("NOTIFY news")
        fill(database, 3)
        sleepers_of(pool).wake(1)
        eventually(lambda: left(database) == [1])
        assert (locker_of(pool), database.locks()) == (conn, [1])
        gate.opened.set()
        eventually(lambda: database.count() == 0)
    assert events(caplog) == []


@pytest.mark.parametrize("error", ["query_canceled", "read_only_sql_transaction"])
def test_a_message_that_fails_costs_running_jobs_no_lock_unless_the_session_cant_write(
    database: Database, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """It fails because of a statement_timeout for instance. What can't write may be the old side of a failover."""
    database.query(
        "CREATE FUNCTION try(number bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
        f"IF number > 1 AND NOT EXISTS (SELECT FROM public.written) THEN RAISE {error}; END IF;"
        "RETURN pg_catalog.pg_try_advisory_lock(number); END $$"
    )
    try_locks_with(monkeypatch, "public.try")
    fill(database, 1, "Slow")
    handlers = {"Slow": gate, "MyJob": do_nothing}
    keeps = error == "query_canceled"
    try:
        with (
            qg.Client(database.dsn) as client,
            hands(client, handlers, 3, listen=False, interval=0.1, only_known_types=True) as pool,
        ):
            gate.wait_for(1)
            conn = locker_of(pool)
            fill(database, 3)
            eventually(lambda: events(caplog, "outage_begins"))
            if keeps:
                assert database.locks() == [1]
            else:
                eventually(lambda: conn.closed)
            database.query("INSERT INTO written VALUES (1)")
            gate.opened.set()
            eventually(lambda: database.count() == 0)
            assert (locker_of(pool) is conn) == keeps
    finally:
        database.query("DROP FUNCTION try")
    assert (events(caplog, "lock_lost") == []) or not keeps
    assert len(events(caplog, "outage_over")) == 1


def test_what_returned_while_the_database_was_away_is_deleted_afterwards_and_not_run_again(
    network: Network, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, 4)
    with qg.Client(network.dsn) as client:
        with hands(client, {"MyJob": gate}, 4, interval=0.1):
            gate.wait_for(4)
            network.cut()
            gate.opened.set()
            eventually(lambda: events(caplog, "outage_begins"))
            eventually(lambda: database.locks() == [])  # or each would seem to be somebody else's by now
            network.open()
            eventually(lambda: database.count() == 0)
        assert sorted(gate.ids) == [1, 2, 3, 4]
    assert events(caplog, "job_unrecorded", "job_failed") == []


# The session of a job's own


def test_a_job_that_loses_the_session_of_its_own_fails_and_no_other_job_hears_of_it(
    client: qg.Client, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    def unlucky(job: qg.Job) -> None:
        write(job)
        database.terminate(job.conn.info.backend_pid)

    fill(database, 2, "Slow")
    fill(database, 1, "Unlucky")
    with hands(client, {"Slow": gate, "Unlucky": unlucky}, 3):
        gate.wait_for(2)
        eventually(lambda: [count for _, _, count, _ in database.jobs()] == [0, 0, 1])
        eventually(lambda: database.locks() == [1, 2])
        assert "id=1" not in caplog.text
        gate.opened.set()
        eventually(lambda: left(database) == [3])
    assert (all_written(database), events(caplog, "outage", "job_unrecorded")) == ([], [])


def test_a_handler_that_swallows_the_end_of_its_session_has_failed(client: qg.Client, database: Database) -> None:
    def stubborn(job: qg.Job) -> None:
        write(job)
        job.tx.commit()
        database.terminate(job.conn.info.backend_pid)
        with pytest.raises(psycopg2.Error):
            write(job)

    fill(database, 1)
    with hands(client, {"MyJob": stubborn}, 1):
        eventually(lambda: [count for _, _, count, _ in database.jobs()] == [1])


def test_a_coroutine_whose_own_session_is_lost_is_cancelled(client: qg.Client, database: Database) -> None:
    async def wait(job: qg.Job) -> None:
        write(job)
        database.terminate(job.conn.info.backend_pid)
        await asyncio.sleep(3600)

    fill(database, 1)
    with hands(client, {"MyJob": wait}, 1):
        eventually(lambda: [text and text.split(":")[0] for *_, text in database.jobs()] == ["qg.errors.ErrLockLost"])


# Sessions that are too old


def test_a_session_that_is_too_old_holds_what_it_has_and_another_one_takes_what_comes(
    client: qg.Client,
    database: Database,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bad(job: qg.Job) -> None:
        gate.entered.release()
        assert may_fail.wait(PATIENCE)
        raise LookupError

    may_fail = threading.Event()
    fill(database, 1, "Slow")
    fill(database, 1, "Bad")
    handlers = {"Slow": gate, "Bad": bad, "MyJob": do_nothing}
    with hands(client, handlers, 4, listen=False) as pool:
        gate.wait_for(2)
        eventually(lambda: sleepers_of(pool).count == 1)
        (old,) = set(database.lock_holders())
        monkeypatch.setattr(Session, "expired", property(lambda self: self.conn.info.backend_pid == old))
        fill(database, 3)
        sleepers_of(pool).wake(1)
        eventually(lambda: left(database) == [1, 2])
        assert locker_of(pool).info.backend_pid != old
        assert database.lock_holders() == [old, old]
        may_fail.set()
        eventually(lambda: database.locks() == [1])
        assert old in [pid for pid, _, _ in database.sessions()]
        gate.opened.set()
        eventually(lambda: left(database) == [2])
        eventually(lambda: old not in [pid for pid, _, _ in database.sessions()])
    assert events(caplog) == ["job_failed id=2 type=Bad"]
