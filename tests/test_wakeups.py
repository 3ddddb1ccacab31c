"""How soon an idle worker starts a job: notifications, due times, and whom they wake."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.extensions import make_dsn
from support import (
    PATIENCE,
    VERSION,
    Database,
    Network,
    as_many_sessions,
    eventually,
    lease,
    needs,
    rows_of,
    sleepers_of,
    table_of,
    threads,
)

import qg
from qg.working.sleepers import Sleepers
from qg.working.threads import WakeUp

NEVER = 3600.0  # an interval after which no test waits for a poll

in_version_3 = pytest.mark.skipif(VERSION > 3, reason="from version 4 on the table has Ruby Que's trigger, not ours")


@pytest.fixture
def notifying(database: Database) -> Iterator[Database]:
    """The test's database, whose table notifies; from version 4 on it does so by itself."""
    qg.migrate(database.dsn, notify=True)
    yield database
    database.query("DROP TRIGGER IF EXISTS qg_notify ON que_jobs")
    database.query("DROP FUNCTION IF EXISTS qg_notify")


@pytest.fixture
def silent(database: Database) -> Iterator[Database]:
    """The test's database, whose table doesn't notify."""
    if VERSION > 3:
        database.query("ALTER TABLE que_jobs DISABLE TRIGGER que_job_notify")
    yield database
    if VERSION > 3:
        database.query("ALTER TABLE que_jobs ENABLE TRIGGER que_job_notify")


class Worked:
    """A handler that notes which jobs it worked."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def __call__(self, job: qg.Job) -> None:
        self.ids.append(job.id)


def idle(database: Database, count: int) -> bool:
    """Whether *count* workers have looked for a job and sleep."""
    looked = [query for _, state, query in database.sessions() if state == "idle" and "que_take_jobs(" in query]
    return len(looked) == count


def asleep(pool: qg.WorkerPool) -> int:
    """How many workers sleep, so that each is woken or left alone; one that is only idle() looks again by itself."""
    return sleepers_of(pool).count


def takes(network: Network) -> int:
    return len([each for each in network.statements if "EXECUTE que_take_jobs" in each])


def listening(database: Database) -> list[int]:
    """The pids of the sessions that hear of jobs."""
    sessions = {pid: query for pid, _, query in database.sessions()}
    if VERSION == 3:
        named = database.query("SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'qg listener')")
        return [pid for (pid,) in named if pid in sessions]
    return [pid for (pid,) in database.query("SELECT pid FROM que_lockers WHERE listening") if pid in sessions]


def soon(seconds: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


# Notifications


def heard_by(conn, count: int) -> list[str]:
    def enough() -> list[str]:
        conn.poll()
        return [each.payload for each in conn.notifies] if len(conn.notifies) >= count else []

    return sorted(eventually(enough))


@pytest.fixture
def ear(client: qg.Client, notifying: Database) -> Iterator[object]:
    """A connection that hears of jobs, from version 4 on those of queue "mail"."""
    session = lease(client)
    session.listen(table_of(client))
    session.enlist(table_of(client), 1, "mail", listening=True)
    yield session.conn
    session.close_now()


@in_version_3
def test_a_statement_notifies_once_for_each_queue_of_its_jobs_that_are_due(ear, client: qg.Client) -> None:
    client.enqueue_batch(
        [qg.Job("A", queue="mail") for _ in range(100)]
        + [qg.Job("A"), qg.Job("A", run_at=soon(3600)), qg.Job("A", queue="later", run_at=soon(3600))]
    )
    client.enqueue(qg.Job("A", queue="two words"))
    assert heard_by(ear, 4) == ["0 later", "1 ", "1 two words", "100 mail"]


def test_what_is_rolled_back_notifies_nobody(ear, client: qg.Client, notifying: Database) -> None:
    with closing(notifying.connect()) as conn:
        client.enqueue_in_tx(qg.Job("Undone", queue="mail"), conn)
        conn.rollback()
    done = client.enqueue(qg.Job("Done", queue="mail"))
    (heard,) = heard_by(ear, 1)
    assert table_of(client).read_notification(heard) == ("mail", 1)
    assert VERSION == 3 or json.loads(heard)["id"] == done.id


@pytest.mark.skipif(VERSION == 3, reason="the trigger of version 3 tells of each statement")
def test_each_job_that_is_due_notifies_but_those_of_a_batch_in_version_7_only_if_asked_to(
    ear, client: qg.Client
) -> None:
    batches = [
        client.enqueue_batch([qg.Job("A", queue="mail"), qg.Job("A", queue="mail")], notify=notify)
        for notify in (False, True)
    ]
    client.enqueue(qg.Job("A", queue="mail", run_at=soon(3600)))
    client.enqueue(qg.Job("A", queue="other"))
    last = client.enqueue(qg.Job("A", queue="mail"))
    told = [job.id for batch in batches[VERSION == 7 :] for job in batch] + [last.id]
    assert sorted(json.loads(each)["id"] for each in heard_by(ear, len(told))) == told


@in_version_3
def test_a_queue_whose_name_fits_in_no_notification_can_be_enqueued_into(
    client: qg.Client, notifying: Database
) -> None:
    client.enqueue(qg.Job("A", queue="q" * 100_000 if False else "q" * 2000))
    notifying.query("ALTER TABLE que_jobs DROP CONSTRAINT que_jobs_pkey")
    try:
        notifying.query("INSERT INTO jobs (job_class, queue) VALUES ('A', repeat('q', 9000))")
        assert notifying.count() == 2
    finally:
        notifying.query("TRUNCATE que_jobs")
        notifying.query(
            "ALTER TABLE que_jobs ADD CONSTRAINT que_jobs_pkey PRIMARY KEY (queue, priority, run_at, job_id)"
        )


def test_migrate_adds_notifications_to_an_old_table_and_may_be_run_again(dsn: str, notifying: Database) -> None:
    qg.migrate(dsn, notify=True)
    qg.migrate(dsn)
    assert qg.schema_version(dsn) == VERSION
    ours = notifying.value("SELECT count(*) FROM pg_trigger WHERE tgname = 'qg_notify'")
    assert ours == (1 if VERSION == 3 else 0)  # later ones have them anyway


def test_a_new_table_can_have_them_from_the_start(make_database) -> None:
    dsn = make_database(migrate=False)
    qg.migrate(dsn, notify=True)
    with closing(Database(dsn)) as database:
        assert database.value("SELECT count(*) FROM pg_trigger WHERE tgname = 'qg_notify'") == 1


# A pool that listens


@as_many_sessions
def test_a_job_starts_without_waiting_for_the_interval_whoever_enqueued_it(
    client: qg.Client, notifying: Database
) -> None:
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 3, interval=NEVER):
        eventually(lambda: idle(notifying, 3))
        notifying.query("INSERT INTO jobs (job_class) VALUES ('MyJob')")  # as Ruby or Go would
        eventually(lambda: len(work.ids) == 1)
        client.enqueue_batch((qg.Job("MyJob") for _ in range(20)), notify=True)
        eventually(lambda: len(work.ids) == 21)


@as_many_sessions
def test_other_queues_wake_nobody(network: Network, notifying: Database) -> None:
    work = Worked()
    with (
        qg.Client(network.dsn) as client,
        qg.WorkerPool(client, {"MyJob": work}, 2, queue="mine", interval=NEVER) as pool,
    ):
        eventually(lambda: asleep(pool) == 2)
        before = takes(network)
        notifying.query("INSERT INTO jobs (job_class, queue) VALUES ('MyJob', 'other')")
        notifying.query("INSERT INTO jobs (job_class, queue) VALUES ('MyJob', 'mine')")
        eventually(lambda: len(work.ids) == 1 and asleep(pool) == 2)
        assert takes(network) - before <= 3


@as_many_sessions
def test_only_as_many_workers_wake_as_there_may_be_jobs(network: Network, notifying: Database) -> None:
    work = Worked()
    with qg.Client(network.dsn) as client, qg.WorkerPool(client, {"MyJob": work}, 8, interval=NEVER) as pool:
        eventually(lambda: asleep(pool) == 8)
        before = takes(network)
        notifying.query("INSERT INTO jobs (job_class) VALUES ('MyJob')")
        eventually(lambda: len(work.ids) == 1 and takes(network) == before + 2)
        eventually(lambda: asleep(pool) == 8)
        assert takes(network) == before + 2  # the one that takes it, and the one that finishes it and finds no other


@as_many_sessions
def test_a_worker_that_finds_a_job_wakes_another_one_if_there_are_more(client: qg.Client, database: Database) -> None:
    """Without notifications too: one poll is enough for a whole pool."""
    together = threading.Barrier(4, timeout=10)
    with qg.WorkerPool(client, {"MyJob": lambda job: together.wait()}, 4, interval=NEVER) as pool:
        eventually(lambda: idle(database, 4))
        client.enqueue_batch(qg.Job("MyJob") for _ in range(4))
        sleepers_of(pool).wake(1)
        eventually(lambda: database.count() == 0)


@in_version_3
def test_a_notification_wakes_a_worker_for_each_batch(
    client: qg.Client, notifying: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Worked()
    looking, may_look = threading.Event(), threading.Event()
    take = rows_of(client).take

    def held_up(*args: Any, **named: Any) -> Any:
        looking.set()
        assert may_look.wait(PATIENCE)
        return take(*args, **named)

    with qg.WorkerPool(client, {"MyJob": work}, 6, interval=NEVER, batch_size=100) as pool:
        eventually(lambda: asleep(pool) == 6)
        monkeypatch.setattr(rows_of(client), "take", held_up)
        notifying.query("INSERT INTO jobs (job_class) SELECT 'MyJob' FROM generate_series(1, 128)")
        assert looking.wait(PATIENCE)
        left_asleep = asleep(pool)
        may_look.set()
        eventually(lambda: len(work.ids) == 128)
    assert left_asleep == 4


def test_a_batch_that_is_broken_up_for_a_slow_handler_wakes_somebody_for_the_rest(
    client: qg.Client, database: Database
) -> None:
    together = threading.Barrier(3, timeout=PATIENCE)
    with qg.WorkerPool(
        client, {"MyJob": lambda job: together.wait()}, 3, interval=NEVER, batch_size=10, listen=False
    ) as pool:
        eventually(lambda: asleep(pool) == 3)
        client.enqueue_batch(qg.Job("MyJob") for _ in range(3))
        sleepers_of(pool).wake(1)  # it takes all three, and can run one
        eventually(lambda: database.count() == 0)


@pytest.mark.parametrize(
    ("batch_size", "jobs", "woken"), [(100, 128, 2), (100, 100, 1), (100, 0, 1), (1, 3, 3), (500, 100_000, 12)]
)
def test_one_worker_wakes_for_each_batch(batch_size: int, jobs: int, woken: int) -> None:
    sleepers = Sleepers(batch_size)
    pool = [Sleeper(sleepers) for _ in range(12)]
    sleepers.wake_for(jobs)
    assert len(pool) - sleepers.count == woken
    sleepers.wake(len(pool))
    assert all(each.woke() for each in pool)


def test_a_notification_that_comes_while_a_worker_looks_isnt_lost() -> None:
    sleepers = Sleepers()
    calls = sleepers.calls
    sleepers.wake(1)  # nobody sleeps yet
    sleepers.sleep(WakeUp(), NEVER, None, calls)  # returns at once


@pytest.mark.own_sessions(reason="one connection more is needed")
def test_a_listening_pool_gives_all_its_connections_back(notifying: Database) -> None:
    source = psycopg2.pool.ThreadedConnectionPool(0, 3, notifying.dsn)
    with qg.Client(source) as client, qg.WorkerPool(client, {}, 2, interval=NEVER):
        eventually(lambda: idle(notifying, 2))
        assert len(notifying.sessions()) == 3
    conns = [source.getconn() for _ in range(3)]
    for conn in conns:
        with conn.cursor() as cur:
            cur.execute("SELECT pg_listening_channels()")
            assert cur.fetchall() == []
        assert conn.autocommit is False
        conn.rollback()
        source.putconn(conn)
    source.closeall()


@pytest.mark.own_sessions(reason="one connection more is needed")
@pytest.mark.parametrize(
    ("make", "close", "cause"),
    [
        (lambda dsn: psycopg2.pool.ThreadedConnectionPool(0, 2, dsn), "closeall", "connection pool exhausted"),
        (
            lambda dsn: needs("sqlalchemy").create_engine(
                "postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn), pool_size=2, max_overflow=0
            ),
            "dispose",
            "the source has no connection to spare",
        ),
    ],
    ids=["psycopg2", "sqlalchemy"],
)
def test_a_source_without_a_connection_to_listen_on_is_polled_and_that_is_said(
    notifying: Database, caplog: pytest.LogCaptureFixture, make, close: str, cause: str
) -> None:
    source = make(notifying.dsn)
    work = Worked()
    with qg.Client(source) as client, qg.WorkerPool(client, {"MyJob": work}, 2, interval=0.02):
        notifying.query("INSERT INTO jobs (job_class) VALUES ('MyJob')")
        eventually(lambda: len(work.ids) == 1)
    getattr(source, close)()
    (line,) = [record.getMessage() for record in caplog.records if "not_listening" in record.getMessage()]
    assert cause in line


@pytest.mark.own_sessions(reason="one connection more is needed")
def test_where_the_table_doesnt_notify_a_pool_needs_no_connection_more(client: qg.Client, silent: Database) -> None:
    with qg.WorkerPool(client, {}, 2, interval=NEVER):
        eventually(lambda: idle(silent, 2))
        assert len(silent.sessions()) == 2


@pytest.mark.skipif(VERSION == 3, reason="version 3 has no que_lockers")
def test_a_role_that_may_not_write_lockers_works_jobs_all_the_same_and_that_is_said_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"{database.value('SELECT current_database()')}_role"
    database.query(f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON que_jobs TO {role}")
    database.query(f"GRANT USAGE ON SEQUENCE que_jobs_id_seq TO {role}")
    database.query(f"GRANT SELECT ON que_lockers, qg_queues TO {role}")
    try:
        dsn = make_dsn(database.dsn, options=f"-c role={role}")
        with qg.Client(dsn) as client, qg.WorkerPool(client, {"MyJob": lambda job: None}, 2, interval=0.02):
            client.enqueue_batch(qg.Job("MyJob") for _ in range(10))
            eventually(lambda: database.count() == 0)
    finally:
        database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("not_enlisted: permission denied for table que_lockers")


def test_a_pool_whose_listening_connection_ends_listens_again(
    client: qg.Client, notifying: Database, caplog: pytest.LogCaptureFixture
) -> None:
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 1, interval=NEVER):
        eventually(lambda: idle(notifying, 1) and listening(notifying))
        (first,) = listening(notifying)
        notifying.terminate(first)
        eventually(lambda: listening(notifying))
        notifying.query("INSERT INTO jobs (job_class) VALUES ('MyJob')")
        eventually(lambda: len(work.ids) == 1)
    assert len([each for each in caplog.records if "listening_interrupted" in each.getMessage()]) == 1


def test_notifications_that_are_none_of_ours_are_left_alone(
    client: qg.Client, notifying: Database, caplog: pytest.LogCaptureFixture
) -> None:
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 1, interval=NEVER):
        eventually(lambda: idle(notifying, 1))
        (pid,) = listening(notifying)
        for payload in ("x", "null", "{}"):
            notifying.query("SELECT pg_notify(%s, %s)", (table_of(client).channel(pid), payload))
        notifying.query("INSERT INTO jobs (job_class) VALUES ('MyJob')")
        eventually(lambda: len(work.ids) == 1)
    assert "listening_interrupted" not in caplog.text


def test_the_listener_of_a_client_that_was_closed_ends(
    client: qg.Client, notifying: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with qg.WorkerPool(client, {}, 1, interval=NEVER):
        eventually(lambda: idle(notifying, 1))
        (pid,) = listening(notifying)
        client.close()
        notifying.terminate(pid)
        eventually(lambda: not threads("listener"))


def test_what_was_enqueued_while_nobody_listened_is_looked_for(network: Network, notifying: Database) -> None:
    work = Worked()
    with qg.Client(network.dsn) as client, qg.WorkerPool(client, {"MyJob": work}, 1, interval=NEVER):
        eventually(lambda: idle(notifying, 1))
        network.cut()
        eventually(lambda: not notifying.sessions())
        notifying.query("INSERT INTO jobs (job_class) VALUES ('MyJob')")
        network.open()
        eventually(lambda: len(work.ids) == 1)


def test_a_pool_that_listens_can_be_shut_down_at_any_time_and_twice(client: qg.Client, notifying: Database) -> None:
    pool = qg.WorkerPool(client, {}, 1, interval=NEVER)
    pool.start()
    assert pool.shutdown() is True
    assert pool.shutdown() is True


# What falls due


@pytest.mark.parametrize("kind", ["worker", "pool"])
def test_a_scheduled_job_starts_when_it_falls_due(client: qg.Client, database: Database, kind: str) -> None:
    started: list[float] = []
    handlers = {"MyJob": lambda job: started.append(time.time())}
    due = soon(0.3)
    client.enqueue(qg.Job("MyJob", run_at=due))
    if kind == "pool":
        with qg.WorkerPool(client, handlers, 3, interval=NEVER):
            eventually(lambda: started)
    else:
        worker = qg.Worker(client, handlers, interval=NEVER)
        thread = threading.Thread(target=worker.work)
        thread.start()
        eventually(lambda: started)
        worker.shutdown()
        thread.join()
    assert started[0] >= due.timestamp() - 0.05  # the two clocks are those of one machine


@as_many_sessions
@pytest.mark.skipif(VERSION > 3, reason="from version 4 on the table tells nobody of jobs that aren't due")
def test_a_job_that_is_scheduled_while_all_sleep_starts_when_it_falls_due(
    client: qg.Client, notifying: Database
) -> None:
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 3, interval=NEVER):
        eventually(lambda: idle(notifying, 3))
        client.enqueue(qg.Job("MyJob", run_at=soon(0.2)))
        eventually(lambda: len(work.ids) == 1)


def test_a_retry_doesnt_wait_for_the_interval(dsn: str, database: Database) -> None:
    attempts: list[int] = []

    def fail_once(job: qg.Job) -> None:
        attempts.append(job.error_count)
        if len(attempts) == 1:
            raise RuntimeError("not yet")

    with qg.Client(dsn, backoff=lambda error_count: 0.1) as client:
        client.enqueue(qg.Job("MyJob"))
        with qg.WorkerPool(client, {"MyJob": fail_once}, 2, interval=NEVER):
            eventually(lambda: database.count() == 0)
    assert attempts == [0, 1]


def test_a_job_falls_due_while_the_worker_on_watch_is_busy(client: qg.Client, database: Database) -> None:
    """Whoever leaves the watch has a successor."""
    hang, hung = threading.Event(), threading.Event()
    work = Worked()

    def slow(job: qg.Job) -> None:
        hung.set()
        assert hang.wait(10)

    client.enqueue_batch([qg.Job("Slow", run_at=soon(0.1)), qg.Job("MyJob", run_at=soon(0.3))])
    with qg.WorkerPool(client, {"Slow": slow, "MyJob": work}, 3, interval=NEVER):
        eventually(lambda: work.ids)
        assert hung.wait(10)
        hang.set()


# The sleepers by themselves


class Sleeper(threading.Thread):
    def __init__(self, sleepers: Sleepers, seconds: float = NEVER, due: float | None = None) -> None:
        super().__init__(daemon=True)
        before = sleepers.count
        self._sleep = lambda: sleepers.sleep(WakeUp(), seconds, due, sleepers.calls)
        self.start()
        eventually(lambda: sleepers.count > before or not self.is_alive())

    def run(self) -> None:
        self._sleep()

    def woke(self) -> bool:
        self.join(10)
        return not self.is_alive()


def test_as_many_wake_as_are_called() -> None:
    sleepers = Sleepers()
    all_three = [Sleeper(sleepers) for _ in range(3)]
    sleepers.wake(2)
    eventually(lambda: sum(each.is_alive() for each in all_three) == 1)
    sleepers.wake(5)
    assert all(each.woke() for each in all_three)


def test_the_one_on_watch_is_called_last() -> None:
    sleepers = Sleepers()
    watching = Sleeper(sleepers, due=60)
    other = Sleeper(sleepers, due=60)
    sleepers.wake(1)
    assert other.woke()
    assert watching.is_alive()
    sleepers.wake(1)
    assert watching.woke()


def test_who_leaves_the_watch_wakes_a_successor() -> None:
    sleepers = Sleepers()
    other = Sleeper(sleepers)
    watching = Sleeper(sleepers, due=0.01)
    assert watching.woke()
    assert other.woke()


def test_nobody_watches_for_what_comes_after_the_next_poll() -> None:
    sleepers = Sleepers()
    assert Sleeper(sleepers, seconds=0.01, due=60).woke()
