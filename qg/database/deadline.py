"""Deadline: how long qg waits for the answer to a message of its own."""

from __future__ import annotations

import os
import socket
import time
from types import TracebackType

import psycopg2
from psycopg2.extensions import connection

from qg.lookout import LOOKOUT

__all__ = ["Deadline"]


class Deadline:
    """Ends the wait for an answer on *conn* that takes too long, by shutting its socket down from outside.

    A network that goes silent is noticed by keepalives. A proxy that accepts everything and never answers
    again isn't; libpq itself would wait for ever. Each ``with`` block is the wait for one answer or several.
    What the block raises is said to be the deadline's doing, if it was.

    Args:
        conn: whose answers are waited for.
        seconds: how long at the most; None means for ever.
    """

    def __init__(self, conn: connection, seconds: float | None) -> None:
        self._conn = conn
        self._seconds = seconds
        self._depth = 0
        self._began = 0.0
        self._is_over = False
        if seconds is not None:
            LOOKOUT.add(self)

    def __enter__(self) -> None:
        if self._depth == 0:
            self._began = time.monotonic()
        self._depth += 1

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        if self._is_over and isinstance(error, psycopg2.Error) and self._conn.closed:
            raise psycopg2.OperationalError(
                f"the database gave no answer within {self._seconds:g} s, so the connection was given up"
            ) from error

    def look(self) -> None:
        """Shut the socket down if an answer is overdue. Whoever waits for it gets libpq's error then."""
        if self._seconds is None or not self._depth or time.monotonic() - self._began <= self._seconds:
            return
        try:
            with socket.socket(fileno=os.dup(self._conn.fileno())) as copy:
                if self._depth:
                    self._is_over = True
                    copy.shutdown(socket.SHUT_RDWR)
        except (psycopg2.Error, OSError):
            pass  # it is closed, or has answered, since
