"""Spans and metrics: one trace from the enqueuer to the jobs of its jobs, on both kinds of queue."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import pytest
from opentelemetry import baggage, context, metrics, propagate, trace
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support import PATIENCE, Database, as_args, eventually

import qg
from qg import jobs
from qg.jobs.memory_store import MemoryStore

LONG = 3600.0
PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@dataclass(frozen=True)
class Greet:
    user_id: int = 0


@dataclass(frozen=True)
class Sweep:
    pass


GREET, SWEEP = f"{__name__}.Greet", f"{__name__}.Sweep"


class Telemetry:
    """Where spans and metrics go to be looked at."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self.tracer_provider.get_tracer("test")

    def spans(self, begin: str = "") -> list[ReadableSpan]:
        """The spans that have ended and whose names begin so, in the order of their beginnings."""
        found = [span for span in self._exporter.get_finished_spans() if span.name.startswith(begin)]
        return sorted(found, key=lambda span: span.start_time or 0)

    def runs(self, count: int) -> list[ReadableSpan]:
        """The spans of *count* attempts, once they have ended."""
        spans = eventually(lambda: self.spans("job: ")[count - 1 :] and self.spans("job: "), f"the end of {count} runs")
        assert len(spans) == count
        return list(spans)

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def counts(self, name: str) -> dict[tuple[Any, ...], int]:
        """What the counter *name* says, by job type and success."""
        return {(p.attributes["job_type"], p.attributes["success"]): p.value for p in self.points(name)}

    def metrics(self) -> dict[str, tuple[str, str]]:
        """Scope and unit of each metric."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: (scope.scope.name, metric.unit or "")
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def end(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.end()


@pytest.fixture(params=["postgres", "memory"])
def make(request: pytest.FixtureRequest, telemetry: Telemetry) -> Iterator[Callable[..., Any]]:
    """A function that returns a queue of each kind whose spans and metrics go to *telemetry*."""
    database = request.getfixturevalue("jobs_database") if request.param == "postgres" else None
    made: list[Any] = []
    clients: list[qg.Client] = []

    def make(**options: Any) -> Any:
        backoff = options.pop("backoff", lambda count: LONG)
        options = {
            "poll_interval": 0.02,
            "pool_size": 2,
            "tracer_provider": telemetry.tracer_provider,
            "meter_provider": telemetry.meter_provider,
            **options,
        }
        if database is None:
            made.append(jobs.MemoryQueue(backoff=backoff, **options))
        else:
            clients.append(qg.Client(database.dsn, backoff=backoff))
            made.append(jobs.PostgresJobs(clients[-1], **options))
        return made[-1]

    yield make
    for queue in made:
        assert queue.shutdown(PATIENCE)
    for client in clients:
        client.close()


@pytest.fixture
def queue(make: Callable[..., Any]) -> Any:
    return make()


def trace_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    assert parent.context is not None
    return (
        span.parent is not None and span.parent.span_id == parent.context.span_id and trace_id(span) == trace_id(parent)
    )


# Spans


def test_enqueue_is_a_span_below_the_callers(queue: Any, telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("request"):
        queue.enqueue(Greet(1))
    (enqueue,) = telemetry.spans("enqueue")
    (request,) = telemetry.spans("request")
    assert is_child(enqueue, request)
    assert enqueue.name == "enqueue"
    assert enqueue.kind is SpanKind.PRODUCER
    assert enqueue.status.status_code is not StatusCode.ERROR
    assert enqueue.instrumentation_scope is not None
    assert enqueue.instrumentation_scope.name == "qg.jobs"


@pytest.mark.parametrize(
    ("job", "options"), [(None, {}), ([], {}), (Greet(1), {"priority": 10**6})], ids=["None", "empty", "priority"]
)
def test_an_enqueue_that_fails_is_an_error_of_its_span(
    queue: Any, telemetry: Telemetry, job: Any, options: Any
) -> None:
    with pytest.raises(jobs.ErrEnqueueFailed):
        queue.enqueue(job, **options)
    (enqueue,) = telemetry.spans("enqueue")
    assert enqueue.status.status_code is StatusCode.ERROR
    assert [event.name for event in enqueue.events] == ["exception"]


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_the_run_is_a_child_of_its_enqueue(queue: Any, telemetry: Telemetry, many: bool) -> None:
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        pass

    queue.enqueue([Greet(1), Greet(2)] if many else Greet(1))
    for run in telemetry.runs(1 + many):
        assert is_child(run, telemetry.spans("enqueue")[0])
        assert run.parent is not None
        assert run.parent.is_remote
        assert run.kind is SpanKind.CONSUMER
        assert run.status.status_code is not StatusCode.ERROR
        assert run.instrumentation_scope is not None
        assert run.instrumentation_scope.name == "qg.jobs"


def test_the_runs_span_says_which_job_it_is(make: Callable[..., Any], telemetry: Telemetry) -> None:
    queue = make(queue="mail")

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        pass

    (job_id,) = queue.enqueue(Greet(1), priority=-7, run_at=PAST)
    (run,) = telemetry.runs(1)
    assert run.name == f"job: {GREET} run: 0"
    attributes = dict(run.attributes or {})
    assert datetime.fromisoformat(str(attributes.pop("run_at"))) == PAST
    assert attributes == {"job_id": str(job_id), "queue": "mail", "type": GREET, "priority": -7, "run_count": 0}


def test_each_attempt_is_a_span_of_the_same_trace(make: Callable[..., Any], telemetry: Telemetry) -> None:
    queue = make(backoff=lambda count: 0.01)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        if ctx.run_count < 2:
            raise ValueError("not yet")

    queue.enqueue(Greet(1))
    runs = telemetry.runs(3)
    (enqueue,) = telemetry.spans("enqueue")
    assert [run.name for run in runs] == [f"job: {GREET} run: {count}" for count in range(3)]
    assert [(run.attributes or {})["run_count"] for run in runs] == [0, 1, 2]
    assert all(is_child(run, enqueue) for run in runs)
    assert [run.status.status_code for run in runs] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]


def test_a_failure_is_an_error_and_an_event_of_the_span(queue: Any, telemetry: Telemetry) -> None:
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        raise ValueError("no wonder")

    queue.enqueue(Greet(1))
    (run,) = telemetry.runs(1)
    assert run.status.status_code is StatusCode.ERROR
    assert "no wonder" in (run.status.description or "")
    (event,) = run.events
    attributes = event.attributes or {}
    assert event.name == "exception"
    assert str(attributes["exception.type"]).endswith("ErrJobFuncFailed")
    assert "ValueError: no wonder" in str(attributes["exception.stacktrace"])


@pytest.mark.parametrize("verdict", [qg.Reschedule(after=3600), qg.Discard("obsolete")], ids=repr)
def test_a_verdict_is_no_error(queue: Any, telemetry: Telemetry, verdict: Exception) -> None:
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        raise verdict

    queue.enqueue(Greet(1))
    (run,) = telemetry.runs(1)
    assert run.status.status_code is not StatusCode.ERROR
    assert run.events == ()


def test_spans_begun_in_the_function_are_children_of_the_run(queue: Any, telemetry: Telemetry) -> None:
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        with telemetry.tracer.start_as_current_span("inner"):
            pass

    queue.enqueue(Greet(1))
    (run,) = telemetry.runs(1)
    (inner,) = telemetry.spans("inner")
    assert is_child(inner, run)


def test_spans_begun_in_a_coroutine_its_tasks_and_threads_are_children_of_the_run(
    queue: Any, telemetry: Telemetry
) -> None:
    def begin() -> None:
        with telemetry.tracer.start_as_current_span("inner"):
            pass

    async def begin_soon() -> None:
        await asyncio.sleep(0)
        begin()

    @queue.register_job_func
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        await begin_soon()
        await asyncio.gather(begin_soon(), asyncio.to_thread(begin))

    queue.enqueue(Greet(1))
    (run,) = telemetry.runs(1)
    assert [is_child(inner, run) for inner in telemetry.spans("inner")] == [True] * 3


def test_a_job_enqueued_in_a_function_goes_on_with_the_trace(queue: Any, telemetry: Telemetry) -> None:
    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        queue.enqueue(Greet(1))

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        pass

    with telemetry.tracer.start_as_current_span("request"):
        queue.enqueue(Sweep())
    telemetry.runs(2)
    request, first, sweep_run, second, greet_run = telemetry.spans()
    assert [first.name, second.name] == ["enqueue", "enqueue"]
    assert is_child(first, request)
    assert is_child(sweep_run, first)
    assert is_child(second, sweep_run)
    assert is_child(greet_run, second)


def test_jobs_of_two_requests_are_two_traces_even_on_one_worker(make: Callable[..., Any], telemetry: Telemetry) -> None:
    queue = make(pool_size=1)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        pass

    queue.enqueue(Greet(1))
    queue.enqueue(Greet(2))
    runs = telemetry.runs(2)
    enqueues = telemetry.spans("enqueue")
    assert [is_child(run, enqueue) for run, enqueue in zip(runs, enqueues, strict=True)] == [True, True]
    assert trace_id(runs[0]) != trace_id(runs[1])


def test_after_the_job_the_worker_is_in_no_span(make: Callable[..., Any], telemetry: Telemetry) -> None:
    seen: list[bool] = []

    def backoff(count: int) -> float:  # called by the worker, after the job
        seen.append(trace.get_current_span().get_span_context().is_valid or bool(baggage.get_all()))
        return LONG

    queue = make(backoff=backoff)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        context.attach(baggage.set_baggage("left", "behind"))
        raise ValueError("no")

    queue.enqueue(Greet(1))
    telemetry.runs(1)
    assert seen == [False]


def test_a_tick_begins_a_trace_of_its_own(queue: Any, telemetry: Telemetry) -> None:
    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        pass

    with telemetry.tracer.start_as_current_span("main"):
        queue.schedule("@every 1s", Sweep())
    eventually(lambda: telemetry.spans("job: "), "a tick")
    (main,) = telemetry.spans("main")
    assert trace_id(telemetry.spans("job: ")[0]) != trace_id(main)


# Baggage and carrier


def test_baggage_arrives_in_the_function_and_in_the_jobs_of_the_job(queue: Any, telemetry: Telemetry) -> None:
    seen: list[Any] = []

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        seen.append(dict(baggage.get_all()))
        queue.enqueue(Greet(1))

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(dict(baggage.get_all()))

    token = context.attach(baggage.set_baggage("tenant", "ä, b=c"))
    try:
        queue.enqueue(Sweep())
    finally:
        context.detach(token)
    telemetry.runs(2)
    assert seen == [{"tenant": "ä, b=c"}] * 2
    assert baggage.get_all() == {}


def test_without_baggage_and_trace_there_is_none_in_the_function(
    make: Callable[..., Any], telemetry: Telemetry
) -> None:
    queue = make(pool_size=1, tracer_provider=trace.NoOpTracerProvider())
    seen: list[Any] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append((dict(baggage.get_all()), trace.get_current_span().get_span_context().is_valid))

    token = context.attach(baggage.set_baggage("tenant", "one"))
    queue.enqueue(Greet(1))
    context.detach(token)
    queue.enqueue(Greet(2))
    eventually(lambda: len(seen) == 2, "both jobs")
    assert seen == [({"tenant": "one"}, False), ({}, False)]


@pytest.mark.parametrize("make", ["postgres"], indirect=True)
def test_the_carrier_is_stored_as_w3c_headers(
    make: Callable[..., Any], telemetry: Telemetry, jobs_database: Database
) -> None:
    queue = make()
    token = context.attach(baggage.set_baggage("tenant", "one"))
    try:
        queue.enqueue(Greet(1))
    finally:
        context.detach(token)
    (enqueue,) = telemetry.spans("enqueue")
    assert enqueue.context is not None
    payload = jobs_database.value("SELECT payload FROM jobs")
    assert payload["ctx"]["carrier"] == {
        "traceparent": f"00-{enqueue.context.trace_id:032x}-{enqueue.context.span_id:016x}"
        f"-{enqueue.context.trace_flags:02x}",
        "baggage": "tenant=one",
    }


@pytest.fixture
def _other_propagator() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([]))
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("_other_propagator")
def test_the_carrier_is_w3cs_whatever_the_program_is_set_to(queue: Any, telemetry: Telemetry) -> None:
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        pass

    queue.enqueue(Greet(1))
    (run,) = telemetry.runs(1)
    assert is_child(run, telemetry.spans("enqueue")[0])


def insert(database: Database, ctx: Any) -> None:
    """Put a Greet into the table as another program would."""
    payload = {"jobData": {"user_id": 7}, "jobStructPath": "x.Greet", "gitHashEnqueued": "abc", "ctx": ctx}
    database.query("INSERT INTO jobs (job_class, args) VALUES (%s, %s)", (GREET, json.dumps(as_args(payload))))


@pytest.fixture
def queue_in_postgres(jobs_database: Database, telemetry: Telemetry) -> Iterator[Any]:
    with jobs.PostgresJobs(
        jobs_database.dsn,
        poll_interval=0.02,
        pool_size=1,
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
    ) as queue:
        yield queue


def test_a_trace_that_another_program_began_is_gone_on_with(
    queue_in_postgres: Any, jobs_database: Database, telemetry: Telemetry
) -> None:
    @queue_in_postgres.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        pass

    carrier = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "go=1", "unknown": "header"}
    insert(jobs_database, {"userId": "u", "carrier": carrier})
    (run,) = telemetry.runs(1)
    assert run.parent is not None
    assert (f"{run.parent.trace_id:032x}", f"{run.parent.span_id:016x}") == (TRACE, SPAN)
    assert run.parent.trace_state == {"go": "1"}


@pytest.mark.parametrize(
    "carrier",
    [
        None,
        {},
        {"traceparent": ""},
        {"traceparent": "nonsense"},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "=,=", "baggage": ";;==,,%%%"},
        {"baggage": "a=" + "b" * 10_000},
        {"traceparent": 7},
        {"traceparent": ["00"]},
        {"baggage": {"nested": {"deep": 1}}},
        {"traceparent": None},
        [],
        "text",
        7,
    ],
    ids=lambda carrier: repr(carrier)[:40],
)
def test_a_malformed_carrier_costs_the_trace_and_not_the_job(
    queue_in_postgres: Any, jobs_database: Database, telemetry: Telemetry, carrier: Any
) -> None:
    seen: list[Any] = []

    @queue_in_postgres.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append((job, ctx.user_id))

    insert(jobs_database, {"userId": "u", "carrier": carrier})
    telemetry.runs(1)
    assert seen == [(Greet(7), "u")]


@pytest.mark.parametrize("ctx", [None, {}, {"userId": None}, {"userId": ""}], ids=repr)
def test_a_job_of_nobodys_context_runs_without_one(
    queue_in_postgres: Any, jobs_database: Database, telemetry: Telemetry, ctx: Any
) -> None:
    seen: list[Any] = []

    @queue_in_postgres.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append((job, ctx.user_id))

    insert(jobs_database, ctx)
    (run,) = telemetry.runs(1)
    assert run.parent is None
    assert seen == [(Greet(7), None)]


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ({"jobStructPath": "x"}, "jobData"),
        ({"jobData": {}, "jobStructPath": 7}, "jobStructPath"),
        ({"jobData": {}, "ctx": {"userId": 7}}, "userId"),
    ],
    ids=["jobData", "jobStructPath", "userId"],
)
def test_args_that_cant_be_read_fail_the_job_and_name_what_is_wrong(
    queue_in_postgres: Any, jobs_database: Database, telemetry: Telemetry, args: Any, name: str
) -> None:
    seen: list[Any] = []

    @queue_in_postgres.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job)

    jobs_database.query("INSERT INTO jobs (job_class, args) VALUES (%s, %s)", (GREET, json.dumps(as_args(args))))
    (run,) = telemetry.runs(1)
    if seen:  # it could be read after all
        assert name != "jobData"
    else:
        assert run.status.status_code is StatusCode.ERROR
        assert name in (run.status.description or "")


# A commit that fails


@pytest.fixture
def unique_at_commit(jobs_database: Database) -> Iterator[None]:
    jobs_database.query("CREATE TABLE greeted (user_id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    yield
    jobs_database.query("DROP TABLE greeted")


@pytest.mark.usefixtures("unique_at_commit")
def test_a_commit_that_fails_is_the_failure_of_the_run(
    queue_in_postgres: Any, jobs_database: Database, telemetry: Telemetry
) -> None:
    returned = threading.Event()

    @queue_in_postgres.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        with ctx.tx.cursor() as cur:
            cur.execute("INSERT INTO greeted VALUES (%s), (%s)", (job.user_id, job.user_id))
        returned.set()

    queue_in_postgres.enqueue(Greet(1))
    (run,) = telemetry.runs(1)
    assert returned.is_set()
    assert run.status.status_code is StatusCode.ERROR
    assert "greeted_user_id_key" in (run.status.description or "")
    assert [event.name for event in run.events] == ["exception"]
    eventually(lambda: telemetry.points("qg_worker_jobs_duration"), "the last metric")
    assert telemetry.counts("qg_worker_jobs_worked") == {(GREET, False): 1}
    assert [error_count for _, _, error_count, _ in jobs_database.jobs()] == [1]


# Telemetry that fails


class BrokenProcessor(SpanProcessor):
    """What raises where the span of a job begins, or where it ends."""

    def __init__(self, place: str) -> None:
        self._place = place

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._raise_in("on_start", span)

    def on_end(self, span: ReadableSpan) -> None:
        self._raise_in("on_end", span)

    def _raise_in(self, place: str, span: Any) -> None:
        if place == self._place and span.name.startswith("job: "):
            raise OSError("the collector is away")


@pytest.mark.parametrize("place", ["on_start", "on_end"])
def test_a_span_that_cant_be_begun_or_ended_costs_neither_the_job_nor_the_worker(
    request: pytest.FixtureRequest,
    make: Callable[..., Any],
    telemetry: Telemetry,
    caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:
    telemetry.tracer_provider.add_span_processor(BrokenProcessor(place))
    queue = make(pool_size=1)
    seen: list[int] = []

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job.user_id)

    queue.enqueue([Greet(1), Greet(2)])
    eventually(lambda: len(seen) >= 2, "both jobs")
    assert queue.shutdown(PATIENCE)
    assert seen == [1, 2]
    assert caplog.text.count("telemetry_failed type=test_telemetry.Greet") == 2
    assert "job_failed" not in caplog.text
    if isinstance(queue, jobs.PostgresJobs):
        database = request.getfixturevalue("jobs_database")
        assert database.query("SELECT job_id, success FROM qg_jobs_history ORDER BY id") == [(1, True), (2, True)]


# Metrics


def test_the_metrics_have_their_names_units_and_scope(queue: Any, telemetry: Telemetry) -> None:
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        pass

    queue.enqueue(Greet(1))
    telemetry.runs(1)
    eventually(lambda: telemetry.points("qg_worker_jobs_duration"), "the last metric")
    metrics = telemetry.metrics()
    assert {name: scope for name, (scope, _) in metrics.items()} == dict.fromkeys(
        ["qg_client_enqueue", "qg_client_lock_job", "qg_worker_jobs_worked", "qg_worker_jobs_duration"], "qg.jobs"
    )
    assert metrics["qg_worker_jobs_duration"][1] == "ms"


def test_enqueued_jobs_are_counted_by_type_and_success(
    queue: Any, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue([Greet(1), Sweep(), Greet(2)])
    queue.enqueue(Greet(3))
    with pytest.raises(jobs.ErrEnqueueFailed):
        queue.enqueue([Greet(4), Greet(5)], priority=10**6)

    def refuse(*arguments: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(qg.Client, "enqueue", refuse)
    monkeypatch.setattr(MemoryStore, "add", refuse)
    with pytest.raises(jobs.ErrEnqueueFailed, match="no room"):
        queue.enqueue(Sweep())
    assert telemetry.counts("qg_client_enqueue") == {
        (GREET, True): 3,
        (SWEEP, True): 1,
        (GREET, False): 2,
        (SWEEP, False): 1,
    }


def test_locked_and_worked_jobs_are_counted_by_type_and_success(make: Callable[..., Any], telemetry: Telemetry) -> None:
    queue = make(backoff=lambda count: 0.01)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        if ctx.run_count < job.user_id:
            raise ValueError("not yet")

    @queue.register_job_func
    def sweep(ctx: jobs.Context, job: Sweep) -> None:
        pass

    queue.enqueue([Greet(0), Greet(2), Sweep()])
    telemetry.runs(5)
    eventually(
        lambda: sum(point.count for point in telemetry.points("qg_worker_jobs_duration")) == 5, "the last metric"
    )
    assert telemetry.counts("qg_worker_jobs_worked") == {(GREET, True): 2, (GREET, False): 2, (SWEEP, True): 1}
    assert telemetry.counts("qg_client_lock_job") == {(GREET, True): 4, (SWEEP, True): 1}
    assert {p.attributes["job_type"]: p.count for p in telemetry.points("qg_worker_jobs_duration")} == {
        GREET: 4,
        SWEEP: 1,
    }


def test_durations_are_milliseconds(queue: Any, telemetry: Telemetry) -> None:
    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        threading.Event().wait(0.05)

    queue.enqueue(Greet(1))
    telemetry.runs(1)
    (point,) = eventually(lambda: telemetry.points("qg_worker_jobs_duration"), "the metric")
    assert dict(point.attributes) == {"job_type": GREET}
    assert 50 <= point.sum < 10_000


# Without an SDK


@pytest.mark.parametrize("kind", ["postgres", "memory"])
def test_without_providers_the_global_ones_are_used_which_do_nothing(
    request: pytest.FixtureRequest, kind: str, telemetry: Telemetry
) -> None:
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)
    assert not isinstance(metrics.get_meter_provider(), MeterProvider)
    options: Any = {"poll_interval": 0.02, "pool_size": 1}
    if kind == "postgres":
        queue: Any = jobs.PostgresJobs(request.getfixturevalue("jobs_database").dsn, **options)
    else:
        queue = jobs.MemoryQueue(**options)
    seen: list[Any] = []
    with queue:

        @queue.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            seen.append(trace.get_current_span().get_span_context())

        # A trace that the program has by itself passes through.
        with telemetry.tracer.start_as_current_span("request"):
            queue.enqueue(Greet(1))
        eventually(lambda: seen, "the job")
    (request_span,) = telemetry.spans()
    assert seen[0].trace_id == trace_id(request_span)


@pytest.mark.parametrize("kind", ["postgres", "memory"])
def test_providers_that_are_set_globally_later_are_used(
    request: pytest.FixtureRequest, kind: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.metrics import _internal as metrics_internal

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.tracer_provider)
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", telemetry.meter_provider)
    if kind == "postgres":
        queue: Any = jobs.PostgresJobs(request.getfixturevalue("jobs_database").dsn)
    else:
        queue = jobs.MemoryQueue()
    with queue:
        queue.enqueue(Greet(1))
    assert [span.name for span in telemetry.spans()] == ["enqueue"]
    assert telemetry.counts("qg_client_enqueue") == {(GREET, True): 1}
