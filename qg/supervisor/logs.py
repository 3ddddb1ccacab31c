"""Logs: a line for each record, as text or as JSON, with the job that it is about."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from contextvars import ContextVar
from typing import Any

from qg.failures import class_name, one_line, printable
from qg.working.handlers import running_here
from qg.working.runner import Runner

__all__ = ["AboutJob", "formatter_of", "set_up_logs", "write_failure"]


class AboutJob:
    """The job that a record is about, and, at its end, how it went. As a block: what is logged there is about it."""

    __slots__ = ("_token", "error", "id", "queue", "seconds", "trace_id", "type")

    def __init__(
        self,
        id: int | None,  # noqa: A002 - it has no other name anywhere
        type: str,  # noqa: A002 - nor has that
        queue: str,
        seconds: float | None = None,
        error: BaseException | None = None,
        trace_id: str | None = None,
    ) -> None:
        self.id = id
        self.type = type
        self.queue = queue
        self.seconds = seconds
        self.error = error
        self.trace_id = trace_id

    def __enter__(self) -> None:
        self._token = _about.set(self)

    def __exit__(self, *exception: object) -> None:
        _about.reset(self._token)


_about: ContextVar[AboutJob | None] = ContextVar("qg_log_about", default=None)


def set_up_logs(log_format: str) -> None:
    """Log to standard error from INFO on, as "text" or "json", unless the application sets something else up later."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter_of(log_format))
    root = logging.getLogger()
    for each in list(root.handlers):
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)


def formatter_of(log_format: str) -> logging.Formatter:
    """Return what writes records as "text" or "json"."""
    return _JSON() if log_format == "json" else _Text()


def write_failure(log_format: str, error: BaseException, *, with_place: bool) -> None:
    """Write why nothing can be worked to standard error, however the application has set up its logging.

    Args:
        log_format: "text" or "json".
        error: the reason.
        with_place: whether its traceback is shown, too.
    """
    if log_format == "json":
        trace = (type(error), error, error.__traceback__) if with_place else None
        record = logging.LogRecord("qg", logging.ERROR, __file__, 0, "unworkable: %s", (one_line(error),), trace)
        sys.stderr.write(f"{formatter_of(log_format).format(record)}\n")
    elif with_place:
        traceback.print_exception(type(error), error, error.__traceback__)
    else:
        sys.stderr.write(f"Error: {one_line(error)}\n")


class _Text(logging.Formatter):
    """Time, level, and the message, in which nothing ends the line or is obeyed by a terminal; a traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_iso_time(record)} {record.levelname} {printable(record.getMessage())}"
        trace = _trace(self, record)
        if trace:
            line += "\n" + "\n".join(printable(each) for each in trace.splitlines())
        return line


class _JSON(logging.Formatter):
    """An object a line: time, level, event, message, logger; and about a job its id, type, queue, and how it went."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        fields: dict[str, Any] = {
            "time": _iso_time(record),
            "level": record.levelname.lower(),
            "event": _event(record),
            "message": message,
            "logger": record.name,
            "process": record.process,
            "thread": record.threadName,
        }
        fields.update(_job_fields())
        if (trace := _trace(self, record)) is not None:
            fields["traceback"] = trace
        # In ASCII, which also escapes whatever could end a line or be obeyed by a terminal.
        return json.dumps(fields)


def _iso_time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _event(record: logging.LogRecord) -> str:
    """Return the first word of what qg logs, which says what has happened; "log" for what others log."""
    if record.name != "qg" and not record.name.startswith("qg."):
        return "log"
    return str(record.msg).split(" ", 1)[0].rstrip(":;,")


def _job_fields() -> dict[str, Any]:
    fields = _about.get()
    if fields is None:
        runner = running_here.get()
        job = runner.job if isinstance(runner, Runner) else None
        if job is None:
            return {}
        fields = AboutJob(job.id, job.type, job.queue, trace_id=_current_trace_id())
    named: dict[str, Any] = {"job_id": fields.id, "job_type": fields.type, "queue": fields.queue}
    if fields.seconds is not None:
        named["seconds"] = round(fields.seconds, 6)
    if fields.error is not None:
        named["error"] = class_name(fields.error)
    if fields.trace_id is not None:
        named["trace_id"] = fields.trace_id
    return named


def _current_trace_id() -> str | None:
    """Return the id of OpenTelemetry's current trace, in a program that uses it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts) or None
