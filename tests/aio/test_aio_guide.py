"""docs/asyncio.md is true: its blocks are the files of a program, which is served and run."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from guides import DOCS, check_links, environment, run, write_files
from serving import served, url
from support import PATIENCE, Database, eventually, needs

import qg

CUSTOMERS = "SELECT email, welcomed FROM customers ORDER BY id"
TABLE = "CREATE TABLE customers (id serial PRIMARY KEY, email text NOT NULL UNIQUE, welcomed boolean NOT NULL)"


@pytest.fixture
def app(make_database: Callable[..., str], database: Database) -> Iterator[Database]:
    with closing(Database(make_database())) as app:
        app.query(TABLE)
        yield app


@pytest.fixture
def program(tmp_path: Path, app: Database) -> Path:
    """A program with the files of the guide."""
    for library in ("fastapi", "asyncpg", "psycopg", "sqlalchemy"):
        needs(library)
    given = {
        '"postgresql+asyncpg:///app"': repr(url(app.dsn, "postgresql+asyncpg")),
        '"postgresql:///app"': repr(url(app.dsn)),
    }
    names = write_files("asyncio.md", tmp_path, given)
    assert sorted(names) == sorted(set(names))
    (tmp_path / "app/__init__.py").touch()
    return tmp_path


def ids(app: Database) -> list[tuple[object, ...]]:
    return app.query("SELECT args FROM jobs ORDER BY job_id")


def test_its_first_program_stores_a_job(program: Path, app: Database) -> None:
    assert run(program, "-W", "error", "-m", "app.hello") == "1\n"
    assert ids(app) == [([7],)]


def test_its_web_application_stores_customer_and_job_together(program: Path, app: Database) -> None:
    with served(program, "app.web:app", PYTHONWARNINGS="error::RuntimeWarning") as web:
        answer = web.post("/customers", params={"email": "ada@example.org"})
        assert (answer.status_code, answer.json()) == (201, {"id": 1})
    assert app.query(CUSTOMERS) == [("ada@example.org", False)]
    assert ids(app) == [([1],)]


def test_its_other_transactions(program: Path, app: Database) -> None:
    run(
        program,
        "-W",
        "error",
        "-c",
        "import asyncio, asyncpg\n"
        "from qg import aio\n"
        "from app import by_asyncpg, by_psycopg, in_run_sync, tables\n"
        "async def main(dsn):\n"
        "    async with aio.Client(dsn) as client, asyncpg.create_pool(dsn) as pool:\n"
        "        await by_asyncpg.sign_up(pool, client, 'a')\n"
        "        await by_psycopg.sign_up(dsn, client, ['b', 'c'])\n"
        "        await in_run_sync.sign_up('d')\n"
        "        await tables.engine.dispose()\n"
        f"asyncio.run(main({url(app.dsn)!r}))\n",
    )
    assert app.query(CUSTOMERS) == [(email, False) for email in "abcd"]
    assert ids(app) == [([number],) for number in (1, 2, 3, 4)]


def test_its_typed_jobs(program: Path, app: Database) -> None:
    needs("qg.jobs").migrate(app.dsn)
    run(
        program,
        "-W",
        "error",
        "-c",
        "import asyncio\n"
        "from app import tables, typed\n"
        "async def main():\n"
        "    await typed.sign_up('a')\n"
        "    await tables.engine.dispose()\n"
        "asyncio.run(main())\n",
    )
    assert app.query(CUSTOMERS) == [("a", False)]
    assert app.query("SELECT queue, job_class FROM que_jobs") == [("typed", "app.typed.Welcome")]


def test_its_jobs_by_hand_and_its_handler(program: Path, app: Database) -> None:
    for email in "abc":
        app.query("INSERT INTO customers (email, welcomed) VALUES (%s, false)", (email,))
    with qg.Client(app.dsn) as client:
        client.enqueue_batch(qg.Job("Welcome", [number]) for number in (1, 2))
        run(
            program,
            "-W",
            "error",
            "-c",
            "import asyncio\n"
            "from qg import aio\n"
            "from app import by_hand, tables\n"
            "async def main(dsn):\n"
            "    async with aio.Client(dsn) as client:\n"
            "        await by_hand.work_all(client)\n"
            "        await tables.engine.dispose()\n"
            f"asyncio.run(main({url(app.dsn)!r}))\n",
        )
        client.enqueue(qg.Job("Welcome", [3]))
        work = "qg.Worker(qg.Client(sys.argv[1]), handlers.WORK_MAP).work_one()"
        run(program, "-W", "error", "-c", f"import sys, qg; from app import handlers; assert {work}", url(app.dsn))
    assert (app.count(), app.query(CUSTOMERS)) == (0, [(email, True) for email in "abc"])


def test_its_worker_works_until_a_signal(program: Path, app: Database) -> None:
    app.query("INSERT INTO customers (email, welcomed) VALUES ('a', false)")
    with qg.Client(app.dsn) as client:
        client.enqueue(qg.Job("Welcome", [1]))
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "app.worker"],
        cwd=program,
        env=environment(program),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as worker:
        eventually(lambda: app.count() == 0)
        worker.send_signal(signal.SIGTERM)
        assert worker.communicate(timeout=PATIENCE * 2) == ("", None)
    assert (worker.returncode, app.query(CUSTOMERS)) == (0, [("a", True)])


@pytest.mark.parametrize("module", ["in_tx", "plain"])
def test_its_other_handlers(program: Path, app: Database, module: str) -> None:
    app.query("INSERT INTO customers (email, welcomed) VALUES ('a', false)")
    with qg.Client(app.dsn) as client:
        client.enqueue(qg.Job("Welcome", [1]))
    run(
        program,
        "-W",
        "error",
        "-c",
        "import asyncio, sys\n"
        "from qg import aio\n"
        f"from app.{module} import welcome\n"
        "async def main(dsn):\n"
        "    async with aio.Client(dsn) as client, aio.WorkerPool(client, {'Welcome': welcome}, 2):\n"
        "        while await client.stats():\n"
        "            await asyncio.sleep(0.02)\n"
        f"asyncio.run(main({url(app.dsn)!r}))\n",
    )
    assert app.query(CUSTOMERS) == [("a", True)]


def test_its_web_application_that_works_jobs(program: Path, app: Database) -> None:
    app.query("INSERT INTO customers (email, welcomed) VALUES ('a', false)")
    with qg.Client(app.dsn) as client:
        client.enqueue(qg.Job("Welcome", [1]))
    with served(program, "app.both:app", PYTHONWARNINGS="error::RuntimeWarning"):
        eventually(lambda: app.count() == 0)
    assert app.query(CUSTOMERS) == [("a", True)]


def test_its_dsn_of_an_engine_is_one_for_qg(program: Path, app: Database) -> None:
    (expression,) = re.findall(r"`(engine\.url\..*)`", (DOCS / "asyncio.md").read_text(encoding="utf-8"))
    code = f"import qg; from app.tables import engine; qg.Client({expression}).stats()"
    run(program, "-W", "error", "-c", code)


def test_the_links_of_the_page_lead_somewhere() -> None:
    check_links("asyncio.md")
