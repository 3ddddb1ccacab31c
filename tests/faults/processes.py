"""Worker processes: started, killed, and stopped in good order."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from experiment import WORKERS, Experiment
from support import PATIENCE

_LONGEST_SECONDS = 90.0
_PROGRAM = Path(__file__).with_name("worker_process.py")


class WorkerProcess:
    """A process with a pool for an experiment's queue, or with one worker in its main thread.

    Args:
        experiment: whose queue it works.
        count: of the pool's workers.
        dsn: its way to the queue, if that isn't the direct one.
        in_main_thread: whether it has one worker, and no pool.
        prefix: the command that runs it, somewhere else.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        count: int = WORKERS,
        dsn: str | None = None,
        in_main_thread: bool = False,
        prefix: Sequence[str] = (),
    ) -> None:
        given = {
            "dsn": dsn or experiment.queue,
            "queue": experiment.queue,
            "books": experiment.books.dsn,
            "count": count,
            "options": dict(experiment.kind.options),
            "in_main_thread": in_main_thread,
        }
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(_PROGRAM), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def wait_for(self, said: str) -> None:
        """Wait until it has *said* that; kill it if that takes too long."""
        assert self.process.stdout is not None
        too_late = threading.Timer(_LONGEST_SECONDS, self.process.kill)
        too_late.start()
        try:
            assert self.process.stdout.readline() == f"{said}\n"
        finally:
            too_late.cancel()
            too_late.join()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it by SIGKILL, if it hasn't ended."""
        self.process.kill()
        self.wait()

    def stop(self) -> None:
        """Let it end its jobs, and itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.wait() == 0

    def wait(self) -> int:
        """Wait for its end, and return its status."""
        status = self.process.wait(3 * PATIENCE)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return status
