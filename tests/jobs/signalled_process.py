"""A process whose signal handler shuts its queue down while a job runs; started by test_postgres_jobs.py."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Slow:
    pass


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(dsn: str) -> None:
    from qg import jobs

    queue = jobs.PostgresJobs(dsn, pool_size=1)
    running, go_on = threading.Event(), threading.Event()

    @queue.register_job_func
    def work(ctx: jobs.Context, job: Slow) -> None:
        running.set()
        go_on.wait(30)
        say("done")

    signal.signal(signal.SIGTERM, lambda *_: say(f"handler: {queue.shutdown()}"))
    queue.enqueue(Slow())
    queue.start()
    running.wait(30)
    signal.raise_signal(signal.SIGTERM)
    say("ended")
    threading.Timer(0.2, go_on.set).start()


if __name__ == "__main__":
    main(sys.argv[1])
