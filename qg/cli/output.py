"""Standard output: tables for people, JSON for programs, names alone where that is all that is wanted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any

import click

from qg.control import Count
from qg.failures import printable

__all__ = ["Output", "Raw", "duration_text"]

# So many rows are read to find out how wide the columns are.
_READ_AHEAD = 1000


class Raw(str):
    """A text that is JSON already, and is written as it stands."""


class Output:
    """What a command prints, and how.

    Args:
        as_json: JSON, an object a line.
        quiet: ids or names alone, one a line.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    @property
    def for_people(self) -> bool:
        """Whether sentences and tables are wanted."""
        return not (self.as_json or self.quiet)

    def say(self, sentence: str) -> None:
        """Print a sentence, for people only."""
        if self.for_people:
            click.echo(printable(sentence))

    def note(self, sentence: str) -> None:
        """Print a sentence to standard error, so that it isn't among what programs read."""
        if not self.quiet:
            click.echo(printable(sentence), err=True)

    def rows(self, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, name: str, title: str = "") -> int:
        """Print things that are alike, and return how many they were.

        Args:
            rows: the things; read a thousand at a time.
            columns: which of their fields people see, in this order. Programs get all of them.
            name: the field that stands for the thing, for --quiet.
            title: printed above the table, for people.
        """
        each = iter(rows)
        if not self.for_people:
            count = 0
            for row in each:
                click.echo(printable(row[name]) if self.quiet else json_text(row))
                count += 1
            return count
        ahead = list(islice(each, _READ_AHEAD))
        if not ahead:
            return 0
        if title:
            click.echo(title)
        if len(ahead) < _READ_AHEAD and _has_rich():
            _print_by_rich(ahead, columns)
            return len(ahead)
        return _print_plainly(ahead, each, columns)

    def details(self, thing: Mapping[str, Any], *, name: str) -> None:
        """Print one thing with all its fields; *name* as for rows()."""
        if not self.for_people:
            click.echo(printable(thing[name]) if self.quiet else json_text(thing))
            return
        width = max(map(len, thing))
        for field, value in thing.items():
            lines = str(value).splitlines() if isinstance(value, str) and "\n" in value else [_text(value)]
            click.echo(f"{_heading(field):{width}}  {printable(lines[0]) if lines else ''}".rstrip())
            for line in lines[1:]:
                click.echo(f"{'':{width}}  {printable(line)}")


def json_text(value: Any) -> str:
    """Return *value* as JSON on one line: times in ISO 8601, durations in seconds, what is Raw as it stands."""
    if isinstance(value, Raw):
        # Only between its tokens can there be line ends.
        return " ".join(value.splitlines())
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(str(key))}: {json_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(json_text, value))}]"
    if isinstance(value, datetime):
        return json.dumps(value.isoformat())
    if isinstance(value, timedelta):
        return json.dumps(value.total_seconds())
    if value is None or isinstance(value, (bool, float)):
        return json.dumps(value)
    return str(int(value)) if isinstance(value, int) else json.dumps(str(value))


def duration_text(duration: timedelta) -> str:
    """Return *duration* for people, to two units: "3 d 4 h", "12 s"."""
    seconds = round(abs(duration.total_seconds()))
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    for number, (unit, size) in enumerate(units):
        if seconds >= size:
            rest = seconds % size
            parts = [f"{seconds // size} {unit}"]
            if number + 1 < len(units) and rest // units[number + 1][1]:
                parts.append(f"{rest // units[number + 1][1]} {units[number + 1][0]}")
            return ("-" if duration < timedelta(0) else "") + " ".join(parts)
    return "0 s"


def _text(value: Any) -> str:
    """Return *value* for people, on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, float):
        return f"{value:+.1f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return printable(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Count)) and not isinstance(value, bool)


def _heading(field: str) -> str:
    return field.replace("_", " ")


def _print_plainly(
    ahead: Sequence[Mapping[str, Any]], rest: Iterator[Mapping[str, Any]], columns: Sequence[str]
) -> int:
    """Print columns that are as wide as those of *ahead*; on a terminal no line is longer than that is wide."""
    widths = {column: max(len(_heading(column)), *(len(_text(row.get(column))) for row in ahead)) for column in columns}
    right = {column for column in columns if any(_is_number(row.get(column)) for row in ahead)}
    longest = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def line(cells: Mapping[str, str]) -> str:
        text = "  ".join(
            cells[each].rjust(widths[each]) if each in right else cells[each].ljust(widths[each]) for each in columns
        ).rstrip()
        return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"

    click.echo(line({each: _heading(each) for each in columns}))
    count = 0
    for row in chain(ahead, rest):
        click.echo(line({each: _text(row.get(each)) for each in columns}))
        count += 1
    return count


def _has_rich() -> bool:
    """Whether a terminal is there to be written to, and rich is installed."""
    if not sys.stdout.isatty():
        return False
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def _print_by_rich(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = any(_is_number(row.get(column)) for row in rows)
        table.add_column(_heading(column), justify="right" if number else "left", overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_text(row.get(column))) for column in columns))
    Console(highlight=False).print(table)
