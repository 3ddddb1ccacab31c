"""Cron specs: when a schedule ticks. The calendar is cronsim's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import NamedTuple
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

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: list[str]

    def number(self, text: str) -> int | None:
        """Return the number that *text* is or names; None if it is out of range."""
        if text in self.names:
            return self.first + self.names.index(text)
        number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
        # Sunday is 0 and 7.
        return number if self.first <= number <= self.last or (self.names is _WEEKDAYS and number == 7) else None


_FIELDS = (
    _Field("minute", 0, 59, []),
    _Field("hour", 0, 23, []),
    _Field("day-of-month", 1, 31, []),
    _Field("month", 1, 12, _MONTHS),
    _Field("day-of-week", 0, 6, _WEEKDAYS),
)

_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_UNIT = r"([0-9]+\.?[0-9]*|\.[0-9]+)(h|ms|m|s|us|µs|ns)"
_LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)
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
    expression = [_meant(spec, field, text.upper()) for field, text in zip(_FIELDS, fields, strict=True)]
    return Cron(spec, _calendar(spec, _without_impossible_day(expression), zone))


def _every(interval: timedelta) -> Callable[[datetime, datetime], datetime]:
    def after(tick: datetime, now: datetime) -> datetime:
        missed = (now - tick) // interval
        return tick + (max(missed, 0) + 1) * interval

    return after


def _calendar(spec: str, expression: str, zone: tzinfo) -> Callable[[datetime, datetime], datetime]:
    def after(tick: datetime, now: datetime) -> datetime:
        # A clock that is put back repeats no tick. In the night in which the hour from two to three
        # comes twice, cronsim has only the first 2:30, so it may begin with one that is not after *last*.
        last = max(tick, now)
        ticks = (each.astimezone(timezone.utc) for each in CronSim(expression, last.astimezone(zone)))
        return next(each for each in ticks if each > last)

    try:
        after(_LONG_AGO, _LONG_AGO)
    except CronSimError as error:
        raise ErrScheduleFailed(f"the spec {spec!r} can't be: {str(error).lower()}") from error
    except StopIteration:
        raise ErrScheduleFailed(f"the spec {spec!r} means a date that never comes") from None
    return after


def _meant(spec: str, field: _Field, text: str) -> str:
    """Return what *text* means for *field*, as cronsim writes it."""
    terms = [_term(spec, field, term) for term in text.split(",")]
    return "*" if "*" in terms else ",".join(terms)


def _term(spec: str, field: _Field, term: str) -> str:
    found = re.fullmatch(r"(?:[*?]|([0-9A-Z]+)(?:-([0-9A-Z]+))?)(?:/([0-9]{1,9}))?", term)
    start, end, step = found.groups() if found else ("", "", "")
    first = field.first if start is None else field.number(start)
    if end is not None:
        last = field.number(end)
    elif start is None or step is not None:
        last = field.last
        first = 0 if (first, last) == (7, 6) else first  # Sunday
    else:
        last = first
    if first is None or last is None or first > last or step == "0" * len(step or "-"):
        raise ErrScheduleFailed(f"the spec {spec!r} has {term!r} for the {field.name}, which means nothing")
    if start is None and int(step or 1) == 1:
        return "*"
    # To cronsim a range of one value with a step has no end, and a day that begins with * is any day,
    # as in Debian's cron. */2 doesn't mean any day. So both are written in another way.
    if first == last:
        return str(first)
    return f"{first}-{last}/{int(step or 1)}"


def _without_impossible_day(expression: list[str]) -> str:
    """Return *expression* as one string.

    A day of month that never comes is left out where the day of week is enough: cronsim before 2.8
    refuses such a day.
    """
    minute, hour, day, month, weekday = expression
    if weekday != "*" and day != "*" and min(int(each) for each in re.findall(r"(?:^|,)([0-9]+)", day)) > 29:
        try:
            CronSim(f"0 0 {day} {month} *", _LONG_AGO)
        except CronSimError:
            day = "*"
    return f"{minute} {hour} {day} {month} {weekday}"


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
