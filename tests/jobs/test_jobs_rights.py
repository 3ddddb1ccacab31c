"""What a role must be granted for qg.jobs, and what is said if it isn't."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import pytest
from granting import each_left_out, fails, grants, role_of, role_with, said, shut_out_public
from support import VERSIONS, Database, eventually, jobs_tables_of, on_versions

import qg
from qg import jobs
from qg.jobs.drafts import Schedule
from qg.jobs.schedules import Schedules
from qg.jobs.tables import JobsTables
from qg.jobs.telemetry import Telemetry
from qg.tables.rights import Right
from qg.working.engine import Engine

ENQUEUES, WORKS = "Who enqueues", "Who works"
JOBS_WORK, JOBS_SCHEDULE, JOBS_PRUNE = (
    "Who works with qg.jobs",
    "Who schedules with qg.jobs",
    "Who prunes the tables of qg.jobs",
)
SOME_VERSIONS = [each for each in (3, 7) if each in VERSIONS]
# What the jobs below let a worker say.
EXPECTED = ("job_failed",)


@dataclass(frozen=True)
class Greet:
    user: int = 0


@pytest.fixture(scope="module")
def _databases() -> Iterator[dict[int, Database]]:
    databases: dict[int, Database] = {}
    yield databases
    for database in databases.values():
        database.close()


@pytest.fixture
def strict(_databases: dict[int, Database], make_database: Callable[..., str], version: int) -> Database:
    """A database with empty tables, que_jobs of *version*, where PUBLIC may do nothing."""
    if version not in _databases:
        database = _databases[version] = Database(make_database(version=version))
        jobs.migrate(database.dsn)
        shut_out_public(database)
    _databases[version].query(
        "TRUNCATE que_jobs, qg_jobs_history, qg_jobs_worker_pool, qg_jobs_schedule, qg_jobs_tick RESTART IDENTITY"
    )
    return _databases[version]


def enqueue(dsn: str) -> None:
    with jobs.PostgresJobs(dsn) as queue:
        queue.enqueue(Greet(1))
        queue.enqueue([Greet(2), Greet(3)])


def work(dsn: str, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Work a job that succeeds and one that fails; return early if there was something to say."""
    enqueue(database.dsn)
    with jobs.PostgresJobs(dsn, poll_interval=0.05, pool_size=2) as queue:

        @queue.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            if job.user == 1:
                raise ValueError("no")

        queue.start()
        attempts = "SELECT count(*) FROM qg_jobs_history"
        reports = "SELECT count(*) FROM qg_jobs_worker_pool"
        eventually(lambda: said(caplog, *EXPECTED) or (database.value(attempts) >= 3 and database.value(reports) == 1))


def schedule(dsn: str, database: Database) -> None:
    """Declare a schedule, and fire it."""
    with qg.Client(dsn) as client:
        schedules = Schedules(client, jobs_tables_of(client), "", Telemetry(None, None))
        schedules.declare(Schedule.of("@daily", Greet()))
        database.query("UPDATE qg_jobs_schedule SET next_tick_at = now()")
        schedules.tick()
    assert database.query("SELECT job_id FROM qg_jobs_tick") == [(1,)]


def prune(dsn: str) -> None:
    jobs.prune_history(dsn, older_than=timedelta(days=1))
    jobs.prune_history(dsn, keep=5, payloads_only=True)
    jobs.prune_ticks(dsn, keep=5)


@on_versions(3, 7)
def test_a_role_with_the_grants_for_who_enqueues_enqueues_with_qg_jobs_too(strict: Database, version: int) -> None:
    with role_with(strict, grants(ENQUEUES, version)) as dsn:
        enqueue(dsn)
    assert strict.count() == 3


@on_versions(3, 4, 5, 6, 7)
def test_a_role_with_the_grants_for_who_works_with_qg_jobs_does_with_no_warning(
    strict: Database, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, grants(WORKS, version) + grants(JOBS_WORK, version)) as dsn:
        work(dsn, strict, caplog)
    assert said(caplog, *EXPECTED) == []
    outcomes = "SELECT success, count(*) FROM qg_jobs_history GROUP BY 1 ORDER BY 1"
    assert strict.query(outcomes) == [(False, 1), (True, 2)]


@each_left_out(WORKS, JOBS_WORK, versions=SOME_VERSIONS)
def test_who_works_with_qg_jobs_needs_each_of_the_grants(
    strict: Database, every: list[str], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, [each for each in every if each != missing]) as dsn:
        assert fails(lambda: work(dsn, strict, caplog), caplog, *EXPECTED)
        if "qg_jobs" in missing:
            assert strict.value("SELECT count(*) FROM qg_jobs_history") == 0


@on_versions(3, 7)
def test_a_role_with_the_grants_for_who_schedules_does(strict: Database, version: int) -> None:
    with role_with(strict, grants(ENQUEUES, version) + grants(JOBS_SCHEDULE, version)) as dsn:
        schedule(dsn, strict)


@each_left_out(ENQUEUES, JOBS_SCHEDULE, versions=SOME_VERSIONS)
def test_who_schedules_needs_each_of_the_grants(
    strict: Database, every: list[str], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, [each for each in every if each != missing]) as dsn:
        assert fails(lambda: schedule(dsn, strict), caplog)


@each_left_out(JOBS_PRUNE, versions=SOME_VERSIONS[:1])
def test_who_prunes_needs_each_of_the_grants(
    strict: Database, every: list[str], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, every) as dsn:
        prune(dsn)
    with role_with(strict, [each for each in every if each != missing]) as dsn:
        assert fails(lambda: prune(dsn), caplog)


@on_versions(3, 7)
def test_a_queue_of_a_role_without_rights_says_once_which_grants_it_needs_and_starts_when_it_has_them(
    strict: Database, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    reads = ["GRANT USAGE ON SCHEMA public TO app", "GRANT SELECT ON que_jobs TO app"]
    ran: list[int] = []
    enqueue(strict.dsn)
    with (
        role_with(strict, reads + [each for each in grants(WORKS, version) if "que_jobs TO" not in each]) as dsn,
        jobs.PostgresJobs(dsn, poll_interval=0.05, pool_size=2) as queue,
    ):

        @queue.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            ran.append(job.user)

        queue.start()
        eventually(lambda: said(caplog))
        (line,) = said(caplog)
        role = role_of(dsn)
        assert line.startswith(f"start_failed ErrRights: role {role} may not UPDATE, DELETE on public.que_jobs and ")
        assert f"GRANT SELECT, INSERT ON public.qg_jobs_history TO {role}" in line
        assert ran == []
        strict.query(line[line.index("GRANT ") : line.index("; trying again")])
        eventually(lambda: strict.count() == 0)
        assert said(caplog) == [line]


@on_versions(3, 7)
def test_a_schedule_of_a_role_without_rights_says_which_grants_it_needs_and_records_nothing(
    strict: Database, version: int
) -> None:
    allowed = [each for each in grants(JOBS_SCHEDULE, version) if "qg_jobs_tick" not in each]
    with role_with(strict, grants(ENQUEUES, version) + allowed) as dsn, jobs.PostgresJobs(dsn) as queue:
        tick = rf"public\.qg_jobs_tick, so no schedule could fire; GRANT .* ON public\.qg_jobs_tick TO {role_of(dsn)}$"
        with pytest.raises(jobs.ErrScheduleFailed, match=tick) as error:
            queue.schedule("@daily", Greet())
        assert isinstance(error.value.__cause__, qg.ErrRights)
    assert strict.value("SELECT count(*) FROM qg_jobs_schedule") == 0


def test_who_migrates_needs_nothing_more_for_the_tables_of_qg_jobs(make_database: Callable[..., str]) -> None:
    with closing(Database(make_database(migrate=False))) as database:
        shut_out_public(database)
        with role_with(database, grants("Who migrates", 3)) as dsn:
            jobs.migrate(dsn)
            assert database.query("SELECT to_regclass('qg_jobs_tick') IS NOT NULL") == [(True,)]


def column_cases(rights: list[Right]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("version", "right", "column"),
        [
            pytest.param(version, right, column, id=f"{version}-{right.name}-{right.privilege}-{column}")
            for version in SOME_VERSIONS[:1]
            for right in rights
            for column in right.columns
        ],
    )


def on_columns(rights: list[Right], but: tuple[Right, str] | None = None) -> list[str]:
    """The grants for *rights*, on columns where there are any."""
    every = []
    for right in rights:
        columns = [each for each in right.columns if (right, each) != but]
        if columns or not right.columns:
            some = f" ({', '.join(columns)})" if columns else ""
            every.append(f"GRANT {right.privilege}{some} ON {right.name or 'SCHEMA public'} TO app")
    return every


@pytest.mark.parametrize("version", SOME_VERSIONS[:1])
def test_grants_on_columns_are_enough_for_qg_jobs(
    strict: Database, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, grants(WORKS, version) + on_columns(JobsTables("public").rights_to_work)) as dsn:
        work(dsn, strict, caplog)
    assert said(caplog, *EXPECTED) == []
    strict.query("TRUNCATE que_jobs RESTART IDENTITY")
    with role_with(strict, grants(ENQUEUES, version) + on_columns(JobsTables("public").rights_to_schedule)) as dsn:
        schedule(dsn, strict)


@column_cases(JobsTables("public").rights_to_work)
def test_working_with_qg_jobs_takes_each_of_the_columns_that_are_looked_at(
    strict: Database,
    version: int,
    right: Right,
    column: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Engine, "require_rights", lambda self, also=(): None)
    some = on_columns(JobsTables("public").rights_to_work, but=(right, column))
    with role_with(strict, grants(WORKS, version) + some) as dsn:
        assert fails(lambda: work(dsn, strict, caplog), caplog, *EXPECTED)


@column_cases(JobsTables("public").rights_to_schedule)
def test_scheduling_takes_each_of_the_columns_that_are_looked_at(
    strict: Database,
    version: int,
    right: Right,
    column: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qg.jobs.schedules.require_rights", lambda *_: None)
    some = on_columns(JobsTables("public").rights_to_schedule, but=(right, column))
    with role_with(strict, grants(ENQUEUES, version) + some) as dsn:
        assert fails(lambda: schedule(dsn, strict), caplog)
