"""qg schema: the table, its versions, and the SQL that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from support import Database, needs

import qg
from qg.schema import migration_sql


@pytest.fixture
def empty(make_database: Callable[..., str]) -> Iterator[Database]:
    """A database without a table."""
    with closing(Database(make_database(migrate=False))) as database:
        yield database


def test_the_table_is_created_once_told_and_migrated(run: Any, empty: Database, answers: None) -> None:
    def schema(*arguments: object, **how: Any) -> Any:
        return run("schema", *arguments, dsn=empty.dsn, **how)

    assert schema("status", status=1).stdout == "there is no que_jobs table; qg schema install creates it\n"
    assert schema("status", "--quiet", status=1).stdout == "0\n"
    assert schema("install").stdout == "the que_jobs table, of version 3, is created\n"
    assert schema("install").stdout == "the que_jobs table, of version 3, was there already, and stays as it is\n"
    assert schema("status").stdout == "the que_jobs table is of version 3; qg works versions 3 to 7\n"
    refused = schema("install", "--version", 7, status=1)
    assert "a que_jobs table of version 3 already; qg schema migrate --version 7" in refused.stderr
    asked = schema("migrate", "--version", 7, typed="n\n", status=1)
    assert "is of version 3. Migrating it to 7 keeps everybody out until it is done. Go on?" in asked.stderr
    assert qg.schema_version(empty.dsn) == 3
    assert schema("migrate", "--version", 7, typed="y\n").stdout == "the que_jobs table is of version 7\n"
    assert schema("migrate", "--version", 7).stdout == "the que_jobs table is of version 7 already\n"
    assert "drops the table with every job in it" in schema("migrate", "--version", 0, typed="", status=1).stderr
    assert schema("migrate", "--version", 0, "--yes").stdout == "the que_jobs table is gone\n"
    assert schema("migrate", "--version", 0).stdout == "there was no que_jobs table\n"
    assert "Missing option '--version'" in schema("migrate", status=2).stderr


def test_it_is_installed_with_a_trigger_and_the_tables_of_qg_jobs(run: Any, empty: Database) -> None:
    needs("qg.jobs")
    run("schema", "install", "--notify", "--jobs", "--json", dsn=empty.dsn)
    assert empty.value("SELECT count(*) FROM pg_trigger WHERE tgname = 'qg_notify'") == 1
    run("schedules", dsn=empty.dsn, status=1)


def test_a_migration_where_nobody_can_be_asked_is_refused(run: Any, empty: Database) -> None:
    qg.migrate(empty.dsn)
    assert "give --yes" in run("schema", "migrate", "--version", 7, dsn=empty.dsn, status=1).stderr
    assert qg.schema_version(empty.dsn) == 3


def test_the_sql_is_printed(run: Any) -> None:
    assert run("schema", "sql").stdout == f"{migration_sql(3)}\n"
    printed = run("schema", "sql", "--from", 3, "--version", 7, "--schema", "odd").stdout
    assert printed == f"{migration_sql(7, found=3, schema='odd')}\n"
    assert run("schema", "sql", "--notify").stdout == f"{migration_sql(3, notify=True)}\n"
    assert "has no queues to notify of" in run("schema", "sql", "--version", 1, "--notify", status=2).stderr


def test_a_table_of_a_version_to_come_is_said(run: Any, empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qg.schema.schema_version", lambda dsn: 8)
    result = run("schema", "status", dsn=empty.dsn, status=1)
    assert result.stdout == "the que_jobs table is of version 8, which this qg doesn't know; upgrade qg\n"
