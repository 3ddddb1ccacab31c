"""The other end of benchmarks.workers: what a contender's program in Python has around its library."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Reporter", "run_program"]

_TICK_SECONDS = 0.005


class Reporter:
    """Tells the benchmark what the workers do, and the workers what the benchmark wants.

    Args:
        each: whether to report each job as it begins, instead of their number every 5 ms. An idle
            process with *each* does nothing of its own.
    """

    def __init__(self, *, each: bool) -> None:
        self._each = each
        self._mutex = threading.Lock()
        self._handled = 0
        self._takes: list[float] = []

    def job_began(self) -> None:
        """Count a job; this is all that a handler does."""
        if self._each:
            _say(began=time.monotonic())
            return
        with self._mutex:
            self._handled += 1
            if self._handled == 1:
                _say(handled=1, at=time.monotonic())

    def took(self, seconds: float) -> None:
        """Remember how long a message to take jobs took."""
        self._takes.append(seconds)

    def ready(self) -> None:
        """Say that the workers can start, and wait until they may."""
        _say(ready=True)
        self._wait_for("go")
        if not self._each:
            threading.Thread(target=self._tick, daemon=True).start()

    def wait_for_stop(self) -> None:
        """Wait until the workers are to end."""
        self._wait_for("stop")

    def _wait_for(self, word: str) -> None:
        heard = sys.stdin.readline().strip()
        if heard != word:
            sys.exit(f"expected {word!r} on standard input, not {heard!r}")

    def _tick(self) -> None:
        told = 0
        told_takes_at = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            now, handled = time.monotonic(), self._handled
            if handled != told:
                told = handled
                _say(handled=handled, at=now)
            if self._takes and now - told_takes_at >= 1:
                takes, self._takes, told_takes_at = self._takes, [], now
                _say(takes=[round(seconds, 6) for seconds in takes], at=now)


def run_program(
    *,
    install: Callable[..., Any],
    work: Callable[[Reporter, dict[str, str]], Any],
    enqueue: Callable[[int, int], Any] | None = None,
) -> None:
    """Do what the command line says: ``install``, ``work`` or ``enqueue``, with options like ``workers=4``.

    Args:
        install: creates the tables; is given whether idle workers are to be woken.
        work: works jobs between ready() and wait_for_stop().
        enqueue: enqueues so many jobs, so many a call, and returns the seconds that took; None if that
            isn't measured.
    """
    command, *pairs = sys.argv[1:]
    options = dict(pair.split("=", 1) for pair in pairs)
    if command == "install":
        _finish(install(options["notify"] == "1"))
    elif command == "work":
        _finish(work(Reporter(each=options.get("each") == "1"), options))
    elif enqueue is not None:
        seconds = _finish(enqueue(int(options["jobs"]), int(options["a_call"])))
        _say(seconds=seconds)


def _finish(result: Any) -> Any:
    """Return *result*, or what it comes to in uvloop, the fastest loop there is, where it is installed."""
    if not inspect.iscoroutine(result):
        return result
    try:
        from uvloop import new_event_loop
    except ModuleNotFoundError:
        return asyncio.run(result)
    loop = new_event_loop()
    try:
        return loop.run_until_complete(result)
    finally:
        loop.close()


def _say(**news: object) -> None:
    # One write a line: lines of several threads mustn't mix.
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()
