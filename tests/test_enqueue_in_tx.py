"""Enqueueing in the caller's transaction, with every library that has one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import psycopg2
import pytest
from support import VERSION, Database, needs
from transactions import every_library

import qg

# What the libraries are to hand on, and how it stands in the table.
ARGS, STORED = ({"a": ["ä\x00"]}, '{"a": ["\\u00e4\\u0000"]}') if VERSION == 3 else ([{"a": ["ä"]}], '[{"a": ["ä"]}]')
WHEN = datetime(2040, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)


@every_library
def test_a_job_comes_into_being_with_the_callers_commit(client: qg.Client, database: Database, opener: Any) -> None:
    with opener(database.dsn) as (tx, commit, _):
        job = client.enqueue_in_tx(qg.Job("MyJob", ARGS, queue="q", priority=0, run_at=WHEN), tx)
        assert database.count() == 0
        commit()
    assert database.query("SELECT job_id, job_class, queue, priority, run_at, args::text FROM jobs") == [
        (job.id, "MyJob", "q", 0, WHEN, STORED)
    ]
    assert job.run_at == WHEN


@every_library
def test_a_job_goes_with_the_callers_rollback(client: qg.Client, database: Database, opener: Any) -> None:
    with opener(database.dsn) as (tx, _, rollback):
        client.enqueue_in_tx(qg.Job("MyJob"), tx)
        rollback()
    assert database.count() == 0


@every_library
def test_a_batch_lives_and_dies_with_the_callers_transaction(
    client: qg.Client, database: Database, opener: Any
) -> None:
    with opener(database.dsn) as (tx, commit, rollback):
        client.enqueue_batch_in_tx([qg.Job("Undone"), qg.Job("Undone")], tx)
        rollback()
        jobs = client.enqueue_batch_in_tx([qg.Job("A", run_at=WHEN), qg.Job("B", priority=7), qg.Job("C")], tx)
        commit()
    assert [(each[0], each[1]) for each in database.jobs()] == [(job.id, job.type) for job in jobs]


def test_a_session_with_another_datestyle_fills_in_the_right_time(client: qg.Client, database: Database) -> None:
    with closing(psycopg2.connect(database.dsn)) as conn:
        with conn.cursor() as cur:
            cur.execute("SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'")
        assert client.enqueue_in_tx(qg.Job("MyJob", run_at=WHEN), conn).run_at == WHEN
        conn.commit()


def test_a_cursor_given_keeps_the_result_it_holds(client: qg.Client, dsn: str) -> None:
    with closing(psycopg2.connect(dsn)) as conn, conn.cursor() as cur:
        cur.execute("SELECT 1")
        client.enqueue_in_tx(qg.Job("MyJob"), cur)
        assert cur.fetchall() == [(1,)]


class AsyncSession:
    async def execute(self, statement: str) -> None:
        pass


def async_connection_of_psycopg_3() -> Any:
    return needs("psycopg").AsyncConnection


@pytest.mark.parametrize(
    "make",
    [lambda: None, lambda: 5, lambda: "BEGIN", object, AsyncSession, async_connection_of_psycopg_3],
    ids=["None", "5", "BEGIN", "object", "AsyncSession", "psycopg.AsyncConnection"],
)
def test_an_object_without_a_transaction_is_refused_and_told_what_would_do(
    client: qg.Client, make: Callable[[], Any]
) -> None:
    tx = make()
    with pytest.raises(TypeError, match="psycopg2 or psycopg 3 connection or cursor, a Django connection") as caught:
        client.enqueue_in_tx(qg.Job("MyJob"), tx)
    assert isinstance(caught.value, qg.ErrUnusable)


def test_a_job_is_checked_before_the_transaction_is_touched(client: qg.Client) -> None:
    with pytest.raises(qg.ErrMissingType):
        client.enqueue_in_tx(qg.Job(""), object())
