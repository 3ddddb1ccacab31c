"""PostgresJobs: its options, its start, and the row that says that its pool lives."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from support import JSON, PATIENCE, VERSION, Database, Network, eventually, jobs_tables_of, needs

import qg
from qg import jobs
from qg.jobs.functions import Functions
from qg.jobs.pool_report import PoolReport


@dataclass(frozen=True)
class Greet:
    user: int


@dataclass(frozen=True)
class Report:
    pass


MakeQueue = Callable[..., jobs.PostgresJobs]


@pytest.fixture
def client(jobs_database: Database) -> Iterator[qg.Client]:
    with qg.Client(jobs_database.dsn) as client:
        yield client


def pools(database: Database) -> list[tuple[Any, ...]]:
    return database.query("SELECT id, queue, workers, job_types FROM qg_jobs_worker_pool ORDER BY id")


def test_postgres_jobs_handler_is_the_name_in_go():
    assert jobs.PostgresJobsHandler is jobs.PostgresJobs


def test_what_is_stored_is_gos_persistence_payload_under_the_payloads_type(
    make_queue: MakeQueue, jobs_database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("qg.jobs.drafts.git_hash", lambda: "cafe")
    queue = make_queue(queue="mail")
    with jobs.user("u-1"):
        assert queue.enqueue(Greet(7), priority=3) == [1]
    ((job_type, name, priority, args),) = jobs_database.query(
        "SELECT job_class, queue, priority, payload::text FROM jobs"
    )
    assert (job_type, name, priority) == ("test_postgres_jobs.Greet", "mail", 3)
    expected = (
        '{"jobData": {"user": 7}, "jobStructPath": "test_postgres_jobs.Greet", "gitHashEnqueued": "cafe", '
        '"gitHashProcessed": "", "ctx": {"userId": "u-1", "carrier": {}}}'
    )
    assert args == jobs_database.value(f"SELECT %s::{JSON}::text", (expected,))  # json keeps it as it stands


def test_a_list_goes_in_with_one_statement(make_queue: MakeQueue, network: Network, jobs_database: Database):
    queue = make_queue(network.dsn)
    network.statements.clear()
    assert queue.enqueue([Greet(7), Report(), Greet(8)]) == [1, 2, 3]
    assert len(network.statements) == 1


def test_a_client_as_the_source_brings_its_backoff_and_stays_open(make_queue: MakeQueue, jobs_database: Database):
    with qg.Client(jobs_database.dsn, backoff=lambda errors: 0.0) as client:
        queue = make_queue(client)
        runs: list[int] = []

        @queue.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            runs.append(ctx.run_count)
            if ctx.run_count < 2:
                raise ValueError("again")

        queue.enqueue(Greet(7))
        queue.start()
        eventually(lambda: runs == [0, 1, 2])
        assert queue.shutdown(PATIENCE)
        assert client.enqueue(qg.Job("x")).id is not None


def test_the_logger_that_was_given_gets_everything(
    make_queue: MakeQueue, jobs_database: Database, caplog: pytest.LogCaptureFixture
):
    queue = make_queue(logger=logging.getLogger("mine"))

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        ctx.logger.warning("here")

    caplog.set_level(logging.INFO)
    queue.enqueue(Greet(7))
    queue.start()
    eventually(lambda: "job_worked" in caplog.text)
    assert {record.name for record in caplog.records} == {"mine"}


@pytest.mark.parametrize("name", ["", 3, b"x"])
def test_a_pool_needs_a_name_that_is_one(jobs_database: Database, name: Any):
    with pytest.raises(jobs.ErrInvalidQueueOpt, match="pool_name must be a non-empty string"):
        jobs.PostgresJobs(jobs_database.dsn, pool_name=name)


def test_a_pool_that_works_is_on_record_with_its_types_until_it_is_shut_down(
    make_queue: MakeQueue, jobs_database: Database
):
    queue = make_queue(queue="mail", pool_size=3, pool_name="crew")

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None: ...

    queue.start()
    eventually(lambda: pools(jobs_database) == [("crew", "mail", 3, ["test_postgres_jobs.Greet"])])

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None: ...

    both = ["test_postgres_jobs.Greet", "test_postgres_jobs.Report"]
    eventually(lambda: pools(jobs_database) == [("crew", "mail", 3, both)])
    assert queue.shutdown(PATIENCE)
    assert pools(jobs_database) == [("crew", "mail", 0, both)]


def test_a_report_is_due_every_thirty_seconds_and_removes_pools_unseen_for_a_day(
    client: qg.Client, jobs_database: Database
):
    jobs_database.query(
        "INSERT INTO qg_jobs_worker_pool (id, queue, workers, git_hash, job_types, updated_at) VALUES "
        "('old', '', 1, '', '{}', now() - interval '25 hours'), ('crew', '', 1, '', '{}', now() - interval '2 days'), "
        "('young', '', 1, '', '{}', now() - interval '23 hours')"
    )
    report = PoolReport(client, jobs_tables_of(client), "crew", "", 4, Functions(), client.logger)
    assert report.write() == 30.0
    assert [(name, workers) for name, _, workers, _ in pools(jobs_database)] == [("crew", 4), ("young", 1)]
    assert jobs_database.value(
        "SELECT updated_at > now() - interval '1 minute' FROM qg_jobs_worker_pool WHERE id = 'crew'"
    )


def test_two_queues_of_one_process_have_pools_of_different_names(make_queue: MakeQueue, jobs_database: Database):
    for _ in range(2):
        queue = make_queue()
        queue.register_job_func(greet_nobody)
        queue.start()
    eventually(lambda: len({name for name, *_ in pools(jobs_database)}) == 2)


def test_a_queue_without_functions_works_nothing(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    queue.enqueue(Greet(7))
    queue.start()
    queue.schedule("@every 1s", Report())
    eventually(lambda: jobs_database.count() == 2)
    assert jobs_database.query("SELECT DISTINCT error_count FROM que_jobs") == [(0,)]
    assert pools(jobs_database) == []


def test_a_start_that_fails_is_logged_once_and_tried_again_until_it_succeeds(
    make_queue: MakeQueue, jobs_database: Database, caplog: pytest.LogCaptureFixture
):
    source = psycopg2.pool.ThreadedConnectionPool(0, 3, jobs_database.dsn)
    queue = make_queue(source, pool_size=2, connections=2)
    taken = [source.getconn(), source.getconn()]
    done = threading.Event()

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        done.set()

    queue.enqueue(Greet(7))
    queue.start()
    eventually(lambda: "start_failed ErrTooFewConnections" in caplog.text)
    assert not done.is_set()
    for conn in taken:
        source.putconn(conn)
    assert done.wait(PATIENCE)
    assert caplog.text.count("start_failed") == 1
    assert queue.shutdown(PATIENCE)
    source.closeall()


def test_a_database_that_is_away_at_the_start_is_waited_for(
    make_queue: MakeQueue, network: Network, jobs_database: Database, caplog: pytest.LogCaptureFixture
):
    queue = make_queue(network.dsn)
    queue.enqueue(Greet(7))
    done = threading.Event()
    network.cut()

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        done.set()

    eventually(lambda: "start_failed" in caplog.text)
    network.open()
    assert done.wait(PATIENCE)


def test_shutdown_with_the_database_away_still_ends(
    make_queue: MakeQueue, network: Network, jobs_database: Database, caplog: pytest.LogCaptureFixture
):
    queue = make_queue(network.dsn)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None: ...

    queue.start()
    eventually(lambda: pools(jobs_database))
    network.cut()
    assert queue.shutdown(PATIENCE)
    assert "report_failed pool=" in caplog.text


def test_shutdown_from_a_signal_handler_doesnt_wait_and_what_runs_ends(queue: jobs.PostgresJobs):
    running, go_on, done = threading.Event(), threading.Event(), threading.Event()
    answers: list[bool] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        running.set()
        assert go_on.wait(PATIENCE)
        done.set()

    def handler(*_: object) -> None:
        answers.append(queue.shutdown())

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        queue.enqueue(Greet(7))
        queue.start()
        assert running.wait(PATIENCE)
        signal.raise_signal(signal.SIGUSR1)
        assert answers == [False]
    finally:
        signal.signal(signal.SIGUSR1, before)
    go_on.set()
    assert queue.shutdown(PATIENCE)
    assert done.is_set()


def test_after_a_signal_handler_the_process_waits_at_its_end_for_what_runs(jobs_database: Database):
    program = Path(__file__).with_name("signalled_process.py")
    done = subprocess.run(
        [sys.executable, program, jobs_database.dsn], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout == "handler: False\nended\ndone\n", done.stderr
    assert jobs_database.query("SELECT success FROM qg_jobs_history") == [(True,)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_in_a_forked_process_a_queue_enqueues_and_says_that_it_cant_work(
    make_queue: MakeQueue, jobs_database: Database
):
    queue = make_queue(poll_interval=3600.0)
    queue.register_job_func(greet_nobody)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                queue.start()
            except jobs.ErrStartFailed as error:
                told = str(error)
            os.write(writer, f"{told}|{queue.enqueue(Greet(7))}|{queue.shutdown()}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert answer.read() == (
            "this queue was made before a fork and can only enqueue here; create one in each process|[1]|True"
        )
    assert pools(jobs_database) == []


def greet_nobody(ctx: jobs.Context, job: Greet) -> None: ...


def test_start_is_remembered_for_functions_and_schedules_that_come_later(
    make_queue: MakeQueue, jobs_database: Database
):
    queue = make_queue(poll_interval=3600.0)
    queue.start()
    queue.enqueue(Greet(7))
    queue.register_job_func(greet_nobody)
    eventually(lambda: jobs_database.count() == 0)
    clock = make_queue(poll_interval=3600.0, queue="clock")
    clock.start()
    clock.schedule("@every 1s", Report())
    eventually(lambda: jobs_database.count() > 0)


def test_a_client_that_runs_jobs_itself_is_no_source(jobs_database: Database):
    with (
        qg.Client(jobs_database.dsn, run_synchronously={}) as client,
        pytest.raises(jobs.ErrInvalidQueueOpt, match="run_synchronously"),
    ):
        jobs.PostgresJobs(client)


def test_two_shutdowns_at_once_report_once(make_queue: MakeQueue, client: qg.Client, jobs_database: Database):
    queue = make_queue(pool_name="crew")
    queue.register_job_func(greet_nobody)
    queue.start()
    eventually(lambda: pools(jobs_database))
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(queue.shutdown(PATIENCE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 4
    assert [workers for _, _, workers, _ in pools(jobs_database)] == [0]
    report = PoolReport(client, jobs_tables_of(client), "other crew", "", 4, Functions(), client.logger)
    report.write()
    report.leave(worked=True)
    assert report.write() == 30.0  # one that was under way says nothing any more
    assert [workers for _, _, workers, _ in pools(jobs_database)] == [0, 0]


def test_a_pool_that_never_worked_isnt_on_record(client: qg.Client, jobs_database: Database):
    report = PoolReport(client, jobs_tables_of(client), "crew", "", 4, Functions(), client.logger)
    report.leave(worked=False)
    report.write()
    assert pools(jobs_database) == []


def test_a_job_that_others_enqueue_with_the_core_client_is_worked_too(
    queue: jobs.PostgresJobs, jobs_database: Database
):
    seen: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job.user)

    with qg.Client(jobs_database.dsn) as client:
        # As arrower in Go writes it.
        args = (
            b'{"jobData":{"user":7},"jobStructPath":"app.Greet","gitHashEnqueued":"","gitHashProcessed":"",'
            b'"ctx":{"userId":"","carrier":null}}'
        )
        client.enqueue(qg.Job("test_postgres_jobs.Greet", args if VERSION == 3 else b"[%b]" % args))
    queue.start()
    eventually(lambda: seen == [7])


def test_an_engine_of_sqlalchemy_serves_and_its_session_is_a_transaction(
    make_queue: MakeQueue, jobs_database: Database
):
    sqlalchemy = needs("sqlalchemy")
    orm = needs("sqlalchemy.orm")

    engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=jobs_database.connect)
    queue = make_queue(engine)
    with orm.Session(engine) as session, jobs.transaction(session):
        queue.enqueue(Greet(1))
        session.rollback()
        queue.enqueue([Greet(2), Greet(3)])
        session.commit()
    assert [row[0] for row in jobs_database.jobs()] == [2, 3]
    assert queue.shutdown(PATIENCE)
    engine.dispose()


def test_jobs_start_within_milliseconds_where_the_table_notifies(
    make_queue: MakeQueue, make_database: Callable[..., str]
):
    dsn = make_database()
    qg.migrate(dsn, notify=True)
    jobs.migrate(dsn)
    queue = make_queue(dsn, poll_interval=3600.0)
    done = threading.Event()

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        done.set()

    queue.start()
    with closing(Database(dsn)) as database:
        eventually(lambda: pools(database))
        queue.enqueue(Greet(7))
        assert done.wait(PATIENCE)
        assert queue.shutdown(PATIENCE)
