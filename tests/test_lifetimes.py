"""Connections are replaced after max_lifetime, between two jobs."""

from __future__ import annotations

import math
import time
from typing import Any

import psycopg2
import pytest
from psycopg2.pool import ThreadedConnectionPool
from support import Database, UntilEmpty, eventually, listener_of, take_plainly
from taking import events, fill, write

import qg


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("source", ["callable", "pool"])
@pytest.mark.parametrize("way", ["work", "work plainly", "batches"])
@pytest.mark.usefixtures("written")
def test_a_worker_replaces_its_connection_between_two_jobs(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture, way: str, source: str, writes: bool
) -> None:
    seen: list[int] = []

    def handler(job: qg.Job) -> None:
        if writes:
            write(job)
        seen.append(database.lock_holders()[0])
        if len(seen) in (2, 4):
            until = time.monotonic() + lifetime
            while time.monotonic() < until:
                time.sleep(0.01)

    lifetime = 0.3
    pool = ThreadedConnectionPool(1, 3, dsn)
    try:
        fill(database, 6)
        with qg.Client(pool if source == "pool" else lambda: psycopg2.connect(dsn), max_lifetime=lifetime) as client:
            take_plainly(client, way == "work plainly")
            UntilEmpty(client, {"MyJob": handler}, batch_size=2 if way == "batches" else 1).work()
        assert database.count() == 0
        assert seen[1] != seen[2]
        assert seen[3] != seen[4]
        assert events(caplog) == []
    finally:
        pool.closeall()


def test_a_client_uses_no_connection_again_that_is_too_old(dsn: str, database: Database) -> None:
    opened: list[Any] = []

    def connect() -> Any:
        opened.append(psycopg2.connect(dsn))
        return opened[-1]

    with qg.Client(connect, max_lifetime=1000) as client:
        for _ in range(3):
            client.enqueue(qg.Job("MyJob"))
    with qg.Client(connect, max_lifetime=0.001) as client:
        time.sleep(0.001)
        client.enqueue(qg.Job("MyJob"))
    assert len(opened) == 3
    assert all(each.closed for each in opened)


def test_the_listener_replaces_its_connection_and_hears_all_the_same(dsn: str, database: Database) -> None:
    qg.migrate(dsn, notify=True)
    with qg.Client(dsn, max_lifetime=0.2) as client:
        done: list[int] = []
        with qg.WorkerPool(client, {"MyJob": lambda job: done.append(job.id)}, 1, interval=3600) as pool:
            eventually(lambda: listener_of(pool).listens)
            first = {each[0] for each in database.sessions()}
            eventually(lambda: not first & {each[0] for each in database.sessions()}, "other sessions")
            client.enqueue(qg.Job("MyJob"))
            eventually(lambda: done)


def test_connections_that_were_opened_together_arent_replaced_together(dsn: str, database: Database) -> None:
    from qg.database.sources import source_from

    source = source_from(dsn, 1000.0)
    leases = [source.lease() for _ in range(5)]
    now = time.monotonic()
    expiries = [each.expires_at - now for each in leases]
    for each in leases:
        each.give_back(True)
    source.close()
    assert all(890 < each <= 1000 for each in expiries)
    assert max(expiries) - min(expiries) > 0.01
    lease = (forever := source_from(dsn)).lease()
    assert lease.expires_at == math.inf
    lease.give_back(False)
    forever.close()
