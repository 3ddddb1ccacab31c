"""What mypy --strict says of code that uses qg.jobs, and which queue is what at run time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import needs

import qg
from qg import jobs

# A line with "# refused" is to have an error, and no other is.
CODE = """
from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import assert_type

import qg
from qg import jobs


@dataclass(frozen=True)
class Dataclass:
    user_id: int

@dataclass
class WithJobType:
    user_id: int
    @classmethod
    def job_type(cls) -> str:
        return "typed"

class Named(NamedTuple):
    user_id: int

class TwoNamed(NamedTuple):
    user_id: int
    at: datetime

class Struct(msgspec.Struct, frozen=True):
    user_id: int

@attrs.define
class Attrs:
    user_id: int

@attrs.frozen
class FrozenAttrs:
    user_id: int

class Model(pydantic.BaseModel):
    user_id: int

@pydantic_dataclass
class ModelDataclass:
    user_id: int


queue = jobs.MemoryQueue()
ctx: jobs.Context

# Good handlers.

@queue.register_job_func
def on_dataclass(ctx: jobs.Context, job: Dataclass) -> None: ...
@queue.register_job_func
def on_named(ctx: jobs.Context, job: Named) -> None: ...
@queue.register_job_func
def on_two_named(ctx: jobs.Context, job: TwoNamed) -> None: ...
@queue.register_job_func
def on_struct(ctx: jobs.Context, job: Struct) -> int: return 7
@queue.register_job_func
async def on_attrs(ctx: jobs.Context, job: Attrs) -> str: return ""
@queue.register_job_func
def on_frozen_attrs(ctx: jobs.Context, job: FrozenAttrs) -> None: ...
@queue.register_job_func
def on_model(ctx: jobs.Context, job: Model) -> None: ...
@queue.register_job_func
def on_model_dataclass(ctx: jobs.Context, job: ModelDataclass) -> None: ...

class Handler:
    def __call__(self, ctx: jobs.Context, job: Dataclass) -> None: ...
    def method(self, ctx: jobs.Context, job: Struct) -> bool: return True

queue.register_job_func(Handler())
queue.register_job_func(Handler().method)

def with_default(ctx: jobs.Context, job: Dataclass, more: int = 3) -> None: ...
queue.register_job_func(with_default)

func: jobs.JobFunc[Dataclass] = on_dataclass

# A decorated function keeps its type.

assert_type(on_dataclass(ctx, Dataclass(7)), None)
assert_type(on_struct(ctx, Struct(7)), int)
assert_type(queue.register_job_func(Handler().method)(ctx, Struct(7)), bool)
@queue.register_job_func(retry=qg.retry(maximum_retry_count=5, give_up_on=(ValueError, KeyError)))
@qg.retry(backoff=qg.backoff.exponential(factor=2), give_up_on=ValueError)
def on_retried(ctx: jobs.Context, job: Struct) -> int: return 7
assert_type(on_retried(ctx, Struct(7)), int)
queue.register_job_func(on_struct, retry=5)  # refused
qg.retry(maximum_retry_count="5")  # refused
qg.retry(on_struct)  # refused
kept: Callable[[jobs.Context, Attrs], Coroutine[Any, Any, str]] = on_attrs
on_struct(ctx, Dataclass(7))  # refused
on_struct(ctx)  # refused
text: str = on_struct(ctx, Struct(7))  # refused

# Bad handlers.

@queue.register_job_func  # refused
def on_str(ctx: jobs.Context, job: str) -> None: ...
@queue.register_job_func  # refused
def on_int(ctx: jobs.Context, job: int) -> None: ...
@queue.register_job_func  # refused
def on_dict(ctx: jobs.Context, job: dict[str, int]) -> None: ...
@queue.register_job_func  # refused
def on_list(ctx: jobs.Context, job: list[Dataclass]) -> None: ...
@queue.register_job_func  # refused
def on_tuple(ctx: jobs.Context, job: tuple[int, int]) -> None: ...
@queue.register_job_func  # refused
def on_optional(ctx: jobs.Context, job: Dataclass | None) -> None: ...
@queue.register_job_func  # refused
def on_class(ctx: jobs.Context, job: type[Dataclass]) -> None: ...
@queue.register_job_func  # refused
def on_context_only(ctx: jobs.Context) -> None: ...
@queue.register_job_func  # refused
def on_payload_only(job: Dataclass) -> None: ...
@queue.register_job_func  # refused
def on_three(ctx: jobs.Context, job: Dataclass, more: int) -> None: ...
@queue.register_job_func  # refused
def on_other_context(ctx: int, job: Dataclass) -> None: ...
queue.register_job_func(None)  # refused
queue.register_job_func(7)  # refused

# Payloads.

assert_type(queue.enqueue(Dataclass(7)), list[int])
queue.enqueue(WithJobType(7))
queue.enqueue(Named(7))
queue.enqueue(TwoNamed(7, datetime.now()))
queue.enqueue(Struct(7))
queue.enqueue(Attrs(7))
queue.enqueue(FrozenAttrs(7))
queue.enqueue(Model(user_id=7))
queue.enqueue(ModelDataclass(7))
queue.enqueue([Dataclass(7), Named(8), Struct(9), Attrs(10), Model(user_id=11), ModelDataclass(12)])
queue.enqueue((Dataclass(7), Named(8)))
many = [Dataclass(7)]
queue.enqueue(many, priority=-5, run_at=datetime.now(), tx=object())
queue.schedule("@daily", Dataclass(7))
queue.schedule("@daily", Named(7))

queue.enqueue("text")  # refused
queue.enqueue(b"bytes")  # refused
queue.enqueue(3)  # refused
queue.enqueue(None)  # refused
queue.enqueue({"user_id": 7})  # refused
queue.enqueue(object())  # refused
queue.enqueue(Dataclass)  # refused
queue.enqueue(Named)  # refused
queue.enqueue(Struct)  # refused
queue.enqueue(Attrs)  # refused
queue.enqueue(Model)  # refused
queue.enqueue([7])  # refused
queue.enqueue(["text"])  # refused
queue.enqueue([Dataclass(7), 8])  # refused
queue.enqueue([[Dataclass(7)]])  # refused
queue.enqueue({Dataclass(7)})  # refused
queue.enqueue(each for each in many)  # refused
queue.enqueue(Dataclass(7), -5)  # refused
queue.enqueue(Dataclass(7), priority="high")  # refused
queue.enqueue(Dataclass(7), run_at="2030-01-01")  # refused
queue.schedule("@daily", "text")  # refused
queue.schedule("@daily", [Dataclass(7)])  # refused
queue.schedule(5, Dataclass(7))  # refused

# Protocols.

def takes_all(one: jobs.Queue, two: jobs.Enqueuer, three: jobs.Scheduler) -> None: ...
def test(postgres: jobs.PostgresJobs, memory: jobs.MemoryQueue, test: jobs.TestQueue, noop: jobs.NoopQueue) -> None:
    takes_all(postgres, postgres, postgres)
    takes_all(memory, memory, memory)
    takes_all(test, test, test)
    takes_all(noop, noop, noop)

def only_enqueues(enqueuer: jobs.Enqueuer, scheduler: jobs.Scheduler, queue: jobs.Queue) -> None:
    takes_all(queue, queue, queue)
    enqueuer.enqueue(Named(7))
    scheduler.schedule("@daily", Struct(7))
    assert_type(queue.register_job_func(on_struct)(ctx, Struct(7)), int)
    enqueuer.schedule("@daily", Struct(7))  # refused
    scheduler.enqueue(Named(7))  # refused
    takes_all(enqueuer, enqueuer, scheduler)  # refused
    takes_all(queue, scheduler, scheduler)  # refused
    takes_all(object(), enqueuer, scheduler)  # refused
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """From the number of a line of CODE to what mypy says of it."""
    needs("mypy")
    where = tmp_path_factory.mktemp("typing")
    (where / "code.py").write_text(CODE)
    root = Path(qg.__file__).parents[1]
    path = {"MYPYPATH": str(root)} if (root / "pyproject.toml").exists() else {}
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--cache-dir=cache",
            "--hide-error-context",
            "code.py",
        ],
        cwd=where,
        capture_output=True,
        text=True,
        env={**os.environ, **path},
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    assert "import-not-found" not in ran.stdout
    found: dict[int, str] = {}
    for line in ran.stdout.splitlines():
        if match := re.match(r"(.*?):(\d+): error: (.*)", line):
            assert match[1] == "code.py", line
            found[int(match[2])] = f"{found.get(int(match[2]), '')}{match[3]}\n"
    return found


LINES = [
    pytest.param(number, line, id=line.strip()) for number, line in enumerate(CODE.splitlines(), 1) if line.strip()
]
REFUSED = [param for param in LINES if "# refused" in str(param.values[1])]


def test_mypy_finds_nothing_in_code_that_is_right(said: dict[int, str]) -> None:
    lines = dict(enumerate(CODE.splitlines(), 1))
    assert {lines[number]: text for number, text in said.items() if "# refused" not in lines[number]} == {}


@pytest.mark.parametrize(("number", "line"), REFUSED)
def test_mypy_refuses(said: dict[int, str], number: int, line: str) -> None:
    assert number in said, f"mypy takes {line}"


QUEUES: list[Any] = [jobs.MemoryQueue, jobs.TestQueue, jobs.NoopQueue]


@pytest.mark.parametrize("protocol", [jobs.Queue, jobs.Enqueuer, jobs.Scheduler])
def test_every_queue_is_an_instance_of_the_protocols(protocol: Any) -> None:
    for make in QUEUES:
        with make() as queue:
            assert isinstance(queue, protocol)
    assert issubclass(jobs.PostgresJobs, protocol)
    assert not isinstance(object(), protocol)
    assert not isinstance("text", protocol)


def test_what_only_enqueues_is_no_queue() -> None:
    class Outbox:
        def enqueue(self, job: jobs.Payload, **options: Any) -> list[int]:
            return []

    assert isinstance(Outbox(), jobs.Enqueuer)
    assert not isinstance(Outbox(), jobs.Scheduler)
    assert not isinstance(Outbox(), jobs.Queue)


def test_the_name_of_go_is_the_same_type() -> None:
    assert jobs.PostgresJobsHandler is jobs.PostgresJobs
