"""What surrounds a job: the context of its JobFunc, the blocks user() and transaction(), and the logger."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from support import PATIENCE, eventually

from qg import ErrInvalidOption, jobs
from qg.jobs.context import JobLogger, current_tx, current_user


@dataclass(frozen=True)
class Greet:
    user_id: int


@dataclass(frozen=True)
class Hundred:
    @staticmethod
    def job_type() -> str:
        return "100%s of %d"


@contextmanager
def working(fn: Callable[..., Any], **options: Any) -> Iterator[jobs.MemoryQueue]:
    """A queue that runs *fn*."""
    with jobs.MemoryQueue(pool_size=1, **options) as queue:
        queue.register_job_func(fn)
        queue.start()
        yield queue


def test_outside_of_a_job_there_is_no_id() -> None:
    assert jobs.from_context() is None
    assert jobs.CTX_JOB_ID.get() is None


def test_a_job_func_gets_its_context() -> None:
    seen: list[jobs.Context] = []

    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(ctx)
        if ctx.run_count < 2:
            raise ValueError("not yet")

    with working(greet, queue="mail", backoff=lambda count: 0.0) as queue:
        with jobs.user("ada"):
            (job_id,) = queue.enqueue(Greet(7))
        eventually(lambda: len(seen) == 3)
    assert [ctx.run_count for ctx in seen] == [0, 1, 2]
    for ctx in seen:
        assert (ctx.job_id, ctx.queue, ctx.tx, ctx.user_id) == (str(job_id), "mail", None, "ada")


def test_a_job_that_nobody_enqueued_has_no_user() -> None:
    seen: list[str | None] = []

    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(ctx.user_id)

    with working(greet) as queue:
        queue.enqueue(Greet(7))
        eventually(lambda: seen)
    assert seen == [None]


@pytest.mark.parametrize("user_id", ["", None, 7, b"ada"])
def test_a_user_must_be_a_string_that_names_somebody(user_id: Any) -> None:
    with pytest.raises(ErrInvalidOption, match="user id must be a non-empty string"), jobs.user(user_id):
        pass
    assert current_user.get() is None


def test_the_context_is_read_only() -> None:
    fields = [field.name for field in dataclasses.fields(jobs.Context) if not field.name.startswith("_")]
    assert fields == ["job_id", "queue", "run_count", "user_id", "logger"]
    ctx = jobs.Context("1", "", 0, None, None, logging.getLogger("qg"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        ctx.run_count = 7  # type: ignore[misc]
    with pytest.raises(AttributeError):
        ctx.tx = None  # type: ignore[misc]


def below() -> str | None:
    return jobs.from_context()


async def far_below() -> str | None:
    await asyncio.sleep(0)
    return jobs.from_context()


def test_the_id_is_known_anywhere_below_the_job_func() -> None:
    seen: list[str | None] = []

    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.extend([jobs.from_context(), below(), jobs.CTX_JOB_ID.get()])

    with working(greet) as queue:
        (job_id,) = queue.enqueue(Greet(7))
        eventually(lambda: seen)
        assert jobs.from_context() is None
    assert seen == [str(job_id)] * 3


def test_the_id_is_known_in_coroutines_and_their_tasks() -> None:
    seen: list[str | None] = []

    async def greet(ctx: jobs.Context, job: Greet) -> None:
        one = await far_below()
        two, three = await asyncio.gather(far_below(), asyncio.create_task(far_below()))
        seen.extend([jobs.from_context(), one, two, three, await asyncio.to_thread(below)])

    with working(greet) as queue:
        (job_id,) = queue.enqueue(Greet(7))
        eventually(lambda: seen)
    assert seen == [str(job_id)] * 5


def test_jobs_that_run_at_the_same_time_have_their_own_context() -> None:
    seen: dict[int, tuple[Any, ...]] = {}
    together = threading.Barrier(2, timeout=PATIENCE)

    def greet(ctx: jobs.Context, job: Greet) -> None:
        together.wait()
        seen[job.user_id] = (jobs.from_context(), ctx.job_id, ctx.user_id, current_user.get())

    with jobs.MemoryQueue(pool_size=2) as queue:
        queue.register_job_func(greet)
        queue.start()
        ids = []
        for number, name in ((1, "ada"), (2, "bob")):
            with jobs.user(name):
                ids += queue.enqueue(Greet(number))
        eventually(lambda: len(seen) == 2)
    assert seen == {1: (str(ids[0]), str(ids[0]), "ada", "ada"), 2: (str(ids[1]), str(ids[1]), "bob", "bob")}


def test_a_worker_forgets_a_job_before_the_next() -> None:
    seen: list[tuple[str | None, str | None, object]] = []

    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append((jobs.from_context(), current_user.get(), current_tx.get()))
        current_user.set("mallory")
        current_tx.set("a transaction")
        jobs.CTX_JOB_ID.set("none of yours")

    with working(greet) as queue:
        with jobs.user("ada"):
            ids = queue.enqueue(Greet(1))
        ids += queue.enqueue(Greet(2))
        eventually(lambda: len(seen) == 2)
    assert seen == [(str(ids[0]), "ada", None), (str(ids[1]), None, None)]


TENANT: ContextVar[str | None] = ContextVar("tenant", default=None)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_context_variable_that_a_job_sets_ends_with_the_job(asynchronous: bool) -> None:
    seen: list[str | None] = []

    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(TENANT.get())
        TENANT.set("acme")

    async def greet_later(ctx: jobs.Context, job: Greet) -> None:
        greet(ctx, job)

    with working(greet_later if asynchronous else greet) as queue:
        queue.enqueue([Greet(1), Greet(2)])
        eventually(lambda: len(seen) == 2)
    assert seen == [None, None]


def test_what_a_job_enqueues_is_on_behalf_of_its_user() -> None:
    seen: list[tuple[int, str | None]] = []
    with jobs.MemoryQueue(pool_size=1) as queue:

        @queue.register_job_func
        def greet(ctx: jobs.Context, job: Greet) -> None:
            seen.append((job.user_id, ctx.user_id))
            if job.user_id < 3:
                queue.enqueue(Greet(job.user_id + 1))

        queue.start()
        with jobs.user("ada"):
            queue.enqueue(Greet(1))
        eventually(lambda: len(seen) == 3)
    assert seen == [(1, "ada"), (2, "ada"), (3, "ada")]


BLOCKS = pytest.mark.parametrize(
    ("block", "current"),
    [(jobs.user, current_user.get), (jobs.transaction, current_tx.get)],
    ids=["user", "transaction"],
)
Block = Callable[[str], AbstractContextManager[None]]
Current = Callable[[], object]


@BLOCKS
def test_a_block_holds_until_its_end_and_can_be_nested(block: Block, current: Current) -> None:
    assert current() is None
    with block("one"):
        assert current() == "one"
        with block("two"):
            assert current() == "two"
        assert current() == "one"
    assert current() is None


@BLOCKS
def test_a_block_ends_with_an_exception_too_which_passes(block: Block, current: Current) -> None:
    with block("one"):
        with pytest.raises(LookupError, match="lost"), block("two"):
            raise LookupError("lost")
        assert current() == "one"
    assert current() is None


@BLOCKS
def test_a_block_is_its_threads_own(block: Block, current: Current) -> None:
    def inside(name: str) -> list[object]:
        found = [current()]
        with block(name):
            together.wait(PATIENCE)
            found.append(current())
            together.wait(PATIENCE)
        return [*found, current()]

    together = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(inside, name) for name in ("one", "two")]
        assert [each.result() for each in results] == [[None, "one", None], [None, "two", None]]
    assert current() is None


@BLOCKS
def test_a_block_is_its_coroutines_own(block: Block, current: Current) -> None:
    async def inside(name: str) -> list[object]:
        found = [current()]
        with block(name):
            for _ in range(3):
                await asyncio.sleep(0)
                found.append(current())
        return [*found, current()]

    async def both() -> list[list[object]]:
        with block("around"):
            return await asyncio.gather(inside("one"), inside("two"))

    assert asyncio.run(both()) == [
        ["around", "one", "one", "one", "around"],
        ["around", "two", "two", "two", "around"],
    ]
    assert current() is None


def test_a_transaction_belongs_to_no_memory_queue() -> None:
    queue = jobs.TestQueue()
    with jobs.transaction(object()):
        queue.enqueue(Greet(1))
    queue.enqueue(Greet(2), tx=object())
    assert queue.jobs() == [Greet(1), Greet(2)]


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, logger="test_context")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "test_context"]


LOGGER = logging.getLogger("test_context")

LINES: list[tuple[tuple[Any, ...], str]] = [
    (("plain",), "plain"),
    (("100% sure",), "100% sure"),
    (("with %d of %s", 3, "four"), "with 3 of four"),
    (("100%% of %s", "it"), "100% of it"),
    (("%(name)s", {"name": "ada"}), "ada"),
    ((ValueError("an exception"),), "an exception"),
    (("",), ""),
]


@pytest.mark.parametrize("job_type", ["shop.Greet", "100%s of %d", "50%", "%%", "%(name)s"])
@pytest.mark.parametrize(("line", "text"), LINES, ids=[repr(line[0]) for line in LINES])
def test_the_logger_adds_the_jobs_id_and_type_to_the_text(
    records: Callable[[], list[str]], job_type: str, line: tuple[Any, ...], text: str
) -> None:
    logger = JobLogger(LOGGER, {"job_id": 7, "job_type": job_type})
    logger.info(*line)
    logger.log(logging.WARNING, *line)
    assert records() == [f"{text} job_id=7 job_type={job_type}"] * 2


def test_the_loggers_job_type_cant_end_the_line(caplog: pytest.LogCaptureFixture) -> None:
    JobLogger(LOGGER, {"job_id": 7, "job_type": "a\nb\x1b\u2028"}).warning("greeting %s", "you")
    assert caplog.records[0].getMessage() == r"greeting you job_id=7 job_type=a\nb\x1b\u2028"


def test_the_logger_adds_the_jobs_id_and_type_to_the_record(caplog: pytest.LogCaptureFixture) -> None:
    logger = JobLogger(LOGGER, {"job_id": 7, "job_type": "shop.Greet"})
    given = {"tenant": "acme"}
    logger.warning("one", extra=given)
    logger.warning("two")
    one, two = (record for record in caplog.records if record.name == "test_context")
    assert (one.job_id, one.job_type, one.tenant) == (7, "shop.Greet", "acme")  # type: ignore[attr-defined]
    assert (two.job_id, two.job_type) == (7, "shop.Greet")  # type: ignore[attr-defined]
    assert not hasattr(two, "tenant")
    assert given == {"tenant": "acme"}
    assert one.funcName == two.funcName == "test_the_logger_adds_the_jobs_id_and_type_to_the_record"


def test_the_logger_keeps_levels_and_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="test_context")
    logger = JobLogger(LOGGER, {"job_id": 7, "job_type": "shop.Greet"})
    logger.info("too low")
    try:
        raise LookupError("lost")
    except LookupError:
        logger.exception("failed")
    (record,) = (record for record in caplog.records if record.name == "test_context")
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "failed job_id=7 job_type=shop.Greet")
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
    assert logger.isEnabledFor(logging.WARNING)
    assert not logger.isEnabledFor(logging.INFO)


def test_the_logger_goes_around_another_adapter(records: Callable[[], list[str]]) -> None:
    class Prefixed(logging.LoggerAdapter):  # type: ignore[type-arg]
        def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
            return f"acme: {msg}", kwargs

    logger = JobLogger(Prefixed(LOGGER, {}), {"job_id": 7, "job_type": "shop.Greet"})
    logger.info("one of %d", 2)
    assert records() == ["acme: one of 2 job_id=7 job_type=shop.Greet"]


def test_a_job_func_logs_with_its_queues_logger_and_its_own_id_and_type(records: Callable[[], list[str]]) -> None:
    done = threading.Event()

    def hundred(ctx: jobs.Context, job: Hundred) -> None:
        ctx.logger.info("begun")
        ctx.logger.info("did %d", 2)
        done.set()

    with working(hundred, logger=LOGGER) as queue:
        (job_id,) = queue.enqueue(Hundred())
        assert done.wait(PATIENCE)
    suffix = f"job_id={job_id} job_type=100%s of %d"
    assert [line for line in records() if suffix in line] == [f"begun {suffix}", f"did 2 {suffix}"]
