"""Deletions and commits that fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from support import Database, UntilEmpty
from taking import all_written, do_nothing, each_batch_size, events, fill, first_lines, write

import qg

pytestmark = pytest.mark.usefixtures("written")


@pytest.fixture(params=["the deletion", "the commit"])
def refusing(request: pytest.FixtureRequest, database: Database) -> Iterator[None]:
    """A table whose jobs of type Bad can't be deleted."""
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.job_class = 'Bad' THEN RAISE 'not this one'; END IF; RETURN OLD; END $$"
    )
    kind, when = ("", "BEFORE") if request.param == "the deletion" else ("CONSTRAINT", "AFTER")
    deferred = "DEFERRABLE INITIALLY DEFERRED" if kind else ""
    database.query(
        f"CREATE {kind} TRIGGER refuse {when} DELETE ON que_jobs {deferred} FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    yield
    database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse()")


@each_batch_size
@pytest.mark.parametrize("handler", [do_nothing, write], ids=["idle", "writing"])
def test_a_deletion_that_fails_is_that_jobs_error_alone(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    refusing: None,
    no_hurry: None,
    handler: Callable[[qg.Job], None],
    batch_size: int,
) -> None:
    caplog.set_level(logging.INFO)
    order: list[int] = []

    def bad(job: qg.Job) -> None:
        order.append(job.id)
        handler(job)

    fill(database, 4)
    fill(database, 1, "Bad")
    fill(database, 4)
    UntilEmpty(client, {"MyJob": lambda job: order.append(job.id), "Bad": bad}, batch_size=batch_size).work()
    assert order == list(range(1, 10))
    assert first_lines(database) == [
        (5, 1, "psycopg2.errors.RaiseException: not this one CONTEXT:  PL/pgSQL function refuse() line 1 at RAISE ")
    ]
    assert (database.locks(), all_written(database)) == ([], [])
    assert events(caplog, "job_failed") == ["job_failed id=5 type=Bad"]
    assert len(events(caplog, "job_worked")) == 8
    assert events(caplog, "outage") == []


@each_batch_size
def test_a_job_that_can_neither_be_finished_nor_recorded_makes_the_worker_wait_an_interval(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'read only today'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    slept: list[tuple[float, float | None]] = []

    class Sleepy(UntilEmpty):
        def rest(self, seconds: float, due: float | None = None) -> None:
            if due == 0.0 and len(slept) < 10:
                slept.append((seconds, due))
                return
            slept.append((seconds, due))
            self.stop()

    try:
        fill(database, 1)
        Sleepy(client, {"MyJob": do_nothing}, interval=7, batch_size=batch_size).work()
    finally:
        database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse()")
    assert [each for each in slept if each[1] != 0.0] == [(7, None)]
    assert len(slept) <= 2
    assert database.jobs() == [(1, "MyJob", 0, None)]
    assert events(caplog, "job_unrecorded", "job_failed") == ["job_unrecorded id=1", "job_failed id=1 type=MyJob"]
