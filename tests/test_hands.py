"""Pools whose workers share connections: what that costs, what holds up whom, and how they start and end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn
from psycopg2.pool import ThreadedConnectionPool
from support import (
    ID,
    PATIENCE,
    VERSION,
    Database,
    Network,
    UntilEmpty,
    eventually,
    needs,
    sleepers_of,
    take_plainly,
    threads,
)
from taking import FUTURE, PAST, all_written, do_nothing, events, execute, fail, fill, kinds, left, write

import qg
import qg.working.crew
import qg.working.transactions

pytestmark = pytest.mark.usefixtures("written")

NEVER = 3600.0  # an interval after which no test waits for a poll
SOON = 0.01


class Gate:
    """A handler that waits inside until it is opened, and counts who is there."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.ids: list[int] = []
        self.inside = self.most = 0
        self._mutex = threading.Lock()

    def __call__(self, job: qg.Job) -> None:
        with self._mutex:
            self.ids.append(job.id)
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.entered.release()
        assert self.opened.wait(PATIENCE)
        with self._mutex:
            self.inside -= 1

    def wait_for(self, jobs: int) -> None:
        for _ in range(jobs):
            assert self.entered.acquire(timeout=PATIENCE)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def hands(client: qg.Client, work_map: qg.WorkMap, count: int, **options: Any) -> qg.WorkerPool:
    """A pool whose workers share a connection, unless *options* say that it is several."""
    return qg.WorkerPool(client, work_map, count, **{"connections": 1, "interval": NEVER, **options})


# What it costs


def test_handlers_that_wait_need_no_connection_each(client: qg.Client, database: Database, gate: Gate) -> None:
    fill(database, 200)
    with hands(client, {"MyJob": gate}, 200):
        gate.wait_for(200)
        assert len(database.locks()) == 200
        # One holds all locks. From version 4 of the table on another one listens; before, it only looks at the start.
        eventually(lambda: len(database.sessions()) == (1 if VERSION == 3 else 2))
        gate.opened.set()
        eventually(lambda: database.count() == 0)
    assert sorted(gate.ids) == list(range(1, 201))


@pytest.mark.parametrize("connections", [1, 2, 3])
def test_so_many_sessions_hold_the_locks_of_all_jobs(
    client: qg.Client, database: Database, gate: Gate, connections: int
) -> None:
    fill(database, 7)
    with hands(client, {"MyJob": gate}, 7, connections=connections):
        gate.wait_for(7)
        shares = Counter(database.lock_holders()).values()
        assert sorted(shares) == {1: [7], 2: [3, 4], 3: [2, 2, 3]}[connections]
        gate.opened.set()
        eventually(lambda: database.count() == 0)
    assert sorted(gate.ids) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("connections", [1, 2])
def test_no_more_jobs_than_may_be_have_a_transaction_at_once_and_the_others_wait(
    client: qg.Client, database: Database, gate: Gate, connections: int
) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        gate(job)

    fill(database, 8)
    with hands(client, {"MyJob": handler}, 8, connections=connections, transactions=2):
        gate.wait_for(2)
        eventually(lambda: len(database.locks()) == 8)
        assert all_written(database) == []
        gate.opened.set()
        eventually(lambda: database.count() == 0)
    assert (gate.most, all_written(database)) == (2, [1, 2, 3, 4, 5, 6, 7, 8])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All jobs count as quick, and what waits isn't given back."""
    monkeypatch.setattr(qg.working.crew, "_QUICK_SECONDS", NEVER)
    monkeypatch.setattr(qg.working.crew, "_LONGEST_SECONDS", NEVER)


@pytest.mark.usefixtures("quick")
def test_a_quick_job_costs_a_fraction_of_a_message(counted: qg.Client, network: Network, database: Database) -> None:
    fill(database, 400)
    worked: list[int] = []
    UntilEmpty(counted, {"MyJob": lambda job: worked.append(job.id)}, hands=10).work()
    assert sorted(worked) == list(range(1, 401))
    assert set(kinds(network)) <= {"take", "delete jobs+take", "delete jobs+unlock some"}
    assert len(kinds(network)) <= 40


def test_a_job_that_writes_costs_four_messages_besides_what_it_writes(
    counted: qg.Client, network: Network, database: Database
) -> None:
    for number in (1, 2):
        fill(database, 1)
        network.statements.clear()
        UntilEmpty(counted, {"MyJob": write}, hands=1).work()
        assert all_written(database) == list(range(1, number + 1))
    # The last one is for locks that the handler may have left on its session.
    its = [each for each in kinds(network) if "take" not in each and each != "unlock some"]
    assert its[:4] == ["BEGIN", "write", "delete", "COMMIT"]
    assert "pg_advisory_unlock_all" in its[4]
    assert len(its) == 5


def test_a_job_that_fails_costs_its_record(counted: qg.Client, network: Network, database: Database) -> None:
    for _ in range(2):
        fill(database, 1)
        network.statements.clear()
        UntilEmpty(counted, {"MyJob": fail}, hands=1).work()
    its = [each for each in kinds(network) if "take" not in each and each != "unlock some"]
    assert its == ["set error"]


def test_one_job_after_another_costs_two_messages_each(network: Network, database: Database) -> None:
    """One takes it, and one deletes it and looks for more."""
    with qg.Client(network.dsn) as client, hands(client, {"MyJob": do_nothing}, 5, listen=False) as pool:
        eventually(lambda: sleepers_of(pool).count == 1)
        network.statements.clear()
        for _ in range(20):
            fill(database, 1)
            sleepers_of(pool).wake(1)
            eventually(lambda: database.count() == 0 and sleepers_of(pool).count == 1)
        assert kinds(network) == ["take", "delete jobs+take"] * 20


# What holds up whom


@pytest.mark.parametrize("plainly", [False, True])
def test_a_slow_handler_holds_up_nothing(client: qg.Client, database: Database, gate: Gate, plainly: bool) -> None:
    take_plainly(client, plainly)
    fill(database, 1, "Slow")
    with hands(client, {"Slow": gate, "MyJob": do_nothing}, 2, listen=False) as pool:
        gate.wait_for(1)
        for _ in range(3):
            fill(database, 20)
            sleepers_of(pool).wake(1)
            eventually(lambda: (left(database), database.locks()) == ([1], [1]))
        gate.opened.set()
        eventually(lambda: database.count() == 0)


def test_a_handler_that_waits_for_its_transaction_holds_up_nothing(
    client: qg.Client, database: Database, gate: Gate
) -> None:
    def slow(job: qg.Job) -> None:
        write(job)
        gate(job)

    fill(database, 2, "Slow")
    with hands(client, {"Slow": slow, "MyJob": do_nothing}, 3, transactions=1, listen=False) as pool:
        gate.wait_for(1)
        fill(database, 20)
        eventually(lambda: sleepers_of(pool).count == 1)
        sleepers_of(pool).wake(1)
        eventually(lambda: (left(database), database.locks()) == ([1, 2], [1, 2]))
        gate.opened.set()
        eventually(lambda: database.count() == 0)


def test_a_job_that_runs_is_never_handed_out_again(client: qg.Client, database: Database, gate: Gate) -> None:
    fill(database, 1)
    with hands(client, {"MyJob": gate}, 3, interval=0, listen=False) as pool:
        gate.wait_for(1)
        for _ in range(20):
            eventually(lambda: sleepers_of(pool).count == 1)
            sleepers_of(pool).wake(1)
        gate.opened.set()
        eventually(lambda: database.count() == 0)
    assert gate.ids == [1]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("connections", [1, 2])
def test_while_hands_are_free_no_job_waits_behind_one_that_turns_out_slow(
    client: qg.Client, database: Database, gate: Gate, connections: int
) -> None:
    """Of quick jobs a single hand may run all, until one is slow."""
    fill(database, 8)
    handlers = {"MyJob": do_nothing, "Slow": gate}
    with hands(client, handlers, 8, connections=connections, listen=False) as pool:
        eventually(lambda: database.count() == 0 and sleepers_of(pool).count == connections)
        fill(database, 3, "Slow")
        sleepers_of(pool).wake(1)
        gate.wait_for(3)
        gate.opened.set()
        eventually(lambda: database.count() == 0)


def test_what_was_taken_for_hands_that_turn_out_slow_is_given_back_to_others(
    client: qg.Client, dsn: str, database: Database, gate: Gate
) -> None:
    def run(job: qg.Job) -> None:
        if job.id == 50:
            gate(job)

    fill(database, 200)
    with hands(client, {"MyJob": run}, 1):
        gate.wait_for(1)
        eventually(lambda: database.locks() == [50])
        with qg.Client(dsn) as other:
            UntilEmpty(other, {"MyJob": do_nothing}).work()
        assert (left(database), database.locks()) == ([50], [50])
        gate.opened.set()
        eventually(lambda: database.count() == 0)


@pytest.mark.usefixtures("quick")
def test_a_job_that_is_gone_is_settled_though_all_hands_are_busy(
    client: qg.Client, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """While a person deletes it, others are deleted, and the only hand begins with a job that takes long."""
    caplog.set_level("INFO")

    def first(job: qg.Job) -> None:
        with person.cursor() as cur:
            cur.execute(f"DELETE FROM que_jobs WHERE {ID} = {job.id}")

    def last(job: qg.Job) -> None:
        person.commit()
        gate(job)

    handlers = {"MyJob": do_nothing, "First": first, "Last": last}
    with closing(database.connect()) as person, hands(client, handlers, 1, listen=False) as pool:
        fill(database, 30)
        sleepers_of(pool).wake(1)
        eventually(lambda: database.count() == 0 and sleepers_of(pool).count == 1)
        # The one hand takes all of these with one message, since it was quick.
        database.query(
            "INSERT INTO jobs (job_class, run_at) "
            "SELECT CASE n WHEN 1 THEN 'First' WHEN 20 THEN 'Last' ELSE 'MyJob' END, %s "
            "FROM generate_series(1, 20) AS n",
            (PAST,),
        )
        sleepers_of(pool).wake(1)
        gate.wait_for(1)
        eventually(lambda: (left(database), database.locks()) == ([50], [50]))
        gate.opened.set()
        eventually(lambda: database.count() == 0)
    assert events(caplog, "job_gone") in ([], ["job_gone id=31"])  # as far as it was still there when it was looked for
    worked = events(caplog, "job_worked")
    assert (len(worked), len(set(worked))) == (50, 50)


def test_a_row_that_somebody_has_locked_holds_up_nothing(client: qg.Client, database: Database, gate: Gate) -> None:
    handlers = {"MyJob": do_nothing, "Locked": gate}
    fill(database, 1, "Locked")
    with (
        hands(client, handlers, 3, listen=False) as pool,
        closing(database.connect()) as holder,
        holder.cursor() as cur,
    ):
        gate.wait_for(1)
        cur.execute(f"SELECT FROM que_jobs WHERE {ID} = 1 FOR UPDATE")
        gate.opened.set()
        for _ in range(3):
            fill(database, 10)
            sleepers_of(pool).wake(1)
            eventually(lambda: left(database) == [1])
        holder.rollback()
        eventually(lambda: database.count() == 0)


def test_a_job_whose_end_cant_be_recorded_makes_its_crew_pause(
    client: qg.Client, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """What runs meanwhile is settled all the same."""
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no record'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    runs: list[int] = []

    def bad(job: qg.Job) -> None:
        runs.append(job.id)
        raise LookupError

    try:
        fill(database, 1, "Slow")
        fill(database, 1, "Bad")
        with hands(client, {"Slow": gate, "Bad": bad}, 3):
            gate.wait_for(1)
            eventually(lambda: events(caplog, "job_unrecorded"))
            eventually(lambda: database.locks() == [1])
            gate.opened.set()
            eventually(lambda: (left(database), database.locks()) == ([2], []))
        assert runs == [2]
    finally:
        database.query("DROP FUNCTION refuse CASCADE")


# Which jobs, and in which order


def test_the_earliest_come_first_where_that_is_wanted(client: qg.Client, database: Database) -> None:
    worked: list[int] = []
    client.enqueue_batch(
        qg.Job("MyJob", priority=priority, run_at=PAST.replace(year=2000 + year))
        for priority, year in [(1, 7), (2, 3), (1, 5), (3, 1)]
    )
    UntilEmpty(
        client, {"MyJob": lambda job: worked.append(job.id)}, hands=1, poll_strategy=qg.PollStrategy.RUN_AT
    ).work()
    assert worked == [4, 2, 3, 1]


def test_jobs_of_other_types_are_left_to_others(client: qg.Client, database: Database) -> None:
    fill(database, 3, "Theirs")
    fill(database, 3)
    with hands(client, {"MyJob": do_nothing}, 2, only_known_types=True):
        eventually(lambda: left(database) == [1, 2, 3])
    assert [count for _, _, count, _ in database.jobs()] == [0, 0, 0]


def test_a_job_that_falls_due_is_run_then(client: qg.Client, database: Database) -> None:
    with hands(client, {"MyJob": do_nothing}, 2, listen=False) as pool:
        fill(database, 1)
        database.query("UPDATE jobs SET run_at = now() + interval '0.3 s'")
        eventually(lambda: sleepers_of(pool).count == 1)
        sleepers_of(pool).wake(1)
        eventually(lambda: database.count() == 0)
        database.query("INSERT INTO jobs (job_class, run_at) VALUES ('MyJob', %s)", (FUTURE,))
        sleepers_of(pool).wake(1)
        eventually(lambda: sleepers_of(pool).count == 1)
    assert database.count() == 1


def test_the_queue_may_be_chosen_until_the_start(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    kept: list[Any] = []

    def handler(job: qg.Job) -> None:
        write(job)
        kept.append(job.tx)

    client.enqueue(qg.Job("MyJob", queue="mail"))
    pool = hands(client, {"MyJob": handler}, 1)
    pool.queue = "mail"
    with pool:
        eventually(lambda: database.count() == 0)
    assert events(caplog) == ["connection_kept queue=mail"]


# What a handler leaves on its session


def test_a_handler_leaves_nothing_on_its_session_for_the_next(client: qg.Client, database: Database) -> None:
    seen: list[Any] = []

    def handler(job: qg.Job) -> None:
        seen.append(database.locks())
        with job.tx.cursor() as cur:
            cur.execute("SELECT pg_backend_pid(), current_setting('transaction_isolation'), current_user")
            seen.append(cur.fetchone())
            cur.execute("SELECT pg_advisory_lock(1000)")
        job.tx.rollback()
        job.tx.isolation_level = psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE
        execute(job.tx, "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")

    fill(database, 2)
    UntilEmpty(client, {"MyJob": handler}, hands=1).work()
    assert database.count() == 0
    assert (seen[0], seen[2]) == ([1], [2])
    assert seen[1] == seen[3]


# The start


@pytest.mark.parametrize("name", ["qg-worker--2", "qg-settler--1", "qg-locker--1", "qg-locker--2"])
def test_a_thread_that_doesnt_start_stops_the_others_and_keeps_no_job(
    dsn: str, database: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start = threading.Thread.start

    def start_the_others(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    fill(database, 1, "Theirs")
    with qg.Client(dsn) as client:
        pool = hands(client, {}, 4, connections=2, only_known_types=True)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start_the_others)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.start()
        assert pool.shutdown(timeout=PATIENCE) is True
        eventually(lambda: not threads("worker") and not threads("locker") and not threads("settler"))
    eventually(lambda: database.sessions() == [], lambda: f"the end of {database.sessions()}")
    assert (database.count(), database.locks()) == (1, [])


def test_a_source_that_is_too_small_is_an_error_at_the_start(dsn: str, database: Database) -> None:
    """One more is needed than hold the locks: an error is recorded on another connection."""
    source = ThreadedConnectionPool(0, 3, dsn)
    with qg.Client(source) as client:
        with pytest.raises(
            qg.ErrTooFewConnections,
            match="queue '' needs 4 connections but the source gives 3: connection pool exhausted; raise its limit or "
            "lower connections",
        ):
            hands(client, {}, 5, connections=3).start()
        fill(database, 1)
        with hands(client, {"MyJob": fail}, 5, connections=2):
            eventually(lambda: [count for _, _, count, _ in database.jobs()] == [1])
    source.closeall()


def test_an_engine_that_is_too_small_is_an_error_at_the_start(dsn: str) -> None:
    engine = needs("sqlalchemy").create_engine(
        "postgresql+psycopg2://", connect_args=parse_dsn(dsn), pool_size=1, max_overflow=0, pool_timeout=NEVER
    )
    with qg.Client(engine) as client, pytest.raises(qg.ErrTooFewConnections, match="needs 2 .* but the source gives 1"):
        hands(client, {}, 5).start()
    engine.dispose()


# The end


def test_shutdown_lets_running_jobs_end_gives_back_what_waits_and_takes_nothing(
    client: qg.Client, database: Database, gate: Gate
) -> None:
    def run(job: qg.Job) -> None:
        if job.id == 20:
            gate(job)

    fill(database, 50)
    pool = hands(client, {"MyJob": run}, 1)
    pool.start()
    gate.wait_for(1)
    assert pool.shutdown(timeout=0) is False
    eventually(lambda: database.locks() == [20])
    gate.opened.set()
    assert pool.shutdown(timeout=PATIENCE) is True
    assert (left(database), database.locks()) == (list(range(21, 51)), [])


def test_shutdown_with_a_timeout_names_each_job_that_still_runs(
    client: qg.Client, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, 3)
    pool = hands(client, {"MyJob": gate}, 4, connections=2)
    pool.start()
    gate.wait_for(3)
    assert pool.shutdown(timeout=0.05) is False
    assert sorted(events(caplog, "still_running")) == [f"still_running id={number} type=MyJob" for number in (1, 2, 3)]
    gate.opened.set()
    assert pool.shutdown(timeout=PATIENCE) is True
    assert database.count() == 0


def test_what_a_handler_returned_from_during_the_shutdown_is_deleted_though_others_still_run(
    client: qg.Client, database: Database, gate: Gate
) -> None:
    begun, ending = threading.Semaphore(0), threading.Event()

    def soon(job: qg.Job) -> None:
        begun.release()
        assert ending.wait(PATIENCE)

    fill(database, 1, "Slow")
    fill(database, 2, "Soon")
    pool = hands(client, {"Slow": gate, "Soon": soon}, 3)
    pool.start()
    gate.wait_for(1)
    assert all(begun.acquire(timeout=PATIENCE) for _ in range(2))
    assert pool.shutdown(timeout=0) is False
    ending.set()
    eventually(lambda: (left(database), database.locks()) == ([1], [1]))
    gate.opened.set()
    assert pool.shutdown(timeout=PATIENCE) is True


def test_a_client_that_is_closed_lets_running_jobs_end_and_their_errors_be_recorded(
    dsn: str, database: Database, gate: Gate
) -> None:
    def fail_late(job: qg.Job) -> None:
        gate(job)
        raise LookupError

    fill(database, 2)
    with qg.Client(dsn) as client, hands(client, {"MyJob": fail_late}, 2):
        gate.wait_for(2)
        client.close()
        gate.opened.set()
        eventually(lambda: [count for _, _, count, _ in database.jobs()] == [1, 1])
        eventually(lambda: not threads("worker") and not threads("locker") and not threads("settler"))


# Taking plainly


def test_jobs_are_taken_plainly_as_far_as_the_source_gives_connections(
    dsn: str, database: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    source = ThreadedConnectionPool(0, 3, dsn)
    with qg.Client(source) as client:
        take_plainly(client)
        fill(database, 6)
        with hands(client, {"MyJob": gate}, 5, listen=False):
            gate.wait_for(2)
            assert len(set(database.lock_holders())) == 2
            gate.opened.set()
            eventually(lambda: database.count() == 0)
    source.closeall()
    assert gate.most == 2
    assert events(caplog, "outage") == []


def test_an_engine_isnt_asked_for_what_it_hasnt_got_where_jobs_are_taken_plainly(
    dsn: str, database: Database, gate: Gate
) -> None:
    """It would wait for its timeout, and the locker with it."""
    engine = needs("sqlalchemy").create_engine(
        "postgresql+psycopg2://", connect_args=parse_dsn(dsn), pool_size=2, max_overflow=0, pool_timeout=NEVER
    )
    with qg.Client(engine) as client:
        take_plainly(client)
        fill(database, 3)
        with hands(client, {"MyJob": gate}, 2, listen=False) as pool:
            gate.wait_for(1)
            eventually(lambda: sleepers_of(pool).count == 1)
            gate.opened.set()
            eventually(lambda: database.count() == 0)
    engine.dispose()


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_jobs_are_taken_plainly_than_may_have_transactions(
    client: qg.Client, database: Database, gate: Gate, most: int
) -> None:
    take_plainly(client)
    fill(database, 6)
    with hands(client, {"MyJob": gate}, 4, transactions=most):
        gate.wait_for(most)
        gate.opened.set()
        eventually(lambda: database.count() == 0)
    assert gate.most == most


def test_a_pool_that_can_take_jobs_at_once_again_does(client: qg.Client, database: Database) -> None:
    take_plainly(client)
    worked: list[int] = []

    def run(job: qg.Job) -> None:
        worked.append(job.id)
        if job.id in (10, 20):
            take_plainly(client, job.id == 20)

    fill(database, 30)
    with hands(client, {"MyJob": run}, 3):
        eventually(lambda: database.count() == 0)
    assert sorted(worked) == list(range(1, 31))


def test_what_one_handler_calls_from_another_pools_job_is_its_own_matter(client: qg.Client, database: Database) -> None:
    """A handler enqueues, and works another queue, on other connections than its own."""

    def outer(job: qg.Job) -> None:
        client.enqueue_in_tx(qg.Job("Inner"), job.tx)
        write(job)

    fill(database, 20, "Outer")
    handlers: dict[str, Callable[[qg.Job], object]] = {"Outer": outer, "Inner": do_nothing}
    with hands(client, handlers, 4, interval=SOON):
        eventually(lambda: database.count() == 0)
    assert all_written(database) == list(range(1, 21))
