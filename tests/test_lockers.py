"""Who works what: the table of lockers, what they are told, the types that they leave to others, and what is seen."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from functools import partial
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from migrating import insert, insert_locker
from psycopg2.extensions import make_dsn
from support import (
    Database,
    UntilEmpty,
    as_many_sessions,
    eventually,
    lease,
    on_versions,
    rows_of,
    table_of,
    take,
    take_plainly,
    try_locks_with,
)

import qg
import qg.locking.row_taker
import qg.working.listener
from qg.database.session import Session
from qg.locking.marks import Marks
from qg.tables import PollStrategy
from qg.working.sleepers import Sleepers

NEVER = 3600.0  # an interval after which no test waits for a poll
OFTEN = 0.02
EARLY = datetime(2001, 2, 3, 4, 5, 6, 7, tzinfo=timezone.utc)

with_lockers = on_versions(4, 5, 6, 7)
old_and_new = pytest.mark.parametrize("version", [3, 7])


@pytest.fixture(scope="module")
def place_of(make_database: Callable[..., str]) -> Iterator[Callable[[int], Database]]:
    """A function that returns the database with the table of a version, one for all tests."""
    places: dict[int, Database] = {}

    def place(version: int) -> Database:
        if version not in places:
            places[version] = Database(make_database(version=version))
        return places[version]

    yield place
    for each in places.values():
        each.close()


@pytest.fixture
def version() -> int:
    return 7


@pytest.fixture
def database(
    place_of: Callable[[int], Database],
    version: int,
    leaves_nothing_behind: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Database]:
    """The test's database with an empty que_jobs of *version*; and nothing may be left in the end."""
    monkeypatch.delenv("QUE_QUEUE", raising=False)
    monkeypatch.delenv("QUE_WAKE_INTERVAL", raising=False)
    place = place_of(version)
    place.query("TRUNCATE que_jobs RESTART IDENTITY")
    yield place
    eventually(lambda: not place.sessions(), lambda: f"the end of all sessions; left: {place.sessions()}")
    assert place.locks() == []
    if version > 3:
        registered = lockers(place)
        place.query("TRUNCATE que_lockers")
        assert registered == []


class Worked:
    """A handler that notes which jobs it worked."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def __call__(self, job: qg.Job) -> None:
        self.ids.append(job.id)


def lockers(database: Database) -> list[tuple[int, bool]]:
    """How many workers each registered session is to be told of jobs for, and whether it listens."""
    return database.query(  # type: ignore[return-value]
        "SELECT worker_count, listening FROM que_lockers ORDER BY worker_count"
    )


def listening(database: Database) -> list[int]:
    """The pids of the sessions that are registered as listening, and live."""
    living = [pid for pid, _, _ in database.sessions()]
    return [pid for (pid,) in database.query("SELECT pid FROM que_lockers WHERE listening") if pid in living]


def resting(database: Database) -> list[int]:
    """The pids of the sessions whose workers have looked for a job and sleep."""
    return [pid for pid, state, query in database.sessions() if state == "idle" and "EXECUTE que_take_jobs(" in query]


def insert_as_ruby(database: Database, job_class: str = "MyJob", version: int = 7) -> None:
    insert(database, job_class=job_class, **({"job_schema_version": 2} if version >= 6 else {}))


def insert_unannounced(database: Database) -> None:
    """Insert a job as Ruby's bulk_enqueue does."""
    database.query("SET que.skip_notify = 'true'")
    insert_as_ruby(database)
    database.query("RESET que.skip_notify")


def left(database: Database) -> list[tuple[str, int]]:
    """Type and error count of each job that is in the table."""
    return database.query("SELECT job_class, error_count FROM que_jobs ORDER BY job_class")  # type: ignore[return-value]


def announcement(queue: object, message_type: str = "job_available") -> str:
    return json.dumps({"message_type": message_type, "queue": queue, "priority": 100, "id": 1})


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(names)]


# The table of lockers


@as_many_sessions
@with_lockers
@pytest.mark.parametrize(("queue", "name"), [("", "default"), ("mail", "mail")])
def test_a_pool_registers_each_workers_session_and_the_one_that_listens(
    client: qg.Client, database: Database, version: int, queue: str, name: str
) -> None:
    with qg.WorkerPool(client, {}, 2, queue=queue, interval=NEVER):
        eventually(lambda: len(resting(database)) == 2)
        workers = resting(database)
        (listener,) = {pid for pid, _, _ in database.sessions()} - set(workers)
        registered = [row for (row,) in database.query("SELECT to_jsonb(que_lockers) FROM que_lockers")]
    whose = {"ruby_pid": os.getpid(), "ruby_hostname": socket.gethostname(), "queues": [name]}
    if version >= 5:
        whose["job_schema_version"] = 1 if version == 5 else 2
    one_worker = {"worker_count": 0, "worker_priorities": [None], "listening": False}
    assert {row.pop("pid"): row for row in registered} == {
        workers[0]: whose | one_worker,
        workers[1]: whose | one_worker,
        listener: whose | {"worker_count": 2, "worker_priorities": [None, None], "listening": True},
    }


def test_a_pool_listens_as_soon_as_it_has_started(client: qg.Client, database: Database) -> None:
    with qg.WorkerPool(client, {}, 3, interval=NEVER):
        assert (3, True) in lockers(database)


@as_many_sessions
@with_lockers
def test_a_pool_that_was_shut_down_is_registered_no_more_though_its_client_keeps_the_connections(
    client: qg.Client, database: Database, version: int
) -> None:
    with qg.WorkerPool(client, {}, 2, interval=NEVER):
        eventually(lambda: lockers(database) == [(0, False), (0, False), (2, True)])
    assert lockers(database) == []
    assert len(database.sessions()) == 3


@as_many_sessions
def test_a_pool_whose_client_was_closed_is_registered_no_more(client: qg.Client, database: Database) -> None:
    with qg.WorkerPool(client, {}, 2, interval=OFTEN):
        eventually(lambda: lockers(database) == [(0, False), (0, False), (2, True)])
        client.close()
        eventually(lambda: lockers(database) == [])


@with_lockers
def test_who_registers_clears_away_the_dead_but_not_the_living(
    client: qg.Client, database: Database, version: int
) -> None:
    with closing(database.connect()) as living, closing(database.connect()) as dead:
        pids = [each.info.backend_pid for each in (living, dead)]
        for pid in pids:
            insert_locker(database, pid, ruby_hostname="elsewhere", queues=["another"])
        database.terminate(pids[1])
        with qg.WorkerPool(client, {}, 1, interval=NEVER, listen=False):
            eventually(lambda: (0, False) in lockers(database))
            others = "SELECT pid FROM que_lockers WHERE ruby_hostname = 'elsewhere'"
            assert database.query(others) == [(pids[0],)]
        assert database.query(others) == [(pids[0],)]
        database.query("TRUNCATE que_lockers")


# What a listening one is told


@as_many_sessions
@with_lockers
def test_a_job_that_ruby_enqueues_starts_without_waiting_for_the_interval(
    client: qg.Client, database: Database, version: int
) -> None:
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 2, interval=NEVER):
        eventually(lambda: len(resting(database)) == 2)
        insert_as_ruby(database, version=version)
        eventually(lambda: len(work.ids) == 1)


def test_a_pool_hears_what_is_said_to_the_pid_that_it_registered(client: qg.Client, database: Database) -> None:
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 1, interval=NEVER):
        eventually(lambda: resting(database))
        insert_unannounced(database)
        (pid,) = listening(database)
        database.query("SELECT pg_notify(%s, %s)", (f"que_listener_{pid}", announcement("default")))
        eventually(lambda: len(work.ids) == 1)


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "x",
        "null",
        "[]",
        "7",
        "{}",
        '{"message_type": "job_available"}',
        announcement("default", "job_change"),
        announcement(["default"]),
        announcement(None),
        announcement("other"),
        announcement(""),
    ],
)
def test_what_isnt_about_a_job_of_the_queue_wakes_nobody(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    payload: str,
) -> None:
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 1, interval=NEVER):
        eventually(lambda: resting(database))
        called: list[int] = []
        wake = Sleepers.wake
        monkeypatch.setattr(Sleepers, "wake", lambda self, count: (called.append(count), wake(self, count))[-1])
        insert_unannounced(database)
        (pid,) = listening(database)
        for each in (payload, announcement("default")):  # they are heard in this order
            database.query("SELECT pg_notify(%s, %s)", (f"que_listener_{pid}", each))
        eventually(lambda: len(work.ids) == 1)
        assert called == [1]
    assert events(caplog, "listening_interrupted") == []


@as_many_sessions
def test_a_pool_that_isnt_to_listen_polls_on_no_connection_more_than_its_workers(
    client: qg.Client, database: Database
) -> None:
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 2, interval=OFTEN, listen=False):
        eventually(lambda: lockers(database) == [(0, False), (0, False)])
        eventually(lambda: len(database.sessions()) == 2)  # one more is closed, perhaps, a moment after it was tried
        insert_as_ruby(database)
        eventually(lambda: len(work.ids) == 1)


@pytest.mark.parametrize("listen", [None, 1, "yes"])
def test_whether_to_listen_is_true_or_false(client: qg.Client, listen: object) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=f"listen must be True or False, not {listen!r}"):
        qg.WorkerPool(client, {}, 1, listen=listen)


def test_a_pool_whose_listening_session_ends_listens_and_registers_again(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So the dead one's row goes, even if its session hadn't quite ended at the first registration.
    monkeypatch.setattr(qg.working.listener, "_SILENCE_SECONDS", OFTEN)
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 1, interval=NEVER):
        eventually(lambda: resting(database))
        (first,) = listening(database)
        database.terminate(first)
        (second,) = eventually(lambda: listening(database))
        assert second != first
        eventually(lambda: lockers(database) == [(0, False), (1, True)])
        eventually(lambda: resting(database))
        insert_as_ruby(database)
        eventually(lambda: len(work.ids) == 1)
    assert len(events(caplog, "listening_interrupted")) == 1


@as_many_sessions
@with_lockers
def test_a_pool_that_hears_nothing_makes_sure_that_it_is_registered(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(qg.working.listener, "_SILENCE_SECONDS", OFTEN)
    work = Worked()
    with qg.WorkerPool(client, {"MyJob": work}, 2, interval=NEVER):
        eventually(lambda: len(resting(database)) == 2)
        before = listening(database)
        database.query("TRUNCATE que_lockers")  # as a crash of the server does, since it is unlogged
        eventually(lambda: lockers(database) == [(2, True)])
        database.query("UPDATE que_lockers SET queues = '{another}'")
        eventually(lambda: database.query("SELECT queues FROM que_lockers") == [(["default"],)])
        assert listening(database) == before
        insert_as_ruby(database, version=version)
        eventually(lambda: len(work.ids) == 1)


def test_a_role_that_may_only_read_lockers_polls_and_that_is_said_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"{database.value('SELECT current_database()')}_reader"
    database.query(f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON que_jobs TO {role}")
    database.query(f"GRANT USAGE ON SEQUENCE que_jobs_id_seq TO {role}")
    database.query(f"GRANT SELECT ON que_lockers, qg_queues TO {role}")
    work = Worked()
    try:
        dsn = make_dsn(database.dsn, options=f"-c role={role}")
        with qg.Client(dsn) as client:
            for _ in range(2):
                with qg.WorkerPool(client, {"MyJob": work}, 2, interval=OFTEN):
                    client.enqueue(qg.Job("MyJob"))
                    eventually(lambda: database.count() == 0)
                    assert lockers(database) == []
    finally:
        database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert len(work.ids) == 2
    (line,) = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert line.startswith("not_enlisted: permission denied for table que_lockers")
    assert line.endswith(f"; GRANT INSERT, DELETE ON public.que_lockers TO {role}")


@pytest.mark.own_sessions(reason="one connection more is needed")
def test_a_source_with_no_connection_to_spare_polls_and_that_is_said(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    work = Worked()
    source = psycopg2.pool.ThreadedConnectionPool(0, 2, database.dsn)
    with qg.Client(source) as client, qg.WorkerPool(client, {"MyJob": work}, 2, interval=OFTEN):
        eventually(lambda: lockers(database) == [(0, False), (0, False)])
        insert_as_ruby(database)
        eventually(lambda: len(work.ids) == 1)
    source.closeall()
    (line,) = events(caplog, "not_listening", "not_enlisted")
    assert line.startswith("not_listening queue=: ")


# Only known types


@pytest.fixture
def witness(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A DSN whose sessions note in witness.tried which jobs' locks they try."""
    database.query(
        "CREATE SCHEMA witness; CREATE TABLE witness.tried (number serial, id bigint);"
        "CREATE FUNCTION witness.pg_try_advisory_lock(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO witness.tried (id) VALUES (id); RETURN pg_catalog.pg_try_advisory_lock(id); END $$"
    )
    try_locks_with(monkeypatch, "witness.pg_try_advisory_lock")
    yield database.dsn
    database.query("DROP SCHEMA witness CASCADE")


def tried(database: Database) -> list[int]:
    return [number for (number,) in database.query("SELECT id FROM witness.tried ORDER BY number")]


def by_types() -> list[qg.Job]:
    """Jobs of which every second one is of an unknown type, the first and the last too."""
    return [
        qg.Job("Unknown" if number % 2 == 0 else f"Known{number % 4}", priority=number % 3, run_at=EARLY)
        for number in range(11)
    ]


@old_and_new
@pytest.mark.parametrize("strategy", list(PollStrategy), ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("way", ["one by one", "batches", "plain statements", "work_one"])
def test_a_job_of_another_type_isnt_locked_for_a_moment(
    witness: str, database: Database, version: int, strategy: PollStrategy, way: str
) -> None:
    work = Worked()
    with qg.Client(witness) as client:
        jobs = client.enqueue_batch(by_types())
        take_plainly(client, way == "plain statements")
        worker = UntilEmpty(
            client,
            {"Known1": work, "Known3": work},
            batch_size=4 if way == "batches" else 1,
            poll_strategy=strategy,
            only_known_types=True,
        )
        if way == "work_one":
            while worker.work_one():
                pass
        else:
            worker.work()
    known = [job for job in jobs if job.type != "Unknown"]
    if strategy is PollStrategy.PRIORITY:
        known.sort(key=lambda job: (job.priority, job.id))
    else:
        known.sort(key=lambda job: (job.run_at, job.priority, job.id))
    assert tried(database) == work.ids == [job.id for job in known]
    assert left(database) == [("Unknown", 0)] * 6


@old_and_new
def test_a_worker_that_is_to_take_any_type_fails_those_it_doesnt_know(
    client: qg.Client, database: Database, version: int
) -> None:
    client.enqueue(qg.Job("Unknown"))
    UntilEmpty(client, {"Known": Worked()}).work()
    assert left(database) == [("Unknown", 1)]


@old_and_new
def test_a_worker_that_knows_no_type_takes_nothing(witness: str, database: Database, version: int) -> None:
    with qg.Client(witness) as client:
        client.enqueue_batch(by_types())
        for possible in (True, False):
            take_plainly(client, not possible)
            UntilEmpty(client, {}, only_known_types=True).work()
    assert tried(database) == []
    assert database.count() == 11


@as_many_sessions
def test_a_pool_that_is_told_of_a_job_it_doesnt_know_leaves_it(witness: str, database: Database) -> None:
    work = Worked()
    with (
        qg.Client(witness) as client,
        qg.WorkerPool(client, {"MyJob": work}, 2, interval=NEVER, only_known_types=True),
    ):
        eventually(lambda: len(resting(database)) == 2)
        insert_as_ruby(database, "Foreign")
        insert_as_ruby(database, "MyJob")
        eventually(lambda: len(work.ids) == 1)
    assert set(tried(database)) == set(work.ids)
    assert left(database) == [("Foreign", 0)]


@pytest.fixture
def always_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each walk is one after which the next ones begin at the marks."""
    monkeypatch.setattr(qg.locking.row_taker, "Marks", partial(Marks, clock=lambda: 0.0, cheap=-1000))


@pytest.fixture
def sessions(client: qg.Client) -> Iterator[Callable[[], Session]]:
    """A function that leases a session of *client*, which ends with the test."""
    leased: list[Session] = []
    yield lambda: (leased.append(lease(client)), leased[-1])[-1]
    for session in leased:
        session.close_now()


@old_and_new
@pytest.mark.parametrize("order", list(PollStrategy), ids=lambda strategy: strategy.name)
def test_where_a_walk_for_some_types_ended_hides_nothing_from_others(
    always_dear: None, client: qg.Client, sessions: Callable[[], Session], version: int, order: PollStrategy
) -> None:
    job = client.enqueue(qg.Job("MyJob", run_at=EARLY))
    take_one = partial(take, client, sessions(), "", order=order)
    for _ in range(3):
        nothing = take_one(types=("Another",))
        assert nothing.rows == []
    assert nothing.at_marks
    for types in (("MyJob",), ("Another", "MyJob"), None):
        assert [row.id for row in take_one(types=types).rows] == [job.id]


@old_and_new
@pytest.mark.parametrize("order", list(PollStrategy), ids=lambda strategy: strategy.name)
def test_a_job_that_is_released_is_hidden_from_no_walk_whatever_its_types(
    always_dear: None, client: qg.Client, sessions: Callable[[], Session], version: int, order: PollStrategy
) -> None:
    client.enqueue(qg.Job("MyJob", run_at=EARLY))
    holder, session = sessions(), sessions()
    (row,) = take(client, holder, "").rows
    for _ in range(3):
        nothing = take(client, session, "", order=order, types=("MyJob",))
        assert nothing.rows == []
    assert nothing.at_marks
    rows_of(client).release(holder, table_of(client), (), [row])
    found = take(client, session, "", order=order, types=("MyJob",))
    assert (found.rows, found.at_marks) == ([row], True)


@pytest.mark.parametrize("value", [None, 0, 1, "yes"])
def test_whether_only_known_types_are_worked_is_true_or_false(client: qg.Client, value: object) -> None:
    for make in (partial(qg.Worker, client, {}), partial(qg.WorkerPool, client, {}, 1)):
        with pytest.raises(qg.ErrInvalidOption, match=f"only_known_types must be True or False, not {value!r}"):
            make(only_known_types=value)


# job_states()


def clock(database: Database) -> datetime:
    return database.value("SELECT clock_timestamp()")  # type: ignore[no-any-return]


def address(database: Database, pid: int) -> str | None:
    """Where a session comes from, as far as the server knows; None for a local socket."""
    return database.value(  # type: ignore[no-any-return]
        "SELECT coalesce(client_hostname, host(client_addr)) FROM pg_stat_activity WHERE pid = %s", (pid,)
    )


@old_and_new
def test_a_job_that_nobody_works_has_no_state(client: qg.Client, version: int) -> None:
    client.enqueue(qg.Job("MyJob"))
    assert client.job_states() == []


@old_and_new
def test_a_job_that_was_locked_by_hand_belongs_to_a_session_of_no_known_process(
    client: qg.Client, database: Database, version: int
) -> None:
    jobs = client.enqueue_batch([qg.Job("B", priority=8, run_at=EARLY), qg.Job("A", priority=7, run_at=EARLY)])
    database.query("UPDATE que_jobs SET error_count = 2 WHERE job_class = 'A'")
    client.enqueue(qg.Job("Nobody's"))
    before = clock(database)
    with client.lock_job() as first, client.lock_job() as second:
        states = client.job_states()
        after = clock(database)
        pids = [each.conn.info.backend_pid for each in (second, first)]
        assert [state.backend_pid for state in states] == pids
        queue = "" if version == 3 else "default"
        assert states == [
            qg.JobState(
                jobs[0].id, queue, "B", 8, EARLY, 0, pids[0], None, address(database, pids[0]), states[0].since
            ),
            qg.JobState(
                jobs[1].id, queue, "A", 7, EARLY, 2, pids[1], None, address(database, pids[1]), states[1].since
            ),
        ]
        assert before <= states[1].since <= states[0].since <= after
    assert client.job_states() == []


@pytest.mark.own_sessions(reason="the lock is on another session than job.tx")
@old_and_new
@pytest.mark.parametrize("in_tx", [True, False], ids=["in the job's transaction", "in none"])
def test_a_job_that_a_pool_works_is_seen_with_its_process_and_since_when(
    client: qg.Client, database: Database, version: int, in_tx: bool
) -> None:
    seen: list[Any] = []

    def look(job: qg.Job) -> None:
        if in_tx:
            job.tx.cursor().execute("SELECT 1")
            seen.append(job.conn.info.backend_pid)
            job.tx.cursor().execute("SELECT 2")
        seen.extend(client.job_states())

    before = clock(database)
    job = client.enqueue(qg.Job("MyJob", priority=5))
    with qg.WorkerPool(client, {"MyJob": look}, 1, interval=NEVER):
        eventually(lambda: database.count() == 0)
        after = clock(database)
        (worker,) = eventually(lambda: resting(database))
        host = address(database, worker)
    state = seen.pop()
    assert seen == ([worker] if in_tx else [])
    assert (state.id, state.type, state.priority, state.run_at) == (job.id, "MyJob", 5, job.run_at)
    assert state.backend_pid == worker
    assert (state.pid, state.host) == ((None, host) if version == 3 else (os.getpid(), socket.gethostname()))
    assert before <= state.since <= after


@with_lockers
def test_since_when_rubys_locker_has_a_job_nobody_knows(client: qg.Client, database: Database, version: int) -> None:
    """Its one session asks for jobs all the time, for all of its workers."""
    job = client.enqueue(qg.Job("MyJob"))
    with closing(database.connect()) as ruby:
        pid = ruby.info.backend_pid
        insert_locker(
            database, pid, worker_count=6, worker_priorities=[10, 30, 50], ruby_pid=4711, ruby_hostname="elsewhere"
        )
        ruby.cursor().execute("SELECT pg_advisory_lock(%s)", (job.id,))
        (state,) = client.job_states()
        assert (state.id, state.backend_pid, state.pid, state.host, state.since) == (
            job.id,
            pid,
            4711,
            "elsewhere",
            None,
        )
    database.query("TRUNCATE que_lockers")


@old_and_new
def test_a_closed_client_tells_no_states(client: qg.Client, version: int) -> None:
    client.close()
    with pytest.raises(qg.ErrClientClosed):
        client.job_states()


# stats()


@with_lockers
def test_stats_leave_out_what_is_finished_or_expired(client: qg.Client, database: Database, version: int) -> None:
    done, given_up, due = client.enqueue_batch(
        [qg.Job("MyJob", run_at=EARLY), qg.Job("MyJob", run_at=EARLY), qg.Job("MyJob")]
    )
    gone = client.enqueue(qg.Job("Gone"))
    database.query("UPDATE que_jobs SET finished_at = now() WHERE id = ANY (%s)", ([done.id, gone.id],))
    database.query("UPDATE que_jobs SET expired_at = now(), error_count = 16 WHERE id = %s", (given_up.id,))
    assert client.stats() == [qg.JobStats("default", "MyJob", 1, 0, 0, 0, due.run_at)]
