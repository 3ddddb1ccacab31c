"""Database: everything between a client and its database, but for the jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from qg.database.foreign import rows_in
from qg.database.known_table import STALE, KnownTable, Watcher
from qg.database.pooler import pools_transactions
from qg.database.session import Session
from qg.database.sources import source_from, transaction
from qg.errors import ErrClientClosed, ErrPooler, ErrTable
from qg.failures import Logger
from qg.tables import Statement, Table, detect

__all__ = ["Database"]

_Result = TypeVar("_Result")

# A table that changes more often than this during one call is nobody's to wait for.
_MOST_MIGRATIONS = 10


class Database:
    """Leases sessions, knows the table, and is open or closed. Safe to use from any thread.

    Whoever works on the table reads :attr:`table` once, and hands it on. If a statement of it fails,
    :meth:`recheck` tells whether the table was migrated; :meth:`on_table` does that by itself.

    Args:
        source: where connections come from, as a caller of :class:`qg.Client` gives it.
        logger: for all that works here.
        deadline: how many seconds to wait for an answer at the most; None means for ever.
        max_lifetime: after how many seconds a connection is replaced; None means never.
        name: what its connections are called; see source_from().

    Raises:
        ErrUnusable: if *source* is of no known kind.
        ErrTable: if there is no table that this qg works.
        psycopg2.Error: if the database can't be reached or used.
    """

    def __init__(
        self,
        source: object,
        logger: Logger,
        *,
        deadline: float | None = None,
        max_lifetime: float | None = None,
        name: str = "qg",
    ) -> None:
        self.logger = logger
        self._source = source_from(source, max_lifetime, name)
        self._deadline = deadline
        self._closed = False
        self._known = KnownTable(self._source, deadline)
        # Whether sessions were found to stay on one server process each.
        self._pools_sessions = False

    @property
    def table(self) -> Table:
        """The table as it is known by now. Another call may return another one."""
        return self._known.table

    @property
    def closed(self) -> bool:
        """Whether nothing more is leased."""
        return self._closed

    @property
    def spare(self) -> int | None:
        """How many connections could be leased now without waiting; None where nobody knows."""
        return self._source.spare()

    def refuse_leases(self) -> None:
        """Lease nothing more, except for jobs that are still being worked."""
        self._closed = True

    def close(self) -> None:
        """Lease nothing more, and close the connections that qg opened and nobody uses."""
        self.refuse_leases()
        self._source.close()
        self._known.call_watchers()

    def require_open(self) -> None:
        """Raise ErrClientClosed after refuse_leases()."""
        if self._closed:
            raise self.closed_error()

    @staticmethod
    def closed_error() -> ErrClientClosed:
        """Return what is raised where somebody wants something of a closed client."""
        return ErrClientClosed("this client was closed and takes nothing more; create another one")

    def lease(self, *, even_if_closed: bool = False) -> Session:
        """Lease a session to lock jobs on, or to hold for long: in the mode for a handler, and prepared.

        Args:
            even_if_closed: for a job that is still being worked.

        Raises:
            ErrClientClosed: after close().
            ErrPooler: if there is a pooler in between that gives each transaction another session.
            psycopg2.Error: if the database can't be reached or used, or the table is none any more that qg works.
            Exception: what the source raises passes through.
        """
        session = self._lease(even_if_closed=even_if_closed)
        try:
            self.on_table(session, session.prepare)
            if session.is_behind_pooler and not self._pools_sessions:
                self._require_session_pooling(session)
        except BaseException:
            session.close_now()
            raise
        return session

    def _lease(self, *, even_if_closed: bool = False, hurries: bool = True) -> Session:
        if not even_if_closed:
            self.require_open()
        return Session(self._source.lease(), self._deadline if hurries else None)

    def _require_session_pooling(self, session: Session) -> None:
        """Raise ErrPooler if a pooler gives each transaction another server process; find that out once."""
        found = pools_transactions(session, self._source)
        if found:
            raise self.pooler_error()
        self._pools_sessions = found is False

    def pooler_error(self) -> ErrPooler:
        """Return what is raised where somebody wants to lock jobs behind a pooler that pools transactions."""
        return ErrPooler(
            "a pooler between this client and PostgreSQL pools transactions, so that advisory locks are lost and "
            "jobs would run several times; connect to PostgreSQL directly, or let it pool sessions"
        )

    @contextmanager
    def session(self, *, hurries: bool = True) -> Iterator[Session]:
        """Lease a session for a block that locks nothing. Raises what lease() raises.

        Nothing is prepared, so that it works behind a pooler that pools transactions. Without *hurries*, its
        statements may take as long as they like.
        """
        session = self._lease(hurries=hurries)
        try:
            yield session
        finally:
            session.give_back()

    def run(self, work: Callable[[Session, Table], _Result], *, hurries: bool = True) -> _Result:
        """Return what *work* gives on a session() of its own, as on_table()."""
        with self.session(hurries=hurries) as session:
            return self.on_table(session, partial(work, session))

    def on_table(self, session: Session, work: Callable[[Table], _Result]) -> _Result:
        """Return what *work* gives for the table as it is known.

        Where it fails because the table was migrated meanwhile, it is called again for the table that
        there is now. It must have done nothing by then; what it began, it must undo.

        Args:
            session: what *work* uses, and what is asked then.
            work: is given the table.

        Raises:
            Exception: what *work* raises for the table that is there.
        """
        migrations = 0
        while True:
            table = self.table
            try:
                if migrations and session.idle and session.for_locking:
                    session.prepare(table)
                return work(table)
            except STALE:
                migrations += 1
                if migrations > _MOST_MIGRATIONS or not (self.recheck(table, session) and session.usable):
                    raise

    def recheck(self, table: Table, session: Session | None) -> bool:
        """Find out whether the table is another one than *table*, and take note of it; return whether it is.

        It is looked for where it was, whatever search_path a handler has left on *session*. One query, in
        whatever transaction is open there. None where somebody has found another table already, or where
        *session* is None or can't be asked. A table that qg doesn't work, or none at all, isn't noted.

        Raises:
            psycopg2.Error: if the query fails.
        """
        if self.table is table and session is not None and session.usable:
            with suppress(ErrTable):
                self._known.set(session.detect(table.schema))
        return self.table is not table

    def recheck_apart(self, table: Table) -> bool:
        """Do as recheck() on a connection of its own, while a transaction of the caller's is open.

        A failure is no news, and where the source has no connection to spare nothing is asked.
        """
        if self.table is table and self.spare != 0:
            # Without a Session, whose statements would wait for whoever waits for that transaction.
            with suppress(Exception), transaction(self._source, self._deadline) as cur:
                self._known.set(detect(cur, table.schema))
        return self.table is not table

    def rows_in(self, tx: object, table: Table, statement: Statement, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a *statement* of *table* in the caller's transaction *tx* and return its rows.

        Whatever fails there passes to the caller, and then it is looked whether the table was migrated:
        their next try may succeed.
        """
        try:
            return rows_in(tx, statement, params)
        except Exception:  # of whatever driver
            self.recheck_apart(table)
            raise

    def add_watcher(self, watcher: Watcher) -> None:
        """Call *watcher* whenever the table may be another one, or empty, or the client closed."""
        self._known.add_watcher(watcher)

    def call_watchers(self) -> None:
        """Let the watchers look again."""
        self._known.call_watchers()
