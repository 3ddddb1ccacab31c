"""run_synchronously: for development, enqueue() runs the job at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn
from support import Database, backend_pid, needs

import qg

LATER = datetime(2090, 1, 1, tzinfo=timezone.utc)


class Handlers(dict):
    """One handler, which does what a test tells it to."""

    def __init__(self) -> None:
        super().__init__(MyJob=self.handle)
        self.seen: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None

    def handle(self, job: qg.Job) -> None:
        self.seen.append((job.type, job.args, job.queue, job.priority))
        with job.tx.cursor() as cur:
            cur.execute("INSERT INTO written VALUES (1)")
        if self.error:
            raise self.error


@pytest.fixture
def handlers(database: Database) -> Iterator[Handlers]:
    database.query("CREATE TABLE written (x int)")
    yield Handlers()
    database.query("DROP TABLE written")


@pytest.fixture
def eager(dsn: str, handlers: Handlers) -> Iterator[qg.Client]:
    with qg.Client(dsn, run_synchronously=handlers) as client:
        yield client


def written(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM written"))


def test_a_job_runs_within_enqueue_and_isnt_stored(eager: qg.Client, handlers: Handlers, database: Database) -> None:
    job = eager.enqueue(qg.Job("MyJob", (1, "two"), queue="q", priority=5))
    # The arguments went through JSON, as they would on their way to a worker.
    assert handlers.seen == [("MyJob", [1, "two"], "q", 5)]
    assert (database.count(), written(database), job.id) == (0, 1, None)


def test_a_job_with_run_at_is_stored(eager: qg.Client, handlers: Handlers, database: Database) -> None:
    assert eager.enqueue(qg.Job("MyJob", run_at=LATER)).id is not None
    assert (handlers.seen, database.count()) == ([], 1)


def test_what_the_handler_raises_passes_on_and_nothing_stays(
    eager: qg.Client, handlers: Handlers, database: Database
) -> None:
    handlers.error = LookupError("no such user")
    with pytest.raises(LookupError, match="no such user"):
        eager.enqueue(qg.Job("MyJob"))
    assert (database.count(), written(database)) == (0, 0)


def test_an_unknown_type_passes_on_too(eager: qg.Client) -> None:
    with pytest.raises(Exception, match='unknown job type: "Other"'):
        eager.enqueue(qg.Job("Other"))


def test_bad_input_is_refused_as_ever(eager: qg.Client, handlers: Handlers) -> None:
    with pytest.raises(qg.ErrInvalidJob):
        eager.enqueue(qg.Job("MyJob", {1, 2}))
    assert handlers.seen == []


def test_an_aborted_transaction_that_the_handler_swallowed_passes_on(dsn: str, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        with suppress(psycopg2.Error):
            job.tx.cursor().execute("SELECT 1/0")

    with (
        qg.Client(dsn, run_synchronously={"MyJob": handler}) as client,
        pytest.raises(psycopg2.errors.InFailedSqlTransaction, match="can't be committed"),
    ):
        client.enqueue(qg.Job("MyJob"))


def test_a_handler_that_calls_error_has_its_writes_undone(
    dsn: str, handlers: Handlers, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: qg.Job) -> None:
        handlers.handle(job)
        job.error("no luck")

    with qg.Client(dsn, run_synchronously={"MyJob": handler}) as client:
        client.enqueue(qg.Job("MyJob"))
    assert (database.count(), written(database)) == (0, 0)
    assert "job_failed type=MyJob" in caplog.text


def test_discard_ends_the_job(eager: qg.Client, handlers: Handlers, database: Database) -> None:
    handlers.error = qg.Discard("not wanted")
    eager.enqueue(qg.Job("MyJob"))
    assert (database.count(), written(database)) == (0, 0)


def test_reschedule_stores_the_job_for_later(eager: qg.Client, handlers: Handlers, database: Database) -> None:
    handlers.error = qg.Reschedule(at=LATER)
    assert eager.enqueue(qg.Job("MyJob", [1])).run_at == LATER
    assert (database.count(), written(database)) == (1, 0)


def test_a_batch_runs_one_by_one(eager: qg.Client, handlers: Handlers, database: Database) -> None:
    eager.enqueue_batch([qg.Job("MyJob", [1]), qg.Job("MyJob", [2]), qg.Job("MyJob", [3], run_at=LATER)])
    assert [seen[1] for seen in handlers.seen] == [[1], [2]]
    assert database.count() == 1


def test_a_coroutine_runs_even_when_enqueue_is_called_from_one(dsn: str) -> None:
    seen: list[Any] = []

    async def handler(job: qg.Job) -> None:
        await asyncio.sleep(0)
        seen.append(job.args)

    async def view() -> None:
        client.enqueue(qg.Job("MyJob", [1]))

    with qg.Client(dsn, run_synchronously={"MyJob": handler}) as client:
        asyncio.run(view())
    assert seen == [[1]]


def test_a_handler_that_settles_its_job_by_hand_may(dsn: str, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        with job:
            job.delete()

    with qg.Client(dsn, run_synchronously={"MyJob": handler}) as client:
        client.enqueue(qg.Job("MyJob"))
    assert database.count() == 0


class Marked(qg.Job):
    pass


def test_the_handler_gets_what_a_worker_would_give_it(dsn: str, database: Database) -> None:
    seen: list[Any] = []

    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("SELECT 1")
        seen.append((type(job), job.conn is job.tx, job.run_at.tzinfo))

    with qg.Client(dsn, job_class=Marked, run_synchronously={"MyJob": handler}) as client:
        client.enqueue(qg.Job("MyJob"))
        with closing(psycopg2.connect(dsn)) as conn:
            client.enqueue_in_tx(qg.Job("MyJob"), conn)
    assert seen == [(Marked, True, timezone.utc)] * 2


def test_a_handler_that_raises_costs_no_connection(eager: qg.Client, handlers: Handlers, database: Database) -> None:
    pid = backend_pid(eager)
    handlers.error = LookupError()
    with pytest.raises(LookupError):
        eager.enqueue(qg.Job("MyJob"))
    assert backend_pid(eager) == pid


def test_in_a_transaction_the_job_runs_within_it(eager: qg.Client, handlers: Handlers, database: Database) -> None:
    with closing(psycopg2.connect(database.dsn)) as conn:
        eager.enqueue_in_tx(qg.Job("MyJob"), conn)
        assert written(database) == 0
        conn.commit()
        assert written(database) == 1
        eager.enqueue_batch_in_tx([qg.Job("MyJob"), qg.Job("MyJob", run_at=LATER)], conn)
        conn.rollback()
    assert (len(handlers.seen), written(database), database.count()) == (2, 1, 0)


def test_in_a_transaction_of_sqlalchemy_too(eager: qg.Client, database: Database) -> None:
    engine = needs("sqlalchemy").create_engine("postgresql+psycopg2://", connect_args=parse_dsn(database.dsn))
    with engine.begin() as conn:
        eager.enqueue_in_tx(qg.Job("MyJob"), conn)
    engine.dispose()
    assert written(database) == 1


def test_in_a_transaction_verdicts_hold(eager: qg.Client, handlers: Handlers, database: Database) -> None:
    with closing(psycopg2.connect(database.dsn)) as conn, conn.cursor() as cur:
        handlers.error = qg.Discard("not wanted")
        eager.enqueue_in_tx(qg.Job("MyJob"), cur)
        handlers.error = qg.Reschedule(after=1000)
        in_a_while = datetime.now(timezone.utc) + timedelta(seconds=900)
        assert eager.enqueue_in_tx(qg.Job("MyJob"), cur).run_at > in_a_while
        conn.commit()
    assert database.count() == 1
