"""Middleware and hooks of an aio.WorkerPool: awaited around coroutines, plain around what runs in threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from awaiting import eventually
from support import PATIENCE, VERSION, Database
from support import eventually as eventually_here
from taking import events, first_lines

import qg
from qg import aio
from qg.aio.hooks import in_threads
from qg.working.hooks import Hooks

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
EXPIRED = "run_at > now() + interval '99 years'" if VERSION == 3 else "expired_at IS NOT NULL"


async def work(client: aio.Client, work_map: Any, until: Callable[[], object], **hooks: Any) -> None:
    """Let a pool work until something is so."""
    async with aio.WorkerPool(client, work_map, 2, interval=0.02, listen=False, **hooks):
        await eventually(until)


@qg.retry(maximum_retry_count=0)
async def fail(job: aio.Job) -> None:
    raise LookupError(f"no {job.id}")


@qg.retry(maximum_retry_count=0)
def fail_in_a_thread(job: qg.Job) -> None:
    raise LookupError(f"no {job.id}")


async def do_nothing(job: aio.Job) -> None:
    pass


async def test_middleware_that_is_awaited_goes_around_coroutines(aclient: aio.Client, database: Database) -> None:
    seen: list[object] = []

    def noting(name: str) -> Any:
        async def middleware(job: aio.Job, call: Any) -> None:
            seen.append((name, type(job), job.id, WHO.get()))
            WHO.set(f"{name} {job.id}")
            await asyncio.sleep(0)
            assert await call() is None
            seen.append(f"{name} again")

        return middleware

    async def handler(job: aio.Job) -> int:
        seen.append(WHO.get())
        return 5

    for number in (1, 2):
        await aclient.enqueue(qg.Job("MyJob"))
        middleware = [noting("outer"), noting("inner")]
        await work(aclient, {"MyJob": handler}, lambda: database.count() == 0, middleware=middleware)
        assert seen == [
            ("outer", aio.Job, number, "nobody"),
            ("inner", aio.Job, number, f"outer {number}"),
            f"inner {number}",
            "inner again",
            "outer again",
        ]
        seen.clear()


async def test_plain_middleware_goes_around_plain_functions_in_their_thread(
    aclient: aio.Client, database: Database
) -> None:
    seen: list[object] = []

    def middleware(job: qg.Job, call: Any) -> None:
        seen.append((type(job), threading.get_ident()))
        call()

    async def awaited(job: aio.Job, call: Any) -> None:
        seen.append((type(job), threading.get_ident()))
        await call()

    def handler(job: qg.Job) -> None:
        seen.append(threading.get_ident())

    work_map = {"InThread": handler, "InLoop": do_nothing}
    await aclient.enqueue(qg.Job("InThread"))
    await work(aclient, work_map, lambda: database.count() == 0, middleware=[middleware, awaited])
    ((kind, thread), there) = seen
    assert (kind, thread) == (qg.Job, there)
    assert there != threading.get_ident()
    seen.clear()
    await aclient.enqueue(qg.Job("InLoop"))
    await work(aclient, work_map, lambda: database.count() == 0, middleware=[middleware, awaited])
    assert seen == [(aio.Job, threading.get_ident())]


async def forgetful(job: aio.Job, call: Any) -> None:
    pass


async def not_awaiting(job: aio.Job, call: Any) -> None:
    call().close()


async def eager(job: aio.Job, call: Any) -> None:
    await call()
    await call()


async def late(job: aio.Job, call: Any) -> None:
    await call()
    raise OSError("after all")


async def swallowing(job: aio.Job, call: Any) -> None:
    with suppress(LookupError):
        await call()


@pytest.mark.parametrize(
    ("middleware", "error"),
    [
        (forgetful, "forgetful has returned without having called call(), so the handler of 'MyJob' wasn't run"),
        (not_awaiting, "not_awaiting has returned without having called call()"),
        (eager, "eager has called call() twice"),
        (late, "OSError: after all"),
    ],
)
async def test_what_a_middleware_does_wrong_is_the_jobs_error(
    aclient: aio.Client, database: Database, middleware: Any, error: str
) -> None:
    ran: list[object] = []

    async def handler(job: aio.Job) -> None:
        ran.append(job.id)

    await aclient.enqueue(qg.Job("MyJob"))
    await work(aclient, {"MyJob": handler}, lambda: first_lines(database)[0][1] == 1, middleware=[middleware])
    assert error in first_lines(database)[0][2]
    assert len(ran) == (0 if middleware in (forgetful, not_awaiting) else 1)


async def test_what_a_middleware_swallows_is_a_success(aclient: aio.Client, database: Database) -> None:
    await aclient.enqueue(qg.Job("MyJob"))
    await work(aclient, {"MyJob": fail}, lambda: database.count() == 0, middleware=[swallowing])


async def test_a_pool_that_is_cancelled_cancels_middleware_too_and_blames_nobody(
    aclient: aio.Client, database: Database
) -> None:
    seen: list[str] = []
    told: list[object] = []

    async def middleware(job: aio.Job, call: Any) -> None:
        try:
            await call()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def handler(job: aio.Job) -> None:
        seen.append("handler")
        await asyncio.sleep(60)

    await aclient.enqueue(qg.Job("MyJob"))
    pool = aio.WorkerPool(
        aclient,
        {"MyJob": handler},
        2,
        interval=0.02,
        middleware=[middleware],
        on_error=lambda *given: told.append(given),
    )
    async with pool:
        await eventually(lambda: seen)
        assert not await pool.shutdown(0)
    assert seen == ["handler", "cancelled"]
    assert first_lines(database) == [(1, 0, None)]
    assert told == []


@pytest.mark.parametrize("handler", [fail, fail_in_a_thread])
@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_what_failed_is_told_in_a_thread_or_in_the_loop(
    aclient: aio.Client, database: Database, handler: Any, kind: str
) -> None:
    told: list[tuple[object, ...]] = []
    loop = threading.get_ident()

    def note(*given: object) -> None:
        job, *rest = given
        told.append((type(job), *map(str, rest), threading.get_ident() == loop))
        assert database.value(f"SELECT count(*) FROM que_jobs WHERE {EXPIRED}") == 1  # committed

    async def note_later(*given: object) -> None:
        await asyncio.sleep(0)
        note(*given)

    hook = note if kind == "plain" else note_later
    await aclient.enqueue(qg.Job("MyJob"))
    await work(aclient, {"MyJob": handler}, lambda: len(told) == 2, on_error=hook, on_expired=hook)
    here, job = kind == "awaited", aio.Job if kind == "awaited" else qg.Job
    assert told == [(job, "no 1", "False", here), (job, here)]


async def test_a_hook_that_raises_is_logged_and_the_pool_goes_on(
    aclient: aio.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*given: object) -> None:
        raise OSError("hook")

    for _ in range(2):
        await aclient.enqueue(qg.Job("MyJob"))
    await work(
        aclient,
        {"MyJob": fail},
        lambda: len(events(caplog, "hook_failed")) == 4,
        on_error=broken,
        on_expired=broken,
    )
    assert [count for _, count, _ in first_lines(database)] == [1, 1]


async def test_a_hook_may_shut_the_pool_down(aclient: aio.Client, database: Database) -> None:
    ended: list[bool] = []

    async def on_error(job: aio.Job, error: BaseException, will_retry: bool) -> None:
        ended.append(await pool.shutdown())

    await aclient.enqueue(qg.Job("MyJob"))
    pool = aio.WorkerPool(aclient, {"MyJob": fail}, 2, interval=0.02, listen=False, on_error=on_error)
    await asyncio.wait_for(pool.run(), 20)
    assert ended == [False]


def test_a_thread_waits_for_no_hook_whose_loop_is_closed() -> None:
    async def on_error(*given: object) -> None:
        pass

    loop = asyncio.new_event_loop()
    hooks = in_threads(Hooks(on_error=on_error), aio.Job, loop)
    assert hooks.on_error is not None
    call = partial(hooks.on_error, qg.Job("MyJob"), LookupError(), True)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(call)
        eventually_here(lambda: loop._ready)  # type: ignore[attr-defined]
        loop.close()
        with pytest.raises(RuntimeError, match="the event loop was closed before it had ended"):
            waiting.result(PATIENCE)
    with pytest.raises(RuntimeError, match="closed"):
        call()


async def plain_middleware_is_missing(job: aio.Job, call: Any) -> None:
    await call()


def awaited_middleware_is_missing(job: qg.Job, call: Any) -> None:
    call()


@pytest.mark.parametrize(
    ("middleware", "handler", "message"),
    [
        (plain_middleware_is_missing, fail_in_a_thread, "the handler of 'MyJob' is a plain function, and all"),
        (awaited_middleware_is_missing, fail, "the handler of 'MyJob' is an async def, and all middleware is plain"),
    ],
)
async def test_middleware_that_would_pass_a_handler_by_is_refused(
    aclient: aio.Client, middleware: Any, handler: Any, message: str
) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=message):
        aio.WorkerPool(aclient, {"MyJob": handler}, 1, middleware=[middleware])
    pool = aio.WorkerPool(aclient, {}, 1, middleware=[middleware])
    pool.work_map = {"MyJob": handler}
    with pytest.raises(qg.ErrInvalidOption, match=message):
        await pool.run()


async def test_what_can_not_be_a_hook_is_refused(aclient: aio.Client) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=r"on_error do_nothing must take \(job, error, will_retry\)"):
        aio.WorkerPool(aclient, {}, 1, on_error=do_nothing)
