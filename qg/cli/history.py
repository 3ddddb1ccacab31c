"""``qg schedules``, ``qg history`` and ``qg prune``: what qg.jobs keeps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import click

from qg.cli.asking import ask, yes_option
from qg.cli.choosing import filter_option
from qg.cli.commanding import Command
from qg.cli.options import Asked, common
from qg.cli.output import Listing, Raw
from qg.cli.status import Status
from qg.cli.values import DURATION
from qg.control import Attempt, Control, ScheduleView

__all__ = ["ATTEMPTS", "attempt_fields", "history", "prune", "schedules"]

_PAGE = 1000


def attempt_fields(attempt: Attempt) -> dict[str, Any]:
    """Return what programs get of an attempt."""
    return {
        "id": attempt.id,
        "job_id": attempt.job_id,
        "type": attempt.type,
        "queue": attempt.queue,
        "priority": attempt.priority,
        "run_count": attempt.run_count,
        "success": attempt.success,
        "error": attempt.error,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "args": None if attempt.args is None else Raw(attempt.args),
    }


ATTEMPTS: Listing[Attempt] = Listing(
    {
        "attempt": lambda attempt: attempt.id,
        "job": lambda attempt: attempt.job_id,
        "queue": lambda attempt: attempt.queue,
        "type": lambda attempt: attempt.type,
        "began": lambda attempt: attempt.started_at,
        "seconds": lambda attempt: f"{(attempt.finished_at - attempt.started_at).total_seconds():.3f}",
        "went well": lambda attempt: attempt.success,
        "error": lambda attempt: (attempt.error or "").partition("\n")[0],
    },
    attempt_fields,
    lambda attempt: attempt.id,
)

_SCHEDULES: Listing[ScheduleView] = Listing(
    {
        "queue": lambda schedule: schedule.queue,
        "when": lambda schedule: schedule.spec,
        "type": lambda schedule: schedule.type,
        "last": lambda schedule: schedule.last_tick_at,
        "next": lambda schedule: schedule.next_tick_at,
        "args": lambda schedule: schedule.args,
    },
    lambda schedule: {
        "queue": schedule.queue,
        "spec": schedule.spec,
        "type": schedule.type,
        "args": Raw(schedule.args),
        "last_tick_at": schedule.last_tick_at,
        "next_tick_at": schedule.next_tick_at,
    },
    lambda schedule: schedule.type,
)


@click.command(cls=Command, no="there are no schedules")
@common
def schedules(asked: Asked) -> Status:
    """List the schedules of qg.jobs, and when each fires next.

    \b
    qg schedules
    qg schedules --json | jq -r .next_tick_at
    """
    with asked.control() as control:
        found = control.schedules()
    if not asked.out.rows(found, _SCHEDULES):
        asked.out.note("there are no schedules")
        return Status.NO
    return Status.DONE


@click.command(cls=Command, no="no attempt fits")
@filter_option("--queue", "-q", help="Only attempts at jobs of this queue.")
@filter_option("--type", help="Only attempts at jobs of this type.")
@click.option("--failed", "success", flag_value="failed", help="Only those that failed.")
@click.option("--succeeded", "success", flag_value="succeeded", help="Only those that succeeded.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at the most.")
@common
def history(
    asked: Asked,
    queue: str | None,
    type: str | None,  # noqa: A002 - what everybody calls it
    success: str | None,
    limit: int,
) -> Status:
    """List the attempts that qg.jobs has kept, the last one first.

    \b
    qg history
    qg history --type SendMail --failed
    """
    wanted = None if success is None else success == "succeeded"
    with asked.control() as control:
        count = asked.out.rows(_attempts(control, queue, type, wanted, limit), ATTEMPTS)
    if not count:
        asked.out.note("no attempt fits")
        return Status.NO
    return Status.DONE


def _attempts(
    control: Control, queue: str | None, job_type: str | None, success: bool | None, left: int
) -> Iterator[Attempt]:
    before: int | None = None
    while left:
        page, before = control.history(
            type=job_type, queue=queue, success=success, limit=min(left, _PAGE), before=before
        )
        yield from page
        left -= len(page)
        if before is None:
            return


@click.command(cls=Command, no="there is nothing to prune, or the answer was no")
@click.option("--older-than", type=DURATION, help="Delete attempts that ended longer ago than this: 12h, 30d, 8w.")
@click.option("--keep", type=click.IntRange(1), help="Keep this number of the newest attempts, and delete the others.")
@click.option("--payloads-only", is_flag=True, help="Delete only the args of the attempts, and keep the rest.")
@click.option("--ticks", is_flag=True, help="Delete the ticks of schedules instead of attempts.")
@click.option("--dry-run", is_flag=True, help="Only say how many would be deleted.")
@yes_option
@common
def prune(
    asked: Asked,
    older_than: timedelta | None,
    keep: int | None,
    payloads_only: bool,
    ticks: bool,
    dry_run: bool,
    yes: bool,
) -> Status:
    """Delete old attempts from the history of qg.jobs. Jobs aren't touched.

    If you give both --older-than and --keep, an attempt is deleted as soon as one of them says so. With --ticks the
    command deletes ticks, the records of when a schedule fired, and no attempts; then --keep counts for each schedule.
    Needs the extra qg[jobs].

    \b
    qg prune --older-than 30d --dry-run
    qg prune --older-than 30d
    qg prune --keep 100000 --payloads-only --yes
    qg prune --ticks --older-than 8w --yes
    """
    if older_than is None and keep is None:
        raise click.UsageError("say what may go: --older-than 30d, --keep 100000, or both")
    if ticks and payloads_only:
        raise click.UsageError("--payloads-only is for attempts; leave --ticks out")
    from qg import jobs

    with asked.control() as control:
        control.schedules()  # if there are no tables of qg.jobs, it says what makes them

    def run(*, dry_run: bool) -> int:
        limits: dict[str, Any] = {"older_than": older_than, "keep": keep, "dry_run": dry_run}
        if ticks:
            return jobs.prune_ticks(asked.source, **limits)
        return jobs.prune_history(asked.source, payloads_only=payloads_only, **limits)

    what = "ticks" if ticks else "attempts"
    done = "lose their args" if payloads_only else "be deleted"
    count = run(dry_run=True) if dry_run or not yes else None
    if dry_run:
        asked.out.one({"count": count, "dry_run": True}, count, f"{count} {what} would {done}.")
        return Status.DONE if count else Status.NO
    if count:
        ask(f"{count} {what} would {done}. Go on?")
    gone = 0 if count == 0 else run(dry_run=False)
    past = "have lost their args" if payloads_only else "deleted"
    asked.out.one({"count": gone, "dry_run": False}, gone, f"{gone} {what} {past}.")
    return Status.DONE if gone else Status.NO
