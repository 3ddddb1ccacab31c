"""What becomes of a job in versions 3 to 7 of the table: finished, given up, failed; and what is never worked."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import TRANSACTION_STATUS_INTRANS, connection
from support import Database, UntilEmpty, backend_pid, eventually, name_of, on_versions, take_plainly, try_locks_with

import qg

ID = {3: "job_id", 4: "id", 5: "id", 6: "id", 7: "id"}

every_version = on_versions(3, 4, 5, 6, 7)
from_4 = on_versions(4, 5, 6, 7)
only_3 = on_versions(3)

# How jobs get worked: by which call, and with which options.
WORKERS = [
    "work_one",
    "work_one by run_at",
    "work_one of known types",
    "work",
    "work by run_at",
    "work of known types",
    "work in batches",
    "work in batches by run_at",
    "work plainly",
    "work plainly by run_at",
    "work plainly of known types by run_at",
]
by_every_worker = pytest.mark.parametrize("path", WORKERS)
by_some_workers = pytest.mark.parametrize("path", ["work_one", "work", "work in batches", "work plainly"])
on_every_path = pytest.mark.parametrize("path", ["lock_job", "lock_job plainly", *WORKERS])


@pytest.fixture(scope="module")
def databases(make_database) -> Iterator[Callable[[int], Database]]:
    """A function that returns this module's database with a table of the given version."""
    made: dict[int, Database] = {}

    def database(version: int) -> Database:
        if version not in made:
            made[version] = Database(make_database(version=version))
            # As the fixture gate has it, but that it also tells which locks were tried.
            made[version].query(
                "CREATE SCHEMA gate;"
                "CREATE FUNCTION gate.pg_try_advisory_lock(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
                "PERFORM pg_catalog.pg_advisory_lock(7, 7); PERFORM pg_catalog.pg_advisory_unlock(7, 7);"
                "PERFORM pg_catalog.pg_notify('tried', id::text);"
                "RETURN pg_catalog.pg_try_advisory_lock(id); END $$; LISTEN tried"
            )
        return made[version]

    yield database
    for each in made.values():
        each.close()


@pytest.fixture
def table(databases: Callable[[int], Database], version: int) -> Iterator[Database]:
    """A database with an empty table of *version*, where nothing is left behind."""
    database = databases(version)
    # TRUNCATE, which makes new files, takes longer.
    database.query(
        "DELETE FROM que_jobs; SELECT setval(pg_get_serial_sequence('que_jobs', %s), 1, false)", (ID[version],)
    )
    yield database
    eventually(lambda: not database.sessions(), "the end of all sessions")
    assert database.locks() == []


@pytest.fixture
def client(table: Database) -> Iterator[qg.Client]:
    with qg.Client(table.dsn) as client:
        yield client


@pytest.fixture
def gated(table: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[qg.Client]:
    """A client that waits, before it tries a job's lock, until nobody has the lock (7, 7)."""
    try_locks_with(monkeypatch, "gate.pg_try_advisory_lock")
    with qg.Client(table.dsn) as client:
        yield client


def work(client: qg.Client, path: str, handler: Callable[[qg.Job], None]) -> None:
    """Work all jobs with *handler* on *path*."""
    take_plainly(client, "plainly" in path)
    if path.startswith("lock_job"):
        while (job := client.lock_job()) is not None:
            with job:
                handler(job)
                job.delete()
        return
    worker = UntilEmpty(
        client,
        {"MyJob": handler},
        batch_size=5 if "batches" in path else 1,
        poll_strategy=qg.PollStrategy.RUN_AT if "by run_at" in path else qg.PollStrategy.PRIORITY,
        only_known_types="known types" in path,
    )
    if path.startswith("work_one"):
        while worker.work_one():
            pass
    else:
        worker.work()


class Outcome:
    """How the row of a job looks from outside; `expired` is, in version 3, put off for a hundred years."""

    def __init__(self, table: Database, version: int, number: int = 1) -> None:
        if version == 3:
            columns = "error_count, false, run_at > now() + interval '99 years', last_error, NULL"
        else:
            columns = (
                "error_count, finished_at IS NOT NULL, expired_at IS NOT NULL, last_error_message, last_error_backtrace"
            )
        ((self.errors, self.finished, self.expired, self.message, self.trace),) = table.query(
            f"SELECT {columns} FROM que_jobs WHERE {ID[version]} = %s", (number,)
        )

    @property
    def state(self) -> tuple[int, bool, bool]:
        return self.errors, self.finished, self.expired


FINISHED = (0, True, False)
EXPIRED = (1, False, True)
UNTOUCHED = (0, False, False)
FAILED = (1, False, False)


def execute(conn: connection, sql: str) -> None:
    with conn.cursor() as cur:
        cur.execute(sql)


class Failure(Exception):
    """What handlers raise here."""


# finish()


@from_4
def test_a_finished_job_is_kept(client, table: Database, version: int) -> None:
    client.enqueue(qg.Job("MyJob", [1]))
    with client.lock_job() as job:
        job.finish()
        assert Outcome(table, version).state == FINISHED
    assert client.lock_job() is None
    assert table.query("SELECT args, now() - finished_at < interval '1 hour', expired_at FROM que_jobs") == [
        ([1], True, None)
    ]


@from_4
def test_finish_in_a_transaction_is_committed_by_done(client, table: Database, version: int) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        execute(job.tx, "UPDATE que_jobs SET data = '{\"seen\": 1}'")
        job.finish()
        assert Outcome(table, version).state == UNTOUCHED
    assert Outcome(table, version).state == FINISHED
    assert table.value("SELECT data FROM que_jobs") == {"seen": 1}


@from_4
def test_an_error_undoes_a_finish_that_isnt_committed(client, table: Database, version: int) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(Failure), client.lock_job() as job:
        execute(job.tx, "SELECT 1")
        job.finish()
        raise Failure
    assert Outcome(table, version).state == FAILED


@from_4
def test_a_job_that_is_finished_and_committed_stays_so_whatever_is_raised_afterwards(
    client, table: Database, version: int
) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(Failure), client.lock_job() as job:
        job.finish()
        raise Failure
    assert (Outcome(table, version).finished, Outcome(table, version).expired) == (True, False)
    table.query("UPDATE que_jobs SET run_at = now()")
    assert client.lock_job() is None


@from_4
def test_finish_finds_a_job_by_its_id_if_somebody_moved_it(client, table: Database, version: int) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        table.query("UPDATE que_jobs SET priority = 7")
        job.finish()
    assert Outcome(table, version).state == FINISHED


def finish(job: qg.Job) -> None:
    job.finish()


def finish_in_a_transaction(job: qg.Job) -> None:
    execute(job.tx, "SELECT 1")
    job.finish()


def finish_and_go_on(job: qg.Job) -> None:
    job.finish()
    execute(job.tx, f"UPDATE que_jobs SET data = '{{\"seen\": 1}}' WHERE id = {job.id}")


def finish_and_commit(job: qg.Job) -> None:
    finish_in_a_transaction(job)
    job.tx.commit()


def finish_and_roll_back(job: qg.Job) -> None:
    finish_in_a_transaction(job)
    job.tx.rollback()


def finish_twice(job: qg.Job) -> None:
    finish_in_a_transaction(job)
    job.finish()


def finish_and_done(job: qg.Job) -> None:
    finish_in_a_transaction(job)
    job.done()


FINISHING = [
    finish,
    finish_in_a_transaction,
    finish_and_go_on,
    finish_and_commit,
    finish_and_roll_back,
    finish_twice,
    finish_and_done,
]


@from_4
@by_some_workers
def test_a_handler_may_finish_its_job(client, table: Database, version: int, path: str) -> None:
    for handler in FINISHING:
        ids = [job.id for job in client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])]
        work(client, path, handler)
        outcomes = [Outcome(table, version, number).state for number in ids]
        assert (handler, outcomes) == (handler, [FINISHED, FINISHED])
        seen = table.value("SELECT bool_and(data = '{\"seen\": 1}') FROM que_jobs WHERE id = ANY (%s)", (ids,))
        assert seen == (handler is finish_and_go_on)


@from_4
@by_some_workers
def test_what_a_handler_finishes_and_then_fails_is_tried_again(
    client, table: Database, version: int, path: str
) -> None:
    def handler(job: qg.Job) -> None:
        finish_in_a_transaction(job)
        raise Failure

    client.enqueue(qg.Job("MyJob"))
    work(client, path, handler)
    assert Outcome(table, version).state == FAILED


@only_3
def test_version_3_refuses_to_finish_and_does_nothing(client, table: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        execute(job.tx, "UPDATE que_jobs SET args = '[1]'")
        with pytest.raises(qg.ErrTable, match=r"of version 3, which keeps no finished jobs; delete\(\)"):
            job.finish()
        assert job.conn.info.transaction_status == TRANSACTION_STATUS_INTRANS
        job.tx.commit()
        with pytest.raises(qg.ErrTable):
            job.finish()
    assert table.query("SELECT args, error_count, last_error FROM que_jobs") == [([1], 0, None)]
    with client.lock_job() as job, suppress(qg.ErrTable):
        try:
            job.finish()
        finally:
            job.delete()
    assert table.count() == 0


@only_3
@by_some_workers
def test_in_version_3_a_handler_that_finishes_its_job_has_failed(client, table: Database, path: str) -> None:
    client.enqueue(qg.Job("MyJob"))
    work(client, path, finish_in_a_transaction)
    outcome = Outcome(table, 3)
    assert outcome.state == FAILED
    assert outcome.message.startswith("qg.errors.ErrTable: the que_jobs table is of version 3")


# expire()


@every_version
def test_an_expired_job_stays_and_has_one_error_more(client, table: Database, version: int) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        execute(job.tx, "UPDATE que_jobs SET args = '[1]'")
        job.expire()
        assert job.error_count == 1
        assert Outcome(table, version).state == EXPIRED
    assert client.lock_job() is None
    assert table.query("SELECT args, now() + interval '1 hour' > run_at FROM que_jobs") == [([], version > 3)]
    assert version == 3 or table.value("SELECT now() - expired_at < interval '1 hour' FROM que_jobs")


@every_version
def test_expire_keeps_the_last_error(client, table: Database, version: int) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        job.error("what\nand where")
    table.query("UPDATE que_jobs SET run_at = now()")
    with client.lock_job() as job:
        job.expire()
        assert (job.error_count, job.last_error) == (2, "what\nand where")
    assert Outcome(table, version).state == (2, False, True)


def expire(job: qg.Job) -> None:
    job.expire()


def expire_in_a_transaction(job: qg.Job) -> None:
    execute(job.tx, "DELETE FROM que_jobs")
    job.expire()


def expire_twice(job: qg.Job) -> None:
    job.expire()
    job.expire()


def expire_and_done(job: qg.Job) -> None:
    job.expire()
    job.done()


def error_and_expire(job: qg.Job) -> None:
    job.error("first")
    job.expire()


def expire_and_error(job: qg.Job) -> None:
    job.expire()
    job.error("afterwards")


def expire_and_raise(job: qg.Job) -> None:
    job.expire()
    raise Failure("afterwards")


EXPIRING = {
    expire: None,
    expire_in_a_transaction: None,
    expire_twice: None,
    expire_and_done: None,
    error_and_expire: "first",
    expire_and_error: "afterwards",
    expire_and_raise: "test_outcomes.Failure: afterwards",
}


@every_version
@by_some_workers
def test_a_handler_may_give_its_job_up(table: Database, version: int, path: str) -> None:
    with qg.Client(table.dsn, maximum_retry_count=math.inf) as client:
        for handler, message in EXPIRING.items():
            ids = [job.id for job in client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])]
            work(client, path, handler)
            outcomes = [Outcome(table, version, number) for number in ids]
            assert (handler, [each.state for each in outcomes]) == (handler, [EXPIRED, EXPIRED])
            assert [each.message and each.message.split("\n")[0] for each in outcomes] == [message, message]


@every_version
def test_a_job_that_is_given_up_stays_so_whatever_is_raised_in_its_block(client, table: Database, version: int) -> None:
    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(Failure), client.lock_job() as job:
        expire_and_raise(job)
    outcome = Outcome(table, version)
    assert outcome.state == EXPIRED
    assert outcome.message.startswith("test_outcomes.Failure: afterwards")


# The columns of an error


@from_4
@pytest.mark.parametrize(
    ("text", "message", "trace"),
    [
        ("é" * 501, "é" * 500, None),
        ("é" * 500, "é" * 500, None),
        ("m" * 600 + "\n" + "é" * 10001 + "end", "m" * 500, "é" * 10000),
        ("m\n" + "é" * 10000, "m", "é" * 10000),
        ("m\n\nb\n", "m", "\nb\n"),
        ("m\n", "m", ""),
        ("\nb", "", "b"),
        ("", "", None),
    ],
    ids=["501", "500", "10003", "10000", "lines", "newline", "no message", "nothing"],
)
def test_an_errors_first_line_and_the_rest_are_cut_as_ruby_cuts_them(
    client, table: Database, version: int, text: str, message: str, trace: str | None
) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        job.error(text)
        kept = job.last_error
    outcome = Outcome(table, version)
    assert (outcome.message, outcome.trace) == (message, trace)
    assert kept == (message if trace is None else f"{message}\n{trace}")


@only_3
def test_version_3_keeps_an_error_whole(client, table: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    with client.lock_job() as job:
        job.error("m" * 600 + "\n" + "b" * 20000)
    assert Outcome(table, 3).message == "m" * 600 + "\n" + "b" * 20000


@every_version
@settings(max_examples=30)
@given(
    text=st.text(st.sampled_from("\n\r\\'%é😀") | st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)
)
@example(text="\n")
@example(text="a\n\nb\n")
@example(text="%s\n%(a)s")
def test_what_error_records_comes_back_as_last_error(client, table: Database, version: int, text: str) -> None:
    table.query("DELETE FROM que_jobs")
    client.enqueue(qg.Job("MyJob"))
    for each in ("before\nwith a trace", text):
        with client.lock_job() as job:
            job.error(each)
            assert job.last_error == each
        table.query("UPDATE que_jobs SET run_at = now()")
    with client.lock_job() as job:
        assert job.last_error == text


@every_version
@by_some_workers
def test_a_long_failure_of_a_handler_fits_the_columns(client, table: Database, version: int, path: str) -> None:
    def fail(job: qg.Job) -> None:
        exec(compile("\n" * 2 + "raise ValueError('é' * 20000)", "n" * 3000, "exec"))

    client.enqueue(qg.Job("MyJob"))
    work(client, path, fail)
    outcome = Outcome(table, version)
    message, _, trace = (outcome.message if version == 3 else f"{outcome.message}\n{outcome.trace}").partition("\n")
    assert message == ("ValueError: " + "é" * 500)[:500]
    assert trace == "é" * 10000  # of a traceback the end is kept
    assert outcome.state == FAILED


# maximum_retry_count


def failing(ran: list[int]) -> Callable[[qg.Job], None]:
    def handler(job: qg.Job) -> None:
        ran.append(job.error_count)
        raise Failure

    return handler


def at_once(error_count: int) -> float:
    return 0


@from_4
@by_some_workers
def test_from_version_4_on_the_16th_failure_expires(table: Database, version: int, path: str) -> None:
    ran: list[int] = []
    with qg.Client(table.dsn, backoff=lambda error_count: 0 if error_count < 10 else 3600) as client:
        client.enqueue(qg.Job("MyJob"))
        table.query("UPDATE que_jobs SET error_count = 14")
        work(client, path, failing(ran))
        assert Outcome(table, version).state == (15, False, False)
        table.query("UPDATE que_jobs SET run_at = now()")
        work(client, path, failing(ran))
    assert ran == [14, 15]
    assert Outcome(table, version).state == (16, False, True)


@every_version
def test_failures_are_counted_up_to_the_maximum(table: Database, version: int) -> None:
    ran: list[int] = []
    with qg.Client(table.dsn, backoff=at_once, maximum_retry_count=None if version > 3 else 15) as client:
        client.enqueue(qg.Job("MyJob"))
        work(client, "work_one", failing(ran))
    assert ran == list(range(16))
    assert Outcome(table, version).state == (16, False, True)


@every_version
@pytest.mark.parametrize(
    ("most", "failures", "expired"),
    [(0, 0, True), (1, 0, False), (1, 1, True), (2.0, 1, False), (2.0, 2, True), (99, 98, False), (0, 7, True)]
    + [(math.inf, 15, False), (math.inf, 1_000_000, False)],
)
def test_a_client_may_have_its_own_maximum(
    table: Database, version: int, most: float, failures: int, expired: bool
) -> None:
    with qg.Client(table.dsn, backoff=lambda error_count: 5, maximum_retry_count=most) as client:
        client.enqueue(qg.Job("MyJob"))
        table.query("UPDATE que_jobs SET error_count = %s", (failures,))
        with client.lock_job() as job:
            job.error("by hand")
            job.error("counts once")
    outcome = Outcome(table, version)
    assert outcome.state == (failures + 1, False, expired)
    assert outcome.message == "counts once"


@only_3
@pytest.mark.parametrize("failures", [15, 16, 1000])
def test_version_3_has_no_maximum_of_its_own(table: Database, failures: int) -> None:
    with qg.Client(table.dsn, backoff=lambda error_count: 5) as client:
        client.enqueue(qg.Job("MyJob"))
        table.query("UPDATE que_jobs SET error_count = %s", (failures,))
        with client.lock_job() as job:
            job.error("again")
    assert table.query("SELECT error_count, run_at < now() + interval '1 hour' FROM que_jobs") == [(failures + 1, True)]


@only_3
def test_in_version_3_the_last_failure_puts_the_job_off_for_a_hundred_years(table: Database) -> None:
    with qg.Client(table.dsn, maximum_retry_count=0) as client:
        client.enqueue(qg.Job("MyJob"))
        with client.lock_job() as job:
            job.error("last")
    years = "run_at BETWEEN now() + interval '36499 days' AND now() + interval '36501 days'"
    assert table.value(f"SELECT {years} FROM que_jobs")


@only_3
@pytest.mark.parametrize("value", [-1, -math.inf, math.nan, True, False, "3", [1]], ids=name_of)
def test_a_maximum_that_is_no_number_of_retries_is_refused(table: Database, value: Any) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="maximum_retry_count must be a number of retries, 0 or more"):
        qg.Client(table.dsn, maximum_retry_count=value)


# What is never worked


SETTLED = {
    "finished": "finished_at = now()",
    "expired": "expired_at = now()",
    "both": "finished_at = now(), expired_at = now()",
}
FOREIGN = {
    "of version 1": "job_schema_version = 1",
    "of version 2": "job_schema_version = 2",
    "of version 3": "job_schema_version = 3",
    "of none": "job_schema_version = NULL",
}


def unworkable(version: int) -> dict[str, str]:
    """What makes a job one that the table's version doesn't work."""
    own = {4: None, 5: "of version 1", 6: "of version 2", 7: "of version 2"}[version]
    foreign = FOREIGN if version > 4 else {}
    return SETTLED | {
        name: change
        for name, change in foreign.items()
        if name != own and not (name == "of none" and version > 5)  # where the column is NOT NULL
    }


def tried(table: Database) -> set[int]:
    """Which locks were tried since the last call."""
    table.query("NOTIFY tried, 'end'")

    def payloads() -> list[str]:
        table.conn.poll()
        found = [each.payload for each in table.conn.notifies]
        return found if "end" in found else []

    found = eventually(payloads)
    table.conn.notifies.clear()
    return {int(each) for each in found if each != "end"}


@from_4
@on_every_path
def test_what_is_settled_or_of_another_version_is_never_locked_or_worked(
    gated: qg.Client, table: Database, version: int, path: str
) -> None:
    worked: list[int] = []

    def handler(job: qg.Job) -> None:
        worked.append(job.id)
        assert set(table.locks()) <= {last - 1, last}

    changes = list(unworkable(version).values())
    gated.enqueue_batch([qg.Job("MyJob", priority=number % 3) for number in range(len(changes))])
    for number, change in enumerate(changes, 1):
        table.query(f"UPDATE que_jobs SET {change}, run_at = now() - interval '1 day' WHERE id = %s", (number,))
    last = gated.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])[-1].id
    tried(table)
    work(gated, path, handler)
    assert worked == [last - 1, last]
    assert tried(table) == {last - 1, last}
    assert table.count() == len(changes)
    assert table.value("SELECT sum(error_count) FROM que_jobs") == 0


@from_4
def test_settled_jobs_arent_counted(client, table: Database) -> None:
    client.enqueue_batch([qg.Job("MyJob") for _ in range(4)] + [qg.Job("Settled")])
    table.query("UPDATE que_jobs SET error_count = 9, run_at = '2001-01-01'")
    for number, change in enumerate(SETTLED.values(), 1):
        table.query(f"UPDATE que_jobs SET {change} WHERE id = %s", (number,))
    table.query("UPDATE que_jobs SET finished_at = now() WHERE job_class = 'Settled'")
    table.query("UPDATE que_jobs SET error_count = 2, run_at = '2002-01-01' WHERE id = 4")
    (stats,) = client.stats()
    assert (stats.type, stats.count, stats.count_errored, stats.highest_error_count) == ("MyJob", 1, 1, 2)
    assert stats.oldest_run_at.year == 2002


@from_4
@on_every_path
def test_what_is_settled_or_changed_between_look_and_lock_isnt_worked(
    gated: qg.Client, table: Database, version: int, path: str
) -> None:
    for what, change in unworkable(version).items():
        worked: list[int] = []
        first, second = gated.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        pid = backend_pid(gated)
        working = threading.Thread(target=work, args=(gated, path, lambda job, worked=worked: worked.append(job.id)))
        table.query("SELECT pg_advisory_lock(7, 7)")
        try:
            working.start()
            eventually(lambda pid=pid: table.is_waiting_for_a_lock(pid), "an attempt at the first lock")
            with closing(table.connect()) as other, other, other.cursor() as cur:
                cur.execute(f"UPDATE que_jobs SET {change} WHERE id = %s", (first.id,))
        finally:
            table.query("SELECT pg_advisory_unlock(7, 7)")
            working.join()
        assert (what, worked) == (what, [second.id])
        assert first.id in tried(table)
        assert table.query("SELECT error_count FROM que_jobs WHERE id >= %s", (first.id,)) == [(0,)]
