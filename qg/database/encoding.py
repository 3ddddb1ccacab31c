"""Text between Python and the server: UTF-8 while a connection is leased, and rows that UTF-8 can't hold."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg2
from psycopg2.extensions import BYTES, connection, encodings, register_type

from qg.database.driver import plain_cursor

__all__ = ["UNREADABLE", "fetch_unreadable", "speak_utf8"]

UNREADABLE = (
    psycopg2.errors.CharacterNotInRepertoire,
    psycopg2.errors.UntranslatableCharacter,
    UnicodeDecodeError,
)
"""What is raised where a row has text that can't be given as UTF-8."""


def speak_utf8(conn: connection) -> str | None:
    """Set the client_encoding of an idle *conn* to UTF8; return what it was, None if it stays as it is.

    A role or a DSN may have set another one, and a database whose encoding is SQL_ASCII has that. Costs
    no message where it is UTF8 already.
    """
    encoding: str = conn.encoding
    if encoding == "UTF8":
        return None
    with suppress(psycopg2.Error):  # of a server that can't convert its own encoding to UTF-8
        conn.set_client_encoding("UTF8")
        return encoding
    return None


def fetch_unreadable(conn: connection, sql: str, params: Sequence[Any], cause: Exception) -> list[tuple[Any, ...]]:
    """Run *sql* in autocommit mode and return its rows, in which any byte may be.

    The server gives the text as it has it. A byte that isn't text in the database's encoding becomes a
    surrogate, as Python's "surrogateescape" has it. A database in SQL_ASCII is taken to hold UTF-8.

    Args:
        conn: an idle connection in autocommit mode.
        sql: a statement that failed with one of UNREADABLE, and has left nothing behind.
        params: its parameters.
        cause: what it failed with. It is raised again where reading isn't what failed.

    Raises:
        psycopg2.Error: if it fails otherwise.
    """
    spoken = conn.encoding
    stored = conn.info.parameter_status("server_encoding") or ""
    codec = "utf-8" if stored == "SQL_ASCII" else encodings.get(stored, "utf-8")
    with plain_cursor(conn) as cur:
        try:
            # psycopg2 wouldn't write anything but ASCII while that is what we speak.
            message = cur.mogrify(sql, params).decode(encodings[spoken]).encode(codec)
        except UnicodeError:
            raise cause from None
        conn.set_client_encoding("SQL_ASCII")
        try:
            register_type(BYTES, cur)
            cur.execute(message)
            rows = cur.fetchall()
        finally:
            if not conn.closed:
                conn.set_client_encoding(spoken)
    return [tuple(_text(value, codec) for value in row) for row in rows]


def _text(value: Any, codec: str) -> Any:
    return value.decode(codec, "surrogateescape") if isinstance(value, bytes) else value
