"""What qg's sessions are called in pg_stat_activity."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg2.pool
import pytest
from psycopg2.extensions import make_dsn
from support import VERSION, Database, Network, eventually, on_versions

import qg


@pytest.fixture
def named(database: Database) -> Callable[[], list[str]]:
    def names() -> list[str]:
        rows = database.query(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY 1"
        )
        return [name for (name,) in rows]

    return names


@pytest.fixture
def listening(database: Database) -> Iterator[None]:
    """The table notifies, so that a pool listens."""
    if VERSION == 3:
        qg.migrate(database.dsn, notify=True)
    yield
    if VERSION == 3:
        database.query("DROP TRIGGER qg_notify ON que_jobs")


def test_a_session_is_qgs(client: qg.Client, named: Callable[[], list[str]]) -> None:
    client.enqueue(qg.Job("MyJob"))
    assert named() == ["qg"]
    with client.lock_job():
        assert named() == ["qg"]


@pytest.mark.parametrize(
    ("queue", "name"), [("mail", "qg worker mail"), ("Größe", "qg worker Gr"), ("q" * 90, "q" * 53)]
)
def test_a_workers_session_says_which_queue_it_works_and_is_qgs_again_afterwards(
    client: qg.Client, named: Callable[[], list[str]], listening: None, queue: str, name: str
) -> None:
    with qg.WorkerPool(client, {}, 2, queue=queue, interval=0.05):
        names = eventually(lambda: named() if len([each for each in named() if each != "qg"]) == 3 else [])
        assert names[0].startswith("qg listener ")
        assert all(each.startswith(("qg worker", name)) and name in each for each in names[1:])
    eventually(lambda: set(named()) == {"qg"})


def test_the_queue_without_a_name_adds_none(client: qg.Client, named: Callable[[], list[str]]) -> None:
    with qg.WorkerPool(client, {}, 1, listen=False, interval=0.05):
        eventually(lambda: named() == ["qg worker" if VERSION == 3 else "qg worker default"])


def test_a_name_that_the_dsn_or_the_environment_gives_stays(
    dsn: str, named: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with qg.Client(make_dsn(dsn, application_name="billing")) as client:
        client.stats()
        assert named() == ["billing"]
        with qg.WorkerPool(client, {}, 1, queue="mail", listen=False, interval=0.05):
            eventually(lambda: named() == ["qg worker mail (billing)"])
        eventually(lambda: named() == ["billing"])
    monkeypatch.setenv("PGAPPNAME", "nightly")
    with qg.Client(dsn) as client:
        client.stats()
        assert named() == ["nightly"]


def test_a_pools_connection_gets_its_name_back(dsn: str, named: Callable[[], list[str]]) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(1, 3, make_dsn(dsn, application_name="theirs"))
    with qg.Client(pool) as client:
        with qg.WorkerPool(client, {}, 1, queue="mail", listen=False, interval=0.05):
            eventually(lambda: named() == ["qg worker mail (theirs)"])
        eventually(lambda: named() == ["theirs"])
    pool.closeall()


@on_versions(3, 7)
def test_a_name_costs_one_message_at_each_end_where_nothing_else_is_said_there(
    make_database: Callable[..., str], version: int
) -> None:
    network = Network(make_database(version=version))
    try:
        with qg.Client(network.dsn) as client:
            with qg.WorkerPool(client, {}, 1, listen=False, interval=0.05):
                eventually(lambda: [each for each in network.statements if "que_take_jobs(" in each])
            names = [each for each in network.statements if "'application_name'" in each]
            assert len(names) == 2
            assert ["que_lockers" in each for each in names] == [version > 3] * 2
    finally:
        network.cut()
