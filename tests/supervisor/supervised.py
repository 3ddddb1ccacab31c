"""Applications for qg work; started by the tests of this folder, which is their current one."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

import qg

DSN = os.environ.get("QG_DSN", "")


def note(job: qg.Job) -> None:
    """Leave an effect, in the transaction that deletes the job."""
    with job.tx.cursor() as cur:
        cur.execute("INSERT INTO effects (id, pid) VALUES (%s, %s)", (job.id, os.getpid()))


def wait(job: qg.Job) -> None:
    """Leave an effect, and wait in a statement until nobody has the lock (8, 8)."""
    note(job)
    with job.tx.cursor() as cur:
        cur.execute("SELECT pg_advisory_xact_lock_shared(8, 8)")


def hang(job: qg.Job) -> None:
    """Wait for ever, in Python."""
    sys.stderr.write("hanging\n")
    threading.Event().wait()


def fork(job: qg.Job) -> None:
    """Fork a process that waits, and end it by SIGTERM; it ends by that, and nobody else hears of it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"here")
        signal.pause()
    assert os.read(reader, 4) == b"here"
    os.close(reader)
    os.close(writer)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    note(job)


def orphan(job: qg.Job) -> None:
    """Leave a process behind whose parent ends before it does."""
    done = subprocess.run(["sh", "-c", "sleep 0.1 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
    sys.stderr.write(f"orphan {done.stdout.strip()} left\n")
    sys.stderr.flush()
    note(job)


def clutch(job: qg.Job) -> None:
    """Sleep, and keep the interpreter's lock meanwhile."""
    sys.stderr.write("clutching\n")
    sys.stderr.flush()
    ctypes.PyDLL(None).sleep(60)


def leave(job: qg.Job) -> None:
    """End the process as if all were well."""
    os._exit(0)


def fail(job: qg.Job) -> None:
    logging.getLogger("app").info("trying")
    raise ValueError("no\x1b[31m good")


def end_by(number: signal.Signals) -> None:
    """End the process. The signal may come to another thread, some moments later."""
    os.kill(os.getpid(), number)
    threading.Event().wait()


def die(job: qg.Job) -> None:
    """Kill the process, as often as the args say; then leave an effect."""
    (times,) = job.args
    if job.error_count < times:
        end_by(signal.SIGSEGV)
    note(job)


async def note_later(job: qg.Job) -> None:
    note(job)


work_map = {
    "Note": note,
    "Wait": wait,
    "Hang": hang,
    "Fork": fork,
    "Orphan": orphan,
    "Clutch": clutch,
    "Leave": leave,
    "Fail": fail,
    "Die": die,
    "NoteLater": note_later,
}
worc_map = None
empty = {}
number = 7


def pool() -> qg.WorkerPool:
    """A pool whose jobs are due again at once when they have failed."""
    return qg.WorkerPool(qg.Client(DSN, backoff=lambda error_count: 0.0), work_map, 1, interval=0.05)


def several() -> list[qg.WorkerPool]:
    client = qg.Client(DSN)
    return [qg.WorkerPool(client, work_map, 1, queue=queue, interval=0.05) for queue in ("a", "b")]


def nothing() -> list[object]:
    return []


def wrong() -> object:
    return 7


async def later() -> object:
    return work_map


def refuses() -> object:
    raise RuntimeError("the application's own trouble")


@dataclass(frozen=True)
class Greet:
    name: str


@dataclass(frozen=True)
class Crash:
    pass


def queue() -> object:
    """A queue of qg.jobs."""
    from qg import jobs

    client = qg.Client(DSN, backoff=lambda error_count: 3600.0)
    queue = jobs.PostgresJobs(client, pool_size=2, poll_interval=0.05)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        ctx.logger.info("hello %s", job.name)

    @queue.register_job_func
    def crash(ctx: jobs.Context, job: Crash) -> None:
        end_by(signal.SIGKILL)

    return queue
