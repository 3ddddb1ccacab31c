"""Listener: hears of jobs that were enqueued, and wakes workers for them."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress

from qg.backoff import reconnect_pause
from qg.client import Client
from qg.errors import ErrClientClosed, ErrTooFewConnections
from qg.failures import one_line
from qg.session import Session
from qg.sleepers import Sleepers

__all__ = ["Listener"]


class Listener:
    """A thread that LISTENs on a connection of its own.

    What it misses, while it has no connection for instance, the workers find when they poll.

    Args:
        client: where connections come from.
        queue: whose jobs are of interest.
        sleepers: who to wake.
        longest_pause: how many seconds to wait at the most before it tries to connect again.
    """

    def __init__(self, client: Client, queue: str, sleepers: Sleepers, longest_pause: float) -> None:
        self._client = client
        self._queue = queue
        self._sleepers = sleepers
        self._longest_pause = longest_pause
        self._stopping = False
        # A signal handler may stop us; to write a byte is all that it does.
        self._bell, self._rope = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"qg-listener-{queue}", daemon=True)
        self._session: Session | None = None

    def start(self) -> bool:
        """Listen from now on, or log why that can't be; return whether it can."""
        try:
            # A pool of SQLAlchemy's that is used up would let us wait half a minute.
            if self._client._source.spare() == 0:
                raise ErrTooFewConnections("the source has no connection to spare")
            self._listen()
        except Exception as error:  # of psycopg2 or of the source; polling goes on
            self._client.logger.warning(
                "not_listening queue=%s: %s; a pool listens on one connection more than it has workers, "
                "and polls where there is none",
                self._queue,
                one_line(error),
            )
            self._close()
            return False
        self._thread.start()
        return True

    def stop(self) -> None:
        """Ask the thread to end; join() waits for it."""
        self._stopping = True
        with suppress(OSError):  # it has ended already
            self._rope.send(b"\0")

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, but no longer than *timeout* seconds.

        Nor longer than one: it may just be connecting, and ends when that has failed or succeeded.
        """
        self._thread.join(1.0 if timeout is None else min(timeout, 1.0))

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                session = self._listen()
                while not self._stopping:
                    self._hear(session)
                    failures = 0
            except ErrClientClosed:
                break
            except Exception as error:  # of psycopg2 or of the source; listening goes on when it can
                self._discard()
                failures += 1
                if failures == 1 and not self._stopping:
                    self._client.logger.warning("listening_interrupted queue=%s: %s", self._queue, one_line(error))
                self._wait(reconnect_pause(failures, self._longest_pause))
        self._close()

    def _listen(self) -> Session:
        if self._session is None:
            self._session = self._client._lease()
            self._session.listen()
            self._sleepers.wake(1)  # for what was enqueued while nobody listened
        return self._session

    def _hear(self, session: Session) -> None:
        """Wait for notifications, and wake as many workers as there may be jobs."""
        self._wait(None, session.conn.fileno())
        heard = [payload.partition(" ") for payload in session.notifications()]
        due = [int(count) for count, _, queue in heard if queue == self._queue and count.isdecimal()]
        if due:
            # One looks even if none is due: so it learns when the next one will be.
            self._sleepers.wake(max(sum(due), 1))

    def _wait(self, seconds: float | None, *files: int) -> None:
        """Wait until there is something to read, or stop() was called."""
        with selectors.DefaultSelector() as selector:
            for file in (self._bell.fileno(), *files):
                selector.register(file, selectors.EVENT_READ)
            selector.select(seconds)

    def _discard(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.discard()

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.stop_listening()
            session.give_back()
        self._bell.close()
        self._rope.close()
