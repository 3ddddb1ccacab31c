"""What a handler or a pooler throws away of what is prepared in a session costs a retry."""

from __future__ import annotations

import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from support import Database, Network, UntilEmpty, lease
from taking import each_batch_size, events, execute, fill, kinds, work_all

import qg

THROWN_AWAY = ["DISCARD TEMP", "DEALLOCATE ALL", "DEALLOCATE que_take_jobs", "DEALLOCATE que_delete_jobs"]


@pytest.mark.parametrize("statement", ["DISCARD ALL", *THROWN_AWAY])
def test_what_was_thrown_away_between_two_locks_costs_a_retry(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    fill(database, 2)
    client.lock_job().done()
    session = lease(client)
    execute(session.conn, statement)
    session.give_back()
    with client.lock_job() as job:
        assert (job.id, database.locks()) == (1, [1])
        assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
        assert not job.conn.autocommit
        job.delete()
    assert (database.count(), caplog.records) == (1, [])


@each_batch_size
@pytest.mark.parametrize("statement", THROWN_AWAY)
def test_what_a_handler_threw_away_costs_a_retry(
    counted: qg.Client,
    network: Network,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    no_hurry: None,
    statement: str,
    batch_size: int,
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id == 3:
            execute(job.conn, statement)

    fill(database, 10)
    UntilEmpty(counted, {"MyJob": handler}, batch_size=batch_size).work()
    assert (order, database.count()) == (list(range(1, 11)), 0)
    assert caplog.records == []
    if batch_size == 1:
        retried = 2 if statement in ("DISCARD TEMP", "DEALLOCATE ALL", "DEALLOCATE que_delete_jobs") else 1
        assert kinds(network).count("delete jobs+take") == 10 + (retried == 2)
        assert kinds(network).count("take") == 1 + (retried == 1)


@each_batch_size
@pytest.mark.parametrize("statement", THROWN_AWAY)
def test_what_a_pooler_threw_away_under_a_batch_costs_a_retry(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    no_hurry: None,
    statement: str,
    batch_size: int,
) -> None:
    order: list[int] = []

    def handler(job: qg.Job) -> None:
        order.append(job.id)
        if job.id in (3, 8):
            worker.loop.session.conn.cursor().execute(statement)

    fill(database, 10)
    worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
    worker.work()
    assert (order, database.count()) == (list(range(1, 11)), 0)
    assert caplog.records == []


@each_batch_size
def test_a_pooler_that_discards_all_while_nothing_is_locked_costs_a_retry(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    class Discarding(UntilEmpty):
        discarded = 0

        def rest(self, seconds: float, due: float | None = None) -> None:
            self.discarded += 1
            if self.discarded == 3:
                self.stop()
            execute(self.loop.session.conn, "DISCARD ALL")
            fill(database, 3)

    fill(database, 3)
    order: list[int] = []
    Discarding(client, {"MyJob": lambda job: order.append(job.id)}, batch_size=batch_size).work()
    assert (order, database.count()) == (list(range(1, 10)), 3)
    assert caplog.records == []


@each_batch_size
def test_a_handler_that_discards_all_has_thrown_its_lock_away_too(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    fill(database, 3)
    work_all(client, database, lambda job: execute(job.conn, "DISCARD ALL"), batch_size)
    assert database.count() == 0
    assert events(caplog) == ["lock_not_ours id=1"]
