"""A run of the benchmark: its durations, its contenders and their databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.contenders import ALL, Contender, Missing
from benchmarks.results import Results, first_line
from benchmarks.server import Database, Server

__all__ = ["Durations", "Run", "contenders_named", "in_thread"]


@dataclass(frozen=True)
class Durations:
    """How long and how often is measured.

    Args:
        rounds: runs of each figure, whose median counts.
        run_seconds: about how long a run is that drains or enqueues.
        short_seconds: the same, where there are many to compare.
        workers: how many workers drain.
        pickups: how many jobs are enqueued one after another to an idle worker, each round.
        depths: the backlogs, in jobs.
        attempts: how many the history has that is looked at.
        dead_rows: how many dead rows a held snapshot keeps.
        steady_seconds: how long 800 jobs a second are enqueued.
        hold_seconds: how long each of the three snapshots is held meanwhile.
        idle_seconds: how long an idle pool is watched.
    """

    rounds: int
    run_seconds: float
    short_seconds: float
    workers: Sequence[int]
    pickups: int
    depths: Sequence[int]
    attempts: int
    dead_rows: int
    steady_seconds: int
    hold_seconds: int
    idle_seconds: int


@dataclass(frozen=True)
class Run:
    """What a scenario gets: where to measure, whom, how long, and where to put the numbers."""

    server: Server
    durations: Durations
    results: Results
    contenders: Sequence[Contender]

    def with_a_way(self, *ways: str) -> list[Contender]:
        """Return the contenders that have at least one of *ways*."""
        return [contender for contender in self.contenders if any(way in contender.ways for way in ways)]

    @contextmanager
    def databases(
        self, scenario: str, contenders: Sequence[Contender], *, notify: bool = False
    ) -> Iterator[dict[Contender, Database]]:
        """Yield a database with tables for each contender whose tables can be made; drop them afterwards."""
        with ExitStack() as stack:
            ready: dict[Contender, Database] = {}
            for number, contender in enumerate(contenders):
                database = stack.enter_context(self.server.database(f"qg_bench_{number}", contender.tables))
                try:
                    contender.install(database, notify=notify)
                except Exception as error:  # whatever an opponent comes up with; it is in the report
                    self.results.fail(f"{scenario}: {contender.name}: {first_line(error)}")
                else:
                    ready[contender] = database
            yield ready


def contenders_named(names: Sequence[str], results: Results) -> list[Contender]:
    """Return the contenders whose names begin with one of *names*, all if there are none, as far as they are there."""
    found = []
    for contender in ALL:
        if names and not contender.name.startswith(tuple(names)):
            continue
        try:
            results.versions[contender.name] = contender.version()
        except Missing as missing:
            results.fail(f"{contender.name}: {missing}")
        else:
            results.ways[contender.name] = {way: each.label for way, each in contender.ways.items()}
            found.append(contender)
    return found


@contextmanager
def in_thread(target: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run *target* in a thread during the block; the event it gets is set when the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=target, args=(done,))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
