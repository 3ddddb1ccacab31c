"""Versions 4 to 7 of the table: Ruby Que 1.x and 2.x.

They differ in two columns of que_jobs. ``job_schema_version``, from 5 on, keeps the jobs of Que 1.x
apart from those of 2.x; one that isn't the table's own is for somebody else to work. ``kwargs`` is
there from 6 on; before that, keyword arguments are the last object in ``args``.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from qg.errors import ErrInvalidJob
from qg.tables.locking import LOCKED
from qg.tables.settings import NAME_SESSION
from qg.tables.statements import Layout, settling, settling_by_id, settling_by_id_in_tx, settling_in_tx, statements
from qg.tables.table import Draft, Lockers, Statement, Table

__all__ = ["VERSIONS", "WRAPPER", "layout_of", "table"]

VERSIONS = (4, 5, 6, 7)

WRAPPER = "ActiveJob::QueueAdapters::QueAdapter::JobWrapper"
"""The type of every job that ActiveJob enqueues."""

# The constraints of the table, in characters.
_LONGEST_QUEUE = 100
_LONGEST_TYPE = 200
_MOST_TAGS = 5
_LONGEST_TAG = 100

_UNSETTLED = "finished_at IS NULL AND expired_at IS NULL"

# Ruby Que keeps the first line apart from the rest.
_FAILED = """
    run_at = coalesce(pg_catalog.now() + given.seconds * interval '1 second', run_at),
    expired_at = CASE WHEN given.seconds IS NULL THEN pg_catalog.now() END,
    last_error_message = coalesce(
        pg_catalog.left(pg_catalog.split_part(given.message, E'\\n', 1), 500), last_error_message
    ),
    last_error_backtrace = CASE
        WHEN given.message IS NULL THEN last_error_backtrace
        WHEN pg_catalog.strpos(given.message, E'\\n') > 0
        THEN pg_catalog.left(pg_catalog.substr(given.message, pg_catalog.strpos(given.message, E'\\n') + 1), 10000)
    END
"""


def table(version: int, schema: str) -> Table:
    """Return the table of *version*, one of VERSIONS, in *schema*."""
    layout = layout_of(version, schema)
    finish = f"UPDATE {layout.que_jobs} SET finished_at = pg_catalog.now()"
    return Table(
        version=version,
        schema=schema,
        fit=lambda draft: _fit(draft, version),
        width=7,
        queue_name=_queue_name,
        migrated_queue=_queue_name,
        longest_queue_name=_LONGEST_QUEUE,
        maximum_retry_count=15,
        finish_job=settling(finish, layout),
        finish_job_by_id=settling_by_id(finish, layout),
        finish_job_in_tx=settling_in_tx(finish, layout),
        finish_job_by_id_in_tx=settling_by_id_in_tx(finish, layout),
        job_states=_job_states(layout),
        notifies=_notifies(layout),
        channel=lambda pid: f"que_listener_{pid}",
        read_notification=_read_notification,
        lockers=_lockers(layout, version),
        **_inserts(layout, version),
        **statements(layout),
    )


def layout_of(version: int, schema: str) -> Layout:
    """Return what there is in the table of *version*, one of VERSIONS, in *schema*."""
    absent = []
    if version < 5:
        absent.append("1 AS job_schema_version")
    if version < 6:
        absent.append("'{}'::jsonb AS kwargs")
    indexes = ["que_poll_idx"]
    if version == 5:
        indexes.append("que_poll_idx_with_job_schema_version")
    return Layout(
        schema=schema,
        suffix=f"_v{version}",
        id="id",
        unsettled=_UNSETTLED,
        # The last condition is always true, and costs nothing. It names kwargs, so that a walk fails on a
        # version where that is something else, instead of finding nothing there for ever.
        workable=(
            f"{_UNSETTLED} AND job_schema_version = {_job_schema_version(version)} AND coalesce(true, kwargs IS NULL)"
        ),
        absent=tuple(absent),
        described=_described("kwargs"),
        failed=_FAILED,
        indexes=tuple(indexes),
        leading=("queue", "priority") if version < 6 else ("job_schema_version", "queue", "priority"),
        finished_at="finished_at",
        expired_at="expired_at",
        headline="pg_catalog.split_part(last_error_message, E'\\n', 1)",
        given_up="expired_at = pg_catalog.now(), last_error_message = coalesce(last_error_message, given.message)",
        revived="run_at = pg_catalog.now(), error_count = 0, expired_at = NULL",
    )


def _job_schema_version(version: int) -> int:
    return 1 if version < 6 else 2


def _described(kwargs: str) -> str:
    last_error = "last_error_message || coalesce(E'\\n' || last_error_backtrace, '')"
    return f"{last_error}, ({kwargs})::text, coalesce(data -> 'tags'::text, '[]')::text"


def _inserts(layout: Layout, version: int) -> dict[str, Any]:
    """Return the INSERTs. Before version 6 they don't say job_schema_version, without which later ones refuse."""
    columns = {
        "queue": "queue",
        "priority": "priority",
        "run_at": "coalesce(run_at, pg_catalog.now())",
        "job_class": "job_class",
        "args": "args",
        "data": "CASE tags WHEN '[]' THEN '{}'::jsonb ELSE pg_catalog.jsonb_build_object('tags', tags) END",
    }
    if version >= 6:
        columns |= {"kwargs": "kwargs", "job_schema_version": str(_job_schema_version(version))}
    else:
        layout = replace(layout, described=_described("'{}'"))
    insert = f"INSERT INTO {layout.que_jobs} ({', '.join(columns)}) SELECT {', '.join(columns.values())}"
    return {
        "insert_job": Statement(
            name=f"que_insert_job{layout.suffix}",
            text=f"""
{insert}
FROM (
    SELECT $1::text AS queue, $2::smallint AS priority, $3::timestamptz AS run_at, $4::text AS job_class,
           $5::jsonb AS args, $6::jsonb AS kwargs, $7::jsonb AS tags
) AS given
RETURNING {layout.row}
""",
        ),
        "insert_jobs": _insert_jobs(insert),
        "insert_jobs_quietly": _insert_jobs(insert, quietly=True),
    }


# The sequence is asked after the sort, so the ids ascend in the order of the arrays. The triggers of
# version 7 look at que.skip_notify for each row; what the same transaction enqueues next is told of again.
def _insert_jobs(insert: str, *, quietly: bool = False) -> Statement:
    quiet, once_quiet, result = "", "", "SELECT jobs FROM told"
    if quietly:
        quiet = """quiet AS MATERIALIZED (
    SELECT before, pg_catalog.set_config('que.skip_notify', 'true', true) AS skipped
    FROM (SELECT coalesce(pg_catalog.current_setting('que.skip_notify', true), '') AS before OFFSET 0) AS setting
),"""
        once_quiet = "WHERE (SELECT skipped FROM quiet) = 'true'"
        result = "SELECT jobs, pg_catalog.set_config('que.skip_notify', before, true) FROM told, quiet"
    return Statement(
        f"""
WITH {quiet} stored AS (
    {insert}
    FROM (
        SELECT queue, priority, run_at::timestamptz, job_class, args::jsonb, kwargs::jsonb, tags::jsonb
        FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
             WITH ORDINALITY AS given (queue, priority, run_at, job_class, args, kwargs, tags, position)
        {once_quiet}
        ORDER BY position
    ) AS given
    RETURNING id, run_at
), told AS (
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(id, run_at) ORDER BY id)::text AS jobs FROM stored
)
{result}
"""
    )


# A locker of Ruby's has one session for all its workers, and asks for jobs on it all the time: since
# when it has had one, nobody can see.
def _job_states(layout: Layout) -> Statement:
    return Statement(
        f"""
SELECT id, queue, job_class, priority, pg_catalog.to_json(run_at) #>> '{{}}'::text[], error_count,
       locked.pid, ruby_pid, coalesce(ruby_hostname, client_hostname, pg_catalog.host(client_addr)),
       CASE WHEN coalesce(worker_count, 0) = 0
            THEN pg_catalog.to_json(coalesce(xact_start, query_start)) #>> '{{}}'::text[] END
FROM ({LOCKED}) AS locked
JOIN {layout.que_jobs} USING (id)
LEFT JOIN {layout.que_lockers} ON que_lockers.pid = locked.pid
LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = locked.pid
ORDER BY id
"""
    )


def _notifies(layout: Layout) -> Statement:
    return Statement(
        f"""
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_trigger
    WHERE tgrelid = {layout.regclass("que_jobs")}::regclass::oid
      AND tgname = 'que_job_notify' AND tgenabled IN ('O', 'A')
)
"""
    )


def _lockers(layout: Layout, version: int) -> Lockers:
    column, value = (", job_schema_version", f", {_job_schema_version(version)}") if version >= 5 else ("", "")
    return Lockers(
        register=Statement(
            f"""
{NAME_SESSION.text};
DELETE FROM {layout.que_lockers}
WHERE pid = pg_catalog.pg_backend_pid()
   OR NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS session WHERE session.pid = que_lockers.pid);
INSERT INTO {layout.que_lockers}
    (pid, worker_count, worker_priorities, ruby_pid, ruby_hostname, queues, listening{column})
SELECT pg_catalog.pg_backend_pid(), workers, pg_catalog.array_fill(NULL::integer, ARRAY[greatest(workers, 1)]),
       process, host, ARRAY[queue], listening{value}
FROM (
    SELECT $2::integer AS workers, $3::integer AS process, $4::text AS host, $5::text AS queue,
           $6::boolean AS listening
) AS given
RETURNING pid
"""
        ),
        leave=Statement(
            f"""
{NAME_SESSION.text};
DELETE FROM {layout.que_lockers} WHERE pid = pg_catalog.pg_backend_pid() RETURNING pid
"""
        ),
    )


def _queue_name(queue: str) -> str:
    return queue or "default"


def _fit(draft: Draft, version: int) -> Draft:
    if draft.one_argument:
        draft = draft._replace(args=f"[{draft.args}]", one_argument=False)
    name = f"a {draft.type!r} job"
    queue, args, tags = _queue_name(draft.queue), draft.args.strip(), json.loads(draft.tags)
    if not args.startswith("["):
        raise ErrInvalidJob(
            f"{name} must have a list for args, since the table is of version {version}, whose args are JSON arrays; "
            "put them into one"
        )
    for text, what in ((args, "args"), (draft.kwargs, "kwargs"), (draft.tags, "tags")):
        if (trouble := _not_in_jsonb(text)) is not None:
            raise ErrInvalidJob(f"the {what} of {name} hold {trouble}, which jsonb refuses; leave it out")
    _refuse_longer(f"the queue of {name}", queue, _LONGEST_QUEUE)
    _refuse_longer(f"the type of {name}", _type_in(draft), _LONGEST_TYPE)
    if len(tags) > _MOST_TAGS:
        raise ErrInvalidJob(f"{name} has {len(tags)} tags; the table holds {_MOST_TAGS} at the most")
    for tag in tags:
        _refuse_longer(f"the tag {tag!r} of {name}, in quotes as JSON has it,", _in_jsonb(tag), _LONGEST_TAG)
    if version < 6 and draft.kwargs != "{}":
        before = args[:-1].rstrip()
        args = f"{before}{'' if before == '[' else ', '}{draft.kwargs}]"
        return draft._replace(queue=queue, args=args, kwargs="{}")
    return draft._replace(queue=queue)


def _type_in(draft: Draft) -> str:
    """Return the type whose length the table looks at: of ActiveJob's jobs the class that is meant."""
    if draft.type == WRAPPER:
        first = next(iter(json.loads(draft.args, parse_int=str, parse_float=str)), None)
        inner = first.get("job_class") if isinstance(first, dict) else None
        return inner if isinstance(inner, str) else ""
    return draft.type


def _refuse_longer(subject: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise ErrInvalidJob(f"{subject} is {len(text)} characters long; the table holds {longest} at the most")


def _in_jsonb(text: str) -> str:
    """Return *text* as PostgreSQL writes it, which counts its characters so."""
    return json.dumps(text, ensure_ascii=False)


def _not_in_jsonb(document: str) -> str | None:
    """Return what there is in *document* that JSON has and jsonb hasn't."""
    first_half = None  # of a surrogate pair, if the escape before was one: where it ended
    for escape in re.finditer(r"\\(?:u([0-9a-fA-F]{4})|.)", document):
        code = int(escape[1], 16) if escape[1] else -1
        is_second = 0xDC00 <= code <= 0xDFFF
        if code == 0:
            return "a NUL character"
        if (first_half is not None) != is_second or (is_second and first_half != escape.start()):
            return "half of a surrogate pair"
        first_half = escape.end() if 0xD800 <= code <= 0xDBFF else None
    return None if first_half is None else "half of a surrogate pair"


def _read_notification(payload: str) -> tuple[str, int] | None:
    try:
        message = json.loads(payload)
        return (message["queue"], 1) if message["message_type"] == "job_available" else None
    except (ValueError, KeyError, TypeError, RecursionError):  # anybody may notify any channel of anything
        return None
