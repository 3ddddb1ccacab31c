"""Where walks begin: at the start while that is cheap, otherwise at the marks, and what is found when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Database, begin_with, eventually, lease, rows_of, take

import qg
from qg.client import engine_of
from qg.database.session import Session
from qg.locking.locked_row import LockedRow
from qg.locking.marks import Marks, WalkStart
from qg.locking.row_lock import RowLock
from qg.tables import Row
from qg.tables.locking import Walk

AT = "2026-01-02T03:04:05+00:00"
EARLIER = "2026-01-01T00:00:00+00:00"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def marks(clock: Clock) -> Marks:
    return Marks(clock, cheap=100)


def walk(entries: int = 0, pages: int = 0, marks: dict[int, tuple[str, int]] | None = None) -> Walk:
    learned = marks or {}
    return Walk(
        unlocked=True,
        more=True,
        seconds_until_next=None,
        entries=entries,
        pages=pages,
        priorities=list(learned),
        run_ats=[at for at, _ in learned.values()],
        ids=[number for _, number in learned.values()],
    )


def row(priority: int = 100, run_at: str = AT, number: int = 7) -> Row:
    return Row(number, "", priority, run_at, "MyJob", "[]", 0, None)


def made_dear(marks: Marks, learned: dict[int, tuple[str, int]]) -> Marks:
    """Have two walks from the start: one that shows how dear they are, one that learns."""
    marks.end(marks.start(), walk(entries=1000), 0)
    marks.end(marks.start(), walk(entries=1000, marks=learned), 0)
    return marks


# When a walk begins where


def test_while_walks_are_cheap_they_begin_at_the_start_and_learn_nothing(marks: Marks) -> None:
    for _ in range(3):
        start = marks.start()
        assert not start.at_marks
        assert start.params == (None, None, None, False)
        marks.end(start, walk(entries=100), 0)


def test_what_each_job_costs_anyway_makes_no_walk_dear(marks: Marks) -> None:
    marks.end(marks.start(), walk(entries=600, pages=1200), 300)
    assert not marks.start().learn


@pytest.mark.parametrize("cost", [{"entries": 101}, {"pages": 23}], ids=str)
def test_after_a_dear_walk_the_next_one_learns_and_then_they_begin_at_the_marks(
    marks: Marks, cost: dict[str, int]
) -> None:
    marks.end(marks.start(), walk(**cost), 0)
    learning = marks.start()
    assert learning.learn
    assert not learning.at_marks
    marks.end(learning, walk(**cost, marks={200: (AT, 5), 100: (EARLIER, 0)}), 0)
    assert marks.start().params == ([100, 200], [EARLIER, AT], [0, 5], True)


def test_a_walk_from_the_marks_moves_them(marks: Marks) -> None:
    made_dear(marks, {100: (AT, 5)})
    marks.end(marks.start(), walk(marks={100: (AT, 9)}), 1)
    assert marks.start().marks == {100: (AT, 9)}


@pytest.mark.parametrize(("seconds", "rest"), [(0.001, 1.0), (0.1, 2.0), (3.0, 5.0)])
def test_walks_from_the_start_take_a_small_share_of_the_time_but_come_every_five_seconds(
    marks: Marks, clock: Clock, seconds: float, rest: float
) -> None:
    marks.end(marks.start(), walk(entries=1000), 0)
    start = marks.start()
    clock.now += seconds
    marks.end(start, walk(entries=1000, marks={100: (AT, 5)}), 0)
    clock.now += rest - 0.1
    assert marks.start().at_marks
    assert marks.seconds_until_start() == pytest.approx(0.1)
    clock.now += 0.11
    assert not marks.start().at_marks


def test_while_one_walks_from_the_start_the_others_go_on_from_the_marks(marks: Marks, clock: Clock) -> None:
    made_dear(marks, {100: (AT, 5)})
    clock.now += 1
    assert not marks.start().at_marks
    assert marks.start().at_marks


def test_when_a_walk_from_the_start_is_cheap_again_the_marks_are_forgotten(marks: Marks, clock: Clock) -> None:
    made_dear(marks, {100: (AT, 5)})
    clock.now += 1
    marks.end(marks.start(), walk(entries=3), 0)
    for _ in range(2):
        start = marks.start()
        assert not start.at_marks
        assert not start.learn


def test_a_row_that_was_let_go_takes_the_mark_of_its_priority_back(marks: Marks) -> None:
    made_dear(marks, {100: (AT, 9), 200: (AT, 9)})
    marks.note_released(row(number=7))
    assert marks.start().marks == {100: (AT, 6), 200: (AT, 9)}
    marks.note_released(row(number=8))
    marks.note_released(row(priority=50))
    assert marks.start().marks == {100: (AT, 6), 200: (AT, 9)}


def test_what_a_walk_learned_before_a_row_was_let_go_isnt_believed(marks: Marks) -> None:
    made_dear(marks, {100: (AT, 5)})
    start = marks.start()
    marks.note_released(row(number=7))
    marks.end(start, walk(marks={100: (AT, 9)}), 1)
    assert marks.start().marks == {100: (AT, 5)}


def test_there_are_at_most_fifty_marks(marks: Marks) -> None:
    made_dear(marks, dict.fromkeys(range(60), (AT, 1)))
    assert list(marks.start().marks or {}) == list(range(50))


def test_a_walk_that_meets_no_job_of_a_priority_leaves_its_mark(marks: Marks, clock: Clock) -> None:
    made_dear(marks, {1: (AT, 5), 100: (AT, 5)})
    clock.now += 1
    marks.end(marks.start(), walk(entries=1000, marks={100: (AT, 9)}), 1)
    assert marks.start().marks == {1: (AT, 5), 100: (AT, 9)}


# What that comes to on a table


def _locked_row(client: qg.Client, session: Session, row: Row) -> LockedRow:
    context = engine_of(client).context
    return LockedRow(row, RowLock(session, row.id, context, lent=False), context)


class Process:
    """A client on its own, as another process would have it, whose walks are never cheap."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.client = qg.Client(database.dsn)
        self.marks = Marks(clock, cheap=-1000)
        begin_with(self.client, self.marks)
        self.held: list[LockedRow] = []

    def take(self) -> tuple[Row | None, WalkStart]:
        starts: list[WalkStart] = []
        start = self.marks.start
        self.marks.start = lambda **how: starts.append(start(**how)) or starts[-1]  # type: ignore[method-assign]
        session = lease(self.client)
        taken = take(self.client, session, "")
        self.marks.start = start  # type: ignore[method-assign]
        assert taken is not None
        if not taken.rows:
            session.give_back()
            return None, starts[0]
        self.held.append(_locked_row(self.client, session, taken.rows[0]))
        return taken.rows[0], starts[0]

    def finish(self) -> None:
        locked = self.held.pop(0)
        locked.delete()
        locked.let_go()

    def fail(self) -> None:
        locked = self.held.pop(0)
        locked.set_error("no")
        locked.let_go()

    def let_go(self) -> None:
        self.held.pop(0).let_go()

    def crash(self) -> None:
        for locked in self.held:
            locked.session.close_now()
        ended = {locked.row.id for locked in self.held}
        self.held = []
        eventually(lambda: not ended & set(self.database.locks()), "the end of the sessions")

    def close(self) -> None:
        self.crash()
        self.client.close()


AGES = ["0 s", "1 s", "1 hour", "2 hours", "-1 hour"]
STEPS = st.one_of(
    st.tuples(st.just("enqueue"), st.integers(1, 3), st.sampled_from(AGES)),
    st.tuples(st.sampled_from(["take", "take", "take", "finish", "fail", "let_go", "crash"]), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0])),
)


@settings(max_examples=25)
@given(steps=st.lists(STEPS, min_size=10, max_size=40))
def test_whatever_happens_before_a_mark_is_found_by_the_next_walk_from_the_start(
    database: Database, steps: list[tuple]
) -> None:
    database.query("TRUNCATE que_jobs")
    clock = Clock()
    with closing(Process(database, clock)) as one, closing(Process(database, clock)) as other:
        processes = [one, other]
        for name, *details in steps:
            if name == "enqueue":
                database.query(
                    "INSERT INTO jobs (job_class, priority, run_at) VALUES ('MyJob', %s, now() - %s::interval)",
                    details,
                )
            elif name == "wait":
                clock.now += details[0]
            elif name == "take":
                take_and_compare(processes[details[0]], database)
            elif processes[details[0]].held:
                getattr(processes[details[0]], name)()
        for process in processes:
            process.crash()
        clock.now += 5
        while take_and_compare(one, database):
            clock.now += 5
        assert expected(database) is None


def expected(database: Database) -> Row | None:
    """The first job that is due and free."""
    rows = database.query(
        "SELECT job_id, queue, priority, run_at::text, job_class, args::text, error_count, last_error FROM jobs "
        "WHERE run_at <= clock_timestamp() AND NOT job_id = ANY(%s) ORDER BY priority, run_at, job_id LIMIT 1",
        (database.locks(),),
    )
    return Row(*rows[0]) if rows else None


def take_and_compare(process: Process, database: Database) -> bool:
    locked = database.locks()
    first = expected(database)
    taken, start = process.take()
    if taken is not None:
        assert taken.id not in locked
    if not start.at_marks or (first is not None and first.priority not in (start.marks or {})):
        assert (taken and taken.id) == (first and first.id)
    return taken is not None


def test_a_job_before_the_mark_is_found_a_second_later(client: qg.Client, database: Database, clock: Clock) -> None:
    marks = Marks(clock, cheap=-1000)
    begin_with(client, marks)
    session = lease(client)

    def take_one() -> str | None:
        taken = take(client, session, "")
        assert taken is not None
        return taken.rows[0].type if taken.rows else None

    database.query("INSERT INTO jobs (job_class, run_at) VALUES ('First', now() - interval '1 hour')")
    assert [take_one(), take_one(), take_one()] == ["First", "First", None]
    database.query("INSERT INTO jobs (job_class, run_at) VALUES ('Before', now() - interval '2 hours')")
    database.query("INSERT INTO jobs (job_class, priority) VALUES ('Urgent', 1)")
    database.query("INSERT INTO jobs (job_class) VALUES ('Now')")
    assert [take_one(), take_one()] == ["Urgent", "Urgent"]  # no mark there; it was let go and taken again
    database.query("DELETE FROM que_jobs WHERE job_class = 'Urgent'")
    assert take_one() == "Now"
    assert 0 < marks.seconds_until_start() <= 1
    clock.now += 1
    assert take_one() == "Before"
    session.close_now()


def test_lock_job_says_that_there_is_no_job_only_if_there_is_none(
    client: qg.Client, database: Database, clock: Clock
) -> None:
    begin_with(client, Marks(clock, cheap=-1000))
    for _ in range(3):
        assert client.lock_job() is None
    client.enqueue(qg.Job("MyJob"))
    client.lock_job().done()
    database.query("UPDATE que_jobs SET run_at = now() - interval '1 hour'")
    with client.lock_job() as job:
        job.delete()


# What it costs


@pytest.fixture
def old_snapshot(database: Database) -> Iterator[None]:
    """A transaction that keeps VACUUM, and the index, from forgetting any row deleted from now on."""
    conn = psycopg2.connect(database.dsn)
    conn.set_session(isolation_level="REPEATABLE READ")
    conn.cursor().execute("SELECT count(*) FROM que_jobs")
    yield
    conn.close()


def fill(database: Database, count: int, *, priority: int = 100, dead: bool = False) -> None:
    database.query(
        "INSERT INTO jobs (job_class, priority, run_at) "
        "SELECT 'MyJob', %s, now() - interval '1 hour' FROM generate_series(1, %s)",
        (priority, count),
    )
    if dead:
        database.query("DELETE FROM que_jobs WHERE priority = %s", (priority,))


class Costs:
    """Takes jobs one after another and notes what each walk read."""

    def __init__(self, client: qg.Client) -> None:
        self.client = client
        self.session: Session = lease(client)
        self.clock = Clock()
        self.marks = Marks(self.clock)
        begin_with(client, self.marks)
        self.walks: list[tuple[WalkStart, Walk]] = []
        end = self.marks.end
        self.marks.end = lambda start, walk, taken: (  # type: ignore[method-assign]
            self.walks.append((start, walk)),
            end(start, walk, taken),
        )

    def take(self, count: int) -> list[tuple[WalkStart, Walk]]:
        self.walks.clear()
        finished: list[Row] = []
        for _ in range(count):
            taken = take(self.client, self.session, "", deleted=finished, unlock=finished[0] if finished else None)
            assert taken is not None
            finished = taken.rows
        return self.walks


def test_dead_rows_before_the_mark_cost_nothing(client: qg.Client, database: Database, old_snapshot: None) -> None:
    fill(database, 20_000, dead=True)
    fill(database, 200)
    costs = Costs(client)
    walks = costs.take(2)
    assert [walk.entries > 20_000 for _, walk in walks] == [True, True]
    for start, walk in costs.take(100):
        assert start.at_marks
        assert walk.entries < 30
        assert walk.pages < 20
    costs.session.close_now()


def test_nor_do_those_of_several_priorities(client: qg.Client, database: Database, old_snapshot: None) -> None:
    fill(database, 10_000, priority=1, dead=True)
    fill(database, 10_000, priority=2, dead=True)
    fill(database, 5, priority=1)
    fill(database, 5, priority=2)
    fill(database, 200, priority=3)
    costs = Costs(client)
    costs.take(15)
    costs.clock.now += 5
    costs.take(1)
    for start, walk in costs.take(50):
        assert start.at_marks
        assert walk.entries < 60
        assert walk.pages < 40
    costs.session.close_now()


def test_a_walk_doesnt_read_what_is_not_due(client: qg.Client, database: Database) -> None:
    database.query(
        "INSERT INTO jobs (job_class, priority, run_at) "
        "SELECT 'Later', 1, now() + interval '1 hour' FROM generate_series(1, 20000)"
    )
    fill(database, 10)
    costs = Costs(client)
    for start, walk in costs.take(10):
        assert not start.at_marks
        assert walk.entries < 60
    costs.session.close_now()


def test_when_the_snapshot_is_gone_and_vacuum_was_there_the_order_is_strict_again(
    client: qg.Client, database: Database
) -> None:
    conn = psycopg2.connect(database.dsn)
    conn.set_session(isolation_level="REPEATABLE READ")
    conn.cursor().execute("SELECT count(*) FROM que_jobs")
    fill(database, 2_000, dead=True)
    fill(database, 10)
    costs = Costs(client)
    assert costs.take(3)[-1][0].at_marks
    conn.close()
    eventually(lambda: len(database.sessions()) == 1, "the end of the snapshot")
    database.query("VACUUM que_jobs")
    costs.clock.now += 5
    costs.take(1)
    assert [start.at_marks for start, _ in costs.take(3)] == [False, False, False]
    costs.session.close_now()


# Many queues


def test_what_is_known_of_queues_that_nobody_uses_any_more_is_forgotten(client: qg.Client) -> None:
    rows = rows_of(client)
    first, used = rows.marks("first"), rows.marks("used")
    for number in range(2000):
        rows.marks(f"queue {number}")
        assert rows.marks("used") is used
    assert rows.marks("first") is not first


def test_the_marks_of_all_types_of_a_queue_hear_of_a_job_that_is_released(client: qg.Client, clock: Clock) -> None:
    heard: list[tuple[str, ...] | None] = []

    class Noting(Marks):
        types: tuple[str, ...] | None

        def note_released(self, row: Row) -> None:
            heard.append(self.types)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qg.locking.row_taker.Marks", lambda: Noting(clock))
        for queue, types in [("q", None), ("q", ("A",)), ("q", ("A", "B")), ("other", None)]:
            rows_of(client).marks(queue, types).types = types  # type: ignore[attr-defined]
    rows_of(client).note_released(Row(1, "q", 100, "2020-01-01T00:00:00+00:00", "A", "[]", 0, None))
    assert heard == [None, ("A",), ("A", "B")]


def test_what_is_known_of_sets_of_types_that_nobody_asks_for_any_more_is_forgotten(client: qg.Client) -> None:
    rows = rows_of(client)
    first = rows.marks("", ("first",))
    for number in range(100):
        rows.marks("", (f"type {number}",))
    assert rows.marks("", ("first",)) is not first
