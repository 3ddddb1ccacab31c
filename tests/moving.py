"""A database whose table is migrated while clients and pools go on using it, for the tests of that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from migrating import insert
from support import PATIENCE, Database, eventually, needs

import qg

jobs = needs("qg.jobs")

# One step each way, and from end to end. All pairs are for migrations by themselves, in test_migrations.py.
PAIRS = [(3, 4), (4, 5), (5, 6), (6, 7), (7, 6), (6, 5), (5, 4), (4, 3), (3, 7), (7, 3)]


class Place(Database):
    """A database whose table is migrated while others use it."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.query("CREATE TABLE written (number int)")
        jobs.migrate(dsn)

    def migrate(self, version: int, *, notify: bool = False) -> None:
        """Migrate; nobody here keeps a transaction open for so long that this would wait."""
        qg.migrate(f"{self.dsn} options='-c lock_timeout=10s'", version, notify=notify)

    def written(self) -> list[int]:
        return [number for (number,) in self.query("SELECT number FROM written ORDER BY number")]

    def errors(self) -> list[int]:
        return [count for (count,) in self.query("SELECT error_count FROM que_jobs")]

    def lockers(self) -> list[tuple[Any, ...]]:
        """The rows of the table of lockers that stand for sessions."""
        return self.query(
            "SELECT pid, worker_count, listening FROM que_lockers WHERE pid IN (SELECT pid FROM pg_stat_activity)"
        )

    def insert_as_ruby(self, *numbers: int) -> None:
        version = qg.schema_version(self.dsn)
        more = {} if version < 6 else {"job_schema_version": 2}
        for number in numbers:
            insert(self, job_class="Count", args=f"[{number}]", **more)

    @contextmanager
    def without_a_table(self) -> Iterator[None]:
        """Without any que_jobs at first; and nothing may be left in the end."""
        self.migrate(0)
        self.query("TRUNCATE written, qg_jobs_history, qg_jobs_worker_pool, qg_jobs_schedule, qg_jobs_tick CASCADE")
        yield
        eventually(lambda: not self.sessions(), lambda: f"the end of all sessions; left: {self.sessions()}")
        assert self.locks() == []


def settings(way: tuple[int, ...]) -> str:
    return "-".join(map(str, way))


def said(caplog: pytest.LogCaptureFixture, *events: str) -> list[str]:
    """What was logged of *events*, and of failed jobs and outages."""
    seen = ("job_failed", "job_expired", "job_unrecorded", "outage_begins", "not_enlisted", *events)
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(seen)]


class Writer:
    """A handler that counts each job once, in the job's transaction or, without one, in a list."""

    def __init__(self, place: Place, *, in_tx: bool) -> None:
        self._place = place
        self._in_tx = in_tx
        self._numbers: list[int] = []

    def __call__(self, job: qg.Job) -> None:
        (number,) = job.args
        if self._in_tx:
            with job.tx.cursor() as cur:
                cur.execute("INSERT INTO written VALUES (%s)", (number,))
        else:
            self._numbers.append(number)

    def numbers(self) -> list[int]:
        return self._place.written() if self._in_tx else sorted(self._numbers)


class Held(Writer):
    """A handler that counts its job, and then waits until it is let go."""

    def __init__(self, place: Place, *, in_tx: bool) -> None:
        super().__init__(place, in_tx=in_tx)
        self.began, self.let_go = threading.Event(), threading.Event()
        self.error_counts: list[int] = []

    def __call__(self, job: qg.Job) -> None:
        super().__call__(job)
        self.error_counts.append(job.error_count)
        self.began.set()
        assert self.let_go.wait(PATIENCE)
