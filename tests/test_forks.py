"""A handler that forks: the child ends where the handler ends, and the job stays the parent's."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from support import Database, UntilEmpty, take_plainly
from taking import all_written, events, fill, write

import qg

pytestmark = [pytest.mark.usefixtures("written"), pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]

WAYS = ["work_one", "work", "work plainly", "batches", "run_synchronously"]
each_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def nobody_escapes() -> Iterator[None]:
    """A child that leaves its handler isn't to run the other tests."""
    tester = os.getpid()
    yield
    if os.getpid() != tester:
        os._exit(99)


Work = Callable[[str, Callable[[qg.Job], object]], None]


@pytest.fixture
def work(client: qg.Client, dsn: str) -> Work:
    """A function that works one job in a way, with a handler."""

    def work(way: str, handler: Callable[[qg.Job], object]) -> None:
        work_map = {"MyJob": handler}
        if way == "run_synchronously":
            with qg.Client(dsn, run_synchronously=work_map) as at_once:
                at_once.enqueue(qg.Job("MyJob"))
            return
        client.enqueue(qg.Job("MyJob"))
        take_plainly(client, way == "work plainly")
        worker = UntilEmpty(client, work_map, batch_size=5 if way == "batches" else 1)
        if way == "work_one":
            assert worker.work_one()
        else:
            worker.work()

    return work


def give_up(status: object) -> None:
    sys.exit(status)


def fail() -> None:
    raise LookupError("no such thing")


ENDS: dict[str, tuple[Callable[[], object], int]] = {
    "returns": (lambda: None, 0),
    "exits": (lambda: give_up(7), 7),
    "exits without a status": (lambda: give_up(None), 0),
    "exits with a message": (lambda: give_up("so long"), 1),
    "raises": (fail, 1),
}
each_end = pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))


@each_way
@each_end
def test_the_child_of_a_handler_ends_there(
    work: Work,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    way: str,
    end: tuple[Callable[[], object], int],
) -> None:
    act, expected = end
    statuses = []

    def handler(job: qg.Job) -> None:
        child = os.fork()
        if child == 0:
            act()
            return
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with job.tx.cursor() as cur:
            cur.execute("INSERT INTO written VALUES (1)")

    work(way, handler)
    assert (statuses, all_written(database), database.count()) == ([expected], [1], 0)
    assert events(caplog) == []


@each_way
@each_end
def test_the_child_of_a_coroutine_ends_there_and_the_parents_event_loop_goes_on(
    work: Work, database: Database, way: str, end: tuple[Callable[[], object], int]
) -> None:
    act, expected = end
    statuses = []

    async def handler(job: qg.Job) -> None:
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            act()
            return
        # Another thread wakes the loop, by the selector that the child has a copy of.
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        await asyncio.wait_for(asyncio.to_thread(list), 5)
        statuses.append(os.waitstatus_to_exitcode(status))

    work(way, handler)
    assert (statuses, database.count()) == ([expected], 0)


def test_the_childs_traceback_goes_to_stderr(work: Work, database: Database, capfd: pytest.CaptureFixture[str]) -> None:
    def handler(job: qg.Job) -> None:
        child = os.fork()
        if child == 0:
            # pytest's own stderr is a file in memory, and a copy of it the child's.
            sys.stderr = os.fdopen(os.dup(2), "w")
            fail()
        os.waitpid(child, 0)

    work("work", handler)
    assert capfd.readouterr().err.endswith("LookupError: no such thing\n")


def test_in_the_child_the_job_has_no_connection_and_nothing_can_be_done_with_it(work: Work, database: Database) -> None:
    answers = []

    def handler(job: qg.Job) -> None:
        write(job)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, all_that_a_child_can_do(job).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            answers.append(answer.read())
        os.waitpid(child, 0)

    work("work", handler)
    assert answers == ["None None delete error expire enter"]
    assert (all_written(database), database.count()) == ([1], 0)


def all_that_a_child_can_do(job: qg.Job) -> str:
    told = [str(job.conn), str(job.tx)]
    for name, act in {
        "delete": job.delete,
        "error": lambda: job.error("no"),
        "expire": job.expire,
        "enter": job.__enter__,
    }.items():
        try:
            act()
        except qg.ErrNotLocked as error:
            if "this process was forked from the one that locked it" in str(error):
                told.append(name)
    job.done()
    return " ".join(told)


@each_end
def test_a_child_that_leaves_the_block_of_a_job_by_hand_settles_and_unlocks_nothing(
    client: qg.Client, database: Database, end: tuple[Callable[[], object], int]
) -> None:
    fill(database, 1)
    act, expected = end
    job = client.lock_job()
    with job:
        write(job)
        child = os.fork()
        if child == 0:
            status = 99
            with suppress(BaseException):
                status = leave(job, client, act)
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == expected
        assert database.locks() == [1]
        job.delete()
    assert (all_written(database), database.count()) == ([1], 0)


def leave(job: qg.Job, client: qg.Client, act: Callable[[], object]) -> int:
    """In the child: leave a block by the end of *act*, as a program would, and return the status of the program."""
    status = 0
    try:
        try:
            act()
        except BaseException as error:
            if job.__exit__(type(error), error, error.__traceback__):
                return 98
            raise
        else:
            job.__exit__(None, None, None)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except LookupError:
        status = 1
    client.close()
    return status


def test_a_verdict_in_a_child_by_hand_passes_on(client: qg.Client, database: Database) -> None:
    fill(database, 1)
    job = client.lock_job()
    with job:
        child = os.fork()
        if child == 0:
            verdict = qg.Discard("no")
            swallowed = True
            with suppress(BaseException):
                swallowed = job.__exit__(qg.Discard, verdict, None)
            os._exit(1 if swallowed else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert database.count() == 1


@each_end
@pytest.mark.parametrize("hook", ["middleware", "on_error", "on_expired"])
def test_a_child_that_a_hook_has_forked_ends_there(
    client: qg.Client, database: Database, hook: str, end: tuple[Callable[[], object], int]
) -> None:
    ending, status = end
    statuses: list[int] = []

    def fork(*given: object) -> None:
        if hook == "middleware":
            given[1]()  # type: ignore[operator]
        pid = os.fork()
        if pid == 0:
            ending()
        else:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def handler(job: qg.Job) -> None:
        if hook != "middleware":
            job.expire()
            raise LookupError

    fill(database, 1)
    hooks: dict[str, Any] = {hook: [fork] if hook == "middleware" else fork}
    UntilEmpty(client, {"MyJob": handler}, **hooks).work()
    assert statuses == [status]
    assert database.locks() == []
