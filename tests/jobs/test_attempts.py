"""Running a job of PostgresJobs: one transaction with its history and its deletion, or none of it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg2
import pytest
from insides import store_of, worker_of
from psycopg2.extensions import make_dsn
from support import PATIENCE, VERSION, Database, Network, as_args, eventually

import qg
from qg import jobs


@dataclass(frozen=True)
class Greet:
    user: int


@dataclass(frozen=True)
class Report:
    pass


@dataclass(frozen=True)
class Measure:
    value: float


MakeQueue = Callable[..., jobs.PostgresJobs]


@pytest.fixture
def make_queue(make_queue: MakeQueue) -> MakeQueue:
    """Makes queues that work only when a test says so."""
    return partial(make_queue, poll_interval=60.0)


@pytest.fixture
def users(jobs_database: Database) -> Iterator[Database]:
    jobs_database.query("CREATE TABLE users (id int, CONSTRAINT once UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)")
    yield jobs_database
    jobs_database.query("DROP TABLE users")


def insert(ctx: jobs.Context, user: int) -> None:
    with ctx.tx.cursor() as cur:
        cur.execute("INSERT INTO users VALUES (%s)", (user,))


def history(database: Database) -> list[tuple[Any, ...]]:
    """Of every attempt its job, run_count, success and the first line of its error."""
    return database.query(
        "SELECT job_id, run_count, success, split_part(run_error, E'\\n', 1) FROM qg_jobs_history ORDER BY id"
    )


def work_one(queue: jobs.PostgresJobs) -> None:
    """Work one job here and now, in the way of a pool's worker."""
    worker_of(queue).work()


def test_what_a_job_func_writes_its_history_and_the_deletion_are_one_commit(queue: jobs.PostgresJobs, users: Database):
    # A row that is written after the savepoint's release has the transaction's own number.
    users.query("CREATE TABLE deletions AS SELECT txid_current() AS number LIMIT 0")
    users.query(
        "CREATE FUNCTION note_deletion() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO deletions VALUES (txid_current()); RETURN NULL; END $$"
    )
    users.query("CREATE TRIGGER note AFTER DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION note_deletion()")
    written: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, job.user)
        with ctx.tx.cursor() as cur:
            cur.execute("SELECT txid_current()")
            written.extend(cur.fetchone())

    try:
        queue.enqueue(Greet(7))
        queue.start()
        eventually(lambda: users.count() == 0)
        assert users.query("SELECT number FROM deletions") == [(written[0],)]
        assert users.query("SELECT xmin::text::bigint FROM qg_jobs_history") == [(written[0],)]
    finally:
        users.query("DROP FUNCTION note_deletion CASCADE")
        users.query("DROP TABLE deletions")
    assert history(users) == [(1, 0, True, None)]


def test_a_failed_attempt_leaves_no_writes_and_its_history_is_committed_with_the_retry(
    queue: jobs.PostgresJobs, users: Database
):
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, job.user)
        raise ValueError("no such user")

    queue.enqueue(Greet(7))
    work_one(queue)
    assert users.query("SELECT * FROM users") == []
    assert history(users) == [(1, 0, False, "qg.jobs.errors.ErrJobFuncFailed: ValueError: no such user")]
    ((_, job_type, errors, last_error),) = users.jobs()
    assert (job_type, errors) == ("test_attempts.Greet", 1)
    assert last_error == users.value("SELECT run_error FROM qg_jobs_history")
    assert "The above exception was the direct cause" in last_error
    ((retry, recorded),) = users.query("SELECT job.xmin::text, h.xmin::text FROM que_jobs job, qg_jobs_history h")
    assert retry == recorded


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_job_func_that_ends_its_jobs_transaction_fails_and_is_told_so(
    queue: jobs.PostgresJobs, users: Database, caplog: pytest.LogCaptureFixture, ending: str, as_text: bool
):
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, job.user)
        if as_text:
            ctx.tx.cursor().execute(ending)
        else:
            getattr(ctx.tx, ending)()

    queue.enqueue(Greet(7))
    work_one(queue)
    ((_, _, success, error),) = history(users)
    assert not success
    assert error.startswith("qg.jobs.errors.ErrJobFuncFailed: it ended the transaction of its job; leave commit()")
    ((retry, recorded),) = users.query("SELECT job.xmin::text, h.xmin::text FROM que_jobs job, qg_jobs_history h")
    assert retry == recorded
    assert not [record for record in caplog.records if record.message.startswith("session_given_up")]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("status", [None, 7])
def test_the_child_of_a_job_func_that_forks_ends_there(queue: jobs.PostgresJobs, users: Database, status: int | None):
    tester, statuses = os.getpid(), []

    @queue.register_job_func
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        child = os.fork()
        if child == 0:
            if status is not None:
                sys.exit(status)
            return
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        insert(ctx, job.user)

    queue.enqueue(Greet(7))
    try:
        work_one(queue)
    finally:
        if os.getpid() != tester:
            os._exit(99)
    assert statuses == [status or 0]
    assert users.query("SELECT * FROM users") == [(7,)]
    assert [success for *_, success, _ in history(users)] == [True]
    assert users.count() == 0


def test_a_swallowed_database_error_is_a_failure_after_which_nothing_stays(queue: jobs.PostgresJobs, users: Database):
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, job.user)
        with ctx.tx.cursor() as cur, suppress(psycopg2.Error):
            cur.execute("SELECT 1 / 0")

    queue.enqueue(Greet(7))
    work_one(queue)
    assert users.query("SELECT * FROM users") == []
    ((_, _, success, error),) = history(users)
    assert not success
    assert "it swallowed a database error" in error


def test_a_commit_that_fails_is_a_failed_attempt(queue: jobs.PostgresJobs, users: Database):
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, job.user)
        insert(ctx, job.user)

    queue.enqueue(Greet(7))
    work_one(queue)
    assert users.query("SELECT * FROM users") == []
    ((_, _, success, error),) = history(users)
    assert not success
    assert error.startswith("psycopg2.errors.UniqueViolation")
    assert users.value("SELECT error_count FROM que_jobs") == 1


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_an_attempt_whose_session_is_gone_is_recorded_with_its_history_on_another_one(
    queue: jobs.PostgresJobs, users: Database, how: str
):
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, job.user)
        if how == "close":
            ctx.tx.close()
        else:
            users.terminate(ctx.tx.info.backend_pid)

    queue.enqueue(Greet(7))
    work_one(queue)
    assert users.query("SELECT * FROM users") == []
    assert [(job, count, success) for job, count, success, _ in history(users)] == [(1, 0, False)]
    assert users.value("SELECT error_count FROM que_jobs") == 1


def test_reschedule_and_discard_pass_through_and_are_in_the_history(queue: jobs.PostgresJobs, users: Database):
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, job.user)
        raise qg.Reschedule(after=3600)

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        raise qg.Discard("nobody reads it")

    queue.enqueue([Greet(7), Report()])
    work_one(queue)
    assert users.query("SELECT * FROM users") == []
    assert users.query("SELECT job_id, error_count, run_at > now() FROM jobs") == [(1, 0, True)]
    assert history(users) == [
        (1, 0, False, "qg.verdicts.Reschedule: run again after 3600 s"),
        (2, 0, False, "qg.verdicts.Discard: nobody reads it"),
    ]


def test_a_job_of_a_type_without_a_function_fails_and_the_history_says_so(
    queue: jobs.PostgresJobs, jobs_database: Database
):
    queue.enqueue(Report())
    work_one(queue)
    assert history(jobs_database) == [(1, 0, False, 'unknown job type: "test_attempts.Report"')]
    assert jobs_database.jobs() == [(1, "test_attempts.Report", 1, 'unknown job type: "test_attempts.Report"')]


@pytest.mark.parametrize("args", [[1, 2], {"jobStructPath": "x"}, "text", None])
def test_a_job_that_somebody_else_stored_in_another_form_fails_alone(
    queue: jobs.PostgresJobs, jobs_database: Database, args: Any
):
    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        pass

    stored = args if isinstance(args, list) else as_args(args)
    with qg.Client(jobs_database.dsn) as client:
        client.enqueue(qg.Job("test_attempts.Report", stored))
    queue.enqueue(Report())
    work_one(queue)
    assert history(jobs_database)[0] == (2, 0, True, None)
    assert "the args are none that qg.jobs stores" in history(jobs_database)[1][3]
    assert jobs_database.query("SELECT args FROM qg_jobs_history ORDER BY id")[1] == (stored,)


def test_the_history_tells_what_was_run_and_when(
    make_queue: MakeQueue, jobs_database: Database, monkeypatch: pytest.MonkeyPatch
):
    queue = make_queue(queue="mail")

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        pass

    queue.enqueue(Greet(7), priority=-3)
    ((run_at, stored),) = jobs_database.query("SELECT run_at, payload::text FROM jobs")
    monkeypatch.setattr("qg.jobs.history.git_hash", lambda: "cafe")
    work_one(queue)
    ((job_type, name, priority, due, args, ordered, pruned),) = jobs_database.query(
        "SELECT job_type, queue, priority, run_at, args::text, run_at <= started_at AND started_at <= finished_at, "
        "pruned_at FROM qg_jobs_history"
    )
    assert (job_type, name, priority, due, ordered, pruned) == ("test_attempts.Greet", "mail", -3, run_at, True, None)
    assert json.loads(stored)["gitHashProcessed"] == ""
    assert json.loads(args) == {**json.loads(stored), "gitHashProcessed": "cafe"}
    assert list(json.loads(args)) == ["jobData", "jobStructPath", "gitHashEnqueued", "gitHashProcessed", "ctx"]


def test_where_the_history_cant_be_written_a_job_isnt_done_but_backs_off(
    queue: jobs.PostgresJobs, users: Database, caplog: pytest.LogCaptureFixture
):
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, job.user)

    queue.enqueue(Greet(7))
    users.query("ALTER TABLE qg_jobs_history RENAME TO hidden")
    try:
        work_one(queue)
    finally:
        users.query("ALTER TABLE hidden RENAME TO qg_jobs_history")
    assert users.query("SELECT * FROM users") == []
    assert "attempt_unrecorded id=1: relation" in caplog.text
    assert "jobData" not in caplog.text.partition("attempt_unrecorded")[2].split("\n")[0]
    assert users.query("SELECT error_count, run_at > now() FROM que_jobs") == [(1, True)]
    users.query("UPDATE que_jobs SET run_at = now()")
    worker_of(queue).work_one()
    assert users.query("SELECT * FROM users") == [(7,)]
    assert history(users) == [(1, 1, True, None)]


def test_what_a_job_func_enqueues_comes_with_its_commit_in_its_transaction(queue: jobs.PostgresJobs, users: Database):
    seen: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        queue.enqueue([Report(), Report()])
        seen.append(users.count())
        if ctx.run_count == 0:
            raise ValueError("once more")

    queue.enqueue(Greet(7))
    work_one(queue)
    assert (seen, users.count()) == ([1], 1)
    users.query("UPDATE que_jobs SET run_at = now()")
    worker_of(queue).work_one()
    assert (seen, users.count()) == ([1, 1], 2)
    assert [row[1] for row in users.jobs()] == ["test_attempts.Report"] * 2


def test_in_a_job_func_another_queue_of_the_same_database_takes_part(make_queue: MakeQueue, users: Database):
    mail, reports = make_queue(queue="mail"), make_queue(queue="reports")

    @mail.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        reports.enqueue(Report())
        raise ValueError("so there is no report")

    mail.enqueue(Greet(7))
    work_one(mail)
    assert users.value("SELECT count(*) FROM que_jobs WHERE queue = 'reports'") == 0


def test_in_a_job_func_a_queue_of_another_database_commits_by_itself(
    make_queue: MakeQueue, jobs_database: Database, make_database: Callable[..., str]
):
    elsewhere = make_database()
    jobs.migrate(elsewhere)
    here, there = make_queue(), make_queue(elsewhere)

    @here.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        there.enqueue(Report())

    here.enqueue(Greet(7))
    work_one(here)
    assert jobs_database.count() == 0
    with qg.Client(elsewhere) as client:
        assert [stats.type for stats in client.stats()] == ["test_attempts.Report"]


def test_in_a_job_func_a_queue_on_another_schemas_table_commits_by_itself(
    make_queue: MakeQueue, jobs_database: Database
):
    def connect() -> psycopg2.extensions.connection:
        conn = jobs_database.connect()
        with conn.cursor() as cur:
            cur.execute("SET search_path = elsewhere")
        conn.commit()
        return conn

    jobs_database.query("CREATE SCHEMA elsewhere")
    try:
        qg.migrate(connect)
        jobs.migrate(connect)
        here, there = make_queue(), make_queue(connect)

        @here.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            there.enqueue(Report())

        here.enqueue(Greet(7))
        work_one(here)
        assert jobs_database.count() == 0
        assert jobs_database.value("SELECT count(*) FROM elsewhere.que_jobs") == 1
        assert there.shutdown(PATIENCE)
    finally:
        jobs_database.query("DROP SCHEMA elsewhere CASCADE")


@pytest.mark.parametrize("kind", ["postgres", "memory"])
def test_what_a_thread_enqueues_that_outlives_its_job_is_committed_by_itself(
    queue: jobs.PostgresJobs, jobs_database: Database, kind: str
):
    where = queue if kind == "postgres" else jobs.MemoryQueue()
    over, done = threading.Event(), threading.Event()
    enqueued: list[int] = []
    reported = threading.Event()

    def later() -> None:
        assert over.wait(PATIENCE)
        enqueued.extend(where.enqueue(Report()))
        done.set()

    @where.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        threading.Thread(target=copy_context().run, args=(later,)).start()

    @where.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        reported.set()

    where.enqueue(Greet(7))
    where.start()
    if kind == "postgres":
        eventually(lambda: history(jobs_database))
    else:
        eventually(lambda: not store_of(where).rows())
    over.set()
    assert done.wait(PATIENCE)
    if kind == "postgres":
        # Where the pool heard of it, from version 4 on, it may have been worked by now.
        stored = [row[0] for row in jobs_database.jobs()]
        assert enqueued in (stored, [row[0] for row in history(jobs_database)][1:])
    else:
        assert reported.wait(PATIENCE)
        assert where.shutdown(PATIENCE)


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_a_number_beyond_pythons_is_kept_in_the_history_as_it_was(
    queue: jobs.PostgresJobs, jobs_database: Database, number: str
):
    @queue.register_job_func
    def measure(ctx: jobs.Context, job: Measure) -> None: ...

    args = f'{{"jobData": {{"value": {number}}}}}'
    jobs_database.query(
        "INSERT INTO jobs (job_class, args) VALUES ('test_attempts.Measure', %s)",
        (args if VERSION == 3 else f"[{args}]",),
    )
    work_one(queue)
    # jsonb makes an integer of it, which is too large for a float; the other is read as infinity.
    expected = (True, number) if VERSION == 3 else (False, number.replace("e400", "0" * 400))
    assert jobs_database.query("SELECT success, args #>> '{jobData,value}' FROM qg_jobs_history") == [expected]


def test_enqueue_in_the_callers_transaction_lives_and_dies_with_it(queue: jobs.PostgresJobs, jobs_database: Database):
    conn = jobs_database.connect()
    queue.enqueue(Greet(1), tx=conn)
    with jobs.transaction(conn):
        queue.enqueue([Greet(2), Greet(3)])
    assert jobs_database.count() == 0
    conn.rollback()
    queue.enqueue(Greet(4), tx=conn)
    conn.commit()
    conn.close()
    assert [row[0] for row in jobs_database.jobs()] == [4]


def test_a_transaction_around_the_call_gives_way_to_tx_and_goes_before_the_jobs_own(
    queue: jobs.PostgresJobs, jobs_database: Database
):
    conn, other = jobs_database.connect(), jobs_database.connect()

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        with jobs.transaction(conn):
            queue.enqueue(Report())
            queue.enqueue(Report(), tx=other)

    queue.enqueue(Greet(1))
    work_one(queue)
    assert jobs_database.count() == 0
    conn.commit()
    assert jobs_database.count() == 1
    other.commit()
    assert jobs_database.count() == 2
    conn.close()
    other.close()


def test_a_tx_of_no_known_kind_is_an_invalid_option(queue: jobs.PostgresJobs, jobs_database: Database):
    with pytest.raises(jobs.ErrInvalidJobOpt, match="a tx can't be of type builtins.int"):
        queue.enqueue(Greet(1), tx=3)
    assert jobs_database.count() == 0


def test_enqueue_failed_names_its_cause(queue: jobs.PostgresJobs, jobs_database: Database):
    conn = jobs_database.connect()
    conn.close()
    with pytest.raises(jobs.ErrEnqueueFailed, match=r"1 jobs weren't enqueued: InterfaceError: ") as caught:
        queue.enqueue(Greet(1), tx=conn)
    assert isinstance(caught.value.__cause__, psycopg2.InterfaceError)


def test_jobs_that_leave_the_transaction_alone_share_one_message_history_included(
    make_queue: MakeQueue, network: Network, jobs_database: Database
):
    queue = make_queue(network.dsn)

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        pass

    queue.enqueue([Report()] * 2000)
    network.statements.clear()
    worker_of(queue, hands=4).work()
    assert sum("qg_jobs_history" in each for each in network.statements) < 50
    assert [each for each in network.statements if each == "BEGIN"] == []
    assert jobs_database.query("SELECT count(*), count(DISTINCT job_id), bool_and(success) FROM qg_jobs_history") == [
        (2000, 2000, True)
    ]
    assert jobs_database.count() == 0


def test_one_by_one_such_a_job_costs_a_single_message(make_queue: MakeQueue, network: Network, jobs_database: Database):
    queue = make_queue(network.dsn)

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        pass

    queue.enqueue([Report()] * 20)
    network.statements.clear()
    work_one(queue)
    assert sum("qg_jobs_history" in each for each in network.statements) == 20
    assert sum("que_take_jobs(" in each for each in network.statements if "EXECUTE" in each) == 21
    assert jobs_database.query("SELECT count(*) FROM qg_jobs_history WHERE started_at <= finished_at") == [(20,)]


def test_what_is_done_for_a_job_leaves_nothing_to_the_garbage_collector(queue: jobs.PostgresJobs) -> None:
    """It would go through all that the program holds, once in some hundred jobs."""

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        pass

    queue.enqueue([Report()] * 3)
    gc.collect()
    others = {id(each) for each in gc.get_objects() if type(each) is qg.Job}
    gc.disable()
    try:
        worker_of(queue, hands=2).work()
        assert [each for each in gc.get_objects() if type(each) is qg.Job and id(each) not in others] == []
    finally:
        gc.enable()


def test_what_becomes_of_many_is_told_one_by_one_if_the_history_refuses_one(
    make_queue: MakeQueue, jobs_database: Database
):
    jobs_database.query("ALTER TABLE qg_jobs_history ADD CONSTRAINT odd CHECK (job_id <> 3 OR NOT success)")
    queue = make_queue()

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        pass

    try:
        queue.enqueue([Report()] * 6)
        worker_of(queue, hands=2).work()
        assert [job_id for job_id, *_ in jobs_database.jobs()] == [3]
        assert jobs_database.query("SELECT job_id, success FROM qg_jobs_history ORDER BY job_id") == [
            (1, True),
            (2, True),
            (3, False),
            (4, True),
            (5, True),
            (6, True),
        ]
    finally:
        jobs_database.query("ALTER TABLE qg_jobs_history DROP CONSTRAINT odd")


def test_a_job_that_uses_its_transaction_costs_six_messages_besides_what_its_function_says(
    make_queue: MakeQueue, network: Network, jobs_database: Database
):
    queue = make_queue(network.dsn)

    @queue.register_job_func
    def report(ctx: jobs.Context, job: Report) -> None:
        assert ctx.tx is not None

    queue.enqueue([Report()] * 20)
    work_one(queue)
    begun = [number for number, line in enumerate(network.statements) if line == "BEGIN"][-20:]
    # BEGIN, savepoint, release with history, deletion, commit; and the one that takes the next job.
    assert {later - earlier for earlier, later in zip(begun, begun[1:], strict=False)} == {6}
    assert "EXECUTE que_take_jobs" in network.statements[begun[1] :][:6][-1]
    assert jobs_database.count() == 0


def test_the_history_is_written_as_the_sessions_own_user_whatever_role_the_function_sets(
    queue: jobs.PostgresJobs, users: Database
) -> None:
    role = f"qg_tenant_{os.getpid()}"
    users.query(f"CREATE ROLE {role}; GRANT INSERT ON users TO {role}")

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        with ctx.tx.cursor() as cur:
            cur.execute(f"SET LOCAL ROLE {role}")
        insert(ctx, job.user)
        if job.user == 2:
            raise LookupError("no")

    try:
        queue.enqueue([Greet(1), Greet(2)])
        work_one(queue)
        assert users.query("SELECT id FROM users") == [(1,)]
        assert users.query("SELECT job_id, success FROM qg_jobs_history ORDER BY id") == [(1, True), (2, False)]
        assert [(number, count) for number, _, count, _ in users.jobs()] == [(2, 1)]
    finally:
        users.query(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_context_tells_that_the_lock_is_lost(queue: jobs.PostgresJobs, users: Database) -> None:
    told = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        ctx.check()
        told.append(ctx.lost)
        if len(told) == 1:
            users.terminate(users.lock_holders()[0])
            eventually(lambda: ctx.lost, "the loss", timeout=2)
            ctx.check()

    queue.enqueue(Greet(1))
    work_one(queue)
    ((_, _, count, text),) = users.jobs()
    assert (told, count) == ([False], 1)
    assert "ErrLockLost" in text


def test_an_async_function_is_cancelled_when_its_jobs_lock_is_lost(queue: jobs.PostgresJobs, users: Database) -> None:
    @queue.register_job_func
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        users.terminate(users.lock_holders()[0])
        await asyncio.sleep(3600)

    queue.enqueue(Greet(1))
    work_one(queue)
    ((_, _, count, text),) = users.jobs()
    assert count == 1
    assert "ErrLockLost" in text


def test_lines_that_a_job_func_logs_name_the_job(
    queue: jobs.PostgresJobs, jobs_database: Database, caplog: pytest.LogCaptureFixture
):
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        ctx.logger.info("greeted user=%d", job.user)

    caplog.set_level(logging.INFO, "qg")
    queue.enqueue(Greet(7))
    work_one(queue)
    assert "greeted user=7 job_id=1 job_type=test_attempts.Greet" in caplog.messages
    assert any(line.startswith("job_worked id=1 type=test_attempts.Greet") for line in caplog.messages)


@pytest.mark.parametrize("local", ["LOCAL", ""], ids=["for the transaction", "for good"])
@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_a_job_func_that_sets_another_search_path_leads_no_statement_to_other_tables(
    make_queue: MakeQueue, jobs_database: Database, local: str, fails: bool
):
    with qg.Client(jobs_database.dsn) as client:
        jobs_database.query("CREATE SCHEMA elsewhere")
        try:
            elsewhere = make_dsn(jobs_database.dsn, options="-c search_path=elsewhere")
            qg.migrate(elsewhere, VERSION)
            jobs.migrate(elsewhere)
            queue = make_queue(client)

            @queue.register_job_func
            def greet(ctx: jobs.Context, job: Greet) -> None:
                with ctx.tx.cursor() as cur:
                    cur.execute(f"SET {local} search_path TO elsewhere")
                queue.enqueue(Report())
                if fails:
                    raise ValueError("no such user")

            queue.enqueue(Greet(7))
            work_one(queue)
            queue.schedule("@every 1h", Report())
            queue._report.write()
            # Greet's retry, or the Report, which fails in its turn, since nobody works it.
            assert [success for _, _, success, _ in history(jobs_database)] == ([False] if fails else [True, False])
            assert jobs_database.count() == 1
            for table, count in (("schedule", 1), ("worker_pool", 1), ("history", 1 if fails else 2)):
                assert jobs_database.value(f"SELECT count(*) FROM qg_jobs_{table}") == count
                assert jobs_database.value(f"SELECT count(*) FROM elsewhere.qg_jobs_{table}") == 0
            assert jobs_database.value("SELECT count(*) FROM elsewhere.que_jobs") == 0
        finally:
            assert queue.shutdown(PATIENCE)
            jobs_database.query("DROP SCHEMA elsewhere CASCADE")


def test_a_job_that_is_gone_leaves_neither_effects_nor_history(
    queue: jobs.PostgresJobs, users: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody deletes it by hand while it runs: it is cancelled."""

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        insert(ctx, 1)
        users.query("DELETE FROM que_jobs")

    queue.enqueue(Greet(1))
    work_one(queue)
    assert (users.query("SELECT * FROM users"), history(users), users.count()) == ([], [], 0)
    assert "job_gone id=" in caplog.text
    assert "job_failed" not in caplog.text
