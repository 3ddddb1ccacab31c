"""docs/control.md is true: its blocks run in turn, and it names what there is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import closing

import pytest
from guides import DOCS, check_links
from outside import Place, locked_by_others
from support import on_versions

import qg
from qg import control
from qg.control import checkup

PAGE = (DOCS / "control.md").read_text(encoding="utf-8")


@on_versions(3, 7)
def test_every_block_runs_in_turn(
    make_database: Callable[..., str], version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Place(make_database(version=version), version)) as place:
        for _ in range(30):
            place.add(job_class="SendMail")
        for state in ("failing", "expired", "scheduled"):
            place.add(state=state, error="Timeout: no answer", ahead="1 hour")
        place.add(job_class="Report")
        place.add(job_class="Import")
        names: dict[str, object] = {}
        with locked_by_others(place, 1):
            for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
                exec(compile(block.replace("postgresql:///app", place.dsn), "control.md", "exec"), names)
        names["control"].close()  # type: ignore[attr-defined]
        output = capsys.readouterr().out
        assert output.startswith("mail: working, 32 due, 1 failing, oldest ")
        assert "being worked by " in output
        assert "works it and doesn't know of pauses" in output
        assert place.ids() != []
        (sql,) = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        if version == 3:
            place.query(sql)
            with control.Control(place.dsn) as again:
                assert again.job(1).job is not None


def test_the_example_in_the_packages_docstring_runs(make_database: Callable[..., str]) -> None:
    (example,) = re.findall(r"^::\n\n((?:    .*\n|\n)+)", control.__doc__ or "", re.MULTILINE)
    with closing(Place(make_database(version=7), 7)) as place:
        place.add(state="failing", error="Timeout")
        code = "\n".join(line[4:] for line in example.split("\n"))
        exec(compile(code.replace("postgresql:///app", place.dsn), "qg.control", "exec"), {})
        assert place.query("SELECT error_count FROM que_jobs") == [(0,)]


def test_the_page_names_each_option_action_and_check() -> None:
    for option in list(inspect.signature(control.Filter).parameters)[:-1]:
        assert re.search(rf"^\|.*`{option}=`", PAGE, re.MULTILINE), option
    for action in ("retry", "run_now", "delete", "expire", "reschedule", "set_priority", "move"):
        assert re.search(rf"^\| `{action}` \|", PAGE, re.MULTILINE), action
    for state in control.State:
        assert f"`{state}`" in PAGE
    for check in checkup._CHECKS:
        assert f"`{check.__name__.removeprefix('check_')}`" in PAGE, check
    for name in ("ErrUnknownJob", "ErrUnknownQueue", "ErrRights", "ErrTable"):
        assert hasattr(qg, name)
        assert f"`qg.{name}`" in PAGE


def test_the_links_of_the_page_lead_somewhere() -> None:
    check_links("control.md")
