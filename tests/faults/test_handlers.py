"""Handlers that misbehave, and settings of a database, among 300 jobs that behave well."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg2
import pytest
from experiment import Experiment, Kind
from ledger import Ledger, write_effect
from support import PATIENCE, Database, eventually

import qg

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

GOOD = 300
NEWLINE = "Newline\njob_worked id=1 \x1b[31m"


class Misdeeds:
    """What handlers do at a job's first run. Each writes the effect too, where that goes together.

    Args:
        database: the queue's, from outside.
        role: one that may write effects, and not change que_jobs.
    """

    def __init__(self, database: Database, role: str) -> None:
        self._database = database
        self._role = role

    def set_the_search_path(self, job: qg.Job) -> None:
        _execute(job, "SET LOCAL search_path TO tenant1, public")
        write_effect(job)

    def set_the_search_path_of_the_session(self, job: qg.Job) -> None:
        _execute(job, "SET search_path TO tenant1, public")
        write_effect(job)

    def make_a_temporary_que_jobs(self, job: qg.Job) -> None:
        _execute(job, "CREATE TEMP TABLE IF NOT EXISTS que_jobs (LIKE public.que_jobs)")
        write_effect(job)

    def set_a_role(self, job: qg.Job) -> None:
        _execute(job, f"SET LOCAL ROLE {self._role}")
        write_effect(job)

    def commit_as_text(self, job: qg.Job) -> None:
        write_effect(job)
        _execute(job, "COMMIT")

    def roll_back_as_text(self, job: qg.Job) -> None:
        write_effect(job)
        _execute(job, "ROLLBACK")
        write_effect(job)

    def prepare_the_transaction(self, job: qg.Job) -> None:
        """By default a server refuses that."""
        name = f"qg_{uuid.uuid4().hex}"
        _execute(job, f"PREPARE TRANSACTION '{name}'")
        self._database.query(f"ROLLBACK PREPARED '{name}'")

    def unlock_everything(self, job: qg.Job) -> None:
        write_effect(job)
        _execute(job, "SELECT pg_advisory_unlock_all()")

    def end_the_session(self, job: qg.Job) -> None:
        write_effect(job)
        self._database.terminate(job.conn.info.backend_pid)

    def end_the_session_while_busy_elsewhere(self, job: qg.Job) -> None:
        self._database.terminate(job.conn.info.backend_pid)
        eventually(lambda: job.lost, "the loss", timeout=2)
        job.check()

    def end_the_session_from_inside(self, job: qg.Job) -> None:
        write_effect(job)
        _execute(job, "SELECT pg_terminate_backend(pg_backend_pid())")

    def close_the_connection(self, job: qg.Job) -> None:
        write_effect(job)
        job.conn.close()

    def exit(self, job: qg.Job) -> None:
        write_effect(job)
        sys.exit(3)

    def call_done(self, job: qg.Job) -> None:
        write_effect(job)
        job.done()

    def hide_an_error(self, job: qg.Job) -> None:
        write_effect(job)
        with suppress(psycopg2.Error):
            _execute(job, "SELECT 1 / 0")

    def fork_and_return(self, job: qg.Job) -> None:
        write_effect(job)
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0

    def fork_and_raise(self, job: qg.Job) -> None:
        write_effect(job)
        child = os.fork()
        if not child:
            raise LookupError("in the child")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1

    def fork_and_exit(self, job: qg.Job) -> None:
        write_effect(job)
        child = os.fork()
        if not child:
            sys.exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4

    def have_a_type_of_two_lines(self, job: qg.Job) -> None:
        raise LookupError("one line\nand another one")

    def all(self) -> dict[str, Callable[[qg.Job], None]]:
        return {_type_of(name): getattr(self, name) for name in MISDEEDS}


def _execute(job: qg.Job, sql: str) -> None:
    with job.tx.cursor() as cur:
        cur.execute(sql)


def _type_of(misdeed: str) -> str:
    return NEWLINE if misdeed == "have_a_type_of_two_lines" else misdeed


MISDEEDS = [name for name in vars(Misdeeds) if not name.startswith("_") and name != "all"]


def once(ledger: Ledger, misdeed: Callable[[qg.Job], None]) -> Callable[[qg.Job], None]:
    """A handler that does *misdeed* at a job's first run, and what it should at the next ones."""
    begun: set[int] = set()

    def handler(job: qg.Job) -> None:
        (number,) = job.args
        with ledger.run(number, job.conn.info.backend_pid):
            if number in begun:
                write_effect(job)
            else:
                begun.add(number)
                misdeed(job)

    return handler


@pytest.fixture(autouse=True)
def nobody_escapes() -> Iterator[None]:
    """A child that leaves its handler isn't to run the other tests."""
    tester = os.getpid()
    yield
    if os.getpid() != tester:
        os._exit(99)


def test_jobs_that_behave_run_once_beside_some_that_dont(
    begin: Callable[..., Experiment], caplog: pytest.LogCaptureFixture, kind: Kind
) -> None:
    caplog.set_level("INFO")
    experiment = begin(f"handlers misbehave, each in a way of its own, among {GOOD} jobs that behave", kind)
    experiment.query("CREATE SCHEMA tenant1; CREATE TABLE tenant1.que_jobs (LIKE public.que_jobs INCLUDING ALL)")
    good = set(experiment.enqueue(GOOD // 2))
    bad = {misdeed: experiment.enqueue(1, _type_of(misdeed))[0] for misdeed in MISDEEDS}
    good |= set(experiment.enqueue(GOOD - len(good)))
    # tenant1 has jobs of the same ids.
    experiment.query("INSERT INTO tenant1.que_jobs SELECT * FROM public.que_jobs")
    with experiment.role("INSERT ON effects") as role, experiment.observer() as database:
        misdeeds = Misdeeds(database, role).all()
        with experiment.pool(handlers=lambda ledger: {name: once(ledger, misdeeds[name]) for name in misdeeds}):
            experiment.wait_until_worked()
    experiment.check(but_overlaps_of=bad["unlock_everything"], faults=len(bad))
    runs = experiment.books.runs()
    assert {number: runs[number] for number in good if runs[number] != 1} == {}
    assert experiment.query("SELECT count(*) FROM tenant1.que_jobs") == [(experiment.jobs,)]
    assert [each.getMessage() for each in caplog.records if {"\n", "\x1b"} & set(each.getMessage())] == []


def test_a_handler_may_be_slower_than_the_databases_idle_session_timeout(
    begin: Callable[..., Experiment], kind: Kind
) -> None:
    experiment = begin("idle_session_timeout shorter than the handlers, everything JIT-compiled, no index scans", kind)
    if experiment.query("SELECT current_setting('server_version_num')::int")[0][0] < 140000:
        pytest.skip("idle_session_timeout came with PostgreSQL 14")
    for setting in ("idle_session_timeout = '100ms'", "jit_above_cost = 0", "enable_indexscan = off"):
        name = experiment.query("SELECT current_database()")[0][0]
        experiment.query(f"ALTER DATABASE {name} SET {setting}")
    timeout_is_over = threading.Event()

    def slow(ledger: Ledger) -> Callable[[qg.Job], None]:
        def handler(job: qg.Job) -> None:
            with ledger.run(job.args[0], job.conn.info.backend_pid):
                # Time is what does it here; nothing happens that could be waited for.
                timeout_is_over.wait(0.4)
                write_effect(job)

        return handler

    experiment.enqueue(6, "Slow")
    experiment.enqueue(GOOD)
    with experiment.pool(handlers=lambda ledger: {"Slow": slow(ledger)}):
        experiment.wait_until_worked()
    figures = experiment.check()
    assert figures.runs == figures.jobs, experiment.books.runs()


def test_a_job_that_gave_its_lock_away_has_its_effect_once_however_often_it_runs(
    begin: Callable[..., Experiment], kind: Kind
) -> None:
    """The row is the fence. What overlaps here is what the handler has asked for."""
    if kind.shared:
        pytest.skip("a handler doesn't get at the session that holds its lock")
    experiment = begin("a handler unlocks everything, and another worker runs its job meanwhile", kind)
    both_run = threading.Barrier(2)

    def unlocked(ledger: Ledger) -> Callable[[qg.Job], None]:
        def handler(job: qg.Job) -> None:
            with ledger.run(job.args[0], job.conn.info.backend_pid):
                _execute(job, "SELECT pg_advisory_unlock_all()")
                job.tx.rollback()
                both_run.wait(PATIENCE)
                write_effect(job)

        return handler

    (number,) = experiment.enqueue(1, "Unlocked")
    with experiment.pool(count=2, handlers=lambda ledger: {"Unlocked": unlocked(ledger)}):
        experiment.wait_until_worked()
    figures = experiment.check(but_overlaps_of=number)
    assert (figures.runs, figures.overlaps) == (2, 1)
