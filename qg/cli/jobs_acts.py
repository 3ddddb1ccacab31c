"""What ``qg jobs`` does to jobs: retry, run-now, delete, cancel, expire, reschedule, set-priority, move."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import click
import psycopg2

from qg.cli.asking import ask, yes_option
from qg.cli.choosing import Meant, ids_or_filter
from qg.cli.commanding import Command
from qg.cli.endings import Ended
from qg.cli.options import Asked, by_option, common
from qg.cli.output import Listing
from qg.cli.progress import Progress
from qg.cli.status import BY_CTRL_C, Status
from qg.cli.values import DURATION, TIME
from qg.control import Control, Filter, Left, Report
from qg.errors import QgError
from qg.failures import one_line

__all__ = ["ACTS"]

ACTS: list[click.Command] = []
"""The commands, in the order in which they are listed."""

_LEFT: Listing[Left] = Listing(
    {"id": lambda left: left.id, "why it was left alone": lambda left: left.reason},
    lambda left: {"id": left.id, "reason": left.reason},
    lambda left: left.id,
)


def _act(name: str, done: str, *options: Callable[..., Any]) -> Callable[[Callable[..., Report]], click.Command]:
    """Make a command of a function that acts; it takes a Control, what is meant, and the command's own *options*.

    Args:
        name: the command's.
        done: what is said of the jobs afterwards: "deleted".
        options: decorators of click.
    """

    def decorate(act: Callable[..., Report]) -> click.Command:
        def run(asked: Asked, what: Meant, dry_run: bool, yes: bool, by: str | None, **given: Any) -> Status:
            with asked.control(by) as control:
                do = functools.partial(act, control, what, **given)
                if not (dry_run or yes):
                    _ask(do, what, done)
                report = _carry_out(do, done, dry_run=dry_run)
            _print(asked, report, done)
            return Status.DONE if report.count and not report.left_count else Status.NO

        function: Callable[..., Any] = functools.wraps(act)(run)
        shared = [
            click.option("--dry-run", is_flag=True, help="Only say how many jobs would be changed."),
            yes_option,
            by_option,
            common,
        ]
        for decorator in (*reversed(shared), *reversed(options), ids_or_filter):
            function = decorator(function)
        no = "no job fits, some were left alone, or the answer was no"
        command = click.command(name=name, cls=Command, no=no)(function)
        ACTS.append(command)
        return command

    return decorate


def _ask(do: Callable[..., Report], what: Meant, done: str) -> None:
    """Ask before more than one job is changed."""
    if isinstance(what, Filter):
        with Progress() as shown:
            number = do(dry_run=True, progress=lambda report: shown.show(f"{report.count} jobs found")).count
    else:
        number = len(what)
    if number > 1:
        ask(f"{number} jobs would be {done}. Go on?")


def _carry_out(do: Callable[..., Report], done: str, *, dry_run: bool) -> Report:
    count = 0

    def note(report: Report) -> None:
        nonlocal count
        count = report.count
        shown.show(f"{count} jobs {done}")

    try:
        with Progress() as shown:
            return do(dry_run=dry_run, progress=note)
    except KeyboardInterrupt:
        raise Ended(f"stopped; {_jobs(count)} had been {done}, which isn't undone", BY_CTRL_C) from None
    except (QgError, psycopg2.Error) as error:
        if dry_run or not count:
            raise
        raise Ended(f"{one_line(error)}; {_jobs(count)} had been {done}, which isn't undone") from error


def _print(asked: Asked, report: Report, done: str) -> None:
    out = asked.out
    if out.as_json:
        out.one(
            {
                "action": report.action,
                "count": report.count,
                "ids": report.ids,
                "left_count": report.left_count,
                "left": [_LEFT.fields(each) for each in report.left],
                "cancelled": report.cancelled,
                "dry_run": report.dry_run,
            },
            None,
            "",
        )
        return
    if out.quiet:
        for number in report.ids:
            click.echo(number)
        if report.count > len(report.ids):
            click.echo(f"These are the first {len(report.ids)} of {report.count}.", err=True)
        return
    out.say(f"{_jobs(report.count)} {'would be ' if report.dry_run else ''}{done}.")
    if report.cancelled:
        out.say(f"{_jobs(len(report.cancelled))} of these being worked: what the handlers write isn't kept.")
    if report.left:
        out.say(f"{_jobs(report.left_count)} left alone:")
        out.rows(report.left, _LEFT)


def _jobs(number: int) -> str:
    return f"{number} job{'' if number == 1 else 's'}"


@_act("retry", "retried")
def retry(control: Control, what: Meant, **how: Any) -> Report:
    """Run failed jobs again at once, and expired ones, as if they hadn't failed.

    \b
    qg jobs retry 17
    qg jobs retry --type SendMail                    all of a kind
    qg jobs retry --queue mail --state expired --yes
    qg jobs retry --error "connection refused" --dry-run
    """
    return control.retry(what, **how)


@_act("run-now", "made due")
def run_now(control: Control, what: Meant, **how: Any) -> Report:
    """Make jobs due now that are scheduled for later. Their count of errors stays as it is.

    \b
    qg jobs run-now 17
    qg jobs run-now --type Report --state scheduled
    """
    return control.run_now(what, **how)


@_act("delete", "deleted")
def delete(control: Control, what: Meant, **how: Any) -> Report:
    """Delete jobs. Those that somebody works are left alone; see qg jobs cancel.

    \b
    qg jobs delete 17
    qg jobs delete --queue mail --type Newsletter --dry-run
    qg jobs delete --state finished --older-than 7d --yes
    """
    return control.delete(what, **how)


@_act("cancel", "deleted")
def cancel(control: Control, what: Meant, **how: Any) -> Report:
    """Delete jobs, even those that somebody works.

    The handler isn't interrupted. What it writes through job.tx isn't kept; what it does elsewhere is. If its pool
    listens, job.lost is true for it, and a coroutine is cancelled.

    \b
    qg jobs cancel 17
    """
    return control.delete(what, cancel=True, **how)


@_act("expire", "given up")
def expire(control: Control, what: Meant, **how: Any) -> Report:
    """Give jobs up, but keep them. No worker takes them until you type qg jobs retry.

    \b
    qg jobs expire 17
    qg jobs expire --type Import --state failing
    """
    return control.expire(what, **how)


@_act(
    "reschedule",
    "rescheduled",
    click.option("--in", "after", type=DURATION, help="How long from now: 30s, 5m, 1h30m, 7d."),
    click.option("--at", type=TIME, help="At this time: 2026-12-24T18:00, in the local zone unless it has one."),
)
def reschedule(control: Control, what: Meant, after: timedelta | None, at: datetime | None, **how: Any) -> Report:
    """Set another time for jobs that are still to be done.

    \b
    qg jobs reschedule 17 --in 2h
    qg jobs reschedule --type Report --at 2026-12-24T18:00
    """
    if (after is None) == (at is None):
        raise click.UsageError("give either --in or --at")
    return control.reschedule(what, at=at, after=after, **how)


@_act(
    "set-priority",
    "changed",
    click.option(
        "--to",
        "priority",
        type=click.IntRange(-32768, 32767),
        required=True,
        help="The priority. A lower number runs first.",
    ),
)
def set_priority(control: Control, what: Meant, priority: int, **how: Any) -> Report:
    """Set the priority of jobs that are still to be done.

    \b
    qg jobs set-priority 17 --to 10
    qg jobs set-priority --type SendMail --to 10
    """
    return control.set_priority(what, priority, **how)


@_act(
    "move",
    "moved",
    click.option("--to", "target", metavar="QUEUE", required=True, help="The queue to move them to."),
    click.option("--even-if-unknown", is_flag=True, help="Allow a queue that nobody knows yet."),
)
def move(control: Control, what: Meant, target: str, even_if_unknown: bool, **how: Any) -> Report:
    """Move jobs that are still to be done into another queue.

    \b
    qg jobs move 17 --to slow
    qg jobs move --queue mail --type Newsletter --to slow --even-if-unknown
    """
    return control.move(what, target, even_if_unknown=even_if_unknown, **how)
