"""delete_in_tx() and finish_in_tx(): a job is settled in a transaction of its handler's own, with every library."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any
from unittest.mock import MagicMock

import psycopg2
import pytest
from psycopg2.extensions import connection
from psycopg2.pool import ThreadedConnectionPool
from support import ID, LAST_ERROR, VERSION, Database, Network, UntilEmpty, eventually, name_of, needs
from taking import all_written, each_way, events, fill, first_lines, from_4, kinds, left, work, write
from transactions import django_connection, every_library, write_in

import qg
from qg.testing import inject_job_tx

pytestmark = pytest.mark.usefixtures("written")


NOT_COMMITTED = "qg.errors.ErrNotCommitted: delete_in_tx or finish_in_tx was called for job 1, but its transaction"
ROLLED_BACK = f"{NOT_COMMITTED} hasn't committed: it was rolled back; commit it before the handler returns"
STILL_OPEN = f"{NOT_COMMITTED} hasn't committed: it is still open; commit it before the handler returns"


def work_once(client: qg.Client, way: str, handler: Callable[[qg.Job], None]) -> None:
    """Work the only job in this *way*, though it may be due again at once."""
    if way == "work_one":
        UntilEmpty(client, {"MyJob": handler}).work_one()
    else:
        work(client, way, handler)


@pytest.fixture
def job(client: qg.Client, database: Database) -> Iterator[qg.Job]:
    client.enqueue(qg.Job("MyJob"))
    job = client.lock_job()
    assert job is not None
    yield job
    job.done()


@pytest.fixture
def tx(dsn: str) -> Iterator[connection]:
    """A transaction on a connection of the test's own."""
    with closing(psycopg2.connect(dsn)) as conn:
        yield conn


@pytest.fixture
def other_tx(dsn: str) -> Iterator[connection]:
    with closing(psycopg2.connect(dsn)) as conn:
        yield conn


@pytest.fixture
def handler(tx: connection) -> Callable[[qg.Job], None]:
    """A handler that does all of it."""

    def handler(job: qg.Job) -> None:
        write_in(tx, job.id)
        job.delete_in_tx(tx)
        tx.commit()

    return handler


# Every kind of transaction


@every_library
def test_what_was_written_and_the_deletion_are_one_commit(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, opener: Any
) -> None:
    caplog.set_level(logging.INFO)

    def handler(job: qg.Job) -> None:
        with opener(database.dsn) as (tx, commit, _):
            write_in(tx, job.id)
            job.delete_in_tx(tx)
            assert (all_written(database), left(database)) == ([], [1])
            commit()

    fill(database, 1)
    work(client, "work", handler)
    assert (all_written(database), left(database), database.locks()) == ([1], [], [])
    assert events(caplog, "job", "outage", "worker", "session") == ["job_worked id=1 type=MyJob"]


@every_library
def test_a_transaction_that_is_rolled_back_keeps_the_job_which_has_failed(
    client: qg.Client, database: Database, opener: Any
) -> None:
    def handler(job: qg.Job) -> None:
        with opener(database.dsn) as (tx, _, rollback):
            write_in(tx, job.id)
            job.delete_in_tx(tx)
            rollback()

    fill(database, 1)
    work(client, "work", handler)
    assert (all_written(database), first_lines(database), database.locks()) == ([], [(1, 1, ROLLED_BACK)], [])


@every_library
def test_a_job_that_is_gone_is_an_error_in_every_library(client: qg.Client, database: Database, opener: Any) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(qg.ErrJobGone, match="job 1 is gone"), client.lock_job() as job:
        database.query("DELETE FROM que_jobs")
        with opener(database.dsn) as (tx, _, _):
            job.delete_in_tx(tx)


@pytest.mark.parametrize("tx", [None, "BEGIN", object()], ids=name_of)
def test_what_is_no_transaction_is_refused(job: qg.Job, database: Database, tx: Any) -> None:
    with pytest.raises(qg.ErrUnusable, match="a tx can't be of type"):
        job.delete_in_tx(tx)
    assert left(database) == [1]


@from_4
@every_library
def test_a_job_may_be_kept_as_finished_in_every_library(client: qg.Client, database: Database, opener: Any) -> None:
    def handler(job: qg.Job) -> None:
        with opener(database.dsn) as (tx, commit, _):
            write_in(tx, job.id)
            job.finish_in_tx(tx)
            commit()

    fill(database, 1)
    work(client, "work", handler)
    assert (all_written(database), left(database)) == ([1], [])
    assert database.value("SELECT count(*) FROM que_jobs WHERE finished_at IS NOT NULL") == 1


# Workers


@each_way
def test_a_worker_finds_the_job_settled(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    no_hurry: None,
    way: str,
    handler: Callable[[qg.Job], None],
) -> None:
    caplog.set_level(logging.INFO)
    fill(database, 7)
    work(client, way, handler)
    assert (all_written(database), left(database), database.locks()) == ([1, 2, 3, 4, 5, 6, 7], [], [])
    assert events(caplog, "job", "outage", "worker", "session") == [
        f"job_worked id={number} type=MyJob" for number in range(1, 8)
    ]


@each_way
def test_beside_others_that_leave_their_deletion_to_the_worker_and_some_that_fail(
    client: qg.Client, database: Database, tx: connection, no_hurry: None, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        assert job.id is not None
        if job.id % 4 == 0:
            raise LookupError
        if job.id % 4 == 1:
            write(job)
        if job.id % 4 in (2, 3):
            write_in(tx, job.id)
        if job.id % 4 == 3:
            job.delete_in_tx(tx)
        tx.commit()

    fill(database, 12)
    work(client, way, handler)
    assert (all_written(database), database.locks()) == ([1, 2, 3, 5, 6, 7, 9, 10, 11], [])
    assert [(number, count) for number, count, _ in first_lines(database)] == [(4, 1), (8, 1), (12, 1)]


@each_way
def test_a_transaction_that_the_handler_rolled_back_is_its_failure_and_others_go_on(
    client: qg.Client, database: Database, tx: connection, no_hurry: None, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        write_in(tx, job.id)
        job.delete_in_tx(tx)
        tx.rollback() if job.id == 1 else tx.commit()

    fill(database, 3)
    work(client, way, handler)
    assert (all_written(database), first_lines(database), database.locks()) == ([2, 3], [(1, 1, ROLLED_BACK)], [])


@each_way
def test_an_exception_in_the_block_is_the_failure_as_ever(
    client: qg.Client, database: Database, dsn: str, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        with closing(psycopg2.connect(dsn)) as conn, conn:
            write_in(conn, job.id)
            job.delete_in_tx(conn)
            raise LookupError("no such user")

    fill(database, 1)
    work(client, way, handler)
    assert (all_written(database), first_lines(database)) == ([], [(1, 1, "LookupError: no such user")])


@each_way
def test_an_exception_after_the_commit_undoes_nothing(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    way: str,
    handler: Callable[[qg.Job], None],
) -> None:
    def handler_that_raises(job: qg.Job) -> None:
        handler(job)
        raise LookupError("too late")

    fill(database, 1)
    work(client, way, handler_that_raises)
    assert (all_written(database), left(database), database.locks()) == ([1], [], [])
    assert events(caplog) == ["job_gone id=1", "job_failed id=1 type=MyJob"]
    assert "job_gone id=1: a transaction of its handler's settled it; there was nothing left to record" in caplog.text


@each_way
def test_a_transaction_that_is_still_open_holds_no_worker_up_and_nothing_is_lost(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, tx: connection, way: str
) -> None:
    """Its row can't be written to, so the job stays as it is. It runs again, and has its effect once."""

    def handler(job: qg.Job) -> None:
        write_in(tx, job.id)
        job.delete_in_tx(tx)

    fill(database, 1)
    work_once(client, way, handler)
    assert events(caplog) == ["job_unrecorded id=1", "job_failed id=1 type=MyJob"]
    assert STILL_OPEN in caplog.text
    assert (first_lines(database), database.locks()) == ([(1, 0, None)], [])

    tx.rollback()
    work(client, way, lambda job: (handler(job), tx.commit()))
    assert (all_written(database), left(database)) == ([1], [])


@each_way
def test_a_transaction_that_commits_after_all_has_its_effect_once(
    client: qg.Client, database: Database, tx: connection, other_tx: connection, way: str
) -> None:
    runs: list[connection] = []

    def handler(job: qg.Job) -> None:
        runs.append(tx if not runs else other_tx)
        if len(runs) == 2:
            tx.commit()  # as late as can be: this run has begun
        write_in(runs[-1], 10 + len(runs))
        try:
            job.delete_in_tx(runs[-1])
        except qg.ErrJobGone:
            runs[-1].rollback()
            raise

    fill(database, 1)
    work_once(client, way, handler)
    work(client, way, handler)
    assert len(runs) == 2
    assert (all_written(database), left(database), database.locks()) == ([11], [], [])


def test_a_connection_that_is_dropped_without_a_commit_is_a_failure(
    client: qg.Client, database: Database, dsn: str
) -> None:
    """The server may notice a moment later, and has the row locked until then."""

    def handler(job: qg.Job) -> None:
        job.delete_in_tx(psycopg2.connect(dsn))

    fill(database, 1)
    work(client, "work", handler)
    ((number, count, message),) = first_lines(database)
    assert (number, count) == (1, 1)
    assert message.startswith(NOT_COMMITTED)


@each_way
def test_a_connection_that_is_killed_before_the_commit_is_a_failure(
    client: qg.Client, database: Database, tx: connection, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        write_in(tx, job.id)
        job.delete_in_tx(tx)
        database.terminate(tx.info.backend_pid)
        with suppress(psycopg2.Error):
            tx.commit()

    fill(database, 1)
    work(client, way, handler)
    assert (all_written(database), first_lines(database)) == ([], [(1, 1, ROLLED_BACK)])


@each_way
def test_a_savepoint_that_is_rolled_back_takes_the_deletion_along(
    client: qg.Client, database: Database, tx: connection, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        write_in(tx, job.id)
        tx.cursor().execute("SAVEPOINT here")
        job.delete_in_tx(tx)
        tx.cursor().execute("ROLLBACK TO here")
        tx.commit()

    fill(database, 1)
    work(client, way, handler)
    assert (all_written(database), first_lines(database)) == ([1], [(1, 1, ROLLED_BACK)])


@each_way
def test_a_job_that_somebody_removes_is_cancelled(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, dsn: str, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        with closing(psycopg2.connect(dsn)) as conn, conn:
            write_in(conn, job.id)
            if job.id == 1:
                database.query(f"DELETE FROM que_jobs WHERE {ID} = 1")
            job.delete_in_tx(conn)
            conn.commit()

    fill(database, 2)
    work(client, way, handler)
    assert (all_written(database), left(database), database.locks()) == ([2], [], [])
    assert events(caplog) == ["job_gone id=1"]


@each_way
def test_a_job_that_somebody_removes_after_the_rollback_is_gone(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, tx: connection, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        job.delete_in_tx(tx)
        tx.rollback()
        database.query("DELETE FROM que_jobs")

    fill(database, 1)
    work(client, way, handler)
    assert (left(database), database.locks()) == ([], [])
    assert events(caplog) == ["job_gone id=1"]


@each_way
def test_a_job_that_somebody_edits_is_deleted_by_its_id(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    way: str,
    handler: Callable[[qg.Job], None],
) -> None:
    def handler_of_edited_job(job: qg.Job) -> None:
        database.query("UPDATE que_jobs SET priority = 7")
        handler(job)

    fill(database, 1)
    work(client, way, handler_of_edited_job)
    assert (all_written(database), left(database)) == ([1], [])
    assert events(caplog) == ["job_edited id=1"]
    assert "it was deleted by its id" in caplog.text


def test_a_class_that_deletes_in_its_own_way_isnt_asked(database: Database, tx: connection) -> None:
    class Kept(qg.Job):
        def delete(self) -> None:
            raise AssertionError

    def handler(job: qg.Job) -> None:
        job.delete_in_tx(tx)
        tx.commit()

    fill(database, 3)
    with qg.Client(database.dsn, job_class=Kept) as client:
        for way in ("work_one", "work"):
            work(client, way, handler)
    assert left(database) == []


@each_way
def test_a_handler_that_releases_the_job_itself_is_looked_after_as_well(
    client: qg.Client, database: Database, tx: connection, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        write_in(tx, job.id)
        job.delete_in_tx(tx)
        tx.rollback() if job.id == 1 else tx.commit()
        job.done()

    fill(database, 2)
    work(client, way, handler)
    assert (all_written(database), first_lines(database), database.locks()) == ([2], [(1, 1, ROLLED_BACK)], [])


@each_way
def test_what_was_written_on_the_jobs_own_connection_as_well_shares_its_fate(
    client: qg.Client, database: Database, tx: connection, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        job.delete_in_tx(tx)
        tx.rollback() if job.id == 1 else tx.commit()

    fill(database, 2)
    work(client, way, handler)
    assert (all_written(database), first_lines(database)) == ([2], [(1, 1, ROLLED_BACK)])


@each_way
def test_an_older_snapshot_on_the_jobs_own_connection_misleads_nobody(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    way: str,
    handler: Callable[[qg.Job], None],
) -> None:
    caplog.set_level(logging.INFO)

    def handler_with_snapshot(job: qg.Job) -> None:
        job.tx.set_session(isolation_level="REPEATABLE READ")
        job.tx.cursor().execute("SELECT count(*) FROM que_jobs")
        handler(job)

    fill(database, 1)
    work(client, way, handler_with_snapshot)
    assert (all_written(database), left(database)) == ([1], [])
    assert events(caplog, "job") == ["job_worked id=1 type=MyJob"]


# Its cost


def costs(network: Network) -> list[str]:
    return ["look" if "txid_status" in each else each for each in kinds(network)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_it_costs_one_look_a_job_and_breaks_up_no_batch(
    counted: qg.Client,
    network: Network,
    database: Database,
    no_hurry: None,
    handler: Callable[[qg.Job], None],
    size: int,
) -> None:
    fill(database, 10)
    UntilEmpty(counted, {"MyJob": handler}, batch_size=size).work()
    assert costs(network) == ["take", *([*["look"] * size, "take"] * (10 // size))]
    assert all_written(database) == list(range(1, 11))


def test_a_batch_that_is_broken_up_unlocks_what_handlers_have_settled(
    client: qg.Client, database: Database, no_hurry: None, handler: Callable[[qg.Job], None]
) -> None:
    held: list[list[int]] = []

    def handler_of_some(job: qg.Job) -> None:
        if job.id == 4:
            held.append(database.locks())
            write(job)
            held.append(database.locks())
        else:
            handler(job)

    fill(database, 5)
    work(client, "batches", handler_of_some)
    assert held == [[1, 2, 3, 4, 5], [4]]
    assert (all_written(database), left(database)) == ([1, 2, 3, 4, 5], [])


# By hand


def test_by_hand_done_only_unlocks(job: qg.Job, database: Database, tx: connection) -> None:
    with job:
        write_in(tx, 1)
        job.delete_in_tx(tx)
        tx.commit()
        assert database.locks() == [1]
    assert (all_written(database), left(database), database.locks()) == ([1], [], [])


def test_by_hand_a_rollback_leaves_the_job_as_it_was(
    job: qg.Job, client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, tx: connection
) -> None:
    with job:
        job.delete_in_tx(tx)
        tx.rollback()
    assert (first_lines(database), database.locks(), events(caplog)) == ([(1, 0, None)], [], [])
    with client.lock_job() as again:
        assert again.id == job.id


def test_by_hand_what_is_committed_after_the_block_counts_too(job: qg.Job, database: Database, tx: connection) -> None:
    with job:
        write_in(tx, 1)
        job.delete_in_tx(tx)
    assert (left(database), database.locks()) == ([1], [])
    tx.commit()
    assert (all_written(database), left(database)) == ([1], [])


def test_by_hand_a_transaction_on_the_jobs_own_connection_is_rolled_back(
    job: qg.Job, database: Database, tx: connection
) -> None:
    with job:
        write(job)
        job.delete_in_tx(tx)
        tx.commit()
    assert (all_written(database), left(database)) == ([], [])


def test_it_needs_the_lock(job: qg.Job, database: Database, tx: connection) -> None:
    job.done()
    with pytest.raises(qg.ErrNotLocked, match="can't delete_in_tx"):
        job.delete_in_tx(tx)
    with pytest.raises(qg.ErrNotLocked, match="can't finish_in_tx"):
        job.finish_in_tx(tx)
    assert left(database) == [1]


# The job's own connection


@each_way
def test_the_jobs_own_transaction_is_one_like_any_other(client: qg.Client, database: Database, way: str) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        job.delete_in_tx(job.tx)
        assert left(database) != []

    fill(database, 2)
    work(client, way, handler)
    assert (all_written(database), left(database), database.locks()) == ([1, 2], [], [])


@each_way
def test_to_roll_it_back_is_a_failure_there_too(client: qg.Client, database: Database, way: str) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        job.delete_in_tx(job.tx)
        job.tx.rollback()

    fill(database, 1)
    work(client, way, handler)
    assert (all_written(database), first_lines(database)) == ([], [(1, 1, ROLLED_BACK)])


@pytest.mark.parametrize("begun", [True, False])
def test_by_hand_done_commits_what_is_in_the_jobs_own_transaction(job: qg.Job, database: Database, begun: bool) -> None:
    with job:
        if begun:
            write(job)
        job.delete_in_tx(job.tx)
        assert left(database) == [1]
    assert (all_written(database), left(database)) == ([1] if begun else [], [])


@each_way
@pytest.mark.parametrize("commits", [True, False])
def test_a_session_of_sqlalchemy_on_the_jobs_own_connection(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str, commits: bool
) -> None:
    """Without a commit, SQLAlchemy rolls back when the session is closed: then the job has failed."""
    sqlalchemy, orm = needs("sqlalchemy"), needs("sqlalchemy.orm")

    def handler(job: qg.Job) -> None:
        eng = sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: job.tx)
        with orm.Session(eng) as session:
            write_in(session, job.id)
            job.delete_in_tx(session)
            if commits:
                session.commit()

    fill(database, 1)
    work(client, way, handler)
    if commits:
        assert (all_written(database), left(database)) == ([1], [])
    else:
        assert (all_written(database), first_lines(database)) == ([], [(1, 1, ROLLED_BACK)])


# Several calls


def test_to_call_it_twice_in_one_transaction_is_to_call_it_once(
    job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture, tx: connection
) -> None:
    for _ in range(3):
        job.delete_in_tx(tx)
    tx.commit()
    job.delete_in_tx(tx)
    tx.rollback()
    job.done()
    assert (left(database), events(caplog)) == ([], [])


def test_a_second_transaction_is_refused_while_the_first_is_open(
    job: qg.Job, database: Database, tx: connection, other_tx: connection
) -> None:
    """It would wait for the first one, for ever."""
    job.delete_in_tx(tx)
    with pytest.raises(qg.ErrNotCommitted, match="job 1 was settled in a transaction that is still open"):
        job.delete_in_tx(other_tx)
    other_tx.rollback()
    tx.rollback()
    job.delete_in_tx(other_tx)
    other_tx.commit()
    job.done()
    assert left(database) == []


def test_a_second_transaction_that_works_counts_after_a_first_that_was_rolled_back(
    client: qg.Client, database: Database, tx: connection, handler: Callable[[qg.Job], None]
) -> None:
    def handler_that_tries_twice(job: qg.Job) -> None:
        job.delete_in_tx(tx)
        tx.rollback()
        handler(job)

    fill(database, 1)
    work(client, "work", handler_that_tries_twice)
    assert (all_written(database), left(database)) == ([1], [])


def test_after_delete_it_does_nothing_more(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, handler: Callable[[qg.Job], None]
) -> None:
    caplog.set_level(logging.INFO)

    def handler_that_deletes(job: qg.Job) -> None:
        job.delete()
        handler(job)

    fill(database, 1)
    work(client, "work", handler_that_deletes)
    assert (all_written(database), left(database)) == ([1], [])
    assert events(caplog, "job") == ["job_worked id=1 type=MyJob"]


def test_after_delete_in_an_open_transaction_it_is_refused(job: qg.Job, database: Database, tx: connection) -> None:
    write(job)
    job.delete()
    with pytest.raises(qg.ErrNotCommitted):
        job.delete_in_tx(tx)
    job.done()
    assert (all_written(database), left(database)) == ([1], [])


@pytest.mark.parametrize("begun", [True, False])
def test_delete_after_a_rollback_deletes(job: qg.Job, database: Database, tx: connection, begun: bool) -> None:
    job.delete_in_tx(tx)
    tx.rollback()
    if begun:
        write(job)
    job.delete()
    job.done()
    assert (all_written(database), left(database)) == ([1] if begun else [], [])


@each_way
def test_a_handler_may_delete_its_job_after_a_rollback(
    client: qg.Client, database: Database, tx: connection, way: str
) -> None:
    def handler(job: qg.Job) -> None:
        job.delete_in_tx(tx)
        tx.rollback()
        job.delete()

    fill(database, 2)
    work(client, way, handler)
    assert left(database) == []


def test_delete_after_the_commit_does_nothing_more(
    job: qg.Job, database: Database, caplog: pytest.LogCaptureFixture, tx: connection
) -> None:
    job.delete_in_tx(tx)
    tx.commit()
    job.delete()
    write(job)
    job.delete()
    job.done()
    assert (all_written(database), left(database), events(caplog)) == ([1], [], [])


@pytest.mark.parametrize("begun", [True, False])
def test_delete_while_it_is_open_is_refused(job: qg.Job, database: Database, tx: connection, begun: bool) -> None:
    if begun:
        write(job)
    job.delete_in_tx(tx)
    with pytest.raises(qg.ErrNotCommitted, match="commit that, or roll it back, before you settle the job elsewhere"):
        job.delete()
    tx.commit()
    job.done()
    assert (all_written(database), left(database)) == ([], [])


def test_after_an_error_it_deletes_the_job(job: qg.Job, database: Database, tx: connection) -> None:
    job.error("first")
    job.delete_in_tx(tx)
    tx.commit()
    job.done()
    assert left(database) == []


# What else may be done to a job


def error(job: qg.Job) -> None:
    job.error("no luck")


def expire(job: qg.Job) -> None:
    job.expire()


def reschedule(job: qg.Job) -> None:
    raise qg.Reschedule(after=3600)


def discard(job: qg.Job) -> None:
    raise qg.Discard("enough")


each_end = pytest.mark.parametrize("end", [error, expire, reschedule, discard], ids=lambda end: end.__name__)


@each_way
@each_end
def test_after_a_rollback_all_else_is_as_ever(
    client: qg.Client, database: Database, tx: connection, way: str, end: Callable[[qg.Job], None]
) -> None:
    def handler(job: qg.Job) -> None:
        job.delete_in_tx(tx)
        tx.rollback()
        end(job)

    fill(database, 1)
    work(client, way, handler)
    state = f"SELECT error_count, {LAST_ERROR}, run_at > now() + interval '30 minutes' FROM que_jobs"
    expired = (1, None, VERSION == 3)  # from version 4 on run_at stays
    expected = {error: [(1, "no luck", False)], expire: [expired], reschedule: [(0, None, True)], discard: []}
    assert (database.query(state), database.locks()) == (expected[end], [])


@each_way
@each_end
def test_after_the_commit_nothing_is_left_to_be_done(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    way: str,
    end: Callable[[qg.Job], None],
    handler: Callable[[qg.Job], None],
) -> None:
    def handler_that_goes_on(job: qg.Job) -> None:
        handler(job)
        end(job)

    fill(database, 1)
    work(client, way, handler_that_goes_on)
    assert (all_written(database), left(database), database.locks()) == ([1], [], [])
    assert events(caplog, "job_gone") == ([] if end is discard else ["job_gone id=1"])
    assert events(caplog, "session", "job_unrecorded", "outage") == []


@each_way
@each_end
def test_while_it_is_open_all_else_is_left_undone_and_no_worker_hangs(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    tx: connection,
    way: str,
    end: Callable[[qg.Job], None],
) -> None:
    def handler(job: qg.Job) -> None:
        job.delete_in_tx(tx)
        end(job)

    fill(database, 1)
    work_once(client, way, handler)
    assert events(caplog, "job_unrecorded", "session") == ["job_unrecorded id=1"]
    tx.rollback()
    assert (first_lines(database), database.locks()) == ([(1, 0, None)], [])


@each_way
@each_end
@pytest.mark.parametrize("commits", [True, False])
def test_a_worker_that_waits_for_it_goes_on_when_it_ends(
    client: qg.Client,
    database: Database,
    tx: connection,
    way: str,
    end: Callable[[qg.Job], None],
    commits: bool,
) -> None:
    """So a connection that is only dropped is no trouble, though its server process ends a moment later."""
    ending: list[threading.Thread] = []

    def end_tx() -> None:
        eventually(lambda: any(database.is_waiting_for_a_lock(pid) for pid, _, _ in database.sessions()))
        tx.commit() if commits else tx.rollback()

    def handler(job: qg.Job) -> None:
        job.delete_in_tx(tx)
        ending.append(threading.Thread(target=end_tx))
        ending[0].start()
        end(job)

    fill(database, 1)
    work(client, way, handler)
    ending[0].join()
    state = f"SELECT error_count, {LAST_ERROR}, run_at > now() + interval '30 minutes' FROM que_jobs"
    expired = (1, None, VERSION == 3)
    expected = {error: [(1, "no luck", False)], expire: [expired], reschedule: [(0, None, True)], discard: []}
    assert (database.query(state), database.locks()) == ([] if commits else expected[end], [])


def test_by_hand_an_error_that_cant_be_written_is_raised(job: qg.Job, database: Database, tx: connection) -> None:
    job.delete_in_tx(tx)
    for write_it in (error, expire):
        with pytest.raises(qg.ErrNotCommitted, match="nothing can be written to job 1, since somebody has locked"):
            write_it(job)
    tx.rollback()
    job.error("now")
    job.done()
    assert first_lines(database) == [(1, 1, "now")]


# Somebody else's transaction


def test_who_meets_the_transaction_of_another_run_waits_no_longer_than_the_callers_timeout(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    tx: connection,
    other_tx: connection,
) -> None:
    fill(database, 1)
    tx.cursor().execute("DELETE FROM que_jobs")

    def handler(job: qg.Job) -> None:
        other_tx.cursor().execute("SET LOCAL lock_timeout = '50ms'")
        with other_tx:
            job.delete_in_tx(other_tx)

    work(client, "work", handler)
    assert "LockNotAvailable" in caplog.text
    assert events(caplog, "job_unrecorded", "session") == ["job_unrecorded id=1"]
    tx.rollback()
    assert (first_lines(database), database.locks()) == ([(1, 0, None)], [])


@pytest.mark.parametrize(("given", "then"), [("0", "10s"), ("7s", "7s")])
@pytest.mark.parametrize("edited", [False, True])
def test_it_waits_ten_seconds_unless_the_transaction_says_otherwise(
    job: qg.Job, database: Database, tx: connection, given: str, then: str, edited: bool
) -> None:
    database.query(
        "CREATE TABLE seen (lock_timeout text);"
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO seen SELECT current_setting('lock_timeout'); RETURN OLD; END $$;"
        "CREATE TRIGGER see BEFORE DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION see()"
    )
    try:
        if edited:
            database.query("UPDATE que_jobs SET priority = 7")
        with tx.cursor() as cur:
            cur.execute("SELECT set_config('lock_timeout', %s, false)", (given,))
            job.delete_in_tx(tx)
            cur.execute("SHOW lock_timeout")
            assert cur.fetchone() == (given,)
            tx.commit()
            cur.execute("SHOW lock_timeout")
            assert cur.fetchone() == (given,)
            tx.rollback()
        assert database.query("SELECT * FROM seen") == [(then,)]
    finally:
        job.done()
        database.query("DROP TRIGGER see ON que_jobs; DROP FUNCTION see(); DROP TABLE seen")


# Lost sessions, and dead workers


@contextmanager
def closing_pool(pool: ThreadedConnectionPool) -> Iterator[ThreadedConnectionPool]:
    try:
        yield pool
    finally:
        pool.closeall()


@each_way
@pytest.mark.parametrize("commits", [True, False])
def test_a_session_that_is_lost_changes_nothing_about_it(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    tx: connection,
    way: str,
    commits: bool,
) -> None:
    caplog.set_level(logging.INFO)

    def handler(job: qg.Job) -> None:
        write_in(tx, job.id)
        job.delete_in_tx(tx)
        if commits:
            tx.commit()
        for pid in database.lock_holders():
            database.terminate(pid)
        tx.rollback()

    fill(database, 1)
    work(client, way, handler)
    if commits:
        assert (all_written(database), left(database)) == ([1], [])
        assert events(caplog, "job") == ["job_worked id=1 type=MyJob"]
    else:
        assert (all_written(database), first_lines(database)) == ([], [(1, 1, ROLLED_BACK)])
    assert database.locks() == []


@pytest.mark.parametrize("way", ["work_one", "work", "batches"])
def test_a_pool_of_one_connection_has_another_one_to_look_on(
    database: Database, caplog: pytest.LogCaptureFixture, way: str, handler: Callable[[qg.Job], None]
) -> None:
    caplog.set_level(logging.INFO)

    def handler_that_loses(job: qg.Job) -> None:
        handler(job)
        for pid in database.lock_holders():
            database.terminate(pid)

    fill(database, 1)
    with closing_pool(ThreadedConnectionPool(1, 1, database.dsn)) as pool, qg.Client(pool) as client:
        work(client, way, handler_that_loses)
    assert events(caplog, "job") == ["job_worked id=1 type=MyJob"]


def test_a_session_that_is_lost_while_the_transaction_is_open_leaves_the_job_as_it_is(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, tx: connection
) -> None:
    def handler(job: qg.Job) -> None:
        job.delete_in_tx(tx)
        for pid in database.lock_holders():
            database.terminate(pid)
        raise LookupError

    fill(database, 1)
    UntilEmpty(client, {"MyJob": handler}).work_one()
    assert events(caplog, "job_unrecorded") == ["job_unrecorded id=1"]
    tx.rollback()
    assert (first_lines(database), database.locks()) == ([(1, 0, None)], [])


WORKER = """
import os, signal, psycopg2, qg
def handler(job):
    conn = psycopg2.connect({dsn!r})
    conn.cursor().execute("INSERT INTO written VALUES (1)")
    job.delete_in_tx(conn)
    if {commits}:
        conn.commit()
    os.kill(os.getpid(), signal.SIGKILL)
qg.Worker(qg.Client({dsn!r}), {{"MyJob": handler}}, batch_size={size}).{method}()
"""


@pytest.mark.parametrize("commits", [True, False], ids=["after the commit", "before the commit"])
@pytest.mark.parametrize(("method", "size"), [("work_one", 1), ("work", 5)])
def test_a_worker_that_is_killed_has_had_its_effect_once_or_runs_again(
    client: qg.Client,
    database: Database,
    handler: Callable[[qg.Job], None],
    commits: bool,
    method: str,
    size: int,
) -> None:
    fill(database, 1)
    code = WORKER.format(dsn=database.dsn, commits=commits, method=method, size=size)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    eventually(lambda: database.locks() == [], "the end of the session that held the lock")
    assert (all_written(database), left(database)) == (([1], []) if commits else ([], [1]))
    runs: list[int | None] = []
    work(client, "work", lambda job: (runs.append(job.id), handler(job)))
    assert (runs, all_written(database), left(database)) == ([] if commits else [1], [1], [])


# Versions of the table


@pytest.mark.skipif(VERSION != 3, reason="later versions keep them")
def test_version_3_keeps_no_finished_jobs(
    client: qg.Client, job: qg.Job, database: Database, tx: connection, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(qg.ErrTable, match="keeps no finished jobs"):
        job.finish_in_tx(tx)
    job.done()
    work(client, "work", lambda job: job.finish_in_tx(tx))
    ((_, count, message),) = first_lines(database)
    assert (count, message.split(":")[0]) == (1, "qg.errors.ErrTable")


@from_4
def test_who_has_finished_a_job_in_a_transaction_may_delete_it_there(
    job: qg.Job, database: Database, tx: connection
) -> None:
    job.finish_in_tx(tx)
    job.delete_in_tx(tx)
    tx.commit()
    job.done()
    assert database.count() == 0


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_migration_while_it_runs_is_no_failure(
    make_database: Callable[..., str], caplog: pytest.LogCaptureFixture, driver: str
) -> None:
    """The statement fails in the caller's transaction, whatever errors its driver has. The next run succeeds."""
    dsn = make_database(version=3)
    connect = needs(driver).connect
    runs: list[int] = []
    with closing(Database(dsn)) as database, qg.Client(dsn) as client:
        database.query("CREATE TABLE written (x bigint)")
        client.enqueue(qg.Job("MyJob"))

        def handler(job: qg.Job) -> None:
            runs.append(job.error_count)
            if len(runs) == 1:
                qg.migrate(dsn, version=7)
            with closing(connect(dsn)) as conn:
                write_in(conn, len(runs))
                job.delete_in_tx(conn)
                conn.commit()

        UntilEmpty(client, {"MyJob": handler}).work()
        assert (runs, all_written(database), database.count()) == ([0, 0], [2], 0)
    assert events(caplog, "job_failed") == []


# Django


@each_way
@pytest.mark.parametrize("fails", [False, True])
def test_djangos_atomic_is_such_a_transaction(client: qg.Client, database: Database, way: str, fails: bool) -> None:
    with django_connection(database.dsn) as (django, _, _):
        from django.db import transaction

        transaction.set_autocommit(True)

        def handler(job: qg.Job) -> None:
            try:
                with transaction.atomic():
                    with transaction.atomic():
                        write_in(django, job.id)
                        job.delete_in_tx(django)
                    if fails:
                        raise LookupError("no such user")
            finally:
                if way.startswith("hands"):
                    django.close()  # Django opens one for each thread

        fill(database, 2)
        work(client, way, handler)
        if fails:
            errors = [(1, 1, "LookupError: no such user"), (2, 1, "LookupError: no such user")]
            assert (all_written(database), first_lines(database)) == ([], errors)
        else:
            assert (all_written(database), left(database)) == ([1, 2], [])


# Without a row


def test_a_handler_that_uses_it_can_be_tested() -> None:
    tx = MagicMock()
    with inject_job_tx(qg.Job("MyJob"), tx) as job:
        job.delete_in_tx(tx)
        job.finish_in_tx(tx)
    assert tx.mock_calls == []


def test_a_job_that_runs_within_enqueue_is_taken_for_deleted(database: Database, dsn: str) -> None:
    def handler_of_no_row(job: qg.Job) -> None:
        with closing(psycopg2.connect(dsn)) as conn, conn:
            write_in(conn, 7)
            job.delete_in_tx(conn)

    with qg.Client(dsn, run_synchronously={"MyJob": handler_of_no_row}) as client:
        client.enqueue(qg.Job("MyJob"))
    assert (all_written(database), database.count()) == ([7], 0)
