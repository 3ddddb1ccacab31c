"""Blocks of transaction() and user() that are entered in one context and meant for another: nothing is lost by them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from support import Database, eventually, free_port, needs

from qg import jobs
from qg.jobs import blocks
from qg.jobs.context import current_tx, current_user

REMEDY = "give tx= to enqueue(), or enter the block in an async def"


@dataclass(frozen=True)
class Greet:
    user_id: int = 0


# FastAPI, on a real server


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve *app* under the URL; at the end all requests have ended, and what comes after their responses too."""
    uvicorn = needs("uvicorn")
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


def post(url: str) -> int:
    """The status of the response."""
    try:
        with urllib.request.urlopen(url, data=b"") as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture
def users(jobs_database: Database) -> Iterator[Database]:
    jobs_database.query("CREATE TABLE users (id int)")
    yield jobs_database
    jobs_database.query("DROP TABLE users")


def errors(caplog: pytest.LogCaptureFixture) -> list[type[BaseException]]:
    return [record.exc_info[0] for record in caplog.records if record.exc_info and record.exc_info[0]]


@contextmanager
def own_block(database: Database, *, block: bool = True) -> Iterator[Any]:
    """A program's own way to a transaction, which enqueue() is told of."""
    with closing(database.connect()) as conn, conn, ExitStack() as stack:
        if block:
            stack.enter_context(jobs.transaction(conn))
        with conn.cursor() as cur:
            cur.execute("INSERT INTO users VALUES (1)")
        yield conn


@pytest.mark.parametrize("dependency", ["sync", "sync around a helper", "async"])
@pytest.mark.parametrize("endpoint", ["sync", "async"])
def test_a_dependency_of_fastapi_and_its_endpoint_have_one_transaction_or_nothing(
    make_queue: Any, users: Database, caplog: pytest.LogCaptureFixture, dependency: str, endpoint: str
) -> None:
    fastapi = needs("fastapi")
    queue = make_queue()

    def sync_dependency() -> Iterator[Any]:
        with closing(users.connect()) as conn, conn, conn.cursor() as cur:
            cur.execute("INSERT INTO users VALUES (1)")
            with jobs.transaction(conn):
                yield

    def dependency_around_a_helper() -> Iterator[Any]:
        with own_block(users):
            yield

    async def async_dependency() -> AsyncIterator[Any]:
        with own_block(users):
            yield

    def sync_endpoint() -> None:
        queue.enqueue(Greet())

    async def async_endpoint() -> None:
        queue.enqueue(Greet())

    depends = fastapi.Depends(
        {"sync": sync_dependency, "async": async_dependency}.get(dependency, dependency_around_a_helper)
    )
    app = fastapi.FastAPI()
    app.post("/", dependencies=[depends])(sync_endpoint if endpoint == "sync" else async_endpoint)
    with serving(app) as url:
        status = post(url)
    stored = (users.value("SELECT count(*) FROM users"), users.count())
    if dependency == "async":
        assert (status, stored, errors(caplog)) == (200, (1, 1), [])
    else:
        assert (status, stored, errors(caplog)) == (500, (0, 0), [jobs.ErrOtherContext])
        assert REMEDY in caplog.text


@pytest.mark.parametrize("endpoint", ["sync", "async"])
def test_a_sync_dependency_that_gives_its_transaction_to_enqueue_works(
    make_queue: Any, users: Database, endpoint: str
) -> None:
    fastapi = needs("fastapi")
    queue = make_queue()

    def dependency() -> Iterator[Any]:
        with own_block(users, block=False) as conn:
            yield conn

    def sync_endpoint(conn: Any = fastapi.Depends(dependency)) -> None:  # noqa: B008 - FastAPI's way
        queue.enqueue(Greet(), tx=conn)

    async def async_endpoint(conn: Any = fastapi.Depends(dependency)) -> None:  # noqa: B008
        queue.enqueue(Greet(), tx=conn)

    app = fastapi.FastAPI()
    # FastAPI looks names up in the module, where these aren't.
    for each in (sync_endpoint, async_endpoint):
        each.__annotations__.clear()
    app.post("/")(sync_endpoint if endpoint == "sync" else async_endpoint)
    with serving(app) as url:
        assert post(url) == 200
    assert (users.value("SELECT count(*) FROM users"), users.count()) == (1, 1)


# Any pool of threads

Block = Callable[[], AbstractContextManager[None]]
BLOCKS: list[Any] = [
    pytest.param(lambda: jobs.transaction("tx"), current_tx, id="transaction"),
    pytest.param(lambda: jobs.user("ada"), current_user, id="user"),
]
each_block = pytest.mark.parametrize(("block", "variable"), BLOCKS)


class OwnBlock:
    def __init__(self, block: AbstractContextManager[None]) -> None:
        self._block = block

    def __enter__(self) -> None:
        self._block.__enter__()


@contextmanager
def generator_around(block: AbstractContextManager[None]) -> Iterator[None]:
    with block:
        yield


ENTERING: dict[str, Callable[[AbstractContextManager[None]], Callable[[], object]]] = {
    "itself": lambda block: block.__enter__,
    "a generator around it": lambda block: generator_around(block).__enter__,
    "two of them": lambda block: generator_around(generator_around(block)).__enter__,
    "a class around it": lambda block: OwnBlock(block).__enter__,
    "a stack": lambda block: partial(ExitStack().enter_context, block),
}


async def in_starlettes_pool(function: Callable[..., object], *arguments: object) -> None:
    await needs("starlette.concurrency").run_in_threadpool(function, *arguments)


async def in_asyncios_pool(function: Callable[..., object], *arguments: object) -> None:
    await asyncio.to_thread(function, *arguments)


async def in_a_thread(function: Callable[..., object], *arguments: object) -> None:
    failed: list[BaseException] = []

    class Thread(threading.Thread):
        def run(self) -> None:
            try:
                super().run()
            except jobs.ErrOtherContext as error:
                failed.append(error)

    thread = Thread(target=function, args=arguments)
    thread.start()
    thread.join()
    if failed:
        raise failed.pop()


each_pool = pytest.mark.parametrize("in_pool", [in_starlettes_pool, in_asyncios_pool, in_a_thread])


@each_block
@each_pool
@pytest.mark.parametrize("entering", ENTERING.values(), ids=list(ENTERING))
def test_a_block_cant_be_entered_by_a_thread_that_gives_its_context_up(
    block: Block, variable: Any, in_pool: Any, entering: Any
) -> None:
    with pytest.raises(jobs.ErrOtherContext, match="throws its context away at once") as caught:
        asyncio.run(in_pool(entering(block())))
    assert REMEDY in str(caught.value)


@each_block
@each_pool
@pytest.mark.parametrize("way", ["itself", "a generator", "a decorator", "a stack"])
def test_a_block_that_begins_and_ends_in_such_a_thread_holds_there(
    block: Block, variable: Any, in_pool: Any, way: str
) -> None:
    seen: list[object] = []

    def see() -> None:
        seen.append(variable.get())

    def see_in_a_stack() -> None:
        with ExitStack() as stack:
            stack.enter_context(block())
            see()

    def see_in(around: AbstractContextManager[None]) -> None:
        with around:
            see()

    whole = {
        "itself": lambda: see_in(block()),
        "a generator": lambda: see_in(generator_around(block())),
        "a decorator": generator_around(block())(see),
        "a stack": see_in_a_stack,
    }
    asyncio.run(in_pool(whole[way]))
    assert seen == ["tx" if variable is current_tx else "ada"]


@each_block
def test_what_an_async_def_says_is_heard_in_the_threads_that_it_has_things_done_in(block: Block, variable: Any) -> None:
    seen: list[object] = []

    async def endpoint() -> None:
        with block():
            for in_pool in (in_starlettes_pool, in_asyncios_pool):
                await in_pool(lambda: seen.append(variable.get()))

    asyncio.run(endpoint())
    assert len(set(seen)) == 1
    assert None not in seen


@each_block
def test_a_block_that_is_left_in_another_context_says_so(block: Block, variable: Any) -> None:
    entered = block()
    contextvars.copy_context().run(lambda: entered.__enter__())
    with pytest.raises(jobs.ErrOtherContext, match="is left in another context than it was entered in") as caught:
        entered.__exit__(None, None, None)
    assert REMEDY in str(caught.value)
    assert caught.value.__suppress_context__


@each_block
def test_an_exception_that_leaves_it_there_passes(block: Block, variable: Any) -> None:
    entered = block()
    contextvars.copy_context().run(lambda: entered.__enter__())
    error = LookupError("nobody")
    with pytest.raises(LookupError, match="nobody"):
        assert not entered.__exit__(LookupError, error, None)
        raise error


def test_a_generator_that_nobody_runs_to_its_end_complains_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    def stream() -> Iterator[int]:
        with jobs.transaction("tx"):
            yield 1

    rows = stream()
    contextvars.copy_context().run(next, rows)
    del rows
    gc.collect()
    assert not recwarn.list  # pytest warns of what __del__ raises
    assert not blocks._in_generators


# A generator that is resumed in another context, as that of a streaming response is


@pytest.mark.parametrize("kind", ["transaction", "user"])
def test_a_generator_enqueues_nothing_in_another_context_than_its_blocks(kind: str) -> None:
    queue = jobs.TestQueue()
    stored = []

    @contextmanager
    def around() -> Iterator[None]:
        with jobs.transaction("tx") if kind == "transaction" else jobs.user("ada"):
            yield

    def stream() -> Iterator[int]:
        with around():
            for number in range(3):
                stored.append(queue.enqueue(Greet(number)))
                yield number

    rows = stream()
    assert asyncio.run(next_in_pool(rows)) == 0
    with pytest.raises(jobs.ErrEnqueueFailed, match=r"from which stream\(\) was resumed") as caught:
        asyncio.run(next_in_pool(rows))
    assert isinstance(caught.value.__cause__, jobs.ErrOtherContext)
    assert REMEDY in str(caught.value)
    assert queue.jobs() == [Greet(0)]
    assert not blocks._in_generators


async def next_in_pool(rows: Iterator[int]) -> int:
    return await asyncio.to_thread(next, rows)


def test_a_generator_may_say_in_which_transaction_it_enqueues() -> None:
    queue = jobs.TestQueue()

    def stream() -> Iterator[int]:
        with suppress_other_context(), jobs.transaction("tx"):
            for number in range(3):
                queue.enqueue(Greet(number), tx="tx")
                yield number

    rows = stream()
    assert [asyncio.run(next_in_pool(rows)) for _ in range(3)] == [0, 1, 2]
    assert list(rows) == []
    assert queue.jobs() == [Greet(0), Greet(1), Greet(2)]


@contextmanager
def suppress_other_context() -> Iterator[None]:
    try:
        yield
    except jobs.ErrOtherContext:
        logging.getLogger("test").info("left elsewhere")


def test_a_generator_that_ends_its_block_before_it_yields_may_be_resumed_anywhere() -> None:
    queue = jobs.TestQueue()

    def stream() -> Iterator[int]:
        for number in range(3):
            with jobs.transaction("tx"):
                queue.enqueue(Greet(number))
            yield number

    rows = stream()
    assert [asyncio.run(next_in_pool(rows)) for _ in range(3)] == [0, 1, 2]


def test_others_may_enqueue_while_a_generator_has_a_block_open() -> None:
    queue = jobs.TestQueue()
    with generator_around(jobs.transaction("tx")):
        contextvars.Context().run(queue.enqueue, Greet(1))
        assert queue.jobs() == [Greet(1)]
