"""One experiment: jobs, workers, a fault, and six figures that say what came of it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pytest
from ledger import EFFECTS, RUNS, Handlers, Ledger
from support import PATIENCE, Database, eventually

import qg

WORKERS = 3
PASSWORD = "that of a role"
# An experiment may let the database end sessions that are idle. PostgreSQL 13 can't.
NEVER_IDLE_TOO_LONG = (
    "SELECT set_config('idle_session_timeout', '0', false) "
    "WHERE current_setting('server_version_num')::integer >= 140000"
)


@dataclass(frozen=True)
class Kind:
    """A kind of pool: what it is called in the table, and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shared(self) -> bool:
        """Whether a job's lock is on another session than its transaction."""
        return "connections" in self.options

    @property
    def mixed(self) -> bool:
        """Whether half of the jobs don't use job.tx: a job that does breaks its batch up."""
        return self.options.get("batch_size", 1) > 1 or self.shared


PLAIN = Kind("plain")
BATCHES = Kind("batch_size=20", {"batch_size": 20})
SHARED = Kind("connections=1", {"connections": 1})
POOLS = [PLAIN, BATCHES, SHARED]


@dataclass(frozen=True)
class Left:
    """What is there when all workers have ended, and shouldn't be."""

    locks: int = 0
    sessions: int = 0
    threads: int = 0

    def __add__(self, other: Left) -> Left:
        return Left(self.locks + other.locks, self.sessions + other.sessions, self.threads + other.threads)

    def __str__(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in asdict(self).items() if count) or "nothing"


@dataclass(frozen=True)
class Figures:
    """What came of an experiment, or of several together."""

    # How often the fault was done.
    faults: int
    jobs: int
    # Times that a handler was called.
    runs: int
    # Rows written through job.tx, and how many of the jobs write one.
    effects: int
    effects_due: int
    # Pairs of runs of one job at the same time on two living sessions of one server.
    overlaps: int
    left: Left
    # From the end of a fault to the first job that began after it; of several faults the longest.
    seconds: float | None

    def __add__(self, other: Figures) -> Figures:
        counts = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)[:-1]}
        return Figures(**counts, seconds=max(self.seconds, other.seconds, key=lambda each: each or 0.0))

    def cells(self) -> list[str]:
        all_there = self.effects == self.effects_due == self.jobs
        effects = str(self.effects) if all_there else f"{self.effects} of {self.effects_due}"
        seconds = "" if self.seconds is None else f"{self.seconds:.2f}"
        return [*map(str, (self.faults, self.jobs, self.runs)), effects, str(self.overlaps), str(self.left), seconds]


class Books(Database):
    """The database that holds what the Ledgers of all processes have noted."""

    def open_anew(self) -> None:
        self.query("DROP TABLE IF EXISTS runs, pairs, faults; " + RUNS)

    def runs(self, *, well: bool = False) -> dict[int, int]:
        """How often each job ran; with *well* only the runs whose handler returned."""
        return dict(self.query("SELECT number, count(*) FROM runs WHERE well OR NOT %s GROUP BY number", (well,)))

    def count_runs(self) -> int:
        return int(self.value("SELECT count(*) FROM runs"))

    def count_faults(self) -> int:
        return int(self.value("SELECT count(*) FROM faults"))

    def overlaps(self, *, but_of: int | None = None) -> int:
        """How many pairs of runs overlapped on one server, the job *but_of* left out."""
        return int(
            self.value(
                "SELECT count(*) FROM pairs JOIN runs a ON a.id = earlier JOIN runs b ON b.id = later "
                "WHERE a.place = b.place AND a.number IS DISTINCT FROM %s",
                (but_of,),
            )
        )

    def seconds_to_first_job(self) -> float | None:
        seconds = self.value(
            "SELECT max(extract(epoch FROM (SELECT min(began) FROM runs WHERE began > at) - at)) FROM faults"
        )
        return None if seconds is None else float(seconds)


class Experiment:
    """Jobs with numbers from 1 on, workers for them, and the books.

    Args:
        queue: the DSN of the database with the queue, by a way that no fault is on.
        version: of its table.
        books: where runs are noted.
        kind: what the pools are like.
        report: is given the figures at the end, and a note on them.
    """

    def __init__(
        self, queue: str, version: int, books: Books, kind: Kind, report: Callable[[Figures, str], None]
    ) -> None:
        self.queue = queue
        self.version = version
        self.books = books
        self.kind = kind
        self._report = report
        self.jobs = 0
        # The jobs that are to write a row through job.tx.
        self.effects_due: set[int] = set()
        books.open_anew()
        self.query(EFFECTS)

    def query(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        """Run *sql* in the queue's database, on a connection of its own."""
        with self.observer() as database:
            return database.query(sql, params)

    def enqueue(self, count: int, kind: str | None = None) -> list[int]:
        """Enqueue well-behaved jobs, or jobs of a type *kind* that writes an effect, and return their numbers."""
        types = self.next_types(count, kind)
        with qg.Client(self.queue) as client:
            client.enqueue_batch([qg.Job(each, args=[number]) for number, each in types.items()])
        self.note_enqueued(types)
        return list(types)

    def next_types(self, count: int, kind: str | None = None) -> dict[int, str]:
        """The numbers that the next jobs are to have, and their types."""
        numbers = range(self.jobs + 1, self.jobs + 1 + count)
        return {number: kind or ("Plain" if self.kind.mixed and number % 2 else "Effect") for number in numbers}

    def note_enqueued(self, types: Mapping[int, str]) -> None:
        """Count the jobs with these numbers and types, which were enqueued."""
        self.jobs += len(types)
        self.effects_due.update(number for number, each in types.items() if each != "Plain")

    @contextmanager
    def role(self, *grants: str, options: str = "NOLOGIN") -> Iterator[str]:
        """A role with these rights, and those that everybody has; its password is PASSWORD."""
        if self.query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") != [(True,)]:
            pytest.skip("QG_TEST_DSN names no superuser, and only a superuser may do this to roles")
        name = f"qg_test_{uuid.uuid4().hex[:12]}"
        self.query(f"CREATE ROLE {name} {options} PASSWORD '{PASSWORD}'")
        for grant in grants:
            self.query(f"GRANT {grant} TO {name}")
        try:
            yield name
        finally:
            self.query(f"DROP OWNED BY {name}; DROP ROLE {name}")

    @contextmanager
    def pool(
        self,
        dsn: str | None = None,
        *,
        count: int = WORKERS,
        handlers: Callable[[Ledger], Mapping[str, Callable[[qg.Job], Any]]] | None = None,
        several: bool = False,
        **options: Any,
    ) -> Iterator[qg.WorkerPool]:
        """A pool that works the queue by way of *dsn*, with more *handlers* than the well-behaved ones."""
        ledger = Ledger(self.books.dsn, self.queue)
        work_map = {**Handlers(ledger, several=several).work_map, **(handlers(ledger) if handlers else {})}
        try:
            with qg.Client(dsn or self.queue, backoff=soon) as client:
                pool = qg.WorkerPool(client, work_map, count, interval=0.05, **{**self.kind.options, **options})
                pool.start()
                try:
                    yield pool
                finally:
                    ended = pool.shutdown(PATIENCE)
                assert ended, "the workers didn't end"
        finally:
            ledger.close()

    def wait_for_runs(self, more: int, timeout: float = 60.0) -> None:
        """Wait until *more* runs have begun than there are now."""
        enough = self.books.count_runs() + more
        eventually(lambda: self.books.count_runs() >= enough, f"run number {enough}", timeout)

    def fault_is_over(self) -> None:
        """Note that from now on nothing keeps the workers from working."""
        self.books.query("INSERT INTO faults DEFAULT VALUES")

    def wait_until_worked(self, timeout: float = 60.0) -> None:
        """Wait until no job is left in the table."""
        with self.observer() as database:
            eventually(lambda: database.count() == 0, lambda: f"the last of {database.count()} jobs", timeout)

    def is_worked(self) -> bool:
        """Whether no job is left in the table."""
        return self.query("SELECT count(*) FROM que_jobs") == [(0,)]

    @contextmanager
    def observer(self) -> Iterator[Database]:
        """The queue's database, seen from outside."""
        with closing(Database(self.queue)) as database:
            database.query(NEVER_IDLE_TOO_LONG)
            yield database

    def effects(self) -> list[int]:
        """The numbers of the jobs whose effects are there, one for each effect."""
        return [number for (number,) in self.query("SELECT number FROM effects ORDER BY number")]

    def count(self, note: str = "", faults: int | None = None) -> Figures:
        """Count after the workers have ended, and report that.

        Args:
            note: what the table is to say besides.
            faults: how often the fault was done; None: as often as was noted that it was over, or once.
        """
        figures = Figures(
            (self.books.count_faults() or 1) if faults is None else faults,
            self.jobs,
            self.books.count_runs(),
            len(self.effects()),
            len(self.effects_due),
            self.books.overlaps(),
            self._left(),
            self.books.seconds_to_first_job(),
        )
        self._report(figures, note)
        return figures

    def check(
        self,
        *,
        jobs: set[int] | None = None,
        but_overlaps_of: int | None = None,
        note: str = "",
        faults: int | None = None,
    ) -> Figures:
        """Count, and assert what must hold whatever was done.

        Args:
            jobs: those that there still are, if a fault may take jobs away.
            but_overlaps_of: a job that gave its own lock away.
            note, faults: as for count().
        """
        figures = self.count(note, faults)
        jobs = set(range(1, self.jobs + 1)) if jobs is None else jobs
        assert self.effects() == sorted(self.effects_due & jobs), "not each effect is there exactly once"
        never = jobs - set(self.books.runs(well=True)) - self.effects_due
        assert not never, f"jobs were lost: {sorted(never)}"
        assert (self.books.overlaps(but_of=but_overlaps_of), figures.left) == (0, Left())
        return figures

    def _left(self) -> Left:
        with self.observer() as database:

            def count() -> Left:
                # The lookout is one for the whole process, and stays as long as any client.
                names = {each.name for each in threading.enumerate()} - {"qg-lookout"}
                threads = [each for each in names if each.startswith("qg-")]
                return Left(len(database.locks()), len(database.sessions()), len(threads))

            with suppress(AssertionError):  # the figures say so
                eventually(lambda: count() == Left())
            return count()


def soon(error_count: int) -> float:
    """A backoff under which nobody has to wait for a job that a fault has failed."""
    return 0.05
