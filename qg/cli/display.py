"""What a command shows: sentences, progress, tables; colours and a bar only on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from qg.stats import JobStats

__all__ = ["Display"]


class Display:
    """Standard output, for a command that does *total* things; as a context, with their progress."""

    def __init__(self, total: int) -> None:
        self._console = Console(highlight=False)
        self._total = total
        self._tenths = 0
        self._progress = Progress(
            TextColumn("counting"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("counting", total=total)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def say(self, sentence: str, style: str = "") -> None:
        """Print *sentence* as it is, in one line however long."""
        self._console.print(Text(sentence, style=style), soft_wrap=True)

    def progress(self, done: int) -> None:
        """Show that *done* are done: on the bar, or as a line at every tenth."""
        self._progress.update(self._task, completed=done)
        tenths = 10 * done // self._total
        if not self._console.is_terminal and tenths > self._tenths:
            self._tenths = tenths
            self.say(f"{done} of {self._total} files counted")

    def ranking(self, title: str, rows: Iterable[tuple[str, int]]) -> None:
        """Print names with a number each."""
        table = Table(Column("file", overflow="fold"), Column("words", justify="right"))
        for name, number in rows:
            table.add_row(Text(name), str(number))
        self._print(title, table)

    def stats(self, title: str, stats: Iterable[JobStats]) -> None:
        """Print what Client.stats() returned."""
        names = ("queue", "type", "count", "working", "errored", "highest", "oldest run_at")
        table = Table(*(Column(name, no_wrap=True) for name in names))
        for each in stats:
            counts = (each.count, each.count_working, each.count_errored, each.highest_error_count)
            due = f"{each.oldest_run_at:%H:%M:%S}"
            table.add_row(*map(Text, (each.queue, each.type, *map(str, counts), due)))
        self._print(title if table.rows else f"{title}: no jobs", table)

    def _print(self, title: str, table: Table) -> None:
        self.say(f"\n{title}")
        self._console.print(table)
