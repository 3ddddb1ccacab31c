"""qg work in one process: what it works, how it ends, and what it refuses."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from granting import role_with
from support import VERSION, Database, Network, eventually
from working import Working, run, told

from qg.cli.work import work as work_command
from qg.control import Control

Work = Callable[..., Working]
Add = Callable[..., list[int]]


@pytest.mark.parametrize(
    "options", [("--threads", "2"), ("--threads", "2", "--connections", "1")], ids=["own", "shared"]
)
def test_a_signal_lets_running_jobs_end_and_takes_no_more(
    work: Work, add: Add, gate: Callable[[], None], waiting, effects, database: Database, options: tuple[str, ...]
) -> None:
    first = add("Wait", 2)
    worker = work("supervised:work_map", *options)
    waiting(2)
    (left,) = add("Note")
    worker.signal(signal.SIGTERM)
    worker.wait_for("stopping signal=SIGTERM")
    gate()
    assert worker.wait() == 0
    assert effects() == first
    assert [(job, errors) for job, _, errors, _ in database.jobs()] == [(left, 0)]


@pytest.mark.parametrize("options", [(), ("--connections", "1")], ids=["own", "shared"])
def test_a_second_signal_undoes_and_frees_what_runs_and_blames_nobody(
    work: Work, add: Add, gate: object, waiting, effects, database: Database, options: tuple[str, ...]
) -> None:
    """One waits in a statement, and the other one in Python."""
    ids = add("Wait") + add("Hang")
    worker = work("supervised:work_map", "--threads", "2", *options)
    waiting(1)
    worker.wait_for("hanging")
    worker.signal(signal.SIGINT)
    worker.wait_for("stopping signal=SIGINT")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 128 + signal.SIGTERM
    eventually(lambda: not [lock for lock in database.locks() if lock in ids], "that the jobs are free")
    assert [(job, errors, text) for job, _, errors, text in database.jobs()] == [(number, 0, None) for number in ids]
    assert effects() == []
    for number, kind in zip(ids, ("Wait", "Hang"), strict=True):
        assert f"job_released id={number} type={kind}" in worker.log
    assert "job_failed" not in worker.log


def test_after_the_timeout_the_same_happens(work: Work, add: Add, database: Database) -> None:
    (number,) = add("Hang")
    worker = work("supervised:work_map", "--shutdown-timeout", "0.1")
    worker.wait_for("hanging")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 128 + signal.SIGTERM
    assert [(job, errors) for job, _, errors, _ in database.jobs()] == [(number, 0)]
    assert f"job_released id={number} type=Hang" in worker.log


def test_it_ends_when_nothing_is_due_or_after_so_many_jobs(add: Add, dsn: str, effects) -> None:
    ids = add("Note", 20) + add("NoteLater") + add("Fork") + add("Note", 3, queue="b")
    done = run("work", "supervised:work_map", "-q", "", "-q", "b", "-q", "deflaut", "--until-empty", QG_DSN=dsn)
    assert done.returncode == 0, done.stderr
    assert effects() == ids
    (unknown,) = re.findall(r"queue_unknown: (.*)", done.stderr)
    assert unknown.startswith("nobody knows a queue 'deflaut': no job waits in it, and nobody works it; ")
    assert unknown.endswith("; it is worked all the same")
    more = add("Note", 30)
    done = run("work", "supervised:work_map", "--threads", "1", "--max-jobs", "5", QG_DSN=dsn)
    assert done.returncode == 0, done.stderr
    assert len(set(effects()) & set(more)) == 5


def test_a_paused_queue_counts_as_empty(add: Add, dsn: str, effects, database: Database) -> None:
    add("Note")
    with Control(dsn) as control:
        control.pause("" if VERSION == 3 else "default", reason="a test")
        done = run("work", "supervised:work_map", "--until-empty", QG_DSN=dsn)
        control.resume("" if VERSION == 3 else "default")
    assert done.returncode == 0, done.stderr
    assert (effects(), database.count()) == ([], 1)


def test_a_function_may_return_several_pools(work: Work, add: Add, effects) -> None:
    ids = add("Note", queue="a") + add("Note", queue="b")
    worker = work("supervised:several")
    eventually(lambda: effects() == ids)
    worker.signal(signal.SIGHUP)  # is ignored without a parent
    ids += add("Note", queue="a")
    eventually(lambda: effects() == ids)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_a_database_that_is_away_is_waited_for_and_said_once(work: Work, add: Add, effects, network: Network) -> None:
    ids = add("Note")
    network.cut()
    worker = work("supervised:work_map", dsn=network.dsn)
    worker.wait_for("outage_begins OperationalError")
    network.open()
    eventually(lambda: effects() == ids, timeout=20)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.log.count("outage_begins") == 1
    assert worker.log.count("outage_over") == 1


def test_a_signal_while_it_waits_for_the_database_ends_it(work: Work, network: Network) -> None:
    network.cut()
    worker = work("supervised:work_map", dsn=network.dsn)
    worker.wait_for("outage_begins")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.parametrize(
    ("app", "status", "said"),
    [
        ("broken:work_map", 2, "RuntimeError: this can't be imported\n"),
        ("supervised:refuses", 2, "RuntimeError: the application's own trouble\n"),
        ("supervised:work_mop", 2, "Error: there is no 'work_mop' in supervised; did you mean 'work_map'?\n"),
        ("supervised:number", 2, "Error: supervised:number is of type int; give a work map (a dict"),
    ],
)
def test_what_can_t_be_worked_is_refused(app: str, status: int, said: str, dsn: str) -> None:
    done = run("work", app, QG_DSN=dsn)
    assert done.returncode == status
    assert said in done.stderr
    assert ("Traceback" in done.stderr) == said.startswith("RuntimeError")
    if not said.startswith("RuntimeError"):
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("processes", [(), ("--processes", "1")], ids=["alone", "parent"])
@pytest.mark.parametrize(("app", "error"), [("broken:work_map", "RuntimeError"), ("supervised:number", None)])
def test_in_json_what_can_t_be_worked_is_said_in_json(
    app: str, error: str | None, processes: tuple[str, ...], dsn: str
) -> None:
    done = run("work", app, *processes, "--log-format", "json", QG_DSN=dsn)
    assert done.returncode == 2
    (line,) = [line for line in told(done.stderr) if line["event"] == "unworkable"]
    assert len(told(done.stderr)) == len(done.stderr.splitlines())
    assert (error or "") in line.get("traceback", "")
    assert ("traceback" in line) == bool(error)


def test_a_database_without_the_table_is_refused_with_the_remedy(make_database: Callable[..., str]) -> None:
    done = run("work", "supervised:work_map", QG_DSN=make_database(migrate=False))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "que_jobs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_role_that_may_not_work_jobs_is_refused_with_the_grant(database: Database, effects) -> None:
    with role_with(database, ["GRANT SELECT ON que_jobs TO app"]) as dsn:
        done = run("work", "supervised:work_map", QG_DSN=dsn)
    assert done.returncode == 2
    assert re.search(r"^Error: .*GRANT .* ON .*que_jobs", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_two_workers_on_one_health_port_are_refused_before_they_work(add: Add, dsn: str, effects) -> None:
    add("Note")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("work", "supervised:work_map", "--until-empty", "--health-port", port, QG_DSN=dsn)
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: health can't be told at 127.0.0.1:{port}: Address already in use; "
        "give --health-port another port or address\n"
    )
    assert effects() == []


def test_lines_in_json_say_which_job_they_are_about(add: Add, dsn: str, effects) -> None:
    worked, failed = add("Note"), add("Fail")
    done = run("work", "supervised:work_map", "--until-empty", "--log-format", "json", QG_DSN=dsn)
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    lines = {line["event"]: line for line in told(done.stderr)}
    well, badly, within = lines["job_worked"], lines["job_failed"], lines["log"]
    assert (within["message"], within["logger"], within["job_id"], within["job_type"]) == (
        "trying",
        "app",
        *failed,
        "Fail",
    )
    assert (well["job_id"], well["job_type"], well["queue"], well["level"]) == (*worked, "Note", well["queue"], "info")
    assert well["seconds"] >= 0
    assert well["time"].endswith("Z")
    assert (badly["job_id"], badly["error"], badly["level"]) == (*failed, "ValueError", "error")
    assert "raise ValueError" in badly["traceback"]


@pytest.mark.parametrize("arguments", [["supervised:queue", "-q", "mail"], ["supervised:pool", "--threads", "3"]])
def test_options_of_a_work_map_are_refused_for_what_has_its_own(
    arguments: list[str], dsn: str, jobs_tables: Database
) -> None:
    done = run("work", *arguments, QG_DSN=dsn)
    assert done.returncode == 2
    assert f"Error: {arguments[1]} says how a work map is worked" in done.stderr


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e300"])
def test_seconds_that_no_clock_counts_are_refused(seconds: str) -> None:
    for option in ("--shutdown-timeout", "--interval"):
        done = CliRunner().invoke(work_command, ["supervised:work_map", option, seconds])
        assert done.exit_code == 2, done.output
        assert "Usage:" in done.output


def test_the_help_shows_examples_and_the_statuses() -> None:
    done = run("work", "--help")
    assert done.returncode == 0
    assert "qg work tasks:work_map" in done.stdout
    assert "Exit status" in done.stdout
