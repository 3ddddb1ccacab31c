"""What becomes of a failure: text that every Que, and every database, can take, and the time of a retry."""

from __future__ import annotations

import logging
import math
import re
import traceback
from typing import Any, TypeAlias

import psycopg2
from psycopg2.extensions import connection

from qg.backoff import MAX_SECONDS, Backoff, que_delay

__all__ = [
    "UNPRINTABLE",
    "Logger",
    "PlainFailure",
    "class_name",
    "describe",
    "first_line",
    "headline",
    "one_line",
    "printable",
    "seconds_until_retry",
    "storable",
]

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"

# As many characters as Ruby Que's tables keep of each from version 4 on.
_MAX_MESSAGE = 500
_MAX_TRACEBACK = 10_000

# What ends a line somewhere, or does something to the terminal that shows it: control characters, U+2028 and U+2029,
# marks that turn the direction of writing, and lone surrogates, which no log file holds.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class PlainFailure(Exception):  # noqa: N818 - the text in last_error is all there is to it
    """A failure without a traceback worth keeping: its message is what gets recorded."""


def describe(error: BaseException) -> str:
    """Return ``Class: message`` on one line of at most 500 characters, and the traceback below it.

    Of a long traceback the end is kept, where the error was raised. The form is Ruby Que's.
    """
    if isinstance(error, PlainFailure):
        return str(error)
    return f"{headline(error)}\n{_trace(error)[-_MAX_TRACEBACK:]}"


def headline(error: BaseException) -> str:
    """Return the first line of describe(): ``Class: message``, or a plain failure's message."""
    try:
        message = str(error)
    except Exception as broken:  # the handler's own class; whatever it does, the job has failed
        message = f"<its str() raised {type(broken).__name__}>"
    text = message if isinstance(error, PlainFailure) else f"{class_name(error)}: {message}"
    return text.replace("\n", " ")[:_MAX_MESSAGE]


def class_name(error: BaseException) -> str:
    """Return the name of the class of *error*, with its module unless that is Python's own."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def first_line(last_error: str | None) -> str:
    """Return the first line of what was recorded as a job's error."""
    return (last_error or "").split("\n", 1)[0]


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
    except Exception as broken:  # again the handler's own class
        return f"<its traceback can't be written: formatting it raised {type(broken).__name__}>"


def one_line(error: BaseException) -> str:
    """Return the message of *error* on one line, for a log or a sentence; psycopg2's have several.

    Of the server's errors the message alone: the rest quotes the statement, and values in it.
    """
    primary = error.diag.message_primary if isinstance(error, psycopg2.Error) else None
    return printable(" ".join((primary or str(error)).split()))


def printable(text: object) -> str:
    """Return *text* for a log line, which it can't end and no terminal obeys: control characters are escaped.

    Types, queues and the words of an error come from whoever can enqueue. Each of them that is logged
    passes through here.
    """
    text = str(text)
    return text if text.isprintable() else UNPRINTABLE.sub(_escape, text)


def _escape(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode("ascii")


def seconds_until_retry(backoff: Backoff, error_count: int, logger: Logger) -> float:
    """Return *backoff* for *error_count*, cut to what a timestamp can bear.

    A backoff function that fails is no reason to lose the error: Que's own stands in for it.
    """
    try:
        seconds = float(backoff(error_count))
        if math.isnan(seconds):
            raise ValueError("the delay is not a number")
    except Exception:
        logger.exception("backoff_failed error_count=%d; using Que's delay instead", error_count)
        seconds = que_delay(error_count)
    return min(max(seconds, 0.0), float(MAX_SECONDS))


def storable(text: str, conn: connection) -> str:
    """Return *text* as *conn*'s database can store it.

    NUL and lone surrogates, which no PostgreSQL text holds, become U+FFFD and ``?``; where the
    database or the connection isn't UTF-8, all that isn't ASCII is written as an escape.
    """
    text = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if conn.encoding == "UTF8" and conn.info.parameter_status("server_encoding") == "UTF8":
        return text
    return text.encode("ascii", "backslashreplace").decode("ascii")
