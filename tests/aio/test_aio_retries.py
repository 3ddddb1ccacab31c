"""qg.retry on the handlers of an aio.WorkerPool, coroutines and plain functions."""

from __future__ import annotations

from typing import Any

import pytest
from awaiting import eventually
from support import VERSION, Database

import qg
from qg import aio

EXPIRED = "run_at > now() + interval '99 years'" if VERSION == 3 else "expired_at IS NOT NULL"


@qg.retry(give_up_on=LookupError)
async def coroutine(job: aio.Job) -> None:
    raise LookupError


@qg.retry(maximum_retry_count=0)
async def recorded(job: aio.Job) -> None:
    await job.error("out of paper")


@qg.retry(give_up_on=LookupError)
def in_a_thread(job: qg.Job) -> None:
    raise LookupError


@qg.retry(give_up_on=TypeError)
async def without_a_parameter() -> None:
    pass


@pytest.mark.parametrize("handler", [coroutine, recorded, in_a_thread, without_a_parameter])
async def test_each_kind_of_handler_has_its_policy(aclient: aio.Client, database: Database, handler: Any) -> None:
    await aclient.enqueue(qg.Job("MyJob"))
    async with aio.WorkerPool(aclient, {"MyJob": handler}, 2, interval=0.02, listen=False):
        await eventually(lambda: database.value("SELECT error_count FROM que_jobs"))
    assert database.query(f"SELECT error_count, {EXPIRED} FROM que_jobs") == [(1, True)]
