"""Something that outlives its handler keeps the job's connection: what it writes there is part of no later job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2.pool import ThreadedConnectionPool
from support import Database, UntilEmpty, eventually, lease
from taking import all_written, each_way, events, fill, work, write

import qg
from qg.lookout import LOOKOUT

pytestmark = pytest.mark.usefixtures("written")


@pytest.fixture(params=["DSN", "pool"])
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[qg.Client]:
    pool = ThreadedConnectionPool(1, 4, dsn)
    with qg.Client(dsn if request.param == "DSN" else pool) as client:
        yield client
    pool.closeall()


@each_way
@pytest.mark.parametrize("what", ["connection", "cursor"])
def test_what_outlives_its_handler_finds_the_connection_closed(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str, what: str
) -> None:
    kept: list[Any] = []

    def handler(job: qg.Job) -> None:
        write(job)
        kept.append(job.tx if what == "connection" else job.tx.cursor())

    fill(database, 5)
    work(client, way, handler)
    for each in kept:
        with pytest.raises(psycopg2.InterfaceError, match="closed"):
            (each.cursor() if what == "connection" else each).execute("INSERT INTO written VALUES (1000)")
    assert (database.count(), all_written(database)) == (0, [1, 2, 3, 4, 5])
    assert len({id(each) for each in kept}) == 5
    assert events(caplog) == ["connection_kept queue="]


def test_a_thread_that_goes_on_writing_writes_into_no_other_job(client: qg.Client, database: Database) -> None:
    """Each handler leaves a thread that writes on its connection as soon as the next job has begun."""
    following: list[threading.Event] = []
    threads = []
    refused = []

    def handler(job: qg.Job) -> None:
        if following:
            following[-1].set()
        begun = threading.Event()
        following.append(begun)
        tx = job.tx

        def outlive() -> None:
            assert begun.wait(10)
            try:
                with tx.cursor() as cur:
                    cur.execute("INSERT INTO written VALUES (%s)", (1000 + job.id,))
            except psycopg2.InterfaceError:
                refused.append(job.id)

        write(job)
        threads.append(threading.Thread(target=outlive))
        threads[-1].start()

    fill(database, 20)
    UntilEmpty(client, {"MyJob": handler}).work()
    following[-1].set()
    for thread in threads:
        thread.join()
    assert (sorted(refused), all_written(database)) == (list(range(1, 21)), list(range(1, 21)))


@each_way
def test_a_handler_that_keeps_nothing_costs_no_connection(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    async def coroutine(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("INSERT INTO written VALUES (%s)", (job.id,))

    def handler(job: qg.Job) -> object:
        if job.id % 3 == 0:
            return coroutine(job)
        cur = job.tx.cursor()
        cur.execute("INSERT INTO written VALUES (%s)", (job.id,))
        return cur

    def failing(job: qg.Job) -> None:
        cur = job.tx.cursor()
        cur.execute("SELECT 1/0")

    opened = []

    def connect() -> Any:
        opened.append(psycopg2.connect(dsn))
        return opened[-1]

    caplog.clear()
    with qg.Client(connect) as client:
        # Where the lock is on the locker's session, all jobs one after another share one more.
        enough = len(opened) + (1 if way.startswith("hands") else 0)
        fill(database, 6)
        work(client, way, handler)  # type: ignore[arg-type]
        assert (database.count(), len(opened)) == (0, enough)
        # The log's records keep the traceback, and with it the variables of the handler.
        client.logger.setLevel("CRITICAL")
        try:
            fill(database, 3)
            work(client, way, failing)
        finally:
            client.logger.setLevel("NOTSET")
        assert len(opened) == enough
    assert events(caplog, "connection_kept") == []


def test_by_hand_the_connection_is_the_callers_until_done_and_goes_back_then(dsn: str, database: Database) -> None:
    fill(database, 2)
    with qg.Client(dsn) as client:
        with client.lock_job() as job, job.tx.cursor() as cur:
            first = job.conn
            cur.execute("SELECT 1")
            job.delete()
        with client.lock_job() as job:
            assert job.conn is first
            job.delete()
        eventually(lambda: database.count() == 0)
        with closing(cur):
            assert not first.closed


def test_a_coroutine_that_fails_costs_no_connection(dsn: str, database: Database) -> None:
    opened = []

    def connect() -> Any:
        opened.append(psycopg2.connect(dsn))
        return opened[-1]

    async def failing(job: qg.Job) -> None:
        cur = job.tx.cursor()
        cur.execute("SELECT 1/0")

    with qg.Client(connect) as client:
        before = len(opened)
        fill(database, 3)
        client.logger.setLevel("CRITICAL")  # its records keep the traceback
        try:
            UntilEmpty(client, {"MyJob": failing}).work()
        finally:
            client.logger.setLevel("NOTSET")
        assert len(opened) == before


def test_what_the_lookout_has_in_its_hands_is_kept_by_nobody(client: qg.Client, database: Database) -> None:
    session = lease(client)
    in_hand = threading.Event()
    conn = [session.lend()]

    def look() -> None:
        with LOOKOUT.looking:
            in_hand.set()
            kept_for_a_moment = conn.pop()
            assert not kept_for_a_moment.closed
            waiting.wait(10)

    waiting = threading.Event()
    thread = threading.Thread(target=look)
    thread.start()
    assert in_hand.wait(10)
    threading.Timer(0.1, waiting.set).start()
    assert not session.is_held_by_handler
    thread.join()
    session.close_now()
