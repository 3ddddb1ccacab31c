"""OwnTransactions: connections of psycopg 3 for what a job writes together with its deletion."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from psycopg2.extensions import parse_dsn

from qg.errors import ErrMissingExtra, ErrUnusable

__all__ = ["OwnTransactions"]

_CONNECT_SECONDS = 10
_INSTEAD = "or open a transaction of your own, and give it to job.delete_in_tx()"


class OwnTransactions:
    """Opens a connection for each transaction, and closes it at its end.

    Args:
        source: of the client.
        most: how many may be open at once; the next one waits. None means any number.
    """

    def __init__(self, source: object, most: int | None = None) -> None:
        self._source = source
        self._free = None if most is None else asyncio.Semaphore(most)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        """Within the block there is a psycopg.AsyncConnection. What isn't committed at its end is rolled back.

        Raises:
            ErrMissingExtra: if psycopg 3 isn't installed.
            ErrUnusable: if the client's source isn't a DSN.
            psycopg.Error: if there is no connection to be had.
        """
        connect = _connect()
        if not isinstance(self._source, str):
            raise ErrUnusable(
                f"job.tx() needs to know where to connect, and the source of the client, "
                f"{type(self._source).__name__}, doesn't say; give the client a DSN, {_INSTEAD}"
            )
        options = {} if "connect_timeout" in parse_dsn(self._source) else {"connect_timeout": _CONNECT_SECONDS}
        async with AsyncExitStack() as stack:
            if self._free is not None:
                await stack.enter_async_context(self._free)
            conn = await connect(self._source, **options)
            stack.push_async_callback(conn.close)
            yield conn


def _connect() -> Any:
    try:
        return importlib.import_module("psycopg").AsyncConnection.connect
    except ImportError as error:  # of its libpq, perhaps
        raise ErrMissingExtra(
            f"job.tx() needs psycopg 3 ({error}): pip install 'psycopg[binary]', {_INSTEAD}"
        ) from error
