"""Lending: a connection in a handler's hands, and how qg's own statements are run on it meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from qg.database.prepared import prepared_on
from qg.database.sources import Lease
from qg.tables.settings import BECOME_ITSELF, BECOME_ITSELF_LOCALLY, ROLE, USER, as_itself

__all__ = ["Lending"]


class Lending:
    """What a handler may have done to a leased connection, from lend() to take_back().

    It may have set another role or user, or have changed what later transactions are like. So each message of
    qg's own first makes the session itself again, as it was when it was prepared. It may also have kept the
    connection for something that outlives it.

    Args:
        lease: the connection. Whoever refers to it now, and to nothing else, is qg or the source.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._prepared = prepared_on(lease.conn)
        self._lent = False
        # Whether the session was seen to be itself although it is lent.
        self._is_itself = False
        self._references = sys.getrefcount(lease.conn)

    @property
    def is_kept(self) -> bool:
        """Whether somebody has still got the connection, or a cursor of it, in a thread for instance."""
        return self._lent and sys.getrefcount(self._lease.conn) > self._references

    def lend(self) -> None:
        """Note that a handler gets the connection, and may set on it what it likes."""
        self._lent, self._is_itself = True, False

    def note_handler_returned(self) -> None:
        """Note that from now on nobody changes what the session is; what it is now, the next message beside() tells."""
        self._is_itself = False

    def take_back(self) -> None:
        """Note that the handler is done with the connection, and that the session is itself again."""
        self._lent = False

    def alone(self, sql: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """Return what runs *sql* outside any transaction, and makes the session itself again for good."""
        identity = self._prepared.identity
        if not self._lent or self._is_itself or identity is None:
            return sql, params
        return BECOME_ITSELF + sql, (*identity, *params)

    def in_own_transaction(self, sql: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """Return what runs *sql* in a transaction of qg's own, and makes the session itself until that ends."""
        identity = self._prepared.identity
        if not self._lent or identity is None:
            return sql, params
        return BECOME_ITSELF_LOCALLY + sql, (identity.user, identity.role, *params)

    def beside(self, sql: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """Return what runs *sql* in a handler's transaction, after which the session is the handler's again."""
        own = self._own_beside()
        return as_itself(sql, list(own)), (*own.values(), *params)

    def read_beside(self, row: Sequence[Any]) -> str | None:
        """Return the answer() in the *row* of a message beside(), and note what else it tells."""
        own = self._own_beside()
        *found, answer = row
        # Without the user, which was asked for only if it is another one.
        self._is_itself = len(own) == 1 and tuple(found) == (self._prepared.identity or ())[1:]
        return None if answer is None else str(answer)

    def _own_beside(self) -> dict[str, str]:
        """Return what the session's own settings are, of those that the handler may have changed."""
        identity = self._prepared.identity
        if identity is None:
            return {}
        # The server tells of another user by itself; of another role it doesn't.
        if self._lease.conn.info.parameter_status(USER) in (None, identity.user):
            return {ROLE: identity.role}
        return {USER: identity.user, ROLE: identity.role}
