"""Which jobs are meant: the options that commands on jobs share, and what they say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

import click

from qg.cli.values import ARGUMENT, DURATION
from qg.control import Filter, State

__all__ = ["Meant", "filter_option", "filter_options", "ids_or_filter"]

Meant: TypeAlias = "Filter | list[int]"


def _once(ctx: click.Context, option: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Return the only value, or None; click would take the last of several, and so other jobs than are meant."""
    if len(values) > 1:
        raise click.BadParameter("give it once; for several, run the command for each of them", ctx, option)
    return values[0] if values else None


def _paths(ctx: click.Context, option: click.Parameter, values: tuple[tuple[str, Any], ...]) -> dict[str, Any] | None:
    """Return what is wanted at each path of the args."""
    wanted = dict(values)
    if len(wanted) < len(values):
        raise click.BadParameter("give each place in the args once", ctx, option)
    return wanted or None


def filter_option(*names: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option that may be given once."""
    return click.option(*names, multiple=True, callback=_once, **settings)


_OPTIONS: list[Callable[..., Any]] = [
    filter_option("--queue", "-q", help="Only jobs of this queue."),
    filter_option("--type", help="Only jobs of this type."),
    filter_option("--state", type=click.Choice([str(each) for each in State]), help="Only jobs in this state."),
    filter_option(
        "--error",
        metavar="TEXT",
        help="Only jobs with this text in their last error or its traceback. Capital letters don't matter.",
    ),
    filter_option("--older-than", type=DURATION, help="Only jobs due for longer than this: 30s, 5m, 1h30m, 7d."),
    filter_option(
        "--younger-than", type=DURATION, help="Only jobs due for a shorter time than this, and jobs not due yet."
    ),
    click.option(
        "--args",
        type=ARGUMENT,
        multiple=True,
        callback=_paths,
        help="Only jobs with this in their args: 0=7, or 0.user_id=7. May be given several times; then all must be "
        "true.",
    ),
]


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a filter, each to be given once. It gets a Filter, which may say nothing."""

    @functools.wraps(function)
    def command(
        *given: Any,
        queue: str | None,
        type: str | None,  # noqa: A002 - what everybody calls it
        state: str | None,
        error: str | None,
        older_than: timedelta | None,
        younger_than: timedelta | None,
        args: dict[str, Any] | None,
        **options: Any,
    ) -> Any:
        where = Filter(queue, type, state, error, older_than, younger_than, args)
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
