"""What can be done with a locked job by hand: delete, error, done, and the with block."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.pool import ThreadedConnectionPool
from support import LAST_ERROR, VERSION, Database, Network, backend_pid, eventually, table_of

import qg
from qg.database.session import Session


@pytest.fixture(autouse=True)
def written(database: Database) -> Iterator[None]:
    """A table for what handlers write."""
    database.query("CREATE TABLE written (x int PRIMARY KEY)")
    yield
    database.query("DROP TABLE written")


@pytest.fixture
def job(client: qg.Client) -> Iterator[qg.Job]:
    client.enqueue(qg.Job("MyJob", [1]))
    job = client.lock_job()
    yield job
    job.done()


def write(job: qg.Job, x: int = 1) -> None:
    with job.tx.cursor() as cur:
        cur.execute("INSERT INTO written VALUES (%s)", (x,))


def all_written(database: Database) -> list[int]:
    return [x for (x,) in database.query("SELECT x FROM written ORDER BY x")]


# delete()


def test_delete_commits_at_once_where_no_transaction_is_open(job: qg.Job, database: Database) -> None:
    job.delete()
    assert database.count() == 0
    assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
    assert database.locks() == [job.id]


def test_delete_in_a_transaction_becomes_durable_with_the_writes_at_done(job: qg.Job, database: Database) -> None:
    write(job)
    job.delete()
    assert (database.count(), all_written(database)) == (1, [])
    job.done()
    assert (database.count(), all_written(database)) == (0, [1])


def test_delete_in_a_transaction_that_the_caller_commits(job: qg.Job, database: Database) -> None:
    write(job)
    job.delete()
    job.tx.commit()
    assert (database.count(), all_written(database)) == (0, [1])
    job.done()


def test_delete_in_a_transaction_that_the_caller_rolls_back_leaves_the_job(job: qg.Job, database: Database) -> None:
    write(job)
    job.delete()
    job.tx.rollback()
    job.done()
    assert (database.count(), all_written(database)) == (1, [])
    assert database.locks() == []


def test_delete_can_be_said_again_after_a_rollback(job: qg.Job, database: Database) -> None:
    job.tx.cursor().execute("SELECT 1")
    job.delete()
    job.tx.rollback()
    write(job)
    job.delete()
    job.done()
    assert (database.count(), all_written(database)) == (0, [1])


def test_writes_after_a_deletion_that_was_rolled_back_are_rolled_back_too(job: qg.Job, database: Database) -> None:
    write(job, 1)
    job.delete()
    job.tx.rollback()
    write(job, 2)
    job.done()
    assert (database.count(), all_written(database)) == (1, [])


def test_a_deletion_undone_by_a_savepoint_doesnt_commit_the_rest(job: qg.Job, database: Database) -> None:
    write(job)
    with job.tx.cursor() as cur:
        cur.execute("SAVEPOINT before")
        job.delete()
        cur.execute("ROLLBACK TO SAVEPOINT before")
    job.done()
    assert (database.count(), all_written(database)) == (1, [])


def test_writes_in_a_transaction_after_the_deletions_are_rolled_back(job: qg.Job, database: Database) -> None:
    write(job, 1)
    job.delete()
    job.tx.commit()
    write(job, 2)
    job.done()
    assert (database.count(), all_written(database)) == (0, [1])


def test_delete_twice_is_delete_once(job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    job.delete()
    job.delete()
    assert database.count() == 0
    assert "job_gone" not in caplog.text


def test_delete_works_in_autocommit_mode_and_in_a_transaction_begun_by_hand(job: qg.Job, database: Database) -> None:
    job.conn.autocommit = True
    with job.conn.cursor() as cur:
        cur.execute("BEGIN")
        cur.execute("INSERT INTO written VALUES (1)")
        job.delete()
    assert database.count() == 1
    job.done()
    assert (database.count(), all_written(database)) == (0, [1])


def test_neither_delete_nor_error_changes_the_mode_that_the_caller_chose(client: qg.Client, database: Database) -> None:
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    for settle in (lambda job: job.delete(), lambda job: job.error("failed")):
        with client.lock_job() as job:
            job.conn.autocommit = True
            settle(job)
            assert job.conn.autocommit is True
            write(job, job.id)
    assert all_written(database) == [1, 2]


# done()


def test_done_without_delete_rolls_back_and_leaves_job_and_connection(
    job: qg.Job, client: qg.Client, database: Database
) -> None:
    pid = job.conn.info.backend_pid
    write(job)
    job.done()
    assert (database.count(), all_written(database), database.locks()) == (1, [], [])
    assert backend_pid(client) == pid


@pytest.mark.parametrize("trouble", [psycopg2.OperationalError("timeout"), KeyboardInterrupt()], ids=repr)
def test_an_unlock_that_fails_closes_the_connection_and_only_ctrl_c_passes_on(
    job: qg.Job, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: Any
) -> None:
    def fail(*arguments: Any) -> None:
        raise trouble

    monkeypatch.setattr(Session, "run", fail)
    with suppress(KeyboardInterrupt) if isinstance(trouble, KeyboardInterrupt) else nullcontext():
        job.done()
        assert "unlock_failed id=1: timeout; its session was closed" in caplog.text
    eventually(lambda: database.locks() == [] and database.sessions() == [])


def test_done_unlocks_and_keeps_the_connection_for_the_next_job(
    job: qg.Job, client: qg.Client, database: Database
) -> None:
    pid = job.conn.info.backend_pid
    job.done()
    assert database.locks() == []
    with client.lock_job() as again:
        assert again.conn.info.backend_pid == pid


def test_done_may_be_called_again(job: qg.Job) -> None:
    job.done()
    job.done()


def test_after_done_there_is_no_connection_and_every_other_method_says_why(job: qg.Job) -> None:
    job.done()
    assert job.conn is None
    assert job.tx is None
    for forbidden in (job.delete, lambda: job.error("x"), job.__enter__):
        with pytest.raises(qg.ErrNotLocked, match="done\\(\\) was called"):
            forbidden()


def test_a_job_that_was_never_locked_says_so_too() -> None:
    with pytest.raises(qg.ErrNotLocked, match="get it from lock_job"):
        qg.Job("MyJob").delete()


def test_done_from_many_threads_gives_the_connection_back_once(job: qg.Job, database: Database) -> None:
    barrier = threading.Barrier(8)

    def finish() -> None:
        barrier.wait()
        job.done()

    threads = [threading.Thread(target=finish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.locks() == []
    assert len(database.sessions()) == 1


def test_conn_and_done_may_race(client: qg.Client) -> None:
    client.enqueue(qg.Job("MyJob"))
    for _ in range(50):
        job = client.lock_job()
        barrier = threading.Barrier(2)
        seen: list[Any] = []

        def look(job: qg.Job = job, barrier: threading.Barrier = barrier, seen: list[Any] = seen) -> None:
            barrier.wait()
            seen.append(job.conn)

        thread = threading.Thread(target=look)
        thread.start()
        barrier.wait()
        job.done()
        thread.join()
        assert seen[0] is None or isinstance(seen[0], psycopg2.extensions.connection)


def test_done_raises_what_the_commit_raises_and_the_job_is_still_there(job: qg.Job, database: Database) -> None:
    database.query("ALTER TABLE written ADD COLUMN y int REFERENCES written DEFERRABLE INITIALLY DEFERRED")
    with job.tx.cursor() as cur:
        cur.execute("INSERT INTO written VALUES (1, 2)")
    job.delete()
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        job.done()
    assert (database.count(), all_written(database), database.locks()) == (1, [], [])


def test_done_raises_when_the_transaction_with_the_deletion_was_aborted(job: qg.Job, database: Database) -> None:
    write(job)
    job.delete()
    with pytest.raises(psycopg2.errors.DivisionByZero):
        job.tx.cursor().execute("SELECT 1/0")
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        job.done()
    assert (database.count(), all_written(database), database.locks()) == (1, [], [])


def test_done_on_a_lost_session_neither_raises_nor_returns_it(
    job: qg.Job, client: qg.Client, database: Database
) -> None:
    database.terminate(job.conn.info.backend_pid)
    job.done()
    with client.lock_job() as again:
        assert again.id == job.id


def test_done_owes_nothing_once_the_deletion_is_durable(job: qg.Job, database: Database) -> None:
    job.delete()
    job.conn.close()
    job.done()
    assert database.count() == 0
    eventually(lambda: database.locks() == [], "the end of the session")


def test_a_leftover_lock_of_the_handler_doesnt_stay_on_the_connection(job: qg.Job, database: Database) -> None:
    with job.conn.cursor() as cur:
        cur.execute("SELECT pg_advisory_lock(4711)")
    job.conn.commit()
    assert database.locks() == [job.id, 4711]
    job.done()
    assert database.locks() == []


def test_a_session_that_doesnt_hold_its_lock_is_closed_and_said_to_be_pooled(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        client.enqueue(qg.Job("MyJob"))
        job = client.lock_job()
        pid = job.conn.info.backend_pid
        with job.conn.cursor() as cur:
            cur.execute("SELECT pg_advisory_unlock_all()")
        job.delete()
        job.done()
        eventually(lambda pid=pid: pid not in [each[0] for each in database.sessions()], "the session's end")
    assert [record.message for record in caplog.records if "pooler" in record.message] == [
        "lock_not_ours id=1: the session doesn't hold the lock that it took; that is what a handler does that unlocks "
        "more than its own locks, and what a pooler does that pools transactions"
    ]


# error()


def test_error_counts_keeps_the_message_and_delays_the_job(job: qg.Job, database: Database) -> None:
    job.error("world\nended")
    ((run_at, now, count, message),) = database.query("SELECT run_at, now(), error_count, last_error FROM jobs")
    assert (count, message) == (1, "world\nended")
    assert timedelta(seconds=3) < run_at - now <= timedelta(seconds=4)
    assert (job.error_count, job.last_error) == (1, "world\nended")
    assert database.locks() == [job.id]


@pytest.mark.parametrize(("failures", "seconds"), [(0, 4), (1, 19), (2, 84), (10, 14644)])
def test_the_delay_grows_as_in_every_que(client: qg.Client, database: Database, failures: int, seconds: int) -> None:
    client.enqueue(qg.Job("MyJob", run_at=datetime(2020, 1, 1, tzinfo=timezone.utc)))
    database.query("UPDATE que_jobs SET error_count = %s", (failures,))
    with client.lock_job() as job:
        job.error("again")
    ((delay,),) = database.query("SELECT extract(epoch FROM run_at - now()) FROM que_jobs")
    assert seconds - 5 < delay <= seconds


@pytest.mark.parametrize("failures", [240, 32767, 2**31 - 1])
def test_a_job_that_failed_very_often_still_gets_a_delay(dsn: str, database: Database, failures: int) -> None:
    with qg.Client(dsn, maximum_retry_count=math.inf) as client:
        client.enqueue(qg.Job("MyJob"))
        database.query("UPDATE que_jobs SET error_count = %s", (failures,))
        with client.lock_job() as job:
            job.error("again")
    assert database.value("SELECT run_at > now() + interval '99 years' FROM que_jobs")
    assert database.jobs()[0][2] == min(failures + 1, 2**31 - 1)


def test_backoff_says_how_long(dsn: str, database: Database) -> None:
    with qg.Client(dsn, backoff=lambda error_count: error_count * 1000.5) as client:
        client.enqueue(qg.Job("MyJob"))
        database.query("UPDATE que_jobs SET error_count = 2")
        with client.lock_job() as job:
            job.error("again")
    assert 3000 < database.value("SELECT extract(epoch FROM run_at - now()) FROM que_jobs") <= 3001.5


@pytest.mark.parametrize("backoff", [lambda n: 1 / 0, lambda n: float("nan"), lambda n: None, lambda n: "soon"])
def test_a_backoff_that_fails_is_replaced_by_ques(
    dsn: str, database: Database, backoff: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with qg.Client(dsn, backoff=backoff) as client:
        client.enqueue(qg.Job("MyJob"))
        with client.lock_job() as job:
            job.error("again")
    assert 3 < database.value("SELECT extract(epoch FROM run_at - now()) FROM que_jobs") <= 4
    assert "backoff_failed error_count=1" in caplog.text


@pytest.mark.parametrize(
    ("seconds", "stored"), [(-5, 0), (1e300, 100 * 365 * 86400), (float("inf"), 100 * 365 * 86400)]
)
def test_a_backoff_out_of_bounds_is_cut(dsn: str, database: Database, seconds: float, stored: float) -> None:
    with qg.Client(dsn, backoff=lambda error_count: seconds) as client:
        client.enqueue(qg.Job("MyJob"))
        with client.lock_job() as job:
            job.error("again")
    assert abs(database.value("SELECT extract(epoch FROM run_at - now()) FROM que_jobs") - stored) < 5


def test_error_rolls_back_what_the_attempt_wrote(job: qg.Job, database: Database) -> None:
    write(job)
    job.delete()
    job.error("changed my mind")
    job.done()
    assert all_written(database) == []
    assert database.jobs() == [(1, "MyJob", 1, "changed my mind")]


def test_error_twice_counts_one_attempt_and_keeps_the_last_message(job: qg.Job, database: Database) -> None:
    job.error("first")
    job.error("second")
    assert database.jobs() == [(1, "MyJob", 1, "second")]


def test_delete_after_error_deletes(job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    job.error("on second thoughts")
    job.delete()
    assert database.count() == 0
    assert "job_edited" not in caplog.text


@pytest.mark.parametrize(
    ("message", "stored"), [("a\x00b", "a\ufffdb"), ("\ud800x", "?x"), ("", ""), ("ä" * 9, "ä" * 9)]
)
def test_any_text_can_be_an_error(job: qg.Job, database: Database, message: str, stored: str) -> None:
    job.error(message)
    assert database.jobs()[0][3] == stored


def test_an_error_is_escaped_where_the_database_cant_hold_it(make_database: Any) -> None:
    dsn = make_database(options="ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with closing(Database(dsn)) as latin, qg.Client(f"{dsn} client_encoding=UTF8") as client:
        args = ["日本" if VERSION == 3 else "ä"]  # jsonb holds what the database can
        client.enqueue(qg.Job("MyJob", args))
        with client.lock_job() as job:
            assert job.args == args
            job.error("日本 ä")
        assert latin.jobs()[0][3] == "\\u65e5\\u672c \\xe4"


def test_an_error_that_isnt_latin_is_kept_whatever_the_connection_spoke_before(dsn: str, database: Database) -> None:
    def connect() -> Any:
        return psycopg2.connect(dsn, client_encoding="LATIN1")

    with qg.Client(connect) as client:
        client.enqueue(qg.Job("MyJob"))
        with client.lock_job() as job:
            job.error("日本 ä")
    assert database.jobs()[0][3] == "日本 ä"


# Somebody meddles with the row


def test_a_job_edited_while_it_was_worked_is_deleted_all_the_same(
    job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.query("UPDATE que_jobs SET priority = 1, run_at = now() + interval '1 day', queue = 'moved'")
    job.delete()
    assert database.count() == 0
    assert "job_edited id=1" in caplog.text


def test_a_job_edited_while_it_was_worked_gets_its_error_all_the_same(
    job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.query("UPDATE que_jobs SET queue = 'moved', run_at = now() + interval '1 day'")
    job.error("failed")
    assert database.jobs() == [(1, "MyJob", 1, "failed")]
    assert database.query("SELECT queue, run_at < now() + interval '5 s' FROM que_jobs") == [("moved", True)]
    assert "job_edited id=1" in caplog.text


def test_an_error_of_a_job_that_was_removed_is_only_logged(
    job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.query("DELETE FROM que_jobs")
    job.error("failed")
    assert database.count() == 0
    assert "job_gone id=1" in caplog.text


# with job:


def test_the_with_block_of_the_readme_is_one_commit(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob", [1]))
    with client.lock_job() as job:
        write(job, *job.args)
        job.delete()
        assert (database.count(), all_written(database)) == (1, [])
    assert (database.count(), all_written(database), database.locks()) == (0, [1], [])


def test_an_exception_in_the_block_becomes_the_jobs_error_and_passes_on(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))

    def run() -> None:
        with client.lock_job() as job:
            write(job)
            job.delete()
            raise KeyError("nothing\nthere")

    with pytest.raises(KeyError):
        run()
    ((_, _, count, message),) = database.jobs()
    assert count == 1
    first, *trace = message.split("\n")
    assert first == r"KeyError: 'nothing\nthere'"
    assert trace[0] == "Traceback (most recent call last):"
    assert 'raise KeyError("nothing\\nthere")' in message
    assert (all_written(database), database.locks()) == ([], [])


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit()])
def test_every_kind_of_exception_is_an_error_of_the_job(
    client: qg.Client, database: Database, error: BaseException
) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(type(error)), client.lock_job():
        raise error
    assert database.jobs()[0][2] == 1


def test_ctrl_c_releases_the_job_without_blaming_it(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(KeyboardInterrupt), client.lock_job() as job:
        write(job)
        job.delete()
        raise KeyboardInterrupt
    assert database.jobs() == [(1, "MyJob", 0, None)]
    assert (all_written(database), database.locks()) == ([], [])


def test_ctrl_c_on_a_lost_session_is_ctrl_c(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(KeyboardInterrupt), client.lock_job() as job:
        write(job)
        job.delete()
        database.terminate(job.conn.info.backend_pid)
        raise KeyboardInterrupt
    assert database.jobs() == [(1, "MyJob", 0, None)]


def test_reschedule_moves_the_job_and_counts_no_error(client: qg.Client, database: Database) -> None:
    when = datetime(2040, 1, 1, tzinfo=timezone.utc)
    client.enqueue(qg.Job("MyJob"))
    database.query(f"UPDATE que_jobs SET error_count = 2, {LAST_ERROR} = 'before'")
    with client.lock_job() as job:
        write(job)
        raise qg.Reschedule(at=when)
    assert database.value("SELECT run_at FROM que_jobs") == when
    assert database.jobs() == [(1, "MyJob", 2, "before")]
    assert (all_written(database), database.locks()) == ([], [])


def test_reschedule_after_seconds_goes_by_the_databases_clock(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job():
        raise qg.Reschedule(after=1000.5)
    assert 995 < database.value("SELECT extract(epoch FROM run_at - now()) FROM que_jobs") <= 1000.5


def test_rescheduling_a_job_that_was_removed_is_only_logged(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job():
        database.query("DELETE FROM que_jobs")
        raise qg.Reschedule(after=0)
    assert database.count() == 0
    assert "nothing left to reschedule it" in caplog.text


def test_a_verdict_that_cant_be_carried_out_passes_on(network: Network, database: Database) -> None:
    with qg.Client(network.dsn) as client:
        client.enqueue(qg.Job("MyJob"))
        with pytest.raises(qg.Reschedule), client.lock_job():
            network.cut()
            raise qg.Reschedule(after=60)
    assert database.value("SELECT run_at <= now() FROM que_jobs")


def test_discard_drops_the_job_and_what_it_wrote(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        write(job)
        raise qg.Discard("nobody wants it")
    assert (database.count(), all_written(database), database.locks()) == (0, [], [])


class Shouting(qg.Job):
    def error(self, message: str) -> None:
        super().error(message.upper())


def test_an_override_of_error_is_what_records_an_exception(dsn: str, database: Database) -> None:
    with qg.Client(dsn, job_class=Shouting) as client:
        client.enqueue(qg.Job("MyJob"))
        with pytest.raises(RuntimeError), client.lock_job():
            raise RuntimeError("no luck")
    assert database.jobs()[0][3].startswith("RUNTIMEERROR: NO LUCK")


class Silent(qg.Job):
    def error(self, message: str) -> None:
        raise LookupError("can't do it")


def test_an_override_of_error_that_fails_doesnt_hide_what_was_raised(dsn: str, database: Database) -> None:
    with qg.Client(dsn, job_class=Silent) as client:
        client.enqueue(qg.Job("MyJob"))
        with pytest.raises(RuntimeError, match="the real trouble"), client.lock_job() as job:
            write(job)
            job.delete()
            raise RuntimeError("the real trouble")
    assert database.jobs()[0][3].startswith("RuntimeError: the real trouble")


def test_an_error_whose_session_is_gone_is_recorded_on_a_new_one(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(RuntimeError), client.lock_job() as job:
        database.terminate(job.conn.info.backend_pid)
        raise RuntimeError("lost")
    ((_, _, count, message),) = database.jobs()
    assert (count, message.split("\n")[0]) == (1, "RuntimeError: lost")
    assert (job.error_count, job.last_error) == (1, message)
    assert "session_given_up id=1" in caplog.text
    assert "job_unrecorded" not in caplog.text


def test_the_server_gets_a_moment_to_notice_that_the_session_is_gone(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = database.connect()

    def haunt(pause: float) -> None:
        if pause:
            ghost.close()
            eventually(lambda: database.locks() == [])

    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(RuntimeError), client.lock_job() as job:
        database.terminate(job.conn.info.backend_pid)
        # Stands for the session that is gone for us, and not yet for the server.
        ghost.cursor().execute("SELECT pg_advisory_lock(%s)", (job.id,))
        monkeypatch.setattr("qg.locking.row_lock.time", SimpleNamespace(sleep=haunt))
        raise RuntimeError("lost")
    assert database.jobs()[0][2] == 1


def test_an_error_isnt_recorded_on_a_job_that_another_worker_has_by_now(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(RuntimeError), client.lock_job() as job:
        database.terminate(job.conn.info.backend_pid)
        other = client.lock_job()
        raise RuntimeError("lost")
    assert other.id == job.id
    assert database.jobs() == [(1, "MyJob", 0, None)]
    assert "job_moved_on id=1" in caplog.text
    other.done()


def test_a_verdict_whose_session_is_gone_is_carried_out_on_a_new_one(client: qg.Client, database: Database) -> None:
    client.enqueue_batch([qg.Job("Later"), qg.Job("Never")])
    for verdict in (qg.Reschedule(after=3600), qg.Discard()):
        with client.lock_job() as job:
            database.terminate(job.conn.info.backend_pid)
            raise verdict
    assert database.query("SELECT job_class, error_count, run_at > now() FROM que_jobs") == [("Later", 0, True)]


def test_looking_after_a_lost_job_keeps_no_connection(dsn: str, database: Database) -> None:
    pool = ThreadedConnectionPool(0, 2, dsn)
    with qg.Client(pool) as client, closing(database.connect()) as other:
        client.enqueue(qg.Job("MyJob"))
        for _ in range(3):
            with pytest.raises(RuntimeError), client.lock_job() as job:
                database.terminate(job.conn.info.backend_pid)
                other.cursor().execute("SELECT pg_advisory_lock(1)")
                raise RuntimeError("lost")
            other.cursor().execute("SELECT pg_advisory_unlock(1)")
        assert pool._used == {}
    pool.closeall()


def test_trouble_when_a_lost_job_is_locked_anew_leaves_no_lock(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Session.run

    def fail_to_check(session: Session, statement: Any, params: Any = ()) -> Any:
        if statement is table_of(client).check_job:
            raise psycopg2.OperationalError("timeout")
        return run(session, statement, params)

    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(RuntimeError), client.lock_job() as job:
        database.terminate(job.conn.info.backend_pid)
        monkeypatch.setattr(Session, "run", fail_to_check)
        raise RuntimeError("lost")
    eventually(lambda: database.locks() == [])


def test_an_error_isnt_recorded_on_a_job_that_has_changed_since(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(RuntimeError), client.lock_job() as job:
        database.terminate(job.conn.info.backend_pid)
        database.query("UPDATE que_jobs SET run_at = now() + interval '1 hour'")
        raise RuntimeError("lost")
    assert database.jobs() == [(1, "MyJob", 0, None)]
    assert database.locks() == []


# The object


def test_a_job_is_a_dataclass_of_what_can_be_enqueued() -> None:
    assert dataclasses.asdict(qg.Job("MyJob", [1])) == {
        "type": "MyJob",
        "args": [1],
        "queue": "",
        "priority": 100,
        "run_at": None,
        "kwargs": {},
        "tags": (),
    }
    assert dataclasses.replace(qg.Job("MyJob", [1]), priority=5).priority == 5


@pytest.mark.parametrize("name", ["id", "error_count", "last_error", "conn", "tx"])
def test_what_the_database_says_is_read_only(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(qg.Job("MyJob"), name, 1)


def test_a_jobs_args_dont_get_into_its_repr() -> None:
    assert "hunter2" not in repr(qg.Job("MyJob", {"password": "hunter2"}))


def test_nothing_of_the_args_is_logged(client: qg.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.enqueue(qg.Job("MyJob", [{"password": "hunter2"}]))
    assert qg.Worker(client, {"MyJob": lambda job: None}).work_one()
    assert "hunter2" not in caplog.text


def test_jobs_are_equal_only_to_themselves() -> None:
    assert qg.Job("MyJob") != qg.Job("MyJob")
