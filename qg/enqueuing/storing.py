"""Storing: from jobs to the statement that stores them, and from its rows back into the jobs. No connection in here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qg.enqueuing.fields import draft_of
from qg.errors import ErrInvalidJob
from qg.job import Job, attempt_of, note_row
from qg.tables import Draft, Row, Statement, Table
from qg.tables.locking import array

__all__ = ["Drafted", "Storing", "drafted", "fill_in"]


@dataclass(frozen=True)
class Storing:
    """The statement that stores some jobs in one version of the table.

    Attributes:
        jobs: what it stores.
        drafts: the jobs as this version holds them.
        statement: stores all of them or none.
        params: its parameters.
        many: whether its one row is for all jobs, or is the only job.
    """

    jobs: Sequence[Job]
    drafts: Sequence[Draft]
    statement: Statement
    params: Sequence[Any]
    many: bool

    def fill_in(self, rows: Sequence[Sequence[Any]]) -> None:
        """Fill what the database gave each job into it; *rows* are those of the statement."""
        if not self.many:
            fill_in(self.jobs[0], Row.read(rows[0][0]))
            return
        for job, draft, (number, run_at) in zip(self.jobs, self.drafts, json.loads(rows[0][0]), strict=True):
            row = Row(
                number, draft.queue, draft.priority, run_at, draft.type, draft.args, 0, None, draft.kwargs, draft.tags
            )
            fill_in(job, row)


@dataclass(frozen=True)
class Drafted:
    """Jobs on their way into the table, checked as far as that is the same for every version."""

    jobs: list[Job]
    drafts: list[Draft]

    def one_in(self, table: Table) -> Storing:
        """Return what stores the only job in *table*.

        Raises:
            ErrInvalidJob: if that version can't hold it.
        """
        (draft,) = self.fitting(table)
        return Storing(self.jobs, (draft,), table.insert_job, draft[: table.width], many=False)

    def all_in(self, table: Table, *, notify: bool) -> Storing:
        """Return what stores all jobs in *table*; with *notify* its lockers are told of each.

        Raises:
            ErrInvalidJob: if that version can't hold one of them.
        """
        drafts = self.fitting(table)
        columns = list(zip(*drafts, strict=True))[: table.width]
        statement = table.insert_jobs if notify else table.insert_jobs_quietly
        return Storing(self.jobs, drafts, statement, [array(column) for column in columns], many=True)

    def fitting(self, table: Table) -> list[Draft]:
        """Return the drafts as *table* holds them.

        Raises:
            ErrInvalidJob: if that version can't hold one of them.
        """
        return [table.fit(draft) for draft in self.drafts]


def drafted(jobs: Iterable[Job]) -> Drafted:
    """Check *jobs* and encode their fields.

    Raises:
        ErrMissingType: if one has no type.
        ErrInvalidJob: if one is no job, is locked, has a field that can't be stored, or is there twice.
    """
    batch = list(jobs)
    drafts = [_draft(job) for job in batch]
    if len({id(job) for job in batch}) < len(batch):
        raise ErrInvalidJob("a batch has the same Job object twice, which can't have two ids; make one each")
    return Drafted(batch, drafts)


def fill_in(job: Job, row: Row) -> None:
    """Note that *job* is stored as *row*, and fill in what the database made of its fields."""
    note_row(job, row)
    job.queue, job.priority, job.run_at = row.queue, row.priority, row.due


def _draft(job: Job) -> Draft:
    if not isinstance(job, Job):
        raise ErrInvalidJob(f"only a qg.Job can be enqueued, not {type(job).__name__}")
    attempt = attempt_of(job)
    if attempt is not None and attempt.held and attempt.row is not None:
        raise ErrInvalidJob(f"{job!r} is locked and so in the queue already; enqueue a new Job")
    return draft_of(job)
