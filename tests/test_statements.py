"""The prepared statements: where they are, and what happens when somebody throws them away."""

from __future__ import annotations

import json
from contextlib import closing

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS
from support import SUFFIX, VERSION, Database, Network, lease

import qg

NAMES = [
    f"que_check_job{SUFFIX}",
    f"que_destroy_job{SUFFIX}",
    f"que_insert_job{SUFFIX}",
    f"que_lock_job{SUFFIX}",
    f"que_lock_job_by_run_at{SUFFIX}",
    f"que_set_error{SUFFIX}",
    "que_unlock_job",
]
TAKING_NAMES = ["que_delete_jobs", "que_take_jobs", "que_take_jobs_by_run_at"]


def prepared_on(conn) -> list[str]:
    with conn.cursor() as cur:
        cur.execute("SELECT name FROM pg_prepared_statements")
        return sorted(name for (name,) in cur.fetchall())


def test_prepare_statements_prepares_the_names_of_go_and_one_more(dsn: str) -> None:
    with closing(psycopg2.connect(dsn)) as conn:
        qg.prepare_statements(conn)
        assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE
        assert prepared_on(conn) == sorted(NAMES)


def test_prepare_statements_may_be_called_again_and_in_a_transaction(dsn: str) -> None:
    with closing(psycopg2.connect(dsn)) as conn:
        conn.cursor().execute("SELECT 1")
        qg.prepare_statements(conn)
        qg.prepare_statements(conn)
        assert conn.info.transaction_status == TRANSACTION_STATUS_INTRANS
        conn.rollback()
        assert prepared_on(conn) == sorted(NAMES)


def test_the_prepared_statements_are_those_of_que(dsn: str, database: Database) -> None:
    with closing(psycopg2.connect(dsn)) as conn:
        conn.autocommit = True
        qg.prepare_statements(conn)
        with conn.cursor() as cur:
            kwargs_and_tags = "" if VERSION == 3 else ", '{}', '[]'"
            cur.execute(f"EXECUTE que_insert_job{SUFFIX}('q', 1, NULL, 'MyJob', '[]'{kwargs_and_tags})")
            cur.execute(f"EXECUTE que_lock_job{SUFFIX}('q')")
            ((job_id, *_),) = (json.loads(row) for row in cur.fetchone())
            assert database.locks() == [job_id]
            cur.execute("EXECUTE que_unlock_job(%s)", (job_id,))
            assert cur.fetchone() == (True,)


def test_prepare_statements_without_a_table_says_so(make_database) -> None:
    with (
        closing(psycopg2.connect(make_database(migrate=False))) as conn,
        pytest.raises(qg.ErrTable, match="there is no que_jobs table"),
    ):
        qg.prepare_statements(conn)


def test_the_client_prepares_each_connection_once(network: Network) -> None:
    with qg.Client(network.dsn) as client:
        for _ in range(3):
            client.enqueue(qg.Job("MyJob"))
            client.lock_job().done()
    for name in (f"que_lock_job{SUFFIX}", "que_take_jobs"):
        assert len([each for each in network.statements if f"PREPARE {name} " in each]) == 1


def test_a_connection_whose_statements_were_thrown_away_is_prepared_anew(client: qg.Client) -> None:
    client.enqueue(qg.Job("MyJob"))
    session = lease(client)
    session.conn.autocommit = True
    session.conn.cursor().execute("DISCARD ALL")
    session.conn.autocommit = False
    session.give_back()
    with client.lock_job() as job:
        assert prepared_on(job.conn) == TAKING_NAMES
        job.conn.rollback()
        job.delete()
        assert prepared_on(job.conn) == sorted([*NAMES, *TAKING_NAMES])
        job.conn.rollback()
