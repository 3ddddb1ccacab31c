"""The checkup: each thing that it finds, and that it finds nothing where nothing is wrong."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from granting import grants, role_of, role_with, shut_out_public
from outside import Place, locked_by_others
from psycopg2.extensions import make_dsn
from support import eventually, needs, on_versions

import qg
from qg import control as qg_control
from qg.control import Control, Finding, Severity
from qg.tables import Statement

every_version = on_versions(3, 4, 5, 6, 7)
old_and_new = on_versions(3, 7)


@pytest.fixture
def place(make_database: Callable[..., str], version: int) -> Iterator[Place]:
    """A database of its own, for its table may be damaged."""
    with closing(Place(make_database(version=version), version)) as place:
        if version == 3:
            qg.migrate(place.dsn, notify=True)
        place.query(f"ALTER DATABASE {place.value('SELECT current_database()')} SET jit = off")
        yield place


def found(source: object, check: str) -> list[Finding]:
    return [each for each in qg_control.doctor(source) if each.check == check]


def only(source: object, check: str) -> Finding:
    (finding,) = found(source, check)
    return finding


@every_version
def test_where_nothing_is_wrong_nothing_is_found(place: Place) -> None:
    place.add(queue="mail")
    with qg.Client(place.dsn) as client, client.lock_job("mail") as job:
        assert qg_control.doctor(place.dsn) == []
        job.delete()


def test_the_worst_comes_first_and_says_what_to_do(place: Place) -> None:
    place.query("DROP INDEX que_poll_idx; COMMENT ON TABLE que_jobs IS NULL; DROP TABLE qg_queues")
    findings = qg_control.doctor(place.dsn)
    assert [each.severity for each in findings] == [Severity.ERROR, Severity.WARNING, Severity.INFO]
    for finding in findings[:2]:
        place.query(finding.mend)
    qg.migrate(place.dsn)
    assert qg_control.doctor(place.dsn) == []


def test_a_table_that_isnt_there_or_is_too_old_is_a_finding(make_database: Callable[..., str]) -> None:
    dsn = make_database(migrate=False)
    finding = only(dsn, "table")
    assert finding.severity is Severity.ERROR
    assert finding.seen == "there is no que_jobs table in this connection's search_path"
    assert finding.mend.startswith("create it with qg.migrate(source)")
    qg.migrate(dsn, 2)
    finding = only(dsn, "table")
    assert (finding.seen, finding.mend) == (
        "the que_jobs table is of version 2, but this qg works versions 3 to 7",
        "migrate it to one of them",
    )


def test_a_database_that_cant_be_reached_is_no_finding(place: Place) -> None:
    with pytest.raises(psycopg2.OperationalError):
        qg_control.doctor(make_dsn(place.dsn, dbname="nowhere"))


@every_version
def test_rights_that_are_missing_come_with_their_grants(place: Place) -> None:
    shut_out_public(place)
    looks = ["GRANT USAGE ON SCHEMA public TO app", "GRANT SELECT ON que_jobs TO app"]
    with role_with(place, looks) as dsn:
        role = role_of(dsn)
        findings = found(dsn, "rights")
        (warning,) = [each for each in findings if each.severity is Severity.WARNING]
        assert warning.seen.startswith(
            f"this role can't look at all that there is to see: role {role} may not SELECT on "
        )
        for finding in findings:
            assert all(each.startswith("GRANT ") for each in finding.mend.split("; "))
            place.query(finding.mend)
        assert found(dsn, "rights") == []


def test_a_check_that_isnt_allowed_is_a_finding_and_the_others_go_on(place: Place) -> None:
    shut_out_public(place)
    looks = ["GRANT USAGE ON SCHEMA public TO app", "GRANT SELECT ON que_jobs TO app"]
    with role_with(place, looks) as dsn:
        checks = {each.check: each for each in qg_control.doctor(dsn)}
        assert checks["holders"].seen == "this role may not look: permission denied for table que_lockers"
        assert "GRANT SELECT ON public.que_lockers TO" in checks["holders"].mend


def test_other_tables_in_the_same_database_are_named(place: Place) -> None:
    place.query("CREATE SCHEMA tenant; CREATE TABLE tenant.que_jobs (id int)")
    assert "in the schemas tenant, too" in only(place.dsn, "table").seen


@on_versions(6, 7)
def test_jobs_that_nobody_works_in_this_version_are_found(place: Place) -> None:
    place.add(job_schema_version=1)
    assert "jobs with job_schema_version 1, which nobody works" in only(place.dsn, "table").seen


@every_version
def test_a_missing_index_is_made_again_by_what_mends_it(place: Place) -> None:
    if place.version == 3:
        place.query("ALTER TABLE que_jobs DROP CONSTRAINT que_jobs_pkey")
    else:
        place.query("ALTER TABLE que_jobs DROP CONSTRAINT que_jobs_pkey; DROP INDEX que_poll_idx")
    if place.version == 5:
        place.query("DROP INDEX que_poll_idx_with_job_schema_version")
    findings = found(place.dsn, "indexes")
    assert {each.severity for each in findings} == {Severity.ERROR}
    assert len(findings) == {3: 1, 5: 3}.get(place.version, 2)
    for finding in findings:
        place.query(finding.mend)
    assert found(place.dsn, "indexes") == []
    again = Place(place.dsn, place.version)
    definition = again.value("SELECT indexdef FROM pg_indexes WHERE indexname = %s", ("que_jobs_pkey",))
    assert definition.endswith("(queue, priority, run_at, job_id)" if place.version == 3 else "(id)")
    again.close()


def test_an_index_that_isnt_valid_is_found(place: Place) -> None:
    place.query("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'que_poll_idx'::regclass")
    finding = only(place.dsn, "indexes")
    assert finding.mend == "REINDEX INDEX CONCURRENTLY que_poll_idx"
    place.query(finding.mend)
    assert found(place.dsn, "indexes") == []


@on_versions(3)
def test_version_3_with_many_jobs_hears_of_an_index_by_id(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qg.control.checks_of_table._MANY_JOBS", 1)
    place.add()
    place.add()
    # What a session has counted, the others see when it has ended a statement a second later, or been idle for ten.
    finding = eventually(lambda: place.query("SELECT 1") and found(place.dsn, "indexes"))[0]
    assert "a table of version 3 has no index by id" in finding.seen
    place.query(finding.mend.partition(";")[0])
    assert found(place.dsn, "indexes") == []


@old_and_new
def test_autovacuum_that_is_off_and_dead_rows_are_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.query("ALTER TABLE que_jobs SET (autovacuum_enabled = false)")
    place.query(
        "INSERT INTO que_jobs (job_class"
        + (", job_schema_version" if place.version > 5 else "")
        + ") SELECT 'MyJob'"
        + (", 2" if place.version > 5 else "")
        + " FROM generate_series(1, 10001)"
    )
    place.query("DELETE FROM que_jobs")
    off, dead = eventually(lambda: place.query("SELECT 1") and all_of(found(place.dsn, "dead_rows"), 2))
    assert "autovacuum is off" in off.seen
    assert "que_jobs has 10001 dead rows beside 0 that live, and was never vacuumed" in dead.seen
    place.query(off.mend)
    place.query(dead.mend.partition(";")[0])
    eventually(lambda: not found(place.dsn, "dead_rows"))
    place.add()
    monkeypatch.setattr("qg.control.checks_of_table._LARGE_BYTES", -1)
    monkeypatch.setattr("qg.control.checks_of_table._BYTES_PER_JOB", -1)
    assert "que_jobs takes 0 MB for " in only(place.dsn, "dead_rows").seen


def all_of(findings: list[Finding], count: int) -> list[Finding]:
    return findings if len(findings) == count else []


@old_and_new
def test_a_table_that_notifies_nobody_is_found(place: Place) -> None:
    name = "qg_notify" if place.version == 3 else "que_job_notify"
    place.query(f"ALTER TABLE que_jobs DISABLE TRIGGER {name}")
    finding = only(place.dsn, "wakeups")
    assert finding.severity is (Severity.INFO if place.version == 3 else Severity.WARNING)
    assert name in finding.seen


def test_a_pooler_that_takes_locks_away_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, **how: Any) -> Any:
        raise self.pooler_error()

    monkeypatch.setattr("qg.database.database.Database.lease", refuse)
    finding = only(place.dsn, "pooler")
    assert finding.severity is Severity.ERROR
    assert finding.seen.startswith("a pooler between this client and PostgreSQL pools transactions")
    assert finding.mend.startswith("connect to PostgreSQL directly")


def test_settings_that_hinder_work_are_found(place: Place) -> None:
    def with_settings(**settings: str) -> str:
        return make_dsn(place.dsn, options=" ".join(f"-c {name}={value}" for name, value in settings.items()))

    finding = only(with_settings(default_transaction_read_only="on"), "writing")
    assert (finding.severity, "no job can be worked" in finding.seen) == (Severity.ERROR, True)
    assert "'serializable'" in only(with_settings(default_transaction_isolation="serializable"), "writing").seen
    timeouts = with_settings(statement_timeout="5s", lock_timeout="6s", idle_in_transaction_session_timeout="7s")
    assert [each.seen.partition(" for ")[0] for each in found(timeouts, "timeouts")] == [
        "statement_timeout is 5s",
        "lock_timeout is 6s",
        "idle_in_transaction_session_timeout is 7s",
    ]
    jit = only(with_settings(jit="on"), "jit")
    assert jit.severity is Severity.INFO


def test_too_little_room_for_connections_and_locks_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from qg.control.patient import Server

    full = Server(False, 81, 3201, {"max_connections": "100", "max_locks_per_transaction": "64"})
    enough = full._replace(sessions=80, locks=3200, settings={**full.settings, "max_prepared_transactions": "0"})
    full = full._replace(settings=enough.settings)
    from qg.control.checks_of_server import check_capacity

    class Patient:
        server = full

    connections, locks = check_capacity(Patient)  # type: ignore[arg-type]
    assert connections.seen == "81 of 100 connections are in use"
    assert locks.seen == "3201 locks are held, and there is room for about 6400"
    Patient.server = enough
    assert list(check_capacity(Patient)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["transaction", "prepared transaction"])
def test_what_keeps_dead_rows_is_named(
    place: Place, kind: str, monkeypatch: pytest.MonkeyPatch, make_database: Callable[..., str]
) -> None:
    elsewhere = make_database(version=7)
    monkeypatch.setattr("qg.control.checks_of_server._OLD_SECONDS", 0.0)
    if kind == "prepared transaction" and place.value("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server has no prepared transactions")
    with closing(psycopg2.connect(place.dsn, application_name="report")) as conn:
        conn.cursor().execute("CREATE TABLE other (id int)")
        if kind != "transaction":
            conn.cursor().execute("PREPARE TRANSACTION 'forgotten'")
            name = "forgotten"
        else:
            name = f"of session {conn.info.backend_pid} (report)"
        assert any(f"the {kind} {name} has a snapshot" in each.seen for each in found(place.dsn, "snapshots"))
        assert not any(name in each.seen for each in found(elsewhere, "snapshots"))
        conn.rollback()
        if kind != "transaction":
            place.query("ROLLBACK PREPARED 'forgotten'")


def test_a_schema_that_is_open_to_everybody_is_found(place: Place) -> None:
    place.query("GRANT CREATE ON SCHEMA public TO PUBLIC")
    finding = only(place.dsn, "schemas")
    assert finding.mend == "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    place.query(finding.mend)
    assert found(place.dsn, "schemas") == []


@pytest.mark.parametrize(("seconds", "words"), [(-60, "60.0 s ahead of"), (60, "60.0 s behind")])
def test_a_clock_that_differs_is_found(
    place: Place, monkeypatch: pytest.MonkeyPatch, seconds: float, words: str
) -> None:
    import time

    now = time.time
    monkeypatch.setattr("qg.control.checks_of_server.time.time", lambda: now() + seconds)
    assert f"the database's clock is {words} this machine's" in only(place.dsn, "clock").seen


@every_version
def test_locks_that_are_no_jobs_are_found(place: Place) -> None:
    with locked_by_others(place, *range(1000, 1012), name="cron", registered=False) as conn:
        finding = only(place.dsn, "locks")
    assert finding.severity is Severity.INFO
    assert finding.seen.startswith(
        f"session {conn_pid(finding)} (cron) holds 12 advisory locks that are no job's of this table: 1000, 1001"
    )
    assert ", …. A job" in finding.seen
    conn.close()


def conn_pid(finding: Finding) -> str:
    return finding.seen.split(" ")[1]


@on_versions(4, 7)
def test_a_holder_whose_process_is_gone_is_found(place: Place) -> None:
    number = place.add()
    gone = 2**22 - 7  # beyond what Linux gives by default
    with locked_by_others(place, number, registered=False) as conn:
        for pid, host, expected in (
            (gone, socket.gethostname(), True),
            (gone, "elsewhere", False),
            (os.getpid(), socket.gethostname(), False),
        ):
            place.query("TRUNCATE que_lockers")
            place.register_locker(conn.info.backend_pid, ruby_pid=pid, ruby_hostname=host)
            findings = found(place.dsn, "holders")
            assert bool(findings) is expected
            if expected:
                assert findings[0].seen == f"pid {pid} on {host} holds the jobs {number}, but there is no such process"
                assert f"pg_terminate_backend({conn.info.backend_pid})" in findings[0].mend


@every_version
def test_a_session_that_holds_jobs_and_does_nothing_for_long_is_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qg.control.checks_of_work._LONG_IDLE_SECONDS", 0.0)
    number = place.add()
    with locked_by_others(place, number, name="slow", registered=False):
        finding = only(place.dsn, "holders")
    assert f"holds the jobs {number}, and its session has been idle for 0 min" in finding.seen


@every_version
def test_queues_that_nobody_works_are_found(place: Place) -> None:
    place.add(queue="worked", ahead="-2 minutes")
    place.add(queue="forgotten", ahead="-2 minutes")
    place.add(queue="just now")
    place.add(queue="ahead", ahead="1 hour")
    with qg.Client(place.dsn) as client, qg.WorkerPool(client, {"MyJob": lambda job: None}, 1, queue="worked"):
        finding = eventually(lambda: [each for each in found(place.dsn, "queues") if "worked'" not in each.seen])[0]
        said = ", as far as can be seen" if place.version == 3 else ""
        assert finding.seen == f"jobs have been due for a minute in the queues 'forgotten', which nobody works{said}"
        assert finding.severity is (Severity.INFO if place.version == 3 else Severity.WARNING)


@on_versions(3)
def test_a_queue_whose_name_cant_be_told_is_worked_for_all_that_is_known(place: Place) -> None:
    for queue in ("q" * 60 + "1", "q" * 60 + "2"):
        place.add(queue=queue, ahead="-2 minutes")
    assert len(found(place.dsn, "queues")) == 1
    with closing(psycopg2.connect(place.dsn, application_name=f"qg worker {'q' * 60}1")):
        assert found(place.dsn, "queues") == []


@on_versions(3)
@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("qg worker mail", "mail"),
        ("qg worker mail (billing)", "mail"),
        ("qg worker mail (eu)", "mail (eu)"),
        ("qg worker Größe", "Größe"),
        ("qg worker Größe (billing)", "Größe"),
        (f"qg worker {'q' * 90} (billing)", "q" * 90),
        ("qg worker", ""),
        ("qg worker (billing)", ""),
        ("qg worker other (one)", None),
    ],
    ids=range(9),
)
def test_a_worker_of_version_3_is_known_by_what_its_queue_is_called_there(
    place: Place, name: str, queue: str | None
) -> None:
    for each in ("mail" if "eu" not in name else "", "mail (eu)", "Größe", "q" * 90):
        place.add(queue=each)
    with Control(place.dsn) as control, closing(psycopg2.connect(place.dsn, application_name=name)):
        (worker,) = control.workers()
        assert worker.queues == (() if queue is None else (queue,))


@pytest.mark.parametrize("size", [1, 2])
def test_a_source_of_few_connections_is_checked_with_those_it_has(place: Place, size: int) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(1, size, place.dsn)
    findings = qg_control.doctor(pool)
    pool.closeall()
    if size == 2:
        assert findings == []
    else:
        (finding,) = findings
        assert (finding.check, finding.severity) == ("pooler", Severity.INFO)
        assert "it isn't known whether a pooler in between takes locks away" in finding.seen


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qg.control.checks_of_server.SNAPSHOTS", Statement("SELECT 1 / 0"))
    monkeypatch.setattr("qg.control.checks_of_server.CLOCK", Statement("SELECT nothing"))

    def refuse(self: Any, **how: Any) -> Any:
        raise psycopg2.OperationalError("too many clients already")

    monkeypatch.setattr("qg.database.database.Database.lease", refuse)
    place.query("GRANT CREATE ON SCHEMA public TO PUBLIC")
    seen = {each.check: each.seen for each in qg_control.doctor(place.dsn)}
    assert set(seen) == {"snapshots", "clock", "pooler", "schemas"}
    assert "this check has failed: " in seen["snapshots"]
    assert "division by zero" in seen["snapshots"]
    assert 'column "nothing" does not exist' in seen["clock"]
    assert seen["pooler"].endswith("too many clients already")


def test_the_doctor_needs_no_second_session_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[int] = []
    monkeypatch.setattr("qg.control.checkup._CHECKS", (lambda patient: sessions.append(len(place.sessions())) or [],))
    with Control(place.dsn) as control:
        assert control.doctor() == []
    assert sessions == [1]


@old_and_new
def test_types_that_no_pool_of_qg_jobs_knows_are_found(place: Place) -> None:
    jobs = needs("qg.jobs")
    jobs.migrate(place.dsn)
    place.add(job_class="Known", ahead="-2 minutes")
    place.add(job_class="Unknown", ahead="-2 minutes")
    place.add(job_class="Just now")
    place.query(
        "INSERT INTO qg_jobs_worker_pool (id, queue, workers, git_hash, job_types) "
        "VALUES ('a', 'mail', 2, '', '{Known}')"
    )
    assert only(place.dsn, "queues").seen == (
        "jobs of the types Unknown have been due for a minute in the queue 'mail', and no live pool of qg.jobs knows "
        "them"
    )
    place.query("UPDATE qg_jobs_worker_pool SET updated_at = now() - interval '2 minutes'")
    assert "in the queues 'mail', which nobody works" in only(place.dsn, "queues").seen


def test_a_paused_queue_that_others_work_is_found(place: Place) -> None:
    with Control(place.dsn) as control, locked_by_others(place):
        control.pause("mail", even_if_unknown=True)
        assert only(place.dsn, "pauses").seen == (
            "the queue 'mail' is paused, but pid 41 on web-2 works it and doesn't know of pauses"
        )


@old_and_new
def test_a_session_of_qgs_that_has_a_job_of_a_paused_queue_is_no_finding(place: Place) -> None:
    number = place.add()
    with qg.Client(place.dsn) as client, client.lock_job("mail") as job, Control(place.dsn) as control:
        (other,) = control.pause("mail").others
        assert other.endswith("(qg) has a job of it, and goes on if it locks jobs by hand")
        assert found(place.dsn, "pauses") == []
        assert job.id == number
        job.delete()


@on_versions(7)
def test_a_worker_that_may_not_enlist_is_known_to_obey(place: Place) -> None:
    shut_out_public(place)
    work = [each for each in grants("Who works", place.version) if "que_lockers" not in each]
    begun, go_on = threading.Event(), threading.Event()
    place.add()
    with role_with(place, work) as dsn, qg.Client(dsn) as client, Control(place.dsn) as control:

        def handler(job: qg.Job) -> None:
            begun.set()
            go_on.wait(10)

        with qg.WorkerPool(client, {"MyJob": handler}, 1, queue="mail"):
            assert begun.wait(10)
            assert control.pause("mail").others == ()
            assert {each.holder.name for each in control.workers()} == {"qg worker mail"}
            go_on.set()
        client.close()


@on_versions(3, 4, 7)
def test_jobs_that_python_cant_read_are_found(place: Place) -> None:
    place.add()
    unreadable = place.add(args="[" + "9" * 5000 + "]")
    finding = only(place.dsn, "args")
    assert (
        finding.seen == f"Python can't read the args of the jobs {unreadable}, so each of them fails when it is taken"
    )


def test_a_control_has_a_doctor_too(place: Place) -> None:
    with Control(place.dsn) as control:
        assert control.doctor() == []
