"""Lines of the log: what is escaped in them, and which trace they belong to."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass

import pytest
from support import Database, eventually, needs

from qg.supervisor.logs import formatter_of
from qg.supervisor.running_jobs import RunningJobs
from qg.supervisor.seats import Seats
from qg.supervisor.tally import Tally

jobs = needs("qg.jobs")
TracerProvider = needs("opentelemetry.sdk.trace").TracerProvider


@dataclass(frozen=True)
class Hello:
    pass


class Log:
    def __init__(self, log_format: str) -> None:
        self.stream = io.StringIO()
        self.logger = logging.Logger("qg")
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(formatter_of(log_format))
        self.logger.addHandler(handler)

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture(params=["text", "json"])
def log(request: pytest.FixtureRequest) -> Log:
    return Log(request.param)


def test_nothing_that_somebody_else_has_written_ends_a_line_or_is_obeyed_by_a_terminal(log: Log) -> None:
    try:
        raise ValueError("a\x1b[2J\u2028b\r\nERROR forged")
    except ValueError:
        log.logger.exception("job_failed type=%s", "a\nb\x85\ud800")
    first, *trace = log.text.rstrip("\n").split("\n")
    assert "job_failed type=a" in first
    assert all(line.isprintable() for line in [first, *trace])
    assert not any(line.startswith("ERROR") for line in trace) or "json" not in first
    assert len(log.text.splitlines()) == len([first, *trace])


def test_the_lines_about_a_job_of_a_traced_program_name_the_trace(jobs_tables: Database) -> None:
    log, provider, running = Log("json"), TracerProvider(), RunningJobs()
    queue = jobs.PostgresJobs(
        jobs_tables.dsn, poll_interval=0.05, pool_size=1, tracer_provider=provider, logger=log.logger
    )
    queue.oversight = Seats(0, running, Tally(None, lambda: None))

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Hello) -> None:
        ctx.logger.info("greeting")

    with queue, provider.get_tracer("test").start_as_current_span("request") as span:
        (number,) = queue.enqueue(Hello())
        queue.start()
        eventually(lambda: "job_worked" in log.text)
    trace_id = f"{span.get_span_context().trace_id:032x}"
    lines = {line["event"]: line for line in map(json.loads, log.text.splitlines())}
    for event in ("greeting", "job_worked"):
        assert (lines[event]["job_id"], lines[event]["trace_id"]) == (number, trace_id), event
    assert running.read() == []
