"""Without the extra qg[jobs]: its packages missing, qg as ever, and one sentence where they are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import run_pytest

MISSING = ["cronsim", "msgspec", "opentelemetry"]

each_missing = pytest.mark.parametrize("missing", MISSING)

# As if the packages weren't installed: found nowhere, whoever looks.
HIDE = """
import sys
from importlib.abc import MetaPathFinder

class Hidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""

NONE = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None
"""


def run(code: str, *, hidden: list[str] = (), way: str = HIDE) -> subprocess.CompletedProcess[str]:  # type: ignore[assignment]
    """Run *code* in a new interpreter where the packages *hidden* can't be imported."""
    return subprocess.run(
        [sys.executable, "-c", way.format(hidden=list(hidden)) + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("way", [HIDE, NONE], ids=["not found", "None in sys.modules"])
@each_missing
def test_importing_jobs_says_in_one_sentence_what_is_missing(missing: str, way: str) -> None:
    code = """
import qg
for _ in range(2):  # the second time half of it is in sys.modules
    try:
        from qg import jobs
    except ImportError as error:
        assert type(error) is qg.ErrMissingExtra, type(error)
        assert isinstance(error, qg.QgError)
        assert isinstance(error.__cause__, ModuleNotFoundError)
        print(error)
"""
    result = run(code, hidden=[missing], way=way)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == second
    assert missing in first
    assert "pip install 'qg[jobs]'" in first


def test_all_of_them_missing_is_said_once() -> None:
    result = run("from qg import jobs", hidden=MISSING)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("qg.errors.ErrMissingExtra: qg.jobs needs ")
    assert result.stderr.splitlines()[-1].endswith("which isn't installed; pip install 'qg[jobs]'")


def test_an_error_in_another_import_is_not_taken_for_a_missing_extra() -> None:
    result = run("from qg import jobs", hidden=["zoneinfo"])
    assert result.returncode == 1
    assert "ErrMissingExtra" not in result.stderr
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'zoneinfo'"


def test_qg_alone_needs_none_of_them() -> None:
    result = run("import qg, qg.testing; print(qg.Client.__name__)", hidden=MISSING)
    assert (result.returncode, result.stdout) == (0, "Client\n"), result.stderr


def test_importing_qg_doesnt_import_jobs_nor_what_it_needs() -> None:
    code = """
import qg, qg.pytest_plugin
loaded = {name for name in sys.modules if name.startswith("qg.jobs")}
extras = {"cronsim", "msgspec", "opentelemetry", "pydantic", "attr"}
loaded |= extras & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_jobs_need_neither_pydantic_nor_attrs_nor_the_sdk() -> None:
    hidden = ["pydantic", "attrs", "attr", "opentelemetry_sdk", "pytest", "psycopg", "typing_extensions"]
    # opentelemetry-api itself needs typing_extensions; who imports it there isn't ours.
    code = """
from dataclasses import dataclass
from qg import jobs
assert "opentelemetry.sdk" not in sys.modules
print(sorted(jobs.__all__)[0])
"""
    result = run(code, hidden=[name for name in hidden if name != "typing_extensions"])
    assert (result.returncode, result.stdout) == (0, "CTX_JOB_ID\n"), result.stderr


WITHOUT_THE_EXTRA = HIDE.format(hidden=MISSING)

TESTS = """
import pytest, qg

def test_without_the_fixture():
    assert qg.Client

def test_with_it(job_queue):
    pass
"""


def test_without_the_extra_pytest_and_its_plugin_work_and_only_the_fixture_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    result = run_pytest(tmp_path, prelude=WITHOUT_THE_EXTRA)
    assert "1 passed, 1 error" in result.stdout, result.stdout + result.stderr
    assert "ErrMissingExtra: qg.jobs needs" in result.stdout
    assert "pip install 'qg[jobs]'" in result.stdout
