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
from qg.tables import Table

__all__ = ["Listener"]

# After so long without a notification a listener makes sure that it is still to be notified.
_SILENCE_SECONDS = 60.0


class Listener:
    """A thread that LISTENs on a connection of its own, as long as the table notifies.

    What it misses, while it has no connection for instance, the workers find when they poll.

    Args:
        client: where connections come from.
        queue: whose jobs are of interest.
        workers: how many there are to be notified.
        sleepers: who to wake.
        longest_pause: how many seconds to wait at the most before it tries to connect again.
    """

    def __init__(self, client: Client, queue: str, workers: int, sleepers: Sleepers, longest_pause: float) -> None:
        self._client = client
        self._queue = queue
        self._workers = workers
        self._sleepers = sleepers
        self._longest_pause = longest_pause
        self._stopping = False
        # A signal handler may stop us; to write a byte is all that it does.
        self._bell, self._rope = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"qg-listener-{queue}", daemon=True)
        self._session: Session | None = None
        # The table that there is no listening to, because it doesn't notify or there is no connection.
        self._deaf_to: Table | None = None

    def start(self, session: Session) -> None:
        """Listen from now on if the table notifies, or log why that can't be; *session* is asked if it does."""
        self._client._known.watch(self)
        table = self._client._table
        if session.run(table.notifies)[0][0]:
            self._begin(table)
        else:
            self._deaf_to = table
        self._thread.start()

    def look_again(self) -> None:
        """See whether to listen still, and to which table."""
        self._ring()

    def stop(self) -> None:
        """Ask the thread to end; join() waits for it."""
        self._stopping = True
        self._ring()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, but no longer than *timeout* seconds.

        Nor longer than one: it may just be connecting, and ends when that has failed or succeeded.
        """
        self._thread.join(1.0 if timeout is None else min(timeout, 1.0))

    @property
    def _ended(self) -> bool:
        return self._stopping or self._client._closed

    def _run(self) -> None:
        while not self._ended:
            table = self._client._table
            if self._session is None and self._deaf_to is not table:
                self._begin(table)
            self._listen_to(table)
            self._hang_up()
        self._bell.close()
        self._rope.close()

    def _begin(self, table: Table) -> None:
        """Listen to *table*, or log why that can't be."""
        try:
            # A pool of SQLAlchemy's that is used up would let us wait half a minute.
            if self._client._source.spare() == 0:
                raise ErrTooFewConnections("the source has no connection to spare")
            self._connect(table)
        except Exception as error:  # of psycopg2 or of the source; polling goes on
            self._client.logger.warning(
                "not_listening queue=%s: %s; a pool listens on one connection more than it has workers, "
                "and polls where there is none",
                self._queue,
                one_line(error),
            )
            self._discard()
            self._deaf_to = table

    def _listen_to(self, table: Table) -> None:
        """Hear of jobs until there is no use in it, or another table to listen to."""
        failures = 0
        while not self._ended and self._client._table is table:
            if self._deaf_to is table:
                self._wait(None)
                continue
            try:
                if (session := self._connect(table)) is not None:
                    self._hear(session, table)
                failures = 0
            except ErrClientClosed:
                return
            except Exception as error:  # of psycopg2 or of the source; listening goes on when it can
                self._discard()
                failures += 1
                if failures == 1 and not self._ended:
                    self._client.logger.warning("listening_interrupted queue=%s: %s", self._queue, one_line(error))
                self._wait(reconnect_pause(failures, self._longest_pause))

    def _connect(self, table: Table) -> Session | None:
        """Return the session that listens; None if *table* tells nobody, or not us, and be deaf to it then."""
        if self._session is None:
            self._session = self._client._lease()
            if self._session.run(table.notifies)[0][0]:
                self._session.listen()
                if self._client._enlist(self._session, self._queue, self._workers):
                    self._sleepers.wake(1)  # for what was enqueued while nobody listened
                    return self._session
            self._deaf_to = table
            self._hang_up()
        return self._session

    def _hear(self, session: Session, table: Table) -> None:
        """Wait for notifications, and wake as many workers as there may be jobs."""
        if self._wait(_SILENCE_SECONDS, session.conn.fileno()) and not self._ended:
            # The table of lockers may have been emptied, or replaced by another.
            self._client._enlist(session, self._queue, self._workers)
        queue = table.queue_name(self._queue)
        heard = [table.read_notification(payload) for payload in session.notifications()]
        due = [each[1] for each in heard if each is not None and each[0] == queue]
        if due:
            # One looks even if none is due: so it learns when the next one will be.
            self._sleepers.wake(max(sum(due), 1))

    def _wait(self, seconds: float | None, *files: int) -> bool:
        """Wait until there is something to read, or the bell rings; return whether it wasn't the first of these."""
        with selectors.DefaultSelector() as selector:
            for file in (self._bell.fileno(), *files):
                selector.register(file, selectors.EVENT_READ)
            rung = [key.fd for key, _ in selector.select(seconds)]
        if self._bell.fileno() in rung:
            self._bell.recv(4096)
        return not set(rung) & set(files)

    def _ring(self) -> None:
        with suppress(OSError):  # it has ended already
            self._rope.send(b"\0")

    def _discard(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.discard()

    def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.stop_listening()
            session.give_back()
