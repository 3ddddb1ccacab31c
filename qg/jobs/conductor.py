"""Conductor: the thread of a queue that carries out its duties, each when it is due."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg2

from qg.backoff import reconnect_pause
from qg.errors import QgError
from qg.failures import Logger, one_line
from qg.working.threads import BackgroundThread, WakeUp

__all__ = ["Act", "Conductor"]

# Some systems can't wait for months.
_LONGEST_WAIT_SECONDS = 86_400.0
# A duty that is always due at once makes no hot loop.
_SHORTEST_WAIT_SECONDS = 0.01

Act = Callable[[], "float | None"]
"""Carries out a duty, and returns in how many seconds it is due again; None means not any more."""


@dataclass(frozen=True)
class _Duty:
    name: str
    act: Act
    due: float


class Conductor:
    """Carries out duties, each when it is due, in a thread that begins with the first of them.

    A duty that raises is logged, once until it succeeds, and tried again with growing pauses.

    Args:
        name: of the thread.
        logger: where failures go.
        longest_pause: how many seconds to wait at the most before trying again.
    """

    def __init__(self, name: str, logger: Logger, longest_pause: float) -> None:
        self._logger = logger
        self._longest_pause = longest_pause
        # A signal handler may interrupt the thread that holds it.
        self._mutex = threading.RLock()
        self._duties: dict[str, _Duty] = {}
        self._failures: dict[str, int] = {}
        self._wake_up = WakeUp()
        self._thread = BackgroundThread(name, self._run, wake=self._wake_up.give, logger=logger)

    @property
    def pending(self) -> dict[str, float]:
        """When each duty that waits is due, by its name, as time.monotonic() counts. One under way doesn't wait."""
        with self._mutex:
            return {duty.name: duty.due for duty in self._duties.values()}

    def carry_out(self, name: str, act: Act, after: float = 0.0) -> None:
        """Carry out the duty *name* in *after* seconds, by calling *act*. A time set for it before is dropped."""
        with self._mutex:
            if self._thread.stopping:
                return
            self._duties[name] = _Duty(name, act, time.monotonic() + after)
            self._thread.start()
        self._wake_up.give()

    def stop(self) -> None:
        """Begin no duty any more; join() waits for the one under way. Safe in a signal handler."""
        self._thread.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, but no longer than *timeout* seconds; return whether it has."""
        return self._thread.join(timeout)

    def _run(self) -> None:
        """Carry out duties until stop() is called."""
        while not self._thread.stopping:
            duty, seconds = self._next()
            if duty is None:
                self._wake_up.wait(seconds)
            else:
                self._carry_out_now(duty)

    def _next(self) -> tuple[_Duty | None, float | None]:
        """Return the duty that is due, or the seconds until one is; neither if there is no duty."""
        with self._mutex:
            if not self._duties:
                return None, None
            duty = min(self._duties.values(), key=lambda each: each.due)
            seconds = duty.due - time.monotonic()
            if seconds > 0:
                return None, min(seconds, _LONGEST_WAIT_SECONDS)
            del self._duties[duty.name]
            return duty, None

    def _carry_out_now(self, duty: _Duty) -> None:
        failures = self._failures.get(duty.name, 0) + 1
        # Whatever is raised, by the duty or by the logger, the duty isn't forgotten.
        again: float | None = reconnect_pause(failures, self._longest_pause)
        try:
            again = duty.act()
            self._failures.pop(duty.name, None)
        except Exception as error:
            self._failures[duty.name] = failures
            if failures == 1 and not self._thread.stopping:
                self._log(duty, error)
        finally:
            if again is not None:
                due = time.monotonic() + max(again, _SHORTEST_WAIT_SECONDS)
                with self._mutex:
                    # Meanwhile somebody may have set another time for it.
                    self._duties.setdefault(duty.name, _Duty(duty.name, duty.act, due))

    def _log(self, duty: _Duty, error: Exception) -> None:
        self._logger.error(
            "%s_failed %s: %s; trying again until it is done",
            duty.name,
            type(error).__name__,
            one_line(error),
            # What the database says, or one of our own errors, explains itself. Anything else may be a bug.
            exc_info=None if isinstance(error, (psycopg2.Error, QgError)) else error,
        )
