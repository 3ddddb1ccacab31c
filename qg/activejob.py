"""What Rails' ActiveJob wraps in a Que job, for Python: its class, its id and its arguments.

A Rails application that works with Que through ActiveJob stores every job under one type,
:data:`WRAPPER`, with the class that is meant inside the args. A handler of that type dispatches::

    from qg import activejob

    def charge(order, *, currency):
        ...  # order.model is "Order", order.id "42"

    PERFORM = {"ChargeJob": charge}

    def perform(job):
        task = activejob.parse(job)
        PERFORM[task.job_class](*task.arguments, **task.kwargs)

    worker = qg.Worker(client, {activejob.WRAPPER: perform}, queue="python")

Give such jobs a queue of their own (``queue_as :python``): qg and Ruby take any job of the queues
they work, and a class that only the other one knows would fail.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote_plus

from qg.errors import ErrInvalidJob
from qg.job import Job
from qg.tables import WRAPPER

__all__ = ["WRAPPER", "ActiveJob", "GlobalID", "Serialized", "Symbol", "parse"]

T = TypeVar("T")


def parse(job: Job) -> ActiveJob:
    """Return what ActiveJob stored in *job*, a job of the type :data:`WRAPPER`. Touches no database.

    In the arguments, at any depth, JSON's own values stay as they are, and what ActiveJob marks becomes:

    - a record's GlobalID: a :class:`GlobalID`;
    - a Ruby symbol: a :class:`Symbol`;
    - a hash: a dict without the markers. Its keys are plain strings, whether Ruby's were symbols or not;
    - a Date: a date; a Time, DateTime or TimeWithZone: an aware datetime at the offset that was
      written, its fraction cut to microseconds; a BigDecimal: a Decimal. (Up to Rails 7.0 a
      BigDecimal is but a string.)
    - all else, as a Duration, a Range, a class or what the application has a serializer of its own
      for, and what those Python types can't hold, as a Date in the year 12000: a :class:`Serialized`.

    Raises:
        ErrInvalidJob: if the job isn't of that type, or its args aren't as ActiveJob writes them.
    """
    if job.type != WRAPPER:
        raise ErrInvalidJob(f"{job!r} is no job of ActiveJob; parse() takes only those of the type {WRAPPER!r}")
    try:
        return _active_job(job.args)
    except _Malformed as error:
        raise ErrInvalidJob(f"{job!r} isn't as ActiveJob writes it: {error}; enqueue it through ActiveJob") from None


@dataclass(frozen=True)
class ActiveJob:
    """A job of ActiveJob. What the version of Rails that enqueued it doesn't write is None.

    Attributes:
        job_class: the Ruby class whose ``perform`` is meant.
        job_id: ActiveJob's own id, a UUID; the same in every retry. Not the id in que_jobs.
        arguments: the positional arguments.
        kwargs: the keyword arguments. Rails before 6.0.3, or Ruby before 2.7, doesn't tell them
            from a hash that comes last; there they are the last of *arguments*.
        queue_name: the queue that ActiveJob chose.
        priority: the priority that ActiveJob chose.
        executions: how often ActiveJob itself had run it before, by its ``retry_on``.
        locale: I18n's locale where it was enqueued, like "en".
        timezone: Rails' time zone there, like "Europe/Paris".
        enqueued_at: when it was enqueued, an aware datetime.
        scheduled_at: when it was meant to run, if not at once; an aware datetime.
    """

    job_class: str
    job_id: str
    # Not in the repr: they may hold what must not get into a log.
    arguments: list[Any] = field(default_factory=list, repr=False)
    kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    queue_name: str | None = None
    priority: int | None = None
    executions: int | None = None
    locale: str | None = None
    timezone: str | None = None
    enqueued_at: datetime | None = None
    scheduled_at: datetime | None = None


@dataclass(frozen=True)
class GlobalID:
    """A reference to a record of a Rails application.

    Attributes:
        uri: as it is written, ``gid://app/Model/id?params``.
        app: the application's name.
        model: the record's class, like "Admin::User".
        id: the record's id, unescaped; a tuple where the primary key is composite.
        params: what the application added to it, unescaped.
    """

    uri: str
    app: str
    model: str
    id: str | tuple[str, ...]
    params: dict[str, str] = field(default_factory=dict, hash=False)


class Symbol(str):
    """A Ruby symbol: a string that shows itself as ``:name``."""

    def __repr__(self) -> str:
        return f":{self}"


@dataclass(frozen=True)
class Serialized:
    """A Ruby value without an exact counterpart in Python.

    Attributes:
        serializer: the Ruby class that wrote it, like "ActiveJob::Serializers::DurationSerializer".
        fields: what it wrote, read like arguments.
    """

    serializer: str
    fields: dict[str, Any] = field(default_factory=dict)


class _Malformed(Exception):
    """Says what is wrong with a job's args, without a value of theirs."""


def _active_job(args: Any) -> ActiveJob:
    match args:
        # Que stores an array; on a version-3 table other clients may have stored the object alone.
        case [dict() as data] | (dict() as data):
            pass
        case _:
            raise _Malformed("its args aren't one object")
    match _required(data, "arguments", list):
        case [*positional, {"_aj_ruby2_keywords": _} as keywords]:
            pass
        case positional:
            keywords = {}
    return ActiveJob(
        job_class=_required(data, "job_class", str),
        job_id=_required(data, "job_id", str),
        arguments=[_value(argument) for argument in positional],
        kwargs=_hash(keywords),
        queue_name=_optional(data, "queue_name", str),
        priority=_optional(data, "priority", int),
        executions=_optional(data, "executions", int),
        locale=_optional(data, "locale", str),
        timezone=_optional(data, "timezone", str),
        enqueued_at=_optional_time(data, "enqueued_at"),
        scheduled_at=_optional_time(data, "scheduled_at"),
    )


def _required(data: dict[str, Any], key: str, kind: type[T]) -> T:
    value = _optional(data, key, kind)
    if value is None:
        raise _Malformed(f"it has no {key!r}")
    return value


def _optional(data: dict[str, Any], key: str, kind: type[T]) -> T | None:
    value = data.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise _Malformed(f"its {key!r} is of type {type(value).__name__}, not {kind.__name__}")


def _optional_time(data: dict[str, Any], key: str) -> datetime | None:
    text = _optional(data, key, str)
    try:
        return None if text is None else _time(text)
    except ValueError:
        raise _Malformed(f"its {key!r} is no time with a zone in ISO 8601") from None


def _value(value: Any) -> Any:
    match value:
        case {"_aj_globalid": uri} if len(value) == 1:
            return _global_id(uri)
        case {"_aj_serialized": serializer, **fields}:
            return _serialized(serializer, fields)
        case dict():
            return _hash(value)
        case list():
            return [_value(each) for each in value]
        case _:
            return value


# What a hash had symbols for keys for, who may be asked by either kind, and what was keywords.
_HASH_MARKERS = {"_aj_symbol_keys", "_aj_hash_with_indifferent_access", "_aj_ruby2_keywords"}


def _hash(value: dict[Any, Any]) -> dict[str, Any]:
    return {key: _value(each) for key, each in value.items() if key not in _HASH_MARKERS}


_GLOBAL_ID = re.compile(r"gid://([^/?#]+)/([^/?#]+)/([^?#]+)(?:\?([^#]*))?")


def _global_id(uri: Any) -> GlobalID:
    match = _GLOBAL_ID.fullmatch(uri) if isinstance(uri, str) else None
    if match is None or not (ids := tuple(unquote_plus(part) for part in match[3].split("/") if part)):
        raise _Malformed("a GlobalID in its arguments isn't of the form gid://app/Model/id")
    params = dict(parse_qsl(match[4] or "", keep_blank_values=True))
    return GlobalID(uri, app=match[1], model=match[2], id=ids[0] if len(ids) == 1 else ids, params=params)


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


def _time(text: str) -> datetime:
    """Read a time as Ruby writes it, with up to nine decimals; Python 3.10 reads but three or six.

    Raises:
        ValueError: if it is none, or beyond what a datetime holds.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("no time with a zone in ISO 8601")
    fraction, zone = (match[2] or "")[:6], match[3].replace("Z", "+00:00")
    return datetime.fromisoformat(f"{match[1]}.{fraction:0<6}{zone}")


# From the name of the serializer to what reads its "value", with a ValueError or ArithmeticError if it can't.
_COUNTERPARTS: dict[str, Callable[[str], Any]] = {
    "ActiveJob::Serializers::SymbolSerializer": Symbol,
    "ActiveJob::Serializers::DateSerializer": date.fromisoformat,
    "ActiveJob::Serializers::TimeSerializer": _time,
    "ActiveJob::Serializers::DateTimeSerializer": _time,
    "ActiveJob::Serializers::TimeWithZoneSerializer": _time,
    "ActiveJob::Serializers::BigDecimalSerializer": Decimal,
}


def _serialized(serializer: Any, fields: dict[Any, Any]) -> Any:
    if not isinstance(serializer, str):
        raise _Malformed("a serialized value in its arguments doesn't name its serializer")
    counterpart, value = _COUNTERPARTS.get(serializer), fields.get("value")
    if counterpart is not None and isinstance(value, str):
        with suppress(ValueError, ArithmeticError):  # the caller gets it unread instead
            return counterpart(value)
    return Serialized(serializer, _hash(fields))
