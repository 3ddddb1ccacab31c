"""Prepared: what a connection has of qg's statements and functions, and what it was like when it got them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection, cursor

from qg.database.driver import plain_cursor
from qg.tables import Statement, Table, detect
from qg.tables.locking import PREPARED, UNLOCK_JOB
from qg.tables.settings import BEGIN_HOLDING, Identity

__all__ = ["Prepared", "begin_holding", "prepare_statements", "prepared_on"]

# A connection from somebody's pool outlives the client that prepared it, and the next client needn't do it
# again; so this is nobody's but the module's.
_on: weakref.WeakKeyDictionary[connection, Prepared] = weakref.WeakKeyDictionary()


@dataclass(eq=False)
class Prepared:
    """What one connection has, for as long as it lives.

    Attributes:
        tables: whose statements it has.
        not_ours: which of their statements it hasn't, since somebody else has the name: for another schema,
            mostly. They are sent in full.
        functions_of: whose functions it has; there is one set of them.
        plainly_until: on the monotonic clock; until then it isn't tried again whether it can have functions.
        identity: who the session is while no handler has changed that.
        backend_pid: the server process that it was prepared on.
        has_timeout: whether it was given back with an idle_session_timeout of its own.
    """

    tables: set[Table] = field(default_factory=set)
    not_ours: set[Statement] = field(default_factory=set)
    functions_of: Table | None = None
    plainly_until: float = 0.0
    identity: Identity | None = None
    backend_pid: int | None = None
    has_timeout: bool = False


def prepared_on(conn: connection) -> Prepared:
    """Return what *conn* has; nothing at first."""
    prepared = _on.get(conn)
    if prepared is None:
        prepared = _on[conn] = Prepared()
    return prepared


def begin_holding(cur: cursor, statements: Sequence[Statement]) -> str | None:
    """Set what a session that locks is to have, and prepare those of *statements* that aren't.

    Returns:
        The idle_session_timeout that it had, in ms; None if it had none.
    """
    cur.execute(BEGIN_HOLDING.plain_sql, _names_and_texts(statements))
    ((present, not_ours, timeout, identity, backend_pid),) = cur.fetchall()
    prepared = prepared_on(cur.connection)
    prepared.has_timeout = False
    if prepared.identity is None:
        prepared.identity, prepared.backend_pid = Identity(*identity), backend_pid
    _prepare(cur, statements, {name: name not in not_ours for name in present})
    return None if timeout in (None, "0") else str(timeout)


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
    not_ours = prepared_on(cur.connection).not_ours
    not_ours.difference_update(statements)
    not_ours.update(each for each in statements if each.name and present.get(each.name) is False)
