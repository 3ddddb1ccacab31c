"""WorkerProcess in this process: what it waits for, and what it makes of errors."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType

import psycopg2
import pytest
from support import PATIENCE, Database
from working import HERE

import qg
import qg.supervisor.worker_process
from qg.supervisor.emptiness import nothing_is_due
from qg.supervisor.running_jobs import RunningJobs
from qg.supervisor.settings import Settings
from qg.supervisor.standing import Standing
from qg.supervisor.worker_process import WorkerProcess


class NoSignals:
    """Signals that never come: the thread that listens for them ends at once."""

    @property
    def socket(self) -> NoSignals:
        return self

    def install(self) -> None: ...

    def recv(self, size: int) -> bytes:
        return b""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.chdir(HERE)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("QG_DSN", database.dsn)
    monkeypatch.setattr("qg.supervisor.worker_process.reconnect_pause", lambda failures, longest: 0.01)
    monkeypatch.delitem(sys.modules, "supervised", raising=False)


def process_of(settings: Settings, tell: Callable[[Standing], None] = lambda standing: None) -> WorkerProcess:
    return WorkerProcess(settings, NoSignals(), RunningJobs(), tell)  # type: ignore[arg-type]


def test_a_database_that_is_away_when_it_is_asked_for_due_jobs_is_waited_for(
    dsn: str, effects: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [psycopg2.OperationalError("the server restarts")]

    def look(pool: qg.WorkerPool) -> bool:
        if failures:
            raise failures.pop()
        return nothing_is_due(pool)

    monkeypatch.setattr(qg.supervisor.worker_process, "nothing_is_due", look)
    told: list[Standing] = []
    process = process_of(Settings("supervised:work_map", dsn, threads=1, until_empty=True), told.append)
    assert process.run() == 0
    assert failures == []
    assert told[-1].nothing_due
    assert any("the server restarts" in reason for standing in told for reason in standing.reasons)


def test_a_server_without_a_connection_left_is_waited_for(
    dsn: str, effects: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a rolling update, where the workers before it still have theirs."""
    connect = psycopg2.connect
    attempts = []

    def connect_if_there_is_room(*args: object, **more: object) -> object:
        attempts.append(1)
        if len(attempts) in (3, 4):
            raise psycopg2.OperationalError("sorry, too many clients already")
        return connect(*args, **more)

    monkeypatch.setattr(psycopg2, "connect", connect_if_there_is_room)
    told: list[Standing] = []
    process = process_of(Settings("supervised:work_map", dsn, threads=3, until_empty=True), told.append)
    assert process.run() == 0
    reasons = [reason for standing in told for reason in standing.reasons]
    assert any("sorry, too many clients already" in reason for reason in reasons)


def test_a_source_that_never_gives_so_many_is_refused(dsn: str, effects: object) -> None:
    from psycopg2.pool import ThreadedConnectionPool

    few = ThreadedConnectionPool(0, 1, dsn)
    with closing(qg.Client(few)) as client:
        pool = qg.WorkerPool(client, {"Note": print}, 2)
        sys.modules["supervised_few"] = ModuleType("supervised_few")
        sys.modules["supervised_few"].pool = pool  # type: ignore[attr-defined]
        process = process_of(Settings("supervised_few:pool", dsn))
        with pytest.raises(qg.ErrTooFewConnections):
            process.run()
    del sys.modules["supervised_few"]
    few.closeall()


def test_whatever_the_import_raises_is_shown_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "connects.py").write_text("import psycopg2\nraise psycopg2.OperationalError('at import')\n")
    monkeypatch.chdir(tmp_path)
    process = process_of(Settings("connects:work_map"))
    assert process.run() == 2
    assert "connects.py" in capsys.readouterr().err


def test_a_signal_at_the_start_leaves_no_job_to_be_interrupted(
    dsn: str, effects: Callable[[], list[int]], add: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the application was loaded, and the process ends a moment later than it has said so."""
    add("Note")
    monkeypatch.setattr(qg.supervisor.worker_process, "end_process", lambda status: None)
    process = process_of(Settings("supervised:work_map", dsn, until_empty=True))
    make = qg.supervisor.worker_process.make_targets

    def make_after_signal(*args: object) -> object:
        made = make(*args)  # type: ignore[arg-type]
        process.stop(signal.SIGTERM)
        return made

    monkeypatch.setattr(qg.supervisor.worker_process, "make_targets", make_after_signal)
    assert process.run() == 0
    assert effects() == []


def test_a_job_that_still_returns_at_the_end_is_worked_and_not_said_to_be_released(
    dsn: str,
    effects: Callable[[], list[int]],
    add: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(qg.supervisor.worker_process, "end_process", lambda status: ended.set())
    monkeypatch.setattr(qg.supervisor.worker_process, "_LAST_SECONDS", 0.0)
    monkeypatch.setattr(logging, "shutdown", lambda: None)

    def slow(job: qg.Job) -> None:
        ending = threading.Thread(target=process.end_now, args=(signal.SIGTERM,))
        ending.start()
        threads.append(ending)
        assert ended.wait(PATIENCE)
        supervised.note(job)

    threads: list[threading.Thread] = []
    supervised = importlib.import_module("supervised")
    monkeypatch.setitem(supervised.work_map, "Note", slow)
    ids = add("Note")
    process = process_of(Settings("supervised:work_map", dsn, until_empty=True))
    with caplog.at_level(logging.INFO):
        assert process.run() == 0
    threads[0].join()
    assert effects() == ids
    assert "job_worked" in caplog.text
    assert "job_released" not in caplog.text
