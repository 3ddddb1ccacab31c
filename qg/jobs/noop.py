"""NoopQueue: takes everything and does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from qg.jobs.context import Context
from qg.jobs.payloads import Payload, PayloadT
from qg.retries import RetryPolicy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NoopQueue"]

_Result = TypeVar("_Result")


class NoopQueue:
    """A queue for where jobs don't matter: nothing is checked, stored or run. Mirrors Go's ``NewNoop``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def enqueue(
        self, job: Payload | Sequence[Payload], *, priority: int = 0, run_at: datetime | None = None, tx: object = None
    ) -> list[int]:
        """Forget *job*; return no ids."""
        return []

    @overload
    def register_job_func(
        self, fn: Callable[[Context, PayloadT], _Result], *, retry: RetryPolicy | None = None
    ) -> Callable[[Context, PayloadT], _Result]: ...

    @overload
    def register_job_func(
        self, *, retry: RetryPolicy
    ) -> Callable[[Callable[[Context, PayloadT], _Result]], Callable[[Context, PayloadT], _Result]]: ...

    def register_job_func(self, fn: Any = None, *, retry: RetryPolicy | None = None) -> Any:
        """Return *fn*, which will never be run."""
        return fn if fn is not None or retry is None else self.register_job_func

    def schedule(self, spec: str, job: Payload) -> None:
        """Forget *job*."""

    def start(self) -> None:
        """Begin nothing."""

    def shutdown(self, timeout: float | None = None) -> bool:
        """Return True: nothing runs."""
        return True
