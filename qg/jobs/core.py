"""What qg.jobs uses of the core's classes beyond their public names. No other module here reaches into one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

from qg.client import Client
from qg.fields import decode
from qg.job import Job, Observer
from qg.session import Session
from qg.tables import Row

__all__ = [
    "is_synchronous",
    "job_with_row",
    "observe",
    "row_of",
    "session_of",
    "store_as_one_argument",
]


def session_of(client: Client) -> AbstractContextManager[Session]:
    """Lease a session of *client* for the time of a ``with`` block."""
    return client._session()


def is_synchronous(client: Client) -> bool:
    """Return whether *client* runs jobs itself, instead of storing them."""
    return client._synchronous is not None


def row_of(job: Job) -> Row:
    """Return the row of *job*, which is locked."""
    return cast("Row", job._row)


def job_with_row(row: Row) -> Job:
    """Return the job that *row* holds, with its id and error count."""
    job = Job(row.type, decode(row.args), row.queue, row.priority, row.due)
    job._row = row
    return job


def observe(job: Job, observer: Observer) -> None:
    """Let *observer* follow the attempt at *job*."""
    job._observer = observer


def store_as_one_argument(job: Job) -> None:
    """Let the args of *job* be one argument: where a table demands an array, they are its only element."""
    job._one_argument = True
