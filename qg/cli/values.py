"""Kinds of values that options take: durations, times, values in a job's args."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import click

__all__ = ["ARGUMENT", "DURATION", "TIME"]

_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LONGEST = timedelta(days=36_500)


class _Duration(click.ParamType):  # type: ignore[type-arg]
    """30s, 5m, 1h30m, 7d, 2w; more than nothing."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        parts = re.findall(r"(\d{1,6}(?:\.\d{1,3})?)([wdhms])", value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is no duration; write it like 30s, 5m, 1h30m, 7d or 2w", param, ctx)
        duration = sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta())
        if not duration:
            self.fail(f"{value!r} is no time at all", param, ctx)
        if duration > _LONGEST:
            self.fail(f"{value!r} is longer than a hundred years", param, ctx)
        return duration


class _Time(click.ParamType):  # type: ignore[type-arg]
    """2026-12-24T18:00, with a time zone or in the local one."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))
            return time if time.utcoffset() is not None else time.astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write it like 2026-12-24T18:00 or 2026-12-24T18:00+01:00", param, ctx)


class _Argument(click.ParamType):  # type: ignore[type-arg]
    """path=value: 0=7, 0.user_id=7, 0.name=Ada, 0.deleted=null."""

    name = "path=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        path, separator, wanted = value.partition("=")
        if not separator or not path:
            self.fail(f"{value!r} doesn't say what is where; write it like 0=7 or 0.user_id=7", param, ctx)
        if wanted == "null" or wanted.startswith('"'):
            try:
                return path, json.loads(wanted)
            except ValueError:
                self.fail(f"{wanted!r} is no JSON string", param, ctx)
        # Numbers and booleans are compared as they are written, so that none loses digits here.
        return path, wanted


DURATION, TIME, ARGUMENT = _Duration(), _Time(), _Argument()
