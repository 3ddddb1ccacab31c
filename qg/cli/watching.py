"""--watch: look again every second, and draw anew."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from time import sleep
from typing import Generic, TypeVar

import click
import psycopg2

from qg.cli.output import Output
from qg.failures import one_line

__all__ = ["Looks", "watch", "watch_option"]

watch_option = click.option(
    "--watch", "watched", is_flag=True, help="Look again every second until Ctrl-C (exit status 130), and show rates."
)

_Look = TypeVar("_Look")

_EVERY_SECONDS = 1.0
# Rates are those of the last ten seconds: within one, a batch more or less would make them jump.
_REMEMBERED = 11


class Looks(Generic[_Look]):
    """The last looks. The first of them is what rates are told from."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque(maxlen=_REMEMBERED)

    def add(self, look: _Look) -> _Look:
        """Take note of *look*, and return the one to compare it with; that may be itself."""
        self._looks.append(look)
        return self._looks[0]


def watch(out: Output, draw: Callable[[], object]) -> None:
    """Call *draw* every second, for ever. Where the output is a terminal, it is cleared each time.

    A database that is away is said, and waited for.
    """
    first = True
    while True:
        if out.for_people and sys.stdout.isatty():
            click.clear()
        elif out.for_people and not first:
            click.echo()
        try:
            draw()
        except psycopg2.OperationalError as error:
            if first:
                raise
            out.note(f"no answer from the database: {one_line(error)}")
        first = False
        sleep(_EVERY_SECONDS)
