"""The shape of the package: what it offers, who imports whom, where SQL stands."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from pathlib import Path
from typing import get_origin

import pytest
from support import needs

import qg

PACKAGE = Path(qg.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# A room, or a module at the top, imports only what stands before it here; within a room likewise.
ORDER: dict[str, list[str]] = {
    "errors": [],
    "backoff": [],
    "verdicts": [],
    "retries": [],
    "stats": [],
    "failures": [],
    "signals": [],
    "forks": [],
    "lookout": [],
    "tables": [
        "table",
        "columns",
        "locking",
        "settings",
        "statements",
        "v3",
        "v7",
        "rights",
        "__init__",
        "seeing",
        "walks",
        "counts",
        "looks",
        "acts",
        "pauses",
        "history",
        "checks",
        "migrations",
        "demo",
    ],
    "database": [
        "__init__",
        "driver",
        "deadline",
        "encoding",
        "mode",
        "sources",
        "kinds",
        "foreign",
        "known_table",
        "prepared",
        "lending",
        "session",
        "pooler",
        "rights",
        "paused",
        "outage",
        "database",
    ],
    "schema": [],
    "locking": [
        "__init__",
        "marks",
        "cancelled",
        "row_taker",
        "context",
        "row_lock",
        "shared_lock",
        "settling",
        "locked_row",
        "attempt",
    ],
    "job": [],
    "activejob": [],
    "testing": [],
    "enqueuing": ["__init__", "fields", "storing"],
    "working": [
        "__init__",
        "options",
        "threads",
        "coroutine",
        "blocked_loop",
        "event_loop",
        "hooks",
        "handlers",
        "watch",
        "turns",
        "sleepers",
        "at_once",
        "job_taker",
        "engine",
        "oversight",
        "runner",
        "batch",
        "transactions",
        "held",
        "crew",
        "hands",
        "loop",
        "work_loop",
        "locker",
        "listener",
    ],
    "client": [],
    "worker": [],
    "workerpool": [],
    "control": [
        "records",
        "standing",
        "reports",
        "options",
        "filters",
        "sessions",
        "listing",
        "overview",
        "failing",
        "history",
        "acting",
        "pausing",
        "patient",
        "checks_of_server",
        "checks_of_table",
        "checks_of_work",
        "checkup",
        "base",
        "looks",
        "acts",
        "pauses",
        "control",
        "__init__",
    ],
    "__init__": [],
    "jobs": [
        "errors",
        "cron",
        "codecs",
        "roundtrip",
        "payloads",
        "blocks",
        "context",
        "envelope",
        "functions",
        "protocols",
        "noop",
        "telemetry",
        "tables",
        "conductor",
        "drafts",
        "job_func",
        "queue",
        "memory_store",
        "memory_schedules",
        "memory",
        "testing",
        "history",
        "schedules",
        "pool_report",
        "postgres",
        "__init__",
    ],
    "aio": [
        "threads",
        "daemons",
        "awaited",
        "own_transactions",
        "job",
        "client",
        "hooks",
        "hands",
        "workerpool",
        "__init__",
    ],
    "supervisor": [
        "__init__",
        "settings",
        "application",
        "targets",
        "tally",
        "standing",
        "logs",
        "running_jobs",
        "messages",
        "seats",
        "signalled",
        "systemd",
        "health",
        "metrics",
        "surfaces",
        "asking",
        "stacks",
        "emptiness",
        "unknown_queues",
        "depths",
        "deaths",
        "pool_states",
        "worker_process",
        "alone",
        "child",
        "offspring",
        "unrecorded",
        "reloading",
        "parent",
    ],
    "pytest_plugin": [],
    "cli": [
        "status",
        "endings",
        "commanding",
        "cells",
        "output",
        "values",
        "interrupting",
        "options",
        "asking",
        "choosing",
        "progress",
        "watching",
        "server",
        "termination",
        "files",
        "display",
        "demo",
        "lines",
        "enqueue",
        "history",
        "jobs_acts",
        "jobs",
        "looking",
        "queues",
        "schema",
        "doctor",
        "demo_command",
        "health",
        "work",
        "commands",
        "__init__",
    ],
}
ROOMS = list(ORDER)
# What each place in the package is, from left to right.
PLACES = [(room, module) for room, modules in ORDER.items() for module in modules or [""]]


def place(parts: tuple[str, ...]) -> tuple[str, str]:
    """The room and the module that *parts*, below qg, lead to."""
    room = parts[0] if parts else "__init__"
    if not ORDER[room]:
        return room, ""
    return room, parts[1] if len(parts) > 1 and parts[1] in ORDER[room] else "__init__"


def place_of(path: Path) -> tuple[str, str]:
    return place(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path: Path) -> set[tuple[str, str]]:
    """The places that *path* imports, inside functions and under TYPE_CHECKING too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively, which this test doesn't follow"
            # What is imported from a package may be a module of it.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [tuple(name.split(".")[1:]) for name in names if name == "qg" or name.startswith("qg.")]
    return {place(each) if each and each[0] in ORDER else ("__init__", "") for each in parts}


def test_each_module_has_its_place() -> None:
    assert sorted({place_of(path) for path in MODULES if path.stat().st_size}) == sorted(PLACES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    here = PLACES.index(place_of(path))
    wrong = {each for each in imported(path) if PLACES.index(each) > here}
    assert not wrong, f"{path.name} may not import {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_private_is_reached_into_nowhere_but_in_these_places(path: Path) -> None:
    """A name with a leading underscore is for its own class alone, and in a module for its own room."""
    found = Counter(
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and re.match(r"_(?!_)", node.attr)
        and node.attr != "_replace"  # of a NamedTuple, and public
        and ast.unparse(node.value) not in ("self", "cls", "super()")
    )
    assert found == Counter(REACHES.get(str(path.relative_to(PACKAGE)), []))


# Each has its reason in a comment where it stands.
REACHES = {
    "aio/client.py": ["client._connected", "client._source"],
    "client.py": ["client._engine"],
    "forks.py": ["os._exit"],
    "jobs/blocks.py": ["sys._getframe", "sys._getframe"],
    "job.py": ["job._attempt", "job._attempt", "job._attempt", "job._row"],
    "locking/locked_row.py": ["anew._run"],
    "signals.py": ["sys._getframe"],
    "supervisor/signalled.py": ["os._exit"],
    "supervisor/stacks.py": ["sys._current_frames"],
}


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
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and ast.get_docstring(node)
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


@pytest.mark.parametrize("name", ["qg", "qg.control", "qg.jobs", "qg.aio"])
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
        if place_of(path)[0] in ("cli", "jobs", "pytest_plugin") or place_of(path) == ("supervisor", "metrics"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                wanted.add((node.module or "").split(".")[0])
    # typing_extensions is imported by type checkers only, which bring it along.
    assert wanted - set(sys.stdlib_module_names) == {"psycopg2", "qg", "typing_extensions"}


def test_the_map_in_contributing_names_each_room_and_each_of_its_modules() -> None:
    text = Path(__file__).parent.parent.joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
    for room in ("database", "locking", "enqueuing", "working", "control", "aio", "supervisor", "cli"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{room}/`")]
        assert {*re.findall(r"`(\w+)\.py`", line), "__init__"} == set(ORDER[room])


def test_every_folder_of_the_package_is_one_that_gets_installed() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert all(folder.joinpath("__init__.py").exists() for folder in folders)
