"""A contender's worker process as the benchmark sees it: start, go, watch, stop.

It tells what it does in lines of JSON, and does what it is told in lines of one word. All times are
those of CLOCK_MONOTONIC, which the processes of one machine share.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

__all__ = ["Workers", "answer"]

_START_SECONDS = 60
_STOP_SECONDS = 15
_FIRST_JOB_SECONDS = 30


class Workers:
    """A worker process with *command*; in a ``with`` block it is ready to go, and stopped at the end.

    Attributes:
        progress: pairs of a time and how many jobs had begun by then, the newest last.
        began: the times at which jobs began, if the process was told to report each.
        takes: pairs of a time and the seconds that each message to take jobs took until then.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.progress: list[tuple[float, int]] = []
        self.began: list[float] = []
        self.takes: list[tuple[float, list[float]]] = []
        self._is_ready = False
        self._answered = threading.Event()  # that it is ready, or that it has ended
        self._news = threading.Condition()
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Workers:
        self._reader.start()
        self._answered.wait(_START_SECONDS)
        if not self._is_ready:
            self.__exit__()
            raise RuntimeError(f"the workers didn't start: {self._last_words()}")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._tell("stop")
            self._process.wait(_STOP_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._reader.join()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def handled(self) -> int:
        """How many jobs have begun, as far as we know."""
        return self.progress[-1][1] if self.progress else 0

    @property
    def first(self) -> float:
        """When the first job began."""
        return self.progress[0][0]

    def go(self) -> None:
        """Let the workers look for jobs."""
        self._tell("go")

    def rate_since(self, since: float) -> float:
        """Return how many jobs a second have begun after *since*, a time.monotonic()."""
        counted = [point for point in list(self.progress) if point[0] >= since]
        (began, before), (ended, after) = counted[0], counted[-1]
        if ended == began:
            raise RuntimeError("too few jobs began to tell a rate")
        return (after - before) / (ended - began)

    def wait_for_jobs(self, jobs: int, seconds: float) -> bool:
        """Wait until so many have begun, for at most *seconds* from now; return whether they have.

        Raises:
            RuntimeError: if the process ended.
        """
        return self._wait(lambda: self.handled >= jobs, seconds)

    def wait_for_first_job(self) -> None:
        """Wait until a job has begun.

        Raises:
            RuntimeError: if the process ended.
            TimeoutError: if none begins.
        """
        if not self.wait_for_jobs(1, _FIRST_JOB_SECONDS):
            raise TimeoutError(f"no job began within {_FIRST_JOB_SECONDS} s")

    def wait_for_began(self, jobs: int, seconds: float) -> bool:
        """As wait_for_jobs(), for those that were reported one by one."""
        return self._wait(lambda: len(self.began) >= jobs, seconds)

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        with self._news:
            while not done():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                if self._process.poll() is not None:
                    raise RuntimeError(f"the workers ended: {self._last_words()}")
                self._news.wait(min(remaining, 1))
        return True

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            news = json.loads(line)
            with self._news:
                if "handled" in news:
                    self.progress.append((news["at"], news["handled"]))
                if "began" in news:
                    self.began.append(news["began"])
                if "takes" in news:
                    self.takes.append((news["at"], news["takes"]))
                self._news.notify_all()
            if "ready" in news:
                self._is_ready = True
                self._answered.set()
        self._answered.set()
        with self._news:
            self._news.notify_all()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self._process.poll()}, no message"


def answer(command: Sequence[str], environment: dict[str, str], seconds: float = 600) -> dict[str, float]:
    """Run a contender's program to its end and return what its last line of JSON says.

    Raises:
        RuntimeError: if it fails, with the last line of what it wrote.
    """
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}, no message")
    lines = done.stdout.splitlines()
    return dict(json.loads(lines[-1])) if lines else {}
