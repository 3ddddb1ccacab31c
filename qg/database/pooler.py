"""Poolers: whether one in between leaves a session its server process from one message to the next."""

from __future__ import annotations

from qg.database.session import Session
from qg.database.sources import Source, transaction
from qg.tables.settings import BACKEND_PID

__all__ = ["pools_transactions"]

_TRIES = 3
# A pooler that has no server process left lets a second connection wait.
_PATIENCE_SECONDS = 5.0


def pools_transactions(session: Session, source: Source) -> bool | None:
    """Find out, with a second connection, whether each transaction on *session* may get another server process.

    While the second connection is in a transaction, it has a server process to itself. If that is the one of
    *session*, or if *session* gets another one meanwhile, the processes aren't theirs. Where *source* can't give
    a second connection, that isn't found out, and None is returned; then a lock that is gone may tell.

    Args:
        session: an idle one that was prepared.
        source: where it came from.

    Raises:
        psycopg2.Error: if *session* fails.
    """
    if session.is_moved():
        return True
    if source.spare() == 0:
        return None
    for _ in range(_TRIES):
        try:
            with transaction(source, _PATIENCE_SECONDS) as cur:
                cur.execute(BACKEND_PID.text)
                ((other,),) = cur.fetchall()
                if other == session.backend_pid or session.is_moved():
                    return True
        except Exception:  # of psycopg2 or of the source, which has no second connection
            if not session.idle:
                raise
            return None
    return False
