"""qg jobs: which jobs there are, one of them, and what is done to them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from outside import Place, locked_by_others
from support import VERSION

from qg.cli.status import BY_CTRL_C


def ids(result: Any) -> list[int]:
    return [int(line) for line in result.stdout.split()]


def test_jobs_are_listed_in_columns(qg: Any, place: Place) -> None:
    place.add(job_class="SendMail", state="failing", error="Timeout: no\x1b[1m answer", priority=5)
    lines = qg("jobs", "list").stdout.splitlines()
    assert lines[0].split()[:4] == ["id", "queue", "type", "priority"]
    assert re.fullmatch(
        r" 1  mail   SendMail         5  failing  20\d\d-\d\d-\d\d \d\d:\d\d:\d\d       5             "
        r"Timeout: no\\x1b\[1m answer",
        lines[1],
    ), lines


def test_a_list_is_filtered(qg: Any, place: Place) -> None:
    late = place.add(job_class="SendMail", ahead="-2 hours", args=json.dumps([{"user_id": 7, "name": "Ada"}]))
    failing = place.add(state="failing", error="Timeout: no answer")
    expired = place.add(state="expired", error="Timeout: none")
    other = place.add(queue="other", ahead="1 hour", args="[7, null]")
    for options, expected in [
        (["-q", "other"], [other]),
        (["--type", "SendMail"], [late]),
        (["--state", "failing"], [failing]),
        (["--error", "TIMEOUT", "--state", "expired"], [expired]),
        (["--older-than", "1h"], [late]),
        (["--younger-than", "1h", "--state", "ready"], []),
        (["--args", "0.user_id=7"], [late]),
        (["--args", "0.name=Ada", "--args", "0.user_id=7"], [late]),
        (["--args", '0.name="Ada"'], [late]),
        (["--args", "0=7", "--args", "1=null"], [other]),
        (["--args", "0=8"], []),
    ]:
        result = qg("jobs", "list", "--quiet", *options, status=0 if expected else 1)
        assert ids(result) == expected, options


def test_newest_comes_first_or_next(qg: Any, place: Place) -> None:
    first, second, urgent = place.add(ahead="-3 s"), place.add(ahead="-2 s"), place.add(ahead="-1 s", priority=1)
    assert ids(qg("jobs", "list", "--quiet")) == [urgent, second, first]
    assert ids(qg("jobs", "list", "--quiet", "--order", "next")) == [urgent, first, second]


def test_a_long_list_is_cut_and_says_so(qg: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        place.add()
    assert "there may be more; --limit and --all show them" in qg("jobs", "list", "--limit", 2).stderr
    assert len(ids(qg("jobs", "list", "--limit", 2, "--quiet"))) == 2
    monkeypatch.setattr("qg.cli.jobs._PAGE", 2)
    for options in (["--all"], ["--limit", "5"], ["--limit", "6"]):
        assert len(ids(qg("jobs", "list", *options, "--quiet"))) == 5


def test_no_job_is_exit_status_1(qg: Any) -> None:
    assert qg("jobs", "list", status=1).stderr == "there are no jobs\n"
    assert qg("jobs", "list", "--type", "X", status=1).stderr == "no job fits\n"
    assert qg("jobs", "list", "--quiet", status=1).output == ""


def test_programs_get_an_object_a_line(qg: Any, place: Place) -> None:
    place.add(args='[1.10,\n "a"]', state="failing", error="Oops: no")
    (line,) = qg("jobs", "list", "--json").stdout.splitlines()
    job = json.loads(line)
    assert job["args"] == [1.1, "a"]
    assert "1.10" in line  # every number as it is stored
    assert (job["id"], job["state"], job["error_count"], job["worked_by"]) == (1, "failing", 5, None)
    assert job["last_error"] == "Oops: no\nfile.py"
    assert set(job) >= {"queue", "type", "priority", "run_at", "kwargs", "tags", "finished_at", "expired_at"}


def test_json_is_the_same_data_with_nothing_that_a_terminal_obeys(qg: Any, place: Place) -> None:
    text = "a\u2028b\u2029c\x85d\x9b2Je\x7ff\u202eg ü"
    place.add(args=f'[\t"{text}",\r\n 1]')
    (line,) = qg("jobs", "list", "--json").stdout.split("\n")[:-1]
    assert json.loads(line)["args"] == [text, 1]
    assert line.isprintable()
    shown = qg("jobs", "show", 1).stdout
    assert r"a\u2028b\u2029c\x85d\x9b2Je\x7ff\u202eg ü" in shown
    assert shown.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "options", [["--state", "bad"], ["--args", "7"], ["--args", '0="'], ["--older-than", "-5m"], ["--limit", "0"]]
)
def test_filters_that_say_nothing_sensible_are_exit_status_2(qg: Any, options: list[str]) -> None:
    qg("jobs", "list", *options, status=2)


def test_one_job_is_shown_with_its_traceback_and_who_works_it(qg: Any, place: Place) -> None:
    number = place.add(state="failing", error="Oops: no", args='[{"a": 1}]')
    with locked_by_others(place, number, name="app"):
        shown = qg("jobs", "show", number).stdout
    assert re.search(r"^last error +Oops: no\n +file\.py$", shown, re.MULTILINE)
    assert re.search(r'^args +\[\{"a": 1\}\]$', shown, re.MULTILINE)
    worker = r"session \d+ \(app\)" if VERSION == 3 else "pid 41 on web-2"
    assert re.search(rf"^worked by +{worker}", shown, re.MULTILINE)
    job = json.loads(qg("jobs", "show", number, "--json").stdout)
    assert (job["id"], job["attempts"]) == (number, None)


# Actions


def test_each_action_does_what_it_says(qg: Any, place: Place) -> None:
    failing = place.add(state="failing", ahead="1 hour")
    assert qg("jobs", "retry", failing).stdout == "1 job retried.\n"
    row = place.row(failing)
    assert row is not None
    assert (row["due"], row["error_count"]) == (True, 0)
    later = place.add(ahead="1 hour")
    assert qg("jobs", "run-now", later).stdout == "1 job made due.\n"
    assert (place.row(later) or {})["due"]
    qg("jobs", "reschedule", later, "--in", "2h")
    assert not (place.row(later) or {})["due"]
    qg("jobs", "reschedule", later, "--at", "2100-01-01")
    assert (place.row(later) or {})["run_at"].startswith(("2100-01-01", "2099-12-31"))
    qg("jobs", "set-priority", later, "--to", 7)
    assert (place.row(later) or {})["priority"] == 7
    qg("jobs", "move", later, "--to", "slow", "--even-if-unknown")
    assert (place.row(later) or {})["queue"] == "slow"
    qg("jobs", "expire", later)
    assert ids(qg("jobs", "list", "--state", "expired", "--quiet")) == [later]
    assert qg("jobs", "delete", later).stdout == "1 job deleted.\n"
    assert place.ids() == [failing]


def test_a_filter_or_all_means_many(qg: Any, place: Place) -> None:
    for kind in ("A", "A", "B"):
        place.add(job_class=kind)
    assert qg("jobs", "delete", "--type", "A", "--yes").stdout == "2 jobs deleted.\n"
    assert place.ids() == [3]
    qg("jobs", "delete", "--all")
    assert place.ids() == []
    assert qg("jobs", "delete", "--all", status=1).stdout == "0 jobs deleted.\n"


def test_what_is_meant_must_be_said_once(qg: Any, place: Place) -> None:
    place.add()
    assert "say which jobs" in qg("jobs", "delete", status=2).stderr
    for options in ([1, "--all"], [1, "-q", "mail"], ["--all", "-q", "mail"]):
        assert "in one way" in qg("jobs", "delete", *options, status=2).stderr
    assert "either --in or --at" in qg("jobs", "reschedule", 1, status=2).stderr
    assert place.ids() == [1]


def test_what_narrows_is_given_once(qg: Any, place: Place) -> None:
    place.add()
    for options in (
        ["--queue", "a", "-q", "mail"],
        ["--type", "A", "--type", "SendMail"],
        ["--state", "failing", "--state", "ready"],
        ["--error", "a", "--error", "b"],
        ["--older-than", "9d", "--older-than", "1s"],
    ):
        for command in ("list", "delete"):
            assert "give it once" in qg("jobs", command, *options, status=2).stderr, options
    assert "give each place in the args once" in qg("jobs", "list", "--args", "0=1", "--args", "0=2", status=2).stderr
    assert "give it once" in qg("history", "--type", "A", "--type", "B", status=2).stderr
    assert place.ids() == [1]


def test_a_dry_run_changes_nothing(qg: Any, place: Place) -> None:
    first, second = place.add(), place.add()
    assert qg("jobs", "delete", "--all", "--dry-run").stdout == "2 jobs would be deleted.\n"
    assert place.ids() == [first, second]


def test_more_than_one_job_is_asked_about(qg: Any, place: Place, answers: None) -> None:
    first, second = place.add(), place.add()
    for what in ([first, second], ["-q", "mail"]):
        no = qg("jobs", "delete", *what, typed="n\n", status=1)
        assert "2 jobs would be deleted. Go on? [y/N]" in no.stderr
        assert no.stderr.endswith("Error: nothing was done\n")
        assert qg("jobs", "delete", *what, typed="", status=1).stderr.endswith(
            "the question got no answer, so nothing was done; give --yes\n"
        )
        assert place.ids() == [first, second]
    qg("jobs", "delete", first, second, typed="y\n")
    assert place.ids() == []


def test_where_nobody_can_be_asked_it_is_refused_with_the_remedy(qg: Any, place: Place) -> None:
    place.add()
    place.add()
    for what in ([1, 2], ["--all"]):
        result = qg("jobs", "delete", *what, status=1)
        assert result.stderr == (
            "Error: 2 jobs would be deleted. Go on? Nobody can be asked, since the input is no terminal; give --yes\n"
        )
    assert place.ids() == [1, 2]


def test_jobs_that_are_left_alone_are_told_and_exit_status_1(qg: Any, place: Place) -> None:
    worked, free = place.add(), place.add()
    with locked_by_others(place, worked):
        result = qg("jobs", "delete", worked, free, 4711, "--yes", status=1)
        assert result.stdout.startswith("1 job deleted.\n2 jobs left alone:\n")
        assert re.search(rf"^ *{worked}  being worked by ", result.stdout, re.MULTILINE)
        assert re.search(r"^4711  there is no such job$", result.stdout, re.MULTILINE)
        report = json.loads(qg("jobs", "expire", worked, "--json", status=1).stdout)
        assert (report["action"], report["count"], report["left_count"]) == ("expire", 0, 1)
        assert report["left"][0]["id"] == worked


def test_cancel_deletes_a_job_that_is_being_worked(qg: Any, place: Place) -> None:
    worked = place.add()
    with locked_by_others(place, worked):
        result = qg("jobs", "cancel", worked)
    assert result.stdout == "1 job deleted.\n1 job of these being worked: what the handlers write isn't kept.\n"
    assert place.ids() == []


def test_quiet_prints_what_was_changed(qg: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        place.add()
    monkeypatch.setattr("qg.control.Report._LONGEST", 2)
    result = qg("jobs", "set-priority", "--all", "--to", 1, "--yes", "--quiet")
    assert len(ids(result)) == 2
    assert result.stderr == "These are the first 2 of 3.\n"


def test_who_does_it_is_told(qg: Any, place: Place) -> None:
    qg("jobs", "expire", place.add(), "--by", "grace")
    assert "given up by grace" in qg("jobs", "show", 1).stdout


def test_what_is_done_before_ctrl_c_is_said(qg: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        place.add()
    monkeypatch.setattr("qg.control.acting._BATCH", 1)
    monkeypatch.setattr("qg.cli.jobs_acts.Progress.show", interrupt_at("2 jobs deleted"))
    result = qg("jobs", "delete", "--all", "--yes", status=BY_CTRL_C)
    assert result.stderr == "Error: stopped; 2 jobs had been deleted, which isn't undone\n"
    assert len(place.ids()) == 1


def interrupt_at(text: str) -> Any:
    def show(progress: Any, shown: str) -> None:
        if shown == text:
            raise KeyboardInterrupt

    return show


def test_a_target_that_nobody_knows_is_refused_with_the_nearest(qg: Any, place: Place) -> None:
    place.add()
    assert "the nearest is 'mail'" in qg("jobs", "move", 1, "--to", "mial", status=1).stderr
