"""Session: one leased connection at work, and its way back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import psycopg2
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
    connection,
)
from psycopg2.sql import SQL, Identifier

from qg.database.deadline import Deadline
from qg.database.driver import close, commit, is_lost, is_quiet, notice_end, plain_cursor, rollback
from qg.database.encoding import UNREADABLE, fetch_unreadable, speak_utf8
from qg.database.lending import Lending
from qg.database.mode import Mode
from qg.database.prepared import begin_holding, prepared_on
from qg.database.sources import Lease
from qg.tables import Statement, Table, detect
from qg.tables.locking import (
    DELETE_JOBS,
    TAKE_JOBS,
    TAKE_JOBS_BY_RUN_AT,
    UNLOCK_EVERYTHING,
    UNLOCK_JOB,
    UNLOCK_OTHERS,
)
from qg.tables.pauses import CONTROL_CHANNEL
from qg.tables.settings import BACKEND_PID, NAME_SESSION, RESET_TRANSACTIONS, SET_IDLE_TIMEOUT

__all__ = ["Session"]

# A session that can't have functions of its own is asked again after so long: a GRANT needs no restart.
_PLAINLY_SECONDS = 60.0
# How old a look may be that still tells whether a session is lost.
_LOOK_SECONDS = 0.001


class Session:
    """The holder of a leased connection: runs statements on it, and gives it back.

    While nothing runs, the connection is in one of two modes. For a handler it is in psycopg2's ordinary
    mode, where a statement begins a transaction; :meth:`run` leaves that mode for one statement. For
    statements of our own it is in autocommit mode. A session begins in the mode for a handler.

    A session that is to lock jobs, or to be held for long, is prepared for that (:meth:`prepare`). On any other
    one nothing is prepared or taken for prepared: behind a pooler that pools transactions, each message may
    meet another server process.

    A handler that gets the connection (:meth:`lend`) may set on it what it likes, its role for instance. From
    then on whatever is run here is run as the session's own user, in the same message; see Lending.

    A session isn't safe between threads by itself. The job that is locked on it sees to that.

    Args:
        lease: the connection, idle and in nobody else's hands.
        deadline: how many seconds to wait for an answer at the most; None means for ever.
    """

    def __init__(self, lease: Lease, deadline: float | None = None) -> None:
        self._lease = lease
        self._returned = False
        self._answer_by = Deadline(lease.conn, deadline)
        # What the connection has; looked up once, and not for each message.
        self._prepared = prepared_on(lease.conn)
        # The table whose statements prepare() has seen to.
        self._table: Table | None = None
        # The idle_session_timeout that a pool's connection is to get back; None where it has none.
        self._idle_timeout: str | None = None
        # The version whose table of lockers this session is to be in, and what removes it from there.
        self.enlisted_in: Table | None = None
        self._leave: Statement | None = None
        # The application_name that it is to get back; None where it still has its own.
        self._own_name: str | None = None
        self._channel: Identifier | None = None
        # The client_encoding that is to be given back; None where it was UTF8.
        self._encoding: str | None = None
        # When somebody last looked whether it was lost, and what was seen.
        self._looked_at = 0.0
        self._was_lost = False
        try:
            with self._answer_by:
                self._encoding = speak_utf8(self.conn)
            self._mode = Mode.of(self.conn)
            self.make_ready_for_handler()
        except BaseException:
            self.close_now()
            raise
        self._lending = Lending(lease)

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
    def lost(self) -> bool:
        """Whether the server has ended the session, as far as it has told us. May be asked from another thread."""
        return is_lost(self.conn)

    @property
    def lost_lately(self) -> bool:
        """As lost, from a look that is a millisecond old at the most: each look costs a system call."""
        now = time.monotonic()
        if self.conn.closed or now - self._looked_at > _LOOK_SECONDS:
            self._looked_at, self._was_lost = now, self.lost
        return self._was_lost

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

    @property
    def expired(self) -> bool:
        """Whether the connection is so old that another one is to take its place."""
        return time.monotonic() > self._lease.expires_at

    @property
    def seconds_until_expiry(self) -> float:
        """In how many seconds it will be so old."""
        return max(self._lease.expires_at - time.monotonic(), 0.0)

    @property
    def takes_plainly(self) -> bool:
        """Whether note_takes_plainly() was called within the last minute."""
        return time.monotonic() < self._prepared.plainly_until

    @property
    def backend_pid(self) -> int | None:
        """The server process that answered when the session was prepared."""
        return self._prepared.backend_pid

    @property
    def is_behind_pooler(self) -> bool:
        """Whether the server that answered is another process than the one that we connected to."""
        return self.backend_pid not in (None, self.conn.info.backend_pid)

    @property
    def is_lent(self) -> bool:
        """Whether a handler has got the connection, and may have set something on it."""
        return self._lending.is_lent

    @property
    def is_held_by_handler(self) -> bool:
        """Whether somebody has still got the connection that was lent, or a cursor of it, in a thread for instance."""
        return self._lending.is_kept

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
        if table not in self._prepared.tables or self._prepared.has_timeout:
            self._begin_holding([UNLOCK_JOB, *table.prepared])
            self._prepared.tables.add(table)

    def _begin_holding(self, statements: Sequence[Statement], before: str = "") -> None:
        """Run the SQL *before*, set what a session that locks is to have, and prepare *statements*."""
        with self._answer_by, self._autocommit(), plain_cursor(self.conn) as cur:
            if before:
                cur.execute(before)
            self._idle_timeout = begin_holding(cur, statements) or self._idle_timeout

    def _give_back_timeout(self) -> None:
        if self._idle_timeout is not None and not self._lease.own:
            self.run(SET_IDLE_TIMEOUT, (self._idle_timeout,))
            self._prepared.has_timeout = True

    def lend(self) -> connection:
        """Return the connection for a handler."""
        self._lending.lend()
        return self.conn

    def run(self, statement: Statement, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run *statement* by itself, outside any transaction, and return its rows.

        By its name, if the session is for locking, otherwise in full. Text that isn't text in the database's
        encoding comes as fetch_unreadable() has it.
        """
        sql = self._sql(statement)
        with self._answer_by, self._autocommit():
            try:
                return self._fetch_alone(sql, params)
            except UNREADABLE as error:
                if self.in_transaction:
                    raise
                if self._table is not None and statement in self._table.locking:
                    # It locked the row that can't be read, and would lock it a second time.
                    self._fetch(UNLOCK_EVERYTHING.call_sql, ())
                return fetch_unreadable(self.conn, *self._lending.alone(sql, params), error)
            except psycopg2.errors.InvalidSqlStatementName:
                # Somebody threw the prepared statements away: DISCARD ALL of a pool, mostly.
                known = [] if self._table is None else self._table.prepared
                self._begin_holding([UNLOCK_JOB, *known] if statement in known else [statement])
                return self._fetch_alone(self._sql(statement), params)

    def run_last(self, statement: Statement, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Do as run(), as the last one before give_back(). In the same message, what a handler has set is reset."""
        if not self._lending.is_lent:
            return self.run(statement, params)
        with self._answer_by, self._autocommit():
            sql, everything = self._lending.alone(self._sql(statement), params)
            rows = self._fetch(f"{RESET_TRANSACTIONS};{sql}", everything)
            self._lending.take_back()
            return rows

    def prepare_taking(self, table: Table) -> None:
        """Make what delete_and_run() needs for *table*, unless this connection has it.

        Raises:
            psycopg2.Error: if the session may not have functions of its own.
        """
        if self._prepared.functions_of is not table:
            self._begin_holding([DELETE_JOBS, TAKE_JOBS, TAKE_JOBS_BY_RUN_AT], before=table.functions)
            self._prepared.functions_of = table

    def note_takes_plainly(self) -> None:
        """Note that delete_and_run() isn't possible here, and that it isn't to be tried again for a minute."""
        self._prepared.plainly_until = time.monotonic() + _PLAINLY_SECONDS

    def delete_and_run(
        self,
        table: Table,
        deleted: Sequence[Any] | None,
        statement: Statement,
        params: Sequence[Any],
        along: Sequence[tuple[Statement, Sequence[Any]]] = (),
    ) -> list[tuple[Any, ...]]:
        """Run DELETE_JOBS in a transaction of its own, then *statement* by itself, in one message.

        Args:
            table: the one that prepare_taking() was called for.
            deleted: the parameters of DELETE_JOBS; None leaves it out.
            statement: TAKE_JOBS or another.
            params: its parameters.
            along: statements for the transaction of DELETE_JOBS, and their parameters.

        Returns:
            The rows of *statement*.

        Raises:
            psycopg2.Error: if one of them fails; no transaction is left open. Whether the first was
                committed then, only the table tells.
        """
        with self._answer_by, self._autocommit():
            try:
                rows = self._fetch_after_deletion(deleted, along, statement, params)
                self._lending.take_back()
                return rows
            except (psycopg2.errors.InvalidSqlStatementName, psycopg2.errors.UndefinedFunction):
                # Thrown away, as in run(). Where that happened after the COMMIT, half of it is done.
                undone = self.in_transaction
                self.rollback()
                self._prepared.functions_of = None
                self.prepare_taking(table)
                if undone:
                    return self._fetch_after_deletion(deleted, along, statement, params)
                return self._fetch_alone(self._sql(statement), params)
            except (psycopg2.errors.ReadOnlySqlTransaction, psycopg2.errors.FeatureNotSupported):
                if not self._lending.is_lent:
                    raise
                # The handler may have changed what later transactions are like. The deletion fails first then.
                undone = self.in_transaction
                self.rollback()
                with plain_cursor(self.conn) as cur:
                    cur.execute(RESET_TRANSACTIONS)
                if undone or deleted is None:
                    return self._fetch_after_deletion(deleted, along, statement, params)
                return self._fetch_alone(self._sql(statement), params)
            except UNREADABLE as error:
                if self.in_transaction or statement not in (TAKE_JOBS, TAKE_JOBS_BY_RUN_AT):
                    raise
                # All is done by now but for telling us which jobs it locked. What was to be unlocked is, and
                # nobody will hear whether it had been locked.
                held = params[2]
                if held is None:
                    self._fetch(UNLOCK_EVERYTHING.call_sql, ())
                else:
                    self._fetch(UNLOCK_OTHERS.call_sql, (held,))
                again = self._lending.alone(self._sql(statement), (None, None, *params[2:]))
                return fetch_unreadable(self.conn, *again, error)
            finally:
                if self.in_transaction:
                    self.rollback()

    def run_in_transaction(self, statement: Statement, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run *statement* in a transaction of qg's own and return its rows. Where none is open, one begins.

        In full, for the statements that were prepared may be gone.
        """
        with self._answer_by:
            self._leave_autocommit()
            return self._fetch(*self._lending.in_own_transaction(statement.plain_sql, params))

    def run_beside_handler(self, statement: Statement, params: Sequence[Any] = ()) -> str | None:
        """Run *statement* in the transaction that a handler has open, and return its answer(), None without one.

        In full, since a handler's transaction is lost if the prepared statement is. As the session's own user,
        whatever role the handler has set; it has its role again afterwards. Where none is open, one begins.
        """
        with self._answer_by:
            self._leave_autocommit()
            rows = self._fetch(*self._lending.beside(statement.plain_sql, params))
            return str(rows[0][-1]) if rows and rows[0][-1] is not None else None

    def commit(self) -> None:
        """Commit the open transaction, however it was begun; an aborted one raises."""
        with self._answer_by:
            commit(self.conn)

    def rollback(self) -> None:
        """Roll back the open transaction, however it was begun."""
        with self._answer_by:
            rollback(self.conn)

    def is_moved(self) -> bool:
        """Whether another server process answers than when the session was prepared. One message; must be idle."""
        ((pid,),) = self.run(BACKEND_PID)
        return bool(pid != self.backend_pid)

    def make_ready_for_handler(self) -> None:
        """Put the idle connection into the mode that a handler expects, whatever the last handler set."""
        with self._answer_by:
            self._mode.apply(self.conn, autocommit=False)

    def make_ready_for_statements(self) -> None:
        """Put the idle connection into the mode for statements of our own.

        Any statement works in either mode. This one spares a switch there and back for each.
        """
        with self._answer_by:
            self.make_ready_for_handler()
            self.conn.autocommit = True

    def detect(self, schema: str) -> Table:
        """Return the table that is there now in *schema*. One query, in whatever transaction is open.

        Raises:
            ErrTable: if there is none that qg works.
        """
        with self._answer_by, self._autocommit() if self.idle else nullcontext(), plain_cursor(self.conn) as cur:
            return detect(cur, schema)

    def enlist(self, table: Table, workers: int, queue: str, *, listening: bool) -> None:
        """Say that this session is a worker's, or a listener's, of this process: in its application_name.

        And in the table of lockers, where *table* has one; Ruby Que shows with it who works a job. Both end with
        give_back(), or with the session.

        Args:
            table: the table as it is known.
            workers: how many jobs the session is to be notified of in turn; 0 for none.
            queue: the queue's name.
            listening: whether it is to be notified.
        """
        self.enlisted_in = table
        self._leave = None
        if self._own_name is None:
            self._own_name = self.conn.info.parameter_status("application_name") or ""
        name = _name_of("listener" if listening else "worker", table.queue_name(queue), self._own_name)
        if table.lockers is not None:
            whose = (os.getpid(), socket.gethostname(), table.queue_name(queue))
            try:
                self.run(table.lockers.register, (name, workers, *whose, listening))
            except psycopg2.errors.InsufficientPrivilege:
                self.run(NAME_SESSION, (name,))  # it is seen by that at least
                raise
            self._leave = table.lockers.leave
        elif self.conn.info.parameter_status("application_name") != name:
            self.run(NAME_SESSION, (name,))

    def listen(self, table: Table) -> None:
        """Hear of the jobs that are enqueued in *table*, and of what is done to queues and jobs from outside."""
        self.make_ready_for_statements()
        # The server's own number; a pooler in between tells clients another one.
        self._channel = Identifier(table.channel(self.backend_pid or self.conn.info.backend_pid))
        with self._answer_by, plain_cursor(self.conn) as cur:
            cur.execute(SQL("LISTEN {}; LISTEN {}").format(self._channel, Identifier(CONTROL_CHANNEL)))

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
            with self._answer_by, plain_cursor(self.conn) as cur:
                cur.execute(SQL("UNLISTEN {}; UNLISTEN {}").format(self._channel, Identifier(CONTROL_CHANNEL)))
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
                with self._answer_by:
                    self._make_as_it_was()
        except psycopg2.Error:
            close(self.conn)
        reusable = self.idle
        self._returned = True
        self._lease.give_back(reusable)

    def _make_as_it_was(self) -> None:
        if self._leave is not None:
            self.run(self._leave, (self._own_name,))
        elif self._own_name is not None:
            self.run(NAME_SESSION, (self._own_name,))
        self._give_back_timeout()
        if self._encoding is not None and not self._lease.own:
            self.conn.set_client_encoding(self._encoding)
        self._mode.apply(self.conn, autocommit=self._mode.autocommit)

    def cancel_statement(self) -> None:
        """Cancel the statement that another thread runs, if one does. May take as long as connecting does."""
        with suppress(psycopg2.Error):  # there is no server any more, and so no statement
            self.conn.cancel()

    def close_now(self) -> None:
        """Close the connection, which frees its locks; for one whose state is in doubt."""
        if not self._returned:
            self._returned = True
            self._lease.give_back(False)

    def _leave_autocommit(self) -> None:
        """See to it that the next statement begins a transaction, unless one is open."""
        notice_end(self.conn)
        if self.conn.autocommit and self.idle:
            self.conn.autocommit = False

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

    def _fetch_after_deletion(
        self,
        deleted: Sequence[Any] | None,
        along: Sequence[tuple[Statement, Sequence[Any]]],
        statement: Statement,
        params: Sequence[Any],
    ) -> list[tuple[Any, ...]]:
        """Call *statement*, after DELETE_JOBS in a transaction of its own if anything is *deleted*."""
        sql = self._sql(statement)
        if deleted is not None:
            before = ";".join([self._sql(each) for each, _ in along] + [self._sql(DELETE_JOBS)])
            sql = f"BEGIN;{before};COMMIT;{sql}"
            params = [*(value for _, values in along for value in values), *deleted, *params]
        return self._fetch_alone(sql, params)

    def _sql(self, statement: Statement) -> str:
        """Return what calls *statement* on this connection."""
        if self._table is None or (self._prepared.not_ours and statement in self._prepared.not_ours):
            return statement.full_sql
        return statement.call_sql

    def _fetch_alone(self, sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run *sql* as the session's own user. If it fails, so has becoming that, in the same transaction."""
        return self._fetch(*self._lending.alone(sql, params))

    def _fetch(self, sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        with plain_cursor(self.conn) as cur:
            cur.execute(sql, params)
            return cur.fetchall()


def _name_of(kind: str, queue: str, own_name: str) -> str:
    """Return what a session of this *kind* is called; whoever has named it before stands behind."""
    name = f"qg {kind} {queue}".rstrip()
    return name if own_name in ("", "qg") else f"{name} ({own_name})"
