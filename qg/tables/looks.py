"""Looking at the table from outside: how its queues stand, which jobs there are, what fails, and who works what.

No statement here may read a large table as a whole, but for those that say so. What carries each of them:

- *Walks* read at most so many entries of an index, and say where they ended. ``next_up`` walks the index that leads
  workers from job to job. ``newest`` walks the primary key from its end. In version 3 that isn't the id, but queue,
  priority, run_at and id; there each queue and priority is walked from its latest run_at, all of them side by side.
- *Heads* jump from one queue and priority to the next in that index, and count in each so many jobs at the most.
- *Samples* read some pages of the table, as many however large it is. What is counted there is an estimate.
- By an id, version 3 finds a job by reading the keys of all of them, unless somebody has made an index on job_id.

No index is added to Que's table for it: each would cost whoever enqueues, and the other programs that share it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from qg.tables import counts, walks
from qg.tables.locking import LOCKED
from qg.tables.seeing import IS_DUE, json_time, layout_of, state
from qg.tables.statements import Layout
from qg.tables.table import GREATEST_ID, Row, Statement, Table

__all__ = ["LOCKS", "Looks", "looks_at"]


# () -> id and backend of each advisory lock of this database that could be a job's.
LOCKS = Statement(LOCKED)


@dataclass(frozen=True)
class Looks:
    """The statements that look at one version of the table in one schema.

    A walk is continued at a *key*, the text of a JSON array: where the last one ended, or that of the last row taken
    from it. "" stands for its beginning.

    *Counted* rows are queue, state, whether due, how many, the earliest run_at as text. *Seen* rows are a Row in JSON,
    the state, finished_at and expired_at as text, whether due.
    """

    version: int
    # () -> how many pages the table has; how many rows were stored and deleted since the server keeps count; the clock.
    size: Statement
    # () -> counted rows; reads the whole table.
    count_all: Statement
    # (percent of the pages) -> counted rows.
    count_sample: Statement
    # (how many queues and priorities, how many jobs of all together) -> for each queue and priority: queue, how many
    # it may count of each kind; how many of those are due, ahead, and further ahead than fifty years, each with how
    # many of them have failed; and the earliest run_at as text.
    count_heads: Statement

    # (ids) -> seen rows.
    by_ids: Statement
    # (ids) -> id, queue, type.
    names: Statement
    # (how many queues and priorities, how many jobs of all together, ids) -> the same of those that are taken next.
    names_in_heads: Statement
    # (newest_params) and (next_up_params) -> one row at least: seen row, the key where the walk ended, in JSON, or
    # null, and how many jobs it read. The seen row is null where nothing was found.
    newest: Statement
    next_up: Statement

    # Errors are type, first line, whether given up, how many, the earliest and the latest run_at as text, the greatest
    # id. () -> errors; reads the whole table.
    errors_all: Statement
    # (percent of the pages) -> errors.
    errors_sample: Statement
    # (how many queues and priorities, how many jobs of each) -> errors of those that wait to be tried again; how many
    # of these jobs weren't read is anybody's guess if there are more.
    errors_ahead: Statement

    # (how many) -> the queues that have jobs to be done.
    queues: Statement
    # (how many queues and priorities, how many jobs of all together, seconds) -> queue and type of those that have been
    # due for so long.
    types: Statement
    # () -> sessions that hold an advisory lock, or are registered, or named by qg: see _sessions().
    sessions: Statement

    def newest_params(self, key: str, read: int, given: Sequence[Any], limit: int) -> tuple[Any, ...]:
        """Return the parameters of newest: from *key* on, at most *read* jobs, of which *limit* that fit *given*."""
        if self.version == 3:
            run_at, number = json.loads(key) if key else ("infinity", GREATEST_ID)
            queue, _, states, *_ = given
            return (
                *(run_at, number, queue, states is None or "expired" in states, states != ["expired"], read, read),
                *given,
                limit,
            )
        (number,) = json.loads(key) if key else (GREATEST_ID,)
        return (number, read, *given, number, limit)

    def next_up_params(self, key: str, read: int, given: Sequence[Any], limit: int) -> tuple[Any, ...]:
        """Return the parameters of next_up, as newest_params() does."""
        place = json.loads(key) if key else ("", -32768, "-infinity", -GREATEST_ID)
        return (*place, given[0], read, *given, *place, limit)

    def newest_key(self, row: Row) -> str:
        """Return the key at which newest goes on behind *row*."""
        return json.dumps([row.run_at, row.id] if self.version == 3 else [row.id])

    def next_up_key(self, row: Row) -> str:
        """Return the key at which next_up goes on behind *row*."""
        return json.dumps(row.key)


@cache
def looks_at(table: Table) -> Looks:
    """Return what looks at *table*: each time the same object."""
    layout = layout_of(table)
    fails = f"{state(layout)} IN ('failing', 'expired')"
    fails_unseen_ahead = f"({state(layout)} = 'expired' OR ({state(layout)} = 'failing' AND {IS_DUE}))"
    return Looks(
        version=table.version,
        size=counts.size(layout),
        count_all=counts.counted(layout, ""),
        count_sample=counts.counted(layout, counts.SAMPLE),
        count_heads=counts.count_heads(layout),
        by_ids=walks.by_ids(layout),
        names=counts.names(layout),
        names_in_heads=counts.names_in_heads(layout),
        newest=walks.newest_by_run_at(layout) if table.version == 3 else walks.newest_by_id(layout),
        next_up=walks.next_up(layout),
        errors_all=counts.errors(layout, "", fails),
        errors_sample=counts.errors(layout, counts.SAMPLE, fails_unseen_ahead),
        errors_ahead=counts.errors_ahead(layout),
        queues=counts.queues(layout),
        types=counts.types(layout),
        sessions=_sessions(layout, table.version),
    )


# The row of each session: backend, application_name, client, since when it is there, state, since when it is in that;
# since when its transaction is open; what it waits for, and which backends are in its way; its statement. Then what it
# says of itself in the table of lockers, if there is one: process, host, workers, whether it listens, queues.
def _sessions(layout: Layout, version: int) -> Statement:
    lockers = f"LEFT JOIN {layout.que_lockers} AS locker ON locker.pid = session.pid"
    told = "locker.ruby_pid, locker.ruby_hostname, locker.worker_count, locker.listening, locker.queues"
    registered = "OR locker.pid IS NOT NULL"
    if version == 3:
        lockers, registered = "", ""
        told = "NULL::integer, NULL::text, NULL::integer, NULL::boolean, NULL::text[]"
    return Statement(
        f"""
SELECT session.pid, application_name, coalesce(client_hostname, pg_catalog.host(client_addr)),
       {json_time("backend_start")}, state, {json_time("state_change")}, {json_time("xact_start")},
       nullif(pg_catalog.concat_ws(': '::text, wait_event_type, wait_event), ''),
       CASE WHEN wait_event_type = 'Lock' THEN pg_catalog.pg_blocking_pids(session.pid) ELSE '{{}}'::integer[] END,
       query, {told}
FROM pg_catalog.pg_stat_activity AS session
{lockers}
WHERE datname = pg_catalog.current_database() AND session.pid <> pg_catalog.pg_backend_pid()
  AND (
      pg_catalog.starts_with(application_name, 'qg worker') OR pg_catalog.starts_with(application_name, 'qg listener')
      OR session.pid IN (SELECT pid FROM ({LOCKED}) AS locked) {registered}
  )
  AND coalesce(true, (SELECT {layout.id} IS NULL FROM {layout.que_jobs} LIMIT 1))
ORDER BY session.pid
"""
    )
