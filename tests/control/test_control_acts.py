"""Acting: what is changed, what is left alone and why, and that nobody can get in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import pytest
from outside import Place, locked_by_others
from support import eventually, on_versions

import qg
from qg.control import Control, Filter, Left, Report
from qg.database.session import Session
from qg.tables import Statement
from qg.tables.acts import TRY_LOCKS
from qg.tables.locking import UNLOCK_JOBS

every_version = on_versions(3, 4, 5, 6, 7)
old_and_new = on_versions(3, 7)
STATES = ["ready", "scheduled", "failing", "expired", "finished"]
TOMORROW = datetime.now(timezone.utc) + timedelta(days=1)


def add(place: Place, state: str) -> int:
    return place.add(state=state, ahead="1 hour" if state in ("scheduled", "failing") else "-1 hour")


def row(place: Place, number: int) -> dict[str, Any]:
    found = place.row(number)
    assert found is not None
    return found


def before(monkeypatch: pytest.MonkeyPatch, statement: Statement, deed: Callable[[], object]) -> None:
    """Let *deed* be done each time before *statement* is run on a session."""
    run = Session.run

    def run_after(self: Session, wanted: Statement, params: Any = ()) -> Any:
        if wanted is statement:
            deed()
        return run(self, wanted, params)

    monkeypatch.setattr(Session, "run", run_after)


# What each of them does


@every_version
@pytest.mark.parametrize("by_filter", [False, True])
def test_retry_brings_back_what_failed_and_what_was_given_up(place: Place, control: Control, by_filter: bool) -> None:
    ids = {state: add(place, state) for state in STATES if place.version > 3 or state != "finished"}
    untouched = {state: place.row(ids[state]) for state in ids if state not in ("failing", "expired")}
    report = control.retry(Filter(everything=True) if by_filter else ids.values())
    assert report.count == 2
    assert set(report.ids) == {ids["failing"], ids["expired"]}
    for state in ("failing", "expired"):
        job = row(place, ids[state])
        assert (job["error_count"], job["due"]) == (0, True)
        assert job.get("expired_at") is None
        assert job["last_error" if place.version == 3 else "last_error_message"].startswith("Oops: no")
    assert {state: place.row(ids[state]) for state in untouched} == untouched
    reasons = {"ready": "it hasn't failed", "scheduled": "it hasn't failed", "finished": "it is finished"}
    left = [] if by_filter else [Left(ids[state], reasons[state]) for state in reasons if state in ids]
    assert list(report.left) == left


@every_version
def test_run_now_lets_jobs_be_due_and_counts_errors_on(place: Place, control: Control) -> None:
    ids = [add(place, state) for state in ("scheduled", "failing", "ready", "expired")]
    again = place.add(state="failing")
    report = control.run_now([*ids, again])
    assert set(report.ids) == set(ids[:2])
    assert [row(place, number)["due"] for number in ids[:2]] == [True, True]
    assert row(place, ids[1])["error_count"] == 5
    assert {each.id: each.reason for each in report.left} == {
        ids[2]: "it is due already",
        ids[3]: "it has expired; retry it",
        again: "it is due already",
    }


@every_version
def test_delete_deletes_whatever_the_state_is(place: Place, control: Control) -> None:
    ids = [add(place, state) for state in STATES if place.version > 3 or state != "finished"]
    kept = place.add(queue="other")
    assert control.delete(Filter(queue="mail")).count == len(ids)
    assert place.ids() == [kept]


@every_version
def test_expire_gives_jobs_up_until_they_are_retried(place: Place, control: Control, client: qg.Client) -> None:
    ready, failing = add(place, "ready"), place.add(state="failing")
    assert control.expire([ready, failing]).count == 2
    assert client.lock_job("mail") is None
    assert {each.id for each in control.jobs(state="expired").jobs} == {ready, failing}
    assert {each.message for each in control.errors()} == {"given up by ada", "Oops: no"}
    assert control.retry(Filter(state="expired")).count == 2
    with client.lock_job("mail") as job:
        assert job.error_count == 0
        job.delete()


@every_version
def test_reschedule_says_when_jobs_are_due(place: Place, control: Control) -> None:
    first, second, third = (place.add() for _ in range(3))
    assert control.reschedule([first], at=TOMORROW).count == 1
    assert control.reschedule([second], after=timedelta(hours=2)).count == 1
    assert control.reschedule(third, at=datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=15)))).count == 1
    jobs = {each.id: each for each in control.jobs().jobs}
    assert jobs[first].run_at == TOMORROW
    assert timedelta(hours=1) < jobs[second].run_at - datetime.now(timezone.utc) < timedelta(hours=3)
    assert jobs[third].run_at == datetime(2019, 12, 31, 9, tzinfo=timezone.utc)


@every_version
def test_priority_and_queue_are_set(place: Place, control: Control) -> None:
    number, settled = place.add(), add(place, "expired")
    place.add(queue="other")
    assert control.set_priority([number, settled], -32768).left == (Left(settled, "it has expired; retry it"),)
    assert control.move([number], "other").ids == (number,)
    job = row(place, number)
    assert (job["priority"], job["queue"]) == (-32768, "other")


@on_versions(4, 7)
def test_the_queue_without_a_name_is_the_default_one(place: Place, control: Control) -> None:
    number = place.add(queue="default")
    assert control.delete(Filter(queue="")).ids == (number,)


def test_a_job_is_moved_to_a_queue_that_nobody_knows_only_if_that_is_meant(place: Place, control: Control) -> None:
    number = place.add()
    with pytest.raises(qg.ErrUnknownQueue):
        control.move([number], "mali")
    assert row(place, number)["queue"] == "mail"
    assert control.move([number], "brand new", even_if_unknown=True).count == 1
    assert row(place, number)["queue"] == "brand new"


# Filters and batches


@every_version
@pytest.mark.parametrize("deed", ["reschedule", "set_priority", "move", "retry", "run_now"])
def test_a_filter_reaches_each_job_once_although_they_move(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    monkeypatch.setattr("qg.control.acting._BATCH", 3)
    state = {"retry": "failing", "run_now": "scheduled"}.get(deed, "ready")
    ids = [place.add(state=state, ahead=f"{count} hours", priority=count % 2) for count in range(10)]
    if deed != "run_now":
        place.query("UPDATE que_jobs SET run_at = run_at - interval '1 day'")
    how: dict[str, Any] = {"reschedule": {"at": TOMORROW}, "set_priority": {"priority": 7}}.get(deed, {})
    if deed == "move":
        how = {"queue": "zzz", "even_if_unknown": True}
    reports: list[Report] = []
    due = 1 if deed == "run_now" else 0  # of the first it is over by the time that it is looked at
    report = getattr(control, deed)(Filter(type="MyJob"), progress=reports.append, **how)
    assert report.count in (10, 10 - due)
    assert len(set(report.ids)) == report.count
    assert set(report.ids) <= set(ids)
    assert [each.count for each in reports] == sorted(each.count for each in reports)
    assert len(reports) >= 4


@old_and_new
def test_only_what_fits_all_of_the_filter_is_changed(place: Place, control: Control) -> None:
    wanted = place.add(state="failing", error="Timeout", args='[{"a": 1}]', ahead="-1 hour")
    place.add(state="failing", error="Timeout", args='[{"a": 2}]', ahead="-1 hour")
    place.add(state="failing", error="Other", args='[{"a": 1}]', ahead="-1 hour")
    place.add(args='[{"a": 1}]', ahead="-1 hour")
    place.add(state="failing", error="Timeout", args='[{"a": 1}]')
    where = Filter("mail", "MyJob", "failing", "timeout", timedelta(minutes=1), timedelta(hours=2), {"0.a": 1})
    assert control.delete(where).ids == (wanted,)


@every_version
def test_dry_run_only_looks(place: Place, control: Control) -> None:
    ids = [add(place, state) for state in ("failing", "expired", "ready")]
    held = add(place, "failing")
    everything = place.query("SELECT to_jsonb(que_jobs)::text FROM que_jobs ORDER BY 1")
    with locked_by_others(place, held, name="other"):
        by_ids = control.retry([*ids, held, 99], dry_run=True)
        by_filter = control.retry(Filter(queue="mail"), dry_run=True)
        cancelling = control.delete(Filter(queue="mail"), dry_run=True, cancel=True)
    assert set(by_ids.ids) == set(by_filter.ids) == set(ids[:2])
    assert by_ids.dry_run
    reasons = {each.id: each.reason for each in by_ids.left}
    assert reasons.pop(held).startswith("being worked by ")
    assert reasons == {ids[2]: "it hasn't failed", 99: "there is no such job"}
    assert [each.id for each in by_filter.left] == [held]
    assert (cancelling.count, cancelling.cancelled) == (4, (held,))
    assert place.query("SELECT to_jsonb(que_jobs)::text FROM que_jobs ORDER BY 1") == everything


def test_ids_that_no_job_has_are_reported_and_no_trouble(place: Place, control: Control) -> None:
    number = place.add()
    report = control.delete([4711, number, number, -1])
    assert (report.ids, report.count) == ((number,), 1)
    assert report.left == (Left(4711, "there is no such job"), Left(-1, "there is no such job"))
    assert control.delete([]).count == 0


def test_a_report_names_the_first_thousand_and_counts_all(place: Place, control: Control) -> None:
    place.query(
        "INSERT INTO que_jobs (job_class, queue, job_schema_version) "
        "SELECT 'MyJob', 'mail', 2 FROM generate_series(1, 1200)"
    )
    report = control.delete(Filter(everything=True))
    assert (report.count, len(report.ids)) == (1200, 1000)
    assert place.count() == 0
    report = control.delete(range(1, 1201))
    assert (report.left_count, len(report.left)) == (1200, 1000)


# Beside those who work


@every_version
@pytest.mark.parametrize("registered", [True, False])
def test_a_job_that_others_work_is_left_alone_and_says_by_whom(
    place: Place, control: Control, registered: bool
) -> None:
    held, free = place.add(), place.add()
    with locked_by_others(place, held, name="que-go", registered=registered) as conn:
        report = control.delete([held, free])
        who = f"session {conn.info.backend_pid} (que-go)"
    assert report.ids == (free,)
    if registered and place.version > 3:
        who = "pid 41 on web-2"
    assert report.left == (Left(held, f"being worked by {who}"),)
    assert place.ids() == [held]


@every_version
def test_a_job_that_qg_works_is_left_alone_too(place: Place, control: Control, client: qg.Client) -> None:
    number = place.add()
    with client.lock_job("mail") as job:
        assert control.retry(Filter(queue="mail")).count == 0
        (left,) = control.expire(Filter(queue="mail")).left
        assert left.reason == f"being worked by session {job.conn.info.backend_pid} (qg)"
        job.delete()
    assert place.row(number) is None


@every_version
def test_what_is_changed_is_committed_before_it_is_unlocked(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ruby's que-web unlocks first, and a worker was seen to take the deleted job in that gap."""
    numbers = [place.add(), place.add()]
    seen: list[tuple[list[int], list[int]]] = []
    before(monkeypatch, UNLOCK_JOBS, lambda: seen.append((place.ids(), place.locks())))
    control.delete(numbers)
    assert seen == [([], numbers)]
    assert place.locks() == []


@every_version
def test_a_job_that_was_settled_between_the_look_and_the_lock_is_left_alone(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, changed, fine = (place.add(state="failing") for _ in range(3))

    def settle() -> None:
        place.query(f"DELETE FROM que_jobs WHERE {place.id} = {gone}")
        place.query(f"UPDATE que_jobs SET error_count = 0 WHERE {place.id} = {changed}")

    before(monkeypatch, TRY_LOCKS, settle)
    report = control.retry([gone, changed, fine])
    assert report.ids == (fine,)
    assert {each.id: each.reason for each in report.left} == {
        gone: "it was settled, or deleted, meanwhile",
        changed: "it hasn't failed",
    }


@old_and_new
def test_a_job_that_doesnt_fit_the_filter_any_more_is_left_alone(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = place.add(state="failing", error="Timeout")
    column = "last_error" if place.version == 3 else "last_error_message"
    before(monkeypatch, TRY_LOCKS, lambda: place.query(f"UPDATE que_jobs SET {column} = 'Other'"))
    report = control.delete(Filter(error="timeout"))
    assert (report.count, report.left) == (0, ())
    assert place.ids() == [number]


@every_version
def test_a_row_that_another_transaction_has_locked_is_left_alone_and_not_waited_for(
    place: Place, control: Control
) -> None:
    held, free = place.add(), place.add()
    with closing(place.connect()) as conn:
        conn.cursor().execute(f"UPDATE que_jobs SET priority = 1 WHERE {place.id} = %s", (held,))
        report = control.delete([held, free])
        by_filter = control.delete(Filter(queue="mail"))
        conn.rollback()
    assert report.ids == (free,)
    assert report.left == by_filter.left == (Left(held, "another transaction has locked its row"),)
    assert place.ids() == [held]


@every_version
def test_a_statement_that_fails_leaves_no_lock_and_what_was_done_before_stays(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qg")
    monkeypatch.setattr("qg.control.acting._BATCH", 2)
    numbers = [place.add() for _ in range(4)]
    place.query(
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.{place.id} = {numbers[2]} THEN "
        "RAISE 'no'; END IF; RETURN OLD; END $$;"
        "CREATE TRIGGER refuse BEFORE DELETE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:
        with pytest.raises(psycopg2.errors.RaiseException):
            control.delete(numbers)
        eventually(lambda: place.locks() == [])
        assert place.ids() == numbers[2:]
        assert "control_delete count=2 left=0 by=ada ids=1,2,3,4" in caplog.text
        place.query("DROP TRIGGER refuse ON que_jobs")
        assert control.delete(numbers[2:]).count == 2
    finally:
        place.query("DROP FUNCTION refuse CASCADE")


@old_and_new
def test_run_now_by_filter_says_nothing_of_jobs_that_are_due(place: Place, control: Control) -> None:
    wanted = place.add(state="scheduled", ahead="1 hour")
    place.add()
    place.add(state="failing")
    report = control.run_now(Filter(queue="mail"))
    assert (report.ids, report.left, report.left_count) == ((wanted,), (), 0)


@on_versions(3)
@pytest.mark.parametrize("by_filter", [False, True])
def test_a_job_that_fails_between_the_look_and_the_lock_is_changed_all_the_same(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch, by_filter: bool
) -> None:
    """In version 3 that gives it another key."""
    numbers = [place.add(), place.add()]
    later = "UPDATE que_jobs SET error_count = 1, run_at = now() + interval '1 hour' WHERE job_id = %s"
    before(monkeypatch, TRY_LOCKS, lambda: place.query(later, (numbers[0],)))
    report = control.delete(Filter(queue="mail") if by_filter else numbers)
    assert (set(report.ids), report.left) == (set(numbers), ())
    assert place.ids() == []


@every_version
@pytest.mark.parametrize("lost", [False, True], ids=["a notification", "the session"])
def test_what_fails_after_the_commit_doesnt_hide_what_was_done(
    place: Place,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lost: bool,
) -> None:
    caplog.set_level(logging.INFO, "qg")
    number, reports = place.add(state="failing", ahead="1 hour"), []
    run = Session.run

    def fail(self: Session, wanted: Statement, params: Any = ()) -> Any:
        if lost and wanted is UNLOCK_JOBS:
            place.terminate(self.conn.info.backend_pid)
        if not lost and "pg_notify" in wanted.text:
            raise psycopg2.errors.InsufficientPrivilege("no")
        return run(self, wanted, params)

    monkeypatch.setattr(Session, "run", fail)
    if lost:
        with pytest.raises(psycopg2.OperationalError):
            control.retry([number], progress=reports.append)
    else:
        assert control.retry([number], progress=reports.append).ids == (number,)
        assert "not_notified: no; who listens isn't told of what was changed" in caplog.text
    assert [each.ids for each in reports] == [(number,)]
    assert f"control_retry count=1 left=0 by=ada ids={number}" in caplog.text
    assert row(place, number)["error_count"] == 0


@every_version
def test_a_cancelled_job_writes_nothing(
    place: Place, control: Control, client: qg.Client, caplog: pytest.LogCaptureFixture
) -> None:
    place.query("CREATE TABLE written (x int)")
    begun, go_on = threading.Event(), threading.Event()

    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("INSERT INTO written VALUES (1)")
        begun.set()
        go_on.wait(10)

    number = place.add()
    try:
        with qg.WorkerPool(client, {"MyJob": handler}, 1, queue="mail", interval=3600):
            assert begun.wait(10)
            assert control.delete([number]).count == 0
            report = control.delete([number], cancel=True)
            assert (report.count, report.ids, report.cancelled, report.left) == (1, (number,), (number,), ())
            assert place.ids() == []
            go_on.set()
            eventually(lambda: "job_gone" in caplog.text)
        assert place.query("SELECT * FROM written") == []
    finally:
        go_on.set()
        place.query("DROP TABLE written")


@every_version
@pytest.mark.parametrize("deed", ["retry", "run_now", "move"])
def test_workers_that_listen_begin_at_once(place: Place, control: Control, client: qg.Client, deed: str) -> None:
    if place.version == 3:
        qg.migrate(place.dsn, notify=True)
    done = threading.Event()
    with qg.WorkerPool(client, {"MyJob": lambda job: done.set()}, 1, queue="mail", interval=3600):
        eventually(lambda: any(each.listens for each in control.workers()))
        eventually(lambda: all("que_take_jobs" in each.statement or each.listens for each in control.workers()))
        if deed == "move":
            number = place.add(queue="other")
            control.move([number], "mail")
        else:
            number = place.add(state="failing" if deed == "retry" else "scheduled", ahead="1 hour")
            getattr(control, deed)([number])
        assert done.wait(10)
        eventually(lambda: place.ids() == [])
    if place.version == 3:
        place.query("DROP TRIGGER qg_notify ON que_jobs")


# Who, and what is refused


def test_each_action_is_logged_with_who_did_it(
    place: Place, control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qg")
    number = place.add()
    control.expire([number], by="eve\nforged")
    control.retry(Filter(state="expired", queue="mail"))
    control.delete([number], dry_run=True)
    control.pause("mail", reason="a\nb")
    control.resume("mail")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        r"control_expire count=1 left=0 by=eve\nforged ids=1",
        "control_retry count=1 left=0 by=ada queue='mail' state='expired'",
        r"control_pause queue=mail until=None by=ada reason=a\nb",
        "control_resume queue=mail by=ada",
    ]


def test_who_acts_is_the_databases_user_unless_somebody_says_so(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qg")
    with Control(place.dsn) as control:
        control.delete([1])
    assert f"by={place.value('SELECT current_user')} ids=1" in caplog.text


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (lambda control: control.delete(Filter()), "a filter that says nothing would delete every job; give Filter"),
        (lambda control: control.delete("5"), "the id of a job is a number, not '5'"),
        (lambda control: control.delete([1.5]), "the id of a job is a number, not 1.5"),
        (lambda control: control.delete([True]), "the id of a job is a number"),
        (lambda control: control.delete(None), "the id of a job is a number, not None"),
        (lambda control: control.delete([1], cancel=1), "cancel must be True or False, not 1"),
        (lambda control: control.delete([1], dry_run=None), "dry_run must be True or False"),
        (lambda control: control.delete([1], by=5), "by must be a text"),
        (lambda control: control.reschedule([1]), "takes either at= or after="),
        (lambda control: control.reschedule([1], at=TOMORROW, after=timedelta(1)), "takes either at= or after="),
        (lambda control: control.reschedule([1], at=datetime(2030, 1, 1)), "is no aware datetime"),
        (
            lambda control: control.reschedule([1], after=60),
            "after must be a timedelta of 0 to a hundred years, not 60",
        ),
        (lambda control: control.reschedule([1], after=timedelta(-1)), "after must be a timedelta"),
        (lambda control: control.reschedule([1], after=timedelta(days=40_000)), "after must be a timedelta"),
        (lambda control: control.set_priority([1], 32768), "priority must be a number from -32768 to 32767"),
        (lambda control: control.set_priority([1], 1.0), "priority must be a number"),
        (lambda control: control.move([1], 5), "queue must be a string"),
        (lambda control: control.move([1], "x" * 101, even_if_unknown=True), "is 101 characters long"),
        (lambda control: control.pause("x" * 101, even_if_unknown=True), "is 101 characters long"),
        (lambda control: control.pause("mail", until=datetime(2030, 1, 1)), "is no aware datetime"),
        (lambda control: control.pause("mail", reason=5), "reason must be a text"),
        (lambda control: control.resume(5), "queue must be a string"),
    ],
    ids=range(22),
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    place: Place, control: Control, deed: Callable[[Control], object], message: str
) -> None:
    place.add()
    everything = place.query("SELECT to_jsonb(que_jobs)::text FROM que_jobs")
    with pytest.raises(qg.ErrInvalidOption, match=message):
        deed(control)
    assert place.query("SELECT to_jsonb(que_jobs)::text FROM que_jobs") == everything
    assert place.query("SELECT * FROM qg_queues") == []


def test_a_migration_in_the_middle_is_said_and_what_was_done_stays(
    make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qg.control.acting._BATCH", 2)
    with closing(Place(make_database(version=7), 7)) as place:
        for _ in range(4):
            place.add()
        with Control(place.dsn) as control:
            with pytest.raises(
                qg.ErrAgain, match="migrated to version 3 meanwhile, after 2 jobs; call again for the rest"
            ):
                control.delete(Filter(queue="mail"), progress=lambda report: qg.migrate(place.dsn, 3))
            eventually(lambda: place.locks() == [])
            assert place.count() == 2
            assert control.delete(Filter(queue="mail")).count == 2
