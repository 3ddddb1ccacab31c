"""Options that commands share, and the database that they lead to."""

from __future__ import annotations

import functools
import getpass
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import psycopg2

from qg.cli.endings import Ended
from qg.cli.interrupting import Connections
from qg.cli.output import Output
from qg.control import Control
from qg.failures import one_line

__all__ = ["Asked", "by_option", "common", "database_option"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# libpq's own variables are what an empty DSN falls back on.
database_option = click.option(
    "--dsn",
    envvar=["QG_DSN", "DATABASE_URL"],
    default="",
    help="The database, as a URL or a libpq DSN. Without it, the variable QG_DSN or DATABASE_URL is used, or libpq's "
    "own (PGHOST, …). Other users of the machine can see a command line, so keep a password in a variable.",
)

by_option = click.option(
    "--by", metavar="NAME", help="Who does this; it is shown to others and in the log.  [default: your login]"
)


@dataclass(frozen=True)
class Asked:
    """What each command is told.

    Attributes:
        source: where connections to the database come from.
        out: what is printed, and how.
    """

    source: Connections
    out: Output

    def control(self, by: str | None = None, *, deadline: float | None = 60.0) -> Control:
        """Connect, to look and to act as *by*; whoever is logged in by default. *deadline* is as for Control."""
        return Control(self.source, by=by or _login(), deadline=deadline)


def common(function: _Function) -> Callable[..., Any]:
    """Give a command --dsn, --json and --quiet. It is called with an Asked, and with its own options."""

    @database_option
    @click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, one object on each line.")
    @click.option("--quiet", is_flag=True, help="Print only ids or names, one on each line.")
    @functools.wraps(function)
    def command(dsn: str, as_json: bool, quiet: bool, **options: Any) -> Any:
        if as_json and quiet:
            raise click.UsageError("give --json or --quiet, not both")
        source = Connections(dsn)
        try:
            with source.cancelled_by_ctrl_c():
                return function(Asked(source, Output(as_json=as_json, quiet=quiet)), **options)
        except psycopg2.OperationalError as error:
            # Without a code it isn't from the server: there is no connection.
            if dsn or error.pgcode is not None:
                raise
            raise Ended(f"{one_line(error)} Say which database by --dsn, QG_DSN or DATABASE_URL") from error

    return command


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user; the database's user stands in
        return None
