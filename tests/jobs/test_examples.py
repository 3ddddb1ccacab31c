"""The example works: the web application enqueues, the worker script works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, PAYLOAD, VERSION, Database, eventually, needs

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(
    make_database: Callable[..., str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    dsn = make_database(migrate=VERSION > 3)  # a table of version 3 it makes by itself
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.syspath_prepend(EXAMPLES)
    for _ in range(2):
        subprocess.run([sys.executable, EXAMPLES / "tables.py"], check=True)
    with closing(Database(dsn)) as example:
        yield example


@pytest.fixture
def web(example: Database) -> Iterator[Any]:
    needs("flask")
    import web

    app = web.create_app()
    yield app.test_client()
    # The application never ends; what it holds does with its process, or here with its garbage.
    del app
    for name in ("web", "tasks"):
        sys.modules.pop(name, None)


@pytest.fixture
def worker(example: Database) -> Iterator[subprocess.Popen[str]]:
    worker = subprocess.Popen(
        [sys.executable, EXAMPLES / "worker.py"], env=dict(os.environ), stderr=subprocess.PIPE, text=True
    )
    yield worker
    worker.kill()
    worker.communicate()


def test_a_user_who_signs_up_is_greeted_by_the_worker(web: Any, worker: subprocess.Popen[str], example: Database):
    assert web.post("/users", data={"name": "Ada"}).json == {"id": 1}
    eventually(lambda: web.get("/users").json == [{"id": 1, "name": "Ada", "greeted": True}])
    assert example.query("SELECT job_type, success FROM qg_jobs_history") == [("tasks.GreetUser", True)]
    worker.send_signal(signal.SIGTERM)
    _, log = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    assert "hello user=1 job_id=1 job_type=tasks.GreetUser" in log
    assert example.query("SELECT workers FROM qg_jobs_worker_pool") == [(0,)]


def test_a_request_that_fails_leaves_neither_user_nor_job(web: Any, example: Database):
    assert web.post("/users", data={"name": " "}).status_code == 400
    assert web.post("/users", data={"name": "Ada"}).status_code == 201
    assert web.post("/users", data={"name": "Ada"}).status_code == 409
    assert example.query("SELECT name FROM users") == [("Ada",)]
    assert example.query(f"SELECT {PAYLOAD} -> 'jobData' FROM que_jobs") == [({"user_id": 2},)]


def test_the_worker_has_its_schedule_and_counts_the_users(worker: subprocess.Popen[str], example: Database):
    eventually(lambda: example.query("SELECT spec FROM qg_jobs_schedule") == [("@every 1m",)])
    eventually(lambda: example.query("SELECT workers FROM qg_jobs_worker_pool") == [(2,)])
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
