"""The errors of jobs whose process has died: recorded under their locks, and only on jobs that are still to be done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import psycopg2
import pytest
from support import needs, on_versions

import qg
from qg.control import Control, State
from qg.supervisor.deaths import record_deaths
from qg.supervisor.running_jobs import RunningJob, RunningJobs
from qg.supervisor.seats import Seats
from qg.supervisor.settings import Settings
from qg.supervisor.tally import Tally
from qg.supervisor.targets import make_targets

NOW = time.monotonic()


@dataclass(frozen=True)
class Once:
    pass


def nothing(job: qg.Job) -> None: ...


@on_versions(3, 7)
def test_a_death_is_an_error_of_each_job_that_is_free_and_due(
    make_database: Callable[..., str], version: int, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = make_database(version=version)
    (target,) = make_targets({"Note": nothing}, Settings("app", dsn))
    tally = Tally(None, nothing)  # type: ignore[arg-type]
    with closing(target), qg.Client(dsn, maximum_retry_count=0) as other, Control(dsn) as control:
        ids = [other.enqueue(qg.Job("Note")).id for _ in range(4)]
        held = other.lock_job()
        assert held is not None
        failed = other.lock_job()
        assert failed is not None
        with failed:
            failed.error("before")  # and given up
        dead = [*(RunningJob(0, number, 0) for number in ids), RunningJob(0, 10**9, 0), RunningJob(1, ids[0], 0)]
        with caplog.at_level(logging.INFO):
            record_deaths(
                [target],
                [Seats(0, RunningJobs(), tally)],
                dead,
                "the process died: signal 9 (SIGKILL)",
                NOW,
            )
        held.done()
        jobs = {job.id: job for job in control.jobs().jobs}
        for number in ids[2:]:
            assert (jobs[number].error_count, jobs[number].last_error) == (1, "the process died: signal 9 (SIGKILL)")
            assert jobs[number].state is State.FAILING
        assert jobs[ids[0]].error_count == 0
        assert jobs[ids[1]].last_error == "before"
    lines = [record.getMessage() for record in caplog.records]
    for number in (*ids[:2], 10**9):
        assert f"death_unrecorded id={number}: somebody else has it by now, or has worked it" in lines
    assert tally.counts().jobs.total() == 2


def test_the_delay_and_the_last_retry_are_those_of_the_application(make_database: Callable[..., str]) -> None:
    dsn = make_database()
    with qg.Client(dsn, maximum_retry_count=0) as client, Control(dsn) as control:
        pool = qg.WorkerPool(client, {"Note": nothing}, 1)
        (target,) = make_targets(pool, Settings("app"))
        number = client.enqueue(qg.Job("Note")).id
        assert number is not None
        seats = Seats(0, RunningJobs(), Tally(None, nothing))  # type: ignore[arg-type]
        record_deaths([target], [seats], [RunningJob(0, number, 0)], "the process died: exit status 3", NOW)
        job = control.job(number).job
        assert job is not None
        assert job.state is State.EXPIRED


def test_the_retry_policy_is_that_of_the_handler(make_database: Callable[..., str]) -> None:
    """Of a function of qg.jobs, too."""
    jobs = needs("qg.jobs")
    dsn = make_database()
    jobs.migrate(dsn)
    never = qg.retry(maximum_retry_count=0)
    heard: list[tuple[int | None, str, bool]] = []

    def note(job: qg.Job, error: BaseException, will_retry: bool) -> None:
        heard.append((job.id, str(error), will_retry))

    tally = Tally(None, nothing)  # type: ignore[arg-type]
    with (
        qg.Client(dsn) as client,
        Control(dsn) as control,
        jobs.PostgresJobs(client, poll_interval=60, on_error=note) as queue,
    ):

        @queue.register_job_func(retry=never)
        def once(ctx: jobs.Context, job: Once) -> None: ...

        pool = qg.WorkerPool(client, {"Once": never(lambda job: None)}, 1, on_error=note)
        targets = [make_targets(each, Settings("app"))[0] for each in (pool, queue)]
        ids = [client.enqueue(qg.Job("Once")).id, *queue.enqueue(Once())]
        dead = [RunningJob(place, number, 0) for place, number in enumerate(ids)]
        record_deaths(
            targets,
            [Seats(place, RunningJobs(), tally) for place in (0, 1)],
            dead,
            "the process died",
            NOW,
        )
        for number in ids:
            job = control.job(number).job
            assert job is not None
            assert job.state is State.EXPIRED
    assert heard == [(number, "the process died", False) for number in ids]
    assert {outcome for _, _, outcome in tally.counts().jobs} == {"expired"}


def test_a_session_that_the_server_hasn_t_missed_yet_is_ended(
    make_database: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """A process that dies in the midst of a long statement leaves its session behind, which has the lock."""
    dsn = make_database()
    with qg.Client(dsn) as client, qg.Client(dsn) as gone, Control(dsn) as control:
        pool = qg.WorkerPool(client, {"Note": nothing}, 1)
        (target,) = make_targets(pool, Settings("app"))
        number = client.enqueue(qg.Job("Note")).id
        held = gone.lock_job()
        assert number is not None
        assert held is not None
        seats = Seats(0, RunningJobs(), Tally(None, nothing))  # type: ignore[arg-type]
        backend = held.conn.info.backend_pid
        now = time.monotonic()
        for dead, at in (
            (RunningJob(0, number, backend + 1), now),
            (RunningJob(0, number, backend), now - 3600),  # a worker that lives has had the session since then
            (RunningJob(0, number, backend, 1), now),
        ):
            record_deaths([target], [seats], [dead], "the process died: signal 9 (SIGKILL)", at)
            assert "job_failed" not in caplog.text
        for _ in range(2):  # of two processes that died of it, say
            record_deaths([target], [seats], [RunningJob(0, number, backend)], "the process died: signal 9", now)
        job = control.job(number).job
        assert job is not None
        assert (job.error_count, job.state) == (1, State.FAILING)
        with pytest.raises(psycopg2.Error):
            held.conn.cursor().execute("SELECT 1")
        held.done()


def test_what_can_t_be_recorded_of_one_job_is_logged_and_the_others_are_recorded(
    make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = make_database()
    (target,) = make_targets({"Note": nothing}, Settings("app", dsn))

    def refuse_first(job: qg.Job) -> None:
        if job.id == ids[0]:
            raise ValueError("no policy")

    monkeypatch.setattr(target, "follow", refuse_first)
    with closing(target), qg.Client(dsn, backoff=lambda error_count: 0.0) as client, Control(dsn) as control:
        ids = [client.enqueue(qg.Job("Note")).id for _ in range(2)]
        seats = Seats(0, RunningJobs(), Tally(None, nothing))  # type: ignore[arg-type]
        dead = [RunningJob(0, number, 0) for number in ids if number is not None]
        record_deaths([target], [seats], dead, "the process died: signal 9", NOW)
        jobs = {job.id: job.error_count for job in control.jobs().jobs}
    assert jobs == {ids[0]: 0, ids[1]: 1}
    assert f"death_unrecorded id={ids[0]}: no policy" in caplog.text
    assert seats.seats == []
