"""Standing: how a process of ``qg work`` stands, or several, for those who ask."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qg.supervisor.tally import Counts

__all__ = ["QueueDepth", "Standing", "standing_of_all"]


@dataclass(frozen=True)
class QueueDepth:
    """How full a queue is: how many jobs are to be done, how many of them are due, and for how long the oldest is."""

    queue: str
    waiting: int
    due: int
    oldest_seconds: float


@dataclass(frozen=True)
class Standing:
    """How it stands.

    Attributes:
        live: whether each worker runs a job, or has looked for one lately.
        ready: whether all workers are there and reach the database, and take jobs.
        reasons: why not, in words.
        stage: "starting", "working" or "ending".
        queues: which are worked.
        workers, busy: how many jobs can run at once, and how many do.
        settled: how many jobs have come to some end.
        restarts: how many processes have taken the place of others.
        depths: how full the queues are, if that was looked at.
        nothing_due: whether it ends since no job is due.
        counts: what was counted, if anything is.
    """

    live: bool = True
    ready: bool = False
    reasons: tuple[str, ...] = ("it is starting",)
    stage: str = "starting"
    queues: tuple[str, ...] = ()
    workers: int = 0
    busy: int = 0
    settled: int = 0
    restarts: int = 0
    depths: tuple[QueueDepth, ...] = ()
    nothing_due: bool = False
    counts: Counts = field(default_factory=Counts)

    @property
    def summary(self) -> str:
        """One line for people."""
        queues = ", ".join(repr(each) for each in self.queues)
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return (
            f"{self.stage} {queues or 'nothing yet'}, {self.busy} of {self.workers} busy, {self.settled} jobs done{why}"
        )

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {
            **fields,
            "depths": [dataclasses.astuple(each) for each in self.depths],
            "counts": self.counts.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Standing:
        """Return what to_plain() was asked of."""
        return cls(
            **{
                **plain,
                "reasons": tuple(plain["reasons"]),
                "queues": tuple(plain["queues"]),
                "depths": tuple(QueueDepth(*each) for each in plain["depths"]),
                "counts": Counts.from_plain(plain["counts"]),
            }
        )


def standing_of_all(each: Iterable[Standing], past: Counts, restarts: int, stage: str, missing: list[str]) -> Standing:
    """Return how several processes stand together.

    Args:
        each: how each stands that is there.
        past: what those have counted that are gone.
        restarts: how many there were of them.
        stage: that of all.
        missing: why some aren't there.
    """
    all_of_them = list(each)
    counts = Counts()
    counts.add(past)
    for one in all_of_them:
        counts.add(one.counts)
    reasons = dict.fromkeys([*missing, *(reason for one in all_of_them for reason in one.reasons)])
    return Standing(
        live=all(one.live for one in all_of_them),
        ready=bool(all_of_them) and not missing and all(one.ready for one in all_of_them) and stage == "working",
        reasons=tuple(reasons),
        stage=stage,
        queues=tuple(dict.fromkeys(queue for one in all_of_them for queue in one.queues)),
        workers=sum(one.workers for one in all_of_them),
        busy=sum(one.busy for one in all_of_them),
        settled=sum(one.settled for one in all_of_them),
        restarts=restarts,
        depths=next((one.depths for one in all_of_them if one.depths), ()),
        counts=counts,
    )
