"""A proxy that accepts everything and never answers again: qg gives the connection up after its deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import psycopg2
import pytest
from support import Database, Network, eventually, listener_of, outage_of, take_plainly
from taking import all_written, events, fill, write

import qg
import qg.working.listener
from qg.lookout import Lookout

DEADLINE = 0.3

pytestmark = pytest.mark.usefixtures("written")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.enqueue(qg.Job("MyJob")),
        lambda client: client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")]),
        lambda client: client.stats(),
        lambda client: client.job_states(),
        lambda client: client.lock_job(),
    ],
    ids=["enqueue", "enqueue_batch", "stats", "job_states", "lock_job"],
)
def test_a_call_whose_answer_doesnt_come_raises_and_the_next_one_gets_another_connection(
    network: Network, call: Callable[[qg.Client], object]
) -> None:
    with qg.Client(network.dsn, deadline=DEADLINE) as client:
        client.enqueue(qg.Job("Other", queue="other"))
        network.silence()
        with pytest.raises(psycopg2.OperationalError, match=r"gave no answer within 0\.3 s, so"):
            call(client)
        call(client)


def test_a_client_that_gets_no_answer_at_first_raises(network: Network) -> None:
    def connect() -> object:
        conn = psycopg2.connect(network.dsn)
        network.silence()
        return conn

    with pytest.raises(psycopg2.OperationalError, match="gave no answer within"):
        qg.Client(connect, deadline=DEADLINE)


@pytest.mark.parametrize("method", ["delete", "error", "done"])
@pytest.mark.parametrize("writes", [False, True])
def test_a_job_that_cant_be_settled_by_hand_is_free_again(
    network: Network, database: Database, writes: bool, method: str
) -> None:
    fill(database, 1)
    with qg.Client(network.dsn, deadline=DEADLINE) as client:
        job = client.lock_job()
        if writes:
            write(job)
        network.silence()
        if method == "done":
            job.done()
        else:
            with pytest.raises(psycopg2.OperationalError, match="gave no answer within"):
                job.delete() if method == "delete" else job.error("no")
            job.done()
        eventually(lambda: database.locks() == [], "the end of the lock")
    assert (database.count(), all_written(database)) == (1, [])


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("way", ["work", "work plainly", "batches"])
def test_a_worker_whose_connection_falls_silent_under_a_job_goes_on_with_another_one(
    network: Network, database: Database, way: str, writes: bool
) -> None:
    silenced = threading.Event()

    def handler(job: qg.Job) -> None:
        if writes:
            write(job)
        if job.id == 3 and not silenced.is_set():
            silenced.set()
            network.silence()

    fill(database, 6)
    with qg.Client(network.dsn, deadline=DEADLINE, backoff=lambda count: 0) as client:
        take_plainly(client, way == "work plainly")
        batch_size = 3 if way == "batches" else 1
        # One worker, so that no other handler is writing just then: its own statement would have no deadline.
        with qg.WorkerPool(client, {"MyJob": handler}, 1, interval=0.05, batch_size=batch_size):
            eventually(lambda: database.count() == 0)
    assert silenced.is_set()
    assert all_written(database) == ([1, 2, 3, 4, 5, 6] if writes else [])
    eventually(lambda: database.locks() == [])


def test_an_idle_worker_notices_at_its_next_look(
    network: Network, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with qg.Client(network.dsn, deadline=DEADLINE) as client:
        done = threading.Event()
        with qg.WorkerPool(client, {"MyJob": lambda job: done.set()}, 1, interval=0.05) as pool:
            network.silence()
            eventually(lambda: events(caplog, "outage_begins"), "the outage")
            fill(database, 1)
            assert done.wait(10)
            eventually(lambda: not outage_of(pool).affected, "the end of the outage")


def test_a_listener_whose_connection_falls_silent_listens_on_another_one(
    network: Network, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qg.working.listener, "_SILENCE_SECONDS", 0.2)
    qg.migrate(database.dsn, notify=True)
    done: list[int] = []
    with (
        qg.Client(network.dsn, deadline=DEADLINE) as client,
        qg.WorkerPool(client, {"MyJob": lambda job: done.append(job.id)}, 1, interval=3600) as pool,
    ):
        eventually(lambda: listener_of(pool).listens)
        network.silence()
        before = len(network.statements)
        eventually(
            lambda: [each for each in network.statements[before:] if each.startswith("LISTEN")], "another LISTEN"
        )


def test_shutdown_keeps_its_word_while_a_worker_gets_no_answer(network: Network, database: Database) -> None:
    reached = threading.Event()

    def handler(job: qg.Job) -> None:
        network.silence()
        reached.set()

    fill(database, 1)
    with qg.Client(network.dsn, deadline=None) as client:
        pool = qg.WorkerPool(client, {"MyJob": handler}, 1, interval=0.05)
        pool.start()
        assert reached.wait(10)
        began = time.monotonic()
        assert not pool.shutdown(timeout=0.2)
        assert time.monotonic() - began < 5, "it waited for the answer"
        network.cut()
        assert pool.shutdown()


def test_shutdown_without_a_timeout_ends_after_the_deadline(network: Network, database: Database) -> None:
    fill(database, 1)
    with qg.Client(network.dsn, deadline=DEADLINE) as client:
        pool = qg.WorkerPool(client, {"MyJob": lambda job: network.silence()}, 1, interval=0.05)
        pool.start()
        eventually(lambda: database.count() == 0 or network.silent)
        assert pool.shutdown()


def test_a_statement_of_a_handlers_own_has_no_deadline(client: qg.Client, database: Database) -> None:
    with qg.Client(database.dsn, deadline=DEADLINE) as impatient:
        fill(database, 1)
        with impatient.lock_job() as job, job.tx.cursor() as cur:
            cur.execute("SELECT pg_sleep(%s)", (4 * DEADLINE,))
            job.delete()
    assert database.count() == 0


def test_a_lock_on_the_table_counts_as_no_answer(dsn: str, database: Database) -> None:
    with qg.Client(dsn, deadline=DEADLINE) as client:
        conn = database.connect()
        with conn.cursor() as cur:
            cur.execute("LOCK TABLE que_jobs")
        with pytest.raises(psycopg2.OperationalError, match="gave no answer within"):
            client.enqueue(qg.Job("MyJob"))
        conn.close()
        client.enqueue(qg.Job("MyJob"))


@pytest.mark.parametrize("option", ["deadline", "max_lifetime"])
@pytest.mark.parametrize("value", [0, -1, "5", True, float("nan")])
def test_a_deadline_or_lifetime_that_is_none_is_refused(dsn: str, option: str, value: object) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=f"{option} must be a number of seconds above 0, or None, not"):
        qg.Client(dsn, **{option: value})  # type: ignore[arg-type]


def test_a_worker_gives_up_one_silent_connection_after_another(network: Network, database: Database) -> None:
    """While a failure is recorded on a second one, the lookout still looks, and waits for nobody itself."""
    with qg.Client(network.dsn, deadline=DEADLINE, backoff=lambda count: 0) as client:

        def handler(job: qg.Job) -> None:
            if not network.silent:
                client.enqueue(qg.Job("Other", queue="other"))  # leaves a connection that is idle
                network.silence()
                raise LookupError("no")

        fill(database, 1)
        with qg.WorkerPool(client, {"MyJob": handler}, 1, interval=0.05):
            eventually(lambda: database.value("SELECT count(*) FROM que_jobs WHERE job_class = 'MyJob'") == 0)


def test_the_look_for_a_migration_beside_a_callers_transaction_has_a_deadline_too(
    network: Network, database: Database
) -> None:
    with qg.Client(network.dsn, deadline=DEADLINE) as client:
        client.enqueue(qg.Job("MyJob"))
        network.silence()
        with closing(database.connect()) as tx:
            tx.cursor().execute("SET search_path = pg_catalog; SET TRANSACTION READ ONLY")
            with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
                client.enqueue_in_tx(qg.Job("MyJob"), tx)


class Watched:
    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look


def test_where_no_thread_is_to_be_had_qg_works_without_a_lookout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = threading.Event()
    lookout = Lookout()
    watched = Watched(looked.set)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        lookout.add(watched)
    assert not looked.wait(0.1)
    lookout.add(watched)
    assert looked.wait(5)
