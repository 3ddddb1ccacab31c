"""Each name that the package has from Go's arrower, and what it promises, in the order of the port map."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from insides import pending, workers
from support import PATIENCE, VERSION, Database, eventually

import qg
from qg import jobs


@dataclass(frozen=True)
class Greet:
    user: int = 0


@dataclass(frozen=True)
class Named:
    @classmethod
    def job_type(cls) -> str:
        return "user.named"


MakeQueue = Callable[..., jobs.PostgresJobs]

# The keys of an object as the table orders them: jsonb has an order of its own.
as_stored = list if VERSION == 3 else sorted


def run(queue: jobs.PostgresJobs | jobs.MemoryQueue, payload: Any = Greet(7)) -> jobs.Context:  # noqa: B008 - frozen
    """Work *payload* and return the context that its function got."""
    seen: list[jobs.Context] = []

    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(ctx)

    queue.register_job_func(greet)
    queue.enqueue(payload)
    queue.start()
    eventually(lambda: seen)
    return seen[0]


def test_every_public_name_has_a_test_by_its_name():
    here = Path(__file__).read_text(encoding="utf-8")
    for name in jobs.__all__:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=X)(?=Payload)", "_", name).lower()
        assert f"\ndef test_{words}(" in here, f"test_{words}"


def test_postgres_jobs(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    run(queue)
    eventually(lambda: jobs_database.count() == 0)
    assert isinstance(queue, jobs.Queue)


def test_postgres_jobs_handler():
    assert jobs.PostgresJobsHandler is jobs.PostgresJobs


def test_with_queue(make_queue: MakeQueue, jobs_database: Database):
    assert run(make_queue(queue="mail")).queue == "mail"


def test_with_poll_interval(make_queue: MakeQueue):
    queue = make_queue(poll_interval=3600.0)
    queue.register_job_func(greet_nobody)
    due = pending(queue)["start"]
    assert workers() == []
    assert due > 0
    queue.start()
    eventually(workers)


def greet_nobody(ctx: jobs.Context, job: Greet) -> None: ...


def test_with_pool_size(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue(pool_size=3)
    together = threading.Barrier(3)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        together.wait(PATIENCE)

    queue.enqueue([Greet(), Greet(), Greet()])
    queue.start()
    eventually(lambda: jobs_database.count() == 0)


def test_with_pool_name(make_queue: MakeQueue, jobs_database: Database):
    run(make_queue(pool_name="crew"))
    eventually(lambda: jobs_database.query("SELECT id FROM qg_jobs_worker_pool") == [("crew",)])


def test_poll_strategy(make_queue: MakeQueue, jobs_database: Database):
    seen: list[int] = []
    queue = make_queue(poll_strategy=jobs.PollStrategy.RUN_AT, pool_size=1)

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(job.user)

    long_ago = datetime.now(timezone.utc) - timedelta(days=1)
    queue.enqueue(Greet(2), priority=-9)
    queue.enqueue(Greet(1), priority=9, run_at=long_ago)
    queue.start()
    eventually(lambda: seen == [1, 2])
    assert [each.name for each in jobs.PollStrategy] == ["PRIORITY", "RUN_AT"]


def test_err_invalid_queue_opt(jobs_database: Database):
    for option in ({"queue": 3}, {"poll_interval": -1}, {"pool_size": 0}, {"pool_name": ""}, {"poll_strategy": "x"}):
        with pytest.raises(jobs.ErrInvalidQueueOpt) as caught:
            jobs.PostgresJobs(jobs_database.dsn, **option)
        assert isinstance(caught.value, qg.ErrInvalidOption)
        assert next(iter(option)).removeprefix("poll_") in str(caught.value)


def test_with_priority(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    queue.enqueue(Greet())
    queue.enqueue(Greet(), priority=-7)
    assert jobs_database.query("SELECT priority FROM jobs ORDER BY job_id") == [(0,), (-7,)]


def test_with_run_at(make_queue: MakeQueue, jobs_database: Database):
    at = datetime(2040, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=9)))
    make_queue().enqueue(Greet(), run_at=at)
    assert jobs_database.query("SELECT run_at FROM que_jobs") == [(at,)]


def test_err_invalid_job_opt(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    bad: list[dict[str, Any]] = [{"priority": 2**15}, {"priority": "1"}, {"run_at": datetime(2040, 1, 1)}, {"tx": 3}]
    for option in bad:
        with pytest.raises(jobs.ErrInvalidJobOpt) as caught:
            queue.enqueue(Greet(), **option)
        assert isinstance(caught.value, jobs.ErrEnqueueFailed)
    assert jobs_database.count() == 0


def test_enqueue(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    assert queue.enqueue(Greet(1)) == [1]
    assert queue.enqueue((Greet(2), Named())) == [2, 3]
    assert [row[1] for row in jobs_database.jobs()] == ["test_port_map.Greet", "test_port_map.Greet", "user.named"]


def test_err_enqueue_failed(make_queue: MakeQueue):
    queue = make_queue()
    queue.shutdown()
    with pytest.raises(jobs.ErrEnqueueFailed, match="was shut down") as caught:
        queue.enqueue(Greet())
    assert isinstance(caught.value, qg.QgError)


def test_err_invalid_job_type(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    for job in (None, "text", b"", 1, len, {}, Greet, [], [Greet(), 1]):
        with pytest.raises(jobs.ErrInvalidJobType) as caught:
            queue.enqueue(job)  # type: ignore[arg-type]
        assert isinstance(caught.value, jobs.ErrEnqueueFailed)
    assert jobs_database.count() == 0


def test_register_job_func(make_queue: MakeQueue):
    assert make_queue().register_job_func(greet_nobody) is greet_nobody


def test_err_register_job_func_failed(make_queue: MakeQueue):
    queue = make_queue()
    queue.shutdown()
    with pytest.raises(jobs.ErrRegisterJobFuncFailed, match="was shut down"):
        queue.register_job_func(greet_nobody)


def test_err_invalid_job_func(make_queue: MakeQueue):
    queue = make_queue()
    queue.register_job_func(greet_nobody)
    for fn in (None, len, lambda: None, lambda ctx, job: None, greet_nobody):
        with pytest.raises(jobs.ErrInvalidJobFunc) as caught:
            queue.register_job_func(fn)  # type: ignore[type-var,arg-type]
        assert isinstance(caught.value, jobs.ErrRegisterJobFuncFailed)


def test_schedule(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    queue.schedule("@every 1s", Greet(3))
    eventually(lambda: jobs_database.count() > 0)
    assert jobs_database.value("SELECT payload #>> '{jobData,user}' FROM jobs LIMIT 1") == "3"


def test_err_schedule_failed(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    bad: list[tuple[Any, Any]] = [("@every 1ms", Greet()), ("0 0 30 2 *", Greet()), (3, Greet()), ("@daily", [Greet()])]
    for spec, job in bad:
        with pytest.raises(jobs.ErrScheduleFailed):
            queue.schedule(spec, job)
    assert jobs_database.value("SELECT count(*) FROM qg_jobs_schedule") == 0


def test_shutdown(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    running, go_on = threading.Event(), threading.Event()

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        running.set()
        assert go_on.wait(PATIENCE)

    queue.enqueue(Greet())
    queue.start()
    assert running.wait(PATIENCE)
    assert not queue.shutdown(0.01)
    go_on.set()
    assert queue.shutdown(PATIENCE)
    assert jobs_database.count() == 0


def test_err_start_failed(make_queue: MakeQueue):
    queue = make_queue()
    queue.shutdown()
    with pytest.raises(jobs.ErrStartFailed):
        queue.start()


def test_context(make_queue: MakeQueue, jobs_database: Database):
    with jobs.user("u-1"):
        ctx = run(make_queue(queue="mail"))
    assert (ctx.job_id, ctx.queue, ctx.run_count, ctx.user_id) == ("1", "mail", 0, "u-1")
    assert ctx.tx is None, "the job is over"


def test_context_tx_is_the_jobs_transaction(make_queue: MakeQueue, jobs_database: Database):
    seen: list[object] = []
    queue = make_queue()

    def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.extend([ctx.tx, ctx.tx])

    queue.register_job_func(greet)
    queue.enqueue(Greet(7))
    queue.start()
    first, second = eventually(lambda: seen)
    assert isinstance(first, psycopg2.extensions.connection)
    assert first is second


def test_from_context(make_queue: MakeQueue, jobs_database: Database):
    seen: list[str | None] = []
    queue = make_queue()

    @queue.register_job_func
    async def greet(ctx: jobs.Context, job: Greet) -> None:
        seen.append(jobs.from_context())

    (number,) = queue.enqueue(Greet())
    queue.start()
    eventually(lambda: seen == [str(number)])
    assert jobs.from_context() is None


def test_ctx_job_id():
    token = jobs.CTX_JOB_ID.set("17")
    assert jobs.from_context() == "17"
    jobs.CTX_JOB_ID.reset(token)


def test_transaction(make_queue: MakeQueue, jobs_database: Database):
    queue = make_queue()
    with closing(jobs_database.connect()) as conn:
        with jobs.transaction(conn):
            queue.enqueue(Greet())
        assert jobs_database.count() == 0
        conn.commit()
        assert jobs_database.count() == 1


def test_user(make_queue: MakeQueue, jobs_database: Database):
    with jobs.user("u-1"):
        make_queue().enqueue(Greet())
    assert jobs_database.value("SELECT payload #>> '{ctx,userId}' FROM jobs") == "u-1"


def test_job_type(make_queue: MakeQueue, jobs_database: Database):
    make_queue().enqueue(Named())
    assert jobs_database.value("SELECT job_class FROM que_jobs") == "user.named"


def test_persistence_payload(make_queue: MakeQueue, jobs_database: Database):
    make_queue().enqueue(Greet(7))
    stored = json.loads(jobs_database.value("SELECT payload::text FROM jobs"))
    assert as_stored(stored) == as_stored(["jobData", "jobStructPath", "gitHashEnqueued", "gitHashProcessed", "ctx"])
    read = jobs.PersistencePayload.read(stored)
    assert (read.job_data, read.job_struct_path, read.git_hash_processed) == ({"user": 7}, "test_port_map.Greet", "")


def test_persistence_ctx_payload(make_queue: MakeQueue, jobs_database: Database):
    make_queue().enqueue(Greet(7))
    ctx = jobs_database.value("SELECT payload -> 'ctx' FROM jobs")
    assert as_stored(ctx) == as_stored(["userId", "carrier"])
    assert jobs.PersistencePayload.read({"jobData": {}, "ctx": ctx}).ctx == jobs.PersistenceCTXPayload("", {})


def test_memory_queue():
    with jobs.MemoryQueue() as queue:
        assert run(queue).tx is None


def test_noop_queue():
    with jobs.NoopQueue() as queue:
        assert queue.enqueue(Greet()) == []


def test_test_queue():
    with jobs.TestQueue() as queue:
        queue.enqueue([Greet(1), Named(), Greet(2)])
        assert queue.jobs() == [Greet(1), Named(), Greet(2)]
        assert (queue.get(2), queue.get(4), queue.get_first()) == (Named(), None, Greet(1))
        assert (queue.get_of(Greet(), 2), queue.get_first_of(Named())) == (Greet(2), Named())


def test_test_assertions():
    failures: list[str] = []
    queue = jobs.TestQueue(on_failure=failures.append)
    assert isinstance(queue, jobs.TestAssertions)
    assert queue.empty()
    queue.enqueue(Greet())
    assert queue.not_empty()
    assert queue.total(1)
    assert queue.contains(Greet())
    assert queue.not_contains(Named())
    assert failures == []
    assert not queue.empty("after all")
    assert failures == ["after all: the queue isn't empty, it has 1 jobs"]


@pytest.mark.parametrize("kind", [jobs.MemoryQueue, jobs.NoopQueue, jobs.TestQueue])
def test_enqueuer(kind: Callable[[], jobs.Enqueuer]):
    assert isinstance(kind(), jobs.Enqueuer)


@pytest.mark.parametrize("kind", [jobs.MemoryQueue, jobs.NoopQueue, jobs.TestQueue])
def test_scheduler(kind: Callable[[], jobs.Scheduler]):
    assert isinstance(kind(), jobs.Scheduler)


@pytest.mark.parametrize("kind", [jobs.MemoryQueue, jobs.NoopQueue, jobs.TestQueue])
def test_queue(kind: Callable[[], jobs.Queue]):
    assert isinstance(kind(), jobs.Queue)


def test_err_job_func_failed(make_queue: MakeQueue, jobs_database: Database, caplog: pytest.LogCaptureFixture):
    queue = make_queue()

    @queue.register_job_func
    def greet(ctx: jobs.Context, job: Greet) -> None:
        raise KeyError("nobody")

    queue.enqueue(Greet())
    queue.start()
    eventually(lambda: "job_failed" in caplog.text)
    (error,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert isinstance(error, jobs.ErrJobFuncFailed)
    assert isinstance(error.__cause__, KeyError)


def test_err_other_context():
    block = jobs.transaction(object())
    copy_context().run(lambda: block.__enter__())
    with pytest.raises(jobs.ErrOtherContext, match="is left in another context") as caught:
        block.__exit__(None, None, None)
    assert isinstance(caught.value, qg.QgError)


def test_migrate(make_database: Callable[..., str]):
    dsn = make_database()
    jobs.migrate(dsn)
    assert jobs.PostgresJobs(dsn).shutdown()


def test_prune_history(make_queue: MakeQueue, jobs_database: Database):
    run(make_queue())
    eventually(lambda: jobs_database.count() == 0)
    assert jobs.prune_history(jobs_database.dsn, keep=0) == 1


def test_prune_ticks(jobs_database: Database):
    assert jobs.prune_ticks(jobs_database.dsn, older_than=timedelta(days=1)) == 0


def test_job_func():
    fn: jobs.JobFunc[Greet] = greet_nobody
    assert fn is greet_nobody


def test_payload():
    payload: jobs.Payload = Greet()
    assert payload == Greet()
