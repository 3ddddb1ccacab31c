"""Schedules of PostgresJobs: each tick once, whatever processes do and however many there are."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support import Database, eventually
from ticking_process import Beat, Crowd

from qg import jobs
from qg.jobs.drafts import Schedule
from qg.jobs.schedules import Schedules
from qg.jobs.telemetry import Telemetry
from qg.tables import Statement

MakeQueue = Callable[..., jobs.PostgresJobs]
MakeSchedules = Callable[..., Schedules]


class Processes:
    """Python processes that fire schedules."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.all: list[subprocess.Popen[str]] = []

    def start(self, spec: str, fault: str = "") -> subprocess.Popen[str]:
        program = Path(__file__).with_name("ticking_process.py")
        self.all.append(
            subprocess.Popen([sys.executable, program, self._dsn, spec, fault], stdout=subprocess.PIPE, text=True)
        )
        return self.all[-1]

    def kill(self) -> None:
        for each in self.all:
            each.kill()
        while self.all:
            self.all.pop().communicate()


@pytest.fixture
def make_queue(make_queue: MakeQueue) -> MakeQueue:
    """Makes queues that look at their schedules only when a test says so, or starts them."""
    return partial(make_queue, poll_interval=60.0)


@pytest.fixture
def processes(jobs_database: Database) -> Iterator[Processes]:
    processes = Processes(jobs_database.dsn)
    yield processes
    processes.kill()


def says(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def ticks(database: Database) -> list[tuple[datetime, int]]:
    return database.query("SELECT tick_at, job_id FROM qg_jobs_tick ORDER BY tick_at")  # type: ignore[return-value]


def make_due(database: Database, by: str = "0 seconds") -> datetime:
    """Let every schedule be due since *by*, at a whole second, and return when that was."""
    due: datetime = database.query(
        "UPDATE qg_jobs_schedule SET next_tick_at = date_trunc('second', now()) - %s::interval RETURNING next_tick_at",
        (by,),
    )[0][0]
    return due


def test_ten_processes_enqueue_each_tick_once_while_one_is_killed_every_second(
    processes: Processes, jobs_database: Database
):
    chance = random.Random(7)
    for _ in range(10):
        processes.start("@every 1s")
    eventually(lambda: ticks(jobs_database))
    for _ in range(8):
        time.sleep(1)  # not to wait for anything: this is the rate at which they die
        chance.choice([each for each in processes.all if each.poll() is None]).kill()
        processes.start("@every 1s")
    processes.kill()
    fired = ticks(jobs_database)
    assert len(fired) >= 8
    times = [tick for tick, _ in fired]
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {timedelta(seconds=1)}
    enqueued = jobs_database.query("SELECT job_id, run_at FROM jobs ORDER BY run_at")
    assert [job for _, job in fired] == [job for job, _ in enqueued]
    assert all(tick <= run_at for tick, (_, run_at) in zip(times, enqueued, strict=True))


def test_a_process_killed_between_tick_and_commit_leaves_the_tick_to_another(
    processes: Processes, schedules: Schedules, jobs_database: Database
):
    schedules.declare(Schedule.of("@every 1h", Beat()))
    due = make_due(jobs_database)
    holder = processes.start("@every 1h", "hold")
    says(holder, "holding")
    schedules.declare(Schedule.of("@every 1h", Beat()))  # to declare it doesn't wait for the one who fires it
    assert schedules.tick() == 0.5
    assert ticks(jobs_database) == []
    holder.kill()
    eventually(lambda: schedules.tick() and ticks(jobs_database))
    assert ticks(jobs_database) == [(due, jobs_database.jobs()[0][0])]
    assert jobs_database.count() == 1


def test_a_process_frozen_in_the_middle_of_a_tick_doesnt_stop_the_others(
    processes: Processes, schedules: Schedules, jobs_database: Database
):
    schedules.declare(Schedule.of("@every 1h", Beat()))
    due = make_due(jobs_database)
    frozen = processes.start("@every 1h", "freeze")
    says(frozen, "holding")
    frozen.send_signal(signal.SIGSTOP)
    eventually(lambda: schedules.tick() and ticks(jobs_database))
    assert [tick for tick, _ in ticks(jobs_database)] == [due]
    assert jobs_database.count() == 1


def test_the_clock_that_counts_is_the_databases(processes: Processes, jobs_database: Database):
    processes.start("@every 1s", "shift")
    eventually(lambda: len(ticks(jobs_database)) >= 2)
    now = jobs_database.value("SELECT now()")
    assert all(now - timedelta(seconds=10) < tick <= now for tick, _ in ticks(jobs_database))


def test_two_that_find_the_same_tick_due_enqueue_it_once(make_schedules: MakeSchedules, jobs_database: Database):
    first, second = make_schedules(), make_schedules()
    for each in (first, second):
        each.declare(Schedule.of("0 0 1 1 *", Beat()))
    due = make_due(jobs_database)
    with closing(jobs_database.connect()) as conn, conn.cursor() as cur:
        cur.execute("SELECT FROM qg_jobs_schedule FOR UPDATE")
        assert first.tick() == 0.5  # it doesn't wait for whoever has the row
        assert ticks(jobs_database) == []
        conn.rollback()
    first.tick()
    second.tick()
    assert [tick for tick, _ in ticks(jobs_database)] == [due]
    assert jobs_database.count() == 1


def test_a_tick_that_is_on_record_isnt_enqueued_again_but_passed_over(schedules: Schedules, jobs_database: Database):
    schedules.declare(Schedule.of("@every 1h", Beat()))
    due = make_due(jobs_database)
    jobs_database.query("INSERT INTO qg_jobs_tick SELECT id, next_tick_at FROM qg_jobs_schedule")
    schedules.tick()
    assert jobs_database.count() == 0
    assert jobs_database.query("SELECT last_tick_at, next_tick_at FROM qg_jobs_schedule") == [
        (due, due + timedelta(hours=1))
    ]


def test_missed_ticks_come_to_one_and_the_next_is_where_it_would_have_been(
    schedules: Schedules, jobs_database: Database
):
    schedules.declare(Schedule.of("@every 2h", Beat()))
    due = make_due(jobs_database, "5 hours")
    wait = schedules.tick()
    assert wait == 30.0  # it looks at what somebody may have changed
    assert [tick for tick, _ in ticks(jobs_database)] == [due]
    assert jobs_database.query("SELECT next_tick_at FROM qg_jobs_schedule") == [(due + timedelta(hours=6),)]
    assert jobs_database.count() == 1


def test_a_schedule_survives_restarts(make_schedules: MakeSchedules, jobs_database: Database):
    make_schedules().declare(Schedule.of("@every 2h", Beat()))
    jobs_database.query("UPDATE qg_jobs_schedule SET next_tick_at = now() + interval '7 minutes'")
    before = jobs_database.value("SELECT next_tick_at FROM qg_jobs_schedule")
    another = make_schedules()
    another.declare(Schedule.of("@every 2h", Beat()))
    another.tick()
    assert jobs_database.query("SELECT next_tick_at FROM qg_jobs_schedule") == [(before,)]
    assert jobs_database.count() == 0


def test_a_new_schedule_ticks_one_interval_after_it_was_declared(queue: jobs.PostgresJobs, jobs_database: Database):
    queue.schedule("@every 90s", Beat())
    ((spec, job_type, args, seconds),) = jobs_database.query(
        "SELECT spec, job_type, args, extract(epoch FROM next_tick_at - created_at)::float8 FROM qg_jobs_schedule"
    )
    assert (spec, job_type, args) == ("@every 90s", "ticking_process.Beat", {})
    assert 89 <= seconds <= 90


def test_a_cron_spec_ticks_when_its_calendar_says(queue: jobs.PostgresJobs, jobs_database: Database):
    queue.schedule("CRON_TZ=Asia/Tokyo 30 5 * * *", Beat())
    following = jobs_database.value("SELECT next_tick_at FROM qg_jobs_schedule").astimezone(timezone.utc)
    assert (following.hour, following.minute, following.second) == (20, 30, 0)


def test_only_what_a_live_process_declares_fires(make_schedules: MakeSchedules, jobs_database: Database):
    make_schedules().declare(Schedule.of("@every 1h", Beat()))
    jobs_database.query("UPDATE qg_jobs_schedule SET spec = '@every 2h'")  # as if a version before had declared it
    schedules = make_schedules()
    schedules.declare(Schedule.of("@every 1h", Beat()))
    make_due(jobs_database)
    schedules.tick()
    assert jobs_database.query(
        "SELECT spec FROM qg_jobs_tick JOIN qg_jobs_schedule ON schedule = qg_jobs_schedule.id"
    ) == [("@every 1h",)]


def test_another_queue_has_schedules_of_its_own(make_schedules: MakeSchedules, jobs_database: Database):
    for name in ("mail", "reports"):
        schedules = make_schedules(queue=name)
        schedules.declare(Schedule.of("@every 1h", Beat()))
        make_due(jobs_database)
        schedules.tick()
    assert jobs_database.query("SELECT queue FROM que_jobs ORDER BY queue") == [("mail",), ("reports",)]


def test_a_schedule_whose_row_somebody_removed_is_declared_again(schedules: Schedules, jobs_database: Database):
    schedules.declare(Schedule.of("@every 1h", Beat()))
    jobs_database.query("DELETE FROM qg_jobs_schedule")
    schedules.tick()
    assert jobs_database.value("SELECT count(*) FROM qg_jobs_schedule") == 1
    make_due(jobs_database)
    schedules.tick()
    assert len(ticks(jobs_database)) == 1


def test_what_is_scheduled_twice_or_written_with_other_spaces_is_one_schedule(
    queue: jobs.PostgresJobs, jobs_database: Database
):
    queue.schedule("0 0 * * *", Beat())
    queue.schedule(" 0  0 * * * ", Beat())
    assert jobs_database.value("SELECT count(*) FROM qg_jobs_schedule") == 1


def test_ticks_are_worked_by_whoever_has_the_function(make_queue: MakeQueue, jobs_database: Database):
    clock, worker = make_queue(), make_queue(poll_interval=0.05)
    clock.schedule("@every 1s", Beat())
    clock.start()
    seen: list[jobs.Context] = []

    @worker.register_job_func
    def beat(ctx: jobs.Context, job: Beat) -> None:
        seen.append(ctx)

    worker.start()
    eventually(lambda: len(seen) >= 2)
    assert seen[0].user_id is None


def test_a_database_that_is_away_is_waited_for(
    make_queue: MakeQueue, network: Any, jobs_database: Database, caplog: pytest.LogCaptureFixture
):
    queue = make_queue(network.dsn)
    queue.schedule("@every 1s", Beat())
    network.cut()
    queue.start()
    eventually(lambda: "tick_failed OperationalError" in caplog.text)
    assert ticks(jobs_database) == []
    network.open()
    eventually(lambda: ticks(jobs_database))
    assert caplog.text.count("tick_failed") == 1


def test_a_schedule_whose_job_cant_be_enqueued_doesnt_keep_others_from_firing(
    schedules: Schedules, jobs_database: Database
):
    for hours in (1, 2, 3):
        schedules.declare(Schedule.of(f"@every {hours}h", Beat()))
    make_due(jobs_database)
    jobs_database.query("ALTER TABLE qg_jobs_tick ADD CONSTRAINT no CHECK (schedule <> 1)")
    try:
        with pytest.raises(psycopg2.errors.CheckViolation):
            schedules.tick()
    finally:
        jobs_database.query("ALTER TABLE qg_jobs_tick DROP CONSTRAINT no")
    assert jobs_database.count() == 2
    assert schedules.tick() == 30.0
    assert jobs_database.count() == 3


def test_a_payload_with_a_set_is_one_schedule_in_every_process(
    processes: Processes, queue: jobs.PostgresJobs, jobs_database: Database
):
    queue.schedule("@every 1h", Crowd())
    make_due(jobs_database)
    for _ in range(3):
        processes.start("@every 1h", "crowd")
    eventually(lambda: ticks(jobs_database))
    eventually(lambda: len(jobs_database.sessions()) >= 3)
    assert jobs_database.value("SELECT count(*) FROM qg_jobs_schedule") == 1
    assert jobs_database.count() == 1


def test_a_schedule_that_couldnt_be_declared_again_isnt_forgotten(
    schedules: Schedules, jobs_database: Database, monkeypatch: pytest.MonkeyPatch
):
    schedules.declare(Schedule.of("@every 1h", Beat()))
    jobs_database.query("DELETE FROM qg_jobs_schedule")
    with monkeypatch.context() as patch:
        patch.setattr(schedules._tables, "insert_schedule", Statement("SELECT 1 / 0"))
        with pytest.raises(psycopg2.Error):
            schedules.tick()
    schedules.tick()
    make_due(jobs_database)
    schedules.tick()
    assert jobs_database.count() == 1


def test_a_schedule_that_somebody_put_off_for_ever_stops_no_other(schedules: Schedules, jobs_database: Database):
    schedules.declare(Schedule.of("@every 1h", Beat()))
    jobs_database.query("UPDATE qg_jobs_schedule SET next_tick_at = 'infinity'")
    schedules.declare(Schedule.of("@every 2h", Beat()))
    jobs_database.query("UPDATE qg_jobs_schedule SET next_tick_at = now() WHERE spec = '@every 2h'")
    assert schedules.tick() == 30.0
    assert jobs_database.count() == 1


def test_ticks_are_counted_and_traced_like_any_enqueuing(make_schedules: MakeSchedules, jobs_database: Database):
    spans, metrics = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    schedules = make_schedules(telemetry=Telemetry(MeterProvider([metrics]), provider))
    schedules.declare(Schedule.of("@every 1h", Beat()))
    make_due(jobs_database)
    schedules.tick()
    (span,) = spans.get_finished_spans()
    carrier = jobs_database.value("SELECT payload #>> '{ctx,carrier,traceparent}' FROM jobs")
    assert span.name == "enqueue"
    assert f"{span.context.span_id:016x}" in carrier
    assert '"qg_client_enqueue"' in metrics.get_metrics_data().to_json()  # type: ignore[union-attr]


def test_a_schedule_that_cant_be_recorded_fails_with_the_cause(make_queue: MakeQueue, network: Any):
    queue = make_queue(network.dsn)
    network.cut()
    with pytest.raises(jobs.ErrScheduleFailed, match="the schedule '@every 1s' wasn't recorded") as caught:
        queue.schedule("@every 1s", Beat())
    assert isinstance(caught.value.__cause__, psycopg2.OperationalError)
    network.open()
