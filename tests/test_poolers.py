"""Behind a pooler that pools transactions, where each message may meet another server process."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from pgbouncer import pgbouncer
from support import VERSION, Database, Network, as_many_sessions, eventually, lease, listener_of, sleepers_of

import qg


def use_without_locking(client: qg.Client) -> None:
    """All that a client does without locking a job."""
    client.enqueue(qg.Job("MyJob"))
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    assert [each.count for each in client.stats()] == [3]
    assert client.job_states() == []


def test_a_client_prepares_nothing_before_it_locks(network: Network) -> None:
    with qg.Client(network.dsn) as client:
        use_without_locking(client)
        assert not [each for each in network.statements if re.search(r"\b(PREPARE|EXECUTE|DEALLOCATE)\b", each)]
        client.lock_job().done()
        assert [each for each in network.statements if "PREPARE que_lock_job" in each]


def test_a_client_sends_no_more_messages_than_it_has_calls(network: Network) -> None:
    with qg.Client(network.dsn) as client:
        opening = len(network.statements)
        use_without_locking(client)
        assert (opening, len(network.statements) - opening) == (3, 4)


def test_a_client_that_has_locked_still_sends_the_rest_in_full(network: Network) -> None:
    with qg.Client(network.dsn) as client:
        lease(client).give_back()
        network.statements.clear()
        use_without_locking(client)
        assert not [each for each in network.statements if re.search(r"\b(PREPARE|EXECUTE)\b", each)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE que_jobs DROP error_count CASCADE", "has no error_count"),
        ("ALTER TABLE que_jobs RENAME priority TO urgency", "has no priority"),
    ],
)
def test_a_table_that_only_looks_right_shows_when_a_client_is_created(make_database, change: str, said: str) -> None:
    dsn = make_database(version=VERSION)
    with closing(Database(dsn)) as database:
        database.query(change)
    with pytest.raises(qg.ErrTable, match=f"of version {VERSION}, but {said}"):
        qg.Client(dsn)


def test_a_table_that_says_a_version_below_its_own_is_refused(make_database) -> None:
    """The statements of version 5 would find some of the columns that they name themselves there twice."""
    dsn = make_database(version=7)
    with closing(Database(dsn)) as database:
        database.query("COMMENT ON TABLE que_jobs IS '5'")
    with pytest.raises(qg.ErrTable, match="of version 5, but has kwargs"):
        qg.Client(dsn)


# The real one


@pytest.fixture
def mode() -> str:
    """What PgBouncer pools."""
    return "transaction"


@pytest.fixture
def pooled(dsn: str, tmp_path: Path, mode: str) -> Iterator[str]:
    """A DSN through PgBouncer in its *mode*, with two sessions for transactions or statements."""
    with pgbouncer(dsn, mode, tmp_path, sessions=20 if mode == "session" else 2) as through:
        yield through


def test_clients_that_lock_nothing_work_behind_pgbouncer_in_transaction_mode(pooled: str) -> None:
    def use(_: int) -> None:
        with qg.Client(pooled) as client:
            for _ in range(20):
                client.enqueue(qg.Job("MyJob"))
                client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
                client.stats()
                client.job_states()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4)))
    with qg.Client(pooled) as client:
        assert [each.count for each in client.stats()] == [4 * 20 * 3]


POOLED = "a pooler between this client and PostgreSQL pools transactions, so that advisory locks are lost"


@pytest.mark.parametrize("way", ["lock_job", "work", "work_one", "pool"])
def test_behind_a_pooler_that_pools_transactions_no_job_is_run(
    pooled: str, database: Database, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    ran: list[qg.Job] = []
    with qg.Client(pooled) as client:
        client.enqueue_batch(qg.Job("MyJob") for _ in range(5))
        worker = qg.Worker(client, {"MyJob": ran.append})
        pool = qg.WorkerPool(client, {"MyJob": ran.append}, 2)
        calls = {"lock_job": client.lock_job, "work": worker.work, "work_one": worker.work_one, "pool": pool.start}
        for _ in range(2):
            with pytest.raises(qg.ErrPooler, match=POOLED):
                calls[way]()
    assert (ran, database.count()) == ([], 5)
    assert len(caplog.records) == (2 if way == "work" else 0)


@pytest.mark.parametrize("mode", ["statement"])
def test_behind_a_pooler_that_pools_statements_there_is_no_client(pooled: str) -> None:
    with pytest.raises(psycopg2.OperationalError):
        qg.Client(pooled)


@pytest.mark.parametrize("mode", ["session"])
def test_behind_a_pooler_that_pools_sessions_jobs_are_worked(
    pooled: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    with qg.Client(pooled) as client:
        client.enqueue_batch(qg.Job("MyJob") for _ in range(20))
        with qg.WorkerPool(client, {"MyJob": lambda job: ran.append(job.id)}, 3, interval=0.05):
            eventually(lambda: database.count() == 0)
    assert sorted(ran) == list(range(1, 21))
    assert [record.message for record in caplog.records] == []


@as_many_sessions
def test_a_pooler_that_only_shows_under_way_ends_all_workers(
    pooled: str, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where others keep its server processes busy while the second connection looks."""
    monkeypatch.setattr("qg.database.database.pools_transactions", lambda session, source: False)
    with qg.Client(pooled) as client:
        client.enqueue_batch(qg.Job("MyJob") for _ in range(50))
        pool = qg.WorkerPool(client, {"MyJob": lambda job: None}, 4, interval=0.05)
        pool.start()
        eventually(lambda: len([each for each in caplog.messages if each.startswith("worker_ends queue=: ")]) == 4)
        assert pool.shutdown()
        assert len([each for each in caplog.messages if each.startswith("lock_not_ours")]) == 1
        with pytest.raises(qg.ErrPooler, match=POOLED):
            qg.Worker(client, {}).work()
    # What the pooler's sessions have locked ends with them.


def test_a_handler_that_unlocks_everything_ends_no_worker(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("SELECT pg_advisory_unlock_all()")

    with qg.WorkerPool(client, {"MyJob": handler}, 2, interval=0.05):
        client.enqueue_batch(qg.Job("MyJob") for _ in range(10))
        eventually(lambda: database.count() == 0)
    assert [each for each in caplog.messages if each.startswith("worker_ends")] == []


@pytest.mark.parametrize("mode", ["session"])
def test_behind_a_pooler_that_pools_sessions_a_pool_is_notified(pooled: str, database: Database) -> None:
    qg.migrate(database.dsn, notify=True)
    done = threading.Event()
    with (
        qg.Client(pooled) as client,
        qg.WorkerPool(client, {"MyJob": lambda job: done.set()}, 1, interval=3600) as pool,
    ):
        eventually(lambda: listener_of(pool).listens and sleepers_of(pool).count == 1)
        client.enqueue(qg.Job("MyJob"))
        assert done.wait(10)


def test_a_pooler_that_couldnt_be_looked_for_is_looked_for_the_next_time(
    pooled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, True])
    monkeypatch.setattr("qg.database.database.pools_transactions", lambda session, source: next(answers))
    with qg.Client(pooled) as client:
        lease(client).give_back()
        with pytest.raises(qg.ErrPooler):
            lease(client)
