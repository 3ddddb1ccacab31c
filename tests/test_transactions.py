"""The sessions that jobs have for their transactions: how many there are at once, who waits, and who is woken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from support import PATIENCE, Database, eventually, lease

import qg
import qg.working.transactions
from qg.client import engine_of
from qg.database.session import Session
from qg.working.transactions import Transactions


class Waiters:
    """Threads that lease sessions, and what they got."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._threads: list[threading.Thread] = []
        self.got: list[Session | Exception] = []

    def add(self) -> None:
        def wait() -> None:
            try:
                self.got.append(self._transactions.lease())
            except Exception as error:
                self.got.append(error)

        self._threads.append(threading.Thread(target=wait))
        self._threads[-1].start()

    @property
    def waiting(self) -> int:
        """How many wait until somebody gives one back."""
        return len(self._transactions._changed._waiters)  # type: ignore[attr-defined]

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


class Source:
    """Gives as many connections as it is told to, and counts how often it is asked."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.room = 10**6
        self.open: list[Any] = []
        self.asked = 0
        # Is called when it has none to give.
        self.before_refusal: Callable[[], None] = lambda: None

    def __call__(self) -> Any:
        self.asked += 1
        self.open = [each for each in self.open if not each.closed]
        if len(self.open) >= self.room:
            self.before_refusal()
            raise psycopg2.OperationalError("sorry, too many clients already")
        self.open.append(psycopg2.connect(self._dsn))
        return self.open[-1]


@pytest.fixture
def source(dsn: str) -> Source:
    return Source(dsn)


@pytest.fixture
def client(source: Source) -> Iterator[qg.Client]:
    with qg.Client(source) as client:
        yield client


@pytest.fixture
def lend(client: qg.Client) -> Callable[[int], Transactions]:
    return lambda most: Transactions(engine_of(client), "", most)


def test_who_comes_when_all_are_out_waits_until_one_is_back(lend: Callable[[int], Transactions]) -> None:
    transactions = lend(2)
    first, second = transactions.lease(), transactions.lease()
    assert transactions.lease_at_once() is None
    waiters = Waiters(transactions)
    waiters.add()
    waiters.add()
    eventually(lambda: waiters.waiting == 2)
    transactions.give_back(first, has_failed=False)
    eventually(lambda: len(waiters.got) == 1)
    assert waiters.waiting == 1
    transactions.give_back(second, has_failed=False)
    waiters.join()
    for session in waiters.got:
        transactions.give_back(session, has_failed=False)  # type: ignore[arg-type]
    last = transactions.lease_at_once()
    assert last is not None
    transactions.give_back(last, has_failed=False)


def test_where_the_source_has_no_more_the_next_one_waits_until_one_is_back(
    lend: Callable[[int], Transactions], source: Source
) -> None:
    transactions = lend(10)
    first = transactions.lease()
    source.room = 1
    assert transactions.lease_at_once() is None
    waiters = Waiters(transactions)
    waiters.add()
    eventually(lambda: waiters.waiting == 1)
    transactions.give_back(first, has_failed=False)
    waiters.join()
    (session,) = waiters.got
    transactions.give_back(session, has_failed=False)  # type: ignore[arg-type]


def test_one_that_is_back_before_the_next_one_begins_to_wait_isnt_missed(
    lend: Callable[[int], Transactions], source: Source
) -> None:
    """It comes back after the source has said that there is none, and before that is heard."""
    transactions = lend(10)
    first = [transactions.lease()]
    source.room = 1

    def give_back() -> None:
        if first:
            transactions.give_back(first.pop(), has_failed=False)

    source.before_refusal = give_back
    waiters = Waiters(transactions)
    waiters.add()
    waiters.join()
    (session,) = waiters.got
    assert isinstance(session, Session)
    transactions.give_back(session, has_failed=False)


def test_two_who_get_none_dont_wake_each_other_in_turn(lend: Callable[[int], Transactions], source: Source) -> None:
    transactions = lend(10)
    first = transactions.lease()
    source.room = 1
    source.asked = 0
    waiters = Waiters(transactions)
    waiters.add()
    eventually(lambda: waiters.waiting == 1)
    waiters.add()
    eventually(lambda: waiters.waiting == 2)
    threading.Event().wait(0.1)  # it would be asked hundreds of times
    assert source.asked <= 3
    transactions.give_back(first, has_failed=False)
    eventually(lambda: len(waiters.got) == 1)
    transactions.give_back(waiters.got[0], has_failed=False)  # type: ignore[arg-type]
    waiters.join()
    transactions.give_back(waiters.got[1], has_failed=False)  # type: ignore[arg-type]


def test_who_has_waited_for_too_long_is_told_what_the_source_said(
    lend: Callable[[int], Transactions], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qg.working.transactions, "_PATIENCE_SECONDS", 0.05)
    transactions = lend(10)
    first = transactions.lease()
    source.room = 1
    with pytest.raises(psycopg2.OperationalError, match="too many clients"):
        transactions.lease()
    transactions.give_back(first, has_failed=False)
    for _ in range(3):  # nothing is counted that isn't out
        transactions.give_back(transactions.lease(), has_failed=False)


def test_where_nobody_could_give_one_back_it_is_an_error_at_once(
    lend: Callable[[int], Transactions], client: qg.Client, source: Source
) -> None:
    transactions = lend(10)
    others = lease(client)
    source.room = 1
    for _ in range(2):
        with pytest.raises(psycopg2.OperationalError, match="too many clients"):
            transactions.lease()
        with pytest.raises(psycopg2.OperationalError, match="too many clients"):
            transactions.lease_at_once()
    others.give_back()
    transactions.give_back(transactions.lease(), has_failed=False)


def test_a_source_that_has_some_again_is_asked_for_all_of_them(
    lend: Callable[[int], Transactions], client: qg.Client, source: Source
) -> None:
    transactions = lend(3)
    others = lease(client)
    source.room = 1
    with pytest.raises(psycopg2.OperationalError, match="too many clients"):
        transactions.lease()
    source.room = 4
    sessions = [transactions.lease_at_once() for _ in range(4)]
    assert sessions.pop() is None
    for session in sessions:
        assert session is not None
        transactions.give_back(session, has_failed=False)
    others.give_back()


@pytest.mark.parametrize("at_once", [False, True])
def test_ctrl_c_while_the_source_is_asked_leaves_nothing_counted(
    lend: Callable[[int], Transactions], source: Source, at_once: bool
) -> None:
    transactions = lend(2)
    first = transactions.lease()

    def interrupt() -> None:
        raise KeyboardInterrupt

    source.room = 1
    source.before_refusal = interrupt
    with pytest.raises(KeyboardInterrupt):
        transactions.lease_at_once() if at_once else transactions.lease()
    source.room = 2
    transactions.give_back(transactions.lease(), has_failed=False)
    transactions.give_back(first, has_failed=False)


def test_what_a_handler_has_locked_and_left_is_unlocked(
    lend: Callable[[int], Transactions], database: Database
) -> None:
    transactions = lend(1)
    session = transactions.lease()
    conn = session.lend()
    with conn.cursor() as cur:
        cur.execute("SELECT pg_advisory_lock(5)")
    conn.commit()
    del conn, cur
    transactions.give_back(session, has_failed=False)
    assert database.locks() == []


@pytest.mark.parametrize("state", ["in a transaction", "closed", "lost"])
def test_a_session_in_doubt_is_closed_and_its_place_is_free(
    lend: Callable[[int], Transactions], database: Database, state: str
) -> None:
    transactions = lend(1)
    session = transactions.lease()
    pid = session.conn.info.backend_pid
    if state == "in a transaction":
        session.lend().cursor().execute("SELECT pg_advisory_lock(5)")
    elif state == "closed":
        session.close_now()
    else:
        session.lend()
        database.terminate(pid)
    transactions.give_back(session, has_failed=False)
    eventually(lambda: pid not in [each for each, _, _ in database.sessions()])
    assert database.locks() == []
    again = transactions.lease_at_once()
    assert again is not None
    transactions.give_back(again, has_failed=False)
