"""The settings of a session that locks jobs, and of the handler that it is lent to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qg.tables.table import ANSWER, Statement

__all__ = [
    "BACKEND_PID",
    "BECOME_ITSELF",
    "BECOME_ITSELF_LOCALLY",
    "BEGIN_HOLDING",
    "LIMIT_WAITING",
    "ROLE",
    "SET_IDLE_TIMEOUT",
    "USER",
    "Identity",
    "as_itself",
]


class Identity(NamedTuple):
    """Who a session is, and what its transactions are like, until a handler says SET ROLE or the like."""

    user: str
    role: str
    isolation: str
    read_only: str


# A handler may be busy elsewhere for as long as it likes: while the session is idle then, it has the
# job's lock, so it must not be ended. The others let the server notice within a minute that a client
# is gone without a word, and free its locks.
_WANTED = {
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",  # ms
}

USER, ROLE = "session_authorization", "role"
# In the order of an Identity.
IDENTITY = (USER, ROLE, "default_transaction_isolation", "default_transaction_read_only")
_CURRENT = [f"pg_catalog.current_setting('{name}')" for name in IDENTITY]

# (names, texts) -> the names of what is prepared, by whomever; those of the given names that belong to other
# statements; idle_session_timeout as it was, in ms, null where there is none; the Identity; the server process.
# Several may have been prepared in one message; the server has the whole of it for the text of each then.
# Of the other settings those that somebody has set stay. Anybody may set all of them; what an older
# server doesn't know isn't in pg_settings, whose rows are all read before the first of them is set.
BEGIN_HOLDING = Statement(
    f"""
SELECT ARRAY(SELECT name::text FROM pg_catalog.pg_prepared_statements),
       ARRAY(
           SELECT known.name::text
           FROM unnest($1::text[], $2::text[]) AS given (name, text)
           JOIN pg_catalog.pg_prepared_statements AS known ON known.name = given.name
           WHERE pg_catalog.strpos(known.statement, 'PREPARE ' || given.name || ' AS ' || given.text) = 0
       ),
       pg_catalog.min(idle_timeout),
       ARRAY[{", ".join(_CURRENT)}],
       pg_catalog.pg_backend_pid()
FROM (
    SELECT CASE WHEN found.name OPERATOR(pg_catalog.=) 'idle_session_timeout' THEN found.setting END AS idle_timeout,
           pg_catalog.set_config(found.name, wanted.setting, false)
    FROM pg_catalog.pg_settings AS found
    JOIN (VALUES {", ".join(f"('{name}', '{setting}')" for name, setting in _WANTED.items())}) AS wanted (name, setting)
      ON wanted.name OPERATOR(pg_catalog.=) found.name
    WHERE found.name OPERATOR(pg_catalog.=) 'idle_session_timeout'
       OR found.source OPERATOR(pg_catalog.=) 'default'
    OFFSET 0
) AS settings
"""
)

# (ms) -> one row.
SET_IDLE_TIMEOUT = Statement("SELECT pg_catalog.set_config('idle_session_timeout', $1::text, false)")

# () -> one row; until the transaction ends, no statement waits longer for a lock.
LIMIT_WAITING = Statement("SELECT pg_catalog.set_config('lock_timeout', '1s', true)")

# () -> the server process that runs this.
BACKEND_PID = Statement("SELECT pg_catalog.pg_backend_pid()")

# (Identity) -> nothing; in front of a statement in the same message, outside any transaction. A transaction
# by itself, for the next one begins with what is set here. session_authorization goes first: it resets role.
BECOME_ITSELF = (
    "BEGIN;SELECT " + ", ".join(f"pg_catalog.set_config('{name}', %s::text, false)" for name in IDENTITY) + ";COMMIT;"
)

# (user, role) -> nothing; in front of a statement in the same message, in a transaction of qg's own.
BECOME_ITSELF_LOCALLY = (
    "SELECT pg_catalog.set_config('session_authorization', %s::text, true), "
    "pg_catalog.set_config('role', %s::text, true);"
)


def as_itself(sql: str, names: Sequence[str]) -> str:
    """Return what runs *sql* in a handler's transaction as the session's own user, and is the handler's again after it.

    Args:
        sql: a statement.
        names: of the settings that the handler may have changed so, USER first if it is one of them.

    Returns:
        A message whose first parameters are the session's own values of *names*. Its row has what the handler
        has set each of IDENTITY to, USER only if that was named, and what *sql* left as an answer, null if nothing.
    """
    kept = [f"pg_catalog.set_config('qg.{name}', pg_catalog.current_setting('{name}'), true)" for name in names]
    own = [f"pg_catalog.set_config('{name}', %s::text, true)" for name in names]
    back = [f"pg_catalog.set_config('{name}', pg_catalog.current_setting('qg.{name}'), true)" for name in names]
    rest = [f"pg_catalog.current_setting('{name}')" for name in IDENTITY if name not in (USER, *names)]
    return f"""
SELECT {", ".join(kept + own)};
{sql};
SELECT {", ".join(back + rest)}, pg_catalog.current_setting('{ANSWER}', true)
"""
