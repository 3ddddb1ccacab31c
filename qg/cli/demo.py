"""``qg demo``: real files, a real database, a pool of threads, and one failure on purpose."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg2
from psycopg2.extensions import cursor
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from qg.client import Client
from qg.errors import QgError
from qg.job import Job, JobStats
from qg.schema import migrate
from qg.tables.demo import ResultStatements
from qg.workerpool import WorkerPool

__all__ = ["run", "text_files"]

_POLL_SECONDS = 0.1
_RETRY_SECONDS = 1.0
# A file that can't be read again and again would keep the demo from ending.
_MOST_FAILURES = 3
_MOST_FILES_SHOWN = 10


def text_files(folder: Path) -> list[Path]:
    """Return the text files below *folder*, hidden folders left out.

    Raises:
        QgError: if there is no such folder, or no text file in it.
    """
    if not folder.is_dir():
        raise QgError(f"there is no folder {str(folder)!r}; give --path an existing one")
    files = [path for path in _walk(folder) if _is_text(path)]
    if not files:
        raise QgError(f"there is no text file below {str(folder)!r}; give --path another folder")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            yield Path(parent, name)


def _is_text(path: Path) -> bool:
    try:
        # Another kind than a regular file, a pipe say, might never end.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            beginning = file.read(8192)
        str(path).encode("utf-8")
    except (OSError, UnicodeEncodeError):
        return False
    return bool(beginning) and b"\x00" not in beginning


def run(dsn: str, files: list[Path], workers: int) -> bool:
    """Count the words of *files* with *workers* threads; return whether each was counted exactly once.

    Creates the que_jobs table if need be, works in a queue and a result table of its own, and
    removes both again.

    Raises:
        QgError, psycopg2.Error: if the database can't be used.
    """
    console = Console(highlight=False)
    name = f"demo_{uuid4().hex[:8]}"
    results = ResultStatements(name)
    migrate(dsn)
    with _result_table(dsn, name, results), _client(dsn, console) as client:
        client.enqueue_batch(
            Job("CountWords", {"file": str(file), "stumble": number == 0}, queue=name)
            for number, file in enumerate(files)
        )
        console.print(f"{len(files)} jobs enqueued. One of them fails at its first try, on purpose.")
        counter = _Counter(results)
        with WorkerPool(client, {"CountWords": counter.count}, workers, queue=name, interval=_POLL_SECONDS):
            _watch(console, client, name, len(files))
        counted = _counted(dsn, results)
        complete = sorted(file for file, _ in counted) == sorted(str(file) for file in files)
        _report(console, counted, counter, len(files), workers)
        _print_stats(console, "The queues at the end", client.stats())
        if not complete:
            console.print(f"{len(counted)} results for {len(files)} files: not every file was counted exactly once.")
        return complete


class _Counter:
    """The handler, and when it counted its first and its last file at the first try."""

    def __init__(self, results: ResultStatements) -> None:
        self._results = results
        self.began = time.monotonic()
        self.first_tries_ended = self.began
        self.ended = self.began

    def count(self, job: Job) -> None:
        """Count the words of one file; the result and the job's deletion are one commit."""
        stumbled = job.error_count > 0
        if job.args["stumble"] and not stumbled:
            raise RuntimeError("stumbled on purpose; the retry will do it")
        with open(job.args["file"], encoding="utf-8", errors="replace") as file:
            words = sum(len(line.split()) for line in file)
        with job.tx.cursor() as cur:
            cur.execute(self._results.add, (job.args["file"], words))
        self.ended = time.monotonic()
        if not stumbled:
            self.first_tries_ended = self.ended


class _OneLine(logging.Handler):
    """Prints the first line of what goes wrong; the whole of it is in the job's last_error."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text(record.getMessage(), style="yellow"))


def _client(dsn: str, console: Console) -> Client:
    logger = logging.Logger("qg.demo")
    logger.addHandler(_OneLine(console))
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


def _watch(console: Console, client: Client, queue: str, total: int) -> None:
    """Show how far the queue is worked until it is empty, or a job fails for good."""
    waiting_shown = False
    with _Display(console, total) as display:
        while True:
            stats = next((each for each in client.stats() if each.queue == queue), None)
            if stats is None:
                display.show(total)
                return
            display.show(total - stats.count)
            if stats.count == stats.count_errored and not waiting_shown:
                waiting_shown = True
                _print_stats(console, "The queues while the failed job waits for its retry", client.stats())
            if stats.highest_error_count > _MOST_FAILURES:
                return
            time.sleep(_POLL_SECONDS)


class _Display:
    """A progress bar, or a line at every tenth where the output is no terminal."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._tenths = 0
        self._progress = Progress(
            TextColumn("counting"), BarColumn(), MofNCompleteColumn(), console=console, disable=not console.is_terminal
        )
        self._task = self._progress.add_task("counting", total=total)

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, done: int) -> None:
        self._progress.update(self._task, completed=done)
        tenths = 10 * done // self._total
        if not self._console.is_terminal and tenths > self._tenths:
            self._tenths = tenths
            self._console.print(f"{done} of {self._total} files counted")


def _report(console: Console, counted: list[tuple[str, int]], counter: _Counter, total: int, workers: int) -> None:
    table = Table("file", Column("words", justify="right"), title="Files with the most words", title_justify="left")
    for file, words in counted[:_MOST_FILES_SHOWN]:
        table.add_row(Text(file, overflow="fold"), str(words))
    console.print(table)
    seconds = counter.first_tries_ended - counter.began
    if total > 1 and seconds > 0:
        console.print(
            f"{total - 1} jobs in {seconds:.2f} s with {workers} threads, {(total - 1) / seconds:.0f} a second; "
            f"the one that failed was done {counter.ended - counter.first_tries_ended:.1f} s later."
        )


def _print_stats(console: Console, title: str, stats: list[JobStats]) -> None:
    if not stats:
        console.print(f"{title}: no jobs.")
        return
    table = Table(
        "queue",
        "type",
        "count",
        "working",
        "errored",
        "most errors",
        "oldest run_at",
        title=title,
        title_justify="left",
    )
    for each in stats:
        counts = (each.count, each.count_working, each.count_errored, each.highest_error_count)
        due = f"{each.oldest_run_at:%Y-%m-%d %H:%M:%S %Z}"
        cells = (each.queue, each.type, *map(str, counts), due)
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console.print(table)
