"""The rights that a role needs, which of them it lacks, and the GRANTs that give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qg.tables.columns import columns_of
from qg.tables.table import Statement, Table

__all__ = [
    "LACKED",
    "Lack",
    "Right",
    "lacked_params",
    "to_act",
    "to_create_functions",
    "to_enlist",
    "to_enqueue",
    "to_look",
    "to_obey",
    "to_pause",
    "to_work",
]


class Right(NamedTuple):
    """The *privilege* on one thing, or on those *columns* of it. No name here is quoted.

    A schema is meant itself if no *name* is given; the database is the one that the session is in.
    """

    privilege: str
    kind: str  # one of _KINDS
    schema: str = ""
    name: str = ""
    columns: tuple[str, ...] = ()


# By the kind of a thing: what a role may not do to it that lacks the privileges, and what GRANT calls it.
_KINDS = {
    "SCHEMA": ("use schema {thing}", "SCHEMA "),
    "TABLE": ("{privileges} on {thing}", ""),
    "SEQUENCE": ("{privileges} on sequence {thing}", "SEQUENCE "),
    "FUNCTION": ("call {thing}", "FUNCTION "),
    "DATABASE": ("{privileges} on database {thing}", "DATABASE "),
}


# (numbers, privileges, kinds, schemas, names, columns) -> for each of these rights that the role lacks: its number,
# its column, the role, and the thing; these two are quoted where SQL needs it.
#
# What isn't there can be granted to nobody, so it isn't in the result. A thing is found by its oid: to look its
# name up would take USAGE on its schema. Others may create a function of the same name, so the one counts that
# the owner of the table has.
LACKED = Statement(
    """
WITH given AS (
    SELECT number, privilege, kind, part,
           CASE kind
               WHEN 'SCHEMA' THEN space.oid
               WHEN 'DATABASE' THEN (
                   SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
               )
               WHEN 'FUNCTION' THEN (
                   SELECT oid FROM pg_catalog.pg_proc
                   WHERE pronamespace = space.oid AND proname = thing AND proowner = (
                       SELECT relowner FROM pg_catalog.pg_class
                       WHERE relnamespace = space.oid AND relname = 'que_jobs'
                   )
                   LIMIT 1
               )
               ELSE (SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = space.oid AND relname = thing)
           END AS id,
           CASE kind
               WHEN 'SCHEMA' THEN 'pg_catalog.pg_namespace'::regclass::oid
               WHEN 'DATABASE' THEN 'pg_catalog.pg_database'::regclass::oid
               WHEN 'FUNCTION' THEN 'pg_catalog.pg_proc'::regclass::oid
               ELSE 'pg_catalog.pg_class'::regclass::oid
           END AS catalog
    FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
         AS given (number, privilege, kind, place, thing, part)
    LEFT JOIN pg_catalog.pg_namespace AS space ON nspname = place
)
SELECT number, part, pg_catalog.quote_ident(CURRENT_USER::text),
       (pg_catalog.pg_identify_object(catalog, id, 0)).identity
FROM given
WHERE NOT CASE
    WHEN kind = 'SCHEMA' THEN pg_catalog.has_schema_privilege(id, privilege)
    WHEN kind = 'FUNCTION' THEN pg_catalog.has_function_privilege(id, privilege)
    WHEN kind = 'DATABASE' THEN pg_catalog.has_database_privilege(id, privilege)
    WHEN kind = 'SEQUENCE' THEN pg_catalog.has_sequence_privilege(id, privilege)
    WHEN part IS NULL THEN pg_catalog.has_table_privilege(id, privilege)
    ELSE pg_catalog.has_column_privilege(id, part, privilege)
END
ORDER BY number
"""
)


def lacked_params(rights: Sequence[Right]) -> list[list[Any]]:
    """Return the parameters of LACKED for *rights*."""
    each = [
        (number, right.privilege, right.kind, right.schema, right.name, column)
        for number, right in enumerate(rights)
        for column in right.columns or (None,)
    ]
    return [list(values) for values in zip(*each, strict=True)]


@dataclass(frozen=True)
class Lack:
    """What the role *role* lacks: by the kind and the name of a thing, the privileges on it, as SQL has them."""

    role: str
    privileges: dict[tuple[str, str], list[str]]

    @classmethod
    def read(cls, rights: Sequence[Right], rows: Sequence[tuple[Any, ...]]) -> Lack | None:
        """Return which of *rights* are lacking, as the *rows* of LACKED say; None if none is."""
        if not rows:
            return None
        found: dict[tuple[str, str], list[str]] = {}
        for number, right in enumerate(rights):
            lacking = [(column, thing) for position, column, _, thing in rows if position == number]
            if not lacking:
                continue
            some = f" ({', '.join(column for column, _ in lacking)})" if len(lacking) < len(right.columns) else ""
            found.setdefault((right.kind, lacking[0][1]), []).append(right.privilege + some)
        return cls(rows[0][2], found)

    @property
    def facts(self) -> str:
        """What the role may not do."""
        deeds = [
            _KINDS[kind][0].format(privileges=", ".join(privileges), thing=thing)
            for (kind, thing), privileges in self.privileges.items()
        ]
        return f"role {self.role} may not {' and not '.join(deeds)}"

    @property
    def grants(self) -> str:
        """The statements that mend it."""
        return "; ".join(
            f"GRANT {', '.join(privileges)} ON {_KINDS[kind][1]}{thing} TO {self.role}"
            for (kind, thing), privileges in self.privileges.items()
        )


# What set_error, reschedule and finish_job change.
_V3_CHANGED: tuple[str, ...] = ("error_count", "run_at", "last_error")
_V4_CHANGED: tuple[str, ...] = (
    "error_count",
    "run_at",
    "last_error_message",
    "last_error_backtrace",
    "expired_at",
    "finished_at",
)
# What a constraint and a trigger call, as whoever writes a row.
_V4_CALLED: tuple[str, ...] = ("que_validate_tags", "que_determine_job_state")


def to_work(table: Table) -> list[Right]:
    """Return what it takes to find jobs in *table* and to write what became of them."""
    schema = table.schema
    changed, called = (_V3_CHANGED, ()) if table.version == 3 else (_V4_CHANGED, _V4_CALLED)
    return [
        Right("USAGE", "SCHEMA", schema),
        Right("SELECT", "TABLE", schema, "que_jobs", tuple(sorted(columns_of(table.version)))),
        Right("UPDATE", "TABLE", schema, "que_jobs", changed),
        Right("DELETE", "TABLE", schema, "que_jobs"),
        *(Right("EXECUTE", "FUNCTION", schema, name) for name in called),
    ]


def to_enqueue(table: Table) -> list[Right]:
    """Return what it takes to store jobs in *table*."""
    schema = table.schema
    old = table.version == 3
    return [
        Right("USAGE", "SCHEMA", schema),
        Right("SELECT", "TABLE", schema, "que_jobs", tuple(sorted(columns_of(table.version)))),
        Right("INSERT", "TABLE", schema, "que_jobs"),
        Right("USAGE", "SEQUENCE", schema, "que_jobs_job_id_seq" if old else "que_jobs_id_seq"),
        *([] if old else [Right("SELECT", "TABLE", schema, "que_lockers")]),
        *(Right("EXECUTE", "FUNCTION", schema, name) for name in (() if old else _V4_CALLED)),
    ]


def to_enlist(table: Table) -> list[Right]:
    """Return what it takes to be in the table of lockers."""
    return [Right(privilege, "TABLE", table.schema, "que_lockers") for privilege in ("SELECT", "INSERT", "DELETE")]


def to_create_functions() -> list[Right]:
    """Return what it takes for a session to have functions of its own."""
    return [Right("TEMPORARY", "DATABASE")]


def to_look(table: Table) -> list[Right]:
    """Return what it takes to see all that :mod:`qg.control` shows; what isn't there isn't needed."""
    schema = table.schema
    names = ("qg_queues", "qg_jobs_history", "qg_jobs_worker_pool", "qg_jobs_schedule")
    return [
        Right("USAGE", "SCHEMA", schema),
        Right("SELECT", "TABLE", schema, "que_jobs", tuple(sorted(columns_of(table.version)))),
        *([Right("SELECT", "TABLE", schema, "que_lockers")] if table.lockers is not None else []),
        *(Right("SELECT", "TABLE", schema, name) for name in names),
    ]


def to_act(table: Table) -> list[Right]:
    """Return what it takes to change and to delete jobs from outside."""
    schema = table.schema
    changed, called = (_V3_CHANGED, ()) if table.version == 3 else (_V4_CHANGED, _V4_CALLED)
    # A row that is to be deleted is locked first, which takes the right to update it.
    columns = tuple(dict.fromkeys((*changed, "priority", "queue")))
    return [
        Right("USAGE", "SCHEMA", schema),
        Right("SELECT", "TABLE", schema, "que_jobs", tuple(sorted(columns_of(table.version)))),
        Right("UPDATE", "TABLE", schema, "que_jobs", columns),
        Right("DELETE", "TABLE", schema, "que_jobs"),
        *([Right("SELECT", "TABLE", schema, "que_lockers")] if table.lockers is not None else []),
        *(Right("EXECUTE", "FUNCTION", schema, name) for name in called),
    ]


def to_pause(table: Table) -> list[Right]:
    """Return what it takes to pause and to resume queues."""
    return [
        Right("USAGE", "SCHEMA", table.schema),
        *(
            Right(privilege, "TABLE", table.schema, "qg_queues")
            for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE")
        ),
    ]


def to_obey(table: Table) -> list[Right]:
    """Return what it takes for a worker to see that its queue is paused."""
    return [Right("SELECT", "TABLE", table.schema, "qg_queues")]
