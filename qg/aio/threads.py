"""Threads that wait for the database in place of the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from qg.database.database import Database
from qg.forks import process_number

__all__ = ["Threads", "begin_in_own_thread", "run_in_own_thread"]

_Result = TypeVar("_Result")


class Threads:
    """At most so many threads, which end with close(). May be used from several event loops.

    Args:
        most: how many calls run at once. More wait for their turn.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._closed = False
        self._begin_in_this_process()

    def _begin_in_this_process(self) -> None:
        self._process = process_number()
        self._mutex = threading.Lock()
        self._executor = ThreadPoolExecutor(self._most, thread_name_prefix="qg-aio")

    async def run(self, work: Callable[[], _Result], undo: Callable[[_Result], object] | None = None) -> _Result:
        """Return the result of *work*, or raise what it raises.

        If the caller is cancelled, or dropped, before *work* has begun, it isn't begun. If it has, it goes on, and
        *undo* is then called with its result, in a thread of its own.

        Raises:
            ErrClientClosed: after close().
        """
        future = self._submit(work)
        try:
            return await _result_of(future)
        except (asyncio.CancelledError, GeneratorExit):
            if not future.cancel() and undo is not None:
                _when_it_has(future, undo)
            raise
        finally:
            del future  # an exception in it has this frame

    def _submit(self, work: Callable[[], _Result]) -> Future[_Result]:
        if self._process != process_number():
            self._begin_in_this_process()  # a fork has copied no threads
        with self._mutex:
            if self._closed:
                raise Database.closed_error()
            return self._executor.submit(contextvars.copy_context().run, work)

    def close(self) -> None:
        """Begin nothing more. Waits for nobody: what has been given to run() is still done."""
        with self._mutex:
            self._closed = True
        self._executor.shutdown(wait=False)


async def run_in_own_thread(work: Callable[[], _Result]) -> _Result:
    """Return the result of *work*, or raise what it raises. If the caller is cancelled, *work* goes on to its end.

    For whoever has a lock, or a transaction open. Others may wait for that, and have taken all other threads.
    """
    return await _result_of(begin_in_own_thread(work))


def begin_in_own_thread(work: Callable[[], _Result]) -> Future[_Result]:
    """Begin *work*, and wait for nothing. The interpreter doesn't end before it has."""
    future: Future[_Result] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:  # for whoever waits, whatever it is
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="qg-aio-job").start()
    return future


async def _result_of(future: Future[_Result]) -> _Result:
    """Return the result of *future*, or raise what it raises. To cancel the caller doesn't cancel it."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake(done: Future[Any]) -> None:
        with suppress(RuntimeError):  # nobody waits in a loop that is closed
            loop.call_soon_threadsafe(_set, waiter)

    future.add_done_callback(wake)
    try:
        await waiter
        return future.result()
    finally:
        del future  # an exception in it has this frame


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _when_it_has(future: Future[_Result], undo: Callable[[_Result], object]) -> None:
    """Call *undo* with the result of *future* as soon as there is one."""

    def begin(done: Future[_Result]) -> None:
        if not done.cancelled() and done.exception() is None:
            result = done.result()
            begin_in_own_thread(lambda: undo(result))

    future.add_done_callback(begin)
