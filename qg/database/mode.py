"""Mode: the transaction settings of a connection, which psycopg2 keeps on our side of the wire."""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg2.extensions import connection

from qg.database.driver import notice_end

__all__ = ["Mode"]


class Mode(NamedTuple):
    """What ``set_session()`` takes. It is sent with each BEGIN, or in autocommit mode when it changes."""

    isolation_level: Any
    readonly: Any
    deferrable: Any
    autocommit: bool

    @classmethod
    def of(cls, conn: connection) -> Mode:
        """Return the mode that *conn* is in."""
        return cls(conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit)

    def apply(self, conn: connection, *, autocommit: bool) -> None:
        """Put the idle *conn* into this mode, with *autocommit* or without."""
        notice_end(conn)
        if Mode.of(conn) == self._replace(autocommit=autocommit):
            return
        conn.set_session(
            isolation_level=_or_default(self.isolation_level),
            readonly=_or_default(self.readonly),
            deferrable=_or_default(self.deferrable),
            autocommit=autocommit,
        )


def _or_default(setting: Any) -> Any:
    return "DEFAULT" if setting is None else setting
