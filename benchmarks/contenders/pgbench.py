"""pgbench with the least that could be called taking a job: what any queue on this server is measured by."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders.contender import ONE_BY_ONE, Contender, Missing, Way
from benchmarks.contenders.qg import QG, QUE_JOBS
from benchmarks.server import Database

__all__ = ["PGBENCH", "PGBENCH_PREPARED", "Pgbench"]

_TAKE_ONE = """\
BEGIN;
DELETE FROM que_jobs WHERE (queue, priority, run_at, job_id) = (
    SELECT queue, priority, run_at, job_id FROM que_jobs WHERE queue = '' AND run_at <= now()
    ORDER BY priority, run_at, job_id FOR UPDATE SKIP LOCKED LIMIT 1
);
COMMIT;
"""
_INSERT_ONE = "INSERT INTO que_jobs (job_class) VALUES ('Noop');\n"


@dataclass(frozen=True, eq=False)
class Pgbench(Contender):
    """pgbench in one of its query modes, for a given time instead of a given number of jobs."""

    mode: str = "simple"

    def version(self) -> str:
        """Return pgbench's own version.

        Raises:
            Missing: if there is none.
        """
        done = subprocess.run([_pgbench(), "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split(")")[-1].strip()

    def install(self, database: Database, *, notify: bool = False) -> None:
        """Create que_jobs."""
        QG.install(database, notify=notify)

    def drain(self, database: Database, way: Way, workers: int, jobs: int, seconds: float) -> float:
        """Return how many jobs a second so many clients delete; *jobs* must be more than they can."""
        del way, jobs
        threads = min(workers, 2)
        arguments = [f"--client={workers}", f"--jobs={threads}", f"--time={max(1, round(seconds))}"]
        rate = self._rate(database, _TAKE_ONE, arguments)
        if not database.value(self.tables.unfinished):
            raise RuntimeError("it ran out of jobs, so its rate is that of finding none; raise its pace")
        return rate

    def enqueue(self, database: Database, jobs: int, a_call: int) -> float:
        """Return how many rows a second one client inserts one by one."""
        del a_call
        return self._rate(database, _INSERT_ONE, [f"--transactions={jobs}"])

    def _rate(self, database: Database, script: str, arguments: list[str]) -> float:
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(script)
            file.flush()
            done = subprocess.run(
                [_pgbench(), "--no-vacuum", f"--protocol={self.mode}", f"--file={file.name}", *arguments],
                env=database.environment,
                capture_output=True,
                text=True,
                check=False,
            )
        told = re.search(r"tps = ([\d.]+) \(without", done.stdout)
        if done.returncode or told is None:
            raise RuntimeError(done.stderr.strip() or "pgbench told no rate")
        return float(told[1])


def _pgbench() -> str:
    usual = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    found = shutil.which("pgbench") or (str(usual[-1]) if usual else None)
    if found is None:
        raise Missing("there is no pgbench on the PATH nor in /usr/lib/postgresql; install PostgreSQL's client tools")
    return found


def _ways(label: str) -> Mapping[str, Way]:
    return {ONE_BY_ONE: Way(label, pace=15000)}


PGBENCH = Pgbench("pgbench", QUE_JOBS, _ways("take one"), single=5000, is_queue=False)
PGBENCH_PREPARED = Pgbench(
    "pgbench -M prepared", QUE_JOBS, _ways("take one, prepared"), single=5000, is_queue=False, mode="prepared"
)
