"""Standard output: tables for people, JSON for programs, names alone where that is all that is wanted."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any, Generic, Literal, TypeVar

import click

from qg.cli import cells
from qg.failures import UNPRINTABLE, printable

__all__ = ["Listing", "Output", "Raw", "duration_text", "json_text", "time_text"]

_Thing = TypeVar("_Thing")

# So many rows are read to find out how wide the columns are.
_READ_AHEAD = 1000
# A column that is narrower says nothing any more.
_LEAST_ROOM = 15


class Raw(str):
    """A text that is JSON already, and is written as it stands."""


@dataclass(frozen=True)
class Listing(Generic[_Thing]):
    """How things of one kind are listed.

    Attributes:
        columns: what people see: by the heading of each column, from a thing to its cell.
        fields: what programs get: from a thing to all there is to know of it.
        name: what stands for a thing where names alone are wanted.
    """

    columns: Mapping[str, Callable[[_Thing], Any]]
    fields: Callable[[_Thing], Mapping[str, Any]]
    name: Callable[[_Thing], Any]


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
        """Print a sentence to standard error, so that it isn't among what programs read; not with --quiet."""
        if not self.quiet:
            click.echo(printable(sentence), err=True)

    def one(self, fields: Mapping[str, Any], name: Any, sentence: str) -> None:
        """Print what there is to say of one thing: as fields, as its name, or in a sentence."""
        if self.for_people:
            click.echo(printable(sentence))
        else:
            click.echo(printable(name) if self.quiet else json_text(fields))

    def rows(self, things: Iterable[_Thing], listing: Listing[_Thing]) -> int:
        """Print things of one kind, and return how many they were. Reads a thousand of them at a time."""
        each = iter(things)
        if not self.for_people:
            count = 0
            for thing in each:
                click.echo(printable(listing.name(thing)) if self.quiet else json_text(listing.fields(thing)))
                count += 1
            return count
        ahead = list(islice(each, _READ_AHEAD))
        if not ahead:
            return 0
        if len(ahead) < _READ_AHEAD and _has_rich() and _print_by_rich(ahead, listing):
            return len(ahead)
        return _print_plainly(ahead, each, listing)

    def details(self, fields: Mapping[str, Any]) -> None:
        """Print the fields of one thing below each other, for people."""
        width = max(map(len, fields))
        for field, value in fields.items():
            # splitlines() would cut at U+0085 and U+2028 too, which JSON and messages may hold.
            first, *more = re.split(r"\r?\n", value) if isinstance(value, str) else [_text(value)]
            click.echo(f"{field:{width}}  {printable(first)}".rstrip())
            for line in more:
                click.echo(f"{'':{width}}  {printable(line)}")


def json_text(value: Any) -> str:
    """Return *value* as JSON on one line: times in ISO 8601, durations in seconds, what is Raw as it stands."""
    if isinstance(value, Raw):
        # Tabs and line ends stand between the tokens of JSON; all else that a terminal obeys stands in its strings.
        return UNPRINTABLE.sub(_json_escape, re.sub(r"[\t\r\n]", " ", value))
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


def _json_escape(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"


_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def duration_text(duration: timedelta) -> str:
    """Return *duration* for people, in two units at the most: "3 d 4 h", "12 s"."""
    seconds = round(abs(duration.total_seconds()))
    said = []
    for unit, size in _UNITS:
        if seconds >= size:
            said.append(f"{seconds // size} {unit}")
        elif said:
            break
        seconds %= size
    return ("-" if duration < timedelta(0) else "") + (" ".join(said[:2]) or "0 s")


def time_text(time: datetime) -> str:
    """Return *time* for people, in the local zone."""
    try:
        return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError):  # PostgreSQL's times reach further than Python's
        return time.isoformat(" ", "seconds")


def _text(value: Any) -> str:
    """Return *value* for people, on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return printable(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, timedelta)) and not isinstance(value, bool)


def _measured(things: Sequence[_Thing], listing: Listing[_Thing]) -> tuple[set[str], dict[str, int]]:
    """Return which columns are numbers, and how wide each is."""
    right: set[str] = set()
    widths: dict[str, int] = {}
    for name, cell in listing.columns.items():
        found = [cell(each) for each in things]
        widths[name] = max(cells.width(name), *(cells.width(_text(each)) for each in found))
        if any(map(_is_number, found)):
            right.add(name)
    return right, widths


def _print_plainly(ahead: Sequence[_Thing], rest: Iterator[_Thing], listing: Listing[_Thing]) -> int:
    """Print columns that are as wide as those of *ahead*; on a terminal no line is longer than that is wide."""
    columns = listing.columns
    right, widths = _measured(ahead, listing)
    longest = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def line(texts: Mapping[str, str]) -> str:
        padded = ((cells.right if name in right else cells.left)(text, widths[name]) for name, text in texts.items())
        whole = "  ".join(padded).rstrip()
        return whole if longest is None else cells.cut(whole, longest)

    click.echo(line({name: name for name in columns}))
    count = 0
    for thing in chain(ahead, rest):
        click.echo(line({name: _text(cell(thing)) for name, cell in columns.items()}))
        count += 1
    return count


def _has_rich() -> bool:
    """Whether there is a terminal to be written to, and rich is installed."""
    if not sys.stdout.isatty():
        return False
    try:
        import rich.table  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def _print_by_rich(things: Sequence[_Thing], listing: Listing[_Thing]) -> bool:
    """Print a table, and return whether there was room for it; if not, nothing is printed.

    The last column is cut where it must be, since the others are short.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    right, widths = _measured(things, listing)
    *others, last = widths
    # Columns are three apart, and two from each edge.
    room = console.width - sum(widths[name] + 3 for name in others) - 4
    if room < min(widths[last], _LEAST_ROOM):
        return False
    widths[last] = min(widths[last], room)
    table = Table(box=SIMPLE_HEAD)
    for name, width in widths.items():
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(name, justify=justify, overflow="ellipsis", no_wrap=True, width=width)
    for thing in things:
        table.add_row(*(Text(_text(cell(thing))) for cell in listing.columns.values()))
    console.print(table)
    return True
