"""work() comes to the same as work_one(), with batches and without, whatever becomes of a job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Database, UntilEmpty
from taking import FUTURE, PAST, all_written, do_nothing, each_batch_size, events, fail, write, write_and_delete

import qg

pytestmark = pytest.mark.usefixtures("written")


def reschedule_after(job: qg.Job) -> None:
    raise qg.Reschedule(after=3600)


def reschedule_at(job: qg.Job) -> None:
    raise qg.Reschedule(at=FUTURE)


def discard(job: qg.Job) -> None:
    raise qg.Discard("obsolete")


def delete(job: qg.Job) -> None:
    job.delete()


def record_an_error(job: qg.Job) -> None:
    job.error("by hand")


def write_and_record_an_error(job: qg.Job) -> None:
    write(job)
    job.error("by hand, after writing")


def call_done(job: qg.Job) -> None:
    job.done()


def delete_and_call_done(job: qg.Job) -> None:
    job.delete()
    job.done()


def write_and_fail(job: qg.Job) -> None:
    write(job)
    raise ValueError(f"after writing {job.id}")


def write_and_commit(job: qg.Job) -> None:
    write(job)
    job.tx.commit()


def write_and_roll_back(job: qg.Job) -> None:
    write(job)
    job.tx.rollback()


def delete_and_roll_back(job: qg.Job) -> None:
    write(job)
    job.delete()
    job.tx.rollback()


def abort_and_swallow(job: qg.Job) -> None:
    write(job)
    with suppress(psycopg2.Error):
        job.tx.cursor().execute("SELECT 1/0")


def write_in_autocommit(job: qg.Job) -> None:
    job.conn.autocommit = True
    write(job)


def close_the_connection(job: qg.Job) -> None:
    write(job)
    job.conn.close()


def use_a_block(job: qg.Job) -> None:
    with job:
        write(job)
        job.delete()


def fail_in_a_block(job: qg.Job) -> None:
    with job:
        raise KeyError(job.id)


def record_an_error_and_write(job: qg.Job) -> None:
    job.error("in my own words")
    write(job)


def delete_and_close_the_connection(job: qg.Job) -> None:
    job.delete()
    job.conn.close()


OUTCOMES: dict[str, Callable[[qg.Job], None]] = {
    each.__name__: each
    for each in (
        do_nothing,
        write,
        fail,
        reschedule_after,
        reschedule_at,
        discard,
        delete,
        write_and_delete,
        record_an_error,
        write_and_record_an_error,
        record_an_error_and_write,
        delete_and_close_the_connection,
        call_done,
        delete_and_call_done,
        write_and_fail,
        write_and_commit,
        write_and_roll_back,
        delete_and_roll_back,
        abort_and_swallow,
        write_in_autocommit,
        close_the_connection,
        use_a_block,
        fail_in_a_block,
    )
}


histories = st.lists(
    st.tuples(
        st.one_of(st.just("do_nothing"), st.sampled_from([*OUTCOMES, "reschedule_into_the_past", "Unknown", "Bad"])),
        st.integers(-2, 2),
        st.one_of(st.integers(0, 3).map(lambda days: PAST + timedelta(days)), st.just(FUTURE)),
    ),
    max_size=9,
)


class Run:
    """One history worked in one way: in what order, under which locks, and what was left."""

    def __init__(self, client: qg.Client, database: Database, history: list[Any]) -> None:
        self.order: list[int] = []
        self.locks: list[tuple[int, list[int]]] = []
        self._database = database
        database.query("TRUNCATE que_jobs RESTART IDENTITY; TRUNCATE written")
        args = f"[{'9' * 5000}]"
        for kind, priority, run_at in history:
            database.query(
                "INSERT INTO jobs (job_class, priority, run_at, args) VALUES (%s, %s, %s, %s)",
                (kind, priority, run_at, args if kind == "Bad" else "[]"),
            )
        self.work_map = {name: self.watched(handler) for name, handler in OUTCOMES.items()}
        self.work_map["reschedule_into_the_past"] = self.watched(self.reschedule_into_the_past)

    def watched(self, handler: Callable[[qg.Job], None]) -> Callable[[qg.Job], None]:
        def watched_handler(job: qg.Job) -> None:
            self.order.append(job.id)
            self.locks.append((job.id, self._database.locks()))
            handler(job)

        return watched_handler

    def reschedule_into_the_past(self, job: qg.Job) -> None:
        if self.order.count(job.id) == 1:
            raise qg.Reschedule(at=PAST - timedelta(1))

    def result(self) -> Any:
        rows = self._database.query(
            "SELECT job_id, job_class, priority, error_count, split_part(last_error, E'\n', 1), run_at > now() "
            "FROM jobs ORDER BY job_id"
        )
        assert self._database.locks() == []
        return self.order, rows, all_written(self._database)


@settings(max_examples=25)
@given(history=histories, batch_size=st.integers(2, 7))
def test_work_comes_to_the_same_as_work_one_with_batches_and_without(
    client: qg.Client, database: Database, history: list[Any], batch_size: int
) -> None:
    plain = Run(client, database, history)
    worker = qg.Worker(client, plain.work_map)
    while worker.work_one():
        pass
    expected = plain.result()
    assert plain.locks == [(job_id, [job_id]) for job_id in plain.order]

    short = Run(client, database, history)
    UntilEmpty(client, short.work_map).work()
    assert short.result() == expected
    assert short.locks == [(job_id, [job_id]) for job_id in short.order]

    batches = Run(client, database, history)
    UntilEmpty(client, batches.work_map, batch_size=batch_size).work()
    assert batches.result() == expected
    assert all(job_id in locks and len(locks) <= batch_size for job_id, locks in batches.locks)


@each_batch_size
@pytest.mark.parametrize("kind", [*OUTCOMES, "Unknown", "Bad"])
def test_each_job_is_one_line_of_the_log_whatever_becomes_of_it(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, kind: str, batch_size: int
) -> None:
    caplog.set_level(logging.INFO)
    run = Run(client, database, [("do_nothing", 0, PAST), (kind, 1, PAST), ("do_nothing", 2, PAST)])
    UntilEmpty(client, run.work_map, batch_size=batch_size).work()
    lines = events(caplog, "job_worked", "job_failed", "job_rescheduled", "job_discarded", "job_unreadable")
    assert sorted(line.split(" ")[1] for line in lines) == ["id=1", "id=2", "id=3"]
    assert "outage" not in caplog.text
