"""What a role must be granted, what is said if it isn't, and that docs/reliability.md grants just that."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone

import psycopg2
import pytest
from granting import PAGE, each_left_out, fails, grants, role_of, role_with, said, shut_out_public
from psycopg2.extensions import make_dsn, parse_dsn
from support import VERSIONS, Database, Network, eventually, on_versions

import qg
from qg.tables.rights import to_work
from qg.working.engine import Engine

ENQUEUES, WORKS, LOOKS = "Who enqueues", "Who works", "Who looks"
# What the handlers below let the worker say.
EXPECTED = ("job_failed", "job_expired", "job_discarded")


@pytest.fixture(scope="module")
def _databases() -> Iterator[dict[int, Database]]:
    databases: dict[int, Database] = {}
    yield databases
    for database in databases.values():
        database.close()


@pytest.fixture
def strict(_databases: dict[int, Database], make_database: Callable[..., str], version: int) -> Database:
    """A database with an empty table of *version*, where PUBLIC may do nothing."""
    if version not in _databases:
        database = _databases[version] = Database(make_database(version=version))
        if version == 3:
            qg.migrate(database.dsn, notify=True)
        shut_out_public(database)
    _databases[version].query("TRUNCATE que_jobs RESTART IDENTITY")
    return _databases[version]


def enqueue(dsn: str) -> None:
    """All that there is to store jobs."""
    with qg.Client(dsn) as client, closing(psycopg2.connect(dsn)) as conn:
        client.enqueue(qg.Job("MyJob", [1]))
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")], notify=True)
        with conn:
            client.enqueue_in_tx(qg.Job("MyJob"), conn)
            client.enqueue_batch_in_tx([qg.Job("MyJob"), qg.Job("MyJob")], conn)


def look(dsn: str, database: Database) -> bool:
    """Look at a job that somebody else works, in every way; return whether all of it can be seen."""
    with qg.Client(database.dsn) as other, qg.Client(dsn) as client:
        other.enqueue(qg.Job("MyJob"))
        with other.lock_job() as job:
            assert [(each.type, each.count_working) for each in client.stats()] == [("MyJob", 1)]
            (state,) = client.job_states()
            assert state.id == job.id
            job.delete()
    return state.since is not None


def work(dsn: str, database: Database, version: int, caplog: pytest.LogCaptureFixture) -> None:
    """All that can become of a job, by workers of every kind; returns early if there was something to say."""

    def handler(job: qg.Job) -> None:
        if job.type == "Fails":
            raise ValueError("no\ngood")
        if job.type == "Expires":
            job.expire()
        elif job.type == "Later":
            raise qg.Reschedule(at=datetime(2100, 1, 1, tzinfo=timezone.utc))
        elif job.type == "Discarded":
            raise qg.Discard("no use")
        elif job.type == "Finishes" and version > 3:
            job.finish()
        elif job.type == "Writes":
            with job.tx.cursor() as cur:
                cur.execute("SELECT 1")

    due = "SELECT count(*) FROM que_jobs WHERE run_at <= now() AND error_count = 0"
    if version > 3:
        due += " AND finished_at IS NULL AND expired_at IS NULL"
    types = ["MyJob", "Fails", "Expires", "Later", "Discarded", "Finishes", "Writes", "MyJob"]
    work_map = dict.fromkeys(types, handler)
    with qg.Client(database.dsn) as other, qg.Client(dsn) as client:

        def fill() -> None:
            other.enqueue_batch(qg.Job(each) for each in types)

        def is_over() -> bool:
            return database.value(due) == 0 or bool(said(caplog, *EXPECTED))

        for options in ({}, {"batch_size": 5}, {"poll_strategy": qg.PollStrategy.RUN_AT, "only_known_types": True}):
            fill()
            with qg.WorkerPool(client, work_map, 2, interval=0.05, **options):
                eventually(is_over)
        fill()
        worker = qg.Worker(client, work_map, interval=0.05)
        with threaded(worker.work):
            eventually(is_over)
            worker.shutdown()
        fill()
        while (job := client.lock_job()) is not None and not said(caplog, *EXPECTED):
            with job:
                if job.type == "Fails":
                    job.error("no\ngood")
                elif job.type == "Expires":
                    job.expire()
                elif job.type == "Finishes" and version > 3:
                    job.finish()
                else:
                    job.delete()


@contextmanager
def threaded(deed: Callable[[], None]) -> Iterator[None]:
    """Do *deed* in a thread during the block, and raise at its end what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            deed()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]


@on_versions(3, 4, 5, 6, 7)
def test_a_role_with_the_grants_for_who_enqueues_enqueues(strict: Database, version: int) -> None:
    with role_with(strict, grants(ENQUEUES, version)) as dsn:
        enqueue(dsn)
    assert strict.count() == 8


@each_left_out(ENQUEUES, versions=VERSIONS)
def test_who_enqueues_needs_each_of_the_grants(
    strict: Database, every: list[str], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, [each for each in every if each != missing]) as dsn:
        assert fails(lambda: enqueue(dsn), caplog)


@on_versions(3, 4, 5, 6, 7)
def test_a_role_with_the_grants_for_who_works_works_with_no_warning(
    strict: Database, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, grants(WORKS, version)) as dsn:
        work(dsn, strict, version, caplog)
    assert said(caplog, *EXPECTED) == []
    assert "taking_plainly" not in caplog.text


@each_left_out(WORKS, versions=VERSIONS)
def test_who_works_needs_each_of_the_grants(
    strict: Database, version: int, every: list[str], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, [each for each in every if each != missing]) as dsn:
        assert fails(lambda: work(dsn, strict, version, caplog), caplog, *EXPECTED)


@on_versions(3, 4, 5, 6, 7)
def test_a_role_with_the_grants_for_who_looks_sees_all(
    strict: Database, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, grants(LOOKS, version)) as dsn:
        assert look(dsn, strict)
    assert said(caplog) == []


@each_left_out(LOOKS, versions=VERSIONS)
def test_who_looks_needs_each_of_the_grants(
    strict: Database, every: list[str], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, [each for each in every if each != missing]) as dsn:
        assert fails(lambda: look(dsn, strict), caplog)


def test_after_the_block_for_each_database_nobody_creates_in_the_schema(make_database: Callable[..., str]) -> None:
    (block,) = re.findall(r"```sql\n(REVOKE .*?)```", PAGE, re.DOTALL)
    with closing(Database(make_database(migrate=False))) as database:
        database.query("GRANT CREATE ON SCHEMA public TO PUBLIC")  # as it is before PostgreSQL 15
        database.query(block)
        with (
            role_with(database, []) as dsn,
            closing(Database(dsn)) as other,
            pytest.raises(psycopg2.errors.InsufficientPrivilege),
        ):
            other.query("CREATE FUNCTION public.evil() RETURNS void LANGUAGE sql AS ''")


@pytest.mark.parametrize("missing", [None, *grants("Who migrates", 3)])
def test_who_migrates_needs_what_is_granted_and_no_more(make_database: Callable[..., str], missing: str | None) -> None:
    with closing(Database(make_database(migrate=False))) as database:
        shut_out_public(database)

        def migrate() -> None:
            for version in (3, 7, 3):
                qg.migrate(dsn, version, notify=True)

        with role_with(database, [each for each in grants("Who migrates", 3) if each != missing]) as dsn:
            if missing is None:
                migrate()
            else:
                with pytest.raises((qg.ErrTable, psycopg2.errors.InsufficientPrivilege)):
                    migrate()


def column_cases() -> list[object]:
    cases = []
    for version in VERSIONS:
        rights = to_work(qg.tables.table_in("public", version))
        cases += [
            pytest.param(version, right.privilege, column, id=f"{version}-{right.privilege}-{column}")
            for right in rights
            for column in right.columns
        ]
    return cases


@pytest.mark.parametrize(("version", "privilege", "column"), column_cases())
def test_a_worker_needs_each_of_the_columns_that_are_looked_at(
    strict: Database,
    version: int,
    privilege: str,
    column: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Engine, "require_rights", lambda self: None)
    with role_with(strict, on_columns(version, but=(privilege, column))) as dsn:
        assert fails(lambda: work(dsn, strict, version, caplog), caplog, *EXPECTED)


@on_versions(3, 4, 5, 6, 7)
def test_grants_on_columns_are_enough(strict: Database, version: int, caplog: pytest.LogCaptureFixture) -> None:
    with role_with(strict, on_columns(version)) as dsn:
        work(dsn, strict, version, caplog)
    assert said(caplog, *EXPECTED) == []


def on_columns(version: int, but: tuple[str, str] | None = None) -> list[str]:
    """The grants for who works, those on que_jobs on columns."""
    every = [each for each in grants(WORKS, version) if "que_jobs TO" not in each or "DELETE" in each]
    for right in to_work(qg.tables.table_in("public", version)):
        columns = [each for each in right.columns if (right.privilege, each) != but]
        if columns:
            every.append(f"GRANT {right.privilege} ({', '.join(columns)}) ON que_jobs TO app_worker")
    return every


# What the tests below grant: enough to enqueue and to find jobs, and nothing to write what became of them.
READS = ["GRANT USAGE ON SCHEMA public TO app", "GRANT SELECT, INSERT ON que_jobs TO app"]


def run_grants(database: Database, error: pytest.ExceptionInfo[qg.ErrRights]) -> None:
    """Run the GRANTs that *error* names, as they stand there."""
    database.query(str(error.value)[str(error.value).index("GRANT ") :])


@on_versions(3, 4, 5, 6, 7)
def test_a_pool_of_a_role_without_rights_says_which_grant_it_needs(strict: Database, version: int) -> None:
    done = threading.Event()
    with role_with(strict, READS) as dsn, qg.Client(strict.dsn) as other, qg.Client(dsn) as client:
        role = role_of(dsn)
        other.enqueue(qg.Job("MyJob"))
        pool = qg.WorkerPool(client, {"MyJob": lambda job: done.set()}, 2, interval=0.05)
        with pytest.raises(qg.ErrRights) as error:
            pool.start()
        message = str(error.value)
        assert message.startswith(f"role {role} may not UPDATE, DELETE on public.que_jobs")
        assert (
            f", so no outcome of a job could be written; GRANT UPDATE, DELETE ON public.que_jobs TO {role}" in message
        )
        assert (
            f"; GRANT EXECUTE ON FUNCTION public.que_determine_job_state(public.que_jobs) TO {role}" in message
        ) == (version > 3)
        assert not done.is_set()
        run_grants(strict, error)
        with pool:
            assert done.wait(10)
            eventually(lambda: strict.count() == 0)


@on_versions(3, 4, 5, 6, 7)
def test_a_worker_of_a_role_without_rights_runs_no_job_and_says_which_grant_it_needs(
    strict: Database, version: int
) -> None:
    ran: list[int] = []
    with role_with(strict, READS) as dsn, qg.Client(strict.dsn) as other, qg.Client(dsn) as client:
        other.enqueue(qg.Job("MyJob"))
        worker = qg.Worker(client, {"MyJob": lambda job: ran.append(job.id)}, interval=0.05)
        with pytest.raises(qg.ErrRights, match=r"GRANT UPDATE, DELETE ON public\.que_jobs TO ") as error:
            worker.work()
        assert ran == []
        run_grants(strict, error)
        with threaded(worker.work):
            eventually(lambda: strict.count() == 0)
            worker.shutdown()
        assert len(ran) == 1


@on_versions(3, 7)
def test_only_the_columns_that_are_missing_are_named(strict: Database, version: int) -> None:
    missing = "last_error" if version == 3 else "expired_at"
    with role_with(strict, on_columns(version, but=("UPDATE", missing))) as dsn, qg.Client(dsn) as client:
        pool = qg.WorkerPool(client, {}, 1)
        with pytest.raises(qg.ErrRights, match=rf"may not UPDATE \({missing}\) on .*; GRANT UPDATE \({missing}\) ON "):
            pool.start()


@on_versions(3, 7)
def test_names_are_quoted_where_sql_needs_it(make_database: Callable[..., str], version: int) -> None:
    with closing(Database(make_database(migrate=False))) as database:
        role = '"Odd ""$1 role"'
        schema = '"My ""schema"'
        source = make_dsn(database.dsn, options="-c search_path=" + schema.replace(" ", "\\ "))
        database.query(f"CREATE SCHEMA {schema}; CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role}")
        qg.migrate(source, version)
        try:
            with qg.Client(lambda: as_role(source, role)) as client:
                pool = qg.WorkerPool(client, {}, 1)
                with pytest.raises(qg.ErrRights) as error:
                    pool.start()
                assert f" on {schema}.que_jobs, so" in str(error.value)
                run_grants(database, error)
                with pool:
                    pass
        finally:
            database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")


def as_role(dsn: str, role: str) -> psycopg2.extensions.connection:
    conn = psycopg2.connect(dsn)
    conn.cursor().execute(f"SET ROLE {role}")
    conn.commit()
    return conn


@on_versions(3, 7)
def test_a_schema_that_the_role_may_not_use_any_more_is_named(strict: Database, version: int) -> None:
    with role_with(strict, grants(WORKS, version)) as dsn, qg.Client(dsn) as client:
        role = role_of(dsn)
        strict.query(f"REVOKE USAGE ON SCHEMA public FROM {role}")
        message = f"role {role} may not use schema public, so .*; GRANT USAGE ON SCHEMA public TO {role}$"
        with pytest.raises(qg.ErrRights, match=message):
            qg.WorkerPool(client, {}, 1).start()
        with pytest.raises(qg.ErrRights, match=message):
            qg.Worker(client, {}).work()


@on_versions(7)
def test_functions_that_others_have_given_the_same_names_dont_count(strict: Database, version: int) -> None:
    with role_with(strict, grants(WORKS, version)) as dsn, role_with(strict, []) as others:
        with closing(Database(others)) as planter:
            strict.query(f"GRANT CREATE, USAGE ON SCHEMA public TO {role_of(others)}")
            for name in ("que_validate_tags", "que_determine_job_state"):
                planter.query(f"CREATE FUNCTION public.{name}(integer) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$")
                planter.query(f"REVOKE EXECUTE ON FUNCTION public.{name}(integer) FROM PUBLIC")
        with qg.Client(dsn) as client, qg.WorkerPool(client, {}, 1):
            pass


def test_a_start_looks_at_the_rights_with_one_message(network: Network) -> None:
    with qg.Client(network.dsn) as client:
        with qg.WorkerPool(client, {}, 3, interval=0.05):
            pass
        looks = [each for each in network.statements if "has_column_privilege" in each]
        assert len(looks) == 1
        worker = qg.Worker(client, {}, interval=0.05)
        with threaded(worker.work):
            eventually(lambda: len([each for each in network.statements if "has_column_privilege" in each]) == 2)
            worker.shutdown()


@on_versions(3, 7)
def test_a_worker_that_waits_for_the_database_looks_at_the_rights_when_it_is_there(
    strict: Database, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(strict.dsn)
    try:
        with role_with(strict, READS) as dsn:
            source = make_dsn(network.dsn, options=parse_dsn(dsn)["options"])
            with qg.Client(source) as client:
                network.cut()
                with pytest.raises(qg.ErrRights), threaded(qg.Worker(client, {}, interval=0.05).work):
                    eventually(lambda: "outage_begins" in caplog.text)
                    network.open()
    finally:
        network.cut()


@on_versions(3, 7)
def test_a_worker_whose_rights_are_revoked_logs_that_and_goes_on_when_they_are_back(
    strict: Database, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    with role_with(strict, grants(WORKS, version)) as dsn, qg.Client(strict.dsn) as other, qg.Client(dsn) as client:
        role = role_of(dsn)
        with qg.WorkerPool(client, {"MyJob": lambda job: None}, 1, interval=0.05):
            strict.query(f"REVOKE UPDATE, DELETE ON que_jobs FROM {role}")
            other.enqueue(qg.Job("MyJob"))
            eventually(lambda: "job_unrecorded" in caplog.text)
            strict.query(f"GRANT UPDATE, DELETE ON que_jobs TO {role}")
            eventually(lambda: strict.count() == 0)


@on_versions(3, 7)
def test_lock_job_looks_at_no_rights_and_what_the_database_says_passes(strict: Database, version: int) -> None:
    readable = [each for each in grants(WORKS, version) if not each.startswith(("GRANT UPDATE", "GRANT DELETE"))]
    with role_with(strict, readable) as dsn, qg.Client(strict.dsn) as other, qg.Client(dsn) as client:
        other.enqueue(qg.Job("MyJob"))
        job = client.lock_job()
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            job.delete()
        job.done()


@on_versions(3, 7)
def test_a_pool_without_functions_of_its_own_names_the_grant_it_needs_for_them(
    strict: Database, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    allowed = [each for each in grants(WORKS, version) if "TEMPORARY" not in each]
    with role_with(strict, allowed) as dsn, qg.Client(strict.dsn) as other, qg.Client(dsn) as client:
        other.enqueue(qg.Job("MyJob"))
        with qg.WorkerPool(client, {"MyJob": lambda job: None}, 2, interval=0.05):
            eventually(lambda: strict.count() == 0)
        name = strict.value("SELECT current_database()")
        (line,) = said(caplog)
        assert line.startswith("taking_plainly: permission denied")
        assert line.endswith(f"it is tried again every minute; GRANT TEMPORARY ON DATABASE {name} TO {role_of(dsn)}")
