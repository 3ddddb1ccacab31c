"""Oban for Python: asyncio over psycopg and uvloop, one queue whose limit is the number of jobs at once."""

from __future__ import annotations

import asyncio
import platform
import sys
from dataclasses import dataclass

from benchmarks.contenders.contender import WAITING, Missing, PythonContender, Way
from benchmarks.contenders.program import Reporter, run_program
from benchmarks.server import Tables

__all__ = ["OBAN"]


@dataclass(frozen=True, eq=False)
class _Oban(PythonContender):
    """The library in the process's own Python, which may be too old for it."""

    def version(self) -> str:
        """Return the version of the package.

        Raises:
            Missing: if it isn't there.
        """
        if sys.version_info < (3, 12):
            raise Missing(f"it needs Python 3.12, and this is {platform.python_version()}")
        return super().version()


OBAN = _Oban(
    name="oban",
    tables=Tables(
        empty="TRUNCATE oban_jobs",
        fill="INSERT INTO oban_jobs (worker) SELECT 'benchmarks.Noop' FROM generate_series(1, %s)",
        delete="DELETE FROM oban_jobs",
        unfinished="SELECT EXISTS (SELECT FROM oban_jobs WHERE state IN ('available', 'executing'))",
    ),
    ways={WAITING: Way("coroutines, limit, pool of 10", pace=3000)},
    package="oban",
    module="benchmarks.contenders.oban",
)

_DSN = "postgresql://"  # the rest is in the environment


async def _install(_notify: bool) -> None:
    from oban import Oban
    from oban.schema import install

    pool = await Oban.create_pool(_DSN)
    await install(pool)
    await pool.close()


async def _work(reporter: Reporter, options: dict[str, str]) -> None:
    from oban import Job, Oban, worker

    seconds = int(options["milliseconds"]) / 1000

    async def process(_self: object, _job: Job) -> None:
        reporter.job_began()
        await asyncio.sleep(seconds)

    worker()(type("Noop", (), {"__module__": "benchmarks", "process": process}))  # named as in the rows
    pool = await Oban.create_pool(_DSN)
    await asyncio.to_thread(reporter.ready)
    async with Oban(pool=pool, queues={"default": int(options["workers"])}):
        await asyncio.to_thread(reporter.wait_for_stop)
    await pool.close()


if __name__ == "__main__":
    run_program(install=_install, work=_work)
