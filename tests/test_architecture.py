"""The shape of the package: what it offers, who imports whom, where SQL stands."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import get_origin

import pytest
from support import needs

import qg

PACKAGE = Path(qg.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# A module imports only what stands to its left.
ORDER = [
    "backoff",
    "errors",
    "verdicts",
    "stats",
    "tables",
    "driver",
    "connections",
    "transactions",
    "known",
    "session",
    "schema",
    "failures",
    "fields",
    "locks",
    "marks",
    "taking",
    "job",
    "activejob",
    "handlers",
    "testing",
    "synchronous",
    "picker",
    "client",
    "polling",
    "batch",
    "outage",
    "signals",
    "sleepers",
    "listener",
    "worker",
    "workerpool",
    "__init__",
    "jobs",
    "pytest_plugin",
    "cli",
]


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms that *path* imports, inside functions and under TYPE_CHECKING too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path} imports relatively, which this test doesn't follow")
        if isinstance(node, ast.ImportFrom) and node.module == "qg":
            rooms |= {alias.name if alias.name in ORDER else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qg."):
            rooms.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "qg":
                    rooms.add("__init__")
                elif alias.name.startswith("qg."):
                    rooms.add(alias.name.split(".")[1])
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_to_its_left(path: Path) -> None:
    here = ORDER.index(room(path))
    wrong = {each for each in imported_rooms(path) if ORDER.index(each) > here}
    assert not wrong, f"{path.name} may not import {', '.join(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sql_stands_only_in_tables(path: Path) -> None:
    if "tables" in path.relative_to(PACKAGE).with_suffix("").parts:
        return
    sql = re.compile(r"\b(SELECT .* FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE TABLE|DROP TABLE)\b", re.DOTALL)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # Docstrings may show some.
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            assert not sql.search(node.value), f"line {node.lineno}: {node.value}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_module_lists_as_public_exists(path: Path) -> None:
    name = ".".join(("qg", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    module = needs(name)
    for public in module.__all__:
        assert hasattr(module, public), public


@pytest.mark.parametrize("name", ["qg", "qg.jobs"])
def test_everything_public_is_documented(name: str) -> None:
    package = needs(name)
    for public in package.__all__:
        thing = getattr(package, public)
        if not isinstance(thing, type) or get_origin(thing):
            continue
        assert thing.__doc__, public
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (callable(value) or isinstance(value, property)):
                assert value.__doc__, f"{public}.{attribute}"


def test_every_error_of_qg_is_a_qg_error_and_in_the_tree_of_its_module() -> None:
    from qg import errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), qg.QgError)
        assert re.search(rf"\b{name}\b", errors.__doc__ or "")
        assert getattr(qg, name) is getattr(errors, name)


def test_the_core_needs_psycopg2_alone() -> None:
    wanted = set()
    for path in MODULES:
        if room(path) in ("cli", "jobs", "pytest_plugin"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                wanted.add((node.module or "").split(".")[0])
    # typing_extensions is imported by type checkers only, which bring it along.
    assert wanted - set(sys.stdlib_module_names) == {"psycopg2", "qg", "typing_extensions"}
