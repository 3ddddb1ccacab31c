"""What is told of the tables of qg.jobs: attempts, schedules, pools; and where there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import pytest
from outside import Place
from psycopg2.extensions import make_dsn
from support import PATIENCE, eventually, needs, on_versions

import qg
from qg.control import Control

jobs = needs("qg.jobs")
old_and_new = on_versions(3, 7)


@dataclass(frozen=True)
class Greet:
    user: int


@pytest.fixture
def place(make_database: Callable[..., str], version: int) -> Iterator[Place]:
    with closing(Place(make_database(version=version), version)) as place:
        jobs.migrate(place.dsn)
        yield place


def work(place: Place, *users: int) -> list[int]:
    """Let qg.jobs work a job for each of *users*; for one below 0 it fails, and isn't tried again soon."""
    queue = jobs.PostgresJobs(place.dsn, queue="mail", poll_interval=0.05, pool_size=1, pool_name="here")

    def greet(ctx: jobs.Context, job: Greet) -> None:
        if job.user < 0:
            raise ValueError("no such user")

    queue.register_job_func(greet)
    ids = list(queue.enqueue([Greet(user) for user in users]))
    queue.schedule("@daily", Greet(0))
    queue.start()
    eventually(lambda: place.value("SELECT count(*) FROM qg_jobs_history") == len(users))
    with Control(place.dsn) as control:
        (pool,) = control.pools()
        assert (pool.name, pool.queue, pool.workers, pool.alive) == ("here", "mail", 1, True)
        assert pool.types == (f"{__name__}.Greet",)
        assert pool.silent_for < timedelta(minutes=1)
        assert "mail" in control.queues() or place.version > 3
    assert queue.shutdown(PATIENCE)
    return ids


@old_and_new
def test_a_job_has_its_attempts_even_when_it_is_done(place: Place) -> None:
    done, failed = work(place, 7, -1)
    with Control(place.dsn) as control:
        detail = control.job(done)
        assert detail.job is None
        assert detail.attempts is not None
        (attempt,) = detail.attempts
        assert (attempt.job_id, attempt.queue, attempt.success, attempt.error, attempt.run_count) == (
            done,
            "mail",
            True,
            None,
            0,
        )
        assert attempt.type == f"{__name__}.Greet"
        assert attempt.started_at <= attempt.finished_at
        assert attempt.args is not None
        assert '"user"' in attempt.args
        detail = control.job(failed)
        assert detail.job is not None
        assert detail.job.state.value == "failing"
        assert detail.attempts is not None
        assert detail.attempts[0].error is not None
        assert "ValueError: no such user" in detail.attempts[0].error
        with pytest.raises(qg.ErrUnknownJob):
            control.job(4711)


@old_and_new
def test_the_history_is_told_page_by_page_the_last_attempt_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = work(place, 1, -1, 2, -2, 3)
    with Control(place.dsn) as control:
        every, before = control.history()
        assert sorted(each.job_id for each in every) == ids
        assert [each.id for each in every] == sorted((each.id for each in every), reverse=True)
        assert before is None
        first, before = control.history(limit=2)
        assert before == first[-1].id
        rest, end = control.history(before=before)
        assert first + rest == every
        assert end is None
        assert {each.job_id for each in control.history(success=False)[0]} == {ids[1], ids[3]}
        assert control.history(type="another") == ([], None)
        assert len(control.history(type=f"{__name__}.Greet", queue="mail", success=True)[0]) == 3
        assert control.history(queue="other")[0] == []
        # So many are read at the most, and then it goes on.
        monkeypatch.setattr("qg.control.history._READ", 2)
        assert control.history(type="another") == ([], every[1].id)
        place.query("UPDATE qg_jobs_history SET args = NULL")
        assert control.history()[0][0].args is None


@old_and_new
def test_schedules_and_pools_that_have_left_are_told(place: Place) -> None:
    work(place, 1)
    with Control(place.dsn) as control:
        (schedule,) = control.schedules()
        assert (schedule.queue, schedule.spec, schedule.type) == ("mail", "@daily", f"{__name__}.Greet")
        assert schedule.last_tick_at is None
        assert schedule.next_tick_at > control.overview().at
        (pool,) = control.pools()
        assert (pool.workers, pool.alive) == (0, False)


def test_tables_in_another_schema_of_the_search_path_are_found(make_database: Callable[..., str]) -> None:
    with closing(Place(make_database(version=7), 7)) as place:
        place.query("CREATE SCHEMA other")
        elsewhere = make_dsn(place.dsn, options="-c search_path=other,public")
        jobs.migrate(elsewhere)
        with Control(place.dsn) as control, pytest.raises(qg.ErrTable):
            control.pools()
        with Control(elsewhere) as control:
            assert control.pools() == []
            jobs.migrate(place.dsn)  # those beside the jobs count first
            place.query("INSERT INTO qg_jobs_worker_pool VALUES ('a', 'mail', 1, '', '{}')")
            assert [each.name for each in control.pools()] == ["a"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"limit": 0}, "limit must be a number of attempts, 1 to 10000"),
        ({"before": "x"}, "is a number, not 'x'"),
        ({"type": 5}, "type must be a text"),
        ({"queue": 5}, "queue must be a string"),
        ({"success": "yes"}, "success must be True, False or None"),
    ],
    ids=str,
)
def test_the_history_refuses_what_makes_no_sense(place: Place, how: dict[str, object], message: str) -> None:
    with Control(place.dsn) as control, pytest.raises(qg.ErrInvalidOption, match=message):
        control.history(**how)  # type: ignore[arg-type]
