"""Ctrl-C while the server works: its statement is cancelled, so that the command ends and the server doesn't go on.

psycopg2 waits for an answer in C. Python acts on a signal only when that is over, which for a lock that somebody else
has may be never. And a process that just ends leaves a session behind that still waits, and keeps others waiting.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2
from psycopg2.extensions import connection

from qg.database.sources import connector

__all__ = ["Connections"]


class Connections:
    """A source of connections, as :class:`qg.Client` takes it, whose statements Ctrl-C can cancel.

    Args:
        dsn: where they lead.

    Raises:
        ErrUnusable: if *dsn* is none.
    """

    def __init__(self, dsn: str) -> None:
        self._connect = connector(dsn, "qg control")
        self._opened: list[connection] = []

    def __call__(self) -> connection:
        """Open a connection."""
        conn = self._connect()
        self._opened.append(conn)
        return conn

    @contextmanager
    def cancelled_by_ctrl_c(self) -> Iterator[None]:
        """Let Ctrl-C cancel, within the block, what the server runs for any of them. In the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Python's handler of a signal in C writes the number of the signal here, whatever the main thread waits for.
        hearing, told = socket.socketpair()
        told.setblocking(False)
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        listener = threading.Thread(target=self._cancel, args=(hearing,), name="qg-ctrl-c", daemon=True)
        listener.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            told.close()
            # It may be waiting for a server that doesn't answer.
            listener.join(1)

    def _cancel(self, hearing: socket.socket) -> None:
        with hearing:
            while numbers := hearing.recv(64):
                if signal.SIGINT in numbers:
                    for conn in list(self._opened):
                        with suppress(psycopg2.Error):  # it is closed, or has broken
                            conn.cancel()
