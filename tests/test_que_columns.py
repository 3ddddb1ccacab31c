"""What versions 3 to 7 of the table make of a job's fields: which columns they get into, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection
from support import Database, eventually, on_versions

import qg
from qg.tables.v7 import WRAPPER

every_version = on_versions(3, 4, 5, 6, 7)
from_4 = on_versions(4, 5, 6, 7)
from_6 = on_versions(6, 7)
only_3 = on_versions(3)
only_7 = on_versions(7)
WAYS = ["enqueue", "enqueue_in_tx", "enqueue_batch", "enqueue_batch_in_tx"]
every_way = pytest.mark.parametrize("way", WAYS)


ID = {3: "job_id", 4: "id", 5: "id", 6: "id", 7: "id"}


@pytest.fixture(scope="module")
def databases(make_database) -> Iterator[Callable[[int], Database]]:
    """A function that returns this module's database with a table of the given version."""
    made: dict[int, Database] = {}

    def database(version: int) -> Database:
        if version not in made:
            made[version] = Database(make_database(version=version))
        return made[version]

    yield database
    for each in made.values():
        each.close()


@pytest.fixture
def table(databases: Callable[[int], Database], version: int) -> Iterator[Database]:
    """A database with an empty table of *version*, where nothing is left behind."""
    database = databases(version)
    # TRUNCATE, which makes new files, takes longer.
    database.query(
        "DELETE FROM que_jobs; SELECT setval(pg_get_serial_sequence('que_jobs', %s), 1, false)", (ID[version],)
    )
    yield database
    eventually(lambda: not database.sessions(), "the end of all sessions")
    assert database.locks() == []


@pytest.fixture
def client(table: Database) -> Iterator[qg.Client]:
    with qg.Client(table.dsn) as client:
        yield client


@pytest.fixture
def tx(table: Database) -> Iterator[connection]:
    with closing(table.connect()) as conn:
        yield conn


def store(client: qg.Client, way: str, tx: connection, *jobs: qg.Job) -> list[qg.Job]:
    """Enqueue *jobs* in one of the four ways, committed."""
    if way == "enqueue":
        return [client.enqueue(job) for job in jobs]
    if way == "enqueue_batch":
        return client.enqueue_batch(jobs)
    if way == "enqueue_batch_in_tx":
        stored = client.enqueue_batch_in_tx(jobs, tx)
    else:
        stored = [client.enqueue_in_tx(job, tx) for job in jobs]
    tx.commit()
    return stored


def column(table: Database, name: str) -> list[Any]:
    """That column of all jobs, in the order in which they were enqueued."""
    return [value for (value,) in table.query(f"SELECT {name} FROM que_jobs ORDER BY 1, job_class")]


def one(table: Database, columns: str) -> tuple[Any, ...]:
    """These columns of the only job."""
    (row,) = table.query(f"SELECT {columns} FROM que_jobs")
    return row


def is_refused_by_the_server(table: Database, sql: str, *params: Any) -> bool:
    try:
        table.query(sql, params)
    except psycopg2.Error:
        return True
    return False


def is_refused_by(client: qg.Client, job: qg.Job) -> bool:
    """Whether *client* refuses *job* by itself; what only the server refuses is raised."""
    try:
        client.enqueue(job)
    except qg.ErrInvalidJob:
        return True
    return False


# Keyword arguments


@every_way
@from_6
def test_kwargs_have_their_column_from_version_6_on(client, table: Database, tx, way: str) -> None:
    store(client, way, tx, qg.Job("MyJob", [1], kwargs={"a": "é", "b": [None]}))
    assert one(table, "args, kwargs") == ([1], {"a": "é", "b": [None]})
    with client.lock_job() as job:
        assert (job.args, job.kwargs) == ([1], {"a": "é", "b": [None]})


@every_way
@on_versions(4, 5)
def test_kwargs_are_the_last_object_of_args_in_versions_4_and_5(client, table: Database, tx, way: str) -> None:
    for args in ([1, "]"], [], b"[]", b" [ ] ", b' [1, "]" ]\n'):
        store(client, way, tx, qg.Job("MyJob", args, kwargs={"a": {"b": 2}}))
        expected = (json.loads(args) if isinstance(args, bytes) else args) + [{"a": {"b": 2}}]
        assert one(table, "args") == (expected,)
        with client.lock_job() as job:
            assert (job.args, job.kwargs) == (expected, {})
            job.delete()


@every_way
@from_4
def test_a_job_without_kwargs_and_tags_has_empty_ones(client, table: Database, tx, version: int, way: str) -> None:
    store(client, way, tx, qg.Job("MyJob", [1, {"a": 2}]))
    assert one(table, "args, data") == ([1, {"a": 2}], {})
    assert version < 6 or one(table, "kwargs") == ({},)
    with client.lock_job() as job:
        assert (job.args, job.kwargs, list(job.tags)) == ([1, {"a": 2}], {}, [])


@every_way
@only_3
@pytest.mark.parametrize("fields", [{"kwargs": {"a": 1}}, {"tags": ["a"]}], ids=["kwargs", "tags"])
def test_version_3_refuses_kwargs_and_tags_and_says_why(client, table: Database, tx, fields, way: str) -> None:
    with pytest.raises(qg.ErrInvalidJob, match=f"has {next(iter(fields))}, but the table is of version 3"):
        store(client, way, tx, qg.Job("Fine"), qg.Job("MyJob", **fields))
    tx.rollback()
    assert column(table, "job_class") == (["Fine"] if way == "enqueue" else [])


@every_way
@only_3
def test_version_3_takes_empty_kwargs_and_tags(client, table: Database, tx, way: str) -> None:
    store(client, way, tx, qg.Job("MyJob", kwargs={}, tags=[]))
    assert table.count() == 1


# Tags


@every_way
@from_4
def test_tags_are_in_data(client, table: Database, tx, way: str) -> None:
    tags = ["a", "", 'quo"te', "back\\slash", "x" * 98]
    store(client, way, tx, qg.Job("Tagged", tags=tags), qg.Job("Tuple", tags=("b",)), qg.Job("Untagged"))
    with_type = dict(table.query("SELECT job_class, data FROM que_jobs"))
    assert with_type == {"Tagged": {"tags": tags}, "Tuple": {"tags": ["b"]}, "Untagged": {}}
    with client.lock_job() as job:
        assert job.tags == tags


costly = st.sampled_from('"\\/\n\t\b\f\r\x01\x1f\x7f\x80\u2028é😀')
plain = st.characters(codec="utf-8", exclude_characters="\x00")
near_the_limit = st.builds(
    lambda text, size: text + "x" * (size - len(text)), st.text(costly | plain, max_size=60), st.integers(80, 100)
)
tags = st.lists(st.text(costly, max_size=7), max_size=7) | st.lists(near_the_limit, min_size=1, max_size=2)


@from_4
@given(tags=tags)
@example(tags=["x" * 98])
@example(tags=["x" * 99])
@example(tags=['"' + "x" * 96])
@example(tags=['"' + "x" * 97])
@example(tags=["\n" + "x" * 96])
@example(tags=["\n" + "x" * 97])
@example(tags=["\x1f" + "x" * 92])
@example(tags=["\x1f" + "x" * 93])
@example(tags=["\x7f" + "x" * 97])
@example(tags=["é" * 98])
@example(tags=["é" * 99])
@example(tags=["😀" * 98])
@example(tags=["😀" * 99])
@example(tags=["a"] * 5)
@example(tags=["a"] * 6)
def test_tags_are_refused_just_where_the_table_refuses_them(client, table: Database, version: int, tags) -> None:
    names, values = (", job_schema_version", ", 2") if version >= 6 else ("", "")
    raw = f"INSERT INTO que_jobs (job_class, data{names}) VALUES ('Raw', jsonb_build_object('tags', %s::jsonb){values})"
    # To PostgreSQL bool_and() of nothing is null, and so no violation.
    assert is_refused_by(client, qg.Job("MyJob", tags=tags)) == is_refused_by_the_server(table, raw, json.dumps(tags))


# Queues, versions


@every_way
@from_4
def test_the_queue_without_a_name_is_default_from_version_4_on(client, table: Database, tx, way: str) -> None:
    (job,) = store(client, way, tx, qg.Job("MyJob"))
    assert (job.queue, column(table, "queue")) == ("default", ["default"])
    for name in ("", "default"):
        with client.lock_job(name) as locked:
            assert (locked.id, locked.queue) == (job.id, "default")


@every_way
@only_3
def test_the_queue_without_a_name_stays_so_in_version_3(client, table: Database, tx, way: str) -> None:
    (job,) = store(client, way, tx, qg.Job("MyJob"))
    assert (job.queue, column(table, "queue")) == ("", [""])
    assert client.lock_job("default") is None
    with client.lock_job() as locked:
        assert locked.id == job.id


@every_way
@on_versions(5, 6, 7)
def test_jobs_have_the_schema_version_of_ruby_que(client, table: Database, tx, version: int, way: str) -> None:
    expected = 1 if version == 5 else 2
    store(client, way, tx, qg.Job("A"), qg.Job("B"))
    assert column(table, "job_schema_version") == [expected, expected]


# What is refused, before anything is written


NO_LIST = [{"a": 1}, "text", None, 1, True, b'{"a": 1}', b' "[" ', b"null"]


@every_version
@every_way
def test_args_must_be_a_list_from_version_4_on(client, table: Database, tx, version: int, way: str) -> None:
    for args in NO_LIST:
        if version == 3:
            store(client, way, tx, qg.Job("MyJob", args))
            assert one(table, "args") == (json.loads(args) if isinstance(args, bytes) else args,)
            table.query("DELETE FROM que_jobs")
        else:
            with pytest.raises(qg.ErrInvalidJob, match=f"list for args, since the table is of version {version}"):
                store(client, way, tx, qg.Job("MyJob", args))
            assert table.count() == 0


@every_way
@from_4
def test_whatever_is_a_list_in_json_will_do_for_args(client, table: Database, tx, way: str) -> None:
    for args in ((1, 2), b"[1, 2]", b" \n[1,\t2] "):
        store(client, way, tx, qg.Job("MyJob", args))
    assert column(table, "args") == [[1, 2]] * 3


REFUSED = {
    "NUL in args": (lambda: qg.Job("Bad", ["a\x00b"]), "the args of .* hold a NUL"),
    "NUL in a key of args": (lambda: qg.Job("Bad", [{"\x00": 1}]), "the args of .* hold a NUL"),
    "NUL in a document": (lambda: qg.Job("Bad", rb'["\u0000"]'), "the args of .* hold a NUL"),
    "NUL after a backslash": (lambda: qg.Job("Bad", rb'["\\\u0000"]'), "the args of .* hold a NUL"),
    "NUL in kwargs": (lambda: qg.Job("Bad", kwargs={"a": "\x00"}), "the kwargs of .* hold a NUL"),
    "NUL in a tag": (lambda: qg.Job("Bad", tags=["\x00"]), "tag can't hold a NUL"),
    "surrogate in args": (lambda: qg.Job("Bad", ["\ud800"]), "the args of .* hold half of a surrogate"),
    "second surrogate first": (lambda: qg.Job("Bad", rb'["\udc00\ud800"]'), "the args of .* hold half of a surrogate"),
    "surrogates apart": (lambda: qg.Job("Bad", rb'["\ud800 \udc00"]'), "the args of .* hold half of a surrogate"),
    "surrogate in kwargs": (lambda: qg.Job("Bad", kwargs={"\udc00": 1}), "the kwargs of .* hold half of a surrogate"),
    "surrogate in a tag": (lambda: qg.Job("Bad", tags=["\ud800"]), "tag must be valid Unicode"),
    "long queue": (lambda: qg.Job("Bad", queue="q" * 101), "queue of .* 101 characters long; the table holds 100"),
    "long type": (lambda: qg.Job("B" * 201), "type of .* 201 characters long; the table holds 200"),
    "long inner class": (lambda: qg.Job(WRAPPER, [{"job_class": "é" * 201}]), "type of .* 201 characters long"),
    "long inner class in a document": (
        lambda: qg.Job(WRAPPER, json.dumps([{"job_class": "é" * 201}]).encode()),
        "type of .* 201 characters long",
    ),
    "six tags": (lambda: qg.Job("Bad", tags=["a"] * 6), "6 tags; the table holds 5"),
    "long tag": (lambda: qg.Job("Bad", tags=["a", "t" * 99]), "tag .* 101 characters long; the table holds 100"),
    "tags as text": (lambda: qg.Job("Bad", tags="text"), "tags .* must be a list of strings"),
    "tag that is no text": (lambda: qg.Job("Bad", tags=[1]), "tag must be a string"),
    "kwargs as a list": (lambda: qg.Job("Bad", kwargs=[1]), "kwargs .* must be a dict"),
    "kwargs that aren't JSON": (lambda: qg.Job("Bad", kwargs={"a": {1}}), "kwargs .* aren't JSON"),
    "kwargs with a number for a key": (lambda: qg.Job("Bad", kwargs={1: 1}), "kwargs .* aren't JSON"),
    "kwargs with NaN": (lambda: qg.Job("Bad", kwargs={"a": float("nan")}), "kwargs .* aren't JSON"),
}


@every_way
@from_4
def test_what_the_table_cant_hold_is_refused_before_anything_is_written(client, table: Database, tx, way: str) -> None:
    for job, message in REFUSED.values():
        jobs = [qg.Job("Fine"), job()] if "batch" in way else [job()]
        with pytest.raises(qg.ErrInvalidJob, match=message):
            store(client, way, tx, *jobs)
        assert tx.info.transaction_status == TRANSACTION_STATUS_IDLE
    assert table.count() == 0
    assert not table.value("SELECT is_called FROM que_jobs_id_seq"), "a statement was sent"


LONGEST = {
    "queue": lambda: qg.Job("MyJob", queue="é" * 100),
    "type": lambda: qg.Job("é" * 200),
    "inner class": lambda: qg.Job(WRAPPER, [{"job_class": "é" * 200, "queue_name": "q" * 500}]),
    "job_class of another type": lambda: qg.Job("MyJob", [{"job_class": "é" * 500}]),
    "second argument of a wrapper": lambda: qg.Job(WRAPPER, [{}, {"job_class": "é" * 500}]),
    "wrapper of nothing": lambda: qg.Job(WRAPPER),
    "wrapper of no object": lambda: qg.Job(WRAPPER, ["é" * 500]),
    "escaped pair of surrogates": lambda: qg.Job("MyJob", rb'["\ud83d\ude00"]', kwargs={"a": "😀"}, tags=["😀"]),
    "backslash before u0000": lambda: qg.Job("MyJob", rb'["\\u0000", "\\\\ud800"]', kwargs={"a": r"\u0000"}),
}


@every_way
@from_4
def test_what_the_table_just_holds_is_stored(client, table: Database, tx, way: str) -> None:
    for make in LONGEST.values():
        job = make()
        store(client, way, tx, job)
        assert table.query("SELECT queue, job_class FROM que_jobs WHERE id = %s", (job.id,)) == [(job.queue, job.type)]


@only_3
def test_version_3_has_no_such_limits(client, table: Database) -> None:
    client.enqueue(qg.Job("t" * 201, ["\x00", "\ud800"], queue="q" * 101))
    with client.lock_job("q" * 101) as job:
        assert (job.type, job.args) == ("t" * 201, ["\x00", "\ud800"])


pieces = st.sampled_from(
    ["\\\\", "\\u0000", "u0000", "\\ud83d", "\\uDE00", "\\udbff", "\\udc00", "\\ue000", "\\ud7ff", "\\u0001"]
    + ["ud800", '\\"', "\\n", "\\/", "a", "é", "😀", "\\", "\\x", '", "', '": "']
)
documents = st.builds(
    lambda parts, shape: (shape % "".join(parts)).encode(),
    st.lists(pieces, max_size=6),
    st.sampled_from(['["%s"]', '[{"%s": 1}]', ' [["%s"], "a"]']),
)


@every_version
@given(document=documents)
@example(document=rb'["\\u0000"]')
@example(document=rb'["\\\u0000"]')
@example(document=rb'["\\\\u0000"]')
@example(document=rb'["\ud83d\\ude00"]')
@example(document=rb'["\ud83d\ude00\ude00"]')
@example(document=rb'["\ud83d", "\ude00"]')
def test_a_document_is_refused_just_where_postgresql_refuses_it(
    client, table: Database, version: int, document: bytes
) -> None:
    verdict = is_refused_by_the_server(table, f"SELECT %s::{'json' if version == 3 else 'jsonb'}", document.decode())
    assert is_refused_by(client, qg.Job("MyJob", document)) == verdict


texts = st.text(st.sampled_from('\x00\\u0"\ud800\udbff\udc00\udfff\ud7ffa😀') | st.characters(), max_size=6)


@from_4
@given(text=texts)
@example(text="\\u0000")
@example(text="\ud83d\ude00")
@example(text="\ud83d\\\ude00")
def test_a_value_is_refused_just_where_jsonb_refuses_it(client, table: Database, text: str) -> None:
    verdict = is_refused_by_the_server(table, "SELECT %s::jsonb", json.dumps([text]))
    assert is_refused_by(client, qg.Job("MyJob", [{"a": text}])) == verdict
    assert is_refused_by(client, qg.Job("MyJob", kwargs={text: [text]})) == verdict


# Who is told of a batch


class Ear:
    """Hears the types of the jobs that the table tells of on que_state."""

    def __init__(self, conn: connection) -> None:
        self._conn = conn
        conn.autocommit = True
        conn.cursor().execute("LISTEN que_state")

    def heard_until(self, last: str) -> list[str]:
        """What was told up to *last*; notifications come in the order of the commits."""

        def types() -> list[str]:
            self._conn.poll()
            found = [json.loads(each.payload)["job_class"] for each in self._conn.notifies]
            return found if last in found else []

        return eventually(types, f"a notification of {last}")


@pytest.fixture
def ear(table: Database) -> Iterator[Ear]:
    with closing(table.connect()) as conn:
        yield Ear(conn)


def pair() -> list[qg.Job]:
    return [qg.Job("Batch"), qg.Job("Batch")]


def setting(conn: connection) -> str | None:
    with conn.cursor() as cur:
        cur.execute("SELECT current_setting('que.skip_notify', true)")
        return cur.fetchone()[0]


@from_4
def test_a_batch_tells_nobody_where_the_table_lets_us(client, ear: Ear, version: int) -> None:
    client.enqueue_batch(pair(), notify=False)
    client.enqueue(qg.Job("Last"))
    assert ear.heard_until("Last") == ["Batch"] * (0 if version == 7 else 2) + ["Last"]


@from_4
def test_a_batch_tells_of_each_job_if_asked_to(client, ear: Ear, tx) -> None:
    client.enqueue_batch(pair(), notify=True)
    client.enqueue_batch_in_tx(pair(), tx, notify=True)
    tx.commit()
    client.enqueue(qg.Job("Last"))
    assert ear.heard_until("Last") == ["Batch"] * 4 + ["Last"]


@only_7
def test_what_a_transaction_enqueues_after_a_batch_is_told_of_again(client, ear: Ear, tx) -> None:
    client.enqueue_in_tx(qg.Job("Before"), tx)
    client.enqueue_batch_in_tx(pair(), tx)
    assert setting(tx) == ""
    client.enqueue_in_tx(qg.Job("Last"), tx)
    tx.commit()
    assert ear.heard_until("Last") == ["Before", "Last"]


@only_7
def test_a_batch_on_a_connection_in_autocommit_leaves_no_setting_behind(client, ear: Ear, tx) -> None:
    tx.autocommit = True
    client.enqueue_batch_in_tx(pair(), tx)
    client.enqueue_in_tx(qg.Job("Last"), tx)
    assert ear.heard_until("Last") == ["Last"]


@only_7
@pytest.mark.parametrize("value", ["true", "false", "on"])
@pytest.mark.parametrize("scope", ["LOCAL", "SESSION"])
def test_a_skip_notify_of_the_callers_own_stays_as_it_was(client, ear: Ear, tx, scope: str, value: str) -> None:
    tx.cursor().execute(f"SET {scope} que.skip_notify = '{value}'")
    client.enqueue_batch_in_tx(pair(), tx)
    assert setting(tx) == value
    client.enqueue_in_tx(qg.Job("Same"), tx)
    tx.commit()
    assert setting(tx) == (value if scope == "SESSION" else "")
    client.enqueue_in_tx(qg.Job("Next"), tx)
    tx.commit()
    client.enqueue(qg.Job("Last"))
    told = {"Same": value != "true", "Next": value != "true" or scope == "LOCAL", "Last": True}
    assert ear.heard_until("Last") == [each for each in told if told[each]]


@only_7
def test_a_batch_that_is_rolled_back_to_a_savepoint_leaves_no_setting_behind(client, ear: Ear, tx) -> None:
    tx.cursor().execute("SAVEPOINT before")
    client.enqueue_batch_in_tx(pair(), tx)
    tx.cursor().execute("ROLLBACK TO before")
    client.enqueue_in_tx(qg.Job("Last"), tx)
    tx.commit()
    assert ear.heard_until("Last") == ["Last"]
