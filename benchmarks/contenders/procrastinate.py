"""procrastinate: asyncio over psycopg and uvloop, one worker whose concurrency is the number of workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from benchmarks.contenders.contender import DOING_NOTHING, ONE_BY_ONE, WAITING, PythonContender, Way
from benchmarks.contenders.program import Reporter, run_program
from benchmarks.server import Tables

if TYPE_CHECKING:
    from procrastinate import App
    from procrastinate.types import JSONValue

__all__ = ["PROCRASTINATE"]

PROCRASTINATE = PythonContender(
    name="procrastinate",
    tables=Tables(
        empty="TRUNCATE procrastinate_jobs CASCADE",
        fill="INSERT INTO procrastinate_jobs (queue_name, task_name) "
        "SELECT 'default', 'noop' FROM generate_series(1, %s)",
        delete="DELETE FROM procrastinate_jobs",
        unfinished="SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
    ),
    ways={
        ONE_BY_ONE: Way("delete_jobs=always", pace=500),
        WAITING: Way("coroutines, 4 connections, default", pace=500, options={"connections": 4}),
        DOING_NOTHING: Way("delete_jobs=never, default", pace=500, options={"delete_jobs": "never"}),
    },
    single=1200,
    bulk=20000,
    package="procrastinate",
    module="benchmarks.contenders.procrastinate",
)


def _app(connections: int) -> App:
    from procrastinate import App, PsycopgConnector

    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    return App(connector=PsycopgConnector(min_size=connections, max_size=connections))


async def _install(_notify: bool) -> None:
    async with _app(1).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def _work(reporter: Reporter, options: dict[str, str]) -> None:
    workers = int(options["workers"])
    app = _app(int(options.get("connections", workers + 2)))  # one of them listens, and one fetches
    delete_jobs = options.get("delete_jobs", "always")
    seconds = int(options.get("milliseconds", 0)) / 1000

    @app.task(name="noop")
    async def noop(number: int = 1) -> None:
        reporter.job_began()
        if seconds:
            await asyncio.sleep(seconds)

    async with app.open_async():
        await asyncio.to_thread(reporter.ready)
        working = asyncio.create_task(
            app.run_worker_async(concurrency=workers, delete_jobs=delete_jobs, install_signal_handlers=False)
        )
        await asyncio.to_thread(reporter.wait_for_stop)
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


async def _enqueue(jobs: int, a_call: int) -> float:
    argument: dict[str, JSONValue] = {"number": 1}
    async with _app(1).open_async() as app:
        task = app.configure_task("noop")
        await task.defer_async(number=1)
        began = time.monotonic()
        if a_call == 1:
            for _ in range(jobs):
                await task.defer_async(number=1)
        else:
            for _ in range(0, jobs, a_call):
                await task.batch_defer_async(*([argument] * a_call))
        return time.monotonic() - began


if __name__ == "__main__":
    run_program(install=_install, work=_work, enqueue=_enqueue)
