"""Leading the table from version to version: what it is afterwards, what became of the jobs, what is refused."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from migrating import describe, insert, insert_locker
from psycopg2.errors import CheckViolation
from psycopg2.extensions import connection, make_dsn
from psycopg2.sql import SQL, Composable, Identifier
from support import Database, eventually

import qg

WRAPPER = "ActiveJob::QueueAdapters::QueAdapter::JobWrapper"
MIGRATORS = "SELECT {}(hashtext('que_jobs'), hashtext('migrate'))"


@pytest.fixture(scope="module")
def own_database(make_database) -> Iterator[Database]:
    with closing(Database(make_database(migrate=False))) as database:
        yield database


@pytest.fixture
def empty(own_database: Database) -> Database:
    """A database with nothing in it."""
    own_database.query("RESET ALL; UNLISTEN *; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return own_database


@pytest.fixture(scope="module")
def tables(make_database) -> dict[int, Callable[..., list[str]]]:
    """For each version, what describes a new table of it."""
    found: dict[int, Callable[..., list[str]]] = {}
    for version in range(8):
        with closing(Database(make_database(migrate=False))) as database:
            qg.migrate(database.dsn, version)
            texts = {
                (order, source): describe(database, order=order, source=source)
                for order in (True, False)
                for source in (True, False)
            }

        def described(*, order: bool = True, source: bool = True, texts: Any = texts) -> list[str]:
            return texts[order, source]

        found[version] = described
    return found


def execute(database: Database, statement: str | Composable) -> None:
    """Run *statement*, in which % is nothing special."""
    with database.conn.cursor() as cur:
        cur.execute(statement)


# The table


@pytest.mark.parametrize("wanted", range(8))
@pytest.mark.parametrize("found", range(8))
def test_the_table_is_what_a_new_one_of_its_version_is_wherever_it_came_from(
    empty: Database, tables: Any, found: int, wanted: int
) -> None:
    qg.migrate(empty.dsn, found)
    assert qg.schema_version(empty.dsn) == found
    qg.migrate(empty.dsn, wanted)
    assert qg.schema_version(empty.dsn) == wanted
    # A column that an upper version has anew stands behind the others on the way down, as Ruby's does.
    order = not (found > 3 >= wanted)
    assert describe(empty, order=order, source=True) == tables[wanted](order=order)


def test_a_table_of_version_7_is_the_one_that_ruby_que_makes(tables: Any) -> None:
    expected = Path(__file__).with_name("version_7.txt").read_text(encoding="utf-8")
    # From PostgreSQL 18 on, a column that isn't null has a constraint too. The table of pauses is ours alone.
    ques = [line for line in tables[7](source=False) if "_not_null n " not in line and "qg_queues" not in line]
    assert "".join(f"{line}\n" for line in ques) == expected


def test_version_0_leaves_nothing_behind(empty: Database, tables: Any) -> None:
    assert tables[0]() == []
    qg.migrate(empty.dsn, 3, notify=True)
    qg.migrate(empty.dsn, 0)
    assert describe(empty) == []


def test_the_version_without_a_comment_is_told_from_the_columns_and_written_down_on_the_way(
    empty: Database, tables: Any
) -> None:
    qg.migrate(empty.dsn, 4)
    empty.query("COMMENT ON TABLE que_jobs IS NULL")
    qg.migrate(empty.dsn, 7)
    assert describe(empty, source=True) == tables[7]()


@pytest.mark.parametrize("version", range(1, 8))
def test_without_a_version_a_table_is_left_alone_and_nobody_waited_for(empty: Database, version: int) -> None:
    qg.migrate(empty.dsn, version)
    before = describe(empty, source=True)
    with closing(empty.connect()) as other:
        other.cursor().execute("LOCK TABLE que_jobs IN ACCESS EXCLUSIVE MODE")
        impatient = make_dsn(empty.dsn, options="-c lock_timeout=1")
        qg.migrate(impatient)
        qg.migrate(impatient, version)
        other.rollback()
    assert describe(empty, source=True) == before


def test_migrating_waits_for_whoever_has_touched_the_table(empty: Database, tables: Any) -> None:
    qg.migrate(empty.dsn, 3)
    with closing(empty.connect()) as other:
        other.cursor().execute("SELECT FROM que_jobs")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            qg.migrate(make_dsn(empty.dsn, options="-c lock_timeout=50"), 7)
    assert describe(empty, source=True) == tables[3]()


def test_no_job_escapes_its_conversion_by_coming_late(empty: Database) -> None:
    qg.migrate(empty.dsn, 6)
    thread = threading.Thread(target=qg.migrate, args=(empty.dsn, 5))
    with closing(Database(empty.dsn)) as other:
        other.query("BEGIN")
        insert(other, job_class="MyJob", args="[1]", kwargs='{"a": 2}', job_schema_version=2)
        thread.start()
        migrator = eventually(lambda: [pid for pid, _, _ in empty.sessions() if empty.is_waiting_for_a_lock(pid)])
        assert len(migrator) == 1
        other.query("COMMIT")
    thread.join()
    assert empty.query("SELECT args, job_schema_version FROM que_jobs") == [([1, {"a": 2}], 1)]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_of_two_that_migrate_at_once_the_second_finds_what_the_first_made(
    empty: Database, tables: Any, isolation: str
) -> None:
    qg.migrate(empty.dsn, 3)
    insert(empty, job_class="MyJob", args='{"a": 1}')
    escaped = isolation.replace(" ", "\\ ")
    dsn = make_dsn(empty.dsn, options=f"-c default_transaction_isolation={escaped}")
    troubles: list[Exception] = []

    def migrate() -> None:
        try:
            qg.migrate(dsn, 7)
        except Exception as trouble:
            troubles.append(trouble)

    threads = [threading.Thread(target=migrate) for _ in range(2)]
    empty.query(MIGRATORS.format("pg_advisory_lock"))
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: [empty.is_waiting_for_a_lock(pid) for pid, _, _ in empty.sessions()] == [True, True])
    finally:
        empty.query(MIGRATORS.format("pg_advisory_unlock"))
    for thread in threads:
        thread.join()
    assert troubles == []
    assert describe(empty, source=True) == tables[7]()
    assert empty.query("SELECT job_class, args, queue FROM que_jobs") == [("MyJob", [{"a": 1}], "default")]


@pytest.mark.parametrize("version", [-1, 8, True, False, "3", 3.0])
@pytest.mark.parametrize("notify", [False, True])
def test_a_version_that_there_isnt_is_refused_before_anything_is_touched(version: Any, notify: bool) -> None:
    with pytest.raises(
        qg.ErrInvalidOption, match=f"no version {version!r} of the que_jobs table; give one from 1 to 7"
    ):
        qg.migrate(lambda: pytest.fail("it connected"), version, notify=notify)


@pytest.mark.parametrize("version", [None, 0, 3, 7])
@pytest.mark.parametrize(
    ("columns", "comment", "message"),
    [
        ("id int", "8", "of version 8, but this qg knows 1 to 7 only; upgrade qg"),
        ("a int, b int", None, "its columns are a, b"),
    ],
)
def test_a_table_that_qg_doesnt_know_is_left_alone(
    empty: Database, columns: str, comment: str | None, message: str, version: int | None
) -> None:
    empty.query(f"CREATE TABLE que_jobs ({columns})")
    empty.query("COMMENT ON TABLE que_jobs IS %s", (comment,))
    before = describe(empty)
    with pytest.raises(qg.ErrTable, match=message):
        qg.migrate(empty.dsn, version)
    assert describe(empty) == before


def test_where_no_schema_of_the_search_path_exists_there_is_no_place_for_a_table(empty: Database) -> None:
    with pytest.raises(qg.ErrTable, match="no schema of this connection's search_path exists"):
        qg.migrate(make_dsn(empty.dsn, options="-c search_path=nowhere"))


def test_a_step_that_fails_for_another_reason_says_so_itself_and_undoes_the_others(
    empty: Database, tables: Any
) -> None:
    qg.migrate(empty.dsn, 7)
    before = describe(empty, source=True)
    empty.query("CREATE VIEW finished AS SELECT id, finished_at FROM que_jobs")
    with pytest.raises(psycopg2.errors.DependentObjectsStillExist):
        qg.migrate(empty.dsn, 3)
    empty.query("DROP VIEW finished")
    assert describe(empty, source=True) == before == tables[7]()


# Schemas


@pytest.mark.parametrize("name", ["tenant", """it's "a".b, $function$ {schema} % $$ \\"""], ids=["plain", "nasty"])
def test_a_table_works_in_its_schema_whatever_that_is_called_and_leaves_others_alone(
    empty: Database, name: str
) -> None:
    qg.migrate(empty.dsn, 3, notify=True)
    public = describe(empty, source=True)
    schema = Identifier(name)
    execute(empty, SQL("CREATE SCHEMA {}").format(schema))

    def connect() -> connection:
        conn = psycopg2.connect(empty.dsn)
        conn.cursor().execute(SQL("SET search_path TO {}, public").format(schema))
        return conn

    for version in (7, 3, None, 0, 3, 6):
        qg.migrate(connect, version)
        assert describe(empty, source=True) == public
        with closing(connect()) as conn, conn.cursor() as cur:
            cur.execute(
                "SELECT count(*) FROM pg_proc JOIN pg_namespace AS n ON n.oid = pronamespace "
                "WHERE nspname = current_schema()"
            )
            assert cur.fetchone() == ((4,) if version in (6, 7) else (0,))
    with closing(Database(empty.dsn)) as inside:
        execute(inside, SQL("SET search_path TO {}").format(schema))
        insert_locker(inside, 11, job_schema_version=2)
    # This session doesn't see the schema; the triggers find what they need there all the same.
    statement = SQL("INSERT INTO {}.que_jobs (id, job_class, job_schema_version) VALUES (1, 'MyJob', 2)")
    heard = heard_by(empty, ["que_listener_11", "que_state"], statement.format(schema))
    assert [channel for channel, _ in heard] == ["que_listener_11", "que_state"]
    assert describe(empty, source=True) == public


# qg's own trigger


def test_notifications_of_version_3_end_where_the_table_notifies_by_itself(empty: Database, tables: Any) -> None:
    qg.migrate(empty.dsn, 3, notify=True)
    with_trigger = describe(empty, order=False, source=True)
    assert with_trigger != tables[3](order=False)
    qg.migrate(empty.dsn, 4, notify=True)
    assert describe(empty, source=True) == tables[4]()
    qg.migrate(empty.dsn, 3, notify=True)
    assert describe(empty, order=False, source=True) == with_trigger
    qg.migrate(empty.dsn, 2)
    assert describe(empty, order=False, source=True) == tables[2](order=False)


@pytest.mark.parametrize("version", range(4, 8))
def test_from_version_4_on_notify_adds_nothing(empty: Database, tables: Any, version: int) -> None:
    qg.migrate(empty.dsn, version, notify=True)
    qg.migrate(empty.dsn, notify=True)
    assert describe(empty, source=True) == tables[version]()


@pytest.mark.parametrize("version", [0, 1, 2])
def test_below_version_3_there_are_no_queues_to_notify_of(empty: Database, tables: Any, version: int) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=f"of version {version} has no queues to notify of"):
        qg.migrate(lambda: pytest.fail("it connected"), version, notify=True)
    if version:
        qg.migrate(empty.dsn, version)
        with pytest.raises(qg.ErrInvalidOption, match=f"of version {version} has no queues to notify of"):
            qg.migrate(empty.dsn, notify=True)
        assert describe(empty, source=True) == tables[version]()


# Jobs on the way up


def test_version_3_puts_every_job_into_the_nameless_queue(empty: Database) -> None:
    qg.migrate(empty.dsn, 1)
    insert(empty, job_class="MyJob")
    qg.migrate(empty.dsn, 3)
    assert empty.query("SELECT job_class, priority, queue FROM que_jobs") == [("MyJob", 1, "")]


@pytest.mark.parametrize(
    ("args", "converted"),
    [("[]", []), ('[1, {"a": 2}]', [1, {"a": 2}]), ('{"a": 1}', [{"a": 1}]), ('"a"', ["a"]), ("null", [None])],
)
def test_version_4_wraps_args_that_are_no_array(empty: Database, args: str, converted: list[Any]) -> None:
    qg.migrate(empty.dsn, 3)
    insert(empty, job_class="MyJob", args=args)
    qg.migrate(empty.dsn, 4)
    assert empty.query("SELECT args, data FROM que_jobs") == [(converted, {})]


@pytest.mark.parametrize(
    ("error", "message", "backtrace"),
    [
        (None, None, None),
        ("", None, None),
        ("it", "it", None),
        ("it\n", "it", ""),
        ("it\nfailed\n\nhere", "it", "failed\n\nhere"),
        ("\nhere", None, "\nhere"),
        ("m" * 501 + "\n" + "b" * 10001, "m" * 500, "b" * 10000),
        ("\n" + "b" * 10001, None, "\n" + "b" * 9999),
    ],
)
def test_version_4_splits_an_error_at_its_first_newline(
    empty: Database, error: str | None, message: str | None, backtrace: str | None
) -> None:
    qg.migrate(empty.dsn, 3)
    insert(empty, job_class="MyJob", last_error=error)
    qg.migrate(empty.dsn, 4)
    assert empty.query("SELECT last_error_message, last_error_backtrace FROM que_jobs") == [(message, backtrace)]


def test_version_4_calls_the_nameless_queue_default(empty: Database) -> None:
    qg.migrate(empty.dsn, 3)
    for queue in ("", "mail", "default"):
        insert(empty, job_class="MyJob", queue=queue)
    qg.migrate(empty.dsn, 4)
    assert empty.query("SELECT queue FROM que_jobs ORDER BY id") == [("default",), ("mail",), ("default",)]


def test_version_6_keeps_what_could_be_worked_workable_and_nothing_else(empty: Database) -> None:
    qg.migrate(empty.dsn, 5)
    for version in (1, 2, 3, None):
        insert(empty, job_class="MyJob", args='[{"a": 1}]', job_schema_version=version)
    qg.migrate(empty.dsn, 6)
    assert empty.query("SELECT job_schema_version, args, kwargs FROM que_jobs ORDER BY id") == [
        (2, [{"a": 1}], {}),
        (2, [{"a": 1}], {}),
        (3, [{"a": 1}], {}),
        (1, [{"a": 1}], {}),
    ]


# Jobs on the way down


def test_version_3_deletes_finished_jobs_and_lets_expired_ones_wait_a_hundred_years(empty: Database) -> None:
    qg.migrate(empty.dsn, 7)
    for name, finished, expired in [
        ("Waiting", None, None),
        ("Expired", None, "2020-01-01"),
        ("Finished", "2020-01-01", None),
        ("Both", "2020-01-01", "2020-01-01"),
    ]:
        insert(empty, job_class=name, job_schema_version=2, finished_at=finished, expired_at=expired)
    qg.migrate(empty.dsn, 3)
    century = "extract(epoch FROM run_at - now()) / 3153600000"
    assert empty.query(f"SELECT job_class, round({century}::numeric, 3) FROM que_jobs ORDER BY job_id") == [
        ("Waiting", 0),
        ("Expired", 1),
    ]


@pytest.mark.parametrize(
    ("message", "backtrace", "error"),
    [
        (None, None, None),
        ("it", None, "it"),
        ("it", "failed\nhere", "it\nfailed\nhere"),
        (None, "here", "\nhere"),
        ("m" * 500, "b" * 10000, "m" * 500 + "\n" + "b" * 10000),
    ],
)
def test_version_3_has_an_error_and_its_backtrace_in_one(
    empty: Database, message: str | None, backtrace: str | None, error: str | None
) -> None:
    qg.migrate(empty.dsn, 4)
    insert(empty, job_class="MyJob", last_error_message=message, last_error_backtrace=backtrace)
    qg.migrate(empty.dsn, 3)
    assert empty.query("SELECT last_error FROM que_jobs") == [(error,)]


def test_version_3_has_no_name_for_the_default_queue_and_none_for_tags(empty: Database) -> None:
    qg.migrate(empty.dsn, 4)
    for queue in ("default", "mail", ""):
        insert(empty, job_class="MyJob", queue=queue, data='{"tags": ["a"]}')
    qg.migrate(empty.dsn, 3)
    assert empty.query("SELECT queue FROM que_jobs ORDER BY job_id") == [("",), ("mail",), ("",)]


def test_version_5_has_keyword_arguments_as_the_last_of_the_args(empty: Database) -> None:
    qg.migrate(empty.dsn, 6)
    for args, kwargs, version in [
        ("[]", "{}", 2),
        ("[1]", "{}", 2),
        ("[1]", '{"a": 2}', 2),
        ("[]", '{"a": 2}', 2),
        ("[1]", '{"a": 2}', 1),
        ("[1]", "{}", 3),
    ]:
        insert(empty, job_class="MyJob", args=args, kwargs=kwargs, job_schema_version=version)
    qg.migrate(empty.dsn, 5)
    assert empty.query("SELECT args, job_schema_version FROM que_jobs ORDER BY id") == [
        ([], 1),
        ([1], 1),
        ([1, {"a": 2}], 1),
        ([{"a": 2}], 1),
        ([1, {"a": 2}], 1),
        ([1], 3),
    ]


def test_jobs_come_back_from_version_7_as_they_were(empty: Database) -> None:
    qg.migrate(empty.dsn, 3)
    for number in range(20):
        insert(
            empty,
            priority=number % 3,
            run_at=["-infinity", "2001-02-03 04:05:06.789+00", "infinity"][number % 3],
            job_class=f"Job{number}",
            args=json.dumps([number, {"a": [number]}, "ä"][: number % 4]),
            error_count=number,
            last_error=[None, "it", "it\nfailed\nhere"][number % 3],
            queue=["", "mail"][number % 2],
        )
    columns = "priority, run_at::text, job_id, job_class, args::jsonb, error_count, last_error, queue"
    before = empty.query(f"SELECT {columns} FROM que_jobs ORDER BY job_id")
    qg.migrate(empty.dsn, 7)
    insert(empty, job_class="Job21", job_schema_version=2)
    assert empty.value("SELECT max(id) FROM que_jobs") == 21
    qg.migrate(empty.dsn, 3)
    insert(empty, job_class="Job22")
    after = empty.query(f"SELECT {columns} FROM que_jobs ORDER BY job_id")
    assert after[:20] == before
    assert [row[2] for row in after[20:]] == [21, 22]


# Jobs that can't come along

REFUSED = [
    ({"args": '["\\u0000"]'}, r"args that jsonb refuses \(\\u0000"),
    ({"args": '{"a": "\\ud800"}'}, "args that jsonb refuses"),
    ({"args": "[1e200000]"}, "args that jsonb refuses"),
    ({"queue": "q" * 101}, "a queue of more than 100 characters"),
    ({"job_class": "J" * 201}, "a job_class of more than 200 characters"),
    ({"job_class": WRAPPER, "args": json.dumps([{"job_class": "J" * 201}])}, "a job_class of more than 200"),
    ({"job_class": WRAPPER, "args": json.dumps({"job_class": "J" * 201})}, "a job_class of more than 200"),
    ({"job_id": 1}, "a job_id that another one has too"),
]


@pytest.mark.parametrize(("values", "obstacle"), REFUSED, ids=range(len(REFUSED)))
def test_a_job_that_version_4_cant_hold_is_named_and_nothing_changes(
    empty: Database, tables: Any, values: dict[str, Any], obstacle: str
) -> None:
    qg.migrate(empty.dsn, 3)
    # Those just within the limits stay out of it.
    insert(empty, job_class="J" * 200, queue="q" * 100, args='["\\u0001", "\\ud83d\\ude00"]', last_error="e" * 20000)
    insert(empty, **{"job_id": 7, "job_class": "MyJob", **values})
    before = empty.query("SELECT * FROM que_jobs ORDER BY queue")
    ids = "1, 1" if "job_id" in values else "7"
    with pytest.raises(
        qg.ErrTable, match=f"still of version 3, since version 4 .*, those with {obstacle}.*: {ids}. Ch"
    ):
        qg.migrate(empty.dsn, 7)
    assert describe(empty, source=True) == tables[3]()
    assert empty.query("SELECT * FROM que_jobs ORDER BY queue") == before


def test_a_job_whose_priority_version_3_cant_hold_is_named_and_nothing_changes(empty: Database, tables: Any) -> None:
    qg.migrate(empty.dsn, 1)
    for priority in (-32769, -32768, 32767, 32768):
        insert(empty, job_class="MyJob", priority=priority)
    with pytest.raises(
        qg.ErrTable, match="version 1, since version 3 .* a priority that smallint can't hold: 1, 4. Ch"
    ):
        qg.migrate(empty.dsn, 7)
    assert describe(empty, source=True) == tables[1]()
    assert empty.count() == 4


def test_ten_jobs_of_each_kind_are_named_and_the_others_counted(empty: Database) -> None:
    qg.migrate(empty.dsn, 3)
    for _ in range(12):
        insert(empty, job_class="MyJob", args='"\\u0000"')
    insert(empty, job_class="MyJob", queue="q" * 101)
    with pytest.raises(
        qg.ErrTable, match=r"with a queue .*: 13; with args .*: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more. Change"
    ):
        qg.migrate(empty.dsn, 4)
    # And then it goes.
    empty.query("DELETE FROM que_jobs WHERE job_id <= 13")
    qg.migrate(empty.dsn, 4)


# What the table checks and tells


@pytest.mark.parametrize("version", [4, 7])
def test_the_table_checks_its_jobs(empty: Database, version: int) -> None:
    qg.migrate(empty.dsn, version)
    usual = {"job_class": "MyJob"} | ({"job_schema_version": 2} if version > 5 else {})
    within: list[dict[str, Any]] = [
        {"data": json.dumps({"tags": ["ä" * 98] * 5})},
        {"data": '{"tags": [], "other": 1}'},
        {"queue": "q" * 100},
        {"job_class": "J" * 200},
        {"last_error_message": "m" * 500, "last_error_backtrace": "b" * 10000},
        {"job_class": WRAPPER, "args": json.dumps([{"job_class": "J" * 200}])},
        {"job_class": WRAPPER},
    ]
    beyond: list[dict[str, Any]] = [
        {"data": json.dumps({"tags": ["t" * 99]})},
        {"data": json.dumps({"tags": ["t"] * 6})},
        {"data": '{"tags": ["t", 1]}'},
        {"data": '{"tags": {}}'},
        {"data": "[]"},
        {"args": "{}"},
        {"queue": "q" * 101},
        {"job_class": "J" * 201},
        {"last_error_message": "m" * 501},
        {"last_error_backtrace": "b" * 10001},
        {"job_class": WRAPPER, "args": json.dumps([{"job_class": "J" * 201}])},
    ]
    for values in within:
        insert(empty, **usual | values)
    for values in beyond:
        with pytest.raises(CheckViolation):
            insert(empty, **usual | values)
    assert empty.count() == len(within)


def heard_by(database: Database, channels: list[str], statement: str | Composable) -> list[tuple[str, dict[str, Any]]]:
    """What *channels*, and those listened to before, say of *statement*, in order."""
    for channel in channels:
        database.query(f"LISTEN {channel}")
    execute(database, statement)
    database.conn.poll()
    heard = [(each.channel, json.loads(each.payload)) for each in database.conn.notifies]
    database.conn.notifies.clear()
    return heard


@pytest.mark.parametrize("version", range(4, 8))
def test_a_job_that_is_due_is_told_to_the_worker_whose_turn_its_id_is(empty: Database, version: int) -> None:
    qg.migrate(empty.dsn, version)
    mine = {} if version == 4 else {"job_schema_version": 2 if version > 5 else 1}
    insert_locker(empty, 11, worker_count=3, worker_priorities=[0, 0, 10], **mine)
    insert_locker(empty, 12, worker_count=2, queues=["mail", "default"], **mine)
    insert_locker(empty, 13, worker_count=0, **mine)
    insert_locker(empty, 14, listening=False, **mine)
    insert_locker(empty, 15, queues=["mail"], **mine)
    if version > 4:
        insert_locker(empty, 16, job_schema_version=3 - mine["job_schema_version"])
    slots = [(11, 1), (11, 2), (11, 3), (12, 1), (12, 2)]
    turns = sorted(slots, key=lambda slot: hashlib.md5(f"{slot[0]}{slot[1]}".encode()).hexdigest())
    columns = ", ".join(("job_class", "run_at", *mine))
    values = ", ".join(("'MyJob'", "'2001-02-03 04:05:06.789+01'", *map(str, mine.values())))
    for number in range(1, 12):
        heard = heard_by(
            empty,
            [f"que_listener_{pid}" for pid in range(11, 17)],
            f"INSERT INTO que_jobs (id, {columns}) VALUES ({number}, {values})",
        )
        payload = {
            "message_type": "job_available",
            "queue": "default",
            "priority": 100,
            "id": number,
            "run_at": "2001-02-03T03:05:06.789000Z",
        }
        assert heard == [(f"que_listener_{turns[number % 5][0]}", payload)]
    later = values.replace("'2001-02-03 04:05:06.789+01'", "now() + interval '1 minute'")
    for quiet in (
        f"INSERT INTO que_jobs (id, {columns}) VALUES (12, {later})",
        f"INSERT INTO que_jobs (id, queue, {columns}) VALUES (13, 'other', {values})",
    ):
        assert heard_by(empty, [], quiet) == []


@pytest.mark.parametrize("version", range(4, 8))
def test_a_jobs_new_state_is_told_and_the_old_one(empty: Database, version: int) -> None:
    qg.migrate(empty.dsn, version)
    if version > 5:
        empty.query("ALTER TABLE que_jobs ALTER COLUMN job_schema_version SET DEFAULT 2")
    due = "2001-02-03T03:05:06.789000Z"

    def states(statement: str) -> list[tuple[str, str]]:
        heard = heard_by(empty, ["que_state"], statement)
        for channel, message in heard:
            assert channel == "que_state"
            assert abs(empty.value("SELECT extract(epoch FROM now() - %s)", (message.pop("time"),))) < 60
            assert message.pop("run_at") == due or "scheduled" in message.values()
            assert list(message.items())[:5] == [
                ("message_type", "job_change"),
                ("id", 1),
                ("queue", "mail"),
                ("tags", ["a", "b"]),
                ("job_class", "MyJob"),
            ]
        return [(message["previous_state"], message["current_state"]) for _, message in heard]

    insertion = (
        "INSERT INTO que_jobs (id, job_class, queue, run_at, data)"
        """VALUES (1, 'MyJob', 'mail', '2001-02-03 04:05:06.789+01', '{"tags": ["a", "b"]}')"""
    )
    update = "UPDATE que_jobs SET "
    assert states(insertion) == [("nonexistent", "ready")]
    assert states(update + "run_at = now() + interval '1 minute'") == [("ready", "scheduled")]
    assert states(update + f"run_at = '{due}', error_count = 1") == [("scheduled", "errored")]
    assert states(update + "error_count = 2") == []
    assert states(update + "finished_at = now()") == [("errored", "finished")]
    assert states(update + "expired_at = now()") == [("finished", "expired")]
    assert states("DELETE FROM que_jobs") == [("expired", "nonexistent")]


@pytest.mark.parametrize(
    ("args", "told"), [('[{"job_class": "Inner"}]', "Inner"), ("[]", WRAPPER), ('[{"job_class": null}]', WRAPPER)]
)
def test_of_an_active_job_its_own_class_is_told(empty: Database, args: str, told: str) -> None:
    qg.migrate(empty.dsn, 4)
    statement = f"INSERT INTO que_jobs (job_class, args) VALUES ('{WRAPPER}', '{args}')"
    ((_, message),) = heard_by(empty, ["que_state"], statement)
    assert message["job_class"] == told
    assert message["tags"] == []


@pytest.mark.parametrize(
    ("version", "setting", "channels"),
    [(6, "true", 2), (7, "true", 0), (7, "TRUE", 2), (7, "on", 2), (7, "", 2), (7, None, 2)],
)
def test_from_version_7_on_a_session_may_keep_the_triggers_quiet(
    empty: Database, version: int, setting: str | None, channels: int
) -> None:
    qg.migrate(empty.dsn, version)
    insert_locker(empty, 11, job_schema_version=2)
    if setting is not None:
        empty.query("SELECT set_config('que.skip_notify', %s, false)", (setting,))
    statement = "INSERT INTO que_jobs (job_class, job_schema_version) VALUES ('MyJob', 2)"
    assert len(heard_by(empty, ["que_listener_11", "que_state"], statement)) == channels


@pytest.mark.parametrize("versions", [(3, 7), (7, 3), (5, 6), (6, 5)])
def test_migrating_tells_nobody_of_any_job(empty: Database, versions: tuple[int, int]) -> None:
    qg.migrate(empty.dsn, versions[0])
    version = {"job_schema_version": 2} if versions[0] > 5 else {}
    for number in range(3):
        insert(empty, job_class=f"Job{number}", **version)
    if versions[0] > 3:
        empty.query("UPDATE que_jobs SET finished_at = now() WHERE job_class = 'Job1'")
    empty.query("LISTEN que_state")
    qg.migrate(empty.dsn, versions[1])
    assert heard_by(empty, ["que_state"], "SELECT") == []
