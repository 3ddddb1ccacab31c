"""qg stats, workers, errors, doctor: how things stand."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from outside import Place, locked_by_others, nothing
from support import VERSION, eventually

import qg as library
from qg.cli.output import duration_text
from qg.cli.status import BY_CTRL_C
from qg.control import Control


def table(result: Any) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens in each second of --watch; then comes Ctrl-C."""
    events: list[Any] = []

    def sleep(duration: float) -> None:
        if not events:
            raise KeyboardInterrupt
        events.pop(0)()

    monkeypatch.setattr("qg.cli.watching.sleep", sleep)
    return events


def test_stats_say_how_each_queue_stands(qg: Any, place: Place) -> None:
    place.add(ahead="-90 seconds")
    place.add(state="failing", ahead="1 hour")
    place.add(state="expired")
    place.add(queue="other", ahead="1 hour")
    head, mail, other = table(qg("stats"))
    assert head[:4] == ["queue", "status", "workers", "working"]
    finished = [] if VERSION == 3 else ["0"]
    assert mail == ["mail", "nobody", "works", "it", "0", "0", "1", "0", "1", "1", *finished, "1", "min", "30", "s"]
    assert other == ["other", "idle", "0", "0", "0", "1", "0", "0", *finished]
    first, second = map(json.loads, qg("stats", "--json").stdout.splitlines())
    assert (first["queue"], first["due"], first["failing"], first["expired"]) == ("mail", 1, 1, 1)
    assert 90 <= first["overdue_seconds"] < 120
    assert (first["estimated"], second["oldest_due"], second["change_per_minute"]) == ([], None, None)
    assert qg("stats", "--quiet").stdout == "mail\nother\n"


def test_estimates_are_marked(qg: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qg.control.overview._SMALL_PAGES", -1)
    monkeypatch.setattr("qg.control.overview._HEADS", 20)
    for _ in range(30):
        place.add()
    assert "≈" in qg("stats").stdout
    assert "due" in json.loads(qg("stats", "--json").stdout)["estimated"]
    assert "≈" not in qg("stats", "--exact").stdout


def test_no_jobs_are_said(qg: Any) -> None:
    assert qg("stats").stdout == "There are no jobs, and nobody is there to work any.\n"
    assert qg("errors").stdout == "Nothing fails.\n"
    assert qg("workers", status=1).stderr == "nobody works any queue\n"
    assert qg("queues", status=1).stderr == "there are no jobs, and nobody is there to work any\n"


def test_watched_stats_have_rates_and_end_with_ctrl_c(qg: Any, place: Place, seconds: list[Any]) -> None:
    place.add()
    place.add()
    seconds.append(lambda: place.query(f"DELETE FROM que_jobs WHERE {place.id} = 1"))
    result = qg("stats", "--watch", status=BY_CTRL_C)
    assert result.stderr == ""
    first, second = result.stdout.split("\n\n")
    assert "change a minute" in first
    assert "empty in" in first
    change = next(each for each in second.split() if each.startswith("-"))
    assert int(change) < 0
    assert "jobs a minute are done, or deleted." in second


def test_a_database_that_goes_away_is_waited_for(qg: Any, place: Place, seconds: list[Any]) -> None:
    place.add()

    def cut() -> None:
        for pid, *_ in place.sessions():
            place.terminate(pid)

    seconds += [cut, lambda: None]
    result = qg("stats", "--watch", status=BY_CTRL_C)
    assert result.stdout.count("mail ") >= 2
    assert "Traceback" not in result.output


def test_a_failure_in_the_first_look_ends_it(qg: Any, monkeypatch: pytest.MonkeyPatch, seconds: list[Any]) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise psycopg2.OperationalError("gone")

    monkeypatch.setattr("qg.control.Control.overview", fail)
    assert qg("stats", "--watch", status=2).stderr == "Error: gone\n"


def test_a_database_that_is_away_for_a_look_is_said(
    qg: Any, place: Place, monkeypatch: pytest.MonkeyPatch, seconds: list[Any]
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise psycopg2.OperationalError("gone")

    seconds.append(lambda: monkeypatch.setattr("qg.control.Control.overview", fail))
    result = qg("stats", "--watch", status=BY_CTRL_C)
    assert result.stderr == "no answer from the database: gone\n"


def test_workers_are_listed_with_their_jobs(qg: Any, place: Place) -> None:
    number = place.add(job_class="SendMail")
    with locked_by_others(place, number, name="app"):
        result = qg("workers")
        (worker,) = map(json.loads, qg("workers", "--json").stdout.splitlines())
        quiet = qg("workers", "--quiet").stdout
    assert f"{number} SendMail" in result.stdout
    assert worker["jobs"] == [{"id": number, "queue": "mail", "type": "SendMail"}]
    assert worker["kind"] == ("other" if VERSION == 3 else "locker")
    assert quiet == f"{worker['backend_pid']}\n"


def test_a_worker_of_qgs_is_seen(qg: Any, place: Place) -> None:
    with library.Client(place.dsn) as client, library.WorkerPool(client, {"MyJob": nothing}, 1, queue="mail"):
        eventually(
            lambda: place.query(
                "SELECT 1 FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'qg worker mail'"
            )
        )
        assert "qg worker mail" in qg("workers", "--json").stdout
        assert "mail" in qg("queues").stdout


def test_who_only_looks_is_no_worker(qg: Any, place: Place) -> None:
    with Control(place.dsn) as control, Control(place.dsn) as other:
        other.now()
        assert control.workers() == []
        assert qg("workers", status=1).stderr == "nobody works any queue\n"


def test_errors_are_grouped(qg: Any, place: Place) -> None:
    for _ in range(2):
        place.add(job_class="SendMail", state="failing", error="Timeout: no answer")
    last = place.add(job_class="SendMail", state="expired", error="Timeout: no answer")
    other = place.add(state="failing")
    _, mail, mine = table(qg("errors"))
    assert (mail[:4], mail[-3:]) == (["SendMail", "2", "1", str(last)], ["Timeout:", "no", "answer"])
    assert mine[0] == "MyJob"
    assert qg("errors", "--quiet").stdout == f"{last}\n{other}\n"
    first = json.loads(qg("errors", "--json").stdout.splitlines()[0])
    assert (first["failing"], first["expired"], first["message"]) == (2, 1, "Timeout: no answer")


def test_watched_errors_have_rates(qg: Any, place: Place, seconds: list[Any]) -> None:
    place.add(state="failing")
    seconds.append(lambda: place.add(state="failing"))
    first, second = qg("errors", "--watch", status=BY_CTRL_C).stdout.split("\n\n")
    assert "change a minute" in first
    assert int(next(each for each in second.split() if each.startswith("+"))) > 0


# The doctor


def test_the_doctor_says_what_to_type_and_ends_with_1_from_a_warning_on(qg: Any, place: Place) -> None:
    place.query("GRANT CREATE ON SCHEMA public TO PUBLIC")
    result = qg("doctor", status=1)
    assert "warning schemas: " in result.stdout
    assert "        mend: REVOKE CREATE ON SCHEMA public FROM PUBLIC" in result.stdout
    findings = [json.loads(line) for line in qg("doctor", "--json", status=1).stdout.splitlines()]
    assert {"severity": "warning", "check": "schemas"}.items() <= findings[0].items()
    assert "schemas" in qg("doctor", "--quiet", status=1).stdout.split()
    place.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def test_without_a_warning_the_doctors_exit_status_is_0(qg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from qg.control import Finding, Severity

    findings: list[Finding] = []
    monkeypatch.setattr("qg.cli.doctor.examine", lambda dsn: findings)
    assert qg("doctor").stdout == "Nothing to mend.\n"
    findings.append(Finding(Severity.INFO, "wakeups", "no trigger", "qg.migrate(source, notify=True)"))
    assert qg("doctor").stdout == "info    wakeups: no trigger\n        mend: qg schema install --notify\n"


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=59.6), "1 min"),
        (timedelta(minutes=3, seconds=2), "3 min 2 s"),
        (timedelta(hours=1, seconds=5), "1 h"),
        (timedelta(days=3, hours=4, minutes=5), "3 d 4 h"),
        (timedelta(days=-1), "-1 d"),
    ],
)
def test_durations_are_told_in_two_units(duration: timedelta, text: str) -> None:
    assert duration_text(duration) == text
