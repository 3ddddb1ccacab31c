"""``qg enqueue``: one job, or one for each line of a file."""

from __future__ import annotations

import json
from array import array
from datetime import datetime, timedelta
from typing import Any, BinaryIO

import click
import psycopg2

from qg.cli.commanding import Command
from qg.cli.lines import Stored, store_lines
from qg.cli.options import Asked, common
from qg.cli.output import time_text
from qg.cli.progress import Progress
from qg.cli.status import Status
from qg.cli.values import DURATION, TIME
from qg.client import Client
from qg.control import Control
from qg.job import Job

__all__ = ["enqueue"]


@click.command(cls=Command, no="the file has no job")
@click.argument("type", required=False)
@click.argument("args", metavar="[JSON]", required=False)
@click.option("--queue", "-q", help="The queue. By default it is the one without a name.")
@click.option("--priority", type=click.IntRange(-32768, 32767), help="A lower number runs first.  [default: 100]")
@click.option("--in", "delay", type=DURATION, help="Run it this long from now: 30s, 5m, 1h30m, 7d.")
@click.option("--at", type=TIME, help="Run it at this time: 2026-12-24T18:00, in the local zone unless it has one.")
@click.option("--kwargs", metavar="JSON", help="Keyword arguments for Ruby, a JSON object; from version 4 on.")
@click.option("--tag", "tags", multiple=True, help="A tag, from version 4 on; may be given several times.")
@click.option("--from", "file", type=click.File("rb"), help="A job for each line of a file; - is the input.")
@common
def enqueue(
    asked: Asked,
    type: str | None,  # noqa: A002 - what everybody calls it
    args: str | None,
    queue: str | None,
    priority: int | None,
    delay: timedelta | None,
    at: datetime | None,
    kwargs: str | None,
    tags: tuple[str, ...],
    file: BinaryIO | None,
) -> Status:
    """Store a job, or many.

    JSON is the args, and is stored as you write it. It is an array; a table of version 3 takes any JSON.

    With --from, each line is an object with a job's fields: type, args, queue, priority, run_at, kwargs, tags.
    TYPE and the options say what a line leaves out. All lines are stored in one transaction: if one of them is
    bad, nothing is stored, and the error says which.

    \b
    qg enqueue SendMail '[7]'
    qg enqueue SendMail '[7]' --queue mail --priority 10 --in 5m
    qg enqueue Report --at 2026-12-24T18:00
    qg enqueue SendMail --from jobs.jsonl --queue mail
    echo '{"type": "SendMail", "args": [7]}' | qg enqueue --from -
    """
    if delay is not None and at is not None:
        raise click.UsageError("give --in or --at, not both")
    if file is None and type is None:
        raise click.UsageError("say which type of job: qg enqueue SendMail '[7]'; or read jobs by --from FILE")
    if file is not None and args is not None:
        raise click.UsageError("give the args in the lines of the file, or one job without --from")
    fields: dict[str, Any] = {
        "type": type,
        "queue": queue,
        "priority": priority,
        "run_at": at,
        "tags": tags or None,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if kwargs is not None:
        fields["kwargs"] = _kwargs(kwargs)
    if delay is not None:
        with Control(asked.source) as control:
            fields["run_at"] = control.now() + delay
    if args is not None:
        fields["args"] = args.encode("utf-8", "surrogatepass")
    try:
        return _enqueue_one(asked, fields) if file is None else _enqueue_lines(asked, file, fields)
    except psycopg2.errors.InsufficientPrivilege:
        with Control(asked.source) as control:
            control.require_rights_to_enqueue()
        raise


def _enqueue_one(asked: Asked, fields: dict[str, Any]) -> Status:
    with Client(asked.source) as client:
        job = client.enqueue(Job(**fields))
    when = "" if job.run_at is None else time_text(job.run_at)
    asked.out.one(
        {"id": job.id, "queue": job.queue, "type": job.type, "priority": job.priority, "run_at": job.run_at},
        job.id,
        f"job {job.id} is enqueued: {job.type} in queue {job.queue!r}, due {when}",
    )
    return Status.DONE


def _kwargs(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise click.UsageError("--kwargs is no JSON; write it like '{\"user_id\": 7}'") from None


def _enqueue_lines(asked: Asked, file: BinaryIO, defaults: dict[str, Any]) -> Status:
    # The ids are known before anything is stored for good, and may be printed only then; eight bytes for each.
    ids = array("q")

    with Progress() as shown:

        def note(stored: Stored) -> None:
            shown.show(f"{stored.count} jobs")
            if asked.out.quiet:
                ids.extend(stored.ids)

        stored = store_lines(asked.source, file, defaults, note)
    if asked.out.quiet:
        for number in ids:
            click.echo(number)
    else:
        asked.out.one({"count": stored.count}, None, f"{stored.count} job{'' if stored.count == 1 else 's'} enqueued")
    return Status.DONE if stored.count else Status.NO
