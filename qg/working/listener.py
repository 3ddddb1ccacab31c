"""Listener: hears of jobs that were enqueued, and wakes workers for them."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress

import psycopg2

from qg.backoff import reconnect_pause
from qg.database.session import Session
from qg.errors import ErrClientClosed, ErrTooFewConnections
from qg.failures import one_line, printable
from qg.tables import Table
from qg.tables.pauses import read_told
from qg.working.engine import Engine
from qg.working.sleepers import Sleepers
from qg.working.threads import BackgroundThread

__all__ = ["Listener"]

# After so long without a notification a listener makes sure that it is still to be notified.
_SILENCE_SECONDS = 60.0
# However long shutdown() may take: a listener that is connecting ends when that has failed or succeeded.
_LONGEST_JOIN_SECONDS = 1.0


class Listener:
    """A thread that LISTENs on a connection of its own, as long as the table notifies.

    What it misses, while it has no connection for instance, the workers find when they poll.

    Args:
        engine: of the client.
        queue: whose jobs are of interest.
        workers: how many there are to be notified.
        sleepers: who to wake.
        longest_pause: how many seconds to wait at the most before it tries to connect again.
    """

    def __init__(self, engine: Engine, queue: str, workers: int, sleepers: Sleepers, longest_pause: float) -> None:
        self._engine = engine
        self._database = engine.database
        self._queue = queue
        self._workers = workers
        self._sleepers = sleepers
        self._longest_pause = longest_pause
        self._pipe = _Pipe()
        self._thread = BackgroundThread(
            f"qg-listener-{queue}", self._run, wake=self._pipe.wake, logger=self._database.logger
        )
        self._session: Session | None = None
        # The table that isn't listened to, because it doesn't notify or there is no connection.
        self._not_listening_to: Table | None = None

    @property
    def listens(self) -> bool:
        """Whether there is a session that listens."""
        return self._session is not None

    def start(self, session: Session) -> None:
        """Listen from now on if the table notifies, or log why that can't be; *session* is asked if it does."""
        self._database.add_watcher(self)
        table = self._database.table
        try:
            if session.run(table.notifies)[0][0]:
                self._begin(table)
            else:
                self._not_listening_to = table
            self._thread.start()
        except BaseException:
            self._thread.stop()
            if not self._thread.alive:  # which does both at its end
                self._hang_up()
                self._pipe.close()
            raise

    def recheck(self) -> None:
        """See whether to listen still, and to which table."""
        self._pipe.wake()

    def stop(self) -> None:
        """Ask the thread to end; join() waits for it. Safe in a signal handler."""
        self._thread.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, for *timeout* seconds or one at the most; return whether it has."""
        return self._thread.join(_LONGEST_JOIN_SECONDS if timeout is None else min(timeout, _LONGEST_JOIN_SECONDS))

    @property
    def _ended(self) -> bool:
        return self._thread.stopping or self._database.closed

    def _run(self) -> None:
        while not self._ended:
            table = self._database.table
            if self._session is None and self._not_listening_to is not table:
                self._begin(table)
            self._listen_to(table)
            self._hang_up()
        self._hang_up()
        self._pipe.close()

    def _begin(self, table: Table) -> None:
        """Listen to *table*, or log why that can't be."""
        try:
            # A pool of SQLAlchemy's that is used up would let us wait half a minute.
            if self._database.spare == 0:
                raise ErrTooFewConnections("the source has no connection to spare")
            self._connect(table)
        except psycopg2.errors.ReadOnlySqlTransaction:
            self._close_session()  # it is a standby's, perhaps not for long; _listen_to() tries again
        except Exception as error:  # of psycopg2 or of the source; polling goes on
            self._database.logger.warning(
                "not_listening queue=%s: %s; a pool listens on one connection more than it has workers, "
                "and polls where there is none",
                printable(self._queue),
                one_line(error),
            )
            self._close_session()
            self._not_listening_to = table

    def _listen_to(self, table: Table) -> None:
        """Hear of jobs until there is no use in it, or another table to listen to."""
        failures = 0
        while not self._ended and self._database.table is table:
            if self._not_listening_to is table:
                self._wait(None)
                continue
            try:
                if (session := self._connect(table)) is not None:
                    self._hear(session, table)
                failures = 0
            except ErrClientClosed:
                return
            except Exception as error:  # of psycopg2 or of the source; listening goes on when it can
                self._close_session()
                failures += 1
                if failures == 1 and not self._ended:
                    self._database.logger.warning(
                        "listening_interrupted queue=%s: %s", printable(self._queue), one_line(error)
                    )
                self._wait(reconnect_pause(failures, self._longest_pause))

    def _connect(self, table: Table) -> Session | None:
        """Return the session that listens; None if *table* notifies nobody, or not us. It isn't listened to then."""
        if self._session is None:
            self._session = self._database.lease()
            if self._session.run(table.notifies)[0][0]:
                self._session.listen(table)
                if self._engine.enlist(self._session, self._queue, self._workers):
                    self._sleepers.wake(1)  # for what was enqueued while nobody listened
                    return self._session
            self._not_listening_to = table
            self._hang_up()
        return self._session

    def _hear(self, session: Session, table: Table) -> None:
        """Wait for notifications, and wake a worker for each batch of jobs that there may be."""
        if session.expired:
            self._close_session()
            return
        seconds = min(_SILENCE_SECONDS, session.seconds_until_expiry)
        if self._wait(seconds, session.conn.fileno()) and not self._ended:
            session.run(table.notifies)  # fails if the server, or the way to it, is gone without a word
            # The table of lockers may have been emptied, or replaced by another.
            self._engine.enlist(session, self._queue, self._workers)
        queue = table.queue_name(self._queue)
        payloads = session.notifications()
        if told := list(filter(None, map(read_told, payloads))):
            self._engine.note_told(told, session, table)
            self._sleepers.wake(self._sleepers.count)
        heard = [table.read_notification(payload) for payload in payloads]
        due = [each[1] for each in heard if each is not None and each[0] == queue]
        if due:
            # One looks even if none is due: so it learns when the next one will be.
            self._sleepers.wake_for(sum(due))

    def _wait(self, seconds: float | None, *files: int) -> bool:
        """Wait until there is something to read, or somebody wakes us; return whether nothing came in *files*."""
        with selectors.DefaultSelector() as selector:
            for file in (self._pipe.fileno(), *files):
                selector.register(file, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(seconds)}
        self._pipe.drain()
        return not ready & set(files)

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close_now()

    def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.stop_listening()
            session.give_back()


class _Pipe:
    """Ends a wait for sockets. A signal handler may do that; to write a byte is all that it does."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        # A pipe that is full wakes whoever waits, and must not hold up who wakes.
        self._near.setblocking(False)
        self._far.setblocking(False)

    def fileno(self) -> int:
        return self._near.fileno()

    def wake(self) -> None:
        with suppress(OSError):  # it is full, or closed
            self._far.send(b"\0")

    def drain(self) -> None:
        with suppress(BlockingIOError):
            self._near.recv(4096)

    def close(self) -> None:
        self._near.close()
        self._far.close()
