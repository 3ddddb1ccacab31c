"""What psycopg2 leaves to us about a single connection: ending it, its transactions, and seeing it is alive."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

import psycopg2
from psycopg2.extensions import (
    STATUS_IN_TRANSACTION,
    TRANSACTION_STATUS_ACTIVE,
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
    connection,
    cursor,
)

__all__ = ["close", "commit", "is_lost", "is_quiet", "notice_end", "plain_cursor", "rollback"]


def commit(conn: connection) -> None:
    """Commit the open transaction, if there is one, however it was begun.

    Raises:
        psycopg2.Error: if that fails. psycopg2 itself is silent about an aborted transaction,
            which the server then rolls back.
    """
    if conn.info.transaction_status == TRANSACTION_STATUS_INERROR:
        raise psycopg2.errors.InFailedSqlTransaction("the transaction was aborted and can't be committed")
    conn.commit()
    _end_by_hand(conn, "COMMIT")


def rollback(conn: connection) -> None:
    """Roll back the open transaction, if there is one, however it was begun."""
    conn.rollback()
    _end_by_hand(conn, "ROLLBACK")


def _end_by_hand(conn: connection, command: str) -> None:
    # Whoever said BEGIN in autocommit mode has a transaction that psycopg2 knows nothing of.
    if conn.info.transaction_status in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR):
        with plain_cursor(conn) as cur:
            cur.execute(command)


def notice_end(conn: connection) -> None:
    """Let psycopg2 know of it if a COMMIT, ROLLBACK or PREPARE TRANSACTION as text has ended the transaction.

    psycopg2 reads no SQL and goes on believing that one is open. Then it refuses to change its mode, and begins
    no transaction for the next statement, which the server commits at once. Two round trips if it is so,
    otherwise none.
    """
    if conn.closed or conn.status != STATUS_IN_TRANSACTION or conn.info.transaction_status != TRANSACTION_STATUS_IDLE:
        return
    with plain_cursor(conn) as cur:
        # Without this the server would write into its log, for each job, that there is nothing to roll back.
        cur.execute("BEGIN")
    conn.rollback()


def plain_cursor(conn: connection) -> cursor:
    """Return a cursor whose rows are tuples, whatever kind *conn* is set to make."""
    return conn.cursor(cursor_factory=cursor)


def is_quiet(conn: connection) -> bool:
    """Whether nothing has arrived on an idle connection; what arrives there is its end.

    Costs no round trip: a server that went away, or ended the session, leaves the socket readable.
    """
    if conn.closed or (file := conn.fileno()) < 0:  # libpq has lost it, and psycopg2 hasn't noticed yet
        return False
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(file, select.POLLIN)
        return not poll.poll(0)
    return not select.select([file], [], [], 0)[0]


def is_lost(conn: connection) -> bool:
    """Whether the server has ended the session, as far as it has told us. Costs no round trip, and reads nothing.

    False while a statement runs, which will hear of it by itself. May be called while another thread uses *conn*.
    """
    if conn.closed:
        return True
    status = conn.info.transaction_status
    if status == TRANSACTION_STATUS_ACTIVE or not _shows_end(conn):
        return False
    # What looked like the end may be the answer to a statement that another thread has begun since. That
    # changes the status, or is read meanwhile.
    return bool(conn.closed or (conn.info.transaction_status == status and _shows_end(conn)))


def _shows_end(conn: connection) -> bool:
    try:
        if (file := conn.fileno()) < 0:
            return True
        if hasattr(select, "POLLRDHUP"):
            poll = select.poll()
            poll.register(file, select.POLLRDHUP)
            return bool(poll.poll(0))  # the other side has closed, whatever is still to be read before that
        if is_quiet(conn):
            return False
        if conn.info.ssl_in_use:
            return True  # what has arrived is encrypted
        with socket.socket(fileno=os.dup(file)) as copy:
            # The end of the stream, or the error that comes before it. A notification is something else.
            return copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) in (b"", b"E")
    except BlockingIOError:
        return False  # another thread has read it
    except (psycopg2.Error, OSError):
        return True  # closed meanwhile, or reset


def close(conn: connection) -> None:
    """Close *conn*, which frees its locks, whatever state it is in."""
    # A connection that is broken already may say so when it is closed; it is closed all the same.
    with suppress(psycopg2.Error):
        conn.close()
