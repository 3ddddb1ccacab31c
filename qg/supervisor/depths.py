"""Depths: how full the queues are, looked at now and then for the metrics."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import psycopg2

from qg.client import Client
from qg.control import Control
from qg.errors import QgError
from qg.failures import one_line
from qg.supervisor.standing import QueueDepth

__all__ = ["Depths"]

_logger = logging.getLogger("qg")

_PAUSE_SECONDS = 15.0


class Depths:
    """Looks every 15 s, in a thread of its own, how full all queues are that the clients' tables have.

    Attributes:
        seen: what was seen last.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self.seen: tuple[QueueDepth, ...] = ()
        self._controls = [Control(client) for client in dict.fromkeys(clients)]
        self._stopped = threading.Event()
        self._has_failed = False
        threading.Thread(target=self._run, name="qg-depths", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.seen = tuple(depth for control in self._controls for depth in _depths(control))
                self._has_failed = False
            except (QgError, psycopg2.Error) as error:
                if not self._has_failed and not self._stopped.is_set():
                    self._has_failed = True
                    _logger.warning("depths_unseen: %s; it is tried again", one_line(error))
            self._stopped.wait(_PAUSE_SECONDS)


def _depths(control: Control) -> list[QueueDepth]:
    overview = control.overview()
    return [
        QueueDepth(
            queue.queue,
            int(queue.waiting),
            int(queue.due),
            0.0 if queue.oldest_due is None else max((overview.at - queue.oldest_due).total_seconds(), 0.0),
        )
        for queue in overview.queues
    ]
