"""Targets: what a process works, made of what the application gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from qg.client import Client
from qg.errors import ErrInvalidOption
from qg.job import Job, note_handler
from qg.supervisor.application import ErrApplication, is_queue, what_it_is
from qg.supervisor.settings import Settings
from qg.workerpool import WorkerPool
from qg.working.handlers import WorkMap
from qg.working.hooks import Hooks
from qg.working.oversight import Oversight

__all__ = ["THREADS", "Target", "make_targets"]

THREADS = 4
"""How many threads work a queue if nobody says how many."""


class Target(Protocol):
    """Something that works jobs.

    Attributes:
        client: where they come from.
        work_map: who works which.
        hooks: what is called after jobs that fail.
    """

    client: Client
    work_map: WorkMap
    hooks: Hooks

    @property
    def pool(self) -> WorkerPool | None:
        """The workers; None before there are any."""

    def follow(self, job: Job) -> None:
        """Note who works *job*, and keep its history if there is one: somebody else will end the attempt."""

    def start(self, oversight: Oversight) -> None:
        """Begin to work.

        Raises:
            psycopg2.OperationalError: if the database can't be reached. It may be called again then.
            QgError: if jobs can't be worked here.
        """

    def shutdown(self) -> None:
        """Let running jobs end, and return when they have."""

    def close(self) -> None:
        """Close what was opened for it."""


class _Pool:
    """A WorkerPool. *owned* says whether its client was made for it."""

    def __init__(self, pool: WorkerPool, *, owned: bool) -> None:
        self.client = pool.client
        self.work_map = pool.work_map
        self.hooks = pool.hooks
        self.pool: WorkerPool | None = pool
        self._pool = pool
        self._owned = owned

    def follow(self, job: Job) -> None:
        """Note who works *job*, whose retry policy holds."""
        note_handler(job, self.work_map.get(job.type))

    def start(self, oversight: Oversight) -> None:
        """Begin to work."""
        self._pool.oversight = oversight
        self._pool.start()

    def shutdown(self) -> None:
        """Let running jobs end, and return when they have."""
        self._pool.shutdown()

    def close(self) -> None:
        """Close the client, if it was made for the pool."""
        if self._owned:
            self.client.close()


class _Queue:
    """A qg.jobs.PostgresJobs. It connects, starts its workers and tries again by itself."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self.client: Client = queue.client
        self.work_map: WorkMap = queue.work_map
        self.hooks: Hooks = queue.hooks

    @property
    def pool(self) -> WorkerPool | None:
        """The workers; None before there are any."""
        pool: WorkerPool | None = self._queue.worker_pool
        return pool

    def follow(self, job: Job) -> None:
        """Note who works *job*, and keep the history of the attempt."""
        self._queue.follow(job)

    def start(self, oversight: Oversight) -> None:
        """Begin to work."""
        self._queue.oversight = oversight
        self._queue.start()

    def shutdown(self) -> None:
        """Let running jobs end, and return when they have."""
        self._queue.shutdown()

    def close(self) -> None:
        """Nothing: shutdown() has closed what the queue has opened."""


def make_targets(found: object, settings: Settings) -> list[Target]:
    """Return what to work, if *found* is what the application gives.

    Args:
        found: a work map, a queue, a pool, or a function that returns one of them, or a list or tuple of them.
        settings: how to work a work map.

    Raises:
        ErrApplication: if *found* is nothing of that kind, or has options of its own beside those in *settings*.
        ErrInvalidOption: if an option is out of bounds.
        ErrTable, psycopg2.Error: as qg.Client raises them.
        Exception: whatever the application's function raises.
    """
    clients: list[Client] = []
    targets: list[Target] = []
    for thing in _things(found, settings.app):
        if isinstance(thing, Mapping):
            if not clients:
                clients.append(Client(settings.dsn))
            targets.extend(_pools(clients[0], thing, settings))
        else:
            _require_no_options(settings, "qg.WorkerPool" if isinstance(thing, WorkerPool) else "qg.jobs.PostgresJobs")
            targets.append(_Pool(thing, owned=False) if isinstance(thing, WorkerPool) else _Queue(thing))
    return targets


def _things(found: object, app: str) -> Iterator[Any]:
    given, is_made = found, False
    if callable(found) and not isinstance(found, (Mapping, WorkerPool, type)) and not is_queue(found):
        given, is_made = _call(found, app), True
    if isinstance(given, (list, tuple)):
        things: list[Any] = list(given)
        if not things:
            raise ErrApplication(f"{app} gives an empty list; there is nothing to work")
    else:
        things = [given]
    for thing in things:
        if not isinstance(thing, (Mapping, WorkerPool)) and not is_queue(thing):
            raise ErrApplication(f"{app} {'returned' if is_made else 'is'} {what_it_is(thing)}")
        if isinstance(thing, Mapping) and not thing:
            raise ErrApplication(f"{app} is an empty work map, so every job would fail; put the handlers into it")
        if is_queue(thing) and not thing.work_map:
            raise ErrApplication(f"{app} is a queue without functions, so it works nothing; register them first")
    return iter(things)


def _call(function: Callable[..., object], app: str) -> object:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ErrApplication(
            f"{app} is a function that can't be called without arguments ({error}); give a work map, or a function "
            "that returns one"
        ) from None
    except ValueError:  # it doesn't tell
        pass
    return function()


def _pools(client: Client, work_map: WorkMap, settings: Settings) -> Iterator[Target]:
    threads = THREADS if settings.threads is None else settings.threads
    for queue in settings.queues or (None,):
        pool = WorkerPool(
            client,
            work_map,
            threads,
            queue=queue,
            interval=settings.interval,
            batch_size=1 if settings.batch_size is None else settings.batch_size,
            connections=settings.connections,
        )
        yield _Pool(pool, owned=True)


def _require_no_options(settings: Settings, kind: str) -> None:
    given = {
        "-q": settings.queues,
        "--threads": settings.threads,
        "--connections": settings.connections,
        "--batch-size": settings.batch_size,
        "--interval": settings.interval,
    }
    for option, value in given.items():
        if value not in (None, ()):
            raise ErrInvalidOption(
                f"{option} says how a work map is worked, but {settings.app} is a {kind}, which has its own; "
                "set them where that is made"
            )
