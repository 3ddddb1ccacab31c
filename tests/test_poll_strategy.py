"""The order in which workers take due jobs: the most urgent first, or the earliest."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn
from support import UNNAMED, VERSION, Database, UntilEmpty, begin_with, eventually, lease, rows_of, table_of, take

import qg
from qg import PollStrategy
from qg.database.session import Session
from qg.locking.marks import Marks, WalkStart
from qg.tables import Row, timestamp
from qg.tables.locking import UNLOCK_JOB, Walk, take_jobs_in

PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)
FUTURE = datetime(2999, 1, 1, tzinfo=timezone.utc)
PRIORITY, RUN_AT = PollStrategy.PRIORITY, PollStrategy.RUN_AT

# Type, priority and day of the year 2020, among them equals in each; and what each order makes of it.
JOBS = [("a", 5, 3), ("b", 1, 4), ("c", 5, 1), ("d", 9, 1), ("e", 1, 4), ("f", -7, 2), ("g", 9, 0), ("h", 1, 1)]
ORDERS = {PRIORITY: "fhbecagd", RUN_AT: "ghcdfabe"}

each_order = pytest.mark.parametrize("order", PollStrategy, ids=lambda order: order.name)


def work_with_batches_of(size: int) -> Callable[..., None]:
    def work(client: qg.Client, work_map: Any, order: PollStrategy) -> None:
        UntilEmpty(client, work_map, batch_size=size, poll_strategy=order).work()

    return work


def work_one_by_one(client: qg.Client, work_map: Any, order: PollStrategy) -> None:
    worker = qg.Worker(client, work_map, poll_strategy=order)
    while worker.work_one():
        pass


WAYS = {
    "one by one": work_one_by_one,
    **{f"batches of {size}": work_with_batches_of(size) for size in (1, 3, 100)},
}
each_way = pytest.mark.parametrize("work", WAYS.values(), ids=WAYS)


def enqueue_all(client: qg.Client) -> list[qg.Job]:
    return client.enqueue_batch(
        qg.Job(job_type, priority=priority, run_at=PAST + timedelta(day)) for job_type, priority, day in JOBS
    )


class Notes:
    """A work map for all of JOBS that notes which types were worked."""

    def __init__(self, *also: str) -> None:
        self.worked = ""
        self.work_map = dict.fromkeys([*"abcdefgh", *also], self.note)

    def note(self, job: qg.Job) -> None:
        self.worked += job.type


def walk(
    client: qg.Client,
    session: Session,
    wanted: int = 1,
    *,
    order: PollStrategy = RUN_AT,
    marks: dict[int, tuple[str, int]] | None = None,
    learn: bool = False,
) -> tuple[list[Row], Walk]:
    """Take jobs of the queue "" from *marks* on, without what the client knows of it."""
    table = table_of(client)
    session.prepare_taking(table)
    *found, last = session.delete_and_run(
        table,
        None,
        take_jobs_in(order),
        (None, None, None, table.queue_name(""), wanted, None, *WalkStart(0.0, marks or None, learn).params),
    )
    return [Row.read(text) for (text,) in found], Walk(*json.loads(last[0]))


@pytest.fixture
def sessions(client: qg.Client) -> Iterator[Callable[[], Session]]:
    """A function that leases a session, which is closed at the end."""
    leased: list[Session] = []

    def lease_one() -> Session:
        leased.append(lease(client))
        return leased[-1]

    yield lease_one
    for session in leased:
        session.close_now()


# The order


@each_way
@each_order
def test_jobs_come_in_the_order_that_is_asked_for(
    client: qg.Client, order: PollStrategy, work: Callable[..., None]
) -> None:
    enqueue_all(client)
    notes = Notes()
    work(client, notes.work_map, order)
    assert notes.worked == ORDERS[order]


@each_order
def test_a_pool_hands_the_strategy_on(client: qg.Client, database: Database, order: PollStrategy) -> None:
    enqueue_all(client)
    notes = Notes()
    with qg.WorkerPool(client, notes.work_map, 1, poll_strategy=order) as pool:
        eventually(lambda: database.count() == 0)
    assert (pool.poll_strategy, notes.worked) == (order, ORDERS[order])


def test_workers_and_pools_go_by_priority_unless_told_otherwise(client: qg.Client) -> None:
    enqueue_all(client)
    notes = Notes()
    UntilEmpty(client, notes.work_map).work()
    assert notes.worked == ORDERS[PRIORITY]
    assert qg.Worker(client, {}).poll_strategy is PRIORITY
    assert qg.WorkerPool(client, {}, 1).poll_strategy is PRIORITY


def test_a_job_locked_by_hand_comes_by_priority_whatever_workers_do(client: qg.Client) -> None:
    enqueue_all(client)
    notes = Notes()
    worker = UntilEmpty(client, notes.work_map, poll_strategy=RUN_AT)
    with client.lock_job() as job:
        assert job.type == "f"
        worker.work()
    assert notes.worked == "ghcdabe"


@each_way
def test_jobs_of_the_future_hide_no_due_ones(client: qg.Client, database: Database, work: Callable[..., None]) -> None:
    client.enqueue_batch(qg.Job("later", priority=priority, run_at=FUTURE) for priority in range(-10, 12))
    enqueue_all(client)
    notes = Notes("later")
    work(client, notes.work_map, RUN_AT)
    assert (notes.worked, database.count()) == (ORDERS[RUN_AT], 22)


@each_way
def test_a_job_of_another_queue_is_none_of_ours(client: qg.Client, work: Callable[..., None]) -> None:
    client.enqueue_batch(qg.Job("a", queue=queue, run_at=PAST) for queue in ("\t", "a", "other"))
    notes = Notes()
    work(client, notes.work_map, RUN_AT)
    assert notes.worked == ""


@each_way
def test_jobs_that_are_locked_are_passed_over_however_early_they_are(
    client: qg.Client, database: Database, work: Callable[..., None]
) -> None:
    ids = [job.id for job in enqueue_all(client) if job.type in "gcdb"]
    notes = Notes()
    database.query("SELECT pg_advisory_lock(id) FROM unnest(%s) AS id", (ids,))
    try:
        work(client, notes.work_map, RUN_AT)
    finally:
        database.query("SELECT pg_advisory_unlock_all()")
    assert notes.worked == "hfae"


@pytest.mark.parametrize("run_at", ["-infinity", "0044-03-15 12:00:00 BC", "0001-01-01 00:00:00+00"])
@each_way
def test_nothing_is_earlier_than_a_run_at_beyond_datetime(
    client: qg.Client, database: Database, run_at: str, work: Callable[..., None]
) -> None:
    enqueue_all(client)
    database.query("INSERT INTO jobs (job_class, run_at) VALUES ('Old', %s), ('Never', 'infinity')", (run_at,))
    notes = Notes("Old", "Never")
    work(client, notes.work_map, RUN_AT)
    assert notes.worked == "Old" + ORDERS[RUN_AT]


# Who gets what


def test_sessions_never_get_the_same_job_whatever_order_they_take_them_in(
    client: qg.Client, sessions: Callable[[], Session], database: Database
) -> None:
    enqueue_all(client)
    taken = [
        "".join(row.type for row in walk(client, sessions(), wanted, order=order)[0])
        for wanted, order in [(2, RUN_AT), (2, PRIORITY), (2, RUN_AT), (9, RUN_AT), (9, PRIORITY)]
    ]
    assert taken == ["gh", "fb", "cd", "ae", ""]
    assert len(database.locks()) == 8


@pytest.mark.parametrize("locked", [True, False])
def test_the_lock_that_is_given_up_is_free_again_and_told_of(
    client: qg.Client, sessions: Callable[[], Session], database: Database, locked: bool
) -> None:
    enqueue_all(client)
    session = sessions()
    (first,) = take(client, session, "", order=RUN_AT).rows
    if not locked:
        session.run(UNLOCK_JOB, (first.id,))
    taken = take(client, session, "", 2, order=RUN_AT, unlock=first)
    assert taken.unlocked is locked
    assert [row.type for row in taken.rows] == ["g", "h"]
    assert database.locks() == sorted(row.id for row in taken.rows)


def test_more_says_whether_another_job_is_due(client: qg.Client, sessions: Callable[[], Session]) -> None:
    enqueue_all(client)
    client.enqueue(qg.Job("later", run_at=FUTURE))
    session = sessions()
    assert [take(client, session, "", wanted, order=RUN_AT).more for wanted in (1, 7, 8, 9)] == [
        True,
        True,
        False,
        False,
    ]


RACES = {
    "finished": "DELETE FROM jobs WHERE job_id = 1",
    "failed": "UPDATE jobs SET error_count = 1, run_at = now() + interval '1 hour' WHERE job_id = 1",
    "moved to another queue": "UPDATE jobs SET queue = 'elsewhere' WHERE job_id = 1",
}


@pytest.mark.parametrize("change", RACES.values(), ids=RACES)
@each_way
def test_a_job_that_changed_between_the_look_and_the_lock_isnt_worked(
    gate: str, database: Database, work: Callable[..., None], change: str
) -> None:
    seen: list[Any] = []

    def handler(job: qg.Job) -> None:
        seen.append((job.type, database.locks()))

    with qg.Client(gate) as client:
        work(client, {}, RUN_AT)  # so that nothing remains to be prepared
        client.enqueue_batch([qg.Job("a", priority=2, run_at=PAST), qg.Job("b", priority=1)])
        (pid, *_), *_ = database.sessions()
        thread = threading.Thread(target=work, args=(client, dict.fromkeys("ab", handler), RUN_AT))
        database.query("SELECT pg_advisory_lock(7, 7)")
        try:
            thread.start()
            eventually(lambda: database.is_waiting_for_a_lock(pid))
            with closing(database.connect()) as psql, psql, psql.cursor() as cur:
                cur.execute(change)
        finally:
            database.query("SELECT pg_advisory_unlock(7, 7)")
            thread.join()
        assert seen == [("b", [2])]


# When the next one falls due


def test_a_walk_that_finds_no_job_says_when_the_first_one_falls_due(
    client: qg.Client, sessions: Callable[[], Session], database: Database
) -> None:
    database.query(
        "INSERT INTO jobs (job_class, priority, run_at) VALUES ('a', 1, now() - interval '1 hour'),"
        "('b', 2, now() + interval '60 s'), ('c', 3, now() + interval '30 s'), ('d', 3, now() + interval '31 s'),"
        "('e', 4, now() + interval '60 s')"
    )
    with client.lock_job():
        taken = take(client, sessions(), "", order=RUN_AT)
    assert (taken.rows, taken.more) == ([], False)
    assert 20 < taken.seconds_until_next <= 30


def test_where_nothing_ever_falls_due_nothing_is_known_of_it(
    client: qg.Client, sessions: Callable[[], Session], database: Database
) -> None:
    session = sessions()
    assert take(client, session, "", order=RUN_AT).seconds_until_next is None
    database.query("INSERT INTO jobs (job_class, run_at) VALUES ('Never', 'infinity')")
    assert take(client, session, "", order=RUN_AT).seconds_until_next is None


def test_a_worker_gets_up_when_a_job_falls_due(client: qg.Client, database: Database) -> None:
    database.query(
        "INSERT INTO jobs (job_class, priority, run_at) VALUES ('later', 1, now() + interval '1 hour'),"
        "('a', 2, now() + interval '0.3 s')"
    )
    notes = Notes("later")
    with qg.WorkerPool(client, notes.work_map, 2, interval=3600, poll_strategy=RUN_AT):
        eventually(lambda: notes.worked == "a")


# Marks


class Looked(NamedTuple):
    """A row as the model sees it."""

    priority: int
    run_at: datetime
    id: int

    def is_before(self, marks: dict[int, tuple[str, int]]) -> bool:
        run_at, number = marks.get(self.priority, ("-infinity", -1))
        return (self.run_at, self.id) <= (timestamp(run_at), number)


SORT = {PRIORITY: lambda row: row, RUN_AT: lambda row: (row.run_at, row.priority, row.id)}
HORIZON = timedelta(milliseconds=250)


class Walks:
    """One session that walks from marks and learns others, held against a table sorted in Python."""

    def __init__(self, client: qg.Client, database: Database) -> None:
        self.session = lease(client)
        self.marks: dict[int, tuple[str, int]] = {}
        self.others: set[int] = set()  # locked by somebody else
        self.taken: list[int] = []
        self._client = client
        self._database = database

    def enqueue(self, priority: int, age: str) -> None:
        self._database.query(
            "INSERT INTO jobs (job_class, priority, run_at) VALUES ('a', %s, now() - %s::interval)",
            (priority, age),
        )

    def lock_another(self, number: int) -> None:
        if number not in self.others and self._database.value("SELECT pg_try_advisory_lock(%s)", (number,)):
            self.others.add(number)

    def let_go(self) -> None:
        self._database.query("SELECT pg_advisory_unlock_all()")
        self.others.clear()

    def finish(self) -> None:
        self._database.query("DELETE FROM jobs WHERE job_id = ANY(%s)", (self.taken,))

    def walk(self, order: PollStrategy, wanted: int) -> None:
        rows = [Looked(*row) for row in self._database.query("SELECT priority, run_at, job_id FROM jobs")]
        seen = sorted((row for row in rows if not row.is_before(self.marks)), key=SORT[order])
        before = self._now()
        due = [row for row in seen if row.run_at <= before]
        free = [row for row in due if row.id not in self.others]
        found, told = walk(self._client, self.session, wanted, order=order, marks=self.marks, learn=True)
        self.taken = [row.id for row in found]
        assert self._database.locks() == sorted({*self.taken, *self.others})
        assert self.taken == [row.id for row in free[:wanted]]
        assert None not in (told.priorities, told.run_ats, told.ids)
        learned = dict(zip(told.priorities, zip(told.run_ats, told.ids, strict=True), strict=True))
        assert sorted(learned) == told.priorities
        assert learned.keys() >= self.marks.keys()
        assert not [row for row in free[wanted:] if row.is_before(learned)]
        if order is RUN_AT:
            rest = due[due.index(free[wanted - 1]) + 1 :] if len(free) >= wanted else []
            assert told.more is bool(rest)
            assert learned.keys() == self.marks.keys() | {row.priority for row in seen}
            for priority, mark in learned.items():
                ahead = [row for row in (*rest, *seen) if row.priority == priority]
                heads = [row for row in ahead if row in rest or row.run_at > before]
                self.check(mark, min(heads, default=None), before - HORIZON, self._now() - HORIZON)
        self.marks.update(learned)

    @staticmethod
    def check(mark: tuple[str, int], head: Looked | None, from_horizon: datetime, to_horizon: datetime) -> None:
        at_horizon = from_horizon <= timestamp(mark[0]) <= to_horizon and mark[1] == 0
        before_head = head is not None and (timestamp(mark[0]), mark[1]) == (head.run_at, head.id - 1)
        if head is None or head.run_at > to_horizon:
            assert at_horizon
        elif head.run_at < from_horizon:
            assert before_head
        else:
            assert at_horizon or before_head

    def close(self) -> None:
        self.let_go()
        self.session.close_now()
        eventually(lambda: self._database.locks() == [], "the end of the session's locks")

    def _now(self) -> datetime:
        return self._database.value("SELECT clock_timestamp()")


AGES = ["0 s", "0.2 s", "1 s", "1 hour", "2 hours", "-1 hour"]
STEPS = st.one_of(
    st.tuples(st.just("enqueue"), st.integers(1, 4), st.sampled_from(AGES)),
    st.tuples(st.just("walk"), st.sampled_from([RUN_AT, RUN_AT, PRIORITY]), st.integers(1, 4)),
    st.tuples(st.just("lock_another"), st.integers(1, 12)),
    st.tuples(st.sampled_from(["finish", "finish", "let_go"])),
)


@settings(max_examples=60)
@given(
    jobs=st.lists(st.tuples(st.integers(1, 4), st.sampled_from(AGES)), max_size=10),
    steps=st.lists(STEPS, min_size=5, max_size=20),
)
def test_a_walk_takes_what_a_sort_would_put_first_and_its_marks_hide_no_job_that_is_free(
    client: qg.Client, database: Database, jobs: list[tuple[int, str]], steps: list[tuple]
) -> None:
    database.query("TRUNCATE que_jobs RESTART IDENTITY")
    with closing(Walks(client, database)) as walks:
        for job in jobs:
            walks.enqueue(*job)
        for name, *details in [*steps, ("walk", RUN_AT, 100)]:
            getattr(walks, name)(*details)


@pytest.fixture
def always_at_marks(client: qg.Client) -> Marks:
    """What the client knows of its queue: that walks are dear and begin at the marks, always."""
    marks = Marks(clock=lambda: 0.0, cheap=-10_000)
    begin_with(client, marks)
    return marks


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_worker_goes_by_its_order_from_the_marks_too(
    client: qg.Client, always_at_marks: Marks, no_hurry: None, batch_size: int
) -> None:
    enqueue_all(client)
    notes = Notes()
    UntilEmpty(client, notes.work_map, batch_size=batch_size, poll_strategy=RUN_AT).work()
    assert always_at_marks.start().at_marks
    assert notes.worked == ORDERS[RUN_AT]


def test_both_orders_go_on_from_the_same_marks(
    client: qg.Client, always_at_marks: Marks, sessions: Callable[[], Session]
) -> None:
    enqueue_all(client)
    taken = [
        take(client, sessions(), "", order=order).rows[0].type
        for order in [RUN_AT, PRIORITY, PRIORITY, RUN_AT, RUN_AT, PRIORITY, RUN_AT, RUN_AT]
    ]
    assert taken == list("gfhcdbae")
    assert always_at_marks.start().at_marks


# What it costs


def fill(database: Database, count: int, *, priorities: int = 1, days: int = -1) -> None:
    """Enqueue *count* jobs in each priority from 1 to *priorities*, due in *days*, the earliest ones in the last."""
    database.query(
        "INSERT INTO jobs (job_class, priority, run_at) "
        "SELECT 'a', priority, now() + %s * interval '1 day' + number * interval '1 ms' - priority * interval '1 s' "
        "FROM generate_series(1, %s) AS priority, generate_series(1, %s) AS number",
        (days, priorities, count),
    )


@pytest.mark.parametrize("wanted", [1, 50])
@pytest.mark.parametrize("priorities", [1, 20])
def test_a_walk_reads_an_entry_a_priority_and_two_a_job(
    client: qg.Client, database: Database, sessions: Callable[[], Session], priorities: int, wanted: int
) -> None:
    fill(database, 1000, priorities=priorities)
    rows, told = walk(client, sessions(), wanted)
    assert [row.priority for row in rows] == [priorities] * wanted
    assert told.entries == priorities + 2 * wanted
    assert (told.heads, told.jumps) == (priorities, priorities + 1 + wanted)
    assert told.pages <= 4 * (told.jumps + wanted)


def test_a_locked_job_costs_an_entry(client: qg.Client, database: Database, sessions: Callable[[], Session]) -> None:
    fill(database, 100, priorities=3)
    walk(client, sessions(), 40)
    _, told = walk(client, sessions())
    # From version 4 on there is an index of the ids alone, in which the job that is taken may be looked up at last.
    assert told.entries in ([3 + 40 + 2] if VERSION == 3 else [3 + 40 + 1, 3 + 40 + 2])


def test_jobs_of_the_future_cost_an_entry_a_priority(
    client: qg.Client, database: Database, sessions: Callable[[], Session]
) -> None:
    fill(database, 1000, priorities=20, days=1)
    rows, told = walk(client, sessions())
    assert (rows, told.entries) == ([], 20)


@pytest.mark.parametrize("wanted", [1, 100])
def test_many_priorities_make_no_walk_dear(
    client: qg.Client, database: Database, sessions: Callable[[], Session], wanted: int
) -> None:
    fill(database, 10, priorities=400)
    assert len(take(client, sessions(), "", wanted, order=RUN_AT).rows) == wanted
    assert not rows_of(client).marks(UNNAMED).start().learn


@pytest.mark.parametrize(
    ("heads", "jumps", "entries", "pages", "dear"),
    [
        (60, 0, 60 + 2 + 100, 0, False),
        (60, 0, 60 + 2 + 101, 0, True),
        (0, 60, 0, 4 * 60 + 4 + 10 + 12, False),
        (0, 60, 0, 4 * 60 + 4 + 10 + 13, True),
    ],
)
def test_what_heads_and_jumps_cost_makes_no_walk_dear_but_what_comes_on_top_does(
    heads: int, jumps: int, entries: int, pages: int, dear: bool
) -> None:
    marks = Marks(cheap=100)
    marks.end(marks.start(), Walk(True, True, None, entries, pages, None, None, None, heads, jumps), 1)
    assert marks.start().learn is dear


def test_dead_rows_make_walks_dear_and_from_the_marks_they_cost_nothing(
    client: qg.Client, database: Database, sessions: Callable[[], Session]
) -> None:
    with closing(database.connect()) as old:
        old.set_session(isolation_level="REPEATABLE READ")
        old.cursor().execute("SELECT count(*) FROM que_jobs")
        fill(database, 5000, priorities=4, days=-2)
        database.query("DELETE FROM que_jobs")
        fill(database, 10, priorities=4)
        marks, session = rows_of(client).marks(UNNAMED), sessions()
        for _ in range(2):
            take(client, session, "", order=RUN_AT)
        start = marks.start()
        assert start.at_marks
        (row,), told = walk(client, session, marks=start.marks, learn=True)
        assert row.priority == 4
        assert told.entries < 20


def test_a_plan_from_when_the_table_was_empty_never_reads_the_whole_of_it(make_database) -> None:
    dsn = make_database()
    with closing(Database(dsn)) as database, qg.Client(dsn) as client:

        def scans() -> int:
            eventually(lambda: not database.sessions())
            return database.value("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'que_jobs'")

        database.query("ALTER TABLE que_jobs SET (autovacuum_enabled = off); ANALYZE que_jobs")
        fill(database, 3)
        session = lease(client)
        for _ in range(2):
            walk(client, session, 10)
        database.query("DELETE FROM que_jobs; SELECT pg_stat_force_next_flush()")
        before = database.value("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'que_jobs'")
        fill(database, 10_000, priorities=2)
        rows, told = walk(client, session, 10)
        assert len(rows) == 10
        assert told.entries <= 2 + 2 * 10 + 3  # three were deleted
        session.close_now()
        # The session has told what it did, since the beginning, when it ended.
        assert scans() == before


# Where something is missing


@each_way
def test_where_there_can_be_no_functions_the_order_is_the_same(
    dsn: str, database: Database, caplog: pytest.LogCaptureFixture, work: Callable[..., None]
) -> None:
    locks: list[list[int]] = []
    notes = Notes()

    def handler(job: qg.Job) -> None:
        notes.note(job)
        locks.append([job.id, *database.locks()])

    with qg.Client(make_dsn(dsn, options="-c default_transaction_isolation=repeatable\\ read")) as client:
        enqueue_all(client)
        work(client, dict.fromkeys("abcdefgh", handler), RUN_AT)
    assert (notes.worked, database.count()) == (ORDERS[RUN_AT], 0)
    assert all(mine == locked for mine, locked in locks)
    assert [record.message.split(":")[0] for record in caplog.records] in ([], ["taking_plainly"])


@pytest.mark.parametrize("statement", ["DISCARD TEMP", "DEALLOCATE ALL", "DEALLOCATE que_take_jobs_by_run_at"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_somebody_threw_away_is_made_anew(
    client: qg.Client, caplog: pytest.LogCaptureFixture, no_hurry: None, batch_size: int, statement: str
) -> None:
    def handler(job: qg.Job) -> None:
        notes.note(job)
        if job.type == "d":
            worker.loop.session.conn.cursor().execute(statement)

    enqueue_all(client)
    notes = Notes()
    worker = UntilEmpty(client, dict.fromkeys("abcdefgh", handler), batch_size=batch_size, poll_strategy=RUN_AT)
    worker.work()
    assert (notes.worked, caplog.records) == (ORDERS[RUN_AT], [])


# The option


@pytest.mark.parametrize("strategy", ["RUN_AT", "run_at, priority, id", None, 1, PollStrategy], ids=repr)
def test_a_strategy_that_is_none_is_refused(client: qg.Client, strategy: Any) -> None:
    refusal = "poll_strategy must be qg.PollStrategy.PRIORITY or qg.PollStrategy.RUN_AT, not "
    with pytest.raises(qg.ErrInvalidOption, match=refusal):
        qg.Worker(client, {}, poll_strategy=strategy)
    with pytest.raises(qg.ErrInvalidOption, match=refusal):
        qg.WorkerPool(client, {}, 1, poll_strategy=strategy)


def test_the_strategy_is_settled_when_a_worker_or_a_pool_is_made(client: qg.Client) -> None:
    for polling in (
        qg.Worker(client, {}, poll_strategy=RUN_AT),
        qg.WorkerPool(client, {}, 1, poll_strategy=RUN_AT),
    ):
        with pytest.raises(AttributeError):
            polling.poll_strategy = PRIORITY  # type: ignore[misc]
        assert polling.poll_strategy is RUN_AT
