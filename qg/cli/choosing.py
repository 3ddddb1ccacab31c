"""Which jobs are meant: the options that commands on jobs share, and what they say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

import click

from qg.cli.values import ARGUMENT, DURATION
from qg.control import Filter, State

__all__ = ["Meant", "filter_options", "ids_or_filter"]

Meant: TypeAlias = "Filter | list[int]"

_OPTIONS = [
    click.option("--queue", "-q", help="Jobs of this queue."),
    click.option("--type", help="Jobs of this type."),
    click.option("--state", type=click.Choice([str(each) for each in State]), help="Jobs in this state."),
    click.option("--error", metavar="TEXT", help="Whose last error or traceback contains this, in any case."),
    click.option("--older-than", type=DURATION, help="Due for longer than this: 30s, 5m, 1h30m, 7d."),
    click.option("--younger-than", type=DURATION, help="Due for a shorter time than this, or not yet."),
    click.option(
        "--args", type=ARGUMENT, multiple=True, help="With this in the args, as 0=7 or 0.user_id=7. Several times."
    ),
]


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a filter. It is called with a Filter that may say nothing."""

    @functools.wraps(function)
    def command(
        *given: Any,
        queue: str | None,
        type: str | None,  # noqa: A002 - what everybody calls it
        state: str | None,
        error: str | None,
        older_than: timedelta | None,
        younger_than: timedelta | None,
        args: tuple[tuple[str, Any], ...],
        **options: Any,
    ) -> Any:
        where = Filter(queue, type, state, error, older_than, younger_than, dict(args) or None)
        return function(*given, where=where, **options)

    asking: Callable[..., Any] = command
    for option in reversed(_OPTIONS):
        asking = option(asking)
    return asking


def ids_or_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ids, the options of a filter, and --all. It is called with what is meant."""

    @click.argument("ids", nargs=-1, type=int)
    @click.option("--all", "everything", is_flag=True, help="Every job.")
    @filter_options
    @functools.wraps(function)
    def command(*given: Any, ids: tuple[int, ...], everything: bool, where: Filter, **options: Any) -> Any:
        return function(*given, what=_meant(ids, where, everything), **options)

    return command


def _meant(ids: tuple[int, ...], where: Filter, everything: bool) -> Meant:
    """Return what a command is to be done to.

    Raises:
        click.UsageError: if that isn't said, or said twice.
    """
    said = [bool(ids), not where.says_nothing, everything]
    if not any(said):
        raise click.UsageError("say which jobs: ids, or options as --queue mail and --state failing, or --all")
    if sum(said) > 1:
        raise click.UsageError("say which jobs in one way: by ids, by options as --queue, or by --all")
    if ids:
        return list(dict.fromkeys(ids))
    return Filter(everything=True) if everything else where
