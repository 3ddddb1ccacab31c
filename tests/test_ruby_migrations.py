"""A table that Ruby Que's own migrations made and one that qg made are the same, and so are the jobs in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from migrating import describe, insert, insert_locker
from support import Database

import qg

QUE_LIB = os.environ.get("QUE_LIB")
pytestmark = pytest.mark.skipif(not QUE_LIB, reason="QUE_LIB doesn't name the lib folder of a Ruby Que 2.4")

# Deliberately another: Ruby's way from 7 to 6 leaves this condition on que_state_notify.
FORGOTTEN = " WHEN ((NOT (COALESCE(current_setting('que.skip_notify'::text, true), ''::text) = 'true'::text)))"


@pytest.fixture(scope="module")
def own_database(make_database) -> Iterator[Database]:
    with closing(Database(make_database(migrate=False))) as database:
        yield database


def clear(database: Database) -> None:
    database.query("UNLISTEN *; DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def by_qg(database: Database, *versions: int) -> None:
    for version in versions:
        qg.migrate(database.dsn, version)


def by_ruby(database: Database, *versions: int) -> None:
    """Lead *database* to each of *versions* by the scripts of Que::Migrations, in the order that it runs them."""
    for wanted in versions:
        found = qg.schema_version(database.dsn)
        up = [f"{version}/up.sql" for version in range(found + 1, wanted + 1)]
        down = [f"{version}/down.sql" for version in range(found, wanted, -1)]
        with database.conn.cursor() as cur:
            for script in up + down:
                cur.execute(Path(str(QUE_LIB), "que", "migrations", script).read_text(encoding="utf-8"))
            if wanted:
                cur.execute(f"COMMENT ON TABLE que_jobs IS '{wanted}'")


def ques(database: Database) -> list[str]:
    """What there is, but for the table of pauses, which is qg's alone."""
    return [line for line in describe(database) if "qg_queues" not in line]


# The table


@pytest.mark.parametrize("version", range(1, 8))
def test_a_new_table_is_the_same(own_database: Database, version: int) -> None:
    tables = []
    for way, versions in [(by_ruby, [version]), (by_qg, [version]), (by_qg, range(1, version + 1))]:
        clear(own_database)
        way(own_database, *versions)
        tables.append(ques(own_database))
    assert len(tables[0]) > 10
    assert tables[1] == tables[0]
    assert tables[2] == tables[0]


@pytest.mark.parametrize("version", range(6, -1, -1))
def test_a_table_that_came_down_from_version_7_is_the_same(own_database: Database, version: int) -> None:
    tables = []
    for first, second in [(by_ruby, by_ruby), (by_qg, by_qg), (by_ruby, by_qg)]:
        clear(own_database)
        first(own_database, 7)
        second(own_database, version)
        tables.append(ques(own_database))
    ruby = [line.replace(FORGOTTEN, "") if "que_state_notify" in line else line for line in tables[0]]
    assert tables[1] == ruby
    assert tables[2] == ruby


@pytest.mark.parametrize("version", range(1, 7))
def test_each_goes_on_where_the_other_came_to(own_database: Database, version: int) -> None:
    tables = []
    for first, second in [(by_ruby, by_ruby), (by_qg, by_ruby), (by_ruby, by_qg)]:
        clear(own_database)
        first(own_database, version)
        second(own_database, 7)
        tables.append(ques(own_database))
    assert tables[1] == tables[0]
    assert tables[2] == tables[0]


# The jobs


def rows(database: Database) -> list[dict[str, Any]]:
    return [row for (row,) in database.query("SELECT to_jsonb(que_jobs) FROM que_jobs ORDER BY job_class")]


def converted(database: Database, found: int, wanted: int, jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What becomes of *jobs*, by Ruby's scripts and by qg's."""
    both = []
    for way in (by_ruby, by_qg):
        clear(database)
        way(database, found)
        for number, job in enumerate(jobs):
            insert(database, **{"job_class": f"Job{number:02}", "run_at": "2001-02-03 04:05:06+00", **job})
        way(database, wanted)
        both.append(rows(database))
    return both


ERRORS = [
    None,
    "",
    "it",
    "it\n",
    "it\nfailed\n\nhere",
    "\nhere",
    "\n",
    "m" * 501 + "\n" + "b" * 10001,
    "\n" + "b" * 10001,
]
ARGS = ["[]", '[1, {"a": [2]}]', '{"a": 1}', '"a"', "5", "null", "true", '{"a": 1, "a": 2}', "[1.50, 1e3]"]


@pytest.mark.parametrize("wanted", [4, 5, 7])
def test_jobs_on_the_way_up_from_version_3_become_the_same(own_database: Database, wanted: int) -> None:
    jobs = [{"last_error": error} for error in ERRORS]
    jobs += [{"args": args} for args in ARGS]
    jobs += [{"queue": queue} for queue in ("", "default", "mail")]
    ruby, ours = converted(own_database, 3, wanted, jobs)
    assert len(ruby) == len(jobs)
    if wanted > 5:
        # Deliberately another: with Ruby's 1, no worker of Que 2 would ever take them.
        for row in ruby:
            assert row["job_schema_version"] == 1
            row["job_schema_version"] = 2
    assert ours == ruby


def test_jobs_on_the_way_from_version_1_to_3_become_the_same(own_database: Database) -> None:
    ruby, ours = converted(own_database, 1, 3, [{}, {"priority": 5, "error_count": 2, "last_error": "it\nfailed"}])
    assert len(ruby) == 2
    assert ours == ruby


def test_jobs_on_the_way_down_to_version_3_become_the_same_but_for_what_ruby_loses(own_database: Database) -> None:
    jobs: list[dict[str, Any]] = [
        {"queue": queue, "args": args, "last_error_message": message, "last_error_backtrace": backtrace}
        for queue in ("default", "mail", "")
        for args in ("[]", '[1, {"a": 2}]')
        for message, backtrace in ((None, None), ("it", None), ("it", "failed\nhere"), ("", "here"))
    ]
    jobs += [{"finished_at": "2001-01-01"}, {"data": '{"tags": ["a"]}'}]
    ruby, ours = converted(own_database, 4, 3, jobs)
    assert len(ruby) == len(jobs) - 1
    assert ours == ruby

    # Deliberately others: expired jobs, and a backtrace without a message.
    ruby, ours = converted(own_database, 4, 3, [{"expired_at": "2001-01-01"}, {"last_error_backtrace": "here"}])
    assert [row["last_error"] for row in ruby] == [None]
    assert [row["last_error"] for row in ours] == [None, "\nhere"]


def test_jobs_on_the_way_down_to_version_5_become_the_same_but_for_what_ruby_loses(own_database: Database) -> None:
    jobs = [{"args": args, "job_schema_version": version} for args in ("[]", "[1]") for version in (1, 3)]
    ruby, ours = converted(own_database, 6, 5, jobs)
    assert len(ruby) == len(jobs)
    assert ours == ruby

    # Deliberately another: Ruby's script drops keyword arguments, and leaves what no worker would take.
    ruby, ours = converted(own_database, 6, 5, [{"args": "[1]", "kwargs": '{"a": 2}', "job_schema_version": 2}])
    assert [(row["args"], row["job_schema_version"]) for row in ruby] == [([1], 2)]
    assert [(row["args"], row["job_schema_version"]) for row in ours] == [([1, {"a": 2}], 1)]


# The notifications


WRAPPER = "ActiveJob::QueueAdapters::QueAdapter::JobWrapper"
JOBS: list[dict[str, Any]] = [{} for _ in range(40)]
JOBS += [
    {"run_at": "2999-01-01"},
    {"run_at": "-infinity"},
    {"queue": "mail", "priority": -5},
    {"queue": "other"},
    {"error_count": 1},
    {"data": '{"tags": ["a", "ä \\"b\\""]}'},
    {"job_class": WRAPPER, "args": '[{"job_class": "Inner"}]'},
    {"job_class": WRAPPER, "args": "[]"},
    {"job_class": WRAPPER, "args": '[{"job_class": 5}]'},
]
CHANGES = [
    "UPDATE que_jobs SET error_count = error_count + 1 WHERE mod(id, 2) = 0",
    "UPDATE que_jobs SET error_count = error_count + 1 WHERE mod(id, 2) = 0",
    "UPDATE que_jobs SET finished_at = now() WHERE mod(id, 3) = 0",
    "UPDATE que_jobs SET expired_at = now() WHERE mod(id, 4) = 0",
    "UPDATE que_jobs SET id = id + 1000, queue = 'moved', error_count = 1",
    "DELETE FROM que_jobs",
]


def without_time(payload: str) -> str:
    """*payload* as it was sent, without the time when that was."""
    time = json.loads(payload).get("time")
    return payload.replace(time, "") if time else payload


@pytest.mark.parametrize("version", range(4, 8))
def test_the_triggers_say_the_same_word_for_word(own_database: Database, version: int) -> None:
    schema_version = {} if version == 4 else {"job_schema_version": 2}
    said = []
    for way in (by_ruby, by_qg):
        clear(own_database)
        way(own_database, version)
        for pid in (11, 12, 13, 14):
            insert_locker(
                own_database,
                pid,
                worker_count=pid - 10,
                queues=["default", "mail"],
                listening=pid != 13,
                **schema_version,
            )
            own_database.query(f"LISTEN que_listener_{pid}")
        own_database.query("LISTEN que_state")
        for number, job in enumerate(JOBS, -20):
            usual = {"id": number, "job_class": "MyJob", "run_at": "2001-02-03 04:05:06.789+01"}
            insert(own_database, **{**usual, **schema_version, **job})
        for change in CHANGES:
            own_database.query(change)
        own_database.conn.poll()
        said.append([(each.channel, without_time(each.payload)) for each in own_database.conn.notifies])
        own_database.conn.notifies.clear()
    assert len(said[0]) > 60
    assert said[1] == said[0]
