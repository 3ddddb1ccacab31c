"""A database with an empty table, and the command on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from outside import Place
from support import VERSION, eventually, needs

CliRunner = needs("click.testing").CliRunner
commands = needs("qg.cli.commands").commands

_VARIABLES = ("QG_DSN", "DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGSERVICE")


@pytest.fixture(scope="session")
def _place(make_database: Callable[..., str]) -> Iterator[Place]:
    place = Place(make_database(version=VERSION), VERSION)
    yield place
    place.close()


@pytest.fixture
def place(_place: Place) -> Iterator[Place]:
    """The test's database; nothing may be left locked in the end, nor a session open."""
    _place.empty()
    yield _place
    eventually(lambda: not _place.sessions(), lambda: f"the end of all sessions; left: {_place.sessions()}")
    assert _place.locks() == []


@pytest.fixture(autouse=True)
def _no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run() -> Callable[..., Any]:
    """The command without a database; run(…, dsn=…) has one."""

    def run(*arguments: object, status: int = 0, dsn: str = "", typed: Any = None) -> Any:
        result = CliRunner().invoke(
            commands, [str(each) for each in arguments], input=typed, env={"QG_DSN": dsn}, prog_name="qg"
        )
        assert result.exit_code == status, result.output + str(result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


@pytest.fixture
def qg(run: Callable[..., Any], place: Place) -> Callable[..., Any]:
    """The command on the test's database."""

    def qg(*arguments: object, **how: Any) -> Any:
        return run(*arguments, **{"dsn": place.dsn, **how})

    return qg


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is there to be asked, and answers what the test gives as input."""
    monkeypatch.setattr("qg.cli.asking._somebody_there", lambda: True)
