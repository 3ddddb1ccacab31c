"""qg itself, with a connection for each worker and with two for all."""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.contender import (
    BATCHES,
    DOING_NOTHING,
    FEW_CONNECTIONS,
    ONE_BY_ONE,
    WAITING,
    WRITING,
    PythonContender,
    Way,
)
from benchmarks.contenders.program import Reporter, run_program
from benchmarks.server import Tables

if TYPE_CHECKING:
    from qg.working.handlers import WorkFunc

__all__ = ["QG", "QG_FEW", "QUE_JOBS", "WRITE", "install"]

# What a job writes that writes; the table is the benchmark's.
WRITE = "INSERT INTO written (number) VALUES (1)"

QUE_JOBS = Tables(
    empty="TRUNCATE que_jobs",
    fill="INSERT INTO que_jobs (job_class) SELECT 'Noop' FROM generate_series(1, %s)",
    delete="DELETE FROM que_jobs",
    unfinished="SELECT EXISTS (SELECT FROM que_jobs)",
)

QG = PythonContender(
    name="qg",
    tables=QUE_JOBS,
    ways={
        ONE_BY_ONE: Way("batch_size=1", pace=3000, options={"batch_size": 1}),
        BATCHES: Way("batch_size=500", pace=50000, options={"batch_size": 500}),
        WAITING: Way("threads, a connection each", pace=2000, connection_each=True),
        DOING_NOTHING: Way("batch_size=500, no history", pace=50000, options={"batch_size": 500}),
        WRITING: Way("job.tx", pace=3000, options={"writes": 1}),
    },
    single=3500,
    bulk=70000,
    package="qg",
    module="benchmarks.contenders.qg",
)

QG_FEW = PythonContender(
    name="qg connections=2",
    tables=QUE_JOBS,
    ways={
        WAITING: Way("threads", pace=10000, options={"connections": 2}),
        WRITING: Way("job.tx", pace=3000, options={"connections": 2, "writes": 1}),
        FEW_CONNECTIONS: Way("no batch_size", pace=40000, options={"connections": 2}),
    },
    package="qg",
    module="benchmarks.contenders.qg",
)

_DSN = "postgresql://"  # the rest is in the environment


def install(notify: bool) -> None:
    """Create que_jobs; with *notify* it wakes idle workers."""
    import qg

    if notify:
        qg.migrate(_DSN, notify=True)
    else:
        qg.migrate(_DSN)


def _work(reporter: Reporter, options: dict[str, str]) -> None:
    import qg

    logging.getLogger("qg").setLevel(logging.WARNING)
    if options.get("time_takes") == "1":
        _time_takes(reporter)
    chosen: dict[str, Any] = {name: int(options[name]) for name in ("batch_size", "connections") if name in options}
    workers = int(options["workers"])
    if "connections" in chosen:
        chosen["connections"] = min(chosen["connections"], workers)
    with qg.Client(_DSN) as client:
        pool = qg.WorkerPool(client, {"Noop": _handler(reporter, options)}, workers, **chosen)
        reporter.ready()
        with pool:
            reporter.wait_for_stop()


def _handler(reporter: Reporter, options: dict[str, str]) -> WorkFunc:
    """Return a handler that does what *options* say, and nothing more."""
    import qg

    seconds = int(options.get("milliseconds", 0)) / 1000

    def wait(_job: qg.Job) -> None:
        reporter.job_began()
        time.sleep(seconds)

    def write(job: qg.Job) -> None:
        reporter.job_began()
        with job.tx.cursor() as cur:
            cur.execute(WRITE)

    if options.get("writes") == "1":
        return write
    return wait if seconds else lambda _job: reporter.job_began()


def _time_takes(reporter: Reporter) -> None:
    """Report how long each message takes that deletes jobs and locks the next ones."""
    from qg.database.session import Session

    delete_and_run = Session.delete_and_run

    @functools.wraps(delete_and_run)
    def timed(*args, **named):  # type: ignore[no-untyped-def]
        began = time.monotonic()
        try:
            return delete_and_run(*args, **named)
        finally:
            reporter.took(time.monotonic() - began)

    Session.delete_and_run = timed  # type: ignore[method-assign]


def _enqueue(jobs: int, a_call: int) -> float:
    import qg

    with qg.Client(_DSN) as client:
        client.enqueue(qg.Job("Noop", [1]))  # which opens the connection
        began = time.monotonic()
        if a_call == 1:
            for _ in range(jobs):
                client.enqueue(qg.Job("Noop", [1]))
        else:
            for _ in range(0, jobs, a_call):
                client.enqueue_batch([qg.Job("Noop", [1]) for _ in range(a_call)])
        return time.monotonic() - began


if __name__ == "__main__":
    run_program(install=install, work=_work, enqueue=_enqueue)
