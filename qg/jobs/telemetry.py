"""Spans and metrics, through OpenTelemetry's API; a program without its SDK records none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context as otel
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    get_tracer_provider,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qg.failures import Logger, printable
from qg.job import Job
from qg.jobs.envelope import PersistencePayload
from qg.verdicts import Discard, Reschedule

__all__ = ["JobSpan", "Telemetry", "carrier"]

_SCOPE = "qg.jobs"

# Other programs read the carrier, so its form is W3C's, whatever propagator this program has set.
_propagator = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


def carrier() -> dict[str, str]:
    """Return the current trace and baggage as W3C's headers."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers


class Telemetry:
    """The spans and metrics of one queue.

    Args:
        meter_provider: where metrics go; None means the global one.
        tracer_provider: where spans go; None means the global one.
    """

    def __init__(self, meter_provider: MeterProvider | None, tracer_provider: TracerProvider | None) -> None:
        meter = (meter_provider or get_meter_provider()).get_meter(_SCOPE)
        self.tracer = (tracer_provider or get_tracer_provider()).get_tracer(_SCOPE)
        self.enqueued = meter.create_counter("qg_client_enqueue", description="Jobs enqueued")
        self.locked = meter.create_counter("qg_client_lock_job", description="Jobs locked")
        self.worked = meter.create_counter("qg_worker_jobs_worked", description="Jobs worked, well or badly")
        self.duration = meter.create_histogram(
            "qg_worker_jobs_duration", unit="ms", description="From the lock of a job to the end of the attempt"
        )

    def enqueuing(self) -> AbstractContextManager[Span]:
        """Return a span to be the current one while jobs are enqueued."""
        return self.tracer.start_as_current_span("enqueue", kind=SpanKind.PRODUCER)

    def count_enqueued(self, job_types: list[str], *, success: bool) -> None:
        """Count jobs that were enqueued, or that could not be."""
        for job_type, count in Counter(job_types).items():
            self.enqueued.add(count, {"job_type": job_type, "success": success})


class JobSpan:
    """The span and the metrics of one attempt at *job*.

    The span is the child of the one whose headers are in the *envelope* of the job. It ends when the attempt is
    settled, so a commit that fails is its failure. Telemetry that raises is logged and costs the job
    nothing.
    """

    def __init__(self, telemetry: Telemetry, job: Job, envelope: PersistencePayload | None, logger: Logger) -> None:
        self._telemetry = telemetry
        self._logger = logger
        self._job_type = job.type
        self._began = time.monotonic()
        self._span: Span = INVALID_SPAN
        self._context = otel.get_current()
        try:
            self._begin(job, envelope.ctx.carrier if envelope else {})
        except Exception:  # of somebody's span processor
            self._logger.exception("telemetry_failed type=%s", printable(self._job_type))

    def _begin(self, job: Job, headers: Mapping[str, str]) -> None:
        self._telemetry.locked.add(1, {"job_type": job.type, "success": True})
        self._context = _propagator.extract(headers) if headers else otel.Context()
        self._span = self._telemetry.tracer.start_span(
            f"job: {job.type} run: {job.error_count}",
            self._context,
            SpanKind.CONSUMER,
            {
                "job_id": str(job.id),
                "queue": job.queue,
                "type": job.type,
                "priority": job.priority,
                "run_count": job.error_count,
                "run_at": job.run_at.isoformat() if job.run_at else "",
            },
        )
        self._context = set_span_in_context(self._span, self._context)

    @property
    def trace_id(self) -> str | None:
        """The id of the trace, in hexadecimal; None where there is none."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the span, and the enqueuer's baggage, the current ones within the block."""
        token = otel.attach(self._context)
        try:
            yield
        finally:
            otel.detach(token)

    def end(self, error: BaseException | None) -> None:
        """End the span, with *error* if the attempt failed, and count it."""
        try:
            self._end(error)
        except Exception:  # of somebody's span processor
            self._logger.exception("telemetry_failed type=%s", printable(self._job_type))

    def _end(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, (Reschedule, Discard)):
            self._span.record_exception(error)
            self._span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
        self._span.end()
        milliseconds = (time.monotonic() - self._began) * 1000
        self._telemetry.worked.add(1, {"job_type": self._job_type, "success": error is None})
        self._telemetry.duration.record(milliseconds, {"job_type": self._job_type})
