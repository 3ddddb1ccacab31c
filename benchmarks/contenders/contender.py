"""What every contender can do, and how those do it that are a program of ours around a library."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from benchmarks.server import Database, Tables
from benchmarks.workers import Workers, answer

__all__ = [
    "BATCHES",
    "DOING_NOTHING",
    "FEW_CONNECTIONS",
    "ONE_BY_ONE",
    "WAITING",
    "WRITING",
    "Contender",
    "Missing",
    "PythonContender",
    "Way",
    "drained",
]

# The ways of draining. For an opponent the first is its default configuration, and the second the
# fastest one that its documentation has.
ONE_BY_ONE = "one by one"
BATCHES = "batches"
# Many jobs that wait, at once; a coroutine each where the library has them.
WAITING = "jobs wait"
# With a record of each attempt where the library keeps one, and with a row that each job writes in the
# transaction in which it ends.
DOING_NOTHING = "jobs do nothing"
WRITING = "jobs write a row"
# Jobs that do nothing, a few locked by each of few connections.
FEW_CONNECTIONS = "few connections"

_FINISH_SECONDS = 30


class Missing(Exception):  # noqa: N818 - a fact about the machine, not a failure
    """A contender can't run on this machine; the message says what it lacks."""


@dataclass(frozen=True)
class Way:
    """One way to run a contender's workers.

    ``pace`` is about how many jobs a second that drains at best. It only decides how many jobs a
    run has, so that all runs take about as long. With ``connection_each`` every worker has a
    connection, so the server's ``max_connections`` limits their number.
    """

    label: str
    pace: int
    options: Mapping[str, object] = field(default_factory=dict)
    connection_each: bool = False


@dataclass(frozen=True, eq=False)
class Contender:
    """A queue that takes part.

    Args:
        name: as the report has it.
        tables: its statements.
        ways: how it drains, by ONE_BY_ONE and BATCHES; one that it hasn't is left out.
        single: about how many jobs a second it enqueues one by one; None leaves it out.
        bulk: the same, a thousand a call.
        is_queue: whether it has workers that one could watch, or is a single statement only.
    """

    name: str
    tables: Tables
    ways: Mapping[str, Way]
    single: int | None = None
    bulk: int | None = None
    is_queue: bool = True

    def version(self) -> str:
        """Return what is installed, after installing it where that is up to us.

        Raises:
            Missing: if it isn't there.
        """
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return how its program is started."""
        raise NotImplementedError

    def install(self, database: Database, *, notify: bool = False) -> None:
        """Create its tables; with *notify* also what wakes idle workers, where that is an option."""
        answer([*self.command(), "install", f"notify={int(notify)}"], database.environment)

    def workers(self, database: Database, way: Way, count: int, **options: object) -> Workers:
        """Return a process of *count* workers. With ``each=1`` it reports every job's begin, otherwise their number."""
        said = {"workers": count, **way.options, **options}
        return Workers(
            [*self.command(), "work", *(f"{name}={value}" for name, value in said.items())], database.environment
        )

    def drain(self, database: Database, way: Way, workers: int, jobs: int, seconds: float) -> float:
        """Return how many jobs a second leave the database, where exactly *jobs* are waiting; see drained()."""
        with self.workers(database, way, workers) as process:
            process.go()
            return drained(process, database, jobs, seconds)

    def enqueue(self, database: Database, jobs: int, a_call: int) -> float:
        """Return how many jobs a second one client enqueues through the library, so many *a_call*."""
        told = answer([*self.command(), "enqueue", f"jobs={jobs}", f"a_call={a_call}"], database.environment)
        return jobs / told["seconds"]


def drained(process: Workers, database: Database, jobs: int, seconds: float) -> float:
    """Return how many jobs a second *process*, just told to go, works until *jobs*, exactly as many as wait, are gone.

    The clock runs from the first job's begin until no job is left. A run that takes four times
    *seconds* ends there, and what was begun by then counts.
    """
    process.wait_for_first_job()
    if process.wait_for_jobs(jobs, 4 * seconds):
        return jobs / (database.wait_until_finished(_FINISH_SECONDS) - process.first)
    return process.rate_since(process.first)


@dataclass(frozen=True, eq=False)
class PythonContender(Contender):
    """A Python library; ``module`` in this folder is its program, which calls it as its users do."""

    package: str = ""
    module: str = ""

    def version(self) -> str:
        """Return the version of the package.

        Raises:
            Missing: if it isn't installed.
        """
        try:
            return version(self.package)
        except PackageNotFoundError:
            raise Missing(f"{self.package} isn't installed; pip install '.[bench]'") from None

    def command(self) -> list[str]:
        """Return how Python runs the module."""
        return [sys.executable, "-m", self.module]
