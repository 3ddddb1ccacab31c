"""``qg demo``: real files, a real database, a pool of threads, and one failure on purpose."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg2
from psycopg2.extensions import cursor

from qg.cli.display import Display
from qg.client import Client
from qg.failures import printable
from qg.job import Job
from qg.schema import migrate
from qg.tables.demo import ResultStatements
from qg.workerpool import WorkerPool

__all__ = ["NEXT", "run"]

NEXT = ["qg schema install", "qg enqueue Greet '[\"you\"]'", "qg jobs list"]
"""What to type afterwards, whatever is there."""

_POLL_SECONDS = 0.1
_RETRY_SECONDS = 1.0
# A file that can't be read again and again would keep the demo from ending.
_MOST_FAILURES = 4
_MOST_FILES_SHOWN = 10


def run(dsn: str, files: list[Path], left_out: int, workers: int) -> bool:
    """Count the words of *files* with *workers* threads; return whether each was counted exactly once.

    Creates the que_jobs table if need be, works in a queue and a result table of its own, and
    removes both again.

    Raises:
        QgError, psycopg2.Error: if the database can't be used.
    """
    name = f"demo_{uuid4().hex[:4]}"
    results = ResultStatements(name)
    migrate(dsn)
    display = Display(len(files))
    if left_out:
        display.say(f"{_of_files(left_out)} left out: binary, empty, unreadable, or with a name that is no UTF-8.")
    with _result_table(dsn, name, results), _client(dsn, display) as client:
        client.enqueue_batch(
            Job("CountWords", [str(file), number == 0], queue=name) for number, file in enumerate(files)
        )
        display.say(f"A job enqueued for each of {_of_files(len(files))}. The first one fails at first, on purpose.")
        counter = _Counter(results, display)
        pool = WorkerPool(client, {"CountWords": counter.count}, workers, queue=name, interval=_POLL_SECONDS)
        with display, pool:
            _watch(display, client, name, len(files))
        counted = _counted(dsn, results)
        shown = [(printable(file), words) for file, words in counted[:_MOST_FILES_SHOWN]]
        display.ranking("The files with the most words", shown)
        display.stats("The queues at the end", client.stats())
        display.say(f"\n{len(counted)} results for {_of_files(len(files))}; {counter.pace(len(counted), workers)}.")
        complete = sorted(file for file, _ in counted) == sorted(str(file) for file in files)
        display.say("Every file was counted exactly once." if complete else "Not every file was counted exactly once!")
        display.say("\nNext, in a database of your own; QG_DSN says which:\n")
        for command in NEXT:
            display.say(f"    {command}")
        return complete


def _of_files(number: int) -> str:
    return f"{number} file{'' if number == 1 else 's'}"


class _Counter:
    """The handler, and how long its first tries took."""

    def __init__(self, results: ResultStatements, display: Display) -> None:
        self._results = results
        self._display = display
        self._stumbled = 0.0
        self._began = self._ended = time.monotonic()

    def count(self, job: Job) -> None:
        """Count the words of one file; the result and the job's deletion are one commit."""
        name, stumbles = job.args
        if stumbles and job.error_count == 0:
            self._stumbled = time.monotonic()
            raise RuntimeError("stumbled on purpose; the retry will do it")
        with open(name, encoding="utf-8", errors="replace") as file:
            words = sum(len(line.split()) for line in file)
        with job.tx.cursor() as cur:
            cur.execute(self._results.add, (name, words))
        if stumbles:
            waited = time.monotonic() - self._stumbled
            self._display.say(f"job {job.id} was done at its second try, {waited:.1f} s after it failed")
        else:
            self._ended = time.monotonic()

    def pace(self, jobs: int, workers: int) -> str:
        """How long the first tries took, in words."""
        seconds = self._ended - self._began
        rate = f", {jobs / seconds:.0f} jobs a second" if seconds else ""
        return f"the first tries took {seconds:.2f} s with {workers} threads{rate}"


class _ToDisplay(logging.Handler):
    """Shows what goes wrong, in a line each; the traceback is in the job's last_error."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(record.getMessage(), style="yellow")


def _client(dsn: str, display: Display) -> Client:
    logger = logging.Logger("qg.demo")
    logger.addHandler(_ToDisplay(display))
    return Client(dsn, backoff=lambda error_count: _RETRY_SECONDS, logger=logger)


@contextmanager
def _result_table(dsn: str, queue: str, results: ResultStatements) -> Iterator[None]:
    with _cursor(dsn) as cur:
        cur.execute(results.create)
    try:
        yield
    finally:
        with _cursor(dsn) as cur:
            cur.execute(results.drop)
            cur.execute(results.clear_queue, (queue,))


@contextmanager
def _cursor(dsn: str) -> Iterator[cursor]:
    with closing(psycopg2.connect(dsn)) as conn, conn, conn.cursor() as cur:
        yield cur


def _counted(dsn: str, results: ResultStatements) -> list[tuple[str, int]]:
    with _cursor(dsn) as cur:
        cur.execute(results.all)
        return cur.fetchall()


def _watch(display: Display, client: Client, queue: str, total: int) -> None:
    """Show how far the queue is worked until it is empty, or a job has failed too often."""
    failure_shown = False
    while True:
        every = client.stats()
        stats = next((each for each in every if each.queue == queue), None)
        display.progress(total - stats.count if stats else total)
        if stats is None or stats.highest_error_count >= _MOST_FAILURES:
            return
        if stats.count_errored and not failure_shown:
            failure_shown = True
            display.stats("The queues after the failure", every)
        time.sleep(_POLL_SECONDS)
