"""The row is the fence: what a job's transaction wrote is committed only together with exactly one settled row."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from support import ID, PATIENCE, VERSION, Database, UntilEmpty, eventually
from taking import WAYS, all_written, events, fill, first_lines, from_4, left, work, write

import qg
from qg.locking.locked_row import LockedRow

pytestmark = pytest.mark.usefixtures("written")

REMOVE = f"DELETE FROM que_jobs WHERE {ID} = 1"
SETTLED = {"removed": REMOVE} | (
    {}
    if VERSION == 3
    else {
        "finished": f"UPDATE que_jobs SET finished_at = now() WHERE {ID} = 1",
        "expired": f"UPDATE que_jobs SET expired_at = now() WHERE {ID} = 1",
    }
)
each_settled = pytest.mark.parametrize("settle", SETTLED.values(), ids=list(SETTLED))


@pytest.fixture
def job(client: qg.Client, database: Database) -> Iterator[qg.Job]:
    client.enqueue(qg.Job("MyJob"))
    job = client.lock_job()
    assert job is not None
    yield job
    job.done()


# By hand


@each_settled
def test_to_delete_a_job_that_is_gone_in_a_transaction_is_an_error(
    job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture, settle: str
) -> None:
    write(job)
    database.query(settle)
    for _ in range(2):
        with pytest.raises(qg.ErrJobGone, match="job 1 is gone: somebody else has settled it, or it was removed"):
            job.delete()
    job.done()
    assert (all_written(database), left(database), database.locks()) == ([], [], [])
    assert events(caplog, "job_gone") == ["job_gone id=1"]


def test_the_error_leaves_the_block_and_nothing_is_recorded(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, 2)
    with pytest.raises(qg.ErrJobGone), client.lock_job() as job:
        write(job)
        database.query(REMOVE)
        job.delete()
    assert (all_written(database), first_lines(database), database.locks()) == ([], [(2, 0, None)], [])
    assert events(caplog) == ["job_gone id=1"]


@each_settled
def test_without_a_transaction_there_is_nothing_to_undo(
    job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture, settle: str
) -> None:
    database.query(settle)
    job.delete()
    job.done()
    assert events(caplog) == ["job_gone id=1"]
    assert left(database) == []


@from_4
def test_to_finish_a_job_that_is_gone_is_the_same(job: qg.Job, database: Database) -> None:
    write(job)
    database.query(SETTLED["finished"])
    finished_at = database.value("SELECT finished_at FROM que_jobs")
    with pytest.raises(qg.ErrJobGone):
        job.finish()
    job.done()
    assert (all_written(database), database.value("SELECT finished_at FROM que_jobs")) == ([], finished_at)


@from_4
def test_who_has_finished_a_job_may_delete_it_after_all(job: qg.Job, database: Database) -> None:
    write(job)
    job.finish()
    job.delete()
    job.done()
    assert (all_written(database), database.count()) == ([1], 0)


# Workers


@pytest.mark.parametrize("way", WAYS)
@each_settled
def test_what_the_handler_of_a_job_that_is_gone_wrote_is_rolled_back_and_others_go_on(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, way: str, settle: str
) -> None:
    """So a job that is deleted by hand while it runs is cancelled."""
    caplog.set_level(logging.INFO)

    def handler(job: qg.Job) -> None:
        write(job)
        if job.id == 1:
            database.query(settle)

    fill(database, 3)
    work(client, way, handler)
    assert (all_written(database), left(database), database.locks()) == ([2, 3], [], [])
    assert sorted(events(caplog, "job", "outage", "worker", "session")) == [
        "job_gone id=1",
        "job_worked id=2 type=MyJob",
        "job_worked id=3 type=MyJob",
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_swallows_the_error_changes_nothing_about_it(
    client: qg.Client, database: Database, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        database.query(REMOVE)
        with suppress(qg.ErrJobGone):
            job.delete()

    fill(database, 1)
    work(client, way, handler)
    assert (all_written(database), left(database), database.locks()) == ([], [], [])


@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_after_a_deletion_that_met_no_row_is_rolled_back(
    client: qg.Client, database: Database, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        database.query(REMOVE)
        job.delete()
        write(job)

    fill(database, 1)
    work(client, way, handler)
    assert (all_written(database), left(database)) == ([], [])


@pytest.mark.parametrize("way", WAYS)
def test_a_deletion_that_was_rolled_back_is_none(client: qg.Client, database: Database, way: str) -> None:
    """The row was there when the handler deleted it, and somebody else deletes it for good."""

    def handler(job: qg.Job) -> None:
        job.tx.cursor().execute("SELECT 1")
        job.delete()
        job.tx.rollback()
        database.query(REMOVE)
        write(job)

    fill(database, 1)
    work(client, way, handler)
    assert (all_written(database), left(database)) == ([], [])


@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_after_a_deletion_that_was_committed_is_kept(
    client: qg.Client, database: Database, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        job.delete()
        job.tx.commit()
        with job.tx.cursor() as cur:
            cur.execute("INSERT INTO written VALUES (7)")

    fill(database, 1)
    work(client, way, handler)
    assert (all_written(database), left(database)) == ([1, 7], [])


@pytest.mark.parametrize("way", WAYS)
def test_a_discard_of_a_job_that_is_gone_is_only_logged(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        database.query(REMOVE)
        raise qg.Discard("enough")

    fill(database, 1)
    work(client, way, handler)
    assert (left(database), database.locks()) == ([], [])
    assert events(caplog, "session_given_up", "job_unrecorded") == []


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_the_handler_only_hid_is_still_there_and_the_job_has_failed(
    client: qg.Client, database: Database, way: str
) -> None:
    """Otherwise it would be first in line again, at once and for ever."""
    fill(database, 1)
    work(client, way, lambda job: job.tx.cursor().execute(f"UPDATE que_jobs SET {ID} = -{ID}"))
    ((number, count, message),) = first_lines(database)
    assert (number, count) == (1, 1)
    assert message.startswith("qg.errors.ErrJobGone: job 1 is gone")


# Locks that are lost


@pytest.mark.own_sessions(reason="a handler can't give up a lock that is on another session")
def test_handlers_that_give_their_locks_up_have_one_effect_between_them(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(3, timeout=PATIENCE)
    database.query("CREATE TABLE effects (job bigint)")

    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("SELECT pg_advisory_unlock_all()")
            together.wait()  # nobody has written yet
            cur.execute("INSERT INTO effects VALUES (%s)", (job.id,))

    try:
        fill(database, 1)
        with qg.WorkerPool(client, {"MyJob": handler}, 3, interval=0.01, listen=False):
            eventually(lambda: len(events(caplog, "job_gone")) == 2)
        assert database.query("SELECT * FROM effects") == [(1,)]
        assert (left(database), events(caplog, "job_failed")) == ([], [])
    finally:
        database.query("DROP TABLE effects")


def test_beside_a_locker_that_died_in_its_commit_the_effect_is_single(client: qg.Client, database: Database) -> None:
    """As Ruby's from Que 1 on: the lock is on one session, the work is committed on another."""
    database.query(
        "CREATE TABLE effects (worker text);"
        "CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_advisory_lock(9, 9); PERFORM pg_advisory_unlock(9, 9); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER take_long AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW WHEN (NEW.worker = 'Ruby') EXECUTE FUNCTION take_long()"
    )
    fill(database, 1)
    with closing(database.connect()) as locker, closing(database.connect()) as ruby:
        try:
            locker.cursor().execute("SELECT pg_advisory_lock(1)")
            with ruby.cursor() as cur:
                cur.execute("INSERT INTO effects VALUES ('Ruby')")
                cur.execute(REMOVE)
            database.query("SELECT pg_advisory_lock(9, 9)")
            committing = threading.Thread(target=ruby.commit)
            committing.start()
            eventually(lambda: database.is_waiting_for_a_lock(ruby.info.backend_pid))
            locker.close()
            eventually(lambda: 1 not in database.locks())

            def handler(job: qg.Job) -> None:
                with job.tx.cursor() as cur:
                    cur.execute("INSERT INTO effects VALUES ('Python')")
                database.query("SELECT pg_advisory_unlock(9, 9)")
                committing.join()

            assert qg.Worker(client, {"MyJob": handler}).work_one()
        finally:
            database.query("SELECT pg_advisory_unlock_all()")
            committing.join()
            effects = database.query("SELECT * FROM effects")
            database.query("DROP TABLE effects; DROP FUNCTION take_long()")
    assert effects == [("Ruby",)]
    assert (left(database), database.locks()) == ([], [])


# Records that come late


def settle_meanwhile(database: Database, dsn: str, do: Callable[[qg.Job], None]) -> None:
    """Let somebody else lock job 1, whose lock was lost, and *do* something to it."""
    database.query("UPDATE que_jobs SET run_at = now() - interval '1 hour'")
    with qg.Client(dsn) as other:
        eventually(lambda: database.locks() == [], "the loss of the lock")
        job = other.lock_job()
        assert job is not None
        do(job)
        job.done()


def lose_lock(job: qg.Job) -> None:
    with job.conn.cursor() as cur:
        cur.execute("SELECT pg_advisory_unlock_all()")
    job.conn.commit()


def test_a_failure_that_is_recorded_late_takes_no_errors_of_others_back(
    job: qg.Job, database: Database, dsn: str
) -> None:
    lose_lock(job)
    for _ in range(3):
        settle_meanwhile(database, dsn, lambda other: other.error("theirs"))
    job.error("ours")
    assert first_lines(database) == [(1, 3, "ours")]


@from_4
@pytest.mark.parametrize("settle", [qg.Job.finish, qg.Job.expire])
@pytest.mark.parametrize("late", ["error", "expire", "reschedule"])
def test_a_failure_that_is_recorded_late_leaves_a_settled_row_as_it_is(
    client: qg.Client, database: Database, dsn: str, settle: Callable[[qg.Job], None], late: str
) -> None:
    state = "SELECT error_count, finished_at, expired_at, last_error_message, run_at FROM que_jobs"
    fill(database, 1)
    job = client.lock_job()
    lose_lock(job)
    settle_meanwhile(database, dsn, settle)
    before = database.query(state)
    if late == "reschedule":
        with job:
            raise qg.Reschedule(after=0)
    elif late == "error":
        job.error("ours")
    else:
        job.expire()
    job.done()
    assert database.query(state) == before


def test_a_migration_is_no_error_even_if_the_session_dies_while_that_is_found_out(
    make_database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion fails because of the migration; then the session ends before the job is rescheduled."""
    dsn = make_database(version=3)
    with closing(Database(dsn)) as database, qg.Client(dsn) as client:
        client.enqueue(qg.Job("MyJob"))

        def handler(job: qg.Job) -> None:
            if database.value("SELECT obj_description('que_jobs'::regclass)") == "3":
                pid = job.conn.info.backend_pid
                qg.migrate(dsn, version=4)
                job.tx.cursor().execute("SELECT 1")
                found_out = LockedRow.was_migrated

                def find_out_and_die(locked: LockedRow) -> bool:
                    monkeypatch.undo()
                    was = found_out(locked)
                    database.terminate(pid)
                    return was

                monkeypatch.setattr(LockedRow, "was_migrated", find_out_and_die)

        UntilEmpty(client, {"MyJob": handler}).work()
        assert events(caplog, "job_failed") == []
        assert database.query("SELECT error_count FROM que_jobs") in ([(0,)], [])
