"""Ctrl-C, and what a signal handler raises, while a job is worked in the main thread."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from support import Database
from taking import all_written, each_batch_size, events, fill, first_lines, write_and_delete

import qg

pytestmark = pytest.mark.usefixtures("written")


@each_batch_size
@pytest.mark.parametrize("use", ["idle", "deleted"])
def test_ctrl_c_finishes_the_finished_jobs_and_frees_the_others_unharmed(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, use: str, batch_size: int
) -> None:
    caplog.set_level(logging.INFO)

    def handler(job: qg.Job) -> None:
        if job.id == 3:
            if use == "deleted":
                write_and_delete(job)
            raise KeyboardInterrupt

    fill(database, 8)
    with pytest.raises(KeyboardInterrupt):
        qg.Worker(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert database.locks() == []
    assert first_lines(database) == [(number, 0, None) for number in range(3, 9)]
    assert all_written(database) == []
    assert sorted(events(caplog)) == ["job_worked id=1 type=MyJob", "job_worked id=2 type=MyJob"]


class Stop(BaseException):
    """What somebody's signal handler raises instead of SystemExit."""


@pytest.fixture(params=["SystemExit", "Stop", "nested", "reset"])
def terminate(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """A function that sends us SIGTERM, whose handler wants the process to end."""

    def handler(*_: object) -> None:
        if request.param == "Stop":
            raise Stop
        if request.param == "nested":
            end()
        if request.param == "reset":  # so that a second signal changes nothing any more
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit()

    def end() -> None:
        sys.exit(3)

    before = signal.signal(signal.SIGTERM, handler)
    yield lambda: signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


@each_batch_size
@pytest.mark.parametrize("use", ["idle", "deleted"])
def test_a_signal_handler_that_exits_ends_work_and_blames_no_job(
    client: qg.Client,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    no_hurry: None,
    terminate: Callable[[], None],
    use: str,
    batch_size: int,
) -> None:
    caplog.set_level(logging.INFO)

    def handler(job: qg.Job) -> None:
        if job.id == 2:
            if use == "deleted":
                write_and_delete(job)
            terminate()

    fill(database, 4)
    with pytest.raises((SystemExit, Stop)):
        qg.Worker(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert database.locks() == []
    assert first_lines(database) == [(number, 0, None) for number in range(2, 5)]
    assert all_written(database) == []
    assert events(caplog) == ["job_worked id=1 type=MyJob"]


def test_work_one_ends_by_it_too(client: qg.Client, database: Database, terminate: Callable[[], None]) -> None:
    fill(database, 1)
    with pytest.raises((SystemExit, Stop)):
        qg.Worker(client, {"MyJob": lambda job: terminate()}).work_one()
    assert (first_lines(database), database.locks()) == ([(1, 0, None)], [])


def test_a_block_by_hand_is_left_without_an_error_too(
    client: qg.Client, database: Database, terminate: Callable[[], None]
) -> None:
    fill(database, 1)
    with pytest.raises((SystemExit, Stop)), client.lock_job() as job:
        write_and_delete(job)
        terminate()
    assert (first_lines(database), all_written(database), database.locks()) == ([(1, 0, None)], [], [])


def test_an_alarm_that_raises_an_exception_fails_the_job(client: qg.Client, database: Database) -> None:
    """That is how somebody limits the time of a handler."""

    def too_long(*_: object) -> None:
        raise TimeoutError("too long")

    before = signal.signal(signal.SIGALRM, too_long)
    try:
        fill(database, 1)
        assert qg.Worker(client, {"MyJob": lambda job: signal.raise_signal(signal.SIGALRM)}).work_one()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert first_lines(database) == [(1, 1, "TimeoutError: too long")]


def test_a_handler_that_exits_by_itself_fails_its_job_alone(client: qg.Client, database: Database) -> None:
    fill(database, 1)
    assert qg.Worker(client, {"MyJob": lambda job: sys.exit(3)}).work_one()
    assert first_lines(database) == [(1, 1, "SystemExit: 3")]


class Interrupted(qg.Job):
    """Ctrl-C comes while its failure is recorded."""

    def error(self, message: str) -> None:
        raise KeyboardInterrupt


def write_delete_and_fail(job: qg.Job) -> None:
    write_and_delete(job)
    raise LookupError("after all")


@each_batch_size
def test_ctrl_c_while_a_failure_is_recorded_doesnt_commit_what_failed(
    dsn: str, database: Database, no_hurry: None, batch_size: int
) -> None:
    fill(database, 2)
    with qg.Client(dsn, job_class=Interrupted) as client, pytest.raises(KeyboardInterrupt):
        qg.Worker(client, {"MyJob": write_delete_and_fail}, batch_size=batch_size).work()
    assert (first_lines(database), all_written(database)) == ([(1, 0, None), (2, 0, None)], [])


def test_nor_does_it_by_hand(dsn: str, database: Database) -> None:
    fill(database, 1)
    with (
        qg.Client(dsn, job_class=Interrupted) as client,
        pytest.raises(KeyboardInterrupt),
        client.lock_job() as job,
    ):
        write_delete_and_fail(job)
    assert (first_lines(database), all_written(database), database.locks()) == ([(1, 0, None)], [], [])


def test_ctrl_c_while_a_thread_is_started_is_ctrl_c(
    client: qg.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def interrupt(thread: threading.Thread) -> None:
        if thread.name == "qg-batch":
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupt)
    fill(database, 5)
    with pytest.raises(KeyboardInterrupt):
        qg.Worker(client, {"MyJob": lambda job: None}, batch_size=5).work()
    assert (len(first_lines(database)), database.locks()) == (5, [])
