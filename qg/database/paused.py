"""PausedQueues: which queues workers are to leave alone, as the table of pauses says; looked up now and then."""

from __future__ import annotations

import threading
import time

import psycopg2

from qg.database.rights import grants_for
from qg.database.session import Session
from qg.failures import Logger, one_line, printable
from qg.tables import Table
from qg.tables.pauses import pauses_in
from qg.tables.rights import to_obey

__all__ = ["LOOK_SECONDS", "PausedQueues"]

LOOK_SECONDS = 1.5
"""How often it is looked which queues are paused."""

# How long whoever comes second waits for the first look of all, so that nobody works a paused queue for a start.
_FIRST_LOOK_SECONDS = 0.25


class PausedQueues:
    """Which queues are paused, as far as is known. One for each client; safe to use from any thread.

    Nobody waits for it: who has a session to spare calls look() when :attr:`overdue`, and whoever wants to know asks
    for nothing but what was found then. So a pause holds within two seconds.

    Args:
        logger: is told once if the role may not look.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._mutex = threading.Lock()
        self._paused: frozenset[str] = frozenset()
        self._look_at = 0.0
        self._has_looked = False
        # What was asked for last by look_soon(), and what the last look has seen to: each a new object.
        self._asked = self._answered = object()
        # The schema whose table is known to be there, and readable.
        self._readable_in: str | None = None
        self._refusal_logged = False

    @property
    def overdue(self) -> bool:
        """Whether it is time to look. Costs no message."""
        return self._asked is not self._answered or time.monotonic() >= self._look_at

    def look_soon(self) -> None:
        """Let it be time to look: somebody has told that there is something to see, after the look that goes on now."""
        self._asked = object()

    def has(self, queue: str, table: Table) -> bool:
        """Whether *queue* was paused when somebody looked last. Costs no message."""
        return table.queue_name(queue) in self._paused

    def look(self, session: Session, table: Table) -> None:
        """Look which queues are paused.

        One message on *session*, which must be idle, outside any transaction; a second one at first. The session may
        hold the locks of many jobs, so it waits a tenth of a second at the most where somebody has locked the table;
        what was known holds on then. If another thread looks just then, this does nothing; but for the first time,
        when it waits a moment for that.

        Raises:
            psycopg2.Error: if the session fails. What the table, or its absence, or a lack of rights has to do
                with isn't raised: then no queue is paused.
        """
        if not self._mutex.acquire(timeout=0 if self._has_looked else _FIRST_LOOK_SECONDS):
            return
        try:
            if self.overdue:
                asked, look_at = self._asked, time.monotonic() + LOOK_SECONDS
                self._paused = self._find(session, table)
                self._answered, self._look_at, self._has_looked = asked, look_at, True
        finally:
            self._mutex.release()

    def _find(self, session: Session, table: Table) -> frozenset[str]:
        pauses = pauses_in(table.schema)
        try:
            if self._readable_in != table.schema:
                found = session.run(pauses.readable, (table.schema,))
                if found != [(True,)]:
                    if found:
                        self._log_refusal(session, table, f"permission denied for table {table.schema}.qg_queues")
                    return self._find_nothing()
                self._readable_in = table.schema
            return frozenset(table.queue_name(queue) for (queue,) in session.run(pauses.paused))
        except psycopg2.errors.LockNotAvailable:  # VACUUM FULL, say, or somebody who waits for it
            return self._paused
        except psycopg2.ProgrammingError as error:  # dropped, or a right was revoked
            if not isinstance(error, psycopg2.errors.UndefinedTable):
                self._log_refusal(session, table, one_line(error))
            return self._find_nothing()

    def _find_nothing(self) -> frozenset[str]:
        self._readable_in = None  # a migration, or a GRANT, needs no restart
        return frozenset()

    def _log_refusal(self, session: Session, table: Table, refusal: str) -> None:
        if not self._refusal_logged:
            self._refusal_logged = True
            self._logger.warning(
                "pauses_unseen: %s; who works here goes on when a queue is paused%s",
                printable(refusal),
                printable(grants_for(session, to_obey(table))),
            )
