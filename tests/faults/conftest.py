"""Experiments, and the table that a full run of them writes to docs/reliability.md."""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
from experiment import PLAIN, POOLS, Books, Experiment, Figures, Kind, Left
from psycopg2.extensions import make_dsn
from servers import Server, new_server
from support import VERSION, Database

import qg

HERE = Path("tests/faults")
PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
EVERYTHING = "slow or not slow"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
HEADINGS = ["what is done", "versions", "pools", "times", "jobs", "runs", "effects", "overlaps", "left", "seconds"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table", action="store_true", help="show the table of experiments; write it to docs if all of them ran"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run experiments on the version of this run, and where the slow ones run, all of them on the oldest and newest."""
    with_slow = metafunc.config.option.markexpr in ("slow", EVERYTHING)
    if "version" in metafunc.fixturenames:
        metafunc.parametrize("version", [3, 7] if with_slow else [VERSION])
    if "kind" in metafunc.fixturenames:
        kinds = POOLS if with_slow else getattr(metafunc.module, "POOLS_OF_EVERY_RUN", POOLS)
        metafunc.parametrize("kind", kinds, ids=lambda kind: kind.name)


class Table:
    """Collects the figures from each experiment's report, also where other processes run them.

    Experiments that differ in the version and the pool alone are one row.

    Args:
        complete: whether this run has all experiments.
    """

    def __init__(self, *, complete: bool) -> None:
        self._rows: dict[tuple[Any, ...], list[list[Any]]] = {}
        self._complete = complete

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._complete = self._complete and not report.failed
        if report.when == "call" and report.passed:
            path, line, _ = report.location
            for name, (what, *row) in report.user_properties:
                if name == "faults_row":
                    self._rows.setdefault((path, line, what), []).append(row)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = [HEADINGS, ["---"] * len(HEADINGS)]
        for key, rows in sorted(self._rows.items()):
            versions, kinds, figures = zip(*rows, strict=True)
            total = reduce(add, (Figures(**{**each, "left": Left(**each["left"])}) for each in figures))
            names = [kind.name for kind in POOLS if kind.name in kinds]
            lines.append([key[-1], ", ".join(map(str, sorted(set(versions)))), ", ".join(names), *total.cells()])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        terminalreporter.write_line(table)
        if not self._complete:
            terminalreporter.write_line("not all experiments ran, or went well; the table in docs stays as it was")
            return
        text = PAGE.read_text(encoding="utf-8")
        text = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{table}\n\n{END}", text, flags=re.DOTALL)
        PAGE.write_text(text, encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--write-table", default=False) and not hasattr(config, "workerinput"):
        given = config.option
        everything = (
            given.markexpr == EVERYTHING and not given.keyword and [Path(each) for each in config.args] == [HERE]
        )
        config.pluginmanager.register(Table(complete=everything))


@pytest.fixture(scope="session")
def books(make_database: Callable[..., str]) -> Iterator[Books]:
    """The books, on the server of all tests, which no experiment does anything to."""
    with closing(Books(make_database(migrate=False))) as books:
        yield books


@pytest.fixture(scope="session")
def short_path() -> Iterator[Path]:
    """A folder for servers: the path of a socket may have about 100 characters only."""
    folder = Path(tempfile.mkdtemp(prefix="qg-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server(short_path: Path) -> Iterator[Server]:
    """A server that experiments may stop, but are to leave running."""
    with new_server(short_path) as server:
        yield server


@pytest.fixture
def make_database_on(version: int) -> Callable[[str], str]:
    """A function that makes a database with a queue on an experiment's own server, and returns its DSN."""

    def make(server: str) -> str:
        name = f"qg_test_{uuid.uuid4().hex[:12]}"
        with closing(Database(server)) as database:
            database.query(f"CREATE DATABASE {name}")
        dsn = make_dsn(server, dbname=name)
        qg.migrate(dsn, version)
        return dsn

    return make


@pytest.fixture
def begin(
    books: Books,
    make_database: Callable[..., str],
    version: int,
    request: pytest.FixtureRequest,
    leaves_nothing_behind: None,
) -> Callable[..., Experiment]:
    """A function that begins an experiment, in a database of its own unless it is given one.

    What it is called is what its row of the table begins with.
    """

    def begin(what: str, kind: Kind = PLAIN, *, queue: str | None = None) -> Experiment:
        def report(figures: Figures, note: str) -> None:
            row = [f"{what}; {note}" if note else what, version, kind.name, asdict(figures)]
            request.node.user_properties.append(("faults_row", row))

        return Experiment(queue or make_database(version=version), version, books, kind, report)

    return begin
