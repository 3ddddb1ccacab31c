"""qg schedules, history, prune: what qg.jobs keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from outside import Place
from support import VERSION, needs

jobs = needs("qg.jobs")


@pytest.fixture(scope="module")
def kept(make_database: Callable[..., str]) -> Iterator[Place]:
    """A database with the tables of qg.jobs."""
    place = Place(make_database(version=VERSION), VERSION)
    jobs.migrate(place.dsn)
    yield place
    place.close()


@pytest.fixture
def history(kept: Place) -> Place:
    """Three attempts, of 40, 20 and 0 days ago; the second failed."""
    kept.query(
        "TRUNCATE qg_jobs_history, qg_jobs_schedule, qg_jobs_tick RESTART IDENTITY CASCADE;"
        "INSERT INTO qg_jobs_history (job_id, job_type, queue, priority, run_at, args, run_count, run_error, success, "
        "started_at, finished_at) SELECT 10 + n, CASE n WHEN 3 THEN 'B' ELSE 'A' END, 'mail', 100, now(), '{}', 0, "
        "CASE n WHEN 2 THEN E'Oops: no\\nfile.py' END, n <> 2, now() - (3 - n) * interval '20 days', "
        "now() - (3 - n) * interval '20 days' FROM generate_series(1, 3) AS n"
    )
    return kept


def test_attempts_are_listed_the_last_first(run: Any, history: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(*options: object) -> str:
        text: str = run("history", "--quiet", *options, dsn=history.dsn).stdout
        return text

    assert listed() == "3\n2\n1\n"
    assert listed("--failed") == "2\n"
    assert listed("--succeeded", "--type", "A") == "1\n"
    assert listed("-q", "mail", "--limit", 2) == "3\n2\n"
    monkeypatch.setattr("qg.cli.history._PAGE", 1)
    assert listed("--limit", 3) == "3\n2\n1\n"
    assert run("history", "--type", "X", dsn=history.dsn, status=1).stderr == "no attempt fits\n"
    head, third, second, first = run("history", dsn=history.dsn).stdout.splitlines()
    assert head.split()[:2] == ["attempt", "job"]
    assert second.endswith("  no         Oops: no")
    attempt = json.loads(run("history", "--failed", "--json", dsn=history.dsn).stdout)
    assert (attempt["job_id"], attempt["args"], attempt["error"]) == (12, {}, "Oops: no\nfile.py")


def test_a_job_that_is_done_is_shown_by_its_attempts(run: Any, history: Place) -> None:
    shown = run("jobs", "show", 12, dsn=history.dsn).stdout
    assert shown.startswith("Job 12 is done, or was deleted.")
    assert "Oops: no" in shown
    assert json.loads(run("jobs", "show", 12, "--json", dsn=history.dsn).stdout)["attempts"][0]["id"] == 2


def test_schedules_are_listed(run: Any, history: Place) -> None:
    assert run("schedules", dsn=history.dsn, status=1).stderr == "there are no schedules\n"
    history.query(
        "INSERT INTO qg_jobs_schedule (queue, spec, job_type, args, next_tick_at) "
        "VALUES ('mail', '@daily', 'Report', '{}', now())"
    )
    assert run("schedules", dsn=history.dsn).stdout.splitlines()[1].startswith("mail   @daily  Report ")
    assert json.loads(run("schedules", "--json", dsn=history.dsn).stdout)["spec"] == "@daily"


def test_without_the_tables_of_qg_jobs_what_makes_them_is_said(qg: Any) -> None:
    for arguments in (["schedules"], ["history"], ["prune", "--keep", "1"]):
        result = qg(*arguments, status=2)
        assert "there are no tables of qg.jobs" in result.stderr
        assert "qg schema install --jobs" in result.stderr


# Pruning


def attempts(place: Place) -> list[int]:
    return [number for (number,) in place.query("SELECT id FROM qg_jobs_history ORDER BY id")]


def test_old_attempts_are_counted_asked_about_and_deleted(run: Any, history: Place, answers: None) -> None:
    older = ["prune", "--older-than", "30d"]
    assert run(*older, "--dry-run", dsn=history.dsn).stdout == "1 attempts would be deleted.\n"
    assert "1 attempts would be deleted. Go on?" in run(*older, dsn=history.dsn, typed="n\n", status=1).stderr
    assert attempts(history) == [1, 2, 3]
    assert run(*older, dsn=history.dsn, typed="y\n").stdout == "1 attempts deleted.\n"
    assert attempts(history) == [2, 3]
    assert run(*older, dsn=history.dsn, status=1).stdout == "0 attempts deleted.\n"
    assert json.loads(run("prune", "--keep", 1, "--yes", "--json", dsn=history.dsn).stdout)["count"] == 1
    assert attempts(history) == [3]


def test_payloads_alone(run: Any, history: Place) -> None:
    command = ["prune", "--older-than", "30d", "--payloads-only"]
    assert run(*command, "--dry-run", dsn=history.dsn).stdout == "1 attempts would lose their args.\n"
    assert run(*command, "--yes", dsn=history.dsn).stdout == "1 attempts have lost their args.\n"
    assert run(*command, "--dry-run", dsn=history.dsn, status=1).stdout == "0 attempts would lose their args.\n"
    assert attempts(history) == [1, 2, 3]


def test_ticks(run: Any, history: Place) -> None:
    history.query(
        "INSERT INTO qg_jobs_schedule (queue, spec, job_type, args, next_tick_at) "
        "VALUES ('mail', '@daily', 'Report', '{}', now());"
        "INSERT INTO qg_jobs_tick (schedule, tick_at) "
        "SELECT id, now() - n * interval '20 days' FROM qg_jobs_schedule, generate_series(0, 2) AS n"
    )
    command = ["prune", "--ticks", "--older-than", "30d", "--keep", "5"]
    assert run(*command, "--dry-run", dsn=history.dsn).stdout == "1 ticks would be deleted.\n"
    assert run(*command, "--yes", dsn=history.dsn).stdout == "1 ticks deleted.\n"
    assert run("prune", "--ticks", "--keep", 1, "--dry-run", "--quiet", dsn=history.dsn).stdout == "1\n"
    assert history.value("SELECT count(*) FROM qg_jobs_tick") == 2


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--older-than", ""],
        ["--older-than", "0d"],
        ["--keep", ""],
        ["--keep", "0"],
        ["--ticks", "--payloads-only", "--keep", "1"],
    ],
    ids=" ".join,
)
def test_no_number_means_everything(run: Any, history: Place, options: list[str]) -> None:
    run("prune", *options, "--yes", dsn=history.dsn, status=2)
    assert attempts(history) == [1, 2, 3]


def test_without_a_terminal_it_is_refused(run: Any, history: Place) -> None:
    assert "give --yes" in run("prune", "--keep", 1, dsn=history.dsn, status=1).stderr
    assert attempts(history) == [1, 2, 3]


def test_without_the_extra_it_says_so(run: Any, history: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [each for each in sys.modules if each.startswith("qg.jobs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("qg.jobs", raising=False)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    result = run("prune", "--keep", 1, "--yes", dsn=history.dsn, status=2)
    assert "pip install 'qg[jobs]'" in result.stderr
