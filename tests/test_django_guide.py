"""docs/django.md is true: its blocks are the files of a project, which is migrated, worked and tested with them."""

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

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["shop"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", {given}}}}}
LOGGING = {{
    "version": 1,
    "handlers": {{"console": {{"class": "logging.StreamHandler"}}}},
    "loggers": {{"qg": {{"handlers": ["console"], "level": "INFO"}}}},
}}
"""

# The test's database that Django has made.
LEFT = "SELECT datname FROM pg_database WHERE datname = 'test_' || current_database()"


@pytest.fixture
def app(make_database: Callable[..., str], database: Database) -> Iterator[Database]:
    with closing(Database(make_database(migrate=False))) as app:
        yield app


@pytest.fixture
def project(tmp_path: Path, app: Database) -> Path:
    """A project with the files of the guide, migrated."""
    needs("django")
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    parts = parse_dsn(app.dsn)
    given = ", ".join(f"{name!r}: {parts.get(part, '')!r}" for name, part in names.items())
    (tmp_path / "settings.py").write_text(SETTINGS.format(given=given), encoding="utf-8")
    assert "shop/models.py" in write_files("django.md", tmp_path)
    for package in ("shop", "shop/management", "shop/management/commands", "shop/migrations"):
        (tmp_path / package / "__init__.py").touch()
    second = tmp_path / "shop/migrations/0002_que_jobs.py"
    text = second.read_text(encoding="utf-8")
    second.unlink()  # it comes after the one that Django makes
    manage(tmp_path, "makemigrations", "shop")
    second.write_text(text, encoding="utf-8")
    manage(tmp_path, "migrate")
    return tmp_path


def manage(project: Path, *command: str) -> str:
    return run(project, "-W", "error", "-m", "django", *command, DJANGO_SETTINGS_MODULE="settings")


def execute(project: Path, code: str) -> str:
    return run(project, "-c", f"import django\ndjango.setup()\n{code}", DJANGO_SETTINGS_MODULE="settings")


def test_its_migration_makes_the_table_and_takes_it_back_and_the_models_fit(project: Path, app: Database) -> None:
    assert qg.schema_version(app.dsn) == 3
    manage(project, "makemigrations", "--check")
    manage(project, "migrate", "shop", "0001")
    assert qg.schema_version(app.dsn) == 0


def test_its_tests_run_in_a_testcase_and_the_database_is_dropped(project: Path, app: Database) -> None:
    assert "Ran 3 tests" in manage(project, "test", "--noinput")
    assert app.query(LEFT) == []


def test_its_test_runs_with_pytest_django(project: Path, app: Database) -> None:
    needs("pytest_django")
    plugins = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist")
    command = ("-W", "error", "-m", "pytest", "-q", *plugins, "shop/test_sign_up.py", "shop/tests.py")
    assert "4 passed" in run(project, *command, DJANGO_SETTINGS_MODULE="settings")
    assert app.query(LEFT) == []


def test_its_worker_works_what_both_ways_enqueue_until_sigterm(project: Path, app: Database) -> None:
    execute(
        project,
        "from shop.services import sign_up, sign_up_with_on_commit\n"
        "sign_up('a@example.org')\n"
        "sign_up_with_on_commit('b@example.org')\n",
    )
    assert app.query("SELECT job_class, args FROM que_jobs ORDER BY job_id") == [("Welcome", [1]), ("Welcome", [2])]
    worker = subprocess.Popen(
        [sys.executable, "-m", "django", "work"],
        cwd=project,
        env=environment(project, DJANGO_SETTINGS_MODULE="settings"),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: app.count() == 0)
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=30)
    finally:
        worker.kill()
    assert worker.returncode == 0, log
    assert log.count("job_worked id=") == 2
    assert app.query("SELECT email, welcomed FROM shop_customer ORDER BY id") == [
        ("a@example.org", True),
        ("b@example.org", True),
    ]


def test_its_handler_deletes_the_job_in_the_transaction_of_the_orm(project: Path, app: Database) -> None:
    """What the ORM wrote is undone together with the deletion, and the job has failed."""
    output = execute(
        project,
        "import qg\n"
        "from django.db import transaction\n"
        "from shop.jobs import WORK_MAP\n"
        "from shop.queue import dsn\n"
        "from shop.services import sign_up\n"
        "sign_up('a@example.org')\n"
        "def in_block_that_fails(job):\n"
        "    try:\n"
        "        with transaction.atomic():\n"
        "            WORK_MAP['Welcome'](job)\n"
        "            raise LookupError\n"
        "    except LookupError:\n"
        "        pass\n"
        "with qg.Client(dsn()) as client:\n"
        "    qg.Worker(client, {'Welcome': in_block_that_fails}).work_one()\n",
    )
    assert "ErrNotCommitted" in output
    assert app.query("SELECT welcomed FROM shop_customer") == [(False,)]
    assert app.query("SELECT error_count FROM que_jobs") == [(1,)]


def test_its_handlers_get_a_new_connection_after_the_old_one_is_gone(project: Path, app: Database) -> None:
    output = execute(
        project,
        "import qg\n"
        "from django.db import connection\n"
        "from shop.jobs import WORK_MAP, with_django\n"
        "from shop.queue import dsn\n"
        "from shop.services import sign_up\n"
        "sign_up('a@example.org'), sign_up('b@example.org')\n"
        "connection.settings_dict['CONN_MAX_AGE'] = 60\n"
        "def dies(job):\n"
        "    WORK_MAP['Welcome'](job)\n"
        "    connection.cursor().execute('SELECT pg_terminate_backend(pg_backend_pid())')\n"
        "with qg.Client(dsn()) as client:\n"
        "    for handler in (dies, WORK_MAP['Welcome']):\n"
        "        qg.Worker(client, {'Welcome': handler}, middleware=[with_django]).work_one()\n",
    )
    assert "job_worked id=2" in output
    assert app.query("SELECT welcomed FROM shop_customer") == [(True,), (True,)]


def test_the_links_of_the_page_lead_somewhere() -> None:
    check_links("django.md")
