"""No look reads a large table as a whole: shown by EXPLAIN, on tables that the planner knows nothing of."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
from outside import Place
from support import VERSIONS, needs

from qg.control import Control, Filter
from qg.database.session import Session
from qg.tables import Statement, Table, table_in
from qg.tables.acts import acts_on
from qg.tables.checks import checks_on
from qg.tables.history import history_in
from qg.tables.looks import looks_at
from qg.tables.pauses import pauses_in

ROWS = 20_000
# These say that they read everything.
READ_ALL = ("count_all", "errors_all")


@pytest.fixture(scope="module", params=[each for each in (3, 4, 5, 6, 7) if each in VERSIONS])
def large(request: pytest.FixtureRequest, make_database: Callable[..., str]) -> Iterator[Place]:
    """A table with many jobs of each state in few queues, that was never analyzed."""
    version = request.param
    place = Place(make_database(version=version), version)
    place.query("ALTER TABLE que_jobs SET (autovacuum_enabled = off)")
    if version > 3:
        place.query("ALTER TABLE que_jobs DISABLE TRIGGER USER")
    more, values = ", job_schema_version" if version > 4 else "", {5: ", 1", 6: ", 2", 7: ", 2"}.get(version, "")
    error = "last_error" if version == 3 else "last_error_message"
    for condition, columns, given in (
        ("mod(n, 2) = 0", "", ""),
        (
            "mod(n, 2) = 1",
            ", error_count" + (", expired_at" if version > 3 else "") + f", {error}",
            ", 5" + (", now()" if version > 3 else "") + ", 'Oops: ' || mod(n, 5)",
        ),
    ):
        late = "- n * interval '1 second'"
        if version == 3 and columns:
            late = "+ interval '100 years'"
        place.query(
            f"INSERT INTO que_jobs (queue, priority, job_class, run_at{more}{columns}) "
            f"SELECT 'queue ' || mod(n, 3), mod(n, 2) + 1, 'MyJob', now() {late}{values}{given} "
            f"FROM generate_series(1, {ROWS}) AS n WHERE {condition}"
        )
    yield place
    place.close()


@pytest.fixture
def plans(large: Place, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Statement, dict[str, Any]]]:
    """Each statement on a session of qg's that was run, with its plan."""
    monkeypatch.setattr("qg.control.overview._SMALL_PAGES", 10)
    monkeypatch.setattr("qg.control.overview.SAMPLED_PAGES", 20)
    for name in ("_READ", "_READ_BY_ID"):  # a small part of this table, as 2,000 jobs are of a large one
        monkeypatch.setattr(f"qg.control.listing.{name}", 50)
    monkeypatch.setattr("qg.control.listing._PAGE_SECONDS", 0.0)
    for module in ("overview", "sessions"):
        monkeypatch.setattr(f"qg.control.{module}._HEADS", 200)
    monkeypatch.setattr("qg.control.failing._AHEAD", 20)
    seen: list[tuple[Statement, dict[str, Any]]] = []
    run = Session.run

    def explained(self: Session, statement: Statement, params: Any = ()) -> Any:
        if ";" not in statement.text:
            settings = statement.full_sql.removesuffix(statement.plain_sql)
            ((plan,),) = large.query(f"{settings}EXPLAIN (FORMAT JSON) {statement.plain_sql}", params)
            seen.append((statement, (plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]))
        return run(self, statement, params)

    monkeypatch.setattr(Session, "run", explained)
    return seen


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", []):
        yield from nodes(each)


def reads_all(plan: dict[str, Any]) -> list[str]:
    """The nodes that read all jobs."""
    return [
        each["Node Type"]
        for each in nodes(plan)
        if each.get("Relation Name") == "que_jobs" and each["Node Type"] in ("Seq Scan", "Bitmap Heap Scan")
    ]


LOOKS: dict[str, Callable[[Control], object]] = {
    "overview": lambda control: control.overview(),
    "newest": lambda control: control.jobs(),
    "newest of a queue": lambda control: control.jobs(queue="queue 1"),
    "failing": lambda control: control.jobs(state="failing"),
    "expired": lambda control: control.jobs(state="expired"),
    "an error": lambda control: control.jobs(error="oops: 3"),
    "args": lambda control: control.jobs(args={"0.user": 5}),
    "next": lambda control: control.jobs(order="next"),
    "next of a queue": lambda control: control.jobs(order="next", queue="queue 2", limit=10_000),
    "workers": lambda control: control.workers(),
    "errors": lambda control: control.errors(),
    "queues": lambda control: control.queues(),
    "a job": lambda control: control.job(77),
    "a dry run": lambda control: control.retry(Filter(queue="queue 1", error="none such"), dry_run=True),
}


@pytest.mark.parametrize("look", LOOKS)
def test_no_look_reads_all_jobs(large: Place, plans: list[tuple[Statement, dict[str, Any]]], look: str) -> None:
    with Control(large.dsn) as control:
        LOOKS[look](control)
    assert plans
    for statement, plan in plans:
        assert reads_all(plan) == [], statement.text


def test_who_works_what_is_found_among_the_jobs_that_are_taken_next(
    large: Place, plans: list[tuple[Statement, dict[str, Any]]]
) -> None:
    ids = [
        number
        for (number,) in large.query(f"SELECT {large.id} FROM que_jobs WHERE error_count = 0 ORDER BY run_at LIMIT 5")
    ]
    large.query("SELECT pg_advisory_lock(id) FROM unnest(%s) AS id", (ids,))
    with Control(large.dsn) as control:
        assert sum(each.working for each in control.overview().queues) == 5
        assert {number for each in control.workers() for number, _, _ in each.jobs} == set(ids)
    large.query("SELECT pg_advisory_unlock_all()")
    names = looks_at(table_in("public", large.version)).names
    assert (names in [statement for statement, _ in plans]) == (large.version > 3)
    for statement, plan in plans:
        assert reads_all(plan) == [], statement.text


def test_estimates_are_near_the_truth(large: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qg.control.overview._SMALL_PAGES", 10)
    monkeypatch.setattr("qg.control.overview.SAMPLED_PAGES", 100)
    monkeypatch.setattr("qg.control.overview._HEADS", 200)
    with Control(large.dsn) as control:
        for queue in control.overview().queues:
            assert queue.due.estimated
            assert queue.expired.estimated
            assert queue.due == pytest.approx(ROWS / 6, rel=0.5)
            assert queue.expired == pytest.approx(ROWS / 6, rel=0.5)
        exact = control.overview(exact=True)
        assert sum(each.due for each in exact.queues) == sum(each.expired for each in exact.queues) == ROWS / 2


@pytest.mark.parametrize("version", [each for each in (3, 7) if each in VERSIONS])
def test_no_look_at_the_history_reads_all_of_it(make_database: Callable[..., str], version: int) -> None:
    jobs = needs("qg.jobs")
    place = Place(make_database(version=version), version)
    try:
        jobs.migrate(place.dsn)
        place.query(
            "INSERT INTO qg_jobs_history "
            "(job_id, job_type, queue, priority, run_at, run_count, success, started_at, finished_at) "
            "SELECT mod(n, 1000), 'T' || mod(n, 7), 'mail', 0, now(), 0, mod(n, 3) = 0, now(), now() "
            "FROM generate_series(1, 20000) AS n"
        )
        place.query("ANALYZE")
        history = history_in("public")
        for statement, params in (
            (history.of_job, (7, 100)),
            (history.attempts, (2**63 - 1, 10_000, "T3", None, False, 2**63 - 1, 50)),
        ):
            settings = statement.full_sql.removesuffix(statement.plain_sql)
            ((plan,),) = place.query(f"{settings}EXPLAIN (FORMAT JSON) {statement.plain_sql}", params)
            scans = [each["Node Type"] for each in nodes(plan[0]["Plan"]) if each.get("Relation Name")]
            assert scans
            assert "Seq Scan" not in scans, statement.text
    finally:
        place.close()


# The statements


def every_statement() -> list[tuple[str, Statement]]:
    found: list[tuple[str, Statement]] = []
    for version in (3, 4, 5, 6, 7):
        table = table_in("public", version)
        for made in (looks_at(table), acts_on(table), checks_on(table), pauses_in("public"), history_in("public")):
            for field in fields(made):
                value = getattr(made, field.name)
                if isinstance(value, Statement):
                    found.append((f"{version}-{type(made).__name__}.{field.name}", value))
    return found


@pytest.mark.parametrize(
    ("name", "statement"), every_statement(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_parameter_is_there_once_and_in_order(name: str, statement: Statement) -> None:
    import re

    numbers = [int(number) for number in re.findall(r"\$(\d+)", statement.text)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "%" not in statement.text


def test_a_statement_of_another_version_fails_and_tells_nothing(make_database: Callable[..., str]) -> None:
    """But for those that would tell the same."""
    import psycopg2

    needed = (
        "count_all",
        "count_sample",
        "count_heads",
        "newest",
        "next_up",
        "by_ids",
        "errors_all",
        "queues",
        "sessions",
    )
    same = {(4, "sessions"), (5, "sessions"), (6, "sessions"), (7, "sessions")}

    def params_of(table: Table, name: str) -> tuple[Any, ...]:
        looks, given = looks_at(table), Filter().params(table)
        return {
            "count_sample": (100.0,),
            "count_heads": (10, 10),
            "newest": looks.newest_params("", 5, given, 5),
            "next_up": looks.next_up_params("", 5, given, 5),
            "by_ids": ([1],),
            "queues": (10,),
        }.get(name, ())

    for there in (3, 4, 5, 6):
        place = Place(make_database(version=there), there)
        try:
            for other in (3, 4, 5, 6):
                table = table_in("public", other)
                for name in needed:
                    sql, params = getattr(looks_at(table), name).plain_sql, params_of(table, name)
                    if other == there or ((other, name) in same and there > 3):
                        place.query(sql, params)
                    else:
                        with pytest.raises(psycopg2.ProgrammingError):
                            place.query(sql, params)
        finally:
            place.close()


def test_looking_logs_nothing(large: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Control(large.dsn) as control:
        control.overview()
        control.jobs()
    assert [each for each in caplog.records if each.name.startswith("qg")] == []
