"""Contenders from npm, installed into the user's cache folder."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders.contender import Contender, Missing
from benchmarks.server import Database
from benchmarks.workers import Workers

__all__ = ["NodeContender"]

_PACKAGES = ("graphile-worker@0.17", "pg-boss@10", "pg@8")


@dataclass(frozen=True, eq=False)
class NodeContender(Contender):
    """A library of Node's; ``program`` in this folder calls it as its users do."""

    package: str = ""
    program: str = ""

    def version(self) -> str:
        """Return the version of the package, after installing it if it isn't there.

        Raises:
            Missing: if there is no Node or no npm, or the registry can't be reached.
        """
        package = _installed() / self.package / "package.json"
        return str(json.loads(package.read_text())["version"])

    def command(self) -> list[str]:
        """Return how Node runs the program."""
        return ["node", str(Path(__file__).with_name(self.program))]

    def install(self, database: Database, *, notify: bool = False) -> None:
        """Create its tables."""
        super().install(_finding_packages(database), notify=notify)

    def workers(self, database: Database, way, count: int, **options: object) -> Workers:  # type: ignore[no-untyped-def]
        """Return a process of *count* workers."""
        return super().workers(_finding_packages(database), way, count, **options)

    def enqueue(self, database: Database, jobs: int, a_call: int) -> float:
        """Return how many jobs a second one client enqueues."""
        return super().enqueue(_finding_packages(database), jobs, a_call)


def _finding_packages(database: Database) -> Database:
    environment = {**database.environment, "NODE_PATH": str(_installed()), "NODE_ENV": "production"}
    return Database(environment, database.conn, database.tables)


@functools.cache
def _installed() -> Path:
    """Return the folder with the packages, which are installed by the first call of a run."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise Missing(f"there is no {tool} on the PATH; install Node.js")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qg-bench" / "npm"
    cache.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["npm", "install", "--prefix", str(cache), "--no-audit", "--no-fund", *_PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(f"npm couldn't install {' '.join(_PACKAGES)}: {done.stderr.strip().splitlines()[-1]}")
    return cache / "node_modules"
