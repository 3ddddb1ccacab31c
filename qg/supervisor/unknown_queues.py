"""Queues that nobody knows: a name on the command line that is misspelled would be worked in silence, and in vain."""

from __future__ import annotations

import logging

from qg.client import Client, engine_of
from qg.control.pausing import require_queue
from qg.errors import ErrUnknownQueue
from qg.failures import one_line

__all__ = ["warn_of_unknown"]

_logger = logging.getLogger("qg")


def warn_of_unknown(client: Client, queue: str) -> None:
    """Say in the log that nobody knows *queue* yet, if that is so, with the nearest name. It is worked all the same.

    Raises:
        psycopg2.Error: if the database can't be asked.
    """
    try:
        engine_of(client).database.run(lambda session, table: require_queue(session, table, table.queue_name(queue)))
    except ErrUnknownQueue as error:
        _logger.warning("queue_unknown: %s; it is worked all the same", one_line(error))
