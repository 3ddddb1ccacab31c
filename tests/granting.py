"""The GRANTs of docs/reliability.md, and roles that have them."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from support import Database

import qg

PAGE = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text(encoding="utf-8")

# Without USAGE on its schema a table isn't found.
_REFUSALS = (
    qg.ErrRights,
    qg.ErrTable,
    psycopg2.errors.InsufficientPrivilege,
    psycopg2.errors.UndefinedTable,
)


def grants(heading: str, version: int) -> list[str]:
    """What is granted below *heading* for *version*, each privilege by itself."""
    (section,) = re.findall(rf"^### {heading}$(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    statements: list[str] = []
    for block in re.findall(r"^```sql\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
        first, _, rest = block.partition("\n")
        if not first.startswith("--"):
            rest = block
        elif (first == "-- version 3") != (version == 3):
            continue
        statements += [each.strip() for each in rest.split(";") if each.strip()]
    return [each for statement in statements for each in _apart(statement)]


def _apart(statement: str) -> list[str]:
    match = re.fullmatch(r"GRANT ([A-Z, ]+) ON (.+)", statement)
    if match is None:
        return [statement]
    return [f"GRANT {privilege} ON {match[2]}" for privilege in match[1].split(", ")]


def shut_out_public(database: Database) -> None:
    """Take from PUBLIC what it has by default."""
    name = database.value("SELECT current_database()")
    database.query(
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;"
        "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC"
    )


@contextmanager
def role_with(database: Database, statements: list[str]) -> Iterator[str]:
    """A DSN of a new role that has been granted these and nothing else."""
    name = database.value("SELECT current_database()")
    role = f"qg_role_{uuid.uuid4().hex[:12]}"
    database.query(f"CREATE ROLE {role}")
    try:
        for statement in statements:
            granted = re.sub(r" TO \w+$", f" TO {role}", statement.replace(" DATABASE app ", f" DATABASE {name} "))
            database.query(granted)
        yield make_dsn(database.dsn, options=f"-c role={role}")
    finally:
        database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")


def role_of(dsn: str) -> str:
    """The role that sessions of *dsn* have."""
    return parse_dsn(dsn)["options"].removeprefix("-c role=")


def each_left_out(*headings: str, versions: list[int]) -> pytest.MarkDecorator:
    """Run a test for each version and each privilege below *headings*: with the version, all of them, and that one."""
    cases = []
    for version in versions:
        every = [each for heading in headings for each in grants(heading, version)]
        cases += [
            pytest.param(version, every, each, id=f"{version}-{each.replace(' ', '_')}")
            for each in dict.fromkeys(every)
        ]
    return pytest.mark.parametrize(("version", "every", "missing"), cases)


def said(caplog: pytest.LogCaptureFixture, *expected: str) -> list[str]:
    """What was logged as a warning or worse, but for the *expected* events."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.getMessage().split(" ")[0] not in expected
    ]


def fails(deed: Callable[[], object], caplog: pytest.LogCaptureFixture, *expected: str) -> bool:
    """Whether *deed* isn't allowed, returns False, or logs what isn't *expected*."""
    try:
        return deed() is False or bool(said(caplog, *expected))
    except (qg.QgError, psycopg2.Error) as error:
        if not isinstance(error.__cause__ or error, _REFUSALS):
            raise
        return True
