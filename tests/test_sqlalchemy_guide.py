"""docs/sqlalchemy.md is true: its blocks are the files of a program, which is migrated, worked and tested with them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from guides import check_links, environment, run, write_files
from psycopg2.extensions import parse_dsn
from support import Database, eventually, needs

import qg

ALEMBIC = "from alembic.config import main\nmain(argv={argv!r})"
INI = "[alembic]\nscript_location = migrations\n"
TEMPLATE = "def upgrade():\n    ${upgrades if upgrades else 'pass'}\n"


@pytest.fixture
def app(make_database: Callable[..., str], database: Database) -> Iterator[Database]:
    with closing(Database(make_database(migrate=False))) as app:
        yield app


@pytest.fixture
def program(tmp_path: Path, app: Database) -> Path:
    """A program with the files of the guide, migrated by Alembic."""
    needs("sqlalchemy")
    needs("alembic")
    parts = parse_dsn(app.dsn)
    url = f'"postgresql+psycopg2://", connect_args={parts!r}'
    write_files("sqlalchemy.md", tmp_path, {'"postgresql+psycopg2:///app"': url})
    (tmp_path / "app/__init__.py").touch()
    (tmp_path / "alembic.ini").write_text(INI, encoding="utf-8")
    (tmp_path / "migrations/script.py.mako").write_text(TEMPLATE, encoding="utf-8")
    alembic(tmp_path, "upgrade", "head")
    run(tmp_path, "-c", "from app.tables import *; Base.metadata.create_all(engine)")
    return tmp_path


def alembic(program: Path, *argv: str) -> str:
    return run(program, "-W", "error", "-c", ALEMBIC.format(argv=list(argv)))


def test_its_migration_makes_the_table_and_takes_it_back(program: Path, app: Database) -> None:
    assert qg.schema_version(app.dsn) == 3
    alembic(program, "downgrade", "base")
    assert qg.schema_version(app.dsn) == 0


@pytest.mark.parametrize("version", [3, 7])
def test_its_env_leaves_the_tables_alone(program: Path, app: Database, version: int) -> None:
    qg.migrate(app.dsn, version=version)
    assert "No new upgrade operations detected" in alembic(program, "check")


def test_its_tests_run(program: Path, app: Database) -> None:
    plugins = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist", "-p", "no:django")
    assert "3 passed" in run(program, "-W", "error", "-m", "pytest", "-q", *plugins, "tests/test_customers.py")
    assert app.query("SELECT * FROM customers") == []


def test_its_worker_works_what_was_enqueued_until_sigterm(program: Path, app: Database) -> None:
    run(program, "-c", "from app.sign_up import *; sign_up('a@example.org'); sign_up('b@example.org')")
    worker = subprocess.Popen(
        [sys.executable, "-m", "app.work"], cwd=program, env=environment(program), stderr=subprocess.PIPE, text=True
    )
    try:
        eventually(lambda: app.count() == 0)
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=30)
    finally:
        worker.kill()
    assert worker.returncode == 0, log
    assert log.count("job_worked id=") == 2
    assert app.query("SELECT email, welcomed FROM customers ORDER BY id") == [
        ("a@example.org", True),
        ("b@example.org", True),
    ]


@pytest.mark.parametrize("commits", [True, False])
def test_its_scoped_session_is_removed_after_each_job(program: Path, app: Database, commits: bool) -> None:
    output = run(
        program,
        "-c",
        "import qg\n"
        "from app import scoped\n"
        "from app.sign_up import client, sign_up\n"
        "sign_up('a@example.org'), sign_up('b@example.org')\n"
        f"if not {commits}: scoped.session.registry().commit = lambda: None\n"
        "for _ in range(2):\n"
        "    qg.Worker(client, {'Welcome': scoped.welcome}).work_one()\n",
    )
    # The session whose commit was taken away is gone with the first job.
    assert ("ErrNotCommitted" in output) is not commits
    assert app.query("SELECT welcomed FROM customers ORDER BY id") == [(commits,), (True,)]


def test_its_engine_on_the_jobs_own_connection_works(program: Path, app: Database) -> None:
    run(
        program,
        "-c",
        "import qg\n"
        "from sqlalchemy import create_engine\n"
        "from app.jobs import welcome\n"
        "from app.sign_up import client, sign_up\n"
        "from app.tables import Session\n"
        "sign_up('a@example.org')\n"
        "def handler(job):\n"
        "    Session.configure(bind=create_engine('postgresql+psycopg2://', creator=lambda: job.tx))\n"
        "    welcome(job)\n"
        "qg.Worker(client, {'Welcome': handler}).work_one()\n",
    )
    assert (app.count(), app.query("SELECT welcomed FROM customers")) == (0, [(True,)])


def test_the_dsn_of_an_engine_over_psycopg_3_is_one_for_qg(program: Path, app: Database) -> None:
    parts = parse_dsn(app.dsn)
    code = (
        "import qg\n"
        "from sqlalchemy import create_engine, URL\n"
        f"url = URL.create('postgresql+psycopg', database={parts['dbname']!r}, username={parts.get('user')!r}, "
        f"password={parts.get('password')!r}, query={{'host': {parts.get('host', '')!r}}})\n"
        "engine = create_engine(url)\n"
        "dsn = engine.url.set(drivername='postgresql').render_as_string(hide_password=False)\n"
        "with qg.Client(dsn) as client: print(client.stats())\n"
    )
    assert run(program, "-c", code) == "[]\n"


def test_the_links_of_the_page_lead_somewhere() -> None:
    check_links("sqlalchemy.md")
