"""One worker: what it runs, what it records, and what no handler can do to it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg2
import pytest
from psycopg2.pool import ThreadedConnectionPool
from support import UNNAMED, Database, Network, UntilEmpty, backend_pid, eventually

import qg
from qg.working.batch import Batch


@pytest.fixture(autouse=True)
def written(database: Database) -> Iterator[None]:
    database.query("CREATE TABLE written (x int PRIMARY KEY)")
    yield
    database.query("DROP TABLE written")


def write(job: qg.Job, x: int = 1) -> None:
    with job.tx.cursor() as cur:
        cur.execute("INSERT INTO written VALUES (%s)", (x,))


def all_written(database: Database) -> list[int]:
    return [x for (x,) in database.query("SELECT x FROM written ORDER BY x")]


def first_line(database: Database) -> str:
    ((_, _, _, message),) = database.jobs()
    return str(message).split("\n", 1)[0]


def work_one(client: qg.Client, handler: Any) -> bool:
    return qg.Worker(client, {"MyJob": handler}).work_one()


class Sleepless(UntilEmpty):
    """A worker that notes how long it would have slept, and stops at the last sleep it is allowed."""

    def __init__(self, client: qg.Client, work_map: qg.WorkMap, *, sleeps: int = 1, **options: Any) -> None:
        super().__init__(client, work_map, **options)
        self.slept: list[float] = []
        self.sleeps = sleeps

    def rest(self, seconds: float, due: float | None = None) -> None:
        self.slept.append(seconds)
        if len(self.slept) == self.sleeps:
            self.stop()


# Success


def test_a_job_is_worked_and_gone(client: qg.Client, database: Database) -> None:
    seen: list[Any] = []
    client.enqueue(qg.Job("MyJob", [1, "two"]))
    assert work_one(client, lambda job: seen.append((job.type, job.args))) is True
    assert seen == [("MyJob", [1, "two"])]
    assert (database.count(), database.locks()) == (0, [])


def test_no_job_is_false(client: qg.Client) -> None:
    assert work_one(client, print) is False


def test_what_the_handler_wrote_and_the_deletion_are_one_commit(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    transactions: list[int] = []

    def handler(job: qg.Job) -> None:
        write(job)
        with job.tx.cursor() as cur:
            cur.execute("SELECT txid_current()")
            transactions.append(cur.fetchone()[0])
        assert (database.count(), all_written(database)) == (1, [])

    work_one(client, handler)
    assert (database.count(), all_written(database)) == (0, [1])
    assert database.query("SELECT xmin::text::bigint FROM written") == [(transactions[0] % 2**32,)]


def test_a_handler_may_delete_and_commit_by_itself(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        job.delete()
        job.tx.commit()

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert (database.count(), all_written(database)) == (0, [1])
    assert "job_gone" not in caplog.text


def roll_back_the_deletion_and_call_done(job: qg.Job) -> None:
    job.tx.cursor().execute("SELECT 1")
    job.delete()
    job.tx.rollback()
    job.done()


def swallow_a_failing_commit_in_done(job: qg.Job) -> None:
    leave_a_failing_commit(job)
    job.delete()
    with suppress(psycopg2.Error):
        job.done()


@pytest.mark.parametrize("handler", [roll_back_the_deletion_and_call_done, swallow_a_failing_commit_in_done])
def test_a_handler_whose_deletion_came_to_nothing_has_failed(
    client: qg.Client, database: Database, handler: Any
) -> None:
    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert database.jobs()[0][2] == 1
    assert "neither deleted it nor recorded an error" in first_line(database)


@pytest.mark.parametrize(
    ("error", "event", "state"),
    [
        (qg.Discard("obsolete"), "job_worked", []),
        (qg.Reschedule(after=60), "job_rescheduled id=1 type=MyJob: by its handler", [0]),
    ],
    ids=["discard", "reschedule"],
)
def test_a_handler_may_use_a_block_of_its_own_for_a_verdict(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    event: str,
    state: list[int],
) -> None:
    def handler(job: qg.Job) -> None:
        with job:
            raise error

    caplog.set_level(logging.INFO)
    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert [job[2] for job in database.jobs()] == state
    assert event in caplog.text
    assert "job_failed" not in caplog.text


def test_an_error_in_a_block_of_the_handlers_own_is_recorded_once(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: qg.Job) -> None:
        with job:
            raise LookupError("no such user")

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert (database.jobs()[0][2], first_line(database)) == (1, "LookupError: no such user")
    assert [record.message for record in caplog.records] == ["job_failed id=1 type=MyJob: LookupError: no such user"]


def test_statements_thrown_away_in_the_jobs_transaction_are_no_failure(client: qg.Client, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        job.tx.cursor().execute("DEALLOCATE ALL")
        write(job)

    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    work_one(client, handler)
    assert (database.count(), all_written(database)) == (1, [1])


def generator(job: qg.Job) -> Iterator[int]:
    yield 1


async def async_generator(job: qg.Job) -> Any:
    yield 1


@pytest.mark.parametrize("handler", [generator, async_generator])
def test_a_generator_is_refused_since_nobody_would_run_it(client: qg.Client, database: Database, handler: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="is a generator, which nobody would run"):
        qg.Worker(client, {"MyJob": handler})
    client.enqueue(qg.Job("MyJob"))
    work_one(client, lambda job: handler(job))
    assert first_line(database).startswith("TypeError: the handler returned a generator")


def test_an_error_after_the_client_was_closed_is_recorded_all_the_same(client: qg.Client, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        client.close()
        database.terminate(job.conn.info.backend_pid)

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert database.jobs()[0][2] == 1


class Archived(qg.Job):
    def delete(self) -> None:
        write(self, self.id)
        super().delete()


@pytest.mark.parametrize("ending", ["open", "committed", "rolled back"])
def test_an_override_of_delete_runs_again_only_if_its_deletion_was_undone(
    dsn: str, database: Database, ending: str
) -> None:
    def handler(job: qg.Job) -> None:
        job.delete()
        if ending == "committed":
            job.tx.commit()
        elif ending == "rolled back":
            job.tx.rollback()

    with qg.Client(dsn, job_class=Archived) as client:
        client.enqueue(qg.Job("MyJob"))
        work_one(client, handler)
    assert (database.count(), all_written(database)) == (0, [1])


def test_a_handler_may_delete_and_close_its_connection(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: qg.Job) -> None:
        job.delete()
        job.conn.close()

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert (database.count(), caplog.records) == (0, [])


def test_a_worker_goes_on_after_a_job_that_python_cant_read(client: qg.Client, database: Database) -> None:
    database.query("INSERT INTO jobs (job_class, args) VALUES ('Bad', %s::json)", (f"[{'9' * 5000}]",))
    client.enqueue(qg.Job("MyJob"))
    worker = Sleepless(client, {"MyJob": lambda job: None})
    worker.work()
    assert [job[1:3] for job in database.jobs()] == [("Bad", 1)]


def test_a_handler_may_delete_and_call_done_by_itself(client: qg.Client, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        job.delete()
        job.done()

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert (database.count(), database.locks()) == (0, [])


def test_a_coroutine_is_run_to_its_end(client: qg.Client, database: Database) -> None:
    async def handler(job: qg.Job) -> None:
        await asyncio.sleep(0)
        write(job, job.args[0])

    client.enqueue(qg.Job("MyJob", [7]))
    work_one(client, handler)
    assert (database.count(), all_written(database)) == (0, [7])


def test_a_coroutine_that_raises_is_an_error_of_the_job(client: qg.Client, database: Database) -> None:
    async def handler(job: qg.Job) -> None:
        await asyncio.sleep(0)
        raise LookupError("nobody there")

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert first_line(database) == "LookupError: nobody there"


def test_a_coroutine_is_run_even_below_a_running_event_loop(client: qg.Client, database: Database) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
    seen: list[str] = []

    async def handler(job: qg.Job) -> None:
        await asyncio.sleep(0)
        seen.append(user.get())

    async def program() -> None:
        user.set("me")
        work_one(client, handler)

    client.enqueue(qg.Job("MyJob"))
    asyncio.run(program())
    assert (seen, database.count()) == (["me"], 0)


class Promise:
    """Neither a coroutine nor a future, but to be awaited all the same."""

    def __init__(self, keep: Callable[[], None]) -> None:
        self.keep = keep

    def __await__(self) -> Iterator[Any]:
        self.keep()
        return iter(())


def test_whatever_can_be_awaited_is_awaited(client: qg.Client, database: Database) -> None:
    kept: list[bool] = []
    client.enqueue(qg.Job("MyJob"))
    work_one(client, lambda job: Promise(lambda: kept.append(True)))
    assert (kept, database.count()) == ([True], 0)


def test_a_worker_sleeps_only_when_the_queue_is_empty(client: qg.Client, database: Database) -> None:
    client.enqueue_batch(qg.Job("MyJob") for _ in range(3))
    worker = Sleepless(client, {"MyJob": lambda job: None}, interval=7)
    worker.work()
    assert (worker.slept, database.count()) == ([7], 0)


def test_a_worker_keeps_one_connection_and_gives_it_back_at_the_end(client: qg.Client, database: Database) -> None:
    pids: list[int] = []
    client.enqueue_batch(qg.Job("MyJob") for _ in range(3))
    ((pid, _, _),) = database.sessions()
    Sleepless(client, {"MyJob": lambda job: pids.append(job.conn.info.backend_pid)}).work()
    client.enqueue(qg.Job("MyJob"))
    work_one(client, lambda job: pids.append(job.conn.info.backend_pid))
    assert pids == [pid] * 4
    assert backend_pid(client) == pid


# Failure


def test_an_exception_is_recorded_with_class_message_and_traceback(client: qg.Client, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        raise ValueError("the user\nis gone")

    client.enqueue(qg.Job("MyJob"))
    assert work_one(client, handler) is True
    ((_, _, count, message),) = database.jobs()
    first, *trace = message.split("\n")
    assert (count, first) == (1, "ValueError: the user is gone")
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-2:] == ["ValueError: the user", "is gone"]
    assert (all_written(database), database.locks()) == ([], [])


def test_an_unknown_type_is_an_error_in_gos_words(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client.enqueue(qg.Job('Some"日本'))
    assert qg.Worker(client, {}).work_one() is True
    assert database.jobs() == [(1, 'Some"日本', 1, 'unknown job type: "Some\\"日本"')]
    assert caplog.records[-1].exc_info is None


def test_a_handler_that_recorded_its_error_itself_keeps_it(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client.enqueue(qg.Job("MyJob"))
    work_one(client, lambda job: job.error("my own words\nand more of them"))
    assert database.jobs() == [(1, "MyJob", 1, "my own words\nand more of them")]
    assert caplog.records[-1].message == "job_failed id=1 type=MyJob: my own words"


def test_what_is_written_after_error_is_rolled_back(client: qg.Client, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        job.error("my own words")
        write(job)

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert all_written(database) == []


def test_a_handler_may_reschedule(client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def handler(job: qg.Job) -> None:
        write(job)
        raise qg.Reschedule(after=60)

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert database.jobs() == [(1, "MyJob", 0, None)]
    assert database.value("SELECT run_at > now() + interval '50 s' FROM que_jobs")
    assert all_written(database) == []
    assert "job_rescheduled id=1 type=MyJob: run again after 60 s" in caplog.text


def test_a_handler_may_discard(client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        raise qg.Discard("obsolete")

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert (database.count(), all_written(database)) == (0, [])
    assert "job_discarded id=1 type=MyJob: obsolete" in caplog.text


# What a handler may do to us


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def recurse(job: Any) -> None:
    recurse(job)


def raising(error: BaseException) -> Callable[[qg.Job], None]:
    def handler(job: qg.Job) -> None:
        raise error

    return handler


def swallow_an_aborted_transaction(job: qg.Job) -> None:
    write(job)
    with suppress(psycopg2.Error):
        job.tx.cursor().execute("SELECT 1/0")


def close_the_connection(job: qg.Job) -> None:
    write(job)
    job.conn.close()


def call_done(job: qg.Job) -> None:
    job.done()


def leave_a_failing_commit(job: qg.Job) -> None:
    with job.tx.cursor() as cur:
        cur.execute("CREATE TEMP TABLE t (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        cur.execute("INSERT INTO t VALUES (1), (1)")


def begin_a_two_phase_transaction(job: qg.Job) -> None:
    job.conn.tpc_begin(job.conn.xid(1, "a", "b"))
    raise RuntimeError("left it open")


def throw_away_the_statements(job: qg.Job) -> None:
    job.conn.autocommit = True
    job.conn.cursor().execute("DISCARD ALL")
    raise RuntimeError("threw everything away")


class Unformattable(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise RuntimeError("no notes")

    __cause__ = property(__notes__.fget)  # type: ignore[assignment]


HOSTILE = [
    (raising(Unformattable("x")), "test_worker.Unformattable: x"),
    (raising(SystemExit(1)), "SystemExit: 1"),
    (raising(asyncio.CancelledError()), "asyncio.exceptions.CancelledError: "),
    (raising(GeneratorExit()), "GeneratorExit: "),
    (raising(MemoryError()), "MemoryError: "),
    (recurse, "RecursionError: "),
    (raising(Unprintable()), "test_worker.Unprintable: <its str() raised RuntimeError>"),
    (raising(ValueError("\x00\ud800")), "ValueError: \ufffd?"),
    (swallow_an_aborted_transaction, "psycopg2.errors.InFailedSqlTransaction: "),
    (close_the_connection, "psycopg2.InterfaceError: connection already closed"),
    (call_done, "qg.errors.ErrNotLocked: the handler of "),
    (leave_a_failing_commit, "psycopg2.errors.UniqueViolation: "),
    (begin_a_two_phase_transaction, "RuntimeError: left it open"),
    (throw_away_the_statements, "RuntimeError: threw everything away"),
]


@pytest.mark.parametrize(("handler", "recorded"), HOSTILE, ids=[recorded.split(":")[0] for _, recorded in HOSTILE])
def test_whatever_a_handler_does_is_that_jobs_error_alone(
    client: qg.Client, database: Database, handler: Any, recorded: str
) -> None:
    done = threading.Event()
    client.enqueue(qg.Job("MyJob", priority=1))
    client.enqueue(qg.Job("Next", priority=2))
    worker = qg.Worker(client, {"MyJob": handler, "Next": lambda job: done.set()}, interval=0.01)
    thread = threading.Thread(target=worker.work)
    thread.start()
    assert done.wait(10)
    assert worker.shutdown()
    thread.join()
    ((_, job_type, count, _),) = database.jobs()
    assert (job_type, count) == ("MyJob", 1)
    assert first_line(database).startswith(recorded)
    assert (all_written(database), database.locks()) == ([], [])


def test_a_session_lost_under_the_handler_loses_its_writes_and_is_its_error(
    client: qg.Client, database: Database
) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        database.terminate(job.conn.info.backend_pid)

    client.enqueue(qg.Job("MyJob"))
    work_one(client, handler)
    assert all_written(database) == []
    assert database.jobs()[0][2] == 1
    assert first_line(database).startswith("psycopg2.")


def test_the_error_of_a_lost_session_needs_no_second_connection_while_the_first_is_alive(
    dsn: str, database: Database
) -> None:
    pool = ThreadedConnectionPool(0, 1, dsn)
    with qg.Client(pool) as client:
        client.enqueue(qg.Job("MyJob"))
        work_one(client, call_done)
    pool.closeall()
    assert database.jobs()[0][2] == 1


def test_an_error_that_cant_be_recorded_is_logged_and_the_worker_waits_an_interval(
    network: Network, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    def handler(job: qg.Job) -> None:
        attempts.append(job.id)
        network.cut()
        raise RuntimeError("the network is gone")

    with qg.Client(network.dsn) as client:
        client.enqueue(qg.Job("MyJob"))
        worker = qg.Worker(client, {"MyJob": handler}, interval=3600)
        thread = threading.Thread(target=worker.work)
        thread.start()
        eventually(lambda: "job_failed id=1" in caplog.text)
        worker.shutdown()
        thread.join()
    assert attempts == [1]
    assert "job_unrecorded id=1" in caplog.text
    assert database.jobs() == [(1, "MyJob", 0, None)]


def test_an_error_that_the_table_refuses_makes_the_worker_wait_an_interval(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no updates today'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:
        client.enqueue(qg.Job("MyJob"))
        worker = Sleepless(client, {"MyJob": raising(RuntimeError("no"))}, interval=7)
        worker.work()
    finally:
        database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse()")
    assert worker.slept == [7]
    assert database.jobs() == [(1, "MyJob", 0, None)]
    assert "job_unrecorded id=1: no updates today" in caplog.text


def test_the_pauses_of_an_outage_grow_and_begin_anew_with_the_next_one(
    client: qg.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = psycopg2.OperationalError("the server is\n\tgone")
    results = iter([gone, gone, gone, None, gone, None])

    def lock(*arguments: Any, **options: Any) -> None:
        result = next(results)
        if result is not None:
            raise result

    monkeypatch.setattr(Batch, "next", lock)
    worker = Sleepless(client, {}, interval=7, sleeps=6)
    worker.work()
    assert worker.slept == [0.05, 0.1, 0.2, 7, 0.05, 7]
    begun = [record.message for record in caplog.records if "outage_begins" in record.message]
    assert begun == ["outage_begins OperationalError: the server is gone; trying again until it is over"] * 2


def test_err_again_makes_a_worker_sleep(client: qg.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(*arguments: Any, **options: Any) -> None:
        raise qg.ErrAgain

    monkeypatch.setattr(Batch, "next", lock)
    worker = Sleepless(client, {}, interval=7)
    worker.work()
    assert worker.slept == [7]


class OwnError(qg.Job):
    def error(self, message: str) -> None:
        raise LookupError("can't do it")


def test_an_override_of_error_that_fails_doesnt_lose_the_error(dsn: str, database: Database) -> None:
    with qg.Client(dsn, job_class=OwnError) as client:
        client.enqueue(qg.Job("MyJob"))
        work_one(client, raising(RuntimeError("the real trouble")))
    assert first_line(database) == "RuntimeError: the real trouble"


def test_ctrl_c_ends_work_and_releases_the_job_unblamed(client: qg.Client, database: Database) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        job.delete()
        raise KeyboardInterrupt

    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(KeyboardInterrupt):
        qg.Worker(client, {"MyJob": handler}).work()
    assert database.jobs() == [(1, "MyJob", 0, None)]
    assert (all_written(database), database.locks()) == ([], [])


def test_a_keyboard_interrupt_raised_in_a_thread_is_that_jobs_error(client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with qg.WorkerPool(client, {"MyJob": raising(KeyboardInterrupt())}, 1, interval=0.01):
        eventually(lambda: database.jobs()[0][2] == 1)
    assert first_line(database) == "KeyboardInterrupt: "


# Logging


def test_a_job_is_one_line_and_a_failure_one_traceback(client: qg.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client.enqueue(qg.Job("MyJob"))
    work_one(client, lambda job: None)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("qg", "INFO")
    assert record.message.startswith("job_worked id=1 type=MyJob seconds=0.")

    caplog.clear()
    client.enqueue(qg.Job("MyJob"))
    work_one(client, raising(RuntimeError("no")))
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "job_failed id=2 type=MyJob: RuntimeError: no")
    assert record.exc_info is not None


def test_an_idle_poll_is_debug(client: qg.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    work_one(client, print)
    assert [(record.levelname, record.message) for record in caplog.records] == [("DEBUG", "no_job queue=")]


def test_everything_is_logged_to_the_logger_given(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("my.app")
    with qg.Client(dsn, logger=logger) as client:
        assert client.logger is logger
        client.enqueue(qg.Job("MyJob"))
        work_one(client, raising(RuntimeError("no")))
        client.lock_job()
    assert {record.name for record in caplog.records} == {"my.app"}


# Settings


def test_queue_and_interval_come_from_the_environment(client: qg.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUE_WAKE_INTERVAL", "")
    assert qg.Worker(client, {}).interval == 5
    monkeypatch.setenv("QUE_QUEUE", "mail")
    monkeypatch.setenv("QUE_WAKE_INTERVAL", "0.25")
    for each in (qg.Worker(client, {}), qg.WorkerPool(client, {}, 1)):
        assert (each.queue, each.interval) == ("mail", 0.25)
    for each in (
        qg.Worker(client, {}, queue="", interval=2),
        qg.WorkerPool(client, {}, 1, queue="", interval=2),
    ):
        assert (each.queue, each.interval) == ("", 2)


def test_without_the_environment_the_queue_is_nameless_and_the_interval_5_s(client: qg.Client) -> None:
    worker = qg.Worker(client, {})
    assert (worker.queue, worker.interval) == ("", 5)


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_an_interval_in_the_environment_that_cant_be_is_named(
    client: qg.Client, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("QUE_WAKE_INTERVAL", value)
    with pytest.raises(qg.ErrInvalidOption, match=f"QUE_WAKE_INTERVAL is '{value}'; set it to a number of seconds"):
        qg.Worker(client, {})


def test_queue_and_interval_may_be_set_until_the_start(client: qg.Client) -> None:
    worker = qg.Worker(client, {})
    worker.queue, worker.interval = "mail", 0
    pool = qg.WorkerPool(client, {}, 1)
    pool.queue, pool.interval = "mail", 0.5
    with pool, pytest.raises(qg.ErrPoolState, match="can't be changed after the start"):
        pool.queue = "other"
    with pytest.raises(qg.ErrPoolState, match="can't be changed after the start"):
        pool.interval = 1


def test_a_worker_that_works_cant_be_changed(client: qg.Client) -> None:
    def handler(job: qg.Job) -> None:
        with pytest.raises(qg.ErrPoolState):
            worker.queue = "other"
        worker.shutdown()

    client.enqueue(qg.Job("MyJob"))
    worker = qg.Worker(client, {"MyJob": handler})
    worker.work()
    assert (worker.queue, client.stats()) == ("", [])


def test_the_worker_works_its_own_queue(client: qg.Client, database: Database) -> None:
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob", queue="mail")])
    worker = qg.Worker(client, {"MyJob": lambda job: None}, queue="mail")
    assert worker.work_one() is True
    assert worker.work_one() is False
    assert database.value("SELECT queue FROM que_jobs") == UNNAMED


@pytest.mark.parametrize("priority", [-32768, 32767])
def test_a_job_of_the_outermost_priority_goes_all_the_way_in_every_manner(
    client: qg.Client, database: Database, priority: int
) -> None:
    with database.connect() as conn:
        client.enqueue_in_tx(qg.Job("MyJob", priority=priority), conn)
    conn.close()
    client.enqueue_batch([qg.Job("MyJob", priority=priority), qg.Job("Fails", priority=priority)])
    assert qg.Worker(client, {"MyJob": lambda job: None}).work_one()

    def write(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("SELECT 1")

    UntilEmpty(client, {"MyJob": write}).work()
    assert [row[1:3] for row in database.jobs()] == [("Fails", 1)]


# An interval of 0


def test_an_idle_worker_sleeps_a_little_even_if_the_interval_is_0(client: qg.Client) -> None:
    worker = Sleepless(client, {}, interval=0, sleeps=3)
    worker.work()
    assert worker.slept == [0.05, 0.05, 0.05]


def test_nor_does_it_run_a_job_that_cant_be_recorded_without_a_pause(client: qg.Client, database: Database) -> None:
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'read only today'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:
        client.enqueue(qg.Job("MyJob"))
        runs: list[None] = []
        worker = Sleepless(client, {"MyJob": lambda job: runs.append(None)}, interval=0, sleeps=6)
        worker.work()
    finally:
        database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse()")
    assert len(runs) == len([seconds for seconds in worker.slept if seconds == 0.05]) > 1
