"""qg's pool of coroutines, which has one connection for all of them."""

from __future__ import annotations

import asyncio
import logging

from benchmarks.contenders.contender import WAITING, PythonContender, Way
from benchmarks.contenders.program import Reporter, run_program
from benchmarks.contenders.qg import QUE_JOBS, install

__all__ = ["QG_AIO"]

QG_AIO = PythonContender(
    name="qg.aio",
    tables=QUE_JOBS,
    ways={WAITING: Way("coroutines, connections=1", pace=10000, options={"connections": 1})},
    package="qg",
    module="benchmarks.contenders.qg_aio",
)

_DSN = "postgresql://"  # the rest is in the environment


async def _work(reporter: Reporter, options: dict[str, str]) -> None:
    import qg
    from qg import aio

    logging.getLogger("qg").setLevel(logging.WARNING)
    seconds = int(options["milliseconds"]) / 1000

    async def wait(_job: qg.Job) -> None:
        reporter.job_began()
        await asyncio.sleep(seconds)

    async with aio.Client(_DSN) as client:
        pool = aio.WorkerPool(client, {"Noop": wait}, int(options["workers"]), connections=int(options["connections"]))
        await asyncio.to_thread(reporter.ready)
        async with pool:
            await asyncio.to_thread(reporter.wait_for_stop)


if __name__ == "__main__":
    run_program(install=install, work=_work)
