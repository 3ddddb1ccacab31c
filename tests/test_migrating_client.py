"""Migrating the table under a client: its calls go on, and what it has locked can be settled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg2
import pytest
from moving import PAIRS, Place, Writer, settings
from support import PATIENCE, eventually, take_plainly

import qg
from qg.client import engine_of
from qg.database.session import Session
from qg.tables import Table, table_in


@pytest.fixture(scope="module")
def the_place(make_database) -> Iterator[Place]:
    with closing(Place(make_database(migrate=False))) as place:
        yield place


@pytest.fixture
def place(the_place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.delenv("QUE_QUEUE", raising=False)
    with the_place.without_a_table():
        yield the_place


# Jobs that are locked by hand


@pytest.mark.parametrize("settle", ["delete", "error", "expire", "finish", "done"])
@pytest.mark.parametrize("way", [(3, 7), (5, 6), (6, 5), (7, 3)], ids=settings)
def test_a_job_locked_by_hand_can_be_settled_after_a_migration(place: Place, way: tuple[int, int], settle: str) -> None:
    place.migrate(way[0])
    with qg.Client(place.dsn) as client:
        client.enqueue(qg.Job("Count", [1]))
        with client.lock_job() as job:
            place.migrate(way[1])
            if settle == "finish" and way[1] == 3:
                with pytest.raises(qg.ErrTable, match="keeps no finished jobs"):
                    job.finish()
            else:
                getattr(job, settle)(*(["no luck"] if settle == "error" else []))
            if settle != "done":
                assert place.locks() == [job.id]
        assert place.locks() == []
        state = "error_count, run_at > now() + interval '1 year', run_at > now()"
        if way[1] != 3:
            state += ", finished_at IS NOT NULL, expired_at IS NOT NULL"
        given_up = (1, way[1] == 3, way[1] == 3, False, True)
        expected = {
            "delete": [],
            "error": [(1, False, True, False, False)],
            "expire": [given_up],
            "finish": [(0, False, False, way[1] != 3, False)],
            "done": [(0, False, False, False, False)],
        }[settle]
        assert place.query(f"SELECT {state} FROM que_jobs") == [row[: 3 if way[1] == 3 else 5] for row in expected]


def test_a_failure_by_hand_with_writes_of_its_own_is_recorded_after_a_migration(place: Place) -> None:
    place.migrate(3)
    with qg.Client(place.dsn) as client:
        client.enqueue(qg.Job("Count", [1]))
        with pytest.raises(LookupError), client.lock_job() as job:
            Writer(place, in_tx=True)(job)
            place.migrate(7)
            raise LookupError("no luck")
        assert place.query("SELECT error_count, last_error_message FROM que_jobs") == [(1, "LookupError: no luck")]
    assert place.written() == []


@pytest.mark.parametrize("way", [(3, 7), (5, 6), (7, 3)], ids=settings)
def test_the_failure_of_a_job_that_lost_its_session_too_is_recorded(place: Place, way: tuple[int, int]) -> None:
    place.migrate(way[0])
    with qg.Client(place.dsn) as client:
        client.enqueue(qg.Job("Count", [1]))
        with pytest.raises(LookupError), client.lock_job() as job:
            place.migrate(way[1])
            place.terminate(job.conn.info.backend_pid)
            raise LookupError("no luck")
        assert place.errors() == [1]


# The calls of a client


def lock_one(client: qg.Client) -> str:
    with client.lock_job() as job:
        return job.type


# Each on a client of its own, so that none learns of the migration by another; and what it comes to.
CALLS: dict[str, tuple[Callable[[qg.Client], Any], Any]] = {
    "enqueue": (lambda client: client.enqueue(qg.Job("Count", [2])).id > 1, True),
    "enqueue_batch": (lambda client: client.enqueue_batch([qg.Job("Count", [2])])[0].id > 1, True),
    "stats": (lambda client: sum(each.count for each in client.stats()), 3),
    "job_states": (lambda client: client.job_states(), []),
    "lock_job": (lock_one, "Count"),
    "lock_job, plainly": (lock_one, "Count"),
    "work_one": (lambda client: qg.Worker(client, {"Count": lambda job: None}).work_one(), True),
}


def outcome(call: Callable[[qg.Client], Any], client: qg.Client) -> Any:
    try:
        return call(client)
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0]


@pytest.mark.parametrize(
    ("way", "lose"),
    [*[(way, False) for way in PAIRS], *[(way, True) for way in ((3, 7), (4, 5), (5, 6), (7, 5), (7, 3))]],
    ids=lambda value: settings(value) if isinstance(value, tuple) else "on a new connection" if value else "",
)
def test_each_call_of_a_client_goes_on_after_a_migration(place: Place, way: tuple[int, int], lose: bool) -> None:
    place.migrate(way[0])
    clients = {name: qg.Client(place.dsn) for name in CALLS}
    take_plainly(clients["lock_job, plainly"])
    clients["enqueue"].enqueue(qg.Job("Count", [1]))
    place.migrate(way[1])
    if lose:
        for pid, _, _ in place.sessions():
            place.terminate(pid)
    found = {name: outcome(call, clients[name]) for name, (call, _) in CALLS.items()}
    for client in clients.values():
        client.close()
    assert found == {name: result for name, (_, result) in CALLS.items()}


def test_a_transaction_of_the_callers_fails_once_at_most(place: Place) -> None:
    for way in ((3, 7), (4, 5), (5, 6), (6, 5), (7, 3)):
        place.migrate(0)
        place.migrate(way[0])
        with qg.Client(place.dsn) as client, closing(place.connect()) as conn:
            place.migrate(way[1])
            for enqueue in (client.enqueue_in_tx, lambda job, tx: client.enqueue_batch_in_tx([job], tx)):
                with suppress(psycopg2.Error), conn:
                    enqueue(qg.Job("Count", [1]), conn)
                    continue
                with conn:
                    enqueue(qg.Job("Count", [1]), conn)
        assert place.count() == 2, way


def test_an_error_in_a_transaction_for_which_a_migration_waits_passes_through(place: Place) -> None:
    """To look into the table then, on another connection, would wait for the migration, and so for ever."""
    place.migrate(4)
    raised: list[BaseException] = []
    mover = threading.Thread(target=place.migrate, args=(7,))
    with qg.Client(place.dsn) as client, closing(place.connect()) as conn:
        client.enqueue(qg.Job("Count", [1]))
        with client.lock_job():  # whose connection is the only one that has everything prepared
            client.enqueue_in_tx(qg.Job("Count", [2]), conn)
            conn.cursor().execute("SAVEPOINT before")  # the locks of all before it outlive an error
            mover.start()
            eventually(lambda: [pid for pid, _, _ in place.sessions() if place.is_waiting_for_a_lock(pid)])

            def enqueue() -> None:
                try:
                    client.enqueue_in_tx(qg.Job("Count", b"[1e200000]"), conn)
                except BaseException as error:
                    raised.append(error)

            enqueuing = threading.Thread(target=enqueue)
            enqueuing.start()
            enqueuing.join(PATIENCE)
            hangs = enqueuing.is_alive()
            for pid, _, query in place.sessions():
                if hangs and query.startswith("LOCK TABLE"):
                    place.query("SELECT pg_cancel_backend(%s)", (pid,))
            enqueuing.join()
            conn.rollback()
            mover.join()
    assert not hangs
    assert [type(each) for each in raised] == [psycopg2.errors.NumericValueOutOfRange]


def test_a_table_that_changes_all_the_time_is_waited_for_no_longer_than_for_ten_changes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may be faster than we are; what it answered last is raised then."""
    place.migrate(7)
    tables: list[Table] = []
    with qg.Client(place.dsn) as client:
        database = engine_of(client).database
        monkeypatch.setattr(
            Session, "detect", lambda session, schema: table_in(schema, 3 if database.table.version == 7 else 7)
        )
        monkeypatch.setattr(Session, "prepare", lambda session, table: None)

        def work(session: Session, table: Table) -> None:
            tables.append(table)
            raise psycopg2.errors.UndefinedColumn(f"not in version {table.version}")

        with pytest.raises(psycopg2.errors.UndefinedColumn):
            database.run(work)
    assert [table.version for table in tables] == [7, 3] * 5 + [7]
