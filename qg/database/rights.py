"""Which rights the role of a session lacks."""

from __future__ import annotations

from collections.abc import Sequence

from qg.database.session import Session
from qg.errors import ErrRights
from qg.tables.rights import LACKED, Lack, Right, lacked_params

__all__ = ["grants_for", "require_rights"]


def require_rights(session: Session, rights: Sequence[Right], without: str) -> None:
    """Look whether the role of *session* has all *rights*. One message, outside any transaction.

    Args:
        session: an idle one.
        rights: what is needed.
        without: what is so if one of them is lacking.

    Raises:
        ErrRights: if it hasn't; says which, and how to grant them.
        psycopg2.Error: if the database can't be reached, or a column isn't there.
    """
    if (lack := _lack(session, rights)) is not None:
        raise ErrRights(f"{lack.facts}, so {without}; {lack.grants}")


def grants_for(session: Session, rights: Sequence[Right]) -> str:
    """Return the GRANTs for those *rights* that the role of *session* lacks, each after "; ", to end a sentence with.

    Raises what require_rights() raises, but for ErrRights.
    """
    lack = _lack(session, rights)
    return "" if lack is None else f"; {lack.grants}"


def _lack(session: Session, rights: Sequence[Right]) -> Lack | None:
    return Lack.read(rights, session.run(LACKED, lacked_params(rights)))
