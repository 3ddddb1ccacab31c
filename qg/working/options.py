"""WorkOptions: which queue is worked, how, and how often; and what has them until the start."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qg.enqueuing.fields import check_queue
from qg.errors import ErrInvalidOption, ErrPoolState
from qg.tables import PollStrategy

__all__ = ["Configurable", "WorkOptions"]

_DEFAULT_INTERVAL = 5.0
# Each locked job takes room in the server's lock table, which is small by default.
_LARGEST_BATCH = 1000


@dataclass(frozen=True)
class WorkOptions:
    """How jobs are taken; checked when it is made.

    Attributes:
        queue: the queue's name.
        interval: seconds that an idle worker sleeps before it looks again.
        batch_size: how many jobs a worker locks at once.
        poll_strategy: which of the due jobs come first.
        only_known_types: whether jobs of types that aren't in the work map are left to others.

    Raises:
        ErrInvalidOption: if one of them is out of bounds.
    """

    queue: str
    interval: float
    batch_size: int = 1
    poll_strategy: PollStrategy = PollStrategy.PRIORITY
    only_known_types: bool = False

    def __post_init__(self) -> None:
        size = self.batch_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST_BATCH:
            raise ErrInvalidOption(f"batch_size must be a number of jobs, 1 to {_LARGEST_BATCH}, not {size!r}")
        if not isinstance(self.poll_strategy, PollStrategy):
            raise ErrInvalidOption(
                f"poll_strategy must be qg.PollStrategy.PRIORITY or qg.PollStrategy.RUN_AT, not {self.poll_strategy!r}"
            )
        if not isinstance(self.only_known_types, bool):
            raise ErrInvalidOption(f"only_known_types must be True or False, not {self.only_known_types!r}")
        check_queue(self.queue)
        # A frozen dataclass has no other way to make a float of an int.
        object.__setattr__(self, "interval", _checked_interval(self.interval))

    @classmethod
    def with_defaults(
        cls,
        queue: str | None,
        interval: float | None,
        batch_size: int,
        poll_strategy: PollStrategy,
        only_known_types: bool,
    ) -> WorkOptions:
        """Return the options; queue and interval come from the environment where they are None."""
        return cls(
            os.environ.get("QUE_QUEUE", "") if queue is None else queue,
            _interval_from_environment() if interval is None else interval,
            batch_size,
            poll_strategy,
            only_known_types,
        )

    def types(self, work_map: Mapping[str, object]) -> tuple[str, ...] | None:
        """Return the types to take, those of *work_map* by now; None means any."""
        return tuple(work_map) if self.only_known_types else None


class Configurable:
    """What a worker and a pool have in common: options, of which two can be set until the start."""

    def __init__(self, options: WorkOptions) -> None:
        self._options = options
        self._started = False

    @property
    def batch_size(self) -> int:
        """How many jobs a worker locks at once."""
        return self._options.batch_size

    @property
    def poll_strategy(self) -> PollStrategy:
        """In which order due jobs are taken."""
        return self._options.poll_strategy

    @property
    def only_known_types(self) -> bool:
        """Whether jobs of types that aren't in the work map are left to others."""
        return self._options.only_known_types

    @property
    def queue(self) -> str:
        """The name of the queue that is worked."""
        return self._options.queue

    @queue.setter
    def queue(self, queue: str) -> None:
        self._refuse_once_started("queue")
        self._options = replace(self._options, queue=queue)

    @property
    def interval(self) -> float:
        """How many seconds an idle worker sleeps before it looks again."""
        return self._options.interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        self._refuse_once_started("interval")
        self._options = replace(self._options, interval=seconds)

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
