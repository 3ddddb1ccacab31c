"""qg.jobs: functions with a history of every attempt, in the default configuration and with two connections."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.contender import DOING_NOTHING, WRITING, PythonContender, Way
from benchmarks.contenders.program import Reporter, run_program
from benchmarks.contenders.qg import QUE_JOBS, WRITE
from benchmarks.contenders.qg import install as create_que_jobs
from benchmarks.server import Tables

__all__ = ["QG_JOBS", "QG_JOBS_FEW"]

# One job as the library stores it; the others are its copies.
_KEEP_ONE = "CREATE TABLE one_job AS SELECT job_class, args FROM que_jobs"
_TABLES = Tables(
    empty="TRUNCATE que_jobs, qg_jobs_history",
    fill="INSERT INTO que_jobs (job_class, args) SELECT job_class, args FROM one_job, generate_series(1, %s)",
    delete=QUE_JOBS.delete,
    unfinished=QUE_JOBS.unfinished,
)

QG_JOBS = PythonContender(
    name="qg.jobs",
    tables=_TABLES,
    ways={
        DOING_NOTHING: Way("default, with its history", pace=15000),
        WRITING: Way("ctx.tx", pace=3000, options={"writes": 1}),
    },
    package="qg",
    module="benchmarks.contenders.qg_jobs",
)

QG_JOBS_FEW = PythonContender(
    name="qg.jobs connections=2",
    tables=_TABLES,
    ways={
        DOING_NOTHING: Way("with its history", pace=15000, options={"connections": 2}),
        WRITING: Way("ctx.tx", pace=3000, options={"connections": 2, "writes": 1}),
    },
    package="qg",
    module="benchmarks.contenders.qg_jobs",
)

_DSN = "postgresql://"  # the rest is in the environment


@dataclass(frozen=True)
class Noop:
    """A job without fields."""


def _install(notify: bool) -> None:
    import psycopg2

    from qg import jobs

    create_que_jobs(notify)
    jobs.migrate(_DSN)
    with jobs.PostgresJobs(_DSN) as queue:
        queue.enqueue(Noop())
    conn = psycopg2.connect(_DSN)
    with conn, conn.cursor() as cur:
        cur.execute(_KEEP_ONE)
    conn.close()


def _work(reporter: Reporter, options: dict[str, str]) -> None:
    from qg import jobs

    logging.getLogger("qg").setLevel(logging.WARNING)
    workers = int(options["workers"])
    few: dict[str, Any] = {"connections": min(int(options["connections"]), workers)} if "connections" in options else {}
    queue = jobs.PostgresJobs(_DSN, pool_size=workers, **few)

    def do_nothing(_ctx: jobs.Context, _job: Noop) -> None:
        reporter.job_began()

    def write(ctx: jobs.Context, _job: Noop) -> None:
        reporter.job_began()
        with ctx.tx.cursor() as cur:
            cur.execute(WRITE)

    queue.register_job_func(write if options.get("writes") == "1" else do_nothing)
    reporter.ready()
    with queue:
        queue.start()
        reporter.wait_for_stop()


if __name__ == "__main__":
    run_program(install=_install, work=_work)
