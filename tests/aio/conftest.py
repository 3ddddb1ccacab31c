"""Tests that are coroutines, and an aio.Client."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from qg import aio


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    # Only its own arguments: there are fixtures that it doesn't ask for.
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**given))
    return True


@pytest.fixture
def aclient(dsn: str) -> Iterator[aio.Client]:
    """A client that gives up soon if the event loop stands still."""
    client = aio.Client(dsn, deadline=20)
    yield client
    asyncio.run(client.close())
