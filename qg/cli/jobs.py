"""``qg jobs list`` and ``qg jobs show``; what is done to jobs is in jobs_acts.py, on the same group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from qg.cli.choosing import filter_options
from qg.cli.commanding import Command, Group
from qg.cli.history import ATTEMPTS, attempt_fields
from qg.cli.jobs_acts import ACTS
from qg.cli.options import Asked, common
from qg.cli.output import Listing, Raw
from qg.cli.progress import Progress
from qg.cli.status import Status
from qg.control import Control, Filter, JobView, Order

__all__ = ["jobs"]

_PAGE = 1000


@click.group(cls=Group, no="no job fits, or some were left alone")
def jobs() -> None:
    """Find jobs, look at one, retry, delete or move them.

    \b
    qg jobs list --state failing          what fails
    qg jobs show 17                       all of one job, with its traceback
    qg jobs retry 17                      that one again
    qg jobs retry --type SendMail         all of a kind again
    qg jobs delete 17
    """


for _act in ACTS:
    jobs.add_command(_act)


def _fields(job: JobView) -> dict[str, Any]:
    return {
        "id": job.id,
        "queue": job.queue,
        "type": job.type,
        "priority": job.priority,
        "run_at": job.run_at,
        "state": job.state,
        "error_count": job.error_count,
        "last_error": job.last_error,
        "args": Raw(job.args),
        "kwargs": Raw(job.kwargs),
        "tags": Raw(job.tags),
        "finished_at": job.finished_at,
        "expired_at": job.expired_at,
        "worked_by": None if job.holder is None else str(job.holder),
    }


_JOBS: Listing[JobView] = Listing(
    {
        "id": lambda job: job.id,
        "queue": lambda job: job.queue,
        "type": lambda job: job.type,
        "priority": lambda job: job.priority,
        "state": lambda job: job.state,
        "run at": lambda job: job.run_at,
        "errors": lambda job: job.error_count,
        "worked by": lambda job: job.holder,
        "last error": lambda job: (job.last_error or "").partition("\n")[0],
    },
    _fields,
    lambda job: job.id,
)


@jobs.command(name="list", cls=Command, no="no job fits")
@filter_options
@click.option("--order", type=click.Choice([str(each) for each in Order]), default="newest", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="List at most this many.")
@click.option("--all", "everything", is_flag=True, help="List all jobs that fit, without a limit.")
@common
def list_jobs(asked: Asked, where: Filter, order: str, limit: int, everything: bool) -> Status:
    """List jobs.

    A job is listed if it fits all options that are given. Each of them may be given once, except --args. --order
    newest begins with the job that was enqueued last; next lists jobs queue by queue, as workers take them. Times are
    in the local time zone.

    \b
    qg jobs list
    qg jobs list --queue mail --state failing --error timeout
    qg jobs list --order next --older-than 10m      what is late
    qg jobs list --type SendMail --args 0.user_id=7
    qg jobs list --state expired --all --json > expired.jsonl
    qg jobs list --all --quiet | wc -l
    """
    with asked.control() as control:
        found = _Found(control, where, order, None if everything else limit)
        count = asked.out.rows(found, _JOBS)
    if not count:
        asked.out.note("no job fits" if not where.says_nothing else "there are no jobs")
        return Status.NO
    if found.more:
        asked.out.note(f"These are {count}, and there may be more; --limit and --all show them.")
    return Status.DONE


class _Found:
    """The jobs that fit, up to a limit; then it knows whether there may be more."""

    def __init__(self, control: Control, where: Filter, order: str, limit: int | None) -> None:
        self._control = control
        self._where = where
        self._order = order
        self._left = limit
        self.more = False

    def __iter__(self) -> Iterator[JobView]:
        after: str | None = None
        read = 0
        with Progress() as shown:
            while self._left != 0:
                limit = _PAGE if self._left is None else min(self._left, _PAGE)
                page = self._control.jobs(self._where, order=self._order, limit=limit, after=after)
                shown.clear()
                yield from page.jobs
                after = page.after
                if after is None:
                    return
                if self._left is not None:
                    self._left -= len(page.jobs)
                read += page.read
                shown.show(f"{read} jobs read")
        self.more = True


@jobs.command(cls=Command, no="there is no such job")
@click.argument("id", type=int)
@common
def show(asked: Asked, id: int) -> Status:  # noqa: A002 - it is the job's id, and has no other name anywhere
    """Show one job: its args, its last error with the traceback, who works it, and its attempts.

    Only jobs of qg.jobs have attempts. They are kept when the job is done.

    \b
    qg jobs show 17
    qg jobs show 17 --json | jq -r .last_error
    """
    with asked.control() as control:
        detail = control.job(id)
    job, attempts = detail.job, detail.attempts
    if not asked.out.for_people:
        fields = {"id": id} if job is None else _fields(job)
        known = None if attempts is None else [attempt_fields(each) for each in attempts]
        asked.out.one({**fields, "attempts": known}, id, "")
        return Status.DONE
    if job is None:
        asked.out.say(f"Job {id} is done, or was deleted. This is what the history has of it.")
    else:
        asked.out.details({name.replace("_", " "): value for name, value in _fields(job).items() if value is not None})
    if attempts:
        asked.out.say("")
        asked.out.rows(attempts, ATTEMPTS)
    return Status.DONE
