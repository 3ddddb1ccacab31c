"""pgqueuer: asyncio over asyncpg and uvloop, a queue manager with a connection of its own for each worker.

For jobs that wait there is one manager, whose max_concurrent_tasks is the number of jobs at once. A tenth of
them is the batch size with which it was fastest.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.contenders.contender import BATCHES, DOING_NOTHING, ONE_BY_ONE, WAITING, PythonContender, Way
from benchmarks.contenders.program import Reporter, run_program
from benchmarks.server import Tables

__all__ = ["PGQUEUER"]

PGQUEUER = PythonContender(
    name="pgqueuer",
    tables=Tables(
        empty="TRUNCATE pgqueuer, pgqueuer_log, pgqueuer_statistics",
        fill="INSERT INTO pgqueuer (priority, entrypoint, status) "
        "SELECT 0, 'noop', 'queued' FROM generate_series(1, %s)",
        delete="DELETE FROM pgqueuer",
        unfinished="SELECT EXISTS (SELECT FROM pgqueuer)",
    ),
    ways={
        ONE_BY_ONE: Way("batch_size=10, default", pace=5000, options={"batch_size": 10}),
        BATCHES: Way("batch_size=500", pace=15000, options={"batch_size": 500}),
        WAITING: Way("coroutines, max_concurrent_tasks, batch_size a tenth of it", pace=6000),
        DOING_NOTHING: Way("batch_size=500, with its log", pace=15000, options={"batch_size": 500}),
    },
    single=2500,
    bulk=70000,
    package="pgqueuer",
    module="benchmarks.contenders.pgqueuer",
)


async def _install(_notify: bool) -> None:
    import asyncpg
    from pgqueuer.queries import Queries

    conn = await asyncpg.connect()
    await Queries.from_asyncpg_connection(conn).install()
    await conn.close()


async def _work(reporter: Reporter, options: dict[str, str]) -> None:
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver

    seconds = int(options.get("milliseconds", 0)) / 1000

    async def noop(_job: object) -> None:
        reporter.job_began()
        if seconds:
            await asyncio.sleep(seconds)

    workers = int(options["workers"])
    if seconds:
        managers, at_most, batch_size = 1, workers, workers // 10
    else:
        managers, at_most, batch_size = workers, None, int(options["batch_size"])
    connections = [await asyncpg.connect() for _ in range(managers)]
    queuers = [PgQueuer(AsyncpgDriver(conn)) for conn in connections]
    for queuer in queuers:
        queuer.entrypoint("noop")(noop)
    await asyncio.to_thread(reporter.ready)
    running = [
        asyncio.create_task(queuer.qm.run(batch_size=batch_size, max_concurrent_tasks=at_most)) for queuer in queuers
    ]
    await asyncio.to_thread(reporter.wait_for_stop)
    for queuer in queuers:
        queuer.qm.shutdown.set()
    await asyncio.gather(*running)


async def _enqueue(jobs: int, a_call: int) -> float:
    import asyncpg
    from pgqueuer.queries import Queries

    queries = Queries.from_asyncpg_connection(await asyncpg.connect())
    await queries.enqueue("noop", b"[1]")
    began = time.monotonic()
    if a_call == 1:
        for _ in range(jobs):
            await queries.enqueue("noop", b"[1]")
    else:
        for _ in range(0, jobs, a_call):
            await queries.enqueue(["noop"] * a_call, [b"[1]"] * a_call, [0] * a_call)
    return time.monotonic() - began


if __name__ == "__main__":
    run_program(install=_install, work=_work, enqueue=_enqueue)
