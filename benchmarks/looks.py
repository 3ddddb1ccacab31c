"""Looks of qg.control at large tables: a million jobs waiting, a million given up, ten million attempts behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import qg
from benchmarks.contenders.qg import QUE_JOBS
from benchmarks.results import Readings, first_line
from benchmarks.run import Run
from benchmarks.server import Database
from qg.control import Control, Filter
from qg.database.session import Session
from qg.tables import Statement, Table, table_in
from qg.tables.looks import looks_at

__all__ = ["BY_ID", "HISTORY", "LOOKS", "VERSIONS", "case", "measure"]

_SCENARIO = "looks"
VERSIONS = (3, 7)
_SMALL_QUEUES = 20
_LOCKED = 100

HISTORY = "history"
BY_ID = "a job by its id"
LOOKS: dict[str, Callable[[Control], object]] = {
    "overview": lambda control: control.overview(),
    "errors": lambda control: control.errors(),
    "workers": lambda control: control.workers(),
    "newest jobs": lambda control: control.jobs(),
    "next jobs": lambda control: control.jobs(order="next"),
    "jobs of a small queue": lambda control: control.jobs(queue="small 3", order="next"),
    "failing jobs": lambda control: control.jobs(state="failing"),
    "expired jobs": lambda control: control.jobs(state="expired"),
    "jobs by their error": lambda control: control.jobs(error="no such file"),
    "jobs by their args": lambda control: control.jobs(args={"0.user_id": 77}),
    "queues": lambda control: control.queues(),
    HISTORY: lambda control: control.history(success=False),
    "checkup": lambda control: control.doctor(),
}
"""The looks that are measured. One job by its id is measured apart."""


def case(version: int, look: str) -> str:
    """Return how the results name it."""
    return f"version {version}, {look}"


def measure(run: Run) -> None:
    """Measure each look at a table of version 3 and of version 7, and see what its statements read."""
    for version in VERSIONS:
        with run.server.database("qg_bench_looks", QUE_JOBS) as database:
            try:
                qg.migrate(database.another_connection, version)
                _fill(database, version, run.durations.depths[-1])
                if version == VERSIONS[-1]:  # it is the same beside each
                    _fill_history(database, run.durations.attempts)
                database.settle()
            except Exception as error:  # a disk that is too small, mostly
                run.results.fail(f"{_SCENARIO}: version {version}: {first_line(error)}")
                continue
            _measure(run, database, version)


def _measure(run: Run, database: Database, version: int) -> None:
    number = _middle(database, version)
    with _some_worked(database, version), Control(database.another_connection) as control:
        looks = {**LOOKS, BY_ID: lambda control: control.job(number)}
        if version != VERSIONS[-1]:
            del looks[HISTORY]
        for name, look in looks.items():
            scans = _scans(database, table_in("public", version), control, look)
            if scans:
                run.results.fail(f"{_SCENARIO}: {case(version, name)} reads a whole table: {scans[0]}")
            timed: dict[str, Callable[[], float | Readings]] = {"qg": partial(_milliseconds, control, look)}
            run.results.alternate(_SCENARIO, case(version, name), "ms", run.durations.rounds, timed)
        timed = {
            "qg": partial(_milliseconds, control, lambda control: control.delete(Filter(type="None"), dry_run=True))
        }
        run.results.alternate(_SCENARIO, case(version, "a filter over all jobs"), "ms", 1, timed)


def _milliseconds(control: Control, look: Callable[[Control], object]) -> float:
    began = time.monotonic()
    look(control)
    return 1000 * (time.monotonic() - began)


def _scans(database: Database, table: Table, control: Control, look: Callable[[Control], object]) -> list[str]:
    """Look once, and return the statements of it that read all jobs, or all attempts."""
    ran: list[tuple[Statement, Any]] = []
    run = Session.run

    def noted(self: Session, statement: Statement, params: Any = ()) -> Any:
        ran.append((statement, params))
        return run(self, statement, params)

    Session.run = noted  # type: ignore[method-assign]
    try:
        look(control)
    finally:
        Session.run = run  # type: ignore[method-assign]
    looks = looks_at(table)
    of_small_tables = (looks.count_all, looks.errors_all)
    found = []
    with database.conn.cursor() as cur:
        for statement, params in ran:
            if ";" in statement.text or statement in of_small_tables:
                continue
            cur.execute(f"{statement.full_sql.removesuffix(statement.plain_sql)}EXPLAIN {statement.plain_sql}", params)
            plan = "\n".join(line for (line,) in cur.fetchall())
            if "Seq Scan on que_jobs" in plan or "Seq Scan on qg_jobs_history" in plan:
                found.append(" ".join(statement.text.split())[:100])
    return found


def _fill(database: Database, version: int, depth: int) -> None:
    """Store *depth* jobs that wait in two queues, as many that were given up, and some that fail or are few."""
    old = version == 3
    if not old:
        database.run("ALTER TABLE que_jobs DISABLE TRIGGER USER")
    common = "queue, priority, job_class, args" + ("" if old else ", job_schema_version")
    args = f"('[{{\"user_id\": ' || n || '}}]')::{'json' if old else 'jsonb'}" + ("" if old else ", 2")
    trace = "repeat('File \"app.py\", line ' || n || E'\\n', 20)"
    error = (
        f"'OSError: no such file ' || n % 7 || E'\\n' || {trace}"
        if old
        else f"'OSError: no such file ' || n % 7, {trace}"
    )
    failed = "error_count, last_error" if old else "error_count, last_error_message, last_error_backtrace"
    waiting = f"""
INSERT INTO que_jobs ({common}, run_at)
SELECT CASE WHEN n % 10 < 7 THEN 'mail' ELSE 'other' END, CASE WHEN n % 5 = 0 THEN 50 ELSE 100 END, 'Type' || n % 9,
       {args}, now() - n * interval '1 second'
FROM generate_series(1, {depth // 2}) AS n"""
    database.run(waiting)
    database.run(f"""
INSERT INTO que_jobs ({common}, run_at, {failed}{"" if old else ", expired_at"})
SELECT CASE WHEN n % 10 < 7 THEN 'mail' ELSE 'given up' END, 100, 'Type' || n % 9, {args},
       now() + {"interval '100 years'" if old else "n * interval '-1 second'"}, 15, {error}{"" if old else ", now()"}
FROM generate_series(1, {depth}) AS n""")
    database.run(waiting)
    database.run(f"""
INSERT INTO que_jobs ({common}, run_at)
SELECT 'small ' || n % {_SMALL_QUEUES}, 100, 'Small', {args}, now() FROM generate_series(1, 1000) AS n""")
    database.run(f"""
INSERT INTO que_jobs ({common}, run_at, {failed})
SELECT 'mail', 100, 'Failing', {args}, now() + n * interval '1 hour', 3, {error} FROM generate_series(1, 50) AS n""")
    if not old:
        database.run("ALTER TABLE que_jobs ENABLE TRIGGER USER")


def _fill_history(database: Database, attempts: int) -> None:
    from qg import jobs

    jobs.migrate(database.another_connection)
    database.run(f"""
INSERT INTO qg_jobs_history
    (job_id, job_type, queue, priority, run_at, args, run_count, success, started_at, finished_at)
SELECT n, 'Type' || n % 9, 'mail', 100, now(), '{{"jobData": {{}}}}', 0, n % 1000 <> 0, now(), now()
FROM generate_series(1, {attempts}) AS n""")


def _middle(database: Database, version: int) -> int:
    column = "job_id" if version == 3 else "id"
    return int(str(database.value(f"SELECT max({column}) / 2 FROM que_jobs")))


@contextmanager
def _some_worked(database: Database, version: int) -> Iterator[None]:
    """Hold the locks of the jobs that are taken first, as workers do."""
    conn = database.another_connection()
    try:
        with conn.cursor() as cur:
            cur.execute(
                f"SELECT pg_advisory_lock({'job_id' if version == 3 else 'id'}) FROM (SELECT * FROM que_jobs "
                "WHERE queue = 'mail' AND run_at <= now() AND error_count = 0 "
                f"ORDER BY priority, run_at LIMIT {_LOCKED}) AS first"
            )
        conn.commit()
        yield
    finally:
        conn.close()
