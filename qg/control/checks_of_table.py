"""Checks of the table: what this role may do with it, its indexes, its triggers, its dead rows."""

from __future__ import annotations

from collections.abc import Iterator

from qg.control.patient import Patient, lack_of
from qg.control.reports import Finding, Severity
from qg.tables.checks import OTHER_TABLES
from qg.tables.rights import Right, to_act, to_enqueue, to_look, to_obey, to_pause, to_work

__all__ = ["check_dead_rows", "check_indexes", "check_rights", "check_table", "check_wakeups"]

_INFO, _WARNING, _ERROR = Severity

# From so many jobs on it takes version 3 a tenth of a second to find one by its id.
_MANY_JOBS = 500_000
_LARGE_BYTES, _BYTES_PER_JOB = 100_000_000, 20_000


def check_rights(patient: Patient) -> Iterator[Finding]:
    """Find what this role may not do. Only what it can't see is a warning: it may be there for just one of these."""
    table = patient.table
    deeds: list[tuple[Severity, str, list[Right]]] = [
        (_WARNING, "look at all that there is to see", to_look(table)),
        (_INFO, "change and delete jobs from outside", to_act(table)),
        (_INFO, "pause queues", to_pause(table)),
        (_INFO, "enqueue jobs", to_enqueue(table)),
        (_INFO, "work jobs", to_work(table)),
        (_INFO, "see, as a worker, that a queue is paused", to_obey(table)),
    ]
    for severity, deed, rights in deeds:
        if (lack := lack_of(patient.session, rights)) is not None:
            yield Finding(severity, "rights", f"this role can't {deed}: {lack.facts}", lack.grants)


def check_table(patient: Patient) -> Iterator[Finding]:
    """Find out whether the table says what it is, is alone, and has jobs of its own version only."""
    table, checks = patient.table, patient.checks
    ((*_, comment),) = patient.session.run(checks.table)
    if comment != str(table.version):
        seen = f"the que_jobs table has lost its comment; by its columns it is of version {table.version}"
        yield Finding(_WARNING, "table", seen, checks.comment)
    others = [schema for (schema,) in patient.session.run(OTHER_TABLES, (table.schema,))]
    if others:
        yield Finding(
            _WARNING,
            "table",
            f"there are que_jobs tables in the schemas {', '.join(others)}, too; the locks of their jobs are in one "
            "space with those of this table, so jobs with the same id wait for each other",
            "keep each table in a database of its own",
        )
    strangers = [] if checks.strangers is None else [str(each) for (each,) in patient.session.run(checks.strangers)]
    if strangers:
        yield Finding(
            _WARNING,
            "table",
            f"there are jobs with job_schema_version {', '.join(strangers)}, which nobody works in this table",
            "work them with the Que that they are for, or set their job_schema_version to 2",
        )


def check_indexes(patient: Patient) -> Iterator[Finding]:
    """Find indexes that are missing or broken."""
    table, checks = patient.table, patient.checks
    found = {name: (usable, first) for name, usable, first in patient.session.run(checks.indexes)}
    for name, remedy in checks.needed.items():
        if name not in found:
            seen = f"the index {name} is missing, so all jobs are read to find one"
            yield Finding(_ERROR, "indexes", seen, remedy)
    for name, (usable, _) in found.items():
        if not usable:
            seen = f"the index {name} isn't valid, so it helps nobody"
            yield Finding(_WARNING, "indexes", seen, f"REINDEX INDEX CONCURRENTLY {name}")
    ((live, *_),) = patient.session.run(checks.table)
    if table.version == 3 and live > _MANY_JOBS and all(first != "job_id" for _, first in found.values()):
        yield Finding(
            _INFO,
            "indexes",
            f"a table of version 3 has no index by id, so the keys of all {live} jobs are read to look at one of them",
            f"{checks.index_by_id}; each job that is enqueued costs one index entry more then",
        )


def check_dead_rows(patient: Patient) -> Iterator[Finding]:
    """Find out whether the table is vacuumed as it must be."""
    ((live, dead, size, vacuumed, options, _),) = patient.session.run(patient.checks.table)
    if "autovacuum_enabled=false" in options:
        seen = "autovacuum is off for que_jobs, which changes all the time"
        yield Finding(_WARNING, "dead_rows", seen, "ALTER TABLE que_jobs RESET (autovacuum_enabled)")
    if dead > max(2 * live, 10_000):
        since = "never vacuumed" if vacuumed is None else f"vacuumed {vacuumed / 60:.0f} min ago"
        yield Finding(
            _WARNING,
            "dead_rows",
            f"que_jobs has {dead} dead rows beside {live} that live, and was {since}",
            "VACUUM (ANALYZE) que_jobs; if they are there still, an old snapshot keeps them",
        )
    if size > max(_LARGE_BYTES, _BYTES_PER_JOB * live):
        yield Finding(
            _INFO,
            "dead_rows",
            f"que_jobs takes {size / 1e6:.0f} MB for {live} jobs",
            "VACUUM FULL que_jobs, at a time when all who use it can wait",
        )


def check_wakeups(patient: Patient) -> Iterator[Finding]:
    """Find out whether the table notifies."""
    old = patient.table.version == 3
    name = "qg_notify" if old else "que_job_notify"
    if not patient.session.run(patient.checks.triggers, ([name],)):
        yield Finding(
            _INFO if old else _WARNING,
            "wakeups",
            f"the table has no trigger {name} that fires, so workers find new jobs when they look the next time",
            "qg.migrate(source, notify=True)" if old else f"ALTER TABLE que_jobs ENABLE TRIGGER {name}",
        )
