"""A process that works an experiment's queue until its standard input ends; started by processes.py."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ledger import Handlers, Ledger, write_effect  # noqa: E402 - found by the line above

import qg  # noqa: E402


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class Deadly:
    """A handler that kills its own process at a job's first run, wherever that was, and behaves at the next one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, job: qg.Job) -> None:
        (number,) = job.args
        with self._ledger.run(number, job.conn.info.backend_pid):
            write_effect(job)
            if self._ledger.count_runs(number) == 1:
                os.kill(os.getpid(), signal.SIGKILL)


class Held:
    """A handler that says that it runs, and at a job's first run never ends by itself."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, job: qg.Job) -> None:
        (number,) = job.args
        with self._ledger.run(number, job.conn.info.backend_pid):
            write_effect(job)
            if self._ledger.count_runs(number) == 1:
                say("held")
                threading.Event().wait()


class Lost:
    """A handler that says that it runs, and then only asks whether its lock is lost, and says so."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, job: qg.Job) -> None:
        (number,) = job.args
        with self._ledger.run(number, job.conn.info.backend_pid):
            write_effect(job)
            say("held")
            while not job.lost:
                time.sleep(0.1)
            say("lost")
            job.check()


def main() -> None:
    given = json.loads(sys.argv[1])
    ledger = Ledger(given["books"], given["queue"])
    work_map = {**Handlers(ledger).work_map, "Deadly": Deadly(ledger), "Held": Held(ledger), "Lost": Lost(ledger)}
    with qg.Client(given["dsn"], backoff=lambda error_count: 0.05) as client:
        if given["in_main_thread"]:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            worker = qg.Worker(client, work_map, interval=0.05, **given["options"])
            say("ready")
            worker.work()
        with qg.WorkerPool(client, work_map, given["count"], interval=0.05, **given["options"]):
            say("ready")
            sys.stdin.read()


if __name__ == "__main__":
    main()
