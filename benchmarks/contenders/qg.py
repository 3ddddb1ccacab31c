"""qg itself."""

from __future__ import annotations

import functools
import logging
import time

from benchmarks.contenders.contender import BATCHES, ONE_BY_ONE, PythonContender, Way
from benchmarks.contenders.program import Reporter, run_program
from benchmarks.server import Tables

__all__ = ["QG", "QUE_JOBS"]

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
    },
    single=3500,
    bulk=70000,
    package="qg",
    module="benchmarks.contenders.qg",
)

_DSN = "postgresql://"  # the rest is in the environment


def _install(notify: bool) -> None:
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
    with qg.Client(_DSN) as client:
        pool = qg.WorkerPool(
            client,
            {"Noop": lambda job: reporter.job_began()},
            int(options["workers"]),
            interval=float(options["interval"]) if "interval" in options else None,
            batch_size=int(options["batch_size"]),
        )
        reporter.ready()
        with pool:
            reporter.wait_for_stop()


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
    run_program(install=_install, work=_work, enqueue=_enqueue)
