"""The guide is true: every block of docs/jobs.md runs, in turn, as one program."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from insides import client_of
from support import PATIENCE, PAYLOAD, UNNAMED, VERSION, Database, eventually

from qg import jobs

GUIDE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text(encoding="utf-8")


@pytest.fixture
def app(make_database: Callable[..., str], database: Database) -> Iterator[Database]:
    with closing(Database(make_database(migrate=VERSION > 3))) as app:  # a table of version 3 it makes by itself
        app.query("CREATE TABLE users (id int PRIMARY KEY, greeted boolean NOT NULL DEFAULT false)")
        app.query("INSERT INTO users SELECT generate_series(7, 14) EXCEPT VALUES (8)")
        yield app


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    program = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", program)
    return program


def test_every_block_of_the_guide_runs_in_turn(app: Database, program: types.ModuleType):
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 14
    names = vars(program)
    try:
        for block in blocks:
            exec(compile(block.replace("postgresql:///app", app.dsn), "docs/jobs.md", "exec"), names)
        eventually(
            lambda: (
                app.query("SELECT id FROM users WHERE greeted ORDER BY id")
                == [(number,) for number in (7, 8, 9, 11, 12, 13, 14)]
            )
        )
        assert app.query(f"SELECT job_class, run_at > now() FROM que_jobs WHERE queue = '{UNNAMED}'") == [
            ("guide.GreetUser", True)
        ]
        names["patient"].enqueue(names["SendMail"]("a@example.org"))
        assert app.query(f"SELECT job_class, {PAYLOAD} -> 'jobData' FROM que_jobs WHERE queue = 'mail'") == [
            ("mail.send", {"address": "a@example.org", "subject": "Hello"})
        ]
        assert app.value("SELECT count(*) FROM qg_jobs_schedule") == 3
    finally:
        for each in names.values():
            if isinstance(each, jobs.PostgresJobs):
                assert each.shutdown(PATIENCE)
        client_of(names["patient"]).close()
        names["conn"].close()


def test_the_example_in_the_packages_docstring_is_the_one_of_the_guide_and_runs(
    app: Database, program: types.ModuleType
):
    (example,) = re.findall(r"^::\n\n((?:    .*\n|\n)+)", jobs.__doc__ or "", re.MULTILINE)
    code = "\n".join(line[4:] for line in example.split("\n"))
    names = vars(program)
    exec("import qg; from qg import jobs", names)
    names["qg"].migrate(app.dsn)
    names["jobs"].migrate(app.dsn)
    exec(compile(code.replace("postgresql:///app", app.dsn), "qg.jobs", "exec"), names)
    names["queue"].start()
    eventually(lambda: app.query("SELECT id FROM users WHERE greeted") == [(7,)])
    assert names["queue"].shutdown(PATIENCE)


def test_every_error_and_every_option_is_in_the_guide():
    for name in jobs.errors.__all__:
        assert f"`{name}`" in GUIDE, name
    for option in list(jobs.PostgresJobs.__init__.__annotations__)[:-1]:
        assert re.search(rf"^\|.*`{option}=?`", GUIDE, re.MULTILINE), option
