"""The settings of a session that locks jobs."""

from __future__ import annotations

from qg.tables.table import Statement

__all__ = ["BEGIN_HOLDING", "SET_IDLE_TIMEOUT"]

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
# statements; idle_session_timeout as it was, in ms, null where there is none.
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
       pg_catalog.min(idle_timeout)
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
