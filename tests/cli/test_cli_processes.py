"""The command as a process: the entry point, a terminal and none, rich and none, a closed pipe, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from outside import Place
from support import VERSION, eventually

from qg.cli.status import BY_CLOSED_PIPE, BY_CTRL_C

_MAIN = "from qg.cli import main; main()"
_WITHOUT_RICH = "import sys; sys.modules['rich'] = sys.modules['rich.table'] = None; "


@contextmanager
def process(
    place: Place, *arguments: str, code: str = _MAIN, columns: int = 80, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "QG_DSN": place.dsn, "TERM": "xterm", "COLUMNS": str(columns)},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def on_a_terminal(
    place: Place, *arguments: str, code: str = _MAIN, typed: bytes = b"", columns: int = 80
) -> tuple[int, str]:
    """Run the command on a terminal, and return its exit status and what is to be seen there."""
    ours, theirs = pty.openpty()
    with process(place, *arguments, code=code, columns=columns, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        os.write(ours, typed)
        output = b""
        while chunk := _read(ours):
            output += chunk
        os.close(ours)
        return running.wait(30), output.decode(errors="replace")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # what Linux says when the other side has closed a terminal
        return b""


def test_a_pipe_that_is_closed_early_ends_it_without_a_word(place: Place) -> None:
    place.query("INSERT INTO que_jobs (job_class, queue) SELECT 'SendMail', 'mail' FROM generate_series(1, 3000)") if (
        place.version < 6
    ) else place.query(
        "INSERT INTO que_jobs (job_class, queue, job_schema_version) "
        "SELECT 'SendMail', 'mail', 2 FROM generate_series(1, 3000)"
    )
    with process(place, "jobs", "list", "--all") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith(b"  id")
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(30) == BY_CLOSED_PIPE


def test_closed_files_are_no_reason_to_end(place: Place) -> None:
    number = place.add()
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -c '{_MAIN}' jobs delete {number} <&- >&- 2>&-"],
        env={**os.environ, "QG_DSN": place.dsn},
        timeout=30,
        check=False,
    )
    assert (done.returncode, place.ids()) == (0, [])


def test_ctrl_c_ends_watching_without_a_word(place: Place) -> None:
    place.add()
    with process(place, "stats", "--watch") as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith(b"queue")
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
        assert running.returncode == BY_CTRL_C
        assert said == b""


def test_ctrl_c_cancels_what_the_server_is_waiting_for(place: Place) -> None:
    blocking = place.connect()
    with blocking, blocking.cursor() as cur:
        cur.execute("LOCK TABLE que_jobs")
        migrate = ["schema", "migrate", "--version", "5" if VERSION == 4 else "4", "--yes"]
        for command in (["stats"], ["enqueue", "SendMail"], migrate):
            with process(place, *command) as running:
                eventually(lambda: any(place.is_waiting_for_a_lock(pid) for pid, *_ in place.sessions()))
                running.send_signal(signal.SIGINT)
                _, said = running.communicate(timeout=10)
                assert running.returncode == BY_CTRL_C
                assert said == b""
                eventually(lambda: len(place.sessions()) == 1)  # nobody waits there any more
    blocking.close()


def test_on_a_terminal_rich_draws_the_table_and_the_question_is_asked(place: Place) -> None:
    for _ in range(2):
        place.add(job_class="SendMail", state="failing", error="Timeout: " + "x" * 200)
    status, shown = on_a_terminal(place, "errors", columns=100)
    assert status == 0
    assert "─" in shown
    # The last column gives way to the others.
    assert re.search(r"SendMail +2 +0 +2 +20\d\d-\d\d-\d\d \d\d:\d\d:\d\d +Timeout: x+…", shown)
    # Where there is no room for it, columns are plain.
    assert "─" not in on_a_terminal(place, "errors", columns=60)[1]
    status, shown = on_a_terminal(place, "jobs", "delete", "--all", typed=b"y\n")
    assert "2 jobs would be deleted. Go on? [y/N]" in shown
    assert "2 jobs deleted." in shown
    assert status == 0
    eventually(lambda: place.ids() == [])


def test_without_rich_a_terminal_gets_plain_columns_that_fit_it(place: Place) -> None:
    place.add(job_class="SendMail", state="failing", error="Timeout: " + "x" * 200)
    status, shown = on_a_terminal(place, "jobs", "list", code=_WITHOUT_RICH + _MAIN)
    assert status == 0
    head, job = shown.replace("\r", "").splitlines()
    assert head.startswith("id  queue  type")
    assert len(job) == 80
    assert job.endswith("…")


def test_the_demo_without_rich_says_what_it_needs(place: Place) -> None:
    with process(place, "demo", code=_WITHOUT_RICH.replace("rich.table", "rich.console") + _MAIN) as running:
        _, said = running.communicate(timeout=30)
    assert running.returncode == 2
    assert said == b"Error: qg demo needs rich, which isn't installed; pip install 'qg[demo]'\n"
