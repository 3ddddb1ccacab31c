"""qg enqueue: one job, or a file of them, all or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from outside import Place
from support import UNNAMED, VERSION

from qg.cli import lines

older = pytest.mark.skipif(VERSION != 3, reason="of version 3")
newer = pytest.mark.skipif(VERSION == 3, reason="of version 4 and later")


def stored(place: Place) -> list[dict[str, Any]]:
    return [row for number in place.ids() if (row := place.row(number)) is not None]


def test_a_job_is_stored_and_told(qg: Any, place: Place) -> None:
    assert qg("enqueue", "SendMail").stdout.startswith(f"job 1 is enqueued: SendMail in queue {UNNAMED!r}, due 20")
    qg("enqueue", "SendMail", '[7, {"a": 1.10}]', "--queue", "mail", "--priority", "-5")
    plain, full = stored(place)
    assert (plain["job_class"], plain["args"], plain["priority"], plain["queue"]) == ("SendMail", [], 100, UNNAMED)
    assert plain["due"]
    assert (full["args"], full["priority"], full["queue"]) == ([7, {"a": 1.10}], -5, "mail")


def test_programs_get_the_id_or_json(qg: Any) -> None:
    assert qg("enqueue", "SendMail", "--quiet").output == "1\n"
    job = json.loads(qg("enqueue", "SendMail", "-q", "mail", "--json").stdout)
    assert (job["id"], job["type"], job["queue"], job["priority"]) == (2, "SendMail", "mail", 100)
    assert datetime.fromisoformat(job["run_at"]).tzinfo is not None


def test_a_job_for_later(qg: Any, place: Place) -> None:
    qg("enqueue", "SendMail", "--in", "1h30m")
    qg("enqueue", "SendMail", "--at", "2100-12-24T18:00+01:00")
    later, christmas = stored(place)
    run_at = datetime.fromisoformat(later["run_at"])
    assert timedelta(minutes=89) < run_at - datetime.now(timezone.utc) < timedelta(minutes=91)
    assert datetime.fromisoformat(christmas["run_at"]) == datetime(2100, 12, 24, 17, tzinfo=timezone.utc)


@newer
def test_kwargs_and_tags(qg: Any, place: Place) -> None:
    qg("enqueue", "SendMail", "--kwargs", '{"user_id": 7}', "--tag", "a", "--tag", "b")
    (job,) = stored(place)
    assert job["data"] == {"tags": ["a", "b"]}
    assert {"user_id": 7} in (job.get("kwargs"), *job["args"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "say which type of job"),
        (["SendMail", "[7"], "the args of a 'SendMail' job aren't JSON"),
        (["SendMail", "--in", "5"], "'5' is no duration; write it like 30s, 5m, 1h30m, 7d or 2w"),
        (["SendMail", "--in", "0s"], "'0s' is no time at all"),
        (["SendMail", "--in", "9999w"], "'9999w' is longer than a hundred years"),
        (["SendMail", "--at", "soon"], "'soon' is no time; write it like 2026-12-24T18:00"),
        (["SendMail", "--in", "5m", "--at", "2100-01-01"], "give --in or --at, not both"),
        (["SendMail", "--priority", "40000"], "40000 is not in the range"),
        (["SendMail", "--kwargs", "{"], "--kwargs is no JSON"),
        (["SendMail", "[]", "--from", "-"], "give the args in the lines of the file"),
        (["SendMail", "--from", "/nowhere"], "No such file"),
    ],
)
def test_what_cant_be_stored_is_exit_status_2(qg: Any, place: Place, arguments: list[str], sentence: str) -> None:
    assert sentence in qg("enqueue", *arguments, status=2).stderr
    assert place.ids() == []


@newer
def test_args_that_are_no_list_are_refused(qg: Any) -> None:
    assert "must have a list for args" in qg("enqueue", "SendMail", '{"a": 1}', status=2).stderr


# Files


def test_a_file_has_a_job_in_each_line_and_options_fill_in_what_is_missing(
    qg: Any, place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text(
        '\ufeff{"type": "SendMail", "args": [1], "run_at": "2100-01-01T00:00Z"}\r\n'
        "\n"
        '{"args": ["\u00e9"], "queue": "slow", "priority": 1}\n'
        "{}",
        encoding="utf-8",
    )
    assert qg("enqueue", "Default", "-q", "mail", "--from", file).stdout == "3 jobs enqueued\n"
    found = [(row["job_class"], row["args"], row["queue"], row["priority"]) for row in stored(place)]
    assert found == [("SendMail", [1], "mail", 100), ("Default", ["\u00e9"], "slow", 1), ("Default", [], "mail", 100)]
    assert stored(place)[0]["run_at"].startswith("2100-01-01")


def test_lines_come_from_the_input_too(qg: Any, place: Place) -> None:
    assert qg("enqueue", "--from", "-", "--quiet", typed='{"type": "A"}\n{"type": "B"}\n').output == "1\n2\n"
    assert json.loads(qg("enqueue", "--from", "-", "--json", typed='{"type": "A"}').output) == {"count": 1}
    assert place.ids() == [1, 2, 3]


def test_an_empty_file_is_exit_status_1(qg: Any) -> None:
    assert qg("enqueue", "--from", "-", typed="\n", status=1).stdout == "0 jobs enqueued\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "it is no JSON: "),
        ("[1]", 'it is no JSON object; write a job like {"type": "SendMail", "args": [7]}'),
        ('{"type": "A", "pirority": 1}', "a job has no field 'pirority'; did you mean 'priority'?"),
        ('{"type": "A", "x": 1}', "a job has no field 'x'; there are type, args, queue"),
        ('{"args": []}', "it has no type; write one, or name one for all lines"),
        ('{"type": "A", "priority": 40000}', "priority 40000 is out of range"),
        ('{"type": "A", "run_at": "soon"}', "its run_at 'soon' is no time"),
        ('{"type": "A", "run_at": 7}', "a job's run_at must be a datetime or None"),
        ('{"type": "A", "args": [NaN]}', "it is no JSON: NaN is no JSON number"),
        ('{"type": 7}', "a job's type must be a string"),
        ('{"type": "A", "args": [1e999]}', "the args of a 'A' job aren't JSON"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_nothing_is_stored(
    qg: Any, place: Place, line: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_BATCH", 2)
    good = '{"type": "A"}\n' * 4
    result = qg("enqueue", "--from", "-", typed=f"{good}\n{line}\n{good}", status=2)
    assert result.stderr.startswith(f"Error: line 6: {sentence}")
    assert result.stderr.endswith(". Nothing was stored\n")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert place.ids() == []


def test_a_line_that_the_database_refuses_is_named_too(qg: Any, place: Place) -> None:
    place.query("ALTER TABLE que_jobs ADD CONSTRAINT ours CHECK (priority <> 77)")
    try:
        lines = '{"type": "A"}\n' * 2 + '{"type": "A", "priority": 77}\n' + '{"type": "A"}\n'
        result = qg("enqueue", "--from", "-", typed=lines, status=2)
    finally:
        place.query("ALTER TABLE que_jobs DROP CONSTRAINT ours")
    assert result.stderr == (
        'Error: line 3: new row for relation "que_jobs" violates check constraint "ours". Nothing was stored\n'
    )
    assert place.ids() == []


def test_bytes_that_are_no_utf_8_are_named_by_their_line(qg: Any, place: Place) -> None:
    result = qg("enqueue", "--from", "-", typed=b'{"type": "A"}\n{"type": "\xff"}\n', status=2)
    assert result.stderr.startswith("Error: line 2: it is no JSON: 'utf-8' codec")
    assert place.ids() == []


def test_a_large_file_is_read_and_stored_a_thousand_lines_at_a_time(place: Place) -> None:
    read, ahead = 0, 0

    def file() -> Iterator[bytes]:
        nonlocal read
        for _ in range(5_500):
            read += 1
            yield b'{"type": "A"}\n'

    def note(stored: lines.Stored) -> None:
        nonlocal ahead
        ahead = max(ahead, read - stored.count)
        batches.append(len(stored.ids))
        # Nobody sees a job before all of them are there.
        assert place.value("SELECT count(*) FROM que_jobs") == 0

    batches: list[int] = []
    stored = lines.store_lines(place.dsn, file(), {}, note)
    assert (stored.count, stored.lines) == (5_500, 5_500)
    assert batches == [1000] * 5 + [500]
    assert ahead == 0
    assert place.value("SELECT count(*) FROM que_jobs") == 5_500


def test_progress_is_shown_on_a_terminal_alone(qg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_of_one = '{"type": "A"}\n'
    assert qg("enqueue", "--from", "-", typed=lines_of_one).stderr == ""
    written: list[str] = []
    monkeypatch.setattr("qg.cli.progress.Progress._write", lambda progress, text: written.append(text))
    monkeypatch.setattr("qg.cli.progress._shown_on", lambda file: True)
    qg("enqueue", "--from", "-", typed=lines_of_one)
    assert written == []  # it was done at once
    monkeypatch.setattr("qg.cli.progress._AFTER_SECONDS", 0.0)
    qg("enqueue", "--from", "-", typed=lines_of_one)
    assert written == ["1 jobs", ""]
