"""The README and the docs are true: every block of code runs, every test they name exists."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import Database, eventually, needs

import qg

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


# The first two blocks of Python and the first of commands.
FIRST_SCREEN = [*blocks("python")[:2], blocks("sh")[0]]


def test_the_first_screen_works_as_it_stands(
    make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("click")
    dsn = make_database(migrate=False)
    tasks, storing, commands = FIRST_SCREEN
    (tmp_path / "tasks.py").write_text(tasks, encoding="utf-8")
    (tmp_path / "store.py").write_text(storing.replace("postgresql:///app", dsn), encoding="utf-8")
    monkeypatch.setenv("QG_DSN", dsn)
    monkeypatch.setenv("PATH", sys.prefix + "/bin" + os.pathsep + os.environ["PATH"])
    install, work = [line for line in commands.splitlines() if line.startswith("qg ")]
    with closing(Database(dsn)) as database:
        database.query("CREATE TABLE users AS SELECT id, false AS greeted FROM generate_series(6, 8) AS id")
        for command in (install.split(), [sys.executable, "store.py"], [*work.split(), "--until-empty"]):
            subprocess.run(command, cwd=tmp_path, check=True)
        assert database.query("SELECT id FROM users WHERE greeted") == [(7,)]
        assert database.count() == 0


def test_every_python_block_runs_in_turn(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("qg.jobs")
    database.query("CREATE TABLE users (id int PRIMARY KEY, greeted boolean NOT NULL DEFAULT false)")
    database.query("INSERT INTO users VALUES (7), (8)")
    # What ends a worker script is a signal, which is installed by the first block that needs it.
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "pause", lambda: eventually(lambda: database.count() == 0))
    monkeypatch.setattr(logging, "basicConfig", lambda level: None)
    try:
        # The fields of a payload are found by its class's module.
        monkeypatch.setitem(sys.modules, "readme", module := types.ModuleType("readme"))
        program = vars(module)
        for block in blocks("python")[2:]:
            if "WorkerPool" in block and "GreetUser" in block:
                program["client"].enqueue(qg.Job("GreetUser", [8], queue="mail"))
            exec(compile(block.replace("postgresql:///app", database.dsn), "README.md", "exec"), program)
        program["conn"].close()
        program["queue"].start()
        welcomed = "SELECT success FROM qg_jobs_history WHERE job_type = 'readme.Welcome'"
        eventually(lambda: database.query(welcomed) == [(True,)])
        assert program["queue"].shutdown()
        greeted = database.query("SELECT id FROM users WHERE greeted ORDER BY id")
        assert greeted == [(7,), (8,)]
        assert capsys.readouterr().out.startswith("mail GreetUser 2 0 0 ")
        with program["client"] as client:
            client.enqueue(qg.Job("Greet", queue="x"))
            database.query("UPDATE que_jobs SET error_count = 11 WHERE queue = 'x'")
            assert qg.Worker(client, {"Greet": program["greet_by_day"]}, queue="x").work_one()
        assert database.value("SELECT count(*) FROM que_jobs WHERE queue = 'x'") == 0
    finally:
        signal.signal(signal.SIGTERM, before)
        database.query("DROP TABLE users")
        database.query("DELETE FROM qg_jobs_history WHERE job_type = 'readme.Welcome'")


def test_the_commands_are_those_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    demo, tests = (block.strip() for block in blocks("sh")[1:])
    assert (demo, tests) == ("pip install '.[demo]' && qg demo", "pip install tox && tox")
    assert "pip install tox && tox" in ci
    assert "qg demo" in ci


def test_the_options_of_the_client_are_all_in_the_table() -> None:
    documented = re.findall(r"^\| `(\w+)=?` \|", README, re.MULTILINE)
    assert documented == list(qg.Client.__init__.__annotations__)[:-1]


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda page: page.name,
)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target


def test_the_example_in_the_packages_docstring_runs(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^::\n\n((?:    .*\n|\n)+)", qg.__doc__ or "", re.MULTILINE)
    program: dict[str, Any] = {}
    code = "\n".join(line[4:] for line in example.split("\n"))
    exec(compile(code.replace("postgresql:///app", database.dsn), "qg", "exec"), program)
    program["client"].close()
    assert capsys.readouterr().out == "SendMail [42]\n"
    assert database.count() == 0


def test_importing_the_package_brings_no_extra_along() -> None:
    code = "import sys, qg; print([each for each in ('click', 'rich', 'sqlalchemy', 'django') if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
