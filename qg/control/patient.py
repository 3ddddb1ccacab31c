"""Patient: what is checked, and what several checks ask of it, asked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from qg.control.history import find_history, find_pools
from qg.control.pausing import find_pauses
from qg.control.sessions import find_workers
from qg.control.standing import Pause, PoolView, WorkerView
from qg.database.database import Database
from qg.database.session import Session
from qg.tables import Table
from qg.tables.checks import SERVER, Checks, checks_on
from qg.tables.looks import looks_at
from qg.tables.rights import LACKED, Lack, Right, lacked_params

__all__ = ["Patient", "Server", "lack_of"]

_SETTINGS = (
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "jit",
)
_PAIRS, _HEADS = 500, 15_000
# Ruby's and Go's workers of version 3 are seen only while they work a job. So it must have been nobody for so long.
_OVERDUE_SECONDS = 60.0


class Server(NamedTuple):
    """The server as this session sees it."""

    standby: bool
    sessions: int
    locks: int
    settings: dict[str, str | None]

    def number(self, setting: str) -> int:
        """Return what a setting is that is a number."""
        return int(self.settings[setting] or 0)


@dataclass
class Patient:
    """Who is checked.

    Attributes:
        database: where sessions come from.
        session: an idle one.
        table: the table.
    """

    database: Database
    session: Session
    table: Table

    @property
    def checks(self) -> Checks:
        """What may be asked of the table."""
        return checks_on(self.table)

    @cached_property
    def server(self) -> Server:
        """The server."""
        ((standby, sessions, locks, settings),) = self.session.run(SERVER, (list(_SETTINGS),))
        return Server(standby, sessions, locks, dict(zip(_SETTINGS, settings, strict=True)))

    @cached_property
    def overdue(self) -> list[tuple[str, str]]:
        """Queue and type of what has been due for a minute, as far as it is taken next."""
        rows = self.session.run(looks_at(self.table).types, (_PAIRS, _HEADS, _OVERDUE_SECONDS))
        return [(queue, job_type) for queue, job_type in rows]

    @cached_property
    def workers(self) -> list[WorkerView]:
        """Who works the table."""
        return find_workers(self.session, self.table)

    @cached_property
    def pauses(self) -> list[Pause]:
        """What is paused."""
        return find_pauses(self.session, self.table)

    @cached_property
    def pools(self) -> list[PoolView]:
        """The pools of qg.jobs, if it has tables here."""
        history = find_history(self.session, self.table)
        return [] if history is None else find_pools(self.session, history)


def lack_of(session: Session, rights: Sequence[Right]) -> Lack | None:
    """Return which of *rights* the role of *session* lacks. One message."""
    return Lack.read(rights, session.run(LACKED, lacked_params(rights)))
