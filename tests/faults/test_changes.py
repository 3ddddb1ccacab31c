"""What an administrator does to the table, the index, the role and the server under a running pool."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from experiment import BATCHES, PASSWORD, Experiment, Kind
from psycopg2.extensions import make_dsn

import qg

POOLS_OF_EVERY_RUN = [BATCHES]

ROUND = 30
DROP_ALL = """
DROP TABLE IF EXISTS que_jobs, que_lockers, que_values CASCADE;
DO $$ DECLARE name regprocedure; BEGIN
    FOR name IN SELECT oid FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND starts_with(proname, 'que_')
    LOOP
        EXECUTE 'DROP FUNCTION ' || name || ' CASCADE';
    END LOOP;
END $$
"""


def drop_and_recreate(experiment: Experiment) -> None:
    qg.migrate(experiment.queue, 0)
    qg.migrate(experiment.queue, experiment.version)


def drop_with_sql_and_recreate(experiment: Experiment) -> None:
    experiment.query(DROP_ALL)
    qg.migrate(experiment.queue, experiment.version)


def rename_and_rename_back(experiment: Experiment) -> None:
    experiment.query("ALTER TABLE que_jobs RENAME TO elsewhere")
    experiment.query("ALTER TABLE elsewhere RENAME TO que_jobs")


def statement(sql: str) -> Callable[[Experiment], object]:
    return lambda experiment: experiment.query(sql)


CHANGES: dict[str, Callable[[Experiment], object]] = {
    "table dropped and recreated by qg.migrate": drop_and_recreate,
    "table dropped with SQL, recreated by qg.migrate": drop_with_sql_and_recreate,
    "table renamed and renamed back": rename_and_rename_back,
    "REINDEX TABLE": statement("REINDEX TABLE que_jobs"),
    "REINDEX TABLE CONCURRENTLY": statement("REINDEX TABLE CONCURRENTLY que_jobs"),
    "VACUUM FULL": statement("VACUUM FULL que_jobs"),
    "TRUNCATE": statement("TRUNCATE que_jobs"),
    "ANALYZE, and a new index": statement("ANALYZE que_jobs; CREATE INDEX ON que_jobs (error_count)"),
    "a column more": statement("ALTER TABLE que_jobs ADD IF NOT EXISTS tenant int DEFAULT 7"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_pool_goes_on_when_the_table_is_changed(begin: Callable[..., Experiment], change: str, kind: Kind) -> None:
    experiment = begin(change, kind)
    with experiment.pool():
        for _ in range(3):
            experiment.enqueue(ROUND)
            # These would take away jobs that wait.
            if change.startswith(("table dropped", "TRUNCATE")):
                experiment.wait_until_worked()
            CHANGES[change](experiment)
            experiment.fault_is_over()
            experiment.enqueue(ROUND)
            experiment.wait_until_worked()
    figures = experiment.check()
    # Without its table, a job that runs can't be settled, and runs again.
    assert figures.runs == figures.jobs or change.startswith("table renamed")


@pytest.mark.parametrize(
    "change",
    [
        f"ALTER ROLE {{}} PASSWORD '{PASSWORD}'",  # the same one, but what the server keeps of it is new
        "ALTER ROLE {} SET statement_timeout = '5s'; ALTER ROLE {} SET work_mem = '1MB'",
        "ALTER ROLE {} SET search_path TO elsewhere",
    ],
)
def test_a_pool_goes_on_when_its_role_is_changed_and_its_sessions_are_renewed(
    begin: Callable[..., Experiment], change: str, kind: Kind
) -> None:
    experiment = begin(change.replace("{}", "…").replace(f"'{PASSWORD}'", "…") + ", and its sessions ended", kind)
    with (
        experiment.role("ALL ON que_jobs", "INSERT ON effects", options="LOGIN SUPERUSER") as role,
        experiment.pool(make_dsn(experiment.queue, user=role, password=PASSWORD)),
    ):
        experiment.enqueue(ROUND)
        experiment.wait_for_runs(5)
        experiment.query(change.replace("{}", role))
        experiment.enqueue(ROUND)
        experiment.wait_until_worked()
        experiment.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
        experiment.fault_is_over()
        experiment.enqueue(ROUND)
        experiment.wait_until_worked()
    experiment.check()
