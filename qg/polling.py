"""Which queue is polled, how, and how often: what a worker and a pool of them have in common."""

from __future__ import annotations

import os
import threading

from qg.errors import ErrInvalidOption, ErrPoolState
from qg.fields import check_queue
from qg.tables import PollStrategy

__all__ = ["Polling"]

_DEFAULT_INTERVAL = 5.0
# Each locked job takes room in the server's lock table, which is small by default.
_LARGEST_BATCH = 1000


class Polling:
    """Holds what is asked for; ``queue`` and ``interval`` can be set until the start."""

    def __init__(
        self,
        queue: str | None,
        interval: float | None,
        batch_size: int,
        poll_strategy: PollStrategy,
        only_known_types: bool,
    ) -> None:
        self._started = False
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= _LARGEST_BATCH:
            raise ErrInvalidOption(f"batch_size must be a number of jobs, 1 to {_LARGEST_BATCH}, not {batch_size!r}")
        if not isinstance(poll_strategy, PollStrategy):
            raise ErrInvalidOption(
                f"poll_strategy must be qg.PollStrategy.PRIORITY or qg.PollStrategy.RUN_AT, not {poll_strategy!r}"
            )
        if not isinstance(only_known_types, bool):
            raise ErrInvalidOption(f"only_known_types must be True or False, not {only_known_types!r}")
        self._batch_size = batch_size
        self._poll_strategy = poll_strategy
        self._only_known_types = only_known_types
        self.queue = os.environ.get("QUE_QUEUE", "") if queue is None else queue
        self.interval = _interval_from_environment() if interval is None else interval

    @property
    def batch_size(self) -> int:
        """How many jobs a worker locks at once."""
        return self._batch_size

    @property
    def poll_strategy(self) -> PollStrategy:
        """In which order due jobs are taken."""
        return self._poll_strategy

    @property
    def only_known_types(self) -> bool:
        """Whether jobs of types that aren't in the work map are left to others."""
        return self._only_known_types

    @property
    def queue(self) -> str:
        """The name of the queue that is worked."""
        return self._queue

    @queue.setter
    def queue(self, queue: str) -> None:
        self._refuse_once_started("queue")
        self._queue = check_queue(queue)

    @property
    def interval(self) -> float:
        """How many seconds an idle worker sleeps before it looks again."""
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        self._refuse_once_started("interval")
        self._interval = _checked_interval(seconds)

    def _refuse_once_started(self, setting: str) -> None:
        if self._started:
            raise ErrPoolState(f"the {setting} can't be changed after the start; set it before")


def _interval_from_environment() -> float:
    text = os.environ.get("QUE_WAKE_INTERVAL", "")
    if not text:
        return _DEFAULT_INTERVAL
    try:
        return _checked_interval(float(text))
    except ValueError:  # ErrInvalidOption is one, too
        raise ErrInvalidOption(
            f"the environment's QUE_WAKE_INTERVAL is {text!r}; set it to a number of seconds, 0 or more"
        ) from None


def _checked_interval(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise ErrInvalidOption(f"the interval must be a number of seconds, not {seconds!r}")
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise ErrInvalidOption(f"the interval must be 0 s or more and finite, not {seconds} s")
    return float(seconds)
