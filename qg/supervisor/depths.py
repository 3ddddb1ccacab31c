"""Depths: how full the queues are, looked at now and then for the metrics."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import psycopg2

from qg.client import Client, engine_of
from qg.control import Control
from qg.errors import QgError
from qg.failures import one_line
from qg.supervisor.standing import QueueDepth
from qg.workerpool import WorkerPool

__all__ = ["Depths"]

_logger = logging.getLogger("qg")

_PAUSE_SECONDS = 15.0


class Depths:
    """Looks every 15 s, in a thread of its own, how full the queues are that are worked.

    Anybody can make up other queues, and their number is without bound.

    Args:
        pools: returns what works them; called in that thread.

    Attributes:
        seen: what was seen last.
    """

    def __init__(self, pools: Callable[[], Sequence[WorkerPool]]) -> None:
        self.seen: tuple[QueueDepth, ...] = ()
        self._pools = pools
        self._stopped = threading.Event()
        self._has_failed = False
        threading.Thread(target=self._run, name="qg-depths", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                pools = self._pools()
                self.seen = tuple(
                    depth
                    for client in dict.fromkeys(pool.client for pool in pools)
                    for depth in _depths(client, {pool.queue for pool in pools if pool.client is client})
                )
                self._has_failed = False
            except (QgError, psycopg2.Error) as error:
                if not self._has_failed and not self._stopped.is_set():
                    self._has_failed = True
                    _logger.warning("depths_unseen: %s; it is tried again", one_line(error))
            self._stopped.wait(_PAUSE_SECONDS)


def _depths(client: Client, queues: set[str]) -> list[QueueDepth]:
    overview = Control(client).overview()
    names = engine_of(client).database.run(lambda session, table: {table.queue_name(queue) for queue in queues})
    return [
        QueueDepth(
            queue.queue,
            int(queue.waiting),
            int(queue.due),
            0.0 if queue.oldest_due is None else max((overview.at - queue.oldest_due).total_seconds(), 0.0),
        )
        for queue in overview.queues
        if queue.queue in names
    ]
