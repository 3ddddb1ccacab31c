"""Everything qg.jobs raises of its own accord.

::

    QgError
    ├── ErrStartFailed                      a queue that can't start any more
    ├── ErrRegisterJobFuncFailed
    │   └── ErrInvalidJobFunc (TypeError)   a function that can't work jobs, or a type that has one
    ├── ErrEnqueueFailed                    nothing was enqueued; the cause is chained
    │   ├── ErrInvalidJobType (TypeError)   an object that is no payload
    │   └── ErrInvalidJobOpt (ValueError)   a priority, run_at or tx that can't be
    ├── ErrScheduleFailed                   nothing was scheduled; the cause is chained
    ├── ErrOtherContext                     a block of transaction() or user() that enqueue() couldn't see
    ├── ErrInvalidOption
    │   └── ErrInvalidQueueOpt              an option of a queue outside what it allows
    └── ErrJobFuncFailed                    what a JobFunc raised, as it is recorded; the cause is chained

The tree and the names are those of arrower's ``jobs`` package; ErrOtherContext is ours.
"""

from __future__ import annotations

from qg.errors import ErrInvalidOption, QgError

__all__ = [
    "ErrEnqueueFailed",
    "ErrInvalidJobFunc",
    "ErrInvalidJobOpt",
    "ErrInvalidJobType",
    "ErrInvalidQueueOpt",
    "ErrJobFuncFailed",
    "ErrOtherContext",
    "ErrRegisterJobFuncFailed",
    "ErrScheduleFailed",
    "ErrStartFailed",
]


class ErrStartFailed(QgError):
    """The queue was shut down and can't start again."""


class ErrRegisterJobFuncFailed(QgError):
    """A function couldn't be registered."""


class ErrInvalidJobFunc(ErrRegisterJobFuncFailed, TypeError):
    """A function doesn't take (context, payload), or its payload's type has a function already."""


class ErrEnqueueFailed(QgError):
    """Nothing was enqueued. Its cause says why."""


class ErrInvalidJobType(ErrEnqueueFailed, TypeError):
    """An object is no payload, or none that comes back from the database as it went in."""


class ErrInvalidJobOpt(ErrEnqueueFailed, ValueError):
    """An option of enqueue() is outside what it allows."""


class ErrScheduleFailed(QgError):
    """Nothing was scheduled. The message, or its cause, says why."""


class ErrOtherContext(QgError):
    """A block of transaction() or user() was entered in one context, and its code or its end came in another."""


class ErrInvalidQueueOpt(ErrInvalidOption):
    """An option of a queue is outside what it allows."""


class ErrJobFuncFailed(QgError):
    """A JobFunc failed; its cause is what it raised."""
