"""Drafts: the jobs that are enqueued for payloads, by a call of enqueue() or at the tick of a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from qg.enqueuing.fields import OneArgument
from qg.job import Job
from qg.jobs.context import current_user
from qg.jobs.cron import Cron, parse_spec
from qg.jobs.envelope import PersistenceCTXPayload, PersistencePayload, git_hash
from qg.jobs.errors import ErrInvalidJobType, ErrScheduleFailed
from qg.jobs.payloads import Payload, PayloadType, payload_type
from qg.jobs.telemetry import carrier

__all__ = ["Schedule", "ctx_here", "draft"]


def ctx_here() -> PersistenceCTXPayload:
    """Return what goes along with a job that is enqueued here and now."""
    return PersistenceCTXPayload(current_user.get() or "", carrier())


def draft(
    takes: PayloadType,
    document: Any,
    ctx: PersistenceCTXPayload,
    queue: str,
    priority: int = 0,
    run_at: datetime | None = None,
) -> Job:
    """Return the job of one payload, which isn't stored yet.

    Args:
        takes: the payload's type.
        document: the payload, encoded.
        ctx: what ctx_here() gave.
        queue, priority, run_at: as for :class:`qg.Job`.
    """
    args = PersistencePayload(document, takes.path, git_hash(), ctx=ctx).to_builtins()
    # Go has one document for its args; the tables of Ruby have it in an array.
    return Job(takes.name, OneArgument(args), queue, priority, run_at)


@dataclass(frozen=True)
class Schedule:
    """A payload that is enqueued at each tick of *cron*."""

    cron: Cron
    takes: PayloadType
    document: Any
    # The same for equal payloads in every process.
    key: str

    @classmethod
    def of(cls, spec: str, payload: Payload) -> Schedule:
        """Return the schedule of *payload* at each tick of *spec*.

        Raises:
            ErrScheduleFailed: if *spec* means nothing, or *payload* is none.
        """
        cron = parse_spec(spec)
        try:
            takes = payload_type(type(payload))
            return cls(cron, takes, takes.encode(payload), takes.key(payload))
        except ErrInvalidJobType as error:
            raise ErrScheduleFailed(str(error)) from error

    def job(self, queue: str) -> Job:
        """Return the job of one tick, for *queue*; it isn't stored yet."""
        return draft(self.takes, self.document, ctx_here(), queue)
