"""Checks of the server, and of the way to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

from qg.control.patient import Patient
from qg.control.reports import Finding, Severity
from qg.errors import ErrPooler
from qg.failures import one_line
from qg.tables import timestamp
from qg.tables.checks import CLOCK, OPEN_SCHEMAS, SNAPSHOTS

__all__ = [
    "check_capacity",
    "check_clock",
    "check_jit",
    "check_pooler",
    "check_schemas",
    "check_snapshots",
    "check_timeouts",
    "check_writing",
]

_INFO, _WARNING, _ERROR = Severity

# Older than this, a snapshot keeps too many dead rows.
_OLD_SECONDS, _OLD_AGE = 300.0, 1_000_000
_MOST_SKEW_SECONDS = 2.0


def check_pooler(patient: Patient) -> Iterator[Finding]:
    """Find a pooler that takes locks away. That takes a second connection, or a third."""
    untold = "it isn't known whether a pooler in between takes locks away"
    if patient.database.spare == 0:
        seen = f"{untold}: the source has no second connection to spare"
        yield Finding(_INFO, "pooler", seen, "check with a source that has two more")
        return
    try:
        patient.database.lease().give_back()
    except ErrPooler as error:
        seen, _, mend = str(error).partition("; ")
        yield Finding(_ERROR, "pooler", seen, mend)
    except Exception as error:  # of psycopg2 or of the source: no connection more, say, or a right that is missing
        yield Finding(_INFO, "pooler", f"{untold}: {one_line(error)}", "mend what it says, and check again")


def check_writing(patient: Patient) -> Iterator[Finding]:
    """Find out whether, and how well, a session here can write."""
    settings = patient.server.settings
    isolation = settings["default_transaction_isolation"]
    if patient.server.standby:
        seen, mend = "this server is a standby, on which no job can be worked", "connect to the primary"
        yield Finding(_ERROR, "writing", seen, mend)
    elif settings["default_transaction_read_only"] == "on":
        yield Finding(
            _ERROR,
            "writing",
            "default_transaction_read_only is on for this role or database, so no job can be worked",
            "ALTER ROLE … RESET default_transaction_read_only, or the same of the database",
        )
    if isolation != "read committed":
        yield Finding(
            _WARNING,
            "writing",
            f"default_transaction_isolation is {isolation!r}, so a job costs four messages, and there are no batches",
            "ALTER ROLE … SET default_transaction_isolation = 'read committed'",
        )


def check_timeouts(patient: Patient) -> Iterator[Finding]:
    """Find timeouts that end what handlers do."""
    ended = {
        "statement_timeout": "each statement of a handler that takes longer",
        "lock_timeout": "each statement of a handler that waits longer for a lock",
        "idle_in_transaction_session_timeout": "the session of a handler that pauses for longer in its transaction",
    }
    for name, what in ended.items():
        value = patient.server.settings[name]
        if value not in (None, "0"):
            yield Finding(
                _INFO,
                "timeouts",
                f"{name} is {value} for this role, which ends {what}; its job runs again then",
                f"ALTER ROLE … SET {name} = 0, or keep handlers shorter",
            )


def check_capacity(patient: Patient) -> Iterator[Finding]:
    """Find out whether there is room for connections and locks."""
    server = patient.server
    connections = server.number("max_connections")
    if server.sessions > 0.8 * connections:
        yield Finding(
            _WARNING,
            "capacity",
            f"{server.sessions} of {connections} connections are in use",
            "raise max_connections, lower the number of workers, or pool the connections of those who only enqueue",
        )
    room = server.number("max_locks_per_transaction") * (connections + server.number("max_prepared_transactions"))
    if server.locks > 0.5 * room:
        yield Finding(
            _WARNING,
            "capacity",
            f"{server.locks} locks are held, and there is room for about {room}",
            "raise max_locks_per_transaction, or lower batch_size",
        )


def check_snapshots(patient: Patient) -> Iterator[Finding]:
    """Find what keeps dead rows in the table."""
    mends = {
        "transaction": "end it, or its session by pg_terminate_backend()",
        "prepared transaction": "COMMIT PREPARED or ROLLBACK PREPARED",
        "replication slot": "let its reader go on, or drop it by pg_drop_replication_slot()",
        "standby": "end the long query there, or turn hot_standby_feedback off",
    }
    for kind, name, age, seconds in patient.session.run(SNAPSHOTS):
        if (seconds or 0) > _OLD_SECONDS or age > _OLD_AGE:
            minutes = f" and {seconds / 60:.0f} min" if seconds else ""
            yield Finding(
                _WARNING,
                "snapshots",
                f"the {kind} {name} has a snapshot that is {age} transactions{minutes} old, and keeps dead rows",
                mends[kind],
            )


def check_schemas(patient: Patient) -> Iterator[Finding]:
    """Find schemas in which everybody may plant something."""
    for (schema,) in patient.session.run(OPEN_SCHEMAS):
        yield Finding(
            _WARNING,
            "schemas",
            f"everybody may create functions and operators in the schema {schema}, and your SQL may call them",
            f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC",
        )


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Find out whether the database's clock and ours agree."""
    before = time.time()
    there = timestamp(patient.session.run(CLOCK)[0][0])
    here = datetime.fromtimestamp((before + time.time()) / 2, timezone.utc)
    skew = (there - here).total_seconds()
    if abs(skew) > _MOST_SKEW_SECONDS:
        yield Finding(
            _WARNING,
            "clock",
            f"the database's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's, so a "
            "run_at from here is due at another moment than meant",
            "let both machines take their time from one source (NTP)",
        )


def check_jit(patient: Patient) -> Iterator[Finding]:
    """Find out whether statements may be compiled."""
    if patient.server.settings["jit"] == "on":
        yield Finding(
            _INFO,
            "jit",
            "jit is on: qg turns it off for its own statements, but handlers' statements may be compiled",
            "ALTER ROLE … SET jit = off, if they are short",
        )
