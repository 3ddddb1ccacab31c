"""Cron specs: when a schedule ticks. The calendar is cronsim's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from qg.jobs.errors import ErrScheduleFailed

__all__ = ["Cron", "parse_spec"]

_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_RANGES = ("0-59", "0-23", "1-31", "1-12", "0-6")
_NAMES = (
    "",
    "",
    "",
    "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC",
    "SUN|MON|TUE|WED|THU|FRI|SAT",
)

_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_UNIT = r"(\d+\.?\d*|\.\d+)(h|ms|m|s|us|µs|ns)"
_LONGEST = timedelta(days=366 * 100)


@dataclass(frozen=True)
class Cron:
    """When a schedule ticks.

    Attributes:
        spec: as it was given, single spaces between its fields.
        after: from the tick that fired last (or the present, for a new schedule) and the present to
            the first tick later than the present; aware datetimes.
    """

    spec: str
    after: Callable[[datetime, datetime], datetime]


def parse_spec(spec: str) -> Cron:
    """Return what *spec* means.

    Args:
        spec: five cron fields with ``* ? , - /`` and English names of months and weekdays, in which 0
            and 7 are Sunday; or ``@yearly``, ``@annually``, ``@monthly``, ``@weekly``, ``@daily``,
            ``@midnight``, ``@hourly``; or ``@every`` and a Go duration of 1 s or more (``1h30m``).
            ``CRON_TZ=Europe/Berlin`` in front names a time zone, otherwise it is UTC's. Where day of
            month and day of week are both restricted, one of them is enough.

    Raises:
        ErrScheduleFailed: if it means nothing, or a date that never comes.
    """
    if not isinstance(spec, str):
        raise ErrScheduleFailed(f"a schedule's spec must be a string, not {type(spec).__name__}")
    words = spec.split()
    spec = " ".join(words)
    zone: tzinfo = timezone.utc
    if words and words[0].startswith("CRON_TZ="):
        zone = _zone(spec, words.pop(0).removeprefix("CRON_TZ="))
    if len(words) == 2 and words[0] == "@every":
        return Cron(spec, _every(_duration(spec, words[1])))
    fields = _SHORTHANDS.get(words[0], words[0]).split() if len(words) == 1 else words
    if len(fields) != len(_FIELDS):
        raise ErrScheduleFailed(
            f"the spec {spec!r} has {len(fields)} fields instead of five (minute hour day-of-month month day-of-week) "
            "and is none of the @ words"
        )
    expression = " ".join(_field(spec, number, text) for number, text in enumerate(fields))
    return Cron(spec, _calendar(spec, expression, zone))


def _every(interval: timedelta) -> Callable[[datetime, datetime], datetime]:
    def after(tick: datetime, now: datetime) -> datetime:
        missed = (now - tick) // interval
        return tick + (max(missed, 0) + 1) * interval

    return after


def _calendar(spec: str, expression: str, zone: tzinfo) -> Callable[[datetime, datetime], datetime]:
    def after(tick: datetime, now: datetime) -> datetime:
        # A clock that was put back doesn't repeat ticks.
        return next(CronSim(expression, max(tick, now).astimezone(zone))).astimezone(timezone.utc)

    try:
        after(datetime(2000, 1, 1, tzinfo=timezone.utc), datetime(2000, 1, 1, tzinfo=timezone.utc))
    except CronSimError as error:
        raise ErrScheduleFailed(f"the spec {spec!r} can't be: {str(error).lower()}") from error
    except StopIteration:
        raise ErrScheduleFailed(f"the spec {spec!r} means a date that never comes") from None
    return after


def _field(spec: str, number: int, text: str) -> str:
    """Return a field as cronsim takes it to mean what it says here."""
    return ",".join(_term(spec, number, term) for term in text.upper().split(","))


def _term(spec: str, number: int, term: str) -> str:
    value = rf"(?:\d+|{_NAMES[number]})" if _NAMES[number] else r"\d+"
    found = re.fullmatch(rf"(?P<any>[*?])(?:/(?P<every>\d+))?|(?P<start>{value})(?:-{value})?(?:/\d+)?", term)
    if found is None:
        raise ErrScheduleFailed(f"the spec {spec!r} has {term!r} for {_FIELDS[number]}, which means nothing")
    if found["every"]:
        # Cronsim takes a day field that begins with * for unrestricted, as Debian does; */2 restricts.
        return f"{_RANGES[number]}/{found['every']}"
    if found["any"]:
        return "*"
    if _FIELDS[number] == "day of week" and "/" in term and "-" not in term:
        # Sunday is 0 and 7, but a walk from Monday ends on Saturday.
        return term.replace("/", "-6/").replace("7-6", "0-6")
    return term


def _zone(spec: str, name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ErrScheduleFailed(f"the spec {spec!r} names a time zone {name!r} that isn't known") from error


def _duration(spec: str, text: str) -> timedelta:
    if not re.fullmatch(rf"(?:{_UNIT})+", text):
        raise ErrScheduleFailed(f"the spec {spec!r} needs a duration like 1h30m or 90s, not {text!r}")
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(_UNIT, text))
    if not 1 <= seconds <= _LONGEST.total_seconds():
        raise ErrScheduleFailed(f"the spec {spec!r} is out of range; give 1 s or more, and at most a hundred years")
    return timedelta(seconds=seconds)
