"""A plan that looks dear isn't compiled: that would take longer than the job, and again for each job."""

from __future__ import annotations

import pytest
from psycopg2.extensions import make_dsn
from support import Database, lease, on_versions, table_of, take, take_plainly

import qg
from qg.tables import PollStrategy

# Every plan is dear enough.
ALWAYS = "-c jit=on -c jit_above_cost=0 -c jit_inline_above_cost=0 -c jit_optimize_above_cost=0"


@on_versions(3, 7)
def test_the_functions_of_a_session_are_never_compiled(make_database, version: int) -> None:
    dsn = make_dsn(make_database(version=version), options=ALWAYS)
    with qg.Client(dsn) as client:
        session = lease(client)
        take(client, session, "")
        with session.conn.cursor() as cur:
            cur.execute(
                "SELECT proname, 'jit=off' = ANY (proconfig), current_setting('jit') FROM pg_proc "
                "WHERE pronamespace = pg_my_temp_schema() ORDER BY 1"
            )
            names = ["que_delete_jobs", "que_take_jobs", "que_take_jobs_by_run_at"]
            assert cur.fetchall() == [(name, True, "on") for name in names]
        session.close_now()


@on_versions(3, 7)
@pytest.mark.parametrize("types", [None, ["MyJob"]])
@pytest.mark.parametrize("order", PollStrategy)
def test_the_locking_statement_is_never_compiled(make_database, version: int, order: PollStrategy, types) -> None:
    dsn = make_dsn(make_database(version=version), options=ALWAYS)
    with qg.Client(dsn) as client:
        session = lease(client)
        statement = table_of(client).lock_job_in(order, types)
        params = ([types] if types else []) + ["default"]
        settings, call = statement.call_sql.split("; ", 1)
        with session.conn.cursor() as cur:
            plans = []
            for before in ("", f"{settings};"):
                cur.execute(f"{before}EXPLAIN (ANALYZE) {call}", params)
                plans.append("\n".join(line for (line,) in cur.fetchall()))
        assert ["JIT:" in plan for plan in plans] == [jit_there(session.conn), False]
        session.close_now()


def jit_there(conn) -> bool:
    """Whether the server could compile at all."""
    with conn.cursor() as cur:
        cur.execute("SET LOCAL jit = on; SELECT pg_jit_available()")
        return cur.fetchone()[0]


def test_the_setting_costs_no_message_and_ends_with_the_statement(network, database: Database) -> None:
    with qg.Client(network.dsn) as client:
        take_plainly(client)
        client.enqueue(qg.Job("MyJob"))
        assert client.lock_job("empty") is None  # which prepares the statements
        network.statements.clear()
        with client.lock_job() as job:
            assert len([each for each in network.statements if "que_lock_job" in each]) == 1
            assert network.statements[0].startswith("SET LOCAL jit = off; EXECUTE que_lock_job")
            with job.conn.cursor() as cur:
                cur.execute("SELECT source FROM pg_settings WHERE name = 'jit'")
                assert cur.fetchone() == ("default",)
            job.conn.rollback()
            job.delete()
