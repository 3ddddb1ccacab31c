"""Stacks: what every thread of the process does at the moment."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import Protocol

from qg.failures import printable
from qg.job import Job

__all__ = ["log_stacks"]


class _Seat(Protocol):
    thread: int | None
    job: Job | None


def log_stacks(logger: logging.Logger, seats: Iterable[_Seat]) -> None:
    """Log, for each thread, its name, the job that it runs, if it does, and its stack."""
    jobs = {seat.thread: job for seat in seats if (job := seat.job) is not None}
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # the way to see the stacks of others
        job = jobs.get(ident)
        doing = "" if job is None else f" id={job.id} type={printable(job.type)} queue={printable(job.queue)}"
        stack = "".join(traceback.format_stack(frame)).rstrip()
        text, arguments = "thread name=%s%s", (printable(names.get(ident, ident)), doing)
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, arguments, None, sinfo=stack)
        logger.handle(record)
