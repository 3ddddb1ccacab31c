"""Lending: a connection in a handler's hands, and how qg's own statements are run on it meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from qg.database.prepared import prepared_on
from qg.database.sources import Lease
from qg.lookout import LOOKOUT
from qg.tables.settings import BECOME_ITSELF, BECOME_ITSELF_LOCALLY, as_itself

__all__ = ["Lending"]


class Lending:
    """What a handler may have done to a leased connection, from lend() to take_back().

    It may have set another role or user. So each message of qg's own first makes the session itself again, as it
    was when it was prepared. The handler may also have kept the connection for something that outlives it.

    Args:
        lease: the connection. Whoever refers to it now, and to nothing else, is qg or the source.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._prepared = prepared_on(lease.conn)
        self._references = sys.getrefcount(lease.conn)
        self.is_lent = False

    @property
    def is_kept(self) -> bool:
        """Whether somebody has still got the connection, or a cursor of it, in a thread for instance."""
        if not self.is_lent or sys.getrefcount(self._lease.conn) <= self._references:
            return False
        with LOOKOUT.looking:  # the lookout may have had it just then
            return sys.getrefcount(self._lease.conn) > self._references

    def lend(self) -> None:
        """Note that a handler gets the connection, and may set on it what it likes."""
        self.is_lent = True

    def take_back(self) -> None:
        """Note that the handler is done with the connection, and that the session is itself again."""
        self.is_lent = False

    def alone(self, sql: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """Return what runs *sql* outside any transaction, and makes the session itself again for good."""
        return self._after(BECOME_ITSELF, sql, params)

    def in_own_transaction(self, sql: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """Return what runs *sql* in a transaction of qg's own, and makes the session itself until that ends."""
        return self._after(BECOME_ITSELF_LOCALLY, sql, params)

    def beside(self, sql: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """Return what runs *sql* in a handler's transaction, after which the session is the handler's again.

        Its row ends with the answer() of *sql*.
        """
        identity = self._prepared.identity
        if identity is None:
            return sql, params
        return as_itself(sql), (*identity, *params)

    def _after(self, before: str, sql: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        identity = self._prepared.identity
        if not self.is_lent or identity is None:
            return sql, params
        return before + sql, (*identity, *params)
