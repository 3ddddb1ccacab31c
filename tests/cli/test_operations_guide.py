"""docs/operations.md is true: its commands run in turn, and the incident happens as it is told."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from guides import DOCS, check_links
from outside import Place, locked_by_others
from support import eventually, needs, on_versions

import qg as library
from qg.database.paused import PausedQueues

PAGE = (DOCS / "operations.md").read_text(encoding="utf-8")
COMMANDS, INCIDENT = PAGE.split("## An incident\n")


def blocks(kind: str, text: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def lines() -> Iterator[tuple[str, int]]:
    """Each command of the page, and its exit status."""
    for block in blocks("sh", COMMANDS):
        for line in block.splitlines():
            command, _, comment = line.partition(" #")
            if not command.startswith("export "):
                yield command.strip(), int((re.findall(r"exit status (\d+)", comment) or ["0"])[0])


@pytest.fixture
def application(make_database: Callable[..., str], version: int) -> Iterator[Place]:
    """A database as the page takes it to be, with qg.jobs; somebody works a job."""
    with closing(Place(make_database(version=version), version)) as place:
        needs("qg.jobs").migrate(place.dsn)
        slow = place.add(job_class="Slow", queue="batch")
        for _ in range(7):
            place.add(job_class="SendMail")
        for number in range(3):
            place.add(job_class="Report", ahead=f"{number + 1} hours")
            place.add(job_class="Newsletter", args='[{"list": "old"}]', ahead="-20 minutes")
            place.add(job_class="Import", state="failing", error="Timeout: no answer")
        assert place.add(job_class="SendMail", state="failing", error="Refused: no") == 18
        place.add(job_class="Other")
        place.add(job_class="Import")
        place.add(job_class="Import", state="expired")
        place.query(
            "INSERT INTO qg_jobs_history (job_id, job_type, queue, priority, run_at, args, run_count, run_error, "
            "success, started_at, finished_at) VALUES (1, 'SendMail', 'mail', 100, now(), '{}', 0, 'Oops: no', false, "
            "now() - interval '40 days', now() - interval '40 days');"
            "INSERT INTO qg_jobs_schedule (queue, spec, job_type, args, next_tick_at) "
            "VALUES ('mail', '@daily', 'Report', '{}', now())"
        )
        place.query("GRANT CREATE ON SCHEMA public TO PUBLIC")  # of which the doctor warns
        with locked_by_others(place, slow, registered=False):
            yield place


@on_versions(3, 7)
def test_every_command_runs_in_turn(
    application: Place, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.jsonl").write_text('{"type": "SendMail", "args": [7], "priority": 10}\n')
    script = Path(sys.executable).parent
    for command, status in lines():
        words = shlex.split(command)
        if words[0] == "qg" and not re.search(r"[|>$]", command):
            run(*words[1:], dsn=application.dsn, status=status)
            continue
        if application.version != 3:  # what is left starts processes, which take long; once is enough
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "QG_DSN": application.dsn, "PATH": f"{script}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr.replace(_UNKNOWN, "")) == (status, ""), command
    if application.version == 3:
        assert (tmp_path / "expired.jsonl").read_text().startswith('{"id": ')
        assert "que_lockers" in (tmp_path / "to_7.sql").read_text()


# What ends the loop that waits until a queue is empty.
_UNKNOWN = (
    "Error: nobody knows a queue 'old': no job waits in it, and nobody works it; there are 'batch', 'mail', 'slow'\n"
)


def steps() -> list[tuple[str, str, str]]:
    """The commands of the incident, with what is typed at a question, and what they print."""
    found = []
    for block in blocks("console", INCIDENT):
        for step in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            typed = re.findall(r"\[y/N\]: (\w)$", step[1], re.MULTILINE)
            found.append((step[0], "".join(f"{each}\n" for each in typed), step[1]))
    return found


def as_told(text: str) -> str:
    """*text* without what is different each time."""
    return re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "2026-12-01 03:00:00", text)


class MailServer:
    """What the handler of the incident needs."""

    def __init__(self) -> None:
        self.is_up = False

    def send(self, job: library.Job) -> None:
        if not self.is_up:
            raise ConnectionRefusedError("smtp.example.org doesn't answer")


@pytest.fixture
def obeying(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that have seen that their queue is paused, and so take nothing."""
    seen: set[int] = set()
    has = PausedQueues.has

    def noted(self: PausedQueues, *given: Any) -> bool:
        paused = has(self, *given)
        if paused:
            seen.add(threading.get_ident())
        return paused

    monkeypatch.setattr(PausedQueues, "has", noted)
    return seen


@on_versions(7)
def test_the_incident_happens_as_it_is_told(
    make_database: Callable[..., str], version: int, run: Callable[..., Any], answers: None, obeying: set[int]
) -> None:
    server = MailServer()
    dsn = make_database(version=version)
    told = steps()
    with closing(Place(dsn, version)) as place:
        with (
            library.Client(dsn, backoff=lambda count: 3600.0) as client,
            library.WorkerPool(client, {"SendMail": server.send}, 2, queue="mail", interval=0.05),
        ):
            mails = [library.Job("SendMail", args=[number], queue="mail") for number in range(1, 41)]
            client.enqueue_batch(mails[:28])
            eventually(lambda: place.value("SELECT count(*) FROM que_jobs WHERE error_count > 0") == 28)
            eventually(lambda: place.locks() == [])
            for command, typed, expected in told:
                if command.startswith("qg queues"):
                    eventually(lambda: len(obeying) == 2)
                    client.enqueue_batch(mails[28:])
                if command.startswith("qg jobs retry"):
                    server.is_up = True
                shown = run(*shlex.split(command)[1:], dsn=dsn, typed=typed).output
                assert as_told(shown) == as_told(expected), command
                if command.startswith("qg resume"):
                    eventually(lambda: place.ids() == place.locks() == [])
        eventually(lambda: not place.sessions())


def test_the_page_names_every_command() -> None:
    commands = needs("qg.cli.commands")
    for name in commands._LAZY:
        if name != "demo":
            assert re.search(rf"\bqg {name}\b", PAGE), name


def test_the_links_of_the_page_lead_somewhere() -> None:
    check_links("operations.md")
