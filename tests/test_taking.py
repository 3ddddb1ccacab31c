"""Taking jobs in one message each: what it costs, that it comes to the same as work_one(), and its races."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, make_dsn
from psycopg2.pool import ThreadedConnectionPool
from support import ID, SUFFIX, UNNAMED, VERSION, Database, Network, UntilEmpty, backend_pid, eventually

import qg
import qg.batch

PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)
FUTURE = datetime(2999, 1, 1, tzinfo=timezone.utc)
BATCH_SIZES = [1, 2, 5]
each_batch_size = pytest.mark.parametrize("batch_size", BATCH_SIZES)


@pytest.fixture(autouse=True)
def written(database: Database) -> Iterator[None]:
    database.query("CREATE TABLE written (x bigint PRIMARY KEY)")
    yield
    database.query("DROP TABLE written")


def write(job: qg.Job) -> None:
    with job.tx.cursor() as cur:
        cur.execute("INSERT INTO written VALUES (%s)", (job.id,))


def all_written(database: Database) -> list[int]:
    return [x for (x,) in database.query("SELECT x FROM written ORDER BY x")]


def first_lines(database: Database) -> list[tuple[Any, ...]]:
    """Id, error_count and the first line of last_error of every job."""
    return [(job_id, count, text and text.split("\n")[0]) for job_id, _, count, text in database.jobs()]


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[str]:
    """The messages logged, up to their colon or their seconds; only those that begin with one of *names*, if any."""
    messages = [record.message.split(": ")[0].split(" seconds=")[0] for record in caplog.records]
    return [each for each in messages if not names or each.startswith(names)]


def execute(conn: Any, sql: str) -> None:
    """Run *sql* on *conn* outside any transaction, and leave its mode as it was."""
    mode, conn.autocommit = conn.autocommit, True
    conn.cursor().execute(sql)
    conn.autocommit = mode


def work_all(client: qg.Client, database: Database, handler: Callable[[qg.Job], None], batch_size: int) -> None:
    """Work until the table is empty, though a session that was closed keeps its locks for a moment."""

    def is_empty() -> bool:
        UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
        return database.count() == 0

    eventually(is_empty)


# Equivalence


def do_nothing(job: qg.Job) -> None:
    pass


def fail(job: qg.Job) -> None:
    raise LookupError(f"no {job.id}")


def reschedule_after(job: qg.Job) -> None:
    raise qg.Reschedule(after=3600)


def reschedule_at(job: qg.Job) -> None:
    raise qg.Reschedule(at=FUTURE)


def discard(job: qg.Job) -> None:
    raise qg.Discard("obsolete")


def delete(job: qg.Job) -> None:
    job.delete()


def write_and_delete(job: qg.Job) -> None:
    write(job)
    job.delete()


def record_an_error(job: qg.Job) -> None:
    job.error("by hand")


def write_and_record_an_error(job: qg.Job) -> None:
    write(job)
    job.error("by hand, after writing")


def call_done(job: qg.Job) -> None:
    job.done()


def delete_and_call_done(job: qg.Job) -> None:
    job.delete()
    job.done()


def write_and_fail(job: qg.Job) -> None:
    write(job)
    raise ValueError(f"after writing {job.id}")


def write_and_commit(job: qg.Job) -> None:
    write(job)
    job.tx.commit()


def write_and_roll_back(job: qg.Job) -> None:
    write(job)
    job.tx.rollback()


def delete_and_roll_back(job: qg.Job) -> None:
    write(job)
    job.delete()
    job.tx.rollback()


def abort_and_swallow(job: qg.Job) -> None:
    write(job)
    with suppress(psycopg2.Error):
        job.tx.cursor().execute("SELECT 1/0")


def write_in_autocommit(job: qg.Job) -> None:
    job.conn.autocommit = True
    write(job)


def close_the_connection(job: qg.Job) -> None:
    write(job)
    job.conn.close()


def use_a_block(job: qg.Job) -> None:
    with job:
        write(job)
        job.delete()


def fail_in_a_block(job: qg.Job) -> None:
    with job:
        raise KeyError(job.id)


def record_an_error_and_write(job: qg.Job) -> None:
    job.error("in my own words")
    write(job)


def delete_and_close_the_connection(job: qg.Job) -> None:
    job.delete()
    job.conn.close()


OUTCOMES: dict[str, Callable[[qg.Job], None]] = {
    each.__name__: each
    for each in (
        do_nothing,
        write,
        fail,
        reschedule_after,
        reschedule_at,
        discard,
        delete,
        write_and_delete,
        record_an_error,
        write_and_record_an_error,
        record_an_error_and_write,
        delete_and_close_the_connection,
        call_done,
        delete_and_call_done,
        write_and_fail,
        write_and_commit,
        write_and_roll_back,
        delete_and_roll_back,
        abort_and_swallow,
        write_in_autocommit,
        close_the_connection,
        use_a_block,
        fail_in_a_block,
    )
}

histories = st.lists(
    st.tuples(
        st.one_of(st.just("do_nothing"), st.sampled_from([*OUTCOMES, "reschedule_into_the_past", "Unknown", "Bad"])),
        st.integers(-2, 2),
        st.one_of(st.integers(0, 3).map(lambda days: PAST + timedelta(days)), st.just(FUTURE)),
    ),
    max_size=9,
)


class Run:
    """One history worked in one way: in what order, under which locks, and what was left."""

    def __init__(self, client: qg.Client, database: Database, history: list[Any]) -> None:
        self.order: list[int] = []
        self.locks: list[tuple[int, list[int]]] = []
        self._database = database
        database.query("TRUNCATE que_jobs RESTART IDENTITY; TRUNCATE written")
        args = f"[{'9' * 5000}]"
        for kind, priority, run_at in history:
            database.query(
                "INSERT INTO jobs (job_class, priority, run_at, args) VALUES (%s, %s, %s, %s)",
                (kind, priority, run_at, args if kind == "Bad" else "[]"),
            )
        self.work_map = {name: self.watched(handler) for name, handler in OUTCOMES.items()}
        self.work_map["reschedule_into_the_past"] = self.watched(self.reschedule_into_the_past)

    def watched(self, handler: Callable[[qg.Job], None]) -> Callable[[qg.Job], None]:
        def watched_handler(job: qg.Job) -> None:
            self.order.append(job.id)
            self.locks.append((job.id, self._database.locks()))
            handler(job)

        return watched_handler

    def reschedule_into_the_past(self, job: qg.Job) -> None:
        if self.order.count(job.id) == 1:
            raise qg.Reschedule(at=PAST - timedelta(1))

    def result(self) -> Any:
        rows = self._database.query(
            "SELECT job_id, job_class, priority, error_count, split_part(last_error, E'\n', 1), run_at > now() "
            "FROM jobs ORDER BY job_id"
        )
        assert self._database.locks() == []
        return self.order, rows, all_written(self._database)


@settings(max_examples=25)
@given(history=histories, batch_size=st.integers(2, 7))
def test_work_comes_to_the_same_as_work_one_with_batches_and_without(
    client: qg.Client, database: Database, history: list[Any], batch_size: int
) -> None:
    plain = Run(client, database, history)
    worker = qg.Worker(client, plain.work_map)
    while worker.work_one():
        pass
    expected = plain.result()
    assert plain.locks == [(job_id, [job_id]) for job_id in plain.order]

    short = Run(client, database, history)
    UntilEmpty(client, short.work_map).work()
    assert short.result() == expected
    assert short.locks == [(job_id, [job_id]) for job_id in short.order]

    batches = Run(client, database, history)
    UntilEmpty(client, batches.work_map, batch_size=batch_size).work()
    assert batches.result() == expected
    assert all(job_id in locks and len(locks) <= batch_size for job_id, locks in batches.locks)


@each_batch_size
@pytest.mark.parametrize("kind", [*OUTCOMES, "Unknown", "Bad"])
def test_each_job_is_one_line_of_the_log_whatever_becomes_of_it(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, kind: str, batch_size: int
) -> None:
    caplog.set_level(logging.INFO)
    run = Run(client, database, [("do_nothing", 0, PAST), (kind, 1, PAST), ("do_nothing", 2, PAST)])
    UntilEmpty(client, run.work_map, batch_size=batch_size).work()
    lines = events(caplog, "job_worked", "job_failed", "job_rescheduled", "job_discarded", "job_unreadable")
    assert sorted(line.split(" ")[1] for line in lines) == ["id=1", "id=2", "id=3"]
    assert "outage" not in caplog.text


# What it costs


@pytest.fixture
def counted(network: Network, database: Database) -> Iterator[qg.Client]:
    """A client whose one session has everything prepared, and whose messages are counted from here."""
    with qg.Client(network.dsn) as client:
        UntilEmpty(client, {}).work()
        network.statements.clear()
        yield client


def fill(database: Database, count: int, kind: str = "MyJob") -> None:
    database.query(
        "INSERT INTO jobs (job_class, run_at) SELECT %s, %s FROM generate_series(1, %s)", (kind, PAST, count)
    )


def kinds(network: Network, *, lockers: bool = False) -> list[str]:
    """What each message does, in short; with *lockers* those to their table too, one at each end of a worker's work."""
    known = {
        "INSERT INTO que_lockers": "enlist",
        "DELETE FROM que_lockers": "leave",
        "EXECUTE que_finish_jobs": "finish",
        "EXECUTE que_take_jobs": "take",
        "EXECUTE que_set_error": "set error",
        "WITH settled": "delete",
        "SELECT pg_advisory_unlock(": "unlock",
        "WHERE pg_advisory_unlock(id)": "unlock some",
        "INSERT INTO written": "write",
        "INSERT INTO que_jobs": "insert",
        "EXECUTE que_insert_job": "insert",
    }
    result = []
    for statement in network.statements:
        parts = [short for text, short in known.items() if text in statement]
        result.append("+".join(parts) or statement)
    return result if lockers else [kind for kind in result if kind not in ("enlist+leave", "leave")]


def test_a_job_costs_one_message_that_finishes_it_and_takes_the_next(
    counted: qg.Client, network: Network, database: Database
) -> None:
    fill(database, 20)
    worked: list[int] = []
    UntilEmpty(counted, {"MyJob": lambda job: worked.append(job.id)}).work()
    assert worked == list(range(1, 21))
    assert kinds(network) == ["take"] + ["finish+take"] * 20
    text = "".join(network.statements)
    assert (text.count("BEGIN"), text.count("COMMIT"), text.count("que_finish_jobs")) == (20, 20, 20)
    assert sum(each.startswith("BEGIN;EXECUTE que_finish_jobs(") for each in network.statements) == 20


@pytest.mark.parametrize(("count", "size"), [(20, 5), (20, 7), (3, 10), (10, 10)])
def test_a_batch_costs_one_message(
    counted: qg.Client, network: Network, database: Database, no_hurry: None, count: int, size: int
) -> None:
    fill(database, count)
    worked: list[int] = []
    UntilEmpty(counted, {"MyJob": lambda job: worked.append(job.id)}, batch_size=size).work()
    assert worked == list(range(1, count + 1))
    assert kinds(network) == ["take"] + ["finish+take"] * -(-count // size)


def test_an_empty_queue_costs_one_message(counted: qg.Client, network: Network) -> None:
    UntilEmpty(counted, {}).work()
    assert kinds(network) == ["take"]


def test_where_there_are_lockers_a_worker_costs_two_messages_more_however_many_jobs_it_works(
    counted: qg.Client, network: Network, database: Database
) -> None:
    fill(database, 5)
    UntilEmpty(counted, {"MyJob": do_nothing}).work()
    begin, end = ([], []) if VERSION == 3 else (["enlist+leave"], ["leave"])
    assert kinds(network, lockers=True) == [*begin, "take", *["finish+take"] * 5, *end]


@each_batch_size
def test_a_job_that_writes_costs_what_it_writes_its_deletion_and_a_commit(
    counted: qg.Client, network: Network, database: Database, batch_size: int
) -> None:
    fill(database, 1)
    UntilEmpty(counted, {"MyJob": write}, batch_size=batch_size).work()
    assert kinds(network) == ["take", "BEGIN", "write", "delete", "COMMIT", "take"]
    assert all_written(database) == [1]


def test_a_job_that_fails_costs_its_record_and_an_unlock(
    counted: qg.Client, network: Network, database: Database
) -> None:
    fill(database, 1)
    UntilEmpty(counted, {"MyJob": fail}).work()
    assert kinds(network) == ["take", "set error", "unlock", "take"]


def test_a_job_locked_by_hand_costs_a_message_a_step(counted: qg.Client, network: Network, database: Database) -> None:
    fill(database, 1)
    job = counted.lock_job()
    assert kinds(network) == ["take"]
    job.delete()
    destroy_job = f"EXECUTE que_destroy_job{SUFFIX}('{UNNAMED}', 100, '2020-01-01T00:00:00+00:00', 1)"
    assert kinds(network) == ["take", destroy_job]
    job.done()
    assert kinds(network)[2:] == ["unlock"]


def test_to_enqueue_costs_one_message(counted: qg.Client, network: Network) -> None:
    assert counted.enqueue(qg.Job("MyJob")).id == 1
    assert kinds(network) == ["insert"]


def test_to_enqueue_ten_thousand_costs_one_message_and_their_ids_are_in_order(
    counted: qg.Client, network: Network, database: Database
) -> None:
    jobs = counted.enqueue_batch(qg.Job("MyJob", [number]) for number in range(10_000))
    assert kinds(network) == ["insert"]
    assert [(job.id, job.args) for job in jobs] == [(number + 1, [number]) for number in range(10_000)]
    assert database.value("SELECT bool_and((args ->> 0)::bigint = job_id - 1) FROM jobs")


# What somebody throws away

THROWN_AWAY = ["DISCARD TEMP", "DEALLOCATE ALL", "DEALLOCATE que_take_jobs", "DEALLOCATE que_finish_jobs"]


@pytest.mark.parametrize("statement", ["DISCARD ALL", *THROWN_AWAY])
def test_what_was_thrown_away_between_two_locks_costs_a_retry(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    fill(database, 2)
    client.lock_job().done()
    session = client._lease()
    execute(session.conn, statement)
    session.give_back()
    with client.lock_job() as job:
        assert (job.id, database.locks()) == (1, [1])
        assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
        assert not job.conn.autocommit
        job.delete()
    assert (database.count(), caplog.records) == (1, [])


@each_batch_size
@pytest.mark.parametrize("statement", THROWN_AWAY)
def test_what_a_handler_threw_away_costs_a_retry(
    counted: qg.Client,
    network: Network,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    no_hurry: None,
    statement: str,
    batch_size: int,
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 3:
            execute(job.conn, statement)

    fill(database, 10)
    UntilEmpty(counted, {"MyJob": handler}, batch_size=batch_size).work()
    assert (order, database.count()) == (list(range(1, 11)), 0)
    assert caplog.records == []
    if batch_size == 1:
        retried = 2 if statement in ("DISCARD TEMP", "DEALLOCATE ALL", "DEALLOCATE que_finish_jobs") else 1
        assert kinds(network).count("finish+take") == 10 + (retried == 2)
        assert kinds(network).count("take") == 1 + (retried == 1)


@each_batch_size
@pytest.mark.parametrize("statement", THROWN_AWAY)
def test_what_a_pooler_threw_away_under_a_batch_costs_a_retry(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    no_hurry: None,
    statement: str,
    batch_size: int,
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id in (3, 8):
            worker._session.conn.cursor().execute(statement)

    fill(database, 10)
    worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
    worker.work()
    assert (order, database.count()) == (list(range(1, 11)), 0)
    assert caplog.records == []


@each_batch_size
def test_a_pooler_that_discards_all_while_nothing_is_locked_costs_a_retry(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    class Discarding(UntilEmpty):
        discarded = 0

        def _sleep(self, seconds: float, due: float | None = None, calls: int | None = None) -> None:
            self.discarded += 1
            if self.discarded == 3:
                self._ask_to_stop()
            execute(self._session.conn, "DISCARD ALL")
            fill(database, 3)

    fill(database, 3)
    order: list[int] = []
    Discarding(client, {"MyJob": lambda job: order.append(job.id)}, batch_size=batch_size).work()
    assert (order, database.count()) == (list(range(1, 10)), 3)
    assert caplog.records == []


@each_batch_size
def test_a_handler_that_discards_all_has_thrown_its_lock_away_too(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    fill(database, 3)
    work_all(client, database, lambda job: execute(job.conn, "DISCARD ALL"), batch_size)
    assert database.count() == 0
    assert events(caplog) == ["lock_not_ours id=1"]


# Where it can't be


@pytest.fixture(scope="module")
def no_temp(make_database) -> Iterator[str]:
    """A DSN of a role that may work the table and nothing else."""
    dsn = make_database()
    with closing(Database(dsn)) as database:
        name = database.value("SELECT current_database()")
        role = f"{name}_role"
        database.query(f"REVOKE TEMP ON DATABASE {name} FROM PUBLIC; CREATE ROLE {role}")
        database.query(f"GRANT SELECT, INSERT, UPDATE, DELETE ON que_jobs TO {role}")
        database.query(f"GRANT SELECT ON jobs TO {role}")
        if VERSION > 3:
            database.query(f"GRANT SELECT, INSERT, DELETE ON que_lockers TO {role}")
        database.query(f"GRANT USAGE ON SEQUENCE que_jobs_{ID}_seq TO {role}")
        yield make_dsn(dsn, options=f"-c role={role}")
        database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture(params=["no temp", "repeatable read"])
def plain_dsn(request: pytest.FixtureRequest, dsn: str) -> str:
    if request.param == "no temp":
        return request.getfixturevalue("no_temp")
    return make_dsn(dsn, options="-c default_transaction_isolation=repeatable\\ read")


@each_batch_size
def test_where_there_can_be_no_functions_everything_works_plainly_with_one_warning(
    plain_dsn: str, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.args[0])
        assert database.locks() == [job.id]
        if job.args[0] == 4:
            raise LookupError("no 4")

    with closing(Database(plain_dsn)) as database:
        database.query("DELETE FROM que_jobs")
        with qg.Client(plain_dsn) as client:
            first = client.enqueue_batch(qg.Job("MyJob", [number]) for number in range(6))[0]
            with client.lock_job() as job:
                assert (job.id, database.locks()) == (first.id, [first.id])
                assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
                assert not job.conn.autocommit
                job.delete()
            UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
            UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
            assert client.lock_job() is None
            assert database.locks() == []
        assert order == [1, 2, 3, 4, 5]
        assert [(count, text.split("\n")[0]) for _, _, count, text in database.jobs()] == [(1, "LookupError: no 4")]
        database.query("DELETE FROM que_jobs")
    assert [each.split(" ")[0] for each in events(caplog)] == ["taking_plainly", "job_failed"]


@each_batch_size
def test_work_alone_finds_out_by_itself_that_there_can_be_no_functions(
    plain_dsn: str, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    order: list[int] = []
    with closing(Database(plain_dsn)) as database:
        database.query("DELETE FROM que_jobs")
        with qg.Client(plain_dsn) as client:
            client.enqueue_batch(qg.Job("MyJob", [number]) for number in range(4))
            UntilEmpty(client, {"MyJob": lambda job: order.append(job.args[0])}, batch_size=batch_size).work()
            assert database.locks() == []
        assert (order, database.count()) == ([0, 1, 2, 3], 0)
    assert events(caplog) == ["taking_plainly"]


@each_batch_size
def test_a_session_that_refuses_while_another_has_a_job_to_finish_doesnt_make_it_run_twice(
    dsn: str, database: Database, no_hurry: None, batch_size: int
) -> None:
    refusing = make_dsn(dsn, options="-c default_transaction_isolation=repeatable\\ read")
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 3:
            target.append(refusing)
            held = [client._lease() for _ in range(3)]  # the idle ones are used up
            assert client._taker.take(held[-1], "elsewhere") is None
            for session in held:
                session.give_back()

    target = [dsn]
    with qg.Client(lambda: psycopg2.connect(target[-1])) as client:
        fill(database, 10)
        UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
        assert database.locks() == []
    assert (order, database.count()) == (list(range(1, 11)), 0)


@each_batch_size
def test_an_isolation_level_that_a_handler_leaves_behind_leaves_no_lock(
    dsn: str, database: Database, batch_size: int
) -> None:
    pool = ThreadedConnectionPool(1, 3, dsn)
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        execute(job.conn, "SET default_transaction_isolation = 'repeatable read'")

    with qg.Client(pool) as client:
        fill(database, 1)
        UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
        locks = database.locks()
    pool.closeall()
    assert (order, database.count(), locks) == ([1], 0, [])


# The race between looking and locking


RACES = {
    "finished": "DELETE FROM jobs WHERE job_id = 1",
    "failed": "UPDATE jobs SET error_count = 1, run_at = now() + interval '3 s' WHERE job_id = 1",
    "rescheduled earlier": "UPDATE jobs SET run_at = run_at - interval '1 day' WHERE job_id = 1",
    "moved to another priority": "UPDATE jobs SET priority = 50 WHERE job_id = 1",
    "moved to another queue": "UPDATE jobs SET queue = 'elsewhere' WHERE job_id = 1",
}


def race(gate: str, database: Database, change: str, wanted: int) -> tuple[list[int], list[int]]:
    """Take jobs while *change* happens between look and lock; return what was taken, and what was locked then."""
    with qg.Client(gate) as client:
        fill(database, 3)
        session = client._lease()
        taken: list[int] = []

        def take() -> None:
            got = client._taker.take(session, "", wanted)
            taken.extend(row.id for row in got.rows)

        assert client._taker.take(session, "empty").rows == []
        thread = threading.Thread(target=take)
        database.query("SELECT pg_advisory_lock(7, 7)")
        try:
            thread.start()
            eventually(lambda: database.is_waiting_for_a_lock(session.conn.info.backend_pid))
            with closing(database.connect()) as psql, psql, psql.cursor() as cur:
                cur.execute(change)
        finally:
            database.query("SELECT pg_advisory_unlock(7, 7)")
            thread.join()
        locks = database.locks()
        session.discard()
    return taken, locks


@pytest.mark.parametrize("change", RACES)
@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_a_job_that_changed_between_the_look_and_the_lock_isnt_handed_out(
    gate: str, database: Database, change: str, wanted: int
) -> None:
    expected = [2, 3][:wanted]
    assert race(gate, database, RACES[change], wanted) == (expected, expected)


@pytest.mark.parametrize("options", ["", " -c default_transaction_isolation=repeatable\\ read"])
@pytest.mark.parametrize("change", RACES)
def test_lock_job_and_a_worker_pass_over_a_job_that_changed_in_between(
    gate: str, database: Database, change: str, options: str
) -> None:
    parts = psycopg2.extensions.parse_dsn(gate)
    order: list[int] = []
    with qg.Client(make_dsn(gate, options=parts["options"] + options)) as client:
        assert client.lock_job() is None
        fill(database, 2)
        pid = backend_pid(client)
        worker = UntilEmpty(client, {"MyJob": lambda job: order.append(job.id)}, batch_size=5)
        thread = threading.Thread(target=worker.work)
        database.query("SELECT pg_advisory_lock(7, 7)")
        try:
            thread.start()
            eventually(lambda: database.is_waiting_for_a_lock(pid))
            with closing(database.connect()) as psql, psql, psql.cursor() as cur:
                cur.execute(RACES[change])
        finally:
            database.query("SELECT pg_advisory_unlock(7, 7)")
            thread.join()
        assert database.locks() == []
    again = [1] if "priority" in change or "earlier" in change else []
    assert sorted(order) == again + [2]
    assert order.count(1) <= 1


# Rows that somebody edits or removes meanwhile


@each_batch_size
@pytest.mark.parametrize(
    ("change", "event"),
    [("UPDATE jobs SET priority = 7 WHERE job_id = 3", "job_edited id=3"),
     ("UPDATE jobs SET queue = 'b' WHERE job_id = 3", "job_edited id=3"),
     ("DELETE FROM jobs WHERE job_id = 3", "job_gone id=3")],
    ids=["edited", "moved", "removed"],
)  # fmt: skip
def test_a_row_that_changed_while_it_was_worked_is_finished_all_the_same(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    no_hurry: None,
    change: str,
    event: str,
    batch_size: int,
) -> None:
    caplog.set_level(logging.INFO)
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 3:
            database.query(change)

    fill(database, 8)
    pid = backend_pid(client)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert (order, database.count(), database.locks()) == (list(range(1, 9)), 0, [])
    assert events(caplog, "outage", "job_failed", "release_failed") == []
    assert sorted(events(caplog, "job_worked")) == [f"job_worked id={number} type=MyJob" for number in range(1, 9)]
    assert events(caplog, "job_edited", "job_gone") == [event]
    assert backend_pid(client) == pid


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_row_that_is_removed_while_the_last_job_runs_leaves_no_lock_in_a_pool(
    dsn: str, database: Database, no_hurry: None, batch_size: int
) -> None:
    pool = ThreadedConnectionPool(1, 1, dsn)

    def handler(job: qg.Job) -> None:
        if job.id == 2:
            database.query("DELETE FROM jobs WHERE job_id = 2")
            worker.shutdown()

    with qg.Client(pool) as client:
        fill(database, 3)
        worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
        worker.work()
        locks = database.locks()
    pool.closeall()
    assert (locks, [job[0] for job in database.jobs()]) == ([], [3])


# Deletions and commits that fail


@pytest.fixture(params=["the deletion", "the commit"])
def refusing(request: pytest.FixtureRequest, database: Database) -> Iterator[None]:
    """A table whose jobs of type Bad can't be deleted."""
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.job_class = 'Bad' THEN RAISE 'not this one'; END IF; RETURN OLD; END $$"
    )
    kind, when = ("", "BEFORE") if request.param == "the deletion" else ("CONSTRAINT", "AFTER")
    deferred = "DEFERRABLE INITIALLY DEFERRED" if kind else ""
    database.query(
        f"CREATE {kind} TRIGGER refuse {when} DELETE ON que_jobs {deferred} FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    yield
    database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse()")


@each_batch_size
@pytest.mark.parametrize("handler", [do_nothing, write], ids=["idle", "writing"])
def test_a_deletion_that_fails_is_that_jobs_error_alone(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    refusing: None,
    no_hurry: None,
    handler: Callable[[qg.Job], None],
    batch_size: int,
) -> None:
    caplog.set_level(logging.INFO)
    order: list[int] = []

    def bad(job: qg.Job) -> None:
        order.append(job.id)
        handler(job)

    fill(database, 4)
    fill(database, 1, "Bad")
    fill(database, 4)
    UntilEmpty(client, {"MyJob": lambda job: order.append(job.id), "Bad": bad}, batch_size=batch_size).work()
    assert order == list(range(1, 10))
    assert first_lines(database) == [
        (5, 1, "psycopg2.errors.RaiseException: not this one CONTEXT:  PL/pgSQL function refuse() line 1 at RAISE ")
    ]
    assert (database.locks(), all_written(database)) == ([], [])
    assert events(caplog, "job_failed") == ["job_failed id=5 type=Bad"]
    assert len(events(caplog, "job_worked")) == 8
    assert events(caplog, "outage") == []


@each_batch_size
def test_a_job_that_can_neither_be_finished_nor_recorded_makes_the_worker_wait_an_interval(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'read only today'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    slept: list[tuple[float, float | None]] = []

    class Sleepy(qg.Worker):
        def _sleep(self, seconds: float, due: float | None = None, calls: int | None = None) -> None:
            if due == 0.0 and len(slept) < 10:
                slept.append((seconds, due))
                return
            slept.append((seconds, due))
            self._ask_to_stop()

    try:
        fill(database, 1)
        Sleepy(client, {"MyJob": do_nothing}, interval=7, batch_size=batch_size).work()
    finally:
        database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse()")
    assert [each for each in slept if each[1] != 0.0] == [(7, None)]
    assert len(slept) <= 2
    assert database.jobs() == [(1, "MyJob", 0, None)]
    assert events(caplog, "job_unrecorded", "job_failed") == ["job_unrecorded id=1", "job_failed id=1 type=MyJob"]


# Sessions that end


@each_batch_size
def test_a_session_that_a_handler_lost_is_the_error_of_that_job_alone(
    client: qg.Client, database: Database, no_hurry: None, batch_size: int
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 3:
            database.terminate(job.conn.info.backend_pid)

    fill(database, 8)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    ((job_id, count, message),) = first_lines(database)
    assert (order, job_id, count) == (list(range(1, 9)), 3, 1)
    assert message.startswith("psycopg2.")
    assert database.locks() == []


@each_batch_size
def test_a_session_that_ended_while_nothing_was_locked_is_replaced(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    class Losing(UntilEmpty):
        lost = 0

        def _sleep(self, seconds: float, due: float | None = None, calls: int | None = None) -> None:
            self.lost += 1
            if self.lost == 3:
                self._ask_to_stop()
            else:
                database.terminate(self._session.conn.info.backend_pid)
                fill(database, 3)

    fill(database, 3)
    order: list[int] = []
    Losing(client, {"MyJob": lambda job: order.append(job.id)}, batch_size=batch_size).work()
    assert (order, database.count(), caplog.records) == (list(range(1, 10)), 0, [])


@each_batch_size
def test_a_session_that_ends_before_jobs_are_finished_is_their_error_and_none_is_lost(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, batch_size: int
) -> None:
    caplog.set_level(logging.INFO)
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if len(order) == 3:
            database.terminate(worker._session.conn.info.backend_pid)

    fill(database, 8)
    worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
    worker.work()
    assert sorted(set(order)) == list(range(1, 9))
    assert len(order) == 8  # those that failed are to be run again, later
    failed = first_lines(database)
    # At most the unfinished jobs of that batch, and among them the one during which it happened.
    assert 3 in [job_id for job_id, _, _ in failed]
    assert len(failed) <= batch_size
    assert all(count == 1 and message.startswith("psycopg2.") for _, count, message in failed)
    assert database.locks() == []
    lines = sorted(int(each.split(" ")[1][3:]) for each in events(caplog, "job_worked", "job_failed"))
    assert lines == list(range(1, 9))
    assert len(events(caplog, "job_failed")) == len(failed)


@each_batch_size
def test_a_pool_of_one_connection_is_enough_to_record_that_its_session_ended(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, batch_size: int
) -> None:
    pool = ThreadedConnectionPool(0, 1, dsn)
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if len(order) == 1:
            database.terminate(worker._session.conn.info.backend_pid)

    with qg.Client(pool) as client:
        fill(database, 1)
        worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
        worker.work()
    pool.closeall()
    ((_, count, message),) = first_lines(database)
    assert (order, count) == ([1], 1)
    assert message.startswith("psycopg2.")
    assert "job_unrecorded" not in caplog.text


@each_batch_size
def test_a_search_path_that_a_handler_leaves_behind_is_that_jobs_error(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, batch_size: int
) -> None:
    def handler(job: qg.Job) -> None:
        execute(job.conn, "SET search_path = pg_catalog")

    fill(database, 1)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    ((_, count, message),) = first_lines(database)
    assert count == 1
    assert message.startswith("psycopg2.errors.UndefinedTable")
    assert "job_unrecorded" not in caplog.text


@each_batch_size
@pytest.mark.parametrize("leave", ["nothing", "a write"])
def test_a_lock_that_a_handler_gave_up_is_told_once_and_its_session_isnt_used_again(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int, leave: str
) -> None:
    pids: dict[int, int] = {}

    def handler(job: qg.Job) -> None:
        pids[job.id] = job.conn.info.backend_pid
        if job.id < 3:
            execute(job.conn, f"SELECT pg_advisory_unlock({job.id})")
        if leave == "a write":
            write(job)

    fill(database, 4)
    work_all(client, database, handler, batch_size)
    assert (database.count(), database.locks()) == (0, [])
    assert [each.split(" ")[0] for each in events(caplog)] == ["lock_not_ours"]
    assert pids[1] != pids[2]
    assert not {pids[1], pids[2]} & {pids[3], pids[4]}


# What a handler finds, and what is found after it


@each_batch_size
def test_a_handler_finds_its_connection_idle_in_the_ordinary_mode_whatever_the_last_one_did(
    client: qg.Client, database: Database, batch_size: int
) -> None:
    seen: list[Any] = []

    def handler(job: qg.Job) -> None:
        conn = job.conn
        mode = (conn.autocommit, conn.isolation_level, conn.readonly, conn.deferrable)
        with conn.cursor() as cur:
            status = conn.info.transaction_status
            cur.execute("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
            seen.append((mode, status, cur.fetchone()))
        conn.rollback()
        if job.id % 2:
            conn.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True, autocommit=True)
        elif job.id % 4 == 0:
            conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
        else:
            conn.autocommit = True

    fill(database, 9)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert seen == [((False, None, None, None), TRANSACTION_STATUS_IDLE, ("read committed", "off"))] * 9
    assert database.count() == 0


@each_batch_size
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("possible", [True, False])
def test_a_connection_goes_back_to_its_pool_in_the_mode_it_had_idle_and_free_of_locks(
    dsn: str, database: Database, no_hurry: None, batch_size: int, autocommit: bool, possible: bool
) -> None:
    pool = ThreadedConnectionPool(1, 1, dsn)
    conn = pool.getconn()
    conn.set_session(isolation_level="REPEATABLE READ", deferrable=True, autocommit=autocommit)
    pool.putconn(conn)
    with qg.Client(pool) as client:
        client._taker.possible = possible
        fill(database, 7)
        work_map = {"MyJob": lambda job: [do_nothing, write, fail, do_nothing][job.id % 4](job)}
        UntilEmpty(client, work_map, batch_size=batch_size).work()
    again = pool.getconn()
    assert again is conn
    assert (conn.autocommit, conn.readonly, conn.deferrable) == (autocommit, None, True)
    assert conn.isolation_level == psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ
    assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE
    assert database.locks() == []
    pool.closeall()
    assert [job[0] for job in database.jobs()] == [2, 6]


class Archived(qg.Job):
    def delete(self) -> None:
        write(self)
        super().delete()


@each_batch_size
def test_an_override_of_delete_is_called_and_its_writes_go_with_the_deletion(
    dsn: str, database: Database, no_hurry: None, batch_size: int
) -> None:
    database.query(
        "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"PERFORM FROM written WHERE x = OLD.{ID} AND xmin::text::bigint = mod(txid_current(), 4294967296);"
        "IF NOT FOUND THEN RAISE 'not in one transaction'; END IF; RETURN OLD; END $$;"
        "CREATE TRIGGER same BEFORE DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION same()"
    )
    try:
        with qg.Client(dsn, job_class=Archived) as client:
            fill(database, 7)
            UntilEmpty(client, {"MyJob": do_nothing}, batch_size=batch_size).work()
    finally:
        database.query("DROP TRIGGER same ON que_jobs; DROP FUNCTION same()")
    assert (database.jobs(), all_written(database)) == ([], list(range(1, 8)))


# Plans


def test_a_plan_from_when_the_table_was_empty_never_reads_the_whole_of_it(make_database) -> None:
    dsn = make_database()
    with closing(Database(dsn)) as database:
        database.query("ALTER TABLE que_jobs SET (autovacuum_enabled = off); ANALYZE que_jobs")

        def scans() -> int:
            eventually(lambda: not database.sessions())
            return database.value("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'que_jobs'")

        with qg.Client(dsn) as client:
            database.query(
                "INSERT INTO jobs (job_class, run_at) SELECT 'MyJob', '2020-01-01' FROM generate_series(1, 7)"
            )
            for batch_size in (1, 1, 3, 3):
                UntilEmpty(client, {"MyJob": do_nothing}, batch_size=batch_size).work()
            client.enqueue(qg.Job("MyJob"))
            UntilEmpty(client, {"MyJob": do_nothing}, batch_size=3).work()
            pid = backend_pid(client)
            database.query("SELECT pg_stat_force_next_flush()")
            database.query(
                "INSERT INTO jobs (job_class, run_at) SELECT 'MyJob', '2020-01-01' FROM generate_series(1, 20000)"
            )
            before = database.value("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'que_jobs'")
            worked: list[int] = []

            def handler(job: qg.Job) -> None:
                worked.append(job.id)
                if len(worked) % 40 == 0:
                    worker._ask_to_stop()

            for batch_size in (1, 10):
                worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
                worker.work()
            client.lock_job().done()
            assert (len(worked), backend_pid(client)) == (80, pid)
        # The sessions have told what they did, since the beginning, when they ended.
        assert scans() == before


# Ctrl-C


@each_batch_size
@pytest.mark.parametrize("use", ["idle", "deleted"])
def test_ctrl_c_finishes_the_finished_jobs_and_frees_the_others_unharmed(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, use: str, batch_size: int
) -> None:
    caplog.set_level(logging.INFO)

    def handler(job: qg.Job) -> None:
        if job.id == 3:
            if use == "deleted":
                write_and_delete(job)
            raise KeyboardInterrupt

    fill(database, 8)
    with pytest.raises(KeyboardInterrupt):
        qg.Worker(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert database.locks() == []
    assert first_lines(database) == [(number, 0, None) for number in range(3, 9)]
    assert all_written(database) == []
    assert sorted(events(caplog)) == ["job_worked id=1 type=MyJob", "job_worked id=2 type=MyJob"]
