"""Enqueueing in the caller's transaction, with every library that has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import parse_dsn
from support import VERSION, Database, needs

import qg

# Each opens a transaction and yields (tx, commit, rollback).
Opened = tuple[Any, Callable[[], Any], Callable[[], Any]]


@contextmanager
def psycopg2_connection(dsn: str) -> Iterator[Opened]:
    with closing(psycopg2.connect(dsn)) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg2_connection_with_dict_rows(dsn: str) -> Iterator[Opened]:
    with closing(psycopg2.connect(dsn, cursor_factory=psycopg2.extras.RealDictCursor)) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg2_cursor(dsn: str) -> Iterator[Opened]:
    with closing(psycopg2.connect(dsn)) as conn, conn.cursor() as cur:
        yield cur, conn.commit, conn.rollback


@contextmanager
def psycopg3_connection(dsn: str) -> Iterator[Opened]:
    with needs("psycopg").connect(dsn) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg3_connection_with_dict_rows(dsn: str) -> Iterator[Opened]:
    with needs("psycopg").connect(dsn, row_factory=needs("psycopg.rows").dict_row) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def psycopg3_cursor(dsn: str) -> Iterator[Opened]:
    with needs("psycopg").connect(dsn) as conn, conn.cursor(row_factory=needs("psycopg.rows").namedtuple_row) as cur:
        yield cur, conn.commit, conn.rollback


@contextmanager
def psycopg3_connection_with_scalar_rows(dsn: str) -> Iterator[Opened]:
    with needs("psycopg").connect(dsn, row_factory=needs("psycopg.rows").scalar_row) as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def engine(dsn: str, driver: str) -> Iterator[Any]:
    engine = needs("sqlalchemy").create_engine(f"postgresql+{driver}://", connect_args=parse_dsn(dsn))
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def sqlalchemy_connection(dsn: str) -> Iterator[Opened]:
    with engine(dsn, "psycopg2") as eng, eng.connect() as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def sqlalchemy_connection_over_psycopg3(dsn: str) -> Iterator[Opened]:
    with engine(dsn, "psycopg") as eng, eng.connect() as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def sqlalchemy_session(dsn: str) -> Iterator[Opened]:
    with engine(dsn, "psycopg2") as eng, needs("sqlalchemy.orm").Session(eng) as session:
        yield session, session.commit, session.rollback


@contextmanager
def sqlalchemy_scoped_session(dsn: str) -> Iterator[Opened]:
    with engine(dsn, "psycopg2") as eng:
        orm = needs("sqlalchemy.orm")
        session = orm.scoped_session(orm.sessionmaker(eng))
        yield session, session.commit, session.rollback
        session.remove()


@contextmanager
def django_connection(dsn: str) -> Iterator[Opened]:
    django = needs("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}})
        django.setup()
    from django.db import connection, transaction

    given = parse_dsn(dsn)
    connection.settings_dict.update(
        NAME=given["dbname"],
        USER=given.get("user", ""),
        PASSWORD=given.get("password", ""),
        HOST=given.get("host", ""),
        PORT=given.get("port", ""),
    )
    transaction.set_autocommit(False)
    try:
        yield connection, connection.commit, connection.rollback
    finally:
        connection.rollback()
        connection.close()


OPENERS = [
    psycopg2_connection,
    psycopg2_connection_with_dict_rows,
    psycopg2_cursor,
    psycopg3_connection,
    psycopg3_connection_with_dict_rows,
    psycopg3_connection_with_scalar_rows,
    psycopg3_cursor,
    sqlalchemy_connection,
    sqlalchemy_connection_over_psycopg3,
    sqlalchemy_session,
    sqlalchemy_scoped_session,
    django_connection,
]
every_library = pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)
# What the libraries are to hand on, and how it stands in the table.
ARGS, STORED = ({"a": ["ä\x00"]}, '{"a": ["\\u00e4\\u0000"]}') if VERSION == 3 else ([{"a": ["ä"]}], '[{"a": ["ä"]}]')
WHEN = datetime(2040, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)


@every_library
def test_a_job_comes_into_being_with_the_callers_commit(client: qg.Client, database: Database, opener: Any) -> None:
    with opener(database.dsn) as (tx, commit, _):
        job = client.enqueue_in_tx(qg.Job("MyJob", ARGS, queue="q", priority=0, run_at=WHEN), tx)
        assert database.count() == 0
        commit()
    assert database.query("SELECT job_id, job_class, queue, priority, run_at, args::text FROM jobs") == [
        (job.id, "MyJob", "q", 0, WHEN, STORED)
    ]
    assert job.run_at == WHEN


@every_library
def test_a_job_goes_with_the_callers_rollback(client: qg.Client, database: Database, opener: Any) -> None:
    with opener(database.dsn) as (tx, _, rollback):
        client.enqueue_in_tx(qg.Job("MyJob"), tx)
        rollback()
    assert database.count() == 0


@every_library
def test_a_batch_lives_and_dies_with_the_callers_transaction(
    client: qg.Client, database: Database, opener: Any
) -> None:
    with opener(database.dsn) as (tx, commit, rollback):
        client.enqueue_batch_in_tx([qg.Job("Undone"), qg.Job("Undone")], tx)
        rollback()
        jobs = client.enqueue_batch_in_tx([qg.Job("A", run_at=WHEN), qg.Job("B", priority=7), qg.Job("C")], tx)
        commit()
    assert [(each[0], each[1]) for each in database.jobs()] == [(job.id, job.type) for job in jobs]


def test_a_session_with_another_datestyle_fills_in_the_right_time(client: qg.Client, database: Database) -> None:
    with closing(psycopg2.connect(database.dsn)) as conn:
        with conn.cursor() as cur:
            cur.execute("SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'")
        assert client.enqueue_in_tx(qg.Job("MyJob", run_at=WHEN), conn).run_at == WHEN
        conn.commit()


def test_a_cursor_given_keeps_the_result_it_holds(client: qg.Client, dsn: str) -> None:
    with closing(psycopg2.connect(dsn)) as conn, conn.cursor() as cur:
        cur.execute("SELECT 1")
        client.enqueue_in_tx(qg.Job("MyJob"), cur)
        assert cur.fetchall() == [(1,)]


class AsyncSession:
    async def execute(self, statement: str) -> None:
        pass


def async_connection_of_psycopg_3() -> Any:
    return needs("psycopg").AsyncConnection


@pytest.mark.parametrize(
    "make",
    [lambda: None, lambda: 5, lambda: "BEGIN", object, AsyncSession, async_connection_of_psycopg_3],
    ids=["None", "5", "BEGIN", "object", "AsyncSession", "psycopg.AsyncConnection"],
)
def test_an_object_without_a_transaction_is_refused_and_told_what_would_do(
    client: qg.Client, make: Callable[[], Any]
) -> None:
    tx = make()
    with pytest.raises(TypeError, match="psycopg2 or psycopg 3 connection or cursor, a Django connection") as caught:
        client.enqueue_in_tx(qg.Job("MyJob"), tx)
    assert isinstance(caught.value, qg.ErrUnusable)


def test_a_job_is_checked_before_the_transaction_is_touched(client: qg.Client) -> None:
    with pytest.raises(qg.ErrMissingType):
        client.enqueue_in_tx(qg.Job(""), object())
