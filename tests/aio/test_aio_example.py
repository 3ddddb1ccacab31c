"""The example works: a FastAPI application that enqueues in its requests' transactions, served by uvicorn."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from serving import served, url
from support import VERSION, Database, eventually, needs

EXAMPLES = Path(__file__).parents[2] / "examples"

needs("fastapi")
needs("asyncpg")
needs("qg.jobs")


@pytest.fixture
def example(make_database: Callable[..., str], database: Database) -> Iterator[Database]:
    dsn = make_database(migrate=VERSION > 3)  # a table of version 3 it makes by itself
    subprocess.run([sys.executable, EXAMPLES / "tables.py"], env={"DATABASE_URL": dsn}, check=True)
    with closing(Database(dsn)) as example:
        yield example


@pytest.fixture(params=["asyncio", "uvloop"])
def web(example: Database, request: pytest.FixtureRequest) -> Iterator[Any]:
    needs(request.param)
    options = ("--factory", "--loop", request.param)
    with served(EXAMPLES, "asyncio_app:create_app", *options, DATABASE_URL=url(example.dsn), WORKERS="0") as web:
        yield web


def test_a_user_and_the_job_are_one_commit(web: Any, example: Database) -> None:
    answer = web.post("/users", json={"name": "Ada"})
    assert (answer.status_code, answer.json()) == (201, {"id": 1})
    assert web.post("/users", json={"name": " "}).status_code == 400
    assert web.post("/users", json={"name": "Ada"}).status_code == 409
    assert web.get("/users").json() == [{"id": 1, "name": "Ada", "greeted": False}]
    assert web.get("/queues").json() == {"greetings": 1}
    assert example.query("SELECT job_class, args FROM que_jobs") == [("GreetUser", [1])]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_its_workers_greet_users_while_it_serves(example: Database, loop: str) -> None:
    needs(loop)
    options = ("--factory", "--loop", loop)
    with served(EXAMPLES, "asyncio_app:create_app", *options, DATABASE_URL=url(example.dsn)) as web:
        for name in ("Ada", "Grace"):
            assert web.post("/users", json={"name": name}).status_code == 201
        eventually(lambda: [user["greeted"] for user in web.get("/users").json()] == [True, True])
        eventually(lambda: web.get("/queues").json() == {})


def test_many_requests_at_once_take_few_connections_and_all_are_given_back(web: Any, example: Database) -> None:
    httpx = needs("httpx")

    async def sign_up() -> None:
        async with httpx.AsyncClient(base_url=web.base_url, timeout=60) as client:
            answers = await asyncio.gather(*(client.post("/users", json={"name": str(n)}) for n in range(60)))
            assert {answer.status_code for answer in answers} == {201}

    asyncio.run(sign_up())
    assert web.get("/queues").json() == {"greetings": 60}
    # SQLAlchemy's pool keeps 5, and the client one that made it and /queues.
    eventually(lambda: len(example.sessions()) <= 6)
