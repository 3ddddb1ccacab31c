"""What a handler finds on its connection, and what is found after it."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.pool import ThreadedConnectionPool
from support import ID, Database, UntilEmpty, take_plainly
from taking import all_written, do_nothing, each_batch_size, fail, fill, write

import qg

pytestmark = pytest.mark.usefixtures("written")


@each_batch_size
def test_a_handler_finds_its_connection_idle_in_the_ordinary_mode_whatever_the_last_one_did(
    client: qg.Client, database: Database, batch_size: int
) -> None:
    seen: list[Any] = []

    def handler(job: qg.Job) -> None:
        conn = job.conn
        mode = (conn.autocommit, conn.isolation_level, conn.readonly, conn.deferrable)
        with conn.cursor() as cur:
            status = conn.info.transaction_status
            cur.execute("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
            seen.append((mode, status, cur.fetchone()))
        conn.rollback()
        if job.id % 2:
            conn.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True, autocommit=True)
        elif job.id % 4 == 0:
            conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
        else:
            conn.autocommit = True

    fill(database, 9)
    UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert seen == [((False, None, None, None), TRANSACTION_STATUS_IDLE, ("read committed", "off"))] * 9
    assert database.count() == 0


@each_batch_size
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("possible", [True, False])
def test_a_connection_goes_back_to_its_pool_in_the_mode_it_had_idle_and_free_of_locks(
    dsn: str, database: Database, no_hurry: None, batch_size: int, autocommit: bool, possible: bool
) -> None:
    pool = ThreadedConnectionPool(1, 1, dsn)
    conn = pool.getconn()
    conn.set_session(isolation_level="REPEATABLE READ", deferrable=True, autocommit=autocommit)
    pool.putconn(conn)
    with qg.Client(pool) as client:
        take_plainly(client, not possible)
        fill(database, 7)
        work_map = {"MyJob": lambda job: [do_nothing, write, fail, do_nothing][job.id % 4](job)}
        UntilEmpty(client, work_map, batch_size=batch_size).work()
    again = pool.getconn()
    assert again is conn
    assert (conn.autocommit, conn.readonly, conn.deferrable) == (autocommit, None, True)
    assert conn.isolation_level == psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ
    assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE
    assert database.locks() == []
    pool.closeall()
    assert [job[0] for job in database.jobs()] == [2, 6]


class Archived(qg.Job):
    def delete(self) -> None:
        write(self)
        super().delete()


@each_batch_size
def test_an_override_of_delete_is_called_and_its_writes_go_with_the_deletion(
    dsn: str, database: Database, no_hurry: None, batch_size: int
) -> None:
    database.query(
        "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"PERFORM FROM written WHERE x = OLD.{ID} AND xmin::text::bigint = mod(txid_current(), 4294967296);"
        "IF NOT FOUND THEN RAISE 'not in one transaction'; END IF; RETURN OLD; END $$;"
        "CREATE TRIGGER same BEFORE DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION same()"
    )
    try:
        with qg.Client(dsn, job_class=Archived) as client:
            fill(database, 7)
            UntilEmpty(client, {"MyJob": do_nothing}, batch_size=batch_size).work()
    finally:
        database.query("DROP TRIGGER same ON que_jobs; DROP FUNCTION same()")
    assert (database.jobs(), all_written(database)) == ([], list(range(1, 8)))
