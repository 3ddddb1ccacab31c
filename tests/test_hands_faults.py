"""Wherever one message of a crew fails, every job comes to its end once, and nothing is left locked."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import psycopg2
import pytest
from support import Database, UntilEmpty, eventually
from taking import all_written, events, fill, write

import qg
import qg.working.crew
from qg.database.session import Session

pytestmark = pytest.mark.usefixtures("written")

FETCH, COMMIT = Session._fetch, Session.commit


class OneFault:
    """Fails the message with a *number*, of whichever session, in one of these ways.

    It is refused by the server, the session is lost before it gets there, or after it was carried out.
    """

    WAYS = ("refused", "lost before", "lost after")

    def __init__(self, patch: pytest.MonkeyPatch, way: str, number: int) -> None:
        self._way = way
        self._left = number
        self._mutex = threading.Lock()
        self.happened = False
        patch.setattr(Session, "_fetch", lambda session, *message: self._do(session, FETCH, *message))
        patch.setattr(Session, "commit", lambda session: self._do(session, COMMIT))

    def _do(self, session: Session, message: Any, *arguments: Any) -> Any:
        with self._mutex:
            self._left -= 1
            now = self._left == 0
        if not now:
            return message(session, *arguments)
        self.happened = True
        if self._way == "refused":
            raise psycopg2.errors.QueryCanceled("canceling statement due to user request")
        if self._way == "lost after":
            message(session, *arguments)
        session.conn.close()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")


class Handlers:
    """Jobs that end in every way there is."""

    def __init__(self) -> None:
        self.runs: Counter[int] = Counter()
        self._mutex = threading.Lock()

    def work_map(self) -> qg.WorkMap:
        return {
            "Quick": self.begin,
            "Write": self.write,
            "Fail": self.fail,
            "Reschedule": self.reschedule,
            "Discard": self.discard,
        }

    def begin(self, job: qg.Job) -> int:
        with self._mutex:
            self.runs[job.id] += 1
            return self.runs[job.id]

    def write(self, job: qg.Job) -> None:
        self.begin(job)
        write(job)

    def fail(self, job: qg.Job) -> None:
        self.begin(job)
        if job.error_count == 0:
            raise LookupError

    def reschedule(self, job: qg.Job) -> None:
        if self.begin(job) == 1:
            raise qg.Reschedule(after=0)

    def discard(self, job: qg.Job) -> None:
        self.begin(job)
        raise qg.Discard


KINDS = {"Quick": 5, "Write": 3, "Fail": 2, "Reschedule": 1, "Discard": 1}


def work_with(fault: OneFault, client: qg.Client, database: Database) -> None:
    database.query("TRUNCATE que_jobs RESTART IDENTITY; TRUNCATE written")
    for kind, count in KINDS.items():
        fill(database, count, kind)
    handlers = Handlers()

    def is_done() -> bool:
        UntilEmpty(client, handlers.work_map(), interval=0.01, hands=3).work()
        return database.count() == 0

    eventually(is_done)
    eventually(lambda: database.locks() == [])
    assert all_written(database) == [6, 7, 8]
    # A job that fails once, or is rescheduled, runs twice. One more is touched by the fault, or all that are returned.
    for number, runs in handlers.runs.items():
        assert runs <= (3 if number in (9, 10, 11) else 2), (number, runs)
    assert len(handlers.runs) == sum(KINDS.values())


@pytest.mark.parametrize("way", OneFault.WAYS)
def test_whichever_message_fails_every_job_comes_to_its_end_once(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(qg.working.crew, "_QUICK_SECONDS", 3600.0)
    number = 0
    happened = True
    while happened:
        number += 1
        with qg.Client(dsn, backoff=lambda error_count: 0) as client, monkeypatch.context() as patch:
            fault = OneFault(patch, way, number)
            work_with(fault, client, database)
            happened = fault.happened
    assert number > 12
    assert events(caplog, "worker_failed", "thread_failed", "lock_not_ours") == []
