"""Filter: which jobs are meant."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from qg.backoff import MAX_SECONDS
from qg.control.options import checked_text
from qg.control.records import State
from qg.enqueuing.fields import check_queue
from qg.errors import ErrInvalidOption, ErrTable
from qg.tables import Table

__all__ = ["Filter"]

# What errors() groups.
_FAILED = (State.FAILING, State.EXPIRED)


@dataclass(frozen=True)
class Filter:
    """Which jobs are meant: those that fit all that is given. Checked when it is made.

    Args:
        queue: the queue's name.
        type: the job's type; of ActiveJob's jobs that of their wrapper.
        state: a State, or its value as text.
        error: a text that the last error or its traceback contains, whatever the case of its letters.
        older_than: how long the job must have been due, at the least.
        younger_than: how long it may have been due, at the most; a job that isn't due yet fits.
        args: what is in the job's args, by the way that leads there: ``{"0": 7}`` for a list that begins with 7,
            ``{"0.user_id": 7}`` for one that begins with an object. A value is a string, a number, a boolean or None,
            which stands also for what isn't there. They are compared as text, so 7 is "7" as well.
        message: the first line of the last error, exactly, of a job that is failing or expired: with *type* that is
            a group of ``errors()``. "" is one too: of those that have failed and say nothing of it.
        everything: every job is meant. An action refuses a filter that says nothing, unless this is set.

    Raises:
        ErrInvalidOption: if one of them is out of bounds.
    """

    queue: str | None = None
    type: str | None = None
    state: State | str | None = None
    error: str | None = None
    older_than: timedelta | None = None
    younger_than: timedelta | None = None
    args: Mapping[str, Any] | None = None
    message: str | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        if self.queue is not None:
            check_queue(self.queue)
        for name in ("type", "error", "message"):
            checked_text(name, getattr(self, name))
        if self.error == "":
            raise ErrInvalidOption("error='' is contained in every error, so it says nothing; leave it out")
        if self.message is not None and "\n" in self.message:
            raise ErrInvalidOption(f"message={self.message!r} is more than a first line; give that alone, or error=")
        for name in ("older_than", "younger_than"):
            _check_duration(name, getattr(self, name))
        if self.state is not None:
            object.__setattr__(self, "state", _state(self.state))
        if self.args is not None:
            object.__setattr__(self, "args", _checked_args(self.args))
        if not isinstance(self.everything, bool):
            raise ErrInvalidOption(f"everything must be True or False, not {self.everything!r}")
        if self.everything and not self.says_nothing:
            raise ErrInvalidOption(f"{self} means every job and not every job; leave everything=True out")

    def __str__(self) -> str:
        if self.everything:
            return "every job"
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        return " ".join(
            f"{name}={(str(value) if isinstance(value, State) else value)!r}"
            for name, value in said.items()
            if value is not None and value is not False
        )

    @property
    def says_nothing(self) -> bool:
        """Whether every job fits, but nobody has said so."""
        return all(getattr(self, each.name) is None for each in fields(self) if each.name != "everything")

    def params(self, table: Table, states: Collection[State] = tuple(State)) -> tuple[Any, ...]:
        """Return the parameters of a filter, as :data:`qg.tables.walks.GIVEN` has them, for jobs in *states* only.

        Raises:
            ErrTable: if *table* has no such jobs.
        """
        if self.state is State.FINISHED and table.version == 3:
            raise ErrTable("the que_jobs table is of version 3, which keeps no finished jobs; migrate it to 4 or later")
        args = None
        if self.args:
            args = json.dumps([[path.split("."), _as_stored(value)] for path, value in self.args.items()])
        possible = _FAILED if self.message is not None else tuple(State)
        wanted = [str(each) for each in possible if each in states and self.state in (None, each)]
        return (
            None if self.queue is None else table.queue_name(self.queue),
            self.type,
            None if len(wanted) == len(State) else wanted,
            self.error,
            _seconds(self.older_than),
            _seconds(self.younger_than),
            args,
            self.message,
        )


def _check_duration(name: str, value: object) -> None:
    longest = timedelta(seconds=MAX_SECONDS)
    if value is not None and not (isinstance(value, timedelta) and timedelta(0) <= value <= longest):
        raise ErrInvalidOption(f"{name} must be a timedelta of 0 to a hundred years, not {value!r}")


def _state(value: object) -> State:
    try:
        return State(value)
    except ValueError:
        raise ErrInvalidOption(
            f"there is no state {value!r} of a job; give one of {', '.join(str(each) for each in State)}"
        ) from None


def _checked_args(args: object) -> Mapping[str, Any]:
    if not isinstance(args, Mapping):
        raise ErrInvalidOption(f"args must be a dict from ways like '0.user_id' to values, not {args!r}")
    if not args:
        raise ErrInvalidOption("args={} fits every job, so it says nothing; leave it out")
    for path, value in args.items():
        checked_text("a way into args", path)
        if not isinstance(path, str) or not path:
            raise ErrInvalidOption(f"a way into args must be a text like '0.user_id', not {path!r}")
        if value is not None and not isinstance(value, (str, int, float)):
            raise ErrInvalidOption(
                f"args can be compared with a string, a number, a boolean or None, not with {value!r}; "
                "give the way to one of those in it"
            )
        checked_text(f"args {path!r}", value if isinstance(value, str) else None)
    return dict(args)


def _as_stored(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()
