"""The queue as a state machine, held against a model after every step.

Whatever is done by hand on several sessions, in whatever order: no job is lost, none is held twice,
each is handed out in its turn, and what a handler wrote stays exactly if its job is gone.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import UNNAMED, Database

import qg

HOUR = 3600.0
QUEUES = st.sampled_from(["", "mail"])


@dataclass
class Held:
    """A job in somebody's hands, and what its open transaction holds."""

    job: qg.Job
    writes: int = 0
    in_transaction: bool = False
    deletion_in_transaction: bool = False


@dataclass
class Model:
    """What the database ought to hold."""

    order: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # of every row: queue, priority, run_at, id
    waiting: set[int] = field(default_factory=set)  # the rows whose run_at is in the future
    failures: dict[int, int] = field(default_factory=dict)
    written: int = 0
    held: list[Held] = field(default_factory=list)

    def next_in(self, queue: str) -> int | None:
        held = {each.job.id for each in self.held}
        due = [key for key in self.order.values() if key[0] == queue and key[3] not in held | self.waiting]
        return min(due)[3] if due else None

    def forget(self, job_id: int) -> None:
        for known in (self.order, self.failures):
            known.pop(job_id, None)
        self.waiting.discard(job_id)


class Queue(RuleBasedStateMachine):
    client: qg.Client
    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @initialize()
    def empty(self) -> None:
        self.database.query("TRUNCATE que_jobs, written")

    @rule(queue=QUEUES, priorities=st.lists(st.integers(-1, 1), min_size=1, max_size=3))
    def enqueue(self, queue: str, priorities: list[int]) -> None:
        for job in self.client.enqueue_batch(qg.Job("MyJob", queue=queue, priority=each) for each in priorities):
            self.model.order[job.id] = (job.queue, job.priority, job.run_at, job.id)
            self.model.failures[job.id] = 0

    @rule(queue=QUEUES)
    def enqueue_and_roll_back(self, queue: str) -> None:
        conn = self.database.connect()
        self.client.enqueue_in_tx(qg.Job("Never", queue=queue), conn)
        conn.rollback()
        conn.close()

    @rule(queue=QUEUES)
    def lock(self, queue: str) -> None:
        job = self.client.lock_job(queue)
        assert (job and job.id) == self.model.next_in(queue or UNNAMED)
        if job:
            assert job.error_count == self.model.failures[job.id]
            self.model.held.append(Held(job))

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        held = self.pick(data)
        with held.job.tx.cursor() as cur:
            cur.execute("INSERT INTO written VALUES (1)")
        held.writes += 1
        held.in_transaction = True

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        held = self.pick(data)
        held.job.delete()
        if held.in_transaction:
            held.deletion_in_transaction = True
        else:
            self.model.forget(held.job.id)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def error(self, data: st.DataObject) -> None:
        held = self.pick(data)
        held.job.error("failed")
        self.rolled_back(held)
        if held.job.id in self.model.order:
            self.model.failures[held.job.id] = held.job.error_count
            self.model.waiting.add(held.job.id)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        held = self.pick(data)
        held.job.tx.commit()
        self.committed(held)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        held = self.pick(data)
        held.job.tx.rollback()
        self.rolled_back(held)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        held = self.pick(data)
        held.job.done()
        if held.deletion_in_transaction:
            self.committed(held)
        self.model.held.remove(held)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), recording=st.booleans())
    def lose_the_session(self, data: st.DataObject, recording: bool) -> None:
        held = self.pick(data)
        self.database.terminate(held.job.conn.info.backend_pid)
        with suppress(psycopg2.Error, RuntimeError):
            if recording:
                with held.job:
                    raise RuntimeError("lost")
            held.job.done()
        self.rolled_back(held)
        self.model.held.remove(held)
        if recording and held.job.id in self.model.order and held.job.id not in self.model.waiting:
            self.model.failures[held.job.id] += 1
            self.model.waiting.add(held.job.id)

    @rule()
    def let_an_hour_pass(self) -> None:
        held = [each.job.id for each in self.model.held]
        rows = self.database.query(
            "UPDATE jobs SET run_at = now() WHERE run_at > now() AND job_id <> ALL(%s::bigint[]) "
            "RETURNING queue, priority, run_at, job_id",
            (held,),
        )
        for row in rows:
            self.model.order[row[3]] = row
            self.model.waiting.discard(row[3])

    @invariant()
    def the_table_is_as_the_model_has_it(self) -> None:
        rows = dict(self.database.query("SELECT job_id, error_count FROM jobs"))
        assert rows == self.model.failures

    @invariant()
    def just_the_jobs_in_somebodys_hands_are_locked(self) -> None:
        assert self.database.locks() == sorted(each.job.id for each in self.model.held)

    @invariant()
    def what_was_written_stays_exactly_if_it_was_committed(self) -> None:
        assert self.database.value("SELECT count(*) FROM written") == self.model.written

    def pick(self, data: st.DataObject) -> Held:
        return data.draw(st.sampled_from(self.model.held))

    def committed(self, held: Held) -> None:
        self.model.written += held.writes
        if held.deletion_in_transaction:
            self.model.forget(held.job.id)
        self.rolled_back(held)

    def rolled_back(self, held: Held) -> None:
        held.writes, held.in_transaction, held.deletion_in_transaction = 0, False, False

    def teardown(self) -> None:
        for held in self.model.held:
            held.job.done()


def test_the_queue_behaves_like_its_model(dsn: str, database: Database) -> None:
    database.query("CREATE TABLE written (x int)")
    with qg.Client(dsn, backoff=lambda error_count: HOUR) as client:
        Queue.client, Queue.database = client, database
        run_state_machine_as_test(Queue, settings=settings(max_examples=25, stateful_step_count=40))
    database.query("DROP TABLE written")
