"""Batches: several jobs locked at once and finished together, and none held up by another."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.pool import ThreadedConnectionPool
from support import ID, PATIENCE, Database, UntilEmpty, eventually, lease, table_of

import qg
import qg.working.batch
import qg.working.watch
from qg.client import engine_of
from qg.job import locked_attempt_of
from qg.working.batch import Batch
from qg.working.options import WorkOptions
from qg.working.sleepers import Sleepers
from qg.working.watch import Watch


@pytest.fixture(autouse=True)
def written(database: Database) -> Iterator[None]:
    database.query("CREATE TABLE written (x bigint PRIMARY KEY)")
    yield
    database.query("DROP TABLE written")


@pytest.fixture
def work(client: qg.Client) -> Iterator[Callable[..., tuple[UntilEmpty, threading.Thread]]]:
    """A function that starts a worker in a thread of its own."""
    started: list[tuple[UntilEmpty, threading.Thread]] = []

    def start(handler: Any, batch_size: int, client: qg.Client = client) -> tuple[UntilEmpty, threading.Thread]:
        worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
        started.append((worker, threading.Thread(target=worker.work)))
        started[-1][1].start()
        return started[-1]

    yield start
    for worker, thread in started:
        worker.stop()
        thread.join(PATIENCE)


def fill(database: Database, count: int) -> None:
    database.query(
        "INSERT INTO jobs (job_class, run_at) SELECT 'MyJob', '2020-01-01' FROM generate_series(1, %s)", (count,)
    )


def left(database: Database) -> list[int]:
    return [job[0] for job in database.jobs()]


def write(job: qg.Job) -> None:
    with job.tx.cursor() as cur:
        cur.execute("INSERT INTO written VALUES (%s)", (job.id,))


def all_written(database: Database) -> list[int]:
    return [x for (x,) in database.query("SELECT x FROM written ORDER BY x")]


@pytest.fixture
def watches() -> Callable[[], list[threading.Thread]]:
    """A function that returns the threads that watch a batch, as far as they began in this test."""
    before = set(threading.enumerate())
    return lambda: [each for each in threading.enumerate() if each.name == "qg-batch" and each not in before]


# One commit


def test_finished_jobs_stay_until_the_batch_is_finished_and_then_go_in_one_commit(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    seen: list[tuple[list[int], list[int]]] = []
    database.query(
        "CREATE TABLE deletions (job_id bigint, transaction bigint);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"INSERT INTO deletions VALUES (OLD.{ID}, txid_current()); RETURN OLD; END $$;"
        "CREATE TRIGGER note BEFORE DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION note()"
    )
    try:
        fill(database, 5)
        worker = UntilEmpty(
            client, {"MyJob": lambda job: seen.append((left(database), database.locks()))}, batch_size=3
        )
        worker.work()
        transactions = database.query("SELECT array_agg(job_id ORDER BY job_id) FROM deletions GROUP BY transaction")
    finally:
        database.query("DROP TRIGGER note ON que_jobs; DROP FUNCTION note(); DROP TABLE deletions")
    assert seen == [([1, 2, 3, 4, 5], [1, 2, 3])] * 3 + [([4, 5], [4, 5])] * 2
    assert sorted(transactions) == [([1, 2, 3],), ([4, 5],)]


def test_the_jobs_of_a_batch_run_in_the_order_of_the_queue(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    order: list[int] = []
    priorities = [3, 1, 2, 1, 3, 2, 1]
    client.enqueue_batch(qg.Job("MyJob", priority=priority) for priority in priorities)
    UntilEmpty(client, {"MyJob": lambda job: order.append(job.priority)}, batch_size=4).work()
    assert order == sorted(priorities)


def test_a_finished_job_is_logged_once_it_is_durable_with_the_time_its_handler_took(
    client: qg.Client, database: Database, no_hurry: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before: list[int] = []
    fill(database, 3)
    UntilEmpty(client, {"MyJob": lambda job: before.append(len(caplog.records))}, batch_size=3).work()
    assert before == [0, 0, 0]
    assert [record.message.split(" seconds=")[0] for record in caplog.records] == [
        f"job_worked id={number} type=MyJob" for number in (1, 2, 3)
    ]


# A handler that hangs


def hang_in_python(release: threading.Event, database: Database, job: qg.Job) -> None:
    assert release.wait(PATIENCE)


def hang_in_a_statement(release: threading.Event, database: Database, job: qg.Job) -> None:
    with job.tx.cursor() as cur:
        cur.execute("SELECT pg_advisory_xact_lock(7, 7)")


def hang_after_a_statement(release: threading.Event, database: Database, job: qg.Job) -> None:
    write(job)
    assert release.wait(PATIENCE)


@pytest.mark.parametrize("hang", [hang_in_python, hang_in_a_statement, hang_after_a_statement])
@pytest.mark.parametrize("hanging", [1, 3, 6], ids=["first", "middle", "last"])
def test_a_handler_that_hangs_holds_nothing_hostage_but_itself(
    client: qg.Client, database: Database, work: Any, hang: Any, hanging: int, watches: Any
) -> None:
    release = threading.Event()
    order: list[int] = []
    elsewhere: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == hanging:
            hang(release, database, job)

    fill(database, 6)
    database.query("SELECT pg_advisory_lock(7, 7)")
    gate = 7 << 32 | 7
    try:
        worker, thread = work(handler, 6)
        eventually(lambda: order[-1:] == [hanging])
        eventually(lambda: left(database) == list(range(hanging, 7)), "the end of the finished ones")
        eventually(lambda: set(database.locks()) <= {hanging, gate}, "the release of the others")
        UntilEmpty(client, {"MyJob": lambda job: elsewhere.append(job.id)}).work()
        assert elsewhere == list(range(hanging + 1, 7))
        assert left(database) == [hanging]
        assert set(database.locks()) == {hanging, gate}
        assert thread.is_alive()
    finally:
        release.set()
        database.query("SELECT pg_advisory_unlock(7, 7)")
        thread.join(PATIENCE)
    assert order == list(range(1, hanging + 1))
    assert (left(database), database.locks(), watches()) == ([], [], [])


def test_a_handler_that_hangs_in_a_batch_of_one_has_no_watch(database: Database, work: Any, watches: Any) -> None:
    release = threading.Event()
    fill(database, 1)
    _, thread = work(lambda job: release.wait(PATIENCE), 5)
    try:
        eventually(lambda: database.locks() == [1])
        assert watches() == []
    finally:
        release.set()
        thread.join(PATIENCE)


def test_a_batch_that_took_long_is_finished_before_the_next_of_its_jobs_begins(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So it isn't the watch that does it.
    monkeypatch.setattr(qg.working.watch, "_WATCH_SECONDS", 3600.0)
    monkeypatch.setattr(qg.working.batch, "_LONGEST_SECONDS", 0.0)
    seen: list[tuple[list[int], list[int]]] = []
    fill(database, 3)
    UntilEmpty(client, {"MyJob": lambda job: seen.append((left(database), database.locks()))}, batch_size=3).work()
    assert left(database) == []
    assert seen == [([1, 2, 3], [1, 2, 3]), ([2, 3], [2]), ([3], [3])]


def test_the_watch_leaves_the_job_that_runs_as_it_is(client: qg.Client, database: Database, work: Any) -> None:
    watched, go_on = threading.Event(), threading.Event()

    def handler(job: qg.Job) -> None:
        if job.id == 2:
            watched.set()
            assert go_on.wait(PATIENCE)
            assert not job.conn.autocommit
            assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
            write(job)

    fill(database, 4)
    _, thread = work(handler, 4)
    assert watched.wait(PATIENCE)
    eventually(lambda: database.locks() == [2])
    assert left(database) == [2, 3, 4]
    go_on.set()
    thread.join(PATIENCE)
    assert (left(database), all_written(database)) == ([], [2])


def test_finished_jobs_are_durable_and_waiting_ones_free_though_one_of_them_cant_be_finished(
    database: Database, work: Any, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 2:
            database.query("UPDATE jobs SET priority = 7 WHERE job_id = 2")
        elif job.id == 3:
            assert release.wait(2 * PATIENCE)

    fill(database, 6)
    _, thread = work(handler, 6)
    try:
        eventually(lambda: left(database) == [3, 4, 5, 6])
        eventually(lambda: database.locks() == [3], "the release of the waiting ones")
    finally:
        release.set()
        thread.join(PATIENCE)
    assert (order, left(database)) == ([1, 2, 3, 4, 5, 6], [])
    assert [record.message.split(":")[0] for record in caplog.records] == ["job_edited id=2"]


# A job that uses its connection


def test_a_transaction_in_the_middle_of_a_batch_waits_for_none_and_holds_up_none(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    seen: list[Any] = []

    def handler(job: qg.Job) -> None:
        if job.id == 3:
            assert (left(database), database.locks()) == ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
            conn = job.tx
            seen.append((left(database), database.locks(), conn.info.transaction_status, conn.autocommit))
            write(job)
            with conn.cursor() as cur:
                cur.execute("SELECT txid_current()")
                seen.append(cur.fetchone()[0])
            assert (left(database), all_written(database)) == ([3, 4, 5, 6], [])

    fill(database, 6)
    UntilEmpty(client, {"MyJob": handler}, batch_size=6).work()
    assert seen[0] == ([3, 4, 5, 6], [3], TRANSACTION_STATUS_IDLE, False)
    assert database.query("SELECT x, xmin::text::bigint FROM written") == [(3, seen[1] % 2**32)]
    assert (left(database), database.locks()) == ([], [])


def test_the_writes_and_the_deletion_of_a_job_in_a_batch_are_one_commit(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;"
        f"CREATE TRIGGER refuse BEFORE DELETE ON que_jobs FOR EACH ROW WHEN (OLD.{ID} = 2) EXECUTE FUNCTION refuse()"
    )
    try:
        fill(database, 3)
        UntilEmpty(client, {"MyJob": write}, batch_size=3).work()
    finally:
        database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse()")
    assert (left(database), all_written(database)) == ([2], [1, 3])


def test_threads_of_one_handler_may_ask_for_its_connection_at_once(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    found: list[Any] = []

    def handler(job: qg.Job) -> None:
        if job.id == 3:
            start = threading.Barrier(4)

            def ask() -> None:
                start.wait(PATIENCE)
                conn = job.conn
                found.append((conn, conn.autocommit, conn.info.transaction_status))

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)

    fill(database, 5)
    UntilEmpty(client, {"MyJob": handler}, batch_size=5).work()
    assert len(found) == 4
    assert set(found) == {(found[0][0], False, TRANSACTION_STATUS_IDLE)}
    assert left(database) == []


def test_a_job_that_is_finished_but_still_there_is_out_of_its_handlers_hands(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    jobs: list[qg.Job] = []

    def handler(job: qg.Job) -> None:
        jobs.append(job)
        for earlier in jobs[:-1]:
            assert earlier.conn is None
            earlier.done()
            with pytest.raises(qg.ErrNotLocked):
                earlier.delete()
            with pytest.raises(qg.ErrNotLocked):
                earlier.error("too late")
        assert database.locks() == [1, 2, 3]

    fill(database, 3)
    UntilEmpty(client, {"MyJob": handler}, batch_size=3).work()
    assert database.jobs() == []


# Errors


def test_an_error_in_the_middle_of_a_batch_is_that_jobs_alone(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    def handler(job: qg.Job) -> None:
        if job.id in (3, 4):
            raise LookupError(f"no {job.id}")

    fill(database, 7)
    UntilEmpty(client, {"MyJob": handler}, batch_size=5).work()
    assert [(job_id, count, text.split("\n")[0]) for job_id, _, count, text in database.jobs()] == [
        (3, 1, "LookupError: no 3"),
        (4, 1, "LookupError: no 4"),
    ]
    assert database.locks() == []


def test_an_unreadable_job_whose_error_cant_be_recorded_loses_no_finished_one(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    order: list[int] = []
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no updates today'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:
        fill(database, 2)
        database.query("INSERT INTO jobs (job_class, args) VALUES ('Bad', %s::json)", (f"[{'9' * 5000}]",))
        UntilEmpty(client, {"MyJob": lambda job: order.append(job.id)}, batch_size=5).work()
    finally:
        database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse()")
    assert (order, left(database)) == ([1, 2], [3])
    # Its session was closed, which the server sees in a moment.
    eventually(lambda: database.locks() == [])


def test_ten_unreadable_jobs_in_a_row_make_the_worker_sleep_with_nothing_owed(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    at_sleep: list[tuple[list[int], list[int]]] = []

    class Sleepy(UntilEmpty):
        def rest(self, seconds: float, due: float | None = None) -> None:
            at_sleep.append((left(database)[:1], database.locks()))
            self.stop()

    fill(database, 1)
    database.query(
        "INSERT INTO jobs (job_class, args) SELECT 'Bad', %s::json FROM generate_series(1, 11)",
        (f"[{'9' * 5000}]",),
    )
    Sleepy(client, {"MyJob": lambda job: None}, batch_size=20).work()
    assert at_sleep == [([2], [])]


def test_a_waiting_job_doesnt_begin_once_its_session_is_known_to_be_gone(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    begun: list[tuple[int, list[int]]] = []

    def handler(job: qg.Job) -> None:
        begun.append((job.id, database.locks()))
        if len(begun) == 1:
            database.terminate(worker.loop.session.conn.info.backend_pid)

    fill(database, 4)
    worker = UntilEmpty(client, {"MyJob": handler}, batch_size=4)
    worker.work()
    assert [job_id for job_id, locks in begun if job_id not in locks] == []
    assert database.locks() == []


# The end


@pytest.mark.parametrize("use", ["nothing", "its transaction", "an error"])
def test_shutdown_in_the_middle_of_a_batch_finishes_the_finished_and_frees_the_rest(
    dsn: str, database: Database, no_hurry: None, use: str, watches: Any
) -> None:
    pool = ThreadedConnectionPool(1, 1, dsn)

    def handler(job: qg.Job) -> None:
        if job.id == 3:
            worker.shutdown()
            if use == "its transaction":
                write(job)
            elif use == "an error":
                raise LookupError("no 3")

    with qg.Client(pool) as client:
        fill(database, 6)
        worker = qg.Worker(client, {"MyJob": handler}, batch_size=6)
        worker.work()
        locks = database.locks()
    pool.closeall()
    assert (locks, watches()) == ([], [])
    assert [(job_id, count) for job_id, _, count, _ in database.jobs()] == [
        *([(3, 1)] if use == "an error" else []),
        (4, 0),
        (5, 0),
        (6, 0),
    ]


def test_shutdown_leaves_no_lock_even_if_the_finished_jobs_cant_be_finished_together(
    dsn: str, database: Database, no_hurry: None
) -> None:
    pool = ThreadedConnectionPool(1, 1, dsn)

    def handler(job: qg.Job) -> None:
        if job.id == 2:
            database.query("UPDATE jobs SET priority = 7 WHERE job_id = 1")
            worker.shutdown()

    with qg.Client(pool) as client:
        fill(database, 5)
        worker = qg.Worker(client, {"MyJob": handler}, batch_size=5)
        worker.work()
        locks = database.locks()
    pool.closeall()
    assert (left(database), locks) == ([3, 4, 5], [])


def test_a_client_that_is_closed_in_the_middle_of_a_batch_ends_the_worker_with_nothing_owed(
    dsn: str, database: Database, no_hurry: None, watches: Any
) -> None:
    def handler(job: qg.Job) -> None:
        if job.id == 2:
            client.close()

    client = qg.Client(dsn)
    fill(database, 5)
    qg.Worker(client, {"MyJob": handler}, batch_size=5).work()
    assert (left(database), database.locks(), watches()) == ([3, 4, 5], [], [])


@pytest.mark.parametrize(
    "lose",
    [
        lambda job, database: job.conn.close(),
        lambda job, database: database.terminate(job.conn.info.backend_pid),
        lambda job, database: job.conn.cursor().execute("SELECT pg_advisory_unlock(%s)", (job.id,)),
    ],
    ids=["closed", "terminated", "unlocked"],
)
def test_no_thread_is_left_of_a_batch_whose_session_was_lost(
    client: qg.Client, database: Database, no_hurry: None, lose: Any, watches: Any
) -> None:
    def handler(job: qg.Job) -> None:
        if job.id % 4 == 0:
            with suppress(psycopg2.Error):
                lose(job, database)

    fill(database, 12)
    UntilEmpty(client, {"MyJob": handler}, batch_size=3).work()
    assert watches() == []


def test_a_watch_that_comes_to_rest_while_it_is_ended_ends_all_the_same() -> None:
    looking, ending = threading.Event(), threading.Event()

    def look() -> None:
        looking.set()
        assert ending.wait(PATIENCE)
        time.sleep(0.1)  # end() gets to where it waits for us; if it doesn't, nothing is tested
        watch.rest()

    watch = Watch(look, logging.getLogger("qg"))
    watch.begin()
    assert looking.wait(PATIENCE)
    end = threading.Thread(target=watch.end, daemon=True)
    ending.set()
    end.start()
    end.join(PATIENCE)
    ended = not end.is_alive()
    watch.end() if ended else watch.begin()
    assert ended


def test_a_crash_repeats_the_unfinished_jobs_of_one_batch_and_no_other(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)

    fill(database, 10)
    session = lease(client)
    batch = Batch(
        engine_of(client),
        session,
        WorkOptions("", 5, batch_size=4),
        types=lambda: None,
        settle=lambda job, attempt, error, seconds: True,
        sleepers=Sleepers(batch_size=4),
    )
    for _ in range(7):
        job = batch.next(table_of(client))
        handler(job)
        batch.complete(job, locked_attempt_of(job))
    assert order == [1, 2, 3, 4, 5, 6, 7]
    assert (left(database), database.locks()) == ([5, 6, 7, 8, 9, 10], [5, 6, 7, 8])
    database.terminate(session.conn.info.backend_pid)  # as the end of the process does
    assert database.locks() == []
    UntilEmpty(client, {"MyJob": handler}).work()
    assert order[7:] == [5, 6, 7, 8, 9, 10]
    session.close_now()
    batch.end()


# Several workers


@pytest.mark.parametrize("handlers", ["idle", "mixed"])
def test_workers_with_batches_work_each_job_exactly_once(
    client: qg.Client, database: Database, handlers: str, caplog: pytest.LogCaptureFixture, watches: Any
) -> None:
    caplog.set_level(logging.INFO)
    count = 1000
    worked: Counter[int] = Counter()
    mutex = threading.Lock()

    def handler(job: qg.Job) -> None:
        with mutex:
            worked[job.id] += 1
        if handlers == "mixed" and job.id % 7 == 0:
            write(job)
        elif handlers == "mixed" and job.id % 11 == 0:
            raise qg.Discard("enough")

    fill(database, count)
    with qg.WorkerPool(client, {"MyJob": handler}, 2, batch_size=20, interval=0.05):
        eventually(lambda: database.count() == 0, "the end of all jobs", timeout=60)
    assert worked == Counter(range(1, count + 1))
    lines = Counter(record.message.split(" ")[1] for record in caplog.records)
    assert lines == Counter(f"id={number}" for number in range(1, count + 1))
    assert all_written(database) == (
        [number for number in range(1, count + 1) if number % 7 == 0] * (handlers == "mixed")
    )
    assert watches() == []


def test_workers_with_batches_and_without_pass_over_each_others_jobs(
    client: qg.Client, database: Database, no_hurry: None, work: Any
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        inside.set()
        assert go_on.wait(PATIENCE)

    fill(database, 5)
    _, thread = work(handler, 3)
    assert inside.wait(PATIENCE)
    others: list[int] = []
    UntilEmpty(client, {"MyJob": lambda job: others.append(job.id)}, batch_size=2).work()
    go_on.set()
    thread.join(PATIENCE)
    assert (order, others) == ([1, 2, 3], [4, 5])
    assert database.count() == 0


# Its size


@pytest.mark.parametrize("size", [0, -1, 1001, 2.0, True, None, "5"])
def test_a_batch_size_that_cant_be_is_refused(client: qg.Client, size: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="batch_size must be a number of jobs, 1 to 1000, not "):
        qg.Worker(client, {}, batch_size=size)
    with pytest.raises(qg.ErrInvalidOption, match="batch_size must be a number of jobs, 1 to 1000, not "):
        qg.WorkerPool(client, {}, 1, batch_size=size)


def test_the_largest_batch_is_one_message(client: qg.Client, database: Database, no_hurry: None) -> None:
    locks: list[int] = []

    def handler(job: qg.Job) -> None:
        if job.id == 1:
            locks.extend(database.locks())

    fill(database, 1001)
    UntilEmpty(client, {"MyJob": handler}, batch_size=1000).work()
    assert locks == list(range(1, 1001))
    assert database.count() == 0


def test_a_batch_shrinks_to_what_was_run_when_it_is_broken_up_and_doubles_when_all_of_it_was(
    client: qg.Client, database: Database, no_hurry: None
) -> None:
    sizes: list[int] = []
    taken = 0

    def handler(job: qg.Job) -> None:
        nonlocal taken
        locks = len(database.locks())
        if job.id > taken:
            sizes.append(locks)
            taken = job.id + locks - 1
        if job.id == 3:
            assert job.conn
            assert database.locks() == [3]
            taken = 3

    fill(database, 40)
    UntilEmpty(client, {"MyJob": handler}, batch_size=8).work()
    # The three that ran aren't all that had been wanted, so the next one is of three; those of
    # that one are, and so on.
    assert sizes == [8, 3, 6, 8, 8, 8, 4]
    assert database.count() == 0


def test_a_pool_hands_its_batch_size_on(client: qg.Client, database: Database, no_hurry: None) -> None:
    locks: list[int] = []
    fill(database, 4)
    with qg.WorkerPool(client, {"MyJob": lambda job: locks.append(len(database.locks()))}, 1, batch_size=4) as pool:
        eventually(lambda: database.count() == 0)
    assert (pool.batch_size, locks) == (4, [4, 4, 4, 4])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_lock_that_the_last_handler_left_doesnt_get_into_a_pool(database: Database, batch_size: int) -> None:
    def handler(job: qg.Job) -> None:
        job.tx.cursor().execute("SELECT pg_advisory_lock(4711)")
        worker.shutdown()

    source = ThreadedConnectionPool(1, 3, database.dsn)
    with qg.Client(source) as client:
        fill(database, 5)
        worker = qg.Worker(client, {"MyJob": handler}, batch_size=batch_size)
        worker.work()
        assert database.locks() == []
        assert left(database) == [2, 3, 4, 5]
    source.closeall()


def test_a_batch_that_can_neither_be_finished_nor_recorded_is_told_of_in_a_line_a_job(
    database: Database, no_hurry: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the database is gone, one job finds that out for all of its batch."""
    with qg.Client(database.dsn) as client:

        def handler(job: qg.Job) -> None:
            if job.id == 4:
                for pid, *_ in database.sessions():
                    database.terminate(pid)
                monkeypatch.setattr(engine_of(client).database, "lease", refuse)

        def refuse(**how: bool) -> None:
            refused.append(None)
            raise psycopg2.OperationalError("the server is gone")

        refused: list[None] = []
        fill(database, 4)
        UntilEmpty(client, {"MyJob": handler}, batch_size=4).work()
        assert len(refused) == 2
        assert len([each for each in caplog.records if "job_unrecorded" in each.getMessage()]) == 4
        assert left(database) == [1, 2, 3, 4]


def test_the_size_of_batches_is_settled_when_a_pool_is_made(client: qg.Client) -> None:
    pool = qg.WorkerPool(client, {}, 1, batch_size=5)
    assert pool.batch_size == 5
    with pytest.raises(AttributeError):
        pool.batch_size = 0  # type: ignore[misc]
