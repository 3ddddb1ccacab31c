"""Migrating the table under pools that go on as they are."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from moving import PAIRS, Held, Place, Writer, said, settings
from support import PATIENCE, Network, as_many_sessions, eventually, listener_of, sleepers_of, table_of

import qg
from qg import jobs

NEVER = 3600.0  # an interval after which no test waits for a poll


def no_retry(error_count: int) -> float:
    """A backoff after which no test finds a job that failed done."""
    return NEVER


@pytest.fixture(scope="module")
def the_place(make_database) -> Iterator[Place]:
    with closing(Place(make_database(migrate=False))) as place:
        yield place


@pytest.fixture
def place(the_place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.delenv("QUE_QUEUE", raising=False)
    with the_place.without_a_table():
        yield the_place


# A busy pool


@pytest.mark.parametrize("in_tx", [True, False], ids=["in the job's transaction", "in none"])
@pytest.mark.parametrize("batch_size", [1, 20])
@pytest.mark.parametrize("way", [(3, 7, 3), (4, 5, 6, 7), (7, 6, 5, 4)], ids=settings)
def test_each_job_is_worked_once_while_the_table_goes_its_way(
    place: Place, caplog: pytest.LogCaptureFixture, way: tuple[int, ...], batch_size: int, in_tx: bool
) -> None:
    place.migrate(way[0])
    write = Writer(place, in_tx=in_tx)
    numbers = itertools.count()
    enqueued: list[int] = []
    stop = threading.Event()
    trouble: list[BaseException] = []

    def enqueue_on(client: qg.Client, count: int = 1) -> None:
        new = [next(numbers) for _ in range(count)]
        client.enqueue_batch([qg.Job("Count", [number]) for number in new], notify=True)
        enqueued.extend(new)

    def enqueue() -> None:
        try:
            with qg.Client(place.dsn) as client:
                while not stop.is_set():
                    number = next(numbers)
                    client.enqueue(qg.Job("Parent" if number % 4 == 0 else "Count", [number]))
                    enqueued.append(number)
                    enqueue_on(client, 3)
                    stop.wait(0.002)
        except BaseException as error:
            trouble.append(error)

    with qg.Client(place.dsn) as client:

        def parent(job: qg.Job) -> None:
            if not in_tx:
                enqueue_on(client)
            write(job)

        enqueuer = threading.Thread(target=enqueue)
        with qg.WorkerPool(client, {"Count": write, "Parent": parent}, 3, interval=0.05, batch_size=batch_size):
            enqueuer.start()
            try:
                for version in (*way[1:], None):
                    before = len(write.numbers())
                    eventually(lambda before=before: len(write.numbers()) >= before + 30 or trouble, "30 jobs more")
                    if version is not None:
                        place.migrate(version)
            finally:
                stop.set()
                enqueuer.join()
            assert trouble == []
            eventually(lambda: place.count() == 0, "the end of the last job")
    assert write.numbers() == sorted(enqueued)
    assert said(caplog) == []


# An idle one


@pytest.mark.parametrize(
    ("way", "options"),
    [
        *[(way, {}) for way in PAIRS],
        *[(way, {"poll_strategy": qg.PollStrategy.RUN_AT}) for way in ((3, 7), (5, 6), (6, 5))],
        *[(way, {"only_known_types": True}) for way in ((3, 7), (5, 6), (6, 5))],
    ],
    ids=lambda value: settings(value) if isinstance(value, tuple) else "".join(value),
)
def test_an_idle_pool_works_what_comes_after_a_migration(
    place: Place, caplog: pytest.LogCaptureFixture, way: tuple[int, int], options: dict[str, Any]
) -> None:
    place.migrate(way[0])
    write = Writer(place, in_tx=False)
    with (
        qg.Client(place.dsn, backoff=no_retry) as client,
        qg.WorkerPool(client, {"Count": write}, 2, interval=0.02, listen=False, **options),
    ):
        place.insert_as_ruby(1)
        eventually(lambda: write.numbers() == [1])
        place.migrate(way[1])
        place.insert_as_ruby(2)
        eventually(lambda: write.numbers() == [1, 2], "the job after the migration")
    assert said(caplog) == []


@pytest.mark.parametrize("way", [(3, 7), (4, 5), (5, 6), (7, 5), (7, 3)], ids=settings)
def test_a_pool_whose_sessions_ended_before_the_migration_goes_on(place: Place, way: tuple[int, int]) -> None:
    """As when the server is restarted for it: every session is a new one, and its table unknown."""
    place.migrate(way[0])
    write = Writer(place, in_tx=False)
    network = Network(place.dsn)
    try:
        with (
            qg.Client(network.dsn, backoff=no_retry) as client,
            qg.WorkerPool(client, {"Count": write}, 2, interval=0.02),
        ):
            place.insert_as_ruby(1)
            eventually(lambda: write.numbers() == [1] and place.count() == 0)
            network.cut()
            place.migrate(way[1])
            network.open()
            place.insert_as_ruby(2)
            eventually(lambda: write.numbers() == [1, 2], "the job after the migration")
    finally:
        network.cut()


def test_a_pool_begins_to_listen_when_the_table_begins_to_notify(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.migrate(3)
    write = Writer(place, in_tx=False)
    with qg.Client(place.dsn) as client, qg.WorkerPool(client, {"Count": write}, 2, interval=0.3):
        place.insert_as_ruby(1)
        eventually(lambda: write.numbers() == [1])
        place.migrate(7)
        eventually(lambda: [each[1:] for each in place.lockers() if each[2]] == [(2, True)], "the listening locker")
    eventually(lambda: not place.sessions())
    assert place.lockers() == []
    assert said(caplog, "not_listening", "listening_interrupted") == []


@as_many_sessions
def test_a_pool_stops_listening_when_the_table_stops_notifying(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.migrate(7)
    write = Writer(place, in_tx=False)
    with qg.Client(place.dsn) as client, qg.WorkerPool(client, {"Count": write}, 2, interval=0.05):
        eventually(lambda: len(place.lockers()) == 3)
        place.migrate(3)
        place.insert_as_ruby(1)
        eventually(lambda: write.numbers() == [1])
        eventually(lambda: not [query for _, _, query in place.sessions() if query.startswith("LISTEN")])
    assert said(caplog, "listening_interrupted") == []


@pytest.mark.parametrize("way", [(3, 7), (7, 3)], ids=settings)
def test_a_pool_listens_to_what_the_table_notifies_of_now(place: Place, way: tuple[int, int]) -> None:
    place.migrate(way[0], notify=True)
    write = Writer(place, in_tx=False)
    with qg.Client(place.dsn) as client, qg.WorkerPool(client, {"Count": write}, 1, interval=NEVER) as pool:
        place.insert_as_ruby(1)
        eventually(lambda: write.numbers() == [1])
        place.migrate(way[1], notify=True)
        sleepers_of(pool).wake(1)  # which is how its interval ends
        eventually(lambda: listener_of(pool).listens and table_of(client).version == way[1])
        place.insert_as_ruby(2)
        eventually(lambda: write.numbers() == [1, 2], "the job that the pool was to be notified of")


# A handler that runs meanwhile


@pytest.mark.parametrize("in_tx", [True, False], ids=["in the job's transaction", "in none"])
@pytest.mark.parametrize("batch_size", [1, 20])
@pytest.mark.parametrize("way", [(3, 7), (4, 5), (5, 6), (6, 5), (7, 3)], ids=settings)
def test_a_job_that_runs_across_a_migration_counts_once_and_has_no_error(
    place: Place, caplog: pytest.LogCaptureFixture, way: tuple[int, int], batch_size: int, in_tx: bool
) -> None:
    place.migrate(way[0])
    held, write = Held(place, in_tx=in_tx), Writer(place, in_tx=in_tx)
    with qg.Client(place.dsn, backoff=no_retry) as client:
        client.enqueue_batch([qg.Job("Held", [1], priority=1), *(qg.Job("Count", [n]) for n in (2, 3))])
        with qg.WorkerPool(client, {"Held": held, "Count": write}, 1, interval=0.02, batch_size=batch_size):
            assert held.began.wait(PATIENCE)
            place.migrate(way[1])
            held.let_go.set()
            eventually(lambda: place.count() == 0, "the end of the job")
    assert set(held.error_counts) == {0}
    assert sorted({*held.numbers(), *write.numbers()}) == [1, 2, 3]
    assert held.numbers() == [1, 2, 3] if in_tx else held.numbers() == [1]
    assert said(caplog) == []


def test_a_transaction_that_a_migration_made_worthless_begins_anew_at_once(place: Place) -> None:
    place.migrate(3)
    held = Held(place, in_tx=True)
    with qg.Client(place.dsn) as client:
        client.enqueue(qg.Job("Held", [1]))
        with qg.WorkerPool(client, {"Held": held}, 1, interval=NEVER):
            assert held.began.wait(PATIENCE)
            place.migrate(7)
            held.let_go.set()
            eventually(lambda: place.count() == 0, "the end of the job")
    assert held.error_counts == [0, 0]
    assert place.written() == [1]


@pytest.mark.parametrize("use", ["delete", "enqueue"])
def test_a_handler_that_finds_its_transaction_worthless_itself_begins_anew_too(
    place: Place, caplog: pytest.LogCaptureFixture, use: str
) -> None:
    place.migrate(3)
    held = Held(place, in_tx=True)
    with qg.Client(place.dsn, backoff=no_retry) as client:

        def handler(job: qg.Job) -> None:
            held(job)
            if use == "delete":
                job.delete()
            else:
                client.enqueue_in_tx(qg.Job("Later", queue="other"), job.tx)

        client.enqueue(qg.Job("Held", [1]))
        with qg.WorkerPool(client, {"Held": handler}, 1, interval=0.02):
            assert held.began.wait(PATIENCE)
            place.migrate(7)
            held.let_go.set()
            left = 0 if use == "delete" else 1
            eventually(lambda: place.written() == [1] and place.count() == left, "the end of the job")
    assert held.error_counts == [0, 0]
    assert said(caplog) == []


def test_what_a_handler_enqueued_in_such_a_transaction_is_there_once(place: Place) -> None:
    """It kept the migration waiting, so nothing of it is lost."""
    place.migrate(3)
    held = Held(place, in_tx=True)
    mover = threading.Thread(target=place.migrate, args=(7,))

    with qg.Client(place.dsn) as client:

        def handler(job: qg.Job) -> None:
            client.enqueue_in_tx(qg.Job("Later", queue="other"), job.tx)
            held(job)

        client.enqueue(qg.Job("Held", [1]))
        with qg.WorkerPool(client, {"Held": handler}, 1, interval=0.02):
            assert held.began.wait(PATIENCE)
            mover.start()
            eventually(lambda: [pid for pid, _, _ in place.sessions() if place.is_waiting_for_a_lock(pid)])
            held.let_go.set()
            mover.join()
            eventually(lambda: place.written() == [1])
    assert held.error_counts == [0]
    assert place.query("SELECT job_class, queue FROM que_jobs") == [("Later", "other")]


# The table goes away


@as_many_sessions
@pytest.mark.parametrize("way", [(3, 3), (7, 7), (3, 7), (7, 3)], ids=settings)
def test_a_pool_waits_while_there_is_no_table_and_goes_on_with_a_new_one(
    place: Place, caplog: pytest.LogCaptureFixture, way: tuple[int, int]
) -> None:
    place.migrate(way[0], notify=True)
    write = Writer(place, in_tx=False)
    with qg.Client(place.dsn) as client, qg.WorkerPool(client, {"Count": write}, 2, interval=0.05):
        place.insert_as_ruby(1)
        eventually(lambda: write.numbers() == [1] and place.count() == 0)
        place.migrate(0)
        eventually(lambda: said(caplog), "the outage")
        place.migrate(way[1], notify=True)
        place.insert_as_ruby(2)
        eventually(lambda: write.numbers() == [1, 2])
        if way[1] == 7:
            eventually(
                lambda: sorted(each[1:] for each in place.lockers()) == [(0, False), (0, False), (2, True)],
                "two lockers that work and one that listens",
            )
    assert len(said(caplog)) == 1


# Typed jobs


@dataclasses.dataclass
class Greet:
    number: int


@dataclasses.dataclass
class Tick:
    name: str


def test_typed_jobs_go_on_from_version_to_version_with_their_history_and_schedules(place: Place) -> None:
    place.migrate(3)
    ticks: list[str] = []
    with jobs.PostgresJobs(place.dsn, poll_interval=0.05, pool_size=2) as queue:

        @queue.register_job_func
        def greet(ctx: jobs.Context, payload: Greet) -> None:
            with ctx.tx.cursor() as cur:
                cur.execute("INSERT INTO written VALUES (%s)", (payload.number,))
            if payload.number < 100:
                queue.enqueue(Greet(100 + payload.number))

        @queue.register_job_func
        def tick(ctx: jobs.Context, payload: Tick) -> None:
            ticks.append(payload.name)

        queue.schedule("@every 1s", Tick("tock"))
        queue.start()
        for number, version in enumerate((3, 7, 3)):
            place.migrate(version)
            queue.enqueue([Greet(2 * number), Greet(2 * number + 1)])
            expected = [*range(2 * number + 2), *range(100, 102 + 2 * number)]
            eventually(lambda expected=expected: place.written() == expected, "all of them greeted")
            before = len(ticks)
            eventually(lambda before=before: len(ticks) > before, "a tick")
        eventually(lambda: place.value("SELECT count(*) FROM que_jobs WHERE job_class ~ 'Greet$'") == 0)
    worked = "SELECT count(*) FROM qg_jobs_history WHERE success AND job_type ~ 'Greet$'"
    assert place.value(worked) == 12
    failed = "SELECT run_error FROM qg_jobs_history WHERE NOT success"
    assert [text for (text,) in place.query(failed) if "Reschedule" not in text] == []


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_a_typed_job_that_runs_across_a_migration_has_a_true_history(place: Place, fails: bool) -> None:
    place.migrate(3)
    began, let_go = threading.Event(), threading.Event()
    with jobs.PostgresJobs(place.dsn, poll_interval=0.05, pool_size=1) as queue:

        @queue.register_job_func
        def greet(ctx: jobs.Context, payload: Greet) -> None:
            with ctx.tx.cursor() as cur:
                cur.execute("INSERT INTO written VALUES (%s)", (payload.number,))
            began.set()
            assert let_go.wait(PATIENCE)
            if fails:
                raise LookupError("no luck")

        queue.start()
        queue.enqueue(Greet(1))
        assert began.wait(PATIENCE)
        place.migrate(7)
        let_go.set()
        eventually(lambda: place.errors() == ([1] if fails else []))
    history = place.query("SELECT success, run_count, run_error ~ 'no luck' FROM qg_jobs_history ORDER BY id")
    assert history == ([(False, 0, True)] if fails else [(False, 0, False), (True, 0, None)])
    assert place.written() == ([] if fails else [1])
