"""Alone: this process works, and nobody looks after it."""

from __future__ import annotations

from qg.supervisor.running_jobs import RunningJobs
from qg.supervisor.settings import Settings
from qg.supervisor.signalled import Signals
from qg.supervisor.surfaces import Surfaces
from qg.supervisor.worker_process import WorkerProcess

__all__ = ["work_alone"]


def work_alone(settings: Settings, surfaces: Surfaces, signals: Signals) -> int:
    """Work in this process until it is to end, and return the exit status. In the main thread.

    Args:
        settings: what to work, and how.
        surfaces: where it is told how that goes; closed at the end.
        signals: installed already.

    Raises:
        QgError: if there is nothing that could be worked.
    """
    process = WorkerProcess(
        settings,
        signals,
        RunningJobs(),
        surfaces.tell,
        ended=surfaces.close,
        next_tick=lambda: surfaces.seconds_until_next,
    )
    try:
        return process.run()
    finally:
        surfaces.close()
