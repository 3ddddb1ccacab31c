"""``qg pause``, ``qg resume`` and ``qg queues``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from qg.cli.commanding import Command
from qg.cli.options import Asked, by_option, common
from qg.cli.output import Listing, time_text
from qg.cli.status import Status
from qg.cli.values import DURATION, TIME
from qg.control import Pause, QueueView

__all__ = ["pause", "queues", "resume"]


@click.command(cls=Command, no="nobody knows the queue; or it is paused, but others work it who don't know of pauses")
@click.argument("queue")
@click.option("--for", "duration", type=DURATION, help="Go on after so long: 30s, 5m, 1h30m, 7d.")
@click.option("--until", type=TIME, help="Go on at this time: 2026-12-24T18:00, in the local zone unless it has one.")
@click.option("--reason", default="", help="For those who see the pause.")
@click.option("--even-if-unknown", is_flag=True, help="Allow a queue that nobody knows yet.")
@by_option
@common
def pause(
    asked: Asked,
    queue: str,
    duration: timedelta | None,
    until: datetime | None,
    reason: str,
    even_if_unknown: bool,
    by: str | None,
) -> Status:
    """Let workers take no more jobs of a queue. Jobs that are running end, and jobs can still be enqueued.

    qg's workers obey within two seconds. Workers in Ruby and Go don't know pauses; those that are seen are named.
    Without --for or --until the pause lasts until qg resume. If the queue is paused already, the new pause replaces
    the old one.

    \b
    qg pause mail
    qg pause mail --for 2h --reason "the mail server is down"
    qg pause ""            the queue without a name
    """
    if duration is not None and until is not None:
        raise click.UsageError("give --for or --until, not both")
    with asked.control(by) as control:
        if duration is not None:
            until = control.now() + duration
        paused = control.pause(queue, until=until, reason=reason, even_if_unknown=even_if_unknown)
    ends = "until qg resume" if paused.until is None else f"until {time_text(paused.until)}"
    fields = {**_pause_fields(paused), "others": paused.others}
    asked.out.one(fields, paused.queue, f"queue {paused.queue!r} is paused {ends}")
    for other in paused.others:
        asked.out.note(f"Stop this one yourself: {other}.")
    return Status.NO if paused.others else Status.DONE


@click.command(cls=Command, no="it wasn't paused")
@click.argument("queue")
@by_option
@common
def resume(asked: Asked, queue: str, by: str | None) -> Status:
    """Let workers take jobs of a queue again.

    \b
    qg resume mail
    """
    with asked.control(by) as control:
        resumed = control.resume(queue)
    sentence = f"queue {queue!r} is worked again" if resumed else f"queue {queue!r} wasn't paused"
    asked.out.one({"queue": queue, "resumed": resumed}, queue, sentence)
    return Status.DONE if resumed else Status.NO


def _pause_fields(pause: Pause) -> dict[str, Any]:
    return {
        "queue": pause.queue,
        "since": pause.since,
        "until": pause.until,
        "reason": pause.reason,
        "by": pause.by,
    }


_QUEUES: Listing[QueueView] = Listing(
    {
        "queue": lambda queue: queue.queue,
        "status": lambda queue: queue.status,
        "workers": lambda queue: queue.workers,
        "waiting": lambda queue: queue.waiting,
        "paused since": lambda queue: queue.pause and queue.pause.since,
        "until": lambda queue: queue.pause and queue.pause.until,
        "by": lambda queue: queue.pause and queue.pause.by,
        "reason": lambda queue: queue.pause and queue.pause.reason,
    },
    lambda queue: {
        "queue": queue.queue,
        "status": queue.status,
        "workers": queue.workers,
        "waiting": queue.waiting,
        "pause": None if queue.pause is None else _pause_fields(queue.pause),
    },
    lambda queue: queue.queue,
)


@click.command(cls=Command, no="there are no queues")
@common
def queues(asked: Asked) -> Status:
    """List the queues, and which are paused: since when, until when, by whom and why.

    A queue is listed if it has jobs to be done, or workers, or is paused.

    \b
    qg queues
    qg queues --json | jq -r 'select(.pause) | .queue'
    """
    with asked.control() as control:
        found = control.overview().queues
    if not asked.out.rows(found, _QUEUES):
        asked.out.note("there are no jobs, and nobody is there to work any")
        return Status.NO
    return Status.DONE
