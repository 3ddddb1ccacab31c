"""A locked row by itself: written on one session, its lock held by another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support import Database, lease, take

import qg
from qg.client import engine_of
from qg.database.session import Session
from qg.locking.attempt import Attempt, State
from qg.locking.locked_row import LockedRow
from qg.locking.shared_lock import SharedLock
from qg.tables import Row
from qg.verdicts import Reschedule


@dataclass
class Apart:
    """A row, the session that holds its lock, and the one that writes it."""

    row: Row
    locker: Session
    writer: Session
    locked: LockedRow


class Lender:
    """Lends one session, and after that leases others, which are its own."""

    def __init__(self, client: qg.Client, first: Session) -> None:
        self._client = client
        self._sessions = [first]

    def lease(self) -> Session:
        return self._sessions.pop() if self._sessions else lease(self._client)

    def give_back(self, session: Session, *, has_failed: bool) -> None:
        session.give_back()


@pytest.fixture
def apart(client: qg.Client, database: Database) -> Iterator[Apart]:
    client.enqueue(qg.Job("MyJob"))
    context = engine_of(client).context
    locker, writer = lease(client), lease(client)
    (row,) = take(client, locker, "").rows
    lock = SharedLock(locker, row.id, context, Lender(client, writer))
    yield Apart(row, locker, writer, LockedRow(row, lock, context))
    lock.end(has_failed=False)
    assert writer.conn.closed or writer.idle
    locker.close_now()
    writer.close_now()


def test_what_a_handler_wrote_and_the_deletion_commit_where_they_were_written(apart: Apart, database: Database) -> None:
    attempt = Attempt(apart.locked)
    assert attempt.conn is apart.writer.conn
    attempt.conn.cursor().execute("UPDATE que_jobs SET args = '[7]'")
    attempt.delete()
    assert (database.count(), database.locks()) == (1, [apart.row.id])
    attempt.done()
    assert (database.count(), database.locks()) == (0, [apart.row.id]), "the locker unlocks"
    assert apart.locker.idle
    assert apart.writer.idle


def test_an_error_is_recorded_where_the_row_is_written(apart: Apart, database: Database) -> None:
    attempt = Attempt(apart.locked)
    attempt.conn.cursor().execute("UPDATE que_jobs SET args = '[7]'")
    assert attempt.fail(RuntimeError("no luck"), attempt.set_error)
    attempt.done()
    ((_, _, count, message),) = database.jobs()
    assert (count, message.split("\n")[0]) == (1, "RuntimeError: no luck")
    assert database.query("SELECT args::text FROM que_jobs") == [("[]",)]
    assert (attempt.state, database.locks()) == (State.FAILED, [apart.row.id])


def test_where_the_writing_session_is_lost_another_one_writes_under_the_same_lock(
    apart: Apart, database: Database
) -> None:
    attempt = Attempt(apart.locked)
    database.terminate(apart.writer.conn.info.backend_pid)
    assert attempt.fail(Reschedule(after=3600), attempt.set_error)
    attempt.done()
    assert (attempt.state, database.locks()) == (State.RESCHEDULED, [apart.row.id])
    assert database.value("SELECT run_at > now() FROM que_jobs")


def test_a_lock_that_is_lost_with_its_session_leaves_the_row_to_others(apart: Apart, database: Database) -> None:
    database.terminate(apart.locker.conn.info.backend_pid)
    attempt = Attempt(apart.locked)
    attempt.done()
    assert (database.count(), database.locks()) == (1, [])
