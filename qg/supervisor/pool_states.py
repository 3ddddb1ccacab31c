"""Pool states: what is wrong with the pools of a process, in words."""

from __future__ import annotations

from qg.failures import one_line
from qg.working.oversight import PoolState

__all__ = ["hangs", "why_ended", "why_not_ready"]

# A worker that has done nothing for so long, beside its interval, hangs.
_SILENT_SECONDS = 120.0


def why_not_ready(states: list[PoolState], expected: int) -> list[str]:
    """Return why not all of the *expected* pools take jobs, in words; nothing if they do."""
    reasons = []
    if len(states) < expected:
        reasons.append(
            "a queue of qg.jobs has no workers yet: the database can't be reached, or no function is registered"
        )
    for each in states:
        if not each.started:
            reasons.append(f"the workers of {each.queue!r} are starting")
        elif each.cut_off:
            reasons.append(f"{each.cut_off} workers of {each.queue!r} can't reach the database")
        elif not each.alive:
            reasons.append(f"workers of {each.queue!r} have ended")
    return reasons


def why_ended(states: list[PoolState]) -> str:
    """Return why workers have ended by themselves, in words."""
    refusal = next((each.refusal for each in states if each.refusal is not None), None)
    return "their client was closed" if refusal is None else one_line(refusal)


def hangs(state: PoolState) -> bool:
    """Whether a worker of the pool has neither run a job nor looked for one for too long."""
    return state.started and state.silent_seconds > state.interval + _SILENT_SECONDS
