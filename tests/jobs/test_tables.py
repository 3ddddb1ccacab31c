"""The tables of qg.jobs: made once, kept small."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import psycopg2
import pytest
from planting import plant_in
from support import PATIENCE, Database, eventually
from ticking_process import Beat

import qg
from qg import jobs
from qg.jobs.drafts import Schedule
from qg.jobs.schedules import Schedules

TABLES = ["qg_jobs_history", "qg_jobs_schedule", "qg_jobs_tick", "qg_jobs_worker_pool"]


@dataclass(frozen=True)
class Note:
    fails: bool


@pytest.fixture
def fresh(make_database: Callable[..., str], database: Database) -> Iterator[Database]:
    with closing(Database(make_database())) as fresh:
        yield fresh


def tables(database: Database) -> list[str]:
    rows = database.query("SELECT relname FROM pg_class WHERE relname LIKE 'qg_jobs_%%' AND relkind = 'r' ORDER BY 1")
    return [name for (name,) in rows]


def test_migrate_creates_the_tables_and_may_be_run_again(fresh: Database):
    jobs.migrate(fresh.dsn)
    assert tables(fresh) == TABLES
    fresh.query("INSERT INTO qg_jobs_worker_pool VALUES ('x', '', 1, '', '{}')")
    jobs.migrate(fresh.dsn)
    assert fresh.value("SELECT count(*) FROM qg_jobs_worker_pool") == 1


def test_several_processes_may_migrate_at_once(fresh: Database):
    failures: list[BaseException] = []

    def migrate() -> None:
        try:
            jobs.migrate(fresh.dsn)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert tables(fresh) == TABLES


def test_without_its_tables_a_queue_says_what_to_run(fresh: Database):
    with pytest.raises(qg.ErrTable, match=r"no table qg_jobs_history .* qg\.jobs\.migrate\(source\)"):
        jobs.PostgresJobs(fresh.dsn)
    with closing(psycopg2.connect(fresh.dsn)):
        eventually(lambda: len(fresh.sessions()) == 1, "the end of the queue's sessions, all but ours")


def test_the_columns_are_those_of_the_design(jobs_database: Database):
    columns = {
        table: [
            name
            for (name,) in jobs_database.query(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
                (table,),
            )
        ]
        for table in TABLES
    }
    assert columns == {
        "qg_jobs_history": [
            *("id", "job_id", "job_type", "queue", "priority", "run_at", "args", "run_count", "run_error"),
            *("success", "started_at", "finished_at", "pruned_at"),
        ],
        "qg_jobs_worker_pool": ["id", "queue", "workers", "git_hash", "job_types", "created_at", "updated_at"],
        "qg_jobs_schedule": [
            *("id", "queue", "spec", "job_type", "args", "last_tick_at", "next_tick_at", "created_at", "updated_at"),
        ],
        "qg_jobs_tick": ["schedule", "tick_at", "job_id"],
    }


def fill_history(database: Database) -> None:
    """Attempts 1 to 10, the first of which ended nine hours ago and the last one just now."""
    database.query(
        "INSERT INTO qg_jobs_history (job_id, job_type, queue, priority, run_at, args, run_count, success, "
        "started_at, finished_at) SELECT n, 'Beat', '', 0, now(), '{\"jobData\": {}}', 0, true, now(), "
        "now() - (10 - n) * interval '1 hour' FROM generate_series(1, 10) AS n"
    )


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"older_than": timedelta(minutes=150)}, [8, 9, 10]),
        ({"keep": 4}, [7, 8, 9, 10]),
        ({"keep": 0}, []),
        ({"keep": 100}, list(range(1, 11))),
        ({"older_than": timedelta(minutes=270), "keep": 2}, [9, 10]),
        ({"older_than": timedelta(minutes=90), "keep": 5}, [9, 10]),
    ],
)
def test_prune_history_by_age_and_by_count(jobs_database: Database, limits: dict[str, object], left: list[int]):
    fill_history(jobs_database)
    for dry_run in (True, False):
        assert jobs.prune_history(jobs_database.dsn, dry_run=dry_run, **limits) == 10 - len(left)  # type: ignore[arg-type]
    assert [job for (job,) in jobs_database.query("SELECT job_id FROM qg_jobs_history ORDER BY id")] == left


def test_prune_history_can_take_the_payloads_only(jobs_database: Database):
    fill_history(jobs_database)
    assert jobs.prune_history(jobs_database.dsn, keep=3, payloads_only=True, dry_run=True) == 7
    for expected in (7, 0):
        assert jobs.prune_history(jobs_database.dsn, keep=3, payloads_only=True) == expected
    assert jobs_database.query(
        "SELECT count(*), count(args), count(pruned_at) FROM qg_jobs_history WHERE (args IS NULL) = (job_id <= 7)"
    ) == [(10, 3, 7)]


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"older_than": timedelta(minutes=90)}, [(1, 9), (1, 10), (2, 9), (2, 10)]),
        ({"keep": 1}, [(1, 10), (2, 10)]),
        ({"older_than": timedelta(minutes=90), "keep": 1}, [(1, 10), (2, 10)]),
    ],
)
def test_prune_ticks_by_age_and_by_count_of_each_schedule(
    jobs_database: Database, limits: dict[str, object], left: list[tuple[int, int]]
):
    jobs_database.query(
        "INSERT INTO qg_jobs_schedule (queue, spec, job_type, args, next_tick_at) "
        "SELECT '', n::text, 'Beat', '{}', now() FROM generate_series(1, 2) AS n"
    )
    jobs_database.query(
        "INSERT INTO qg_jobs_tick SELECT id, now() - (10 - n) * interval '1 hour', n "
        "FROM qg_jobs_schedule, generate_series(1, 10) AS n"
    )
    for dry_run in (True, False):
        assert jobs.prune_ticks(jobs_database.dsn, dry_run=dry_run, **limits) == 20 - len(left)  # type: ignore[arg-type]
    assert jobs_database.query("SELECT schedule, job_id FROM qg_jobs_tick ORDER BY 1, 2") == left


def test_a_tick_that_was_pruned_doesnt_fire_again(schedules: Schedules, jobs_database: Database):
    schedules.declare(Schedule.of("@every 1h", Beat()))
    jobs_database.query("UPDATE qg_jobs_schedule SET next_tick_at = now()")
    schedules.tick()
    assert jobs.prune_ticks(jobs_database.dsn, keep=0) == 1
    schedules.tick()
    assert jobs_database.count() == 1


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({}, "give older_than= or keep="),
        ({"keep": -1}, "keep must be"),
        ({"keep": True}, "keep must be"),
        ({"keep": "5"}, "keep must be"),
        ({"older_than": 60}, "older_than must be"),
        ({"older_than": timedelta(seconds=-1)}, "older_than must be"),
    ],
)
@pytest.mark.parametrize("prune", [jobs.prune_history, jobs.prune_ticks])
def test_pruning_needs_a_limit_that_makes_sense(
    jobs_database: Database, prune: Callable[..., int], limits: dict[str, object], why: str
):
    fill_history(jobs_database)
    with pytest.raises(qg.ErrInvalidOption, match=why):
        prune(jobs_database.dsn, **limits)
    assert jobs_database.value("SELECT count(*) FROM qg_jobs_history") == 10


def test_no_function_and_no_operator_that_others_have_planted_is_called(
    make_database: Callable[..., str], caplog: pytest.LogCaptureFixture
):
    dsn = make_database()
    planted = plant_in(dsn)
    jobs.migrate(planted)
    queue = jobs.PostgresJobs(planted, poll_interval=0.05, pool_size=1)
    done, failed = threading.Event(), threading.Event()

    @queue.register_job_func
    def note(ctx: jobs.Context, job: Note) -> None:
        (failed if job.fails else done).set()
        if job.fails:
            raise ValueError("no")

    queue.schedule("@every 1h", Note(False))
    with closing(Database(dsn)) as database:
        database.query("UPDATE qg_jobs_schedule SET next_tick_at = now() - interval '1 second'")
        queue.enqueue([Note(True), Note(False)])
        queue.start()
        eventually(lambda: database.value("SELECT count(*) FROM qg_jobs_history") >= 3)
        assert queue.shutdown(PATIENCE)
        assert done.is_set()
        assert failed.is_set()
        assert database.value("SELECT count(*) FROM qg_jobs_tick WHERE job_id IS NOT NULL") == 1
        assert database.value("SELECT count(*) FROM qg_jobs_worker_pool WHERE workers = 0") == 1
    assert jobs.prune_history(planted, keep=1, payloads_only=True) >= 2
    assert jobs.prune_history(planted, older_than=timedelta(0)) >= 3
    assert jobs.prune_ticks(planted, keep=0) == 1
    assert "called evil" not in caplog.text
