"""The table of paused queues, qg_queues, beside que_jobs: who reads it, and who writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from qg.tables.table import GREATEST_ID, Statement, identifier

__all__ = ["CONTROL_CHANNEL", "NOTIFY", "Pauses", "Told", "pauses_in", "read_told", "tell_cancelled"]

CONTROL_CHANNEL = "qg_control"
"""Where pools that listen hear, in JSON, that a queue was paused or resumed, or jobs cancelled."""

# (text) -> one row.
NOTIFY = Statement(f"SELECT pg_catalog.pg_notify('{CONTROL_CHANNEL}', $1::text)")


class Told(NamedTuple):
    """What was heard on the channel: which jobs of which schema were cancelled; none if it is about a pause."""

    schema: object = None
    cancelled: frozenset[int] = frozenset()


def tell_cancelled(schema: str, ids: Iterable[int]) -> str:
    """Return what tells that jobs of the table in *schema* were cancelled."""
    return json.dumps({"message_type": "qg_cancel", "schema": schema, "ids": list(ids)})


def read_told(payload: str) -> Told | None:
    """Return what a notification says; None if it says nothing of this."""
    try:
        message = json.loads(payload)
        if message["message_type"] == "qg_pause":
            return Told()
        if message["message_type"] == "qg_cancel":
            return Told(message["schema"], frozenset(each for each in message["ids"] if _is_id(each)))
    except (ValueError, KeyError, TypeError, RecursionError):  # anybody may notify any channel of anything
        pass
    return None


def _is_id(number: object) -> bool:
    return type(number) is int and -GREATEST_ID <= number <= GREATEST_ID


# A pause holds until its time is up, and then is as good as none.
_HOLDS = "(paused_until IS NULL OR paused_until > pg_catalog.now())"


@dataclass(frozen=True)
class Pauses:
    """The statements on qg_queues in one schema. Those that change something tell it on the channel as well.

    A pause is queue, since, until or null, reason, by whom; times are text.
    """

    # (schema) -> one row if the table is there: whether this role may read it.
    readable: Statement
    # () -> the paused queues; fails if somebody has locked the table.
    paused: Statement
    # () -> the pauses.
    all: Statement
    # (queue, until or null, reason, by whom) -> the pause; no row, and nothing is done, if its time is up already.
    pause: Statement
    # (the names that a queue may have there) -> what is resumed, and whether it was still paused.
    resume: Statement


@cache
def pauses_in(schema: str) -> Pauses:
    """Return the statements on the table in *schema*: each time the same object."""
    table = f"{identifier(schema)}.qg_queues"
    pause = f"queue, {_time('paused_at')}, {_time('paused_until')}, reason, paused_by"
    told = f"pg_catalog.pg_notify('{CONTROL_CHANNEL}', '{{\"message_type\": \"qg_pause\"}}')"
    return Pauses(
        readable=Statement(
            """
SELECT pg_catalog.has_table_privilege(paused.oid, 'SELECT')
FROM pg_catalog.pg_namespace AS space
JOIN pg_catalog.pg_class AS paused ON relnamespace = space.oid AND relname = 'qg_queues'
WHERE nspname = $1::text
"""
        ),
        paused=Statement(f"SELECT queue FROM {table} WHERE {_HOLDS}", gives_up_soon=True),
        all=Statement(f"SELECT {pause} FROM {table} WHERE {_HOLDS} ORDER BY queue"),
        pause=Statement(
            f"""
WITH paused AS (
    INSERT INTO {table} (queue, paused_until, reason, paused_by)
    SELECT * FROM (
        SELECT $1::text AS queue, $2::timestamptz AS paused_until, $3::text AS reason, $4::text AS paused_by
    ) AS given
    WHERE {_HOLDS}
    ON CONFLICT (queue) DO UPDATE
    SET paused_at = excluded.paused_at, paused_until = excluded.paused_until, reason = excluded.reason,
        paused_by = excluded.paused_by
    RETURNING *
)
SELECT {pause}, {told} FROM paused
"""
        ),
        resume=Statement(
            f"""
WITH resumed AS (DELETE FROM {table} WHERE queue = ANY ($1::text[]) RETURNING queue, {_HOLDS} AS held)
SELECT queue, held, {told} FROM resumed
"""
        ),
    )


def _time(column: str) -> str:
    return f"pg_catalog.to_json({column}) #>> '{{}}'::text[]"
