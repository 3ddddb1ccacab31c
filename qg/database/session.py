"""Session: one leased connection at work, and its way back."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import psycopg2
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
    connection,
    cursor,
)
from psycopg2.sql import SQL, Identifier

from qg.database.driver import close, commit, is_quiet, notice_end, plain_cursor, rollback
from qg.database.encoding import UNREADABLE, fetch_unreadable, speak_utf8
from qg.database.sources import Lease
from qg.tables import Statement, Table, detect
from qg.tables.locking import (
    DELETE_JOBS,
    PREPARED,
    TAKE_JOBS,
    TAKE_JOBS_BY_RUN_AT,
    UNLOCK_EVERYTHING,
    UNLOCK_JOB,
)
from qg.tables.settings import BEGIN_HOLDING, SET_IDLE_TIMEOUT

__all__ = ["Session", "prepare_statements"]

# Which tables' statements a connection has. A connection from somebody's pool outlives the client
# that prepared it, and the next client needn't do it again; so this is nobody's but the module's.
_prepared: weakref.WeakKeyDictionary[connection, set[Table]] = weakref.WeakKeyDictionary()
# Which of their statements it hasn't, since somebody else has the name: for another schema, mostly.
# They are sent in full.
_not_ours: weakref.WeakKeyDictionary[connection, set[Statement]] = weakref.WeakKeyDictionary()
# Which table's functions it has: there is one set of them.
_can_take: weakref.WeakKeyDictionary[connection, Table] = weakref.WeakKeyDictionary()
# Which connections of a pool were given back with an idle_session_timeout of their own.
_with_timeout: weakref.WeakSet[connection] = weakref.WeakSet()


class Session:
    """The holder of a leased connection: runs statements on it, and gives it back.

    While nothing runs, the connection is in one of two modes. For a handler it is in psycopg2's ordinary
    mode, where a statement begins a transaction; :meth:`run` leaves that mode for one statement. For
    statements of our own it is in autocommit mode. A session begins in the mode for a handler.

    A session that is to lock jobs, or to be held for long, is prepared for that (:meth:`prepare`). On any other
    one nothing is prepared or taken for prepared: behind a pooler that pools transactions, each message may
    meet another server process.

    A session isn't safe between threads by itself. The job that is locked on it sees to that.

    Args:
        lease: the connection, idle and in nobody else's hands.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._returned = False
        # The table whose statements prepare() has seen to.
        self._table: Table | None = None
        # What to send in full all the same; looked up once, and not for each message.
        self._not_ours: set[Statement] = set()
        # The idle_session_timeout that a pool's connection is to get back; None where it has none.
        self._idle_timeout: str | None = None
        # The version whose table of lockers this session is to be in, and what removes it from there.
        self.enlisted_in: Table | None = None
        self._leave: Statement | None = None
        self._channel: Identifier | None = None
        # The client_encoding that is to be given back; None where it was UTF8.
        self._encoding: str | None = None
        try:
            self._encoding = speak_utf8(self.conn)
            self._mode = _Mode.of(self.conn)
            self.make_ready_for_handler()
        except BaseException:
            self.close_now()
            raise

    def __del__(self) -> None:
        # A job that nobody called done() on. Its connection may belong to a pool that would give it
        # to the next one with the lock on it.
        if not getattr(self, "_returned", True):
            self.close_now()

    @property
    def conn(self) -> connection:
        """The leased connection."""
        return self._lease.conn

    @property
    def idle(self) -> bool:
        """Whether the connection is open, in no transaction and in no statement."""
        return not self.conn.closed and self._status == TRANSACTION_STATUS_IDLE

    @property
    def alive(self) -> bool:
        """Whether the connection is idle and the server, as far as we can see, still there."""
        return self.idle and is_quiet(self.conn)

    @property
    def usable(self) -> bool:
        """Whether a statement could be run now, in a transaction or outside of one."""
        return not self.conn.closed and self._status in (TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, aborted or not."""
        return self._status in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR)

    @property
    def _status(self) -> int:
        return self.conn.get_transaction_status()

    @property
    def for_locking(self) -> bool:
        """Whether prepare() was called."""
        return self._table is not None

    def prepare(self, table: Table) -> None:
        """Prepare the statements of *table*, unless this connection has them: the session is to lock jobs.

        From then on its idle_session_timeout is 0, since a handler may leave it idle for long, and the
        server's side of it has keepalives. A pool's connection gets its own timeout back. That costs two
        messages a lease where it has one; by default PostgreSQL has none. The keepalives stay: they do no
        harm to anybody. On connections that are qg's own the timeout stays 0, which costs nothing, ever.

        Raises:
            psycopg2.Error: if they don't fit the table that is there.
        """
        self._table = table
        self._not_ours = _not_ours.setdefault(self.conn, set())
        if table not in _prepared.get(self.conn, ()) or self.conn in _with_timeout:
            with self._autocommit(), plain_cursor(self.conn) as cur:
                self._begin_holding(cur, [UNLOCK_JOB, *table.prepared])
            _prepared.setdefault(self.conn, set()).add(table)

    def _begin_holding(self, cur: cursor, statements: Sequence[Statement]) -> None:
        """Set what a session that locks is to have, and prepare those of *statements* that aren't."""
        cur.execute(BEGIN_HOLDING.plain_sql, _names_and_texts(statements))
        ((present, not_ours, timeout),) = cur.fetchall()
        if timeout not in (None, "0"):
            self._idle_timeout = timeout
        _with_timeout.discard(self.conn)
        _prepare(cur, statements, {name: name not in not_ours for name in present})

    def _give_back_timeout(self) -> None:
        if self._idle_timeout is not None and not self._lease.own:
            self.run(SET_IDLE_TIMEOUT, (self._idle_timeout,))
            _with_timeout.add(self.conn)

    def run(self, statement: Statement, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run *statement* by itself, outside any transaction, and return its rows.

        By its name, if the session is for locking, otherwise in full. Text that isn't text in the database's
        encoding comes as fetch_unreadable() has it.
        """
        sql = self._sql(statement)
        with self._autocommit():
            try:
                return self._fetch(sql, params)
            except UNREADABLE as error:
                if self.in_transaction:
                    raise
                if self._table is not None and statement in self._table.locking:
                    # It locked the row that can't be read, and would lock it a second time.
                    self._fetch(UNLOCK_EVERYTHING.call_sql, ())
                return fetch_unreadable(self.conn, sql, params, error)
            except psycopg2.errors.InvalidSqlStatementName:
                # Somebody threw the prepared statements away: DISCARD ALL of a pool, mostly.
                known = [] if self._table is None else self._table.prepared
                with plain_cursor(self.conn) as cur:
                    self._begin_holding(cur, [UNLOCK_JOB, *known] if statement in known else [statement])
                return self._fetch(self._sql(statement), params)

    def prepare_taking(self, table: Table) -> None:
        """Make what delete_and_run() needs for *table*, unless this connection has it.

        Raises:
            psycopg2.Error: if the session may not have functions of its own.
        """
        if _can_take.get(self.conn) is not table:
            with self._autocommit(), plain_cursor(self.conn) as cur:
                cur.execute(table.functions)
                self._begin_holding(cur, [DELETE_JOBS, TAKE_JOBS, TAKE_JOBS_BY_RUN_AT])
            _can_take[self.conn] = table

    def delete_and_run(
        self, table: Table, deleted: Sequence[Any] | None, statement: Statement, params: Sequence[Any]
    ) -> list[tuple[Any, ...]]:
        """Run DELETE_JOBS in a transaction of its own, then *statement* by itself, in one message.

        Args:
            table: the one that prepare_taking() was called for.
            deleted: the parameters of DELETE_JOBS; None leaves it out.
            statement: TAKE_JOBS or another.
            params: its parameters.

        Returns:
            The rows of *statement*.

        Raises:
            psycopg2.Error: if one of them fails; no transaction is left open. Whether the first was
                committed then, only the table tells.
        """
        everything = params if deleted is None else (*deleted, *params)
        with self._autocommit():
            try:
                return self._fetch(self._sql_after_deletion(deleted, statement), everything)
            except (psycopg2.errors.InvalidSqlStatementName, psycopg2.errors.UndefinedFunction):
                # Thrown away, as in run(). Where that happened after the COMMIT, half of it is done.
                undone = self.in_transaction
                self.rollback()
                _can_take.pop(self.conn, None)
                self.prepare_taking(table)
                if undone:
                    return self._fetch(self._sql_after_deletion(deleted, statement), everything)
                return self._fetch(self._sql(statement), params)
            except UNREADABLE as error:
                if self.in_transaction or statement not in (TAKE_JOBS, TAKE_JOBS_BY_RUN_AT):
                    raise
                # All is done by now but for telling us which jobs it locked. The lock that was to be given
                # up is gone, and nobody will hear whether it had been held.
                self._fetch(UNLOCK_EVERYTHING.call_sql, ())
                return fetch_unreadable(self.conn, self._sql(statement), (None, *params[1:]), error)
            finally:
                if self.in_transaction:
                    self.rollback()

    def run_in_transaction(self, statement: Statement, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run *statement* in the open transaction and return its rows.

        In full, since a handler's transaction is lost if the prepared statement is. Where none is open, one begins.
        """
        notice_end(self.conn)
        return self._fetch(statement.plain_sql, params)

    def commit(self) -> None:
        """Commit the open transaction, however it was begun; an aborted one raises."""
        commit(self.conn)

    def rollback(self) -> None:
        """Roll back the open transaction, however it was begun."""
        rollback(self.conn)

    def make_ready_for_handler(self) -> None:
        """Put the idle connection into the mode that a handler expects, whatever the last handler set."""
        self._mode.apply(self.conn, autocommit=False)

    def make_ready_for_statements(self) -> None:
        """Put the idle connection into the mode for statements of our own.

        Any statement works in either mode. This one spares a switch there and back for each.
        """
        self.make_ready_for_handler()
        self.conn.autocommit = True

    def detect(self, schema: str) -> Table:
        """Return the table that is there now in *schema*. One query, in whatever transaction is open.

        Raises:
            ErrTable: if there is none that qg works.
        """
        with self._autocommit() if self.idle else nullcontext(), plain_cursor(self.conn) as cur:
            return detect(cur, schema)

    def enlist(self, table: Table, workers: int, queue: str, *, listening: bool) -> None:
        """Say in the table of lockers, where *table* has one, that this session is one of this process's.

        Ruby Que shows with it who works a job. Ends with give_back(), or with the session.

        Args:
            table: the table as it is known.
            workers: how many jobs the session is to be notified of in turn; 0 for none.
            queue: the queue's name.
            listening: whether it is to be notified.
        """
        self.enlisted_in = table
        self._leave = None
        if table.lockers is not None:
            whose = (os.getpid(), socket.gethostname(), table.queue_name(queue))
            self.run(table.lockers.register, (workers, *whose, listening))
            self._leave = table.lockers.leave

    def listen(self, table: Table) -> None:
        """Hear of the jobs that are enqueued in *table*, from now on."""
        self.make_ready_for_statements()
        self._channel = Identifier(table.channel(self.conn.info.backend_pid))
        with plain_cursor(self.conn) as cur:
            cur.execute(SQL("LISTEN {}").format(self._channel))

    def notifications(self) -> list[str]:
        """Return what was heard since the last call; doesn't wait."""
        self.conn.poll()
        heard = [each.payload for each in self.conn.notifies]
        self.conn.notifies.clear()
        return heard

    def stop_listening(self) -> None:
        """Hear no more; a session that can't do that is closed."""
        if self._channel is None:
            return
        try:
            with plain_cursor(self.conn) as cur:
                cur.execute(SQL("UNLISTEN {}").format(self._channel))
            self.conn.notifies.clear()
        except psycopg2.Error:
            self.close_now()

    def give_back(self) -> None:
        """Return the connection, free of locks, to its source; a second call does nothing.

        A connection that isn't idle is closed instead.
        """
        if self._returned:
            return
        try:
            if self.idle:
                if self._leave is not None:
                    self.run(self._leave)
                self._give_back_timeout()
                if self._encoding is not None and not self._lease.own:
                    self.conn.set_client_encoding(self._encoding)
                self._mode.apply(self.conn, autocommit=self._mode.autocommit)
        except psycopg2.Error:
            close(self.conn)
        reusable = self.idle
        self._returned = True
        self._lease.give_back(reusable)

    def close_now(self) -> None:
        """Close the connection, which frees its locks; for one whose state is in doubt."""
        if not self._returned:
            self._returned = True
            self._lease.give_back(False)

    def _autocommit(self) -> AbstractContextManager[None]:
        return nullcontext() if self.conn.autocommit else self._for_now_in_autocommit()

    @contextmanager
    def _for_now_in_autocommit(self) -> Iterator[None]:
        notice_end(self.conn)
        self.conn.autocommit = True
        try:
            yield
        finally:
            if not self.conn.closed:
                self.conn.autocommit = False

    def _sql_after_deletion(self, deleted: Sequence[Any] | None, statement: Statement) -> str:
        """Return what calls *statement*, after DELETE_JOBS in a transaction of its own if anything is *deleted*."""
        sql = self._sql(statement)
        return sql if deleted is None else f"BEGIN;{self._sql(DELETE_JOBS)};COMMIT;{sql}"

    def _sql(self, statement: Statement) -> str:
        """Return what calls *statement* on this connection."""
        if self._table is None or (self._not_ours and statement in self._not_ours):
            return statement.full_sql
        return statement.call_sql

    def _fetch(self, sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        with plain_cursor(self.conn) as cur:
            cur.execute(sql, params)
            return cur.fetchall()


class _Mode(NamedTuple):
    """The transaction settings of a connection, which psycopg2 keeps on our side of the wire."""

    isolation_level: Any
    readonly: Any
    deferrable: Any
    autocommit: bool

    @classmethod
    def of(cls, conn: connection) -> _Mode:
        return cls(conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit)

    def apply(self, conn: connection, *, autocommit: bool) -> None:
        notice_end(conn)
        if _Mode.of(conn) == self._replace(autocommit=autocommit):
            return
        conn.set_session(
            isolation_level=_or_default(self.isolation_level),
            readonly=_or_default(self.readonly),
            deferrable=_or_default(self.deferrable),
            autocommit=autocommit,
        )


def _or_default(setting: Any) -> Any:
    return "DEFAULT" if setting is None else setting


def prepare_statements(conn: connection) -> None:
    """Prepare the ``que_…`` statements on *conn*, those whose names aren't there already.

    They work the table that the search_path finds now, whatever it is set to later. On a table of version 3
    their names are Go's; on a later one ``_v4`` to ``_v7`` stands at the end.
    :class:`qg.Client` does this by itself on each connection it locks jobs on; call it to have the
    statements elsewhere. A transaction that is open stays open; otherwise none is left behind.
    Mirrors Go's ``PrepareStatements``.

    Args:
        conn: a psycopg2 connection whose search_path finds the table.

    Raises:
        ErrTable: if there is no table of a version that qg works.
    """
    idle = conn.info.transaction_status == TRANSACTION_STATUS_IDLE
    try:
        with plain_cursor(conn) as cur:
            statements = [UNLOCK_JOB, *detect(cur).prepared]
            cur.execute(PREPARED.plain_sql, _names_and_texts(statements))
            _prepare(cur, statements, dict(cur.fetchall()))
    finally:
        if idle and not conn.closed:
            conn.rollback()


def _names_and_texts(statements: Sequence[Statement]) -> tuple[list[str | None], list[str]]:
    return [each.name for each in statements], [each.text for each in statements]


def _prepare(cur: cursor, statements: Sequence[Statement], present: Mapping[str, bool]) -> None:
    """Prepare those of *statements* whose names aren't *present*; that says whether the name is the statement's."""
    missing = [each.prepare_sql for each in statements if each.name not in present]
    if missing:
        cur.execute(";\n".join(missing))
    not_ours = _not_ours.setdefault(cur.connection, set())
    not_ours.difference_update(statements)
    not_ours.update(each for each in statements if each.name and present.get(each.name) is False)
