"""A crew, step by step: what is locked, run, deleted and unlocked when, and who is told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from crewing import ByHand, by_hand
from support import ID, Database, eventually, lease, rows_of, try_locks_with
from taking import all_written, do_nothing, events, fail, fill, write

import qg
import qg.working.crew
from qg.client import engine_of
from qg.database.session import Session
from qg.job import attempt_of
from qg.locking.attempt import Observer
from qg.working.batch import LockLost

pytestmark = pytest.mark.usefixtures("written")


class Worked:
    """A handler that notes which jobs it worked."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def __call__(self, job: qg.Job) -> None:
        self.ids.append(job.id)


def ids(database: Database) -> list[int]:
    return [number for (number,) in database.query(f"SELECT {ID} FROM que_jobs ORDER BY {ID}")]


@pytest.fixture
def be_quick(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[ByHand], None]:
    """A function that has a job run that counts as quick: from then on one more is taken than there are hands."""

    def be_quick(crew: ByHand) -> None:
        fill(database, 1)
        with monkeypatch.context() as patch:
            patch.setattr(qg.working.crew, "_QUICK_SECONDS", 3600.0)
            patch.setattr(qg.working.crew, "_LONGEST_SECONDS", 3600.0)
            crew.exchange()
            crew.run()
            crew.exchange()
        assert database.count() == 0

    return be_quick


@pytest.fixture
def refuse(database: Database) -> Iterator[Callable[[str], None]]:
    """A function that has the table refuse this: 'DELETE' or 'UPDATE', of the job 2."""
    database.query("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$")
    yield lambda what: database.query(
        f"CREATE TRIGGER refuse BEFORE {what} ON que_jobs FOR EACH ROW WHEN (OLD.{ID} = 2) EXECUTE FUNCTION refuse()"
    )
    database.query("DROP FUNCTION refuse CASCADE")


@pytest.fixture
def fallible(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """A function that makes the attempt to lock this job an error, until it is called with None."""
    database.query(
        "CREATE TABLE unlockable (number bigint);"
        "CREATE FUNCTION try(number bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
        "IF EXISTS (SELECT FROM public.unlockable AS bad WHERE bad.number = $1) THEN RAISE 'not this one'; END IF;"
        "RETURN pg_catalog.pg_try_advisory_lock($1); END $$"
    )
    try_locks_with(monkeypatch, "public.try")
    yield lambda number: database.query("TRUNCATE unlockable; INSERT INTO unlockable VALUES (%s)", (number,)) and None
    database.query("DROP FUNCTION try; DROP TABLE unlockable")


def test_what_has_returned_is_deleted_and_unlocked_in_the_message_that_takes_the_next(
    client: qg.Client, database: Database
) -> None:
    fill(database, 3)
    with by_hand(client, {"MyJob": do_nothing}) as crew:
        crew.exchange()
        assert database.locks() == [1, 2]
        crew.run()
        assert (ids(database), database.locks()) == ([1, 2, 3], [1, 2])
        crew.exchange()
        assert (ids(database), database.locks()) == ([2, 3], [2, 3])


def test_a_job_that_runs_isnt_taken_again_though_its_session_could_lock_it_again(
    client: qg.Client, database: Database
) -> None:
    fill(database, 2)
    for order in qg.PollStrategy:
        with by_hand(client, {"MyJob": do_nothing}, 4, order=order) as crew:
            crew.exchange()
            running = [crew.begin(), crew.begin()]
            taken = crew.exchange()
            assert (taken.rows, taken.more, crew.crew.waiting, database.locks()) == ([], False, 0, [1, 2])
            for held in running:
                held.returned = False  # nothing is run, so nothing is to be deleted
                crew.crew.end(held)


@pytest.mark.parametrize(("seconds", "ahead"), [(1e-9, 3), (1000.0, 0)])
def test_of_jobs_that_arent_quick_as_many_more_are_taken_as_end_while_a_message_is_under_way(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch, seconds: float, ahead: int
) -> None:
    """So that no hand waits for that message; but no more than there are hands."""
    monkeypatch.setattr(qg.working.crew, "_QUICK_SECONDS", -1.0)
    fill(database, 10)
    with by_hand(client, {"MyJob": do_nothing}, 3) as crew:
        crew.exchange()
        for held in [crew.begin() for _ in range(3)]:
            held.run(crew.runner)
            held.seconds = seconds
            crew.crew.end(held)
        crew.exchange()
        assert crew.crew.waiting == 3 + ahead


def test_what_a_message_was_to_delete_that_its_session_lost_isnt_settled_before_there_is_another_session(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settler would find no database, either, and call that an error of each job."""
    fill(database, 2)
    with by_hand(client, {"MyJob": do_nothing}) as crew:
        crew.exchange()
        crew.run()
        crew.run()
        with monkeypatch.context() as patch:
            patch.setattr(Session, "lost_lately", False)  # it was looked a moment ago
            database.terminate(crew.session.backend_pid)
            with pytest.raises(psycopg2.OperationalError):
                crew.exchange()
        assert (crew.settle_apart(), crew.crew.told) == (0, True)
        crew.crew.exchange(None, crew.engine.database.table, takes=False)
        assert (crew.settle_apart(), ids(database)) == (2, [])


# Who is told


def test_the_locker_is_told_when_the_last_waiting_job_is_begun_of_those_that_had_ended_before(
    client: qg.Client, database: Database
) -> None:
    """The first one ends while the second one still waits; then a hand begins with that, for as long as it likes."""
    fill(database, 2)
    with by_hand(client, {"MyJob": do_nothing}, 3) as crew:
        crew.exchange()
        crew.run()
        assert crew.told == 0
        slow = crew.begin()
        assert crew.told == 1
        crew.run(slow)


def test_the_locker_is_told_once_before_each_message(client: qg.Client, database: Database) -> None:
    fill(database, 3)
    with by_hand(client, {"MyJob": do_nothing}, 3) as crew:
        crew.exchange()
        for held in [crew.begin() for _ in range(3)]:
            crew.run(held)
        assert crew.told == 1
        crew.exchange()
        assert ids(database) == []


def test_what_ends_while_a_message_is_under_way_is_told_when_that_is_back(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before, or a second message would settle what little had ended by then."""
    fill(database, 2)
    with by_hand(client, {"MyJob": do_nothing}, 3) as crew:
        crew.exchange()
        held = crew.begin()
        take, told = crew.engine.rows.take, []

        def take_meanwhile(*args: Any, **options: Any) -> Any:
            crew.run(crew.begin())
            crew.run(held)
            told.append(crew.told)
            return take(*args, **options)

        monkeypatch.setattr(crew.engine.rows, "take", take_meanwhile)
        crew.exchange()
        assert (told, crew.told, crew.crew.told) == ([0], 1, True)


# What goes wrong with one job


def test_a_job_that_is_gone_holds_up_no_other_and_needs_no_hand(
    client: qg.Client, database: Database, be_quick: Callable[[ByHand], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with by_hand(client, {"MyJob": do_nothing}, 1) as crew:
        be_quick(crew)
        fill(database, 3)
        crew.exchange()
        assert database.locks() == [2, 3]
        crew.run()
        slow = crew.begin()
        database.query(f"DELETE FROM que_jobs WHERE {ID} = 2")
        crew.exchange()
        assert not crew.crew.waits_long
        assert crew.settle_apart() == 1
        crew.exchange()
        assert database.locks() == [3, 4]
        crew.run(slow)
        crew.run()
        crew.exchange()
    assert events(caplog, "job_") == [
        "job_worked id=1 type=MyJob",
        "job_gone id=2",
        "job_worked id=2 type=MyJob",
        "job_worked id=3 type=MyJob",
        "job_worked id=4 type=MyJob",
    ]


def test_of_many_that_are_deleted_together_one_that_was_edited_and_one_that_is_gone_are_settled_too(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, 5)
    with by_hand(client, {"MyJob": do_nothing}, 5) as crew:
        crew.exchange()
        for _ in range(5):
            crew.run()
        database.query(f"DELETE FROM que_jobs WHERE {ID} = 2")
        database.query(f"UPDATE que_jobs SET priority = 7 WHERE {ID} = 4")
        crew.exchange()
        assert (crew.settle_apart(), ids(database)) == (2, [1, 3, 5])
        assert crew.crew.told
        crew.exchange()
        assert (ids(database), database.locks()) == ([], [])
    assert events(caplog, "job_") == ["job_gone id=2", "job_edited id=4"]


def test_what_is_deleted_together_with_a_row_that_somebody_has_locked_is_deleted_without_it(
    client: qg.Client, database: Database
) -> None:
    fill(database, 5)
    with closing(database.connect()) as person, by_hand(client, {"MyJob": do_nothing}, 5) as crew:
        crew.exchange()
        for _ in range(5):
            crew.run()
        person.cursor().execute(f"SELECT FROM que_jobs WHERE {ID} = 2 FOR UPDATE")
        crew.exchange()
        crew.exchange()
        assert (ids(database), database.locks()) == ([2], [2])
        person.rollback()
        assert crew.settle_apart() == 1
        assert ids(database) == []


def test_a_trigger_that_refuses_a_deletion_makes_that_an_error_of_this_job_alone(
    client: qg.Client, database: Database, refuse: Callable[[str], None]
) -> None:
    refuse("DELETE")
    fill(database, 3)
    with by_hand(client, {"MyJob": do_nothing}, 3) as crew:
        crew.exchange()
        for _ in range(3):
            crew.run()
        crew.exchange()
        crew.settle_apart()
        crew.exchange()
        assert database.locks() == []
    ((number, _, error_count, text),) = database.jobs()
    assert (number, error_count, text.split(" CONTEXT")[0]) == (2, 1, "psycopg2.errors.RaiseException: not this one")


@pytest.mark.parametrize("returned", [False, True], ids=["with nothing to delete", "with something to delete"])
def test_what_was_unlocked_by_a_message_that_failed_later_isnt_missed(
    database: Database, fallible: Callable[..., None], returned: bool
) -> None:
    """Unlocking knows no transaction, so it stays done."""
    fill(database, 1, "Bad")
    fill(database, 2)
    handlers = {"MyJob": do_nothing, "Bad": fail}
    with qg.Client(database.dsn) as client, by_hand(client, handlers, 3) as crew:
        crew.exchange()
        bad, first, slow = crew.begin(), crew.begin(), crew.begin()
        crew.run(bad)
        if returned:
            crew.run(first)
        fill(database, 1)
        fallible(4)
        if returned:
            crew.exchange()
            assert (ids(database), database.locks()) == ([1, 3, 4], [3])
            assert crew.settle_apart() == 1
        else:
            with pytest.raises(psycopg2.errors.RaiseException, match="not this one"):
                crew.exchange()
            crew.crew.unlock_others(crew.session)
        fallible(None)
        crew.exchange()
        assert crew.session.idle
        for held in (slow,) if returned else (first, slow):
            crew.run(held)
        crew.run()
        crew.exchange()
        assert (ids(database), database.locks()) == ([1], [])


class Hook(Observer):
    def record(self, error: BaseException, conn: Any) -> Any:
        raise AssertionError

    def settled(self, error: BaseException | None) -> None:
        raise RuntimeError("a hook that fails")


def test_a_hook_that_fails_after_a_deletion_concerns_no_other_job(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def handler(job: qg.Job) -> None:
        if job.id == 1:
            attempt_of(job).observer = Hook()  # type: ignore[union-attr]

    fill(database, 4)
    with by_hand(client, {"MyJob": handler}, 3) as crew:
        crew.exchange()
        crew.run()
        crew.run()
        slow = crew.begin()
        crew.exchange()
        assert (crew.crew.waiting, database.locks()) == (1, [3, 4])
        crew.run(slow)
        crew.run()
        crew.exchange()
    assert ids(database) == []
    assert [event for event in events(caplog) if "id=1" not in event] == [
        "worker_failed queue=; it goes on",
        "job_worked id=2 type=MyJob",
        "job_worked id=3 type=MyJob",
        "job_worked id=4 type=MyJob",
    ]


def test_a_hook_that_fails_in_a_hand_ends_no_hand_and_is_a_reason_to_pause(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: qg.Job) -> None:
        attempt_of(job).observer = Hook()  # type: ignore[union-attr]
        write(job)

    fill(database, 1)
    with by_hand(client, {"MyJob": handler}) as crew:
        crew.exchange()
        crew.run()
        assert crew.crew.take_unrecorded()
        assert not crew.crew.take_unrecorded()
    assert events(caplog) == ["worker_failed queue=; it goes on"]
    assert (ids(database), all_written(database)) == ([], [1])


def test_a_job_that_cant_be_read_and_whose_error_cant_be_written_is_a_reason_to_pause(
    database: Database, caplog: pytest.LogCaptureFixture, refuse: Callable[[str], None]
) -> None:
    refuse("UPDATE")

    class Picky(qg.Job):
        def __post_init__(self) -> None:
            raise LookupError("no job of mine")

    fill(database, 2)
    database.query(f"DELETE FROM que_jobs WHERE {ID} = 1")
    with qg.Client(database.dsn, job_class=Picky) as picky, by_hand(picky, {}) as crew:
        crew.exchange()
        crew.run()
        assert crew.crew.take_unrecorded()
        crew.exchange(takes=False)
        assert database.locks() == []
    assert events(caplog, "job_") == ["job_unreadable id=2 type=MyJob", "job_unrecorded id=2"]


def test_what_cant_even_be_asked_for_settles_what_has_ended_all_the_same(client: qg.Client, database: Database) -> None:
    """Somebody changes the work map while its types are read."""
    fill(database, 2)
    with by_hand(client, {"MyJob": do_nothing}) as crew:
        crew.exchange()
        crew.run()
        search, crew.crew._search = crew.crew._search, {}.pop  # type: ignore[method-assign,assignment]
        with pytest.raises(TypeError):
            crew.exchange()
        crew.crew._search = search  # type: ignore[method-assign]
        assert crew.settle_apart() == 1
        assert ids(database) == [2]
        crew.run()
        crew.exchange()
    assert ids(database) == []


def test_a_job_that_no_utf8_holds_costs_no_other_its_lock(
    make_database: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with closing(Database(make_database(options=options))) as database, qg.Client(database.dsn) as client:
        fill(database, 2)
        with by_hand(client, {"MyJob": do_nothing}, 4) as crew:
            crew.exchange()
            crew.run()
            slow = crew.begin()
            fill(database, 2)
            database.query(f"""UPDATE que_jobs SET args = E'["\\xe4"]' WHERE {ID} = 3""")
            crew.exchange()
            assert (ids(database), database.locks()) == ([2, 3, 4], [2, 3, 4])
            crew.run()
            crew.run()
            crew.exchange()
            assert database.locks() == [2]
            crew.run(slow)
            crew.exchange()
        assert [(number, count) for number, _, count, _ in database.jobs()] == [(3, 1)]
    assert events(caplog) == ["job_unreadable id=3 type=MyJob"]


# What is given back


def test_what_waits_for_too_long_is_given_back_and_taken_by_others(
    client: qg.Client, database: Database, be_quick: Callable[[ByHand], None]
) -> None:
    with by_hand(client, {"MyJob": do_nothing}, 1) as crew:
        be_quick(crew)
        fill(database, 2)
        crew.exchange()
        slow = crew.begin()
        assert (crew.crew.free, crew.crew.waiting, database.locks()) == (-1, 1, [2, 3])
        eventually(lambda: crew.crew.waits_long)
        crew.exchange()
        assert (crew.crew.waiting, crew.crew.free, database.locks()) == (0, 0, [2])
        with client.lock_job() as job:
            assert job.id == 3
        crew.run(slow)


def test_what_is_given_back_is_seen_by_the_next_walk_wherever_walks_begin(
    client: qg.Client, database: Database, be_quick: Callable[[ByHand], None]
) -> None:
    with by_hand(client, {"MyJob": do_nothing}, 1) as crew:
        be_quick(crew)
        # Rows that somebody may still see make it dear to begin at the start.
        with closing(database.connect()) as old, old.cursor() as cur:
            cur.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            fill(database, 2000)
            database.query(f"DELETE FROM que_jobs WHERE {ID} < 2000")
            crew.exchange()
            assert (database.locks(), crew.crew.waiting) == ([2000, 2001], 2)
            eventually(lambda: crew.crew.waits_long)
            taken = crew.exchange()
            if not taken.rows:
                assert taken.more
                taken = crew.exchange()
            assert [row.id for row in taken.rows] == [2000]
            crew.run()


def test_a_client_that_is_closed_while_jobs_are_taken_has_none_of_them_run(
    dsn: str, gate: str, database: Database
) -> None:
    worked = Worked()
    fill(database, 1)
    client = qg.Client(gate)
    with closing(database.connect()) as holder, holder.cursor() as cur:
        cur.execute("SELECT pg_advisory_lock(7, 7)")
        with by_hand(client, {"MyJob": worked}) as crew:
            thread = threading.Thread(target=crew.exchange)
            thread.start()
            eventually(lambda: database.is_waiting_for_a_lock(crew.session.conn.info.backend_pid))
            client.close()
            holder.close()
            thread.join()
            assert (crew.crew.waiting, database.locks()) == (0, [1])
            crew.exchange(takes=False)
            assert database.locks() == []


# Sessions that are lost, or old


def test_a_job_that_waits_isnt_begun_once_its_lock_is_lost(client: qg.Client, database: Database) -> None:
    worked = Worked()
    fill(database, 2)
    with by_hand(client, {"MyJob": worked}) as crew:
        crew.exchange()
        database.terminate(crew.session.conn.info.backend_pid)
        eventually(lambda: crew.session.lost)
        crew.run()
        crew.run()
        assert worked.ids == []
        assert crew.told == 1  # or nobody would take a new session
        assert not crew.crew.take_unrecorded()


def test_what_returned_under_a_lost_lock_is_deleted_under_a_new_one(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fill(database, 2)
    with by_hand(client, {"MyJob": do_nothing}) as crew:
        crew.exchange()
        crew.run()
        crew.run()
        database.terminate(crew.session.conn.info.backend_pid)
        with pytest.raises(psycopg2.OperationalError):
            crew.exchange()
        crew.crew.exchange(None, crew.engine.database.table, takes=False)
        with qg.Client(database.dsn) as other:
            theirs = other.lock_job()
            assert (theirs.id, crew.settle_apart()) == (1, 2)
            assert ids(database) == [1]
            theirs.done()
    assert events(caplog, "job_") == ["job_moved_on id=1", "job_worked id=2 type=MyJob"]


def test_a_lock_taken_anew_is_on_one_of_the_sessions_that_are_lent(client: qg.Client, database: Database) -> None:
    """Where all coroutines of a lost session end at once, not every one gets a connection at once."""
    fill(database, 1)
    leases = []

    def handler(job: qg.Job) -> None:
        database.terminate(crew.session.conn.info.backend_pid)
        eventually(lambda: job.lost)
        raise LookupError

    with by_hand(client, {"MyJob": handler}) as crew:
        crew.exchange()
        engine = engine_of(client)
        lease, lend = engine.database.lease, crew.crew._transactions.lease

        def count(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda **how: leases.append(kind) or function(**how)

        engine.database.lease = count("lease", lease)  # type: ignore[method-assign]
        crew.crew._transactions.lease = count("lend", lend)  # type: ignore[method-assign]
        crew.run()
    assert leases == ["lend", "lease"]
    assert [(number, count) for number, _, count, _ in database.jobs()] == [(1, 1)]


def test_an_old_session_unlocks_what_is_over_though_another_of_its_jobs_runs_for_long(
    client: qg.Client, database: Database
) -> None:
    fill(database, 1, "Bad")
    fill(database, 2)
    with by_hand(client, {"MyJob": do_nothing, "Bad": fail}, 3) as crew:
        crew.exchange()
        bad, quick, slow = crew.begin(), crew.begin(), crew.begin()
        crew.run(bad)
        crew.run(quick)
        new = lease(client)
        fill(database, 1)
        crew.exchange(new)
        assert (ids(database), database.locks()) == ([1, 2, 3, 4], [1, 2, 3, 4])
        assert crew.settle_apart() == 0
        crew.exchange(crew.session, takes=False)
        assert (ids(database), database.locks()) == ([1, 3, 4], [3, 4])
        assert (crew.crew.holds(crew.session), crew.crew.holds(new)) == (True, True)
        crew.run(slow)
        crew.run()
        crew.exchange(new)
        crew.exchange(crew.session, takes=False)
        assert not crew.crew.holds(crew.session)
        new.close_now()
    assert ids(database) == [1]


def test_a_lock_that_somebody_took_away_ends_the_session_and_deletes_what_has_returned(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, 2)
    with by_hand(client, {"MyJob": do_nothing}) as crew:
        crew.exchange()
        crew.run()
        begun = crew.begin()
        with crew.session.conn.cursor() as cur:
            cur.execute("SELECT pg_advisory_unlock_all()")
        crew.session.conn.rollback()
        fill(database, 1)
        with pytest.raises(LockLost):
            crew.exchange()
        assert (crew.crew.waiting, ids(database)) == (0, [2, 3])
        eventually(lambda: not database.locks())  # of a session that was closed the server hears a moment later
        crew.run(begun)
    assert events(caplog) == ["lock_not_ours id=1"]
    assert ids(database) == [2, 3]


def test_where_a_session_can_have_no_functions_what_has_returned_is_deleted_and_the_rest_unlocked(
    client: qg.Client, database: Database
) -> None:
    fill(database, 1, "Bad")
    fill(database, 2)
    with by_hand(client, {"MyJob": do_nothing, "Bad": fail}, 2) as crew:
        crew.exchange()
        crew.run()
        crew.run()
        rows_of(client).takes_plainly = lambda session: True  # type: ignore[method-assign]
        assert crew.exchange() is None
        crew.settle_apart()
        crew.exchange(takes=False)
        assert (ids(database), database.locks()) == ([1, 3], [])
        assert crew.crew.take_plainly(crew.engine.database.table, "")
        assert database.locks() == [3]
        crew.run()
        assert (ids(database), database.locks()) == ([1], [])
        del rows_of(client).takes_plainly


# A handler's threads


def test_a_thread_that_asks_for_the_connection_while_its_handler_returns_gets_one_of_this_job_or_none(
    client: qg.Client, database: Database
) -> None:
    fill(database, 2)
    asked: list[Any] = []
    asking, may_have_it = threading.Event(), threading.Event()

    def handler(job: qg.Job) -> None:
        threads.append(threading.Thread(target=lambda: asked.append(job.tx)))
        threads[0].start()
        assert asking.wait(10)
        threading.Timer(0.1, may_have_it.set).start()

    threads: list[threading.Thread] = []
    with by_hand(client, {"MyJob": handler}) as crew:
        transactions = crew.crew._transactions
        lend = transactions.lease

        def lend_late() -> Any:
            asking.set()
            assert may_have_it.wait(10)
            return lend()

        transactions.lease = lend_late  # type: ignore[method-assign]
        crew.exchange()
        crew.run()
        threads[0].join()
        (conn,) = asked
        assert conn is not None
        assert conn.closed  # the thread has kept it, so nobody else may have it
        assert transactions.lease_at_once().conn is not conn
        crew.crew.drop_waiting()
        crew.session.close_now()
