"""Middleware around jobs, and what is called after those that failed or were given up, in every way of working."""

from __future__ import annotations

import contextvars
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg2
import pytest
from support import PATIENCE, Database, Network, UntilEmpty, eventually
from taking import do_nothing, each_way, events, fail, first_lines, left, work, write

import qg

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class Told:
    """Hooks that note what they are told."""

    def __init__(self) -> None:
        self.errors: list[tuple[Any, ...]] = []
        self.expired: list[int] = []

    def on_error(self, job: qg.Job, error: BaseException, will_retry: bool) -> None:
        self.errors.append((job.id, type(error).__name__, str(error), will_retry))

    def on_expired(self, job: qg.Job) -> None:
        self.expired.append(job.id or 0)

    @property
    def hooks(self) -> dict[str, Any]:
        return {"on_error": self.on_error, "on_expired": self.on_expired}


# Middleware


@each_way
def test_the_first_middleware_is_the_outermost_and_all_go_around_each_job(
    client: qg.Client, database: Database, way: str
) -> None:
    seen: list[tuple[object, ...]] = []

    def noting(name: str) -> Callable[..., None]:
        def middleware(job: qg.Job, call: Callable[[], None]) -> object:
            seen.append((name, job.id))
            assert call() is None
            seen.append((f"{name} again", job.id))
            return "what nobody looks at"

        return middleware

    def handler(job: qg.Job) -> str:
        seen.append(("handler", job.id))
        return "nor at this"

    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    work(client, way, handler, middleware=[noting("outer"), noting("inner")])
    names = ["outer", "inner", "handler", "inner again", "outer again"]
    assert seen == [(name, number) for number in (1, 2) for name in names]
    assert database.count() == 0


@each_way
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_what_a_middleware_sets_is_seen_by_the_handler_and_by_no_later_job(
    client: qg.Client, way: str, kind: str
) -> None:
    seen: list[str] = []

    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        seen.append(WHO.get())
        WHO.set(f"job {job.id}")
        call()

    def plain(job: qg.Job) -> None:
        seen.append(WHO.get())

    async def coroutine(job: qg.Job) -> None:
        seen.append(WHO.get())

    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    work(client, way, plain if kind == "plain" else coroutine, middleware=[middleware])
    assert seen == ["nobody", "job 1", "nobody", "job 2"]
    assert WHO.get() == "nobody"


@each_way
def test_a_middleware_sees_what_the_handler_raises_and_may_raise_something_else(
    client: qg.Client, database: Database, way: str
) -> None:
    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        try:
            call()
        except LookupError as error:
            raise OSError("translated") from error

    client.enqueue(qg.Job("MyJob"))
    work(client, way, fail, middleware=[middleware])
    assert first_lines(database) == [(1, 1, "OSError: translated")]


@each_way
def test_what_a_middleware_swallows_is_a_success(client: qg.Client, database: Database, way: str) -> None:
    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        with suppress(LookupError):
            call()

    told = Told()
    client.enqueue(qg.Job("MyJob"))
    work(client, way, fail, middleware=[middleware], **told.hooks)
    assert left(database) == []
    assert told.errors == []


@each_way
def test_what_a_middleware_raises_after_the_handler_undoes_what_that_wrote(
    client: qg.Client, database: Database, written: None, way: str
) -> None:
    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        call()
        raise OSError("after all")

    client.enqueue(qg.Job("MyJob"))
    work(client, way, write, middleware=[middleware])
    assert first_lines(database) == [(1, 1, "OSError: after all")]
    assert database.query("SELECT * FROM written") == []


@each_way
def test_a_middleware_that_calls_nothing_is_an_error_that_says_so(
    client: qg.Client, database: Database, way: str
) -> None:
    def forgetful(job: qg.Job, call: Callable[[], None]) -> None:
        pass

    ran: list[object] = []
    told = Told()
    client.enqueue(qg.Job("MyJob"))
    work(client, way, ran.append, middleware=[forgetful], **told.hooks)
    ((_, count, line),) = first_lines(database)
    assert (count, ran) == (1, [])
    assert "ErrMiddleware: middleware test_a_middleware_that_calls_nothing" in line
    assert line.endswith(
        "forgetful has returned without having called call(), so the handler of 'MyJob' wasn't run; "
        "call it, or raise qg.Discard to drop the job, or qg.Reschedule to run it later"
    )
    assert [error for _, error, *_ in told.errors] == ["ErrMiddleware"]


@each_way
@pytest.mark.parametrize("swallows", [False, True])
def test_a_middleware_may_call_once_only(client: qg.Client, database: Database, way: str, swallows: bool) -> None:
    def eager(job: qg.Job, call: Callable[[], None]) -> None:
        call()
        try:
            call()
        except qg.ErrMiddleware:
            if not swallows:
                raise

    ran: list[object] = []
    client.enqueue(qg.Job("MyJob"))
    work(client, way, lambda job: ran.append(job.id), middleware=[eager])
    assert ran == [1]  # a second run is refused, whatever becomes of the error
    if swallows:
        assert left(database) == []
    else:
        ((_, count, line),) = first_lines(database)
        assert count == 1
        assert "eager has called call() twice for a job of type 'MyJob'" in line


@each_way
def test_a_middleware_may_drop_a_job_or_put_it_off(client: qg.Client, database: Database, way: str) -> None:
    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        raise qg.Discard("not today") if job.args else qg.Reschedule(after=60)

    ran: list[object] = []
    told = Told()
    client.enqueue_batch([qg.Job("MyJob", [1]), qg.Job("MyJob")])
    work(client, way, ran.append, middleware=[middleware], **told.hooks)
    assert first_lines(database) == [(2, 0, None)]
    assert (ran, told.errors, told.expired) == ([], [], [])


def test_a_job_without_a_handler_meets_no_middleware_but_its_error_is_told(client: qg.Client) -> None:
    met: list[object] = []
    told = Told()
    client.enqueue(qg.Job("Other"))
    work(client, "work", do_nothing, middleware=[lambda job, call: met.append(job)], **told.hooks)
    assert met == []
    assert told.errors == [(1, "PlainFailure", 'unknown job type: "Other"', True)]


def test_a_middleware_may_use_the_jobs_transaction(client: qg.Client, database: Database, written: None) -> None:
    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        write(job)
        call()

    for way in ("work", "batches", "hands"):
        client.enqueue(qg.Job("MyJob"))
        work(client, way, do_nothing, middleware=[middleware])
    assert database.query("SELECT count(*) FROM written") == [(3,)]
    assert left(database) == []


# on_error and on_expired


@each_way
def test_a_failure_is_told_when_it_is_committed(client: qg.Client, database: Database, way: str) -> None:
    seen: list[object] = []

    def on_error(job: qg.Job, error: BaseException, will_retry: bool) -> None:
        seen.append((job.id, type(error), will_retry, job.error_count, (job.last_error or "").split("\n")[0], job.tx))
        seen.append(first_lines(database))  # from another session

    client.enqueue(qg.Job("MyJob"))
    work(client, way, fail, on_error=on_error)
    assert seen == [(1, LookupError, True, 1, "LookupError: no 1", None), [(1, 1, "LookupError: no 1")]]


@each_way
def test_a_success_is_told_to_nobody(client: qg.Client, database: Database, way: str) -> None:
    told = Told()
    client.enqueue(qg.Job("MyJob"))
    work(client, way, do_nothing, **told.hooks)
    assert left(database) == []
    assert (told.errors, told.expired) == ([], [])


@each_way
def test_what_a_policy_gives_up_is_told_as_an_error_and_as_expired(
    client: qg.Client, database: Database, way: str
) -> None:
    told = Told()
    client.enqueue(qg.Job("MyJob"))
    work(client, way, qg.retry(maximum_retry_count=1, backoff=lambda errors: 0)(functools.partial(fail)), **told.hooks)
    assert told.errors == [(1, "LookupError", "no 1", True), (1, "LookupError", "no 1", False)]
    assert told.expired == [1]


def test_what_the_clients_limit_gives_up_is_told_too(dsn: str, database: Database) -> None:
    told = Told()
    with qg.Client(dsn, maximum_retry_count=0) as client:
        client.enqueue(qg.Job("MyJob"))
        work(client, "work", fail, **told.hooks)
    assert (told.errors, told.expired) == ([(1, "LookupError", "no 1", False)], [1])


def record_an_error(job: qg.Job) -> None:
    job.error("out of paper\nand more")


def give_up(job: qg.Job) -> None:
    job.expire()


def give_up_and_fail(job: qg.Job) -> None:
    job.expire()
    raise LookupError("as well")


def fail_and_reschedule(job: qg.Job) -> None:
    job.error("once")
    raise qg.Reschedule(after=60)


@each_way
@pytest.mark.parametrize(
    ("handler", "errors", "expired"),
    [
        (record_an_error, [(1, "PlainFailure", "out of paper", True)], []),
        (give_up, [], [1]),
        (give_up_and_fail, [(1, "LookupError", "as well", False)], [1]),
        (fail_and_reschedule, [], []),
    ],
)
def test_what_a_handler_says_itself_is_told(
    client: qg.Client, way: str, handler: Any, errors: list[Any], expired: list[int]
) -> None:
    told = Told()
    client.enqueue(qg.Job("MyJob"))
    work(client, way, handler, **told.hooks)
    assert (told.errors, told.expired) == (errors, expired)


@each_way
@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_hook_that_raises_is_logged_and_costs_no_job_and_no_connection(
    client: qg.Client, database: Database, way: str, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    pids: list[int] = []

    def handler(job: qg.Job) -> None:
        pids.append(job.conn.info.backend_pid)
        raise LookupError

    def broken(*given: object) -> None:
        raise error("hook")

    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    work(client, way, qg.retry(maximum_retry_count=0)(handler), on_error=broken, on_expired=broken)
    assert [count for _, count, _ in first_lines(database)] == [1, 1]
    lines = [
        f"hook_failed hook={hook} id={number} type=MyJob" for number in (1, 2) for hook in ("on_error", "on_expired")
    ]
    assert events(caplog, "hook_failed") == lines
    assert all(record.exc_info for record in caplog.records if record.message.startswith("hook_failed"))
    assert len(set(pids)) == 1


@each_way
def test_a_hook_may_enqueue_and_bring_the_job_back(client: qg.Client, database: Database, way: str) -> None:
    def on_expired(job: qg.Job) -> None:
        client.enqueue(qg.Job("Report", [job.id], queue="reports"))

    client.enqueue(qg.Job("MyJob"))
    work(client, way, qg.retry(give_up_on=LookupError)(functools.partial(fail)), on_expired=on_expired)
    assert database.query("SELECT args FROM que_jobs WHERE queue = 'reports'") == [([1],)]


@each_way
def test_an_attempt_that_could_not_be_recorded_is_told_to_nobody(
    client: qg.Client, database: Database, way: str
) -> None:
    told = Told()

    def handler(job: qg.Job) -> None:
        database.query("DELETE FROM que_jobs")
        raise LookupError

    client.enqueue(qg.Job("MyJob"))
    work(client, way, handler, **told.hooks)
    assert (told.errors, told.expired) == ([], [])


@each_way
def test_an_error_that_is_recorded_on_a_new_session_is_told(client: qg.Client, database: Database, way: str) -> None:
    told = Told()

    def handler(job: qg.Job) -> None:
        database.terminate(job.conn.info.backend_pid)
        raise LookupError("lost")

    client.enqueue(qg.Job("MyJob"))
    work(client, way, handler, **told.hooks)
    assert told.errors == [(1, "LookupError", "lost", True)]


class UntilItSleeps(UntilEmpty):
    """Notes how many failures had been told when the worker was about to sleep."""

    def __init__(self, told: list[Any], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._told = told
        self.told_by_then = -1

    def stop(self) -> None:
        self.told_by_then = len(self._told)
        super().stop()


@pytest.fixture
def undeletable(database: Database) -> Iterator[None]:
    """Jobs can't be deleted."""
    database.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;"
        "CREATE TRIGGER refuse BEFORE DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    yield
    database.query("DROP TRIGGER refuse ON que_jobs; DROP FUNCTION refuse")


@pytest.mark.parametrize("way", ["batches", "hands"])
def test_a_job_that_could_not_be_deleted_with_others_is_told(client: qg.Client, undeletable: None, way: str) -> None:
    told = Told()
    held: list[str] = []

    def on_error(job: qg.Job, error: BaseException, will_retry: bool) -> None:
        told.on_error(job, error, will_retry)
        thread = threading.Thread(target=lambda: held.append(str(job.last_error)))  # nobody holds the job any more
        thread.start()
        thread.join(PATIENCE)

    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    options = {"batch_size": 5} if way == "batches" else {"hands": 1}
    worker = UntilItSleeps(told.errors, client, {"MyJob": do_nothing}, on_error=on_error, **options)
    worker.work()
    text = "not this one\nCONTEXT:  PL/pgSQL function refuse() line 1 at RAISE\n"
    assert sorted(told.errors) == [(number, "RaiseException", text, True) for number in (1, 2)]
    assert len(held) == 2
    assert worker.told_by_then == 2


def test_what_could_not_be_deleted_when_the_worker_ended_is_told(client: qg.Client, undeletable: None) -> None:
    told = Told()
    client.enqueue(qg.Job("MyJob"))
    worker = UntilEmpty(client, {"MyJob": lambda job: worker.stop()}, batch_size=5, **told.hooks)
    worker.work()
    assert [error for _, error, *_ in told.errors] == ["RaiseException"]


def test_the_worker_may_be_shut_down_by_a_hook(client: qg.Client, database: Database) -> None:
    workers: list[qg.Worker] = []
    client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
    worker = qg.Worker(client, {"MyJob": fail}, on_error=lambda job, error, will_retry: workers[0].shutdown())
    workers.append(worker)
    worker.work()
    assert [count for _, count, _ in first_lines(database)] == [1, 0]


def test_ctrl_c_in_a_hook_of_a_worker_in_the_main_thread_ends_it(client: qg.Client, database: Database) -> None:
    def on_error(job: qg.Job, error: BaseException, will_retry: bool) -> None:
        raise KeyboardInterrupt

    client.enqueue(qg.Job("MyJob"))
    with pytest.raises(KeyboardInterrupt):
        qg.Worker(client, {"MyJob": fail}, on_error=on_error).work()
    assert [count for _, count, _ in first_lines(database)] == [1]
    assert eventually(lambda: database.locks() == [])


@pytest.mark.parametrize("connections", [None, 1])
def test_a_pool_has_hooks(client: qg.Client, database: Database, connections: int | None) -> None:
    told = Told()
    names: list[str] = []

    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        names.append(threading.current_thread().name)
        call()

    client.enqueue(qg.Job("MyJob"))
    handler = qg.retry(maximum_retry_count=0)(functools.partial(fail))
    with qg.WorkerPool(
        client, {"MyJob": handler}, 2, interval=0.02, connections=connections, middleware=(middleware,), **told.hooks
    ):
        eventually(lambda: told.expired)
    assert (told.errors, told.expired) == ([(1, "LookupError", "no 1", False)], [1])
    assert [name.rpartition("-")[0] for name in names] == ["qg-worker-"]


# run_synchronously


def test_jobs_that_run_synchronously_have_middleware_and_hooks(dsn: str, database: Database) -> None:
    told = Told()
    seen: list[str] = []

    def middleware(job: qg.Job, call: Callable[[], None]) -> None:
        token = WHO.set("middleware")
        call()
        WHO.reset(token)

    handlers: dict[str, Any] = {
        "Note": lambda job: seen.append(WHO.get()),
        "Fail": fail,
        "GiveUp": qg.retry(give_up_on=LookupError)(functools.partial(fail)),
        "Error": record_an_error,
        "Expire": give_up,
        "Discard": lambda job: (_ for _ in ()).throw(qg.Discard),
    }
    with qg.Client(dsn, run_synchronously=handlers, middleware=[middleware], **told.hooks) as client:
        with psycopg2.connect(dsn) as conn:
            client.enqueue(qg.Job("Note"))
            client.enqueue_in_tx(qg.Job("Note"), conn)
            for kind in ("Fail", "GiveUp"):
                with pytest.raises(LookupError):
                    client.enqueue(qg.Job(kind))
                with pytest.raises(LookupError):
                    client.enqueue_in_tx(qg.Job(kind), conn)
            client.enqueue(qg.Job("Error"))
            client.enqueue(qg.Job("Expire"))
            client.enqueue(qg.Job("Discard"))
        conn.close()
    assert seen == ["middleware"] * 2
    assert [(error, will_retry) for _, error, _, will_retry in told.errors] == [
        *[("LookupError", True), ("LookupError", True)],
        *[("LookupError", False), ("LookupError", False)],
        ("PlainFailure", True),
    ]
    assert len(told.expired) == 3
    assert database.count() == 0


def test_hooks_of_a_client_that_runs_nothing_are_refused(dsn: str) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="are for run_synchronously; give them to the Worker or"):
        qg.Client(dsn, on_expired=print)


# What is refused


async def coroutine(*given: object) -> None:
    pass


class Coroutine:
    async def __call__(self, *given: object) -> None:
        pass


def generator(*given: object) -> Any:
    yield


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"middleware": do_nothing}, "middleware must be a list of functions"),
        ({"middleware": "close"}, "middleware must be a list of functions"),
        ({"middleware": ["close"]}, r"middleware must be a function \(job, call\), not 'close'"),
        ({"middleware": [do_nothing]}, r"middleware do_nothing must take \(job, call\): too many"),
        ({"middleware": [coroutine]}, "middleware coroutine is an async def, and nobody would await it; write a plain"),
        ({"middleware": [Coroutine()]}, "is an async def"),
        ({"middleware": [functools.partial(coroutine)]}, "is an async def"),
        ({"middleware": [generator]}, "middleware generator is a generator, which nobody would run"),
        ({"on_error": 5}, r"on_error must be a function \(job, error, will_retry\), not 5"),
        ({"on_error": do_nothing}, r"on_error do_nothing must take \(job, error, will_retry\)"),
        ({"on_error": coroutine}, "on_error coroutine is an async def"),
        ({"on_expired": lambda: None}, r"on_expired .*lambda.* must take \(job\)"),
        ({"on_expired": coroutine}, "on_expired coroutine is an async def"),
    ],
)
def test_what_can_not_be_a_hook_is_refused(client: qg.Client, hooks: dict[str, Any], message: str) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=message):
        qg.Worker(client, {}, **hooks)
    with pytest.raises(qg.ErrInvalidOption, match=message):
        qg.WorkerPool(client, {}, 1, **hooks)
    with pytest.raises(qg.ErrInvalidOption, match=message):
        qg.Client(client, run_synchronously={}, **hooks)


# What it costs


def test_hooks_send_no_message(network: Network, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="qg")
    sent: list[int] = []
    for hooks in ({}, {"middleware": [lambda job, call: call()], **Told().hooks}):
        with qg.Client(network.dsn) as client:
            client.enqueue_batch([qg.Job("MyJob") for _ in range(5)])
            worker = UntilEmpty(client, {"MyJob": do_nothing}, **hooks)
            network.statements.clear()
            worker.work()
            sent.append(len(network.statements))
    assert sent[0] == sent[1]
