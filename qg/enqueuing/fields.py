"""A job's fields on their way into the table and back: checked, encoded, decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Protocol

from qg.errors import ErrInvalidJob, ErrInvalidOption, ErrMissingType
from qg.tables import Draft, iso_text

__all__ = ["OneArgument", "check_queue", "decode", "draft_of"]


@dataclass(frozen=True)
class OneArgument:
    """Args that are one argument, and no list of them, whatever the table wants."""

    document: Any


class _Fields(Protocol):
    type: str
    args: Any
    queue: str
    priority: int
    run_at: datetime | None
    kwargs: dict[str, Any]
    tags: Sequence[str]


def draft_of(job: _Fields) -> Draft:
    """Return *job* as far as it is the same for every version of the table.

    Raises:
        ErrMissingType: if there is no type.
        ErrInvalidJob: if a field can't be stored; says which, why, and what to do instead.
    """
    if job.type is None or job.type == "":
        raise ErrMissingType("a job needs a type; name the handler that is to work it, as in Job('SendMail')")
    _check_text("type", job.type)
    _check_text("queue", job.queue)
    return Draft(
        job.queue,
        _priority(job),
        _run_at(job),
        job.type,
        _encode_args(job),
        _encode_kwargs(job),
        _encode_tags(job),
        one_argument=isinstance(job.args, OneArgument),
    )


def check_queue(queue: str) -> str:
    """Return *queue* if it is a name that a queue can have.

    Raises:
        ErrInvalidOption: if it is no string, or none that PostgreSQL can hold.
    """
    try:
        _check_text("queue", queue)
    except ErrInvalidJob as error:
        raise ErrInvalidOption(str(error)) from None
    return queue


def decode(text: str) -> Any:
    """Return the JSON document *text* as Python values.

    Raises:
        ValueError: if Python can't parse it (a number of over 4300 digits).
        RecursionError: if it is nested more deeply than Python goes.
    """
    return _decode(text)


_decode = json.JSONDecoder().decode


def _check_text(field: str, value: object) -> None:
    if not isinstance(value, str):
        raise ErrInvalidJob(f"a job's {field} must be a string, not {type(value).__name__}")
    if "\x00" in value:
        raise ErrInvalidJob(f"a job's {field} can't hold a NUL character, which PostgreSQL refuses: {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ErrInvalidJob(f"a job's {field} must be valid Unicode, without lone surrogates: {value!r}") from None


def _priority(job: _Fields) -> int:
    priority = job.priority
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise ErrInvalidJob(f"a job's priority must be an integer, not {type(priority).__name__}")
    if not -32768 <= priority <= 32767:
        raise ErrInvalidJob(f"priority {priority} is out of range; it must lie between -32768 and 32767")
    return priority


def _run_at(job: _Fields) -> str | None:
    if job.run_at is None:
        return None
    if not isinstance(job.run_at, datetime):
        raise ErrInvalidJob(f"a job's run_at must be a datetime or None, not {type(job.run_at).__name__}")
    if job.run_at.utcoffset() is None:
        raise ErrInvalidJob(
            f"run_at {job.run_at.isoformat()} has no time zone; make it aware, as in datetime.now(timezone.utc)"
        )
    return iso_text(job.run_at)


_encode = json.JSONEncoder(allow_nan=False).encode


def _encode_args(job: _Fields) -> str:
    if isinstance(job.args, bytes):
        return _jsonable(job, "args", job.args, _checked_document)
    value = job.args.document if isinstance(job.args, OneArgument) else job.args
    return _jsonable(job, "args", value, _document)


def _encode_kwargs(job: _Fields) -> str:
    if not job.kwargs:
        return "{}"
    if not isinstance(job.kwargs, dict):
        raise ErrInvalidJob(f"the kwargs of a {job.type!r} job must be a dict, not {type(job.kwargs).__name__}")
    return _jsonable(job, "kwargs", job.kwargs, _document)


def _encode_tags(job: _Fields) -> str:
    if not job.tags:
        return "[]"
    if not isinstance(job.tags, (list, tuple)):
        raise ErrInvalidJob(f"the tags of a {job.type!r} job must be a list of strings, not {type(job.tags).__name__}")
    for tag in job.tags:
        _check_text("tag", tag)
    return _encode(job.tags)


def _jsonable(job: _Fields, field: str, value: Any, encode: Callable[[Any], str]) -> str:
    try:
        return encode(value)
    except RecursionError:
        raise ErrInvalidJob(f"the {field} of a {job.type!r} job are nested too deeply for JSON") from None
    except (TypeError, ValueError) as error:
        raise ErrInvalidJob(
            f"the {field} of a {job.type!r} job aren't JSON: {error}; "
            "use dicts with string keys, lists, strings, finite numbers, booleans and None"
        ) from error


def _document(value: Any) -> str:
    text = _encode(value)
    _check_keys(value)  # afterwards, since the encoder has refused what holds itself
    return text


def _checked_document(raw: bytes) -> str:
    text = raw.decode("utf-8")
    # Numbers stay text here: whether they are too long for Python is no question of JSON.
    json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _check_keys(value: object) -> None:
    # json.dumps turns a key 1 into "1", so that what comes back is not what went in.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)
