"""job.lost and job.check(): the session ends while the handler is busy elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support import Database, Network, UntilEmpty, eventually
from taking import events, fill, write

import qg
from qg.database.driver import is_lost, is_quiet
from qg.working.handlers import run_handler

pytestmark = pytest.mark.usefixtures("written")


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("way", ["by hand", "work_one", "work", "batches"])
def test_a_job_whose_session_was_ended_is_lost_and_its_check_raises(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str, writes: bool
) -> None:
    told = []

    def handler(job: qg.Job) -> None:
        if writes:
            write(job)
        job.check()
        assert not job.lost
        database.terminate(database.lock_holders()[0])
        eventually(lambda: job.lost, "the loss", timeout=2)
        for _ in range(2):
            with pytest.raises(qg.ErrLockLost, match="the session of Job.* has ended while it ran"):
                job.check()
        told.append(job.lost)

    fill(database, 1)
    if way == "by hand":
        job = client.lock_job()
        handler(job)
        job.done()
    elif way == "work_one":
        UntilEmpty(client, {"MyJob": handler}).work_one()
    else:
        UntilEmpty(client, {"MyJob": once(handler)}, batch_size=5 if way == "batches" else 1).work()
    assert told == [True]
    assert events(caplog, "lock_lost") == ["lock_lost id=1"]


def once(handler: Callable[[qg.Job], None]) -> Callable[[qg.Job], None]:
    calls: list[int] = []

    def run(job: qg.Job) -> None:
        if not calls:
            calls.append(1)
            handler(job)

    return run


def test_a_connection_that_was_cut_is_lost(network: Network, database: Database) -> None:
    fill(database, 1)
    with qg.Client(network.dsn) as client:
        job = client.lock_job()
        assert not job.lost
        network.cut()
        eventually(lambda: job.lost, "the loss", timeout=2)
        job.done()
        assert job.lost


def test_a_notification_and_a_transaction_of_any_kind_are_no_loss(client: qg.Client, database: Database) -> None:
    fill(database, 1)
    with client.lock_job() as job, job.tx.cursor() as cur:
        cur.execute("LISTEN news")
        job.tx.commit()
        assert not job.lost
        database.query("NOTIFY news")
        pid = job.conn.info.backend_pid
        eventually(lambda: ("idle",) in database.query("SELECT state FROM pg_stat_activity WHERE pid = %s", (pid,)))
        assert not job.lost
        with pytest.raises(Exception, match="division by zero"):
            cur.execute("SELECT 1 / 0")
        assert not job.lost
        job.tx.rollback()
        cur.execute("UNLISTEN news")
        job.tx.commit()


def test_to_ask_costs_no_message_and_no_batch(counted: qg.Client, network: Network, database: Database) -> None:
    fill(database, 3)
    UntilEmpty(counted, {"MyJob": lambda job: job.check()}, batch_size=5).work()
    assert database.count() == 0
    with_check = len(network.statements)
    network.statements.clear()
    fill(database, 3)
    UntilEmpty(counted, {"MyJob": lambda job: None}, batch_size=5).work()
    assert with_check == len(network.statements)


def test_a_job_that_isnt_locked_isnt_lost(client: qg.Client, database: Database) -> None:
    job = client.enqueue(qg.Job("MyJob"))
    job.check()
    assert not job.lost
    with client.lock_job() as locked:
        locked.delete()
    locked.check()
    assert not locked.lost


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("way", ["work_one", "work", "batches"])
def test_a_lost_lock_is_logged_within_two_seconds_though_the_handler_doesnt_ask(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str, writes: bool
) -> None:
    def handler(job: qg.Job) -> None:
        if writes:
            write(job)
        database.terminate(database.lock_holders()[0])
        eventually(lambda: events(caplog, "lock_lost"), "the line in the log", timeout=2)

    fill(database, 1)
    worker = UntilEmpty(client, {"MyJob": once(handler)}, batch_size=5 if way == "batches" else 1)
    worker.work_one() if way == "work_one" else worker.work()
    assert events(caplog, "lock_lost") == ["lock_lost id=1"]


@pytest.mark.parametrize("way", ["work_one", "work", "batches"])
def test_a_coroutine_is_cancelled_when_its_jobs_lock_is_lost(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    told = []

    async def wait_for_ever() -> None:
        database.terminate(database.lock_holders()[0])
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    fill(database, 1)
    worker = UntilEmpty(client, {"MyJob": lambda job: wait_for_ever()}, batch_size=5 if way == "batches" else 1)
    worker.work_one() if way == "work_one" else worker.work()
    assert told == ["cancelled"]
    ((_, _, count, text),) = database.jobs()
    assert (count, text.split(":")[0]) == (1, "qg.errors.ErrLockLost")


def test_a_coroutine_that_cancels_itself_has_lost_nothing(client: qg.Client, database: Database) -> None:
    async def cancel() -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    fill(database, 1)
    UntilEmpty(client, {"MyJob": lambda job: cancel()}).work()
    ((_, _, count, text),) = database.jobs()
    assert (count, text.split(":")[0]) == (1, "asyncio.exceptions.CancelledError")


def test_a_coroutine_that_has_ended_isnt_cancelled_for_the_next_job(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The first job's coroutine is over when its session ends; the second one's session is another one."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    def handler(job: qg.Job) -> object:
        if job.id == 1:
            asyncio.run(nothing())
            database.terminate(database.lock_holders()[0])
            eventually(lambda: events(caplog, "lock_lost"))
            return None
        return nothing()

    fill(database, 2)
    UntilEmpty(client, {"MyJob": handler}).work()
    assert 2 not in [number for number, *_ in database.jobs()]


def test_a_connection_without_a_socket_is_lost() -> None:
    """As libpq leaves it for a moment, before psycopg2 notices."""
    conn = SimpleNamespace(closed=0, fileno=lambda: -1, info=SimpleNamespace(transaction_status=0, ssl_in_use=False))
    assert is_lost(conn)
    assert not is_quiet(conn)


def test_a_coroutine_that_is_cancelled_has_the_time_to_tidy_up(client: qg.Client, database: Database) -> None:
    told = []

    async def tidy_up() -> None:
        database.terminate(database.lock_holders()[0])
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1.2)
            told.append("tidy")

    fill(database, 1)
    UntilEmpty(client, {"MyJob": lambda job: tidy_up()}).work()
    assert told == ["tidy"]


def test_a_coroutine_can_still_be_cancelled_after_another_one_ran_inside_it(
    client: qg.Client, database: Database
) -> None:
    async def inner() -> None:
        await asyncio.sleep(0)

    async def outer(job: qg.Job) -> None:
        run_handler(job, inner)
        database.terminate(database.lock_holders()[0])
        await asyncio.sleep(3600)

    fill(database, 1)
    UntilEmpty(client, {"MyJob": outer}).work()
    ((_, _, count, text),) = database.jobs()
    assert (count, text.split(":")[0]) == (1, "qg.errors.ErrLockLost")
