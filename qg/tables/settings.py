"""The settings of a session that locks jobs, and of the handler that it is lent to."""

from __future__ import annotations

from typing import NamedTuple

from qg.tables.table import ANSWER, Statement

__all__ = [
    "BACKEND_PID",
    "BECOME_ITSELF",
    "BECOME_ITSELF_LOCALLY",
    "BEGIN_HOLDING",
    "RESET_TRANSACTIONS",
    "LIMIT_WAITING",
    "NAME_SESSION",
    "SET_IDLE_TIMEOUT",
    "Identity",
    "as_itself",
]


class Identity(NamedTuple):
    """Who a session is, until a handler says SET ROLE or SET SESSION AUTHORIZATION."""

    user: str
    role: str


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
       ARRAY[pg_catalog.current_setting('session_authorization'), pg_catalog.current_setting('role')],
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

# (name) -> one row; what pg_stat_activity shows as application_name.
NAME_SESSION = Statement("SELECT pg_catalog.set_config('application_name', $1::text, false)")

# () -> one row; until the transaction ends, no statement waits longer for a lock.
LIMIT_WAITING = Statement("SELECT pg_catalog.set_config('lock_timeout', '1s', true)")

# () -> the server process that runs this.
BACKEND_PID = Statement("SELECT pg_catalog.pg_backend_pid()")

_TO_BE_ITSELF = (
    "SELECT pg_catalog.set_config('session_authorization', %s::text, {0}), "
    "pg_catalog.set_config('role', %s::text, {0});"
)

# (Identity) -> nothing; in front of a statement in the same message. session_authorization goes first: it
# resets role.
BECOME_ITSELF = _TO_BE_ITSELF.format("false")
# The same, in a transaction of qg's own, until that ends.
BECOME_ITSELF_LOCALLY = _TO_BE_ITSELF.format("true")

# () -> nothing; what later transactions are like is again as the server, the database and the role have it.
RESET_TRANSACTIONS = "RESET default_transaction_isolation; RESET default_transaction_read_only"


def as_itself(sql: str) -> str:
    """Return what runs *sql* in a handler's transaction as the session's own user, and is the handler's again after it.

    Its first parameters are an Identity. Its row ends with what *sql* left as an answer, null if nothing.
    """
    return f"""
SELECT pg_catalog.set_config('qg.user', pg_catalog.current_setting('session_authorization'), true),
       pg_catalog.set_config('qg.role', pg_catalog.current_setting('role'), true),
       pg_catalog.set_config('session_authorization', %s::text, true),
       pg_catalog.set_config('role', %s::text, true);
{sql};
SELECT pg_catalog.set_config('session_authorization', pg_catalog.current_setting('qg.user'), true),
       pg_catalog.set_config('role', pg_catalog.current_setting('qg.role'), true),
       pg_catalog.current_setting('{ANSWER}', true)
"""
