"""Checks of the work: who holds which jobs, what nobody works, what is paused and worked all the same."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence

from qg.control.filters import Filter
from qg.control.listing import walk
from qg.control.patient import Patient
from qg.control.pausing import has_pauses
from qg.control.records import Order
from qg.control.reports import Finding, Severity
from qg.enqueuing.fields import decode
from qg.tables import timestamp
from qg.tables.checks import CLOCK

__all__ = ["check_args", "check_holders", "check_locks", "check_pauses", "check_queues"]

_INFO, _WARNING, _ERROR = Severity

_LONG_IDLE_SECONDS = 3600.0
# How many jobs Python tries to read, of those that are taken next.
_READ = 1_000


def check_locks(patient: Patient) -> Iterator[Finding]:
    """Find locks that are no job's."""
    for worker in patient.workers:
        if worker.other_locks:
            yield Finding(
                _INFO,
                "locks",
                f"{worker.holder} holds {len(worker.other_locks)} advisory locks that are no job's of this table: "
                f"{_some(worker.other_locks)}. A job that gets such an id isn't worked while they are held",
                "lock with two integers instead of one bigint, which is a space apart",
            )


def check_holders(patient: Patient) -> Iterator[Finding]:
    """Find sessions that hold jobs, and do nothing or have no process any more."""
    now = timestamp(patient.session.run(CLOCK)[0][0])
    for worker in patient.workers:
        holder, jobs = worker.holder, _some([number for number, _, _ in worker.jobs])
        if not worker.jobs:
            continue
        mend = f"SELECT pg_terminate_backend({holder.backend_pid}) if nobody is there any more; that frees the jobs"
        if holder.pid is not None and holder.host == socket.gethostname() and not _is_alive(holder.pid):
            seen = f"{holder} holds the jobs {jobs}, but there is no such process"
            yield Finding(_WARNING, "holders", seen, mend)
        elif holder.since is not None and (worker.state or "").startswith("idle"):
            seconds = (now - holder.since).total_seconds()
            if seconds > _LONG_IDLE_SECONDS:
                yield Finding(
                    _WARNING,
                    "holders",
                    f"{holder} holds the jobs {jobs}, and its session has been {worker.state} for "
                    f"{seconds / 60:.0f} min: a handler takes long, or its process hangs or is gone",
                    mend,
                )


def check_queues(patient: Patient) -> Iterator[Finding]:
    """Find queues, and types, that nobody works."""
    known: dict[str, set[str]] = {}
    for pool in patient.pools:
        if pool.alive:
            known.setdefault(patient.table.queue_name(pool.queue), set()).update(pool.types)
    worked = {*known, *(queue for worker in patient.workers for queue in worker.queues)}
    unworked = sorted({queue for queue, _ in patient.overdue} - worked)
    # Somebody works a queue whose name can't be told, perhaps one of these.
    if unworked and not any(worker.obeys_pauses and not worker.queues for worker in patient.workers):
        queues, old = _some(list(map(repr, unworked))), patient.table.version == 3
        yield Finding(
            _INFO if old else _WARNING,
            "queues",
            f"jobs have been due for a minute in the queues {queues}, which nobody works"
            f"{', as far as can be seen' if old else ''}",
            "start a worker for each, or move the jobs",
        )
    for queue, types in known.items():
        if unknown := sorted({job_type for each, job_type in patient.overdue if each == queue} - types):
            yield Finding(
                _WARNING,
                "queues",
                f"jobs of the types {_some(unknown)} have been due for a minute in the queue {queue!r}, "
                "and no live pool of qg.jobs knows them",
                "register a function for each in the processes that work the queue",
            )


def check_pauses(patient: Patient) -> Iterator[Finding]:
    """Find out whether queues can be paused, and whether all who work those that are obey."""
    if not has_pauses(patient.session, patient.table):
        seen = "there is no table qg_queues beside que_jobs, so no queue can be paused"
        yield Finding(_INFO, "pauses", seen, "qg.migrate(source), as the owner of que_jobs")
    for pause in patient.pauses:
        for worker in patient.workers:
            if pause.queue in worker.queues and not worker.obeys_pauses and worker.kind != "qg":
                seen = f"the queue {pause.queue!r} is paused, but {worker.holder} works it and doesn't know of pauses"
                yield Finding(_WARNING, "pauses", seen, "stop that process as well")


def check_args(patient: Patient) -> Iterator[Finding]:
    """Find jobs that Python can't read."""
    step = walk(patient.session, patient.table, Filter(), Order.NEXT, "", _READ)
    unreadable = [each.row.id for each in step.found if not (_reads(each.row.args) and _reads(each.row.kwargs))]
    if unreadable:
        seen = f"Python can't read the args of the jobs {_some(unreadable)}, so each of them fails when it is taken"
        yield Finding(_WARNING, "args", seen, "delete them, or let others work them")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        pass
    return True


def _reads(text: str) -> bool:
    try:
        decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _some(things: Sequence[object]) -> str:
    return ", ".join(map(str, things[:10])) + (", …" if len(things) > 10 else "")
