"""What the tests here share: qg work as a process of its own, with its log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import eventually

HERE = Path(__file__).parent
QG = [sys.executable, "-c", "from qg.cli import main; main()"]


def environment(**more: str) -> dict[str, str]:
    """Ours, without what is pytest's, or for a worker."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "COV_", "QG_", "QUE_", "NOTIFY_", "WATCHDOG_", "DATABASE_URL"))
    }
    return kept | more


def run(*arguments: str, covered: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run qg to its end; *covered* says whether its coverage is measured if ours is."""
    env = {name: value for name, value in environment(**more).items() if covered or not name.startswith("COVERAGE")}
    return subprocess.run([*QG, *arguments], cwd=HERE, env=env, capture_output=True, text=True, timeout=60, check=False)


class Working:
    """A process of qg work, or what *prefix* makes of it.

    Args:
        log: where its standard error goes, and its output.
        arguments: of the command.
        dsn: the database.
    """

    def __init__(
        self, log: Path, *arguments: str, dsn: str, cwd: Path = HERE, prefix: tuple[str, ...] = (), **more: str
    ) -> None:
        self._log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*prefix, *QG, "work", *arguments],
                cwd=cwd,
                env=environment(QG_DSN=dsn, **more),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the log has something that matches *pattern*, and return that."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.log)
            assert match or self.process.poll() is None, f"ended without {pattern!r}:\n{self.log}"
            return match

        match: re.Match[str] = eventually(found, lambda: f"{pattern!r} in the log:\n{self.log}\n", timeout=30)
        return match

    def children(self) -> list[int]:
        """The pids of all processes that a parent has started until now."""
        return [int(pid) for pid in re.findall(r"process_started number=\d+ pid=(\d+)", self.log)]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return the exit status."""
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it doesn't end:\n{self.log}") from None

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def is_gone(pid: int) -> bool:
    """Whether the process has ended, even if nobody has asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def told(log: str) -> list[dict[str, Any]]:
    """The lines of a log in JSON."""
    import json

    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]
