"""Offspring: a child as its parent sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from qg.supervisor.messages import Death, Lines, Speaker
from qg.supervisor.running_jobs import RunningJob, RunningJobs
from qg.supervisor.settings import Settings
from qg.supervisor.standing import Standing

__all__ = ["Child"]


class Child:
    """A process that works. It is started anew, not forked, so that it has nothing of the parent's but three files.

    One is a pipe through which the parent says what to do. It is closed when the parent is gone, however that came
    about, and the child ends then. Through another one the child tells how it stands. The third is memory in which the
    child notes what runs.

    Args:
        number: of its place, for those who read the log.
        settings: what to work, and how.
        deaths: what to record before it takes its first job.

    Attributes:
        pid: of the process.
        status: the file from which read() reads.
        standing: how it stood when it told last; None if it hasn't told yet.
        asked: whether it was asked to end.
        killed: whether kill() was called.
        was_ready: whether it has ever been.

    Raises:
        OSError: if no process can be started.
    """

    def __init__(self, number: int, settings: Settings, deaths: Sequence[Death]) -> None:
        with ExitStack() as its, ExitStack() as ours:  # its files are closed here in any case
            self._running, memory = RunningJobs.in_file()
            its.callback(os.close, memory)
            commands, says = os.pipe()
            its.callback(os.close, commands)
            ours.callback(os.close, says)
            self.status, tells = os.pipe()
            its.callback(os.close, tells)
            ours.callback(os.close, self.status)
            os.set_blocking(self.status, False)
            files = (commands, tells, memory)
            self._process = subprocess.Popen(  # noqa: S603 - this Python, and a module of ours
                [sys.executable, "-m", "qg.supervisor.child", *map(str, files), settings.app, f"#{number}"],
                pass_fds=files,
                stdin=subprocess.DEVNULL,
                # Ctrl-C in a terminal is for the parent, which passes it on.
                start_new_session=True,
            )
            ours.pop_all()
        self._speaker = Speaker(says)
        self.pid = self._process.pid
        self._lines = Lines()
        self._began = self._heard_at = time.monotonic()
        self.standing: Standing | None = None
        self.asked = self.killed = self.was_ready = False
        self.say(settings=settings.to_json(), deaths=[death.to_plain() for death in deaths])

    @property
    def age(self) -> float:
        """How many seconds ago it was started."""
        return time.monotonic() - self._began

    @property
    def is_working(self) -> bool:
        """Whether it takes jobs."""
        return self.standing is not None and self.standing.stage == "working" and not self.asked

    @property
    def is_ending(self) -> bool:
        """Whether it has said that it ends. One whose handler ends the process hasn't."""
        return self.standing is not None and self.standing.stage == "ending"

    def is_silent(self, seconds: float) -> bool:
        """Whether it hasn't told anything for so long."""
        return time.monotonic() - self._heard_at > seconds

    def say(self, **message: Any) -> None:
        """Tell it what to do."""
        self._speaker.say(**message)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what it has told since the last call, but for how it stands, which is noted here."""
        data = b""
        with suppress(BlockingIOError):
            while part := os.read(self.status, 65536):
                data += part
        for message in self._lines.messages(data):
            self._heard_at = time.monotonic()
            if "standing" in message:
                self.standing = Standing.from_plain(message["standing"])
                self.was_ready = self.was_ready or self.standing.ready
            yield message

    def running(self) -> list[RunningJob]:
        """Return what runs; when it has died, what ran."""
        return self._running.read()

    def kill(self) -> None:
        """End it without its help."""
        self.killed = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self, status: int) -> None:
        """Note that it has ended, with this status, and close the pipes."""
        self._process.returncode = status  # or Popen would wait for it
        self._speaker.close()
        os.close(self.status)
