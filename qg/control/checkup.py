"""The checkup: every check, one after the other, and what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg2

from qg.control import checks_of_server, checks_of_table, checks_of_work
from qg.control.patient import Patient, lack_of
from qg.control.reports import Finding, Severity
from qg.database.database import Database
from qg.database.known_table import STALE
from qg.database.session import Session
from qg.failures import one_line
from qg.tables import Table
from qg.tables.rights import to_look

__all__ = ["checkup"]

_CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    checks_of_table.check_rights,
    checks_of_table.check_table,
    checks_of_table.check_indexes,
    checks_of_table.check_dead_rows,
    checks_of_table.check_wakeups,
    checks_of_server.check_pooler,
    checks_of_server.check_writing,
    checks_of_server.check_timeouts,
    checks_of_server.check_capacity,
    checks_of_server.check_snapshots,
    checks_of_server.check_schemas,
    checks_of_server.check_clock,
    checks_of_server.check_jit,
    checks_of_work.check_locks,
    checks_of_work.check_holders,
    checks_of_work.check_queues,
    checks_of_work.check_pauses,
    checks_of_work.check_args,
)


def checkup(database: Database, session: Session, table: Table) -> list[Finding]:
    """Return the findings, the worst first. Some dozen messages on *session*, which must be idle.

    A check that fails is a finding, too, unless the session is lost, or the table was migrated meanwhile.

    Raises:
        psycopg2.Error: in these two cases.
    """
    patient = Patient(database, session, table)
    found: list[Finding] = []
    for check in _CHECKS:
        try:
            found += check(patient)
        except psycopg2.Error as error:
            if not session.idle or (isinstance(error, STALE) and database.recheck(table, session)):
                raise
            found.append(_failed(check.__name__.removeprefix("check_"), error, session, table))
    return sorted(found, key=lambda each: -each.severity)


def _failed(check: str, error: psycopg2.Error, session: Session, table: Table) -> Finding:
    if not isinstance(error, psycopg2.errors.InsufficientPrivilege):
        seen = f"this check has failed: {one_line(error)}"
        return Finding(Severity.WARNING, check, seen, "mend what it says, and check again")
    lack = lack_of(session, to_look(table))
    mend = "give the role what it needs" if lack is None else lack.grants
    return Finding(Severity.WARNING, check, f"this role may not look: {one_line(error)}", mend)
