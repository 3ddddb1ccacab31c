"""COMMIT and ROLLBACK as SQL text, of which psycopg2 knows nothing, are the same as job.tx.commit() and rollback()."""

from __future__ import annotations

import psycopg2
import pytest
from support import Database
from taking import all_written, each_way, events, fill, first_lines, work, write

import qg

pytestmark = pytest.mark.usefixtures("written")

each_command = pytest.mark.parametrize("command", ["COMMIT", "ROLLBACK"])


def say(job: qg.Job, command: str) -> None:
    with job.tx.cursor() as cur:
        cur.execute(command)


@each_way
@each_command
@pytest.mark.parametrize("deletes", [False, True])
def test_a_handler_that_ends_its_transaction_as_text_and_returns_is_a_success(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str, command: str, deletes: bool
) -> None:
    def handler(job: qg.Job) -> None:
        write(job)
        if deletes:
            job.delete()
        say(job, command)

    caplog.set_level("INFO")
    fill(database, 3)
    work(client, way, handler)
    assert all_written(database) == ([1, 2, 3] if command == "COMMIT" else [])
    assert database.count() == 0
    assert events(caplog) == [f"job_worked id={number} type=MyJob" for number in (1, 2, 3)]


@each_way
@each_command
def test_a_handler_that_did_nothing_but_that_is_a_success_too(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str, command: str
) -> None:
    fill(database, 3)
    work(client, way, lambda job: say(job, command))
    assert (database.count(), events(caplog)) == (0, [])


@each_way
@each_command
def test_what_the_handler_raises_after_it_is_recorded_on_the_same_session(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, way: str, command: str
) -> None:
    def handler(job: qg.Job) -> None:
        say(job, command)
        raise LookupError("no such thing")

    fill(database, 2)
    work(client, way, handler)
    assert first_lines(database) == [(number, 1, "LookupError: no such thing") for number in (1, 2)]
    assert events(caplog) == [f"job_failed id={number} type=MyJob" for number in (1, 2)]


@each_way
@each_command
def test_the_next_job_on_the_session_has_a_transaction_again(
    client: qg.Client, database: Database, way: str, command: str
) -> None:
    def handler(job: qg.Job) -> None:
        if job.id == 1:
            say(job, command)
            return
        write(job)
        raise LookupError("what was written is rolled back")

    fill(database, 2)
    work(client, way, handler)
    assert [number for number, *_ in first_lines(database)] == [2]
    assert all_written(database) == []


@each_command
@pytest.mark.parametrize("end", ["nothing", "delete", "error", "raise"])
def test_by_hand_it_is_the_same_as_the_method(client: qg.Client, database: Database, command: str, end: str) -> None:
    def work_by_hand(job: qg.Job) -> None:
        with job:
            write(job)
            say(job, command)
            if end == "delete":
                job.delete()
            elif end == "error":
                job.error("no such thing")
            elif end == "raise":
                raise qg.Reschedule(after=3600)

    fill(database, 1)
    work_by_hand(client.lock_job())
    assert all_written(database) == ([1] if command == "COMMIT" else [])
    assert first_lines(database) == ([] if end == "delete" else [(1, int(end == "error"), LAST[end])])


LAST = {"nothing": None, "raise": None, "error": "no such thing"}


def test_a_prepared_transaction_leaves_the_job_to_be_settled(client: qg.Client, database: Database) -> None:
    if database.value("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server has no prepared transactions")

    def handler(job: qg.Job) -> None:
        write(job)
        say(job, "PREPARE TRANSACTION 'of-a-handler'")

    fill(database, 1)
    work(client, "work", handler)
    assert (database.count(), all_written(database)) == (0, [])
    database.query("COMMIT PREPARED 'of-a-handler'")
    assert all_written(database) == [1]


def test_the_server_has_nothing_to_warn_of(client: qg.Client, database: Database) -> None:
    connections: list[psycopg2.extensions.connection] = []

    def handler(job: qg.Job) -> None:
        say(job, "COMMIT")
        connections.append(job.conn)

    fill(database, 2)
    work(client, "work", handler)
    assert connections[0].notices == []
