"""Looking: what is told of queues, jobs, workers and errors, on every version of the table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest
from outside import Place, locked_by_others
from support import eventually, on_versions

import qg
from qg.control import Control, Count, Filter, Order, State, WorkerView
from qg.database.deadline import Deadline

every_version = on_versions(3, 4, 5, 6, 7)
old_and_new = on_versions(3, 7)
STATES = ["ready", "scheduled", "failing", "expired"]


def add_one_of_each(place: Place, **values: object) -> dict[str, int]:
    """Store a job of each state that the version has, and one that has failed and is due again."""
    ids = {
        "ready": place.add(**values),
        "scheduled": place.add(ahead="1 hour", **values),
        "failing": place.add(ahead="1 hour", state="failing", **values),
        "due again": place.add(state="failing", **values),
        "expired": place.add(state="expired", **values),
    }
    if place.version > 3:
        ids["finished"] = place.add(state="finished", **values)
    return ids


def test_the_time_is_that_of_the_database(place: Place, control: Control) -> None:
    before, now, after = place.value("SELECT now()"), control.now(), place.value("SELECT now()")
    assert before <= now <= after


# The overview


@every_version
@pytest.mark.parametrize("wide", [False, True])
def test_the_overview_counts_each_queue_by_state(
    place: Place, control: Control, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_one_of_each(place, queue="mail")
    place.add(queue="other", ahead="-2 hours")
    if wide:  # of a table that isn't read as a whole
        monkeypatch.setattr("qg.control.overview._SMALL_PAGES", -1)
        monkeypatch.setattr("qg.control.overview.SAMPLED_PAGES", 1)
    overview = control.overview()
    assert overview.version == place.version
    assert [each.queue for each in overview.queues] == ["mail", "other"]
    mail, other = overview.queues
    assert (mail.waiting, mail.due, mail.scheduled, mail.failing, mail.expired) == (4, 2, 1, 2, 1)
    assert mail.finished == (None if place.version == 3 else 1)
    assert (other.waiting, other.due, other.failing, other.expired) == (1, 1, 0, 0)
    assert other.oldest_due is not None
    assert timedelta(hours=2) <= overview.at - other.oldest_due < timedelta(hours=3)
    known = [mail.waiting, mail.due, mail.scheduled, mail.failing]
    assert [each.estimated for each in known] == [False] * 4
    assert mail.expired.estimated == (wide and place.version > 3)


@old_and_new
def test_what_a_part_of_a_large_table_cant_tell_is_an_estimate(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qg.control.overview._SMALL_PAGES", -1)
    monkeypatch.setattr("qg.control.overview._HEADS", 20)
    for _ in range(30):
        place.add()
    place.add(queue="small")
    mail, small = control.overview().queues
    assert mail.due.estimated
    assert mail.due >= 20
    assert str(mail.due).startswith("≈")
    assert (small.due, small.due.estimated) == (1, False)
    exact = control.overview(exact=True).queues[0]
    assert (exact.due, exact.due.estimated, str(exact.due)) == (30, False, "30")


def test_where_not_every_queue_and_priority_was_counted_nothing_is_said_to_be_known(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qg.control.overview._SMALL_PAGES", -1)
    monkeypatch.setattr("qg.control.overview._PAIRS", 2)
    for priority in (1, 2, 3):
        place.add(priority=priority)
    (mail,) = control.overview().queues
    assert mail.due.estimated
    assert mail.due >= 2


@every_version
def test_the_overview_says_how_many_are_being_worked_and_by_how_many(place: Place, control: Control) -> None:
    ids = [place.add() for _ in range(3)]
    with locked_by_others(place, *ids[:2]):
        (mail,) = control.overview().queues
    assert (mail.working, mail.workers, mail.status) == (2, 1, "working")
    eventually(lambda: place.locks() == [] and len(place.sessions()) <= 1)
    (mail,) = control.overview().queues
    assert (mail.working, mail.workers, mail.status) == (0, 0, "nobody works it")


def test_a_queue_that_is_empty_but_worked_is_idle(place: Place, client: qg.Client, control: Control) -> None:
    with qg.WorkerPool(client, {}, 1, queue="mail", interval=3600):
        (mail,) = eventually(lambda: control.overview().queues)
        assert (mail.queue, mail.due, mail.status) == ("mail", 0, "idle")
        eventually(lambda: control.overview().queues[0].workers == 2)  # the worker, and who listens


def test_two_looks_tell_how_fast_a_queue_empties(place: Place, control: Control) -> None:
    ids = [place.add() for _ in range(4)]
    first = control.overview()
    place.query("DELETE FROM que_jobs WHERE id = %s", (ids[0],))
    second = control.overview()
    (trend,) = second.since(first).values()
    seconds = (second.at - first.at).total_seconds()
    assert trend.per_minute == pytest.approx(-60 / seconds)
    assert trend.empty_in is not None
    assert trend.empty_in.total_seconds() == pytest.approx(3 * seconds, abs=1e-3)
    assert not trend.estimated
    (standing_still,) = second.since(second).values() or [None]
    assert standing_still is None
    assert first.since(second) == {}


# Jobs


@every_version
@pytest.mark.parametrize("state", STATES)
def test_jobs_are_found_by_their_state(place: Place, control: Control, state: str) -> None:
    ids = add_one_of_each(place)
    wanted = {ids[state], *([ids["due again"]] if state == "failing" else [])}
    page = control.jobs(state=state)
    assert {each.id for each in page.jobs} == wanted
    assert {each.state for each in page.jobs} == {State(state)}
    assert page.after is None


@on_versions(4, 7)
def test_what_came_from_version_3_as_given_up_is_expired_too(place: Place, control: Control) -> None:
    number = place.add(state="failing", ahead="80 years")
    (job,) = control.jobs(state="expired").jobs
    assert (job.id, job.expired_at) == (number, None)
    (mail,) = control.overview().queues
    assert (mail.expired, mail.waiting) == (1, 0)


def test_finished_jobs_are_found_where_they_are_kept(place: Place, control: Control) -> None:
    number = add_one_of_each(place)["finished"]
    (job,) = control.jobs(state="finished").jobs
    assert job.id == number
    assert job.finished_at is not None


@on_versions(3)
def test_version_3_says_that_it_keeps_no_finished_jobs(control: Control) -> None:
    with pytest.raises(qg.ErrTable, match=r"version 3, which keeps no finished jobs; migrate it"):
        control.jobs(state=State.FINISHED)


@every_version
def test_jobs_are_found_by_queue_type_error_and_age(place: Place, control: Control) -> None:
    old = place.add(ahead="-3 hours", job_class="Old")
    failed = place.add(state="failing", error="TimeoutError: too LATE", queue="other")
    ahead = place.add(ahead="1 hour")

    def found(**how: object) -> list[int]:
        return sorted(each.id for each in control.jobs(**how).jobs)  # type: ignore[arg-type]

    assert found(queue="other") == [failed]
    assert found(type="Old") == [old]
    assert found(error="too late") == [failed]
    assert found(error="FILE.py") == [failed]
    assert found(older_than=timedelta(hours=2)) == [old]
    assert found(younger_than=timedelta(hours=2)) == [failed, ahead]
    assert found(queue="mail", type="Old", older_than=timedelta(0)) == [old]
    assert found(queue="mail", type="Old", state="failing") == []
    assert found() == [old, failed, ahead]


@every_version
def test_jobs_are_found_by_what_is_in_their_args(place: Place, control: Control) -> None:
    first = place.add(args='[{"user": {"id": 10000000000000000000000000000000, "ok": true}}, "a.b"]')
    second = place.add(args='[{"user": {"id": 8, "ok": null}}, 1.50]')

    def found(**args: object) -> list[int]:
        return sorted(each.id for each in control.jobs(args=args).jobs)

    assert found(**{"0.user.id": 10**31}) == [first]
    assert found(**{"0.user.id": 8}) == [second]
    assert found(**{"0.user.ok": True}) == [first]
    assert found(**{"0.user.ok": None}) == [second]
    assert found(**{"1": "a.b"}) == [first]
    assert found(**{"1": "a.b", "0.user.id": 8}) == []
    assert found(**{"nowhere": None}) == [first, second]


@on_versions(3)
def test_args_that_no_server_takes_apart_are_passed_over(place: Place, control: Control) -> None:
    plain = place.add(args='[7, "\\\\u0000 \\ud83d\\ude00"]')  # an escaped backslash, and a whole pair
    unreadable = [place.add(args=text) for text in (r'[7, "\u0000"]', r'[7, "\ud83d"]', r'[7, "\ude00\ud83d"]')]
    assert [each.id for each in control.jobs(args={"0": 7}).jobs] == [plain]
    assert [each.id for each in control.jobs(args={"9": None}).jobs] == [plain]
    assert control.delete(Filter(args={"0": 7})).ids == (plain,)
    assert place.ids() == unreadable


@every_version
def test_a_job_is_told_as_it_is_stored(place: Place, control: Control) -> None:
    number = place.add(args="[1e308, 10000000000000000000000]", priority=-5, state="failing", queue="<b>")
    (job,) = control.jobs().jobs
    assert (job.id, job.queue, job.type, job.priority, job.error_count) == (number, "<b>", "MyJob", -5, 5)
    assert job.last_error == "Oops: no\nfile.py"
    assert job.args.endswith(", 10000000000000000000000]")
    assert job.holder is None
    assert control.job(number).job == job


@every_version
def test_pages_go_on_by_key_and_have_every_job_once(place: Place, control: Control) -> None:
    ids = [place.add(ahead=f"-{count} seconds", priority=count % 3) for count in range(20, 0, -1)]
    found: list[int] = []
    after = None
    while True:
        page = control.jobs(limit=7, after=after)
        found += [each.id for each in page.jobs]
        after = page.after
        if after is None:
            break
        place.add(ahead="1 day")  # what comes meanwhile is no trouble
    assert found == ids[::-1]


@every_version
def test_next_is_the_order_in_which_workers_take_jobs(place: Place, control: Control, client: qg.Client) -> None:
    for priority, ahead in ((1, "-1 second"), (0, "-2 seconds"), (1, "-3 seconds"), (0, "-4 seconds")):
        place.add(priority=priority, ahead=ahead)
    place.add(queue="later")
    place.add(state="expired", queue="zzz") if place.version > 3 else None
    first = control.jobs(order="next", limit=3)
    rest = control.jobs(order=Order.NEXT, after=first.after)
    listed = [each.id for each in (*first.jobs, *rest.jobs)]
    taken = []
    for queue in ("mail", "mail", "mail", "mail", "later"):
        with client.lock_job(queue) as job:
            taken.append(job.id)
            job.delete()
    in_order = [number for number in listed if number in taken[:4]]
    assert in_order == taken[:4]
    assert set(listed) == set(taken)


@every_version
def test_a_page_that_read_enough_is_short_and_goes_on(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_READ", "_READ_BY_ID"):
        monkeypatch.setattr(f"qg.control.listing.{name}", 3)
    monkeypatch.setattr("qg.control.listing._PAGE_SECONDS", 0.0)
    wanted = [place.add(job_class="Rare", ahead="-1 hour"), *(place.add() for _ in range(10))][0]
    for order in Order:
        pages = [control.jobs(type="Rare", order=order)]
        while pages[-1].after is not None:
            pages.append(control.jobs(type="Rare", order=order, after=pages[-1].after))
        assert len(pages) > 3
        assert [each.id for page in pages for each in page.jobs] == [wanted]
        assert sum(page.read for page in pages) == 11
    assert [each.id for each in control.each_job(Filter(type="Rare"))] == [wanted]


def test_a_page_goes_on_reading_while_it_isnt_full(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qg.control.listing._READ_BY_ID", 3)
    monkeypatch.setattr("qg.control.listing._PAGE_SECONDS", 60.0)
    wanted = place.add(job_class="Rare")
    for _ in range(10):
        place.add()
    page = control.jobs(type="Rare")
    assert [each.id for each in page.jobs] == [wanted]
    assert page.after is None


@every_version
def test_a_job_is_found_by_its_id_with_who_works_it(place: Place, control: Control) -> None:
    number = place.add()
    with locked_by_others(place, number, name="puma") as conn:
        detail = control.job(number)
        assert detail.attempts is None
        job = detail.job
        assert job is not None
        assert job.holder is not None
        assert job.holder.backend_pid == conn.info.backend_pid
        if place.version == 3:
            assert str(job.holder) == f"session {conn.info.backend_pid} (puma)"
        else:
            assert str(job.holder) == "pid 41 on web-2"
        assert control.jobs().jobs == (job,)


@every_version
def test_an_id_that_no_job_has_is_said(control: Control) -> None:
    with pytest.raises(qg.ErrUnknownJob, match=r"there is no job 4711 in public\.que_jobs: it is done"):
        control.job(4711)


@every_version
def test_a_queue_that_nobody_knows_is_said_with_the_nearest_name(place: Place, control: Control) -> None:
    place.add(queue="mail")
    for deed in (
        lambda: control.jobs(queue="mial"),
        lambda: control.retry(Filter(queue="mial")),
        lambda: control.move([1], "mial"),
        lambda: control.pause("mial"),
        lambda: control.resume("mial"),
    ):
        with pytest.raises(qg.ErrUnknownQueue, match="nobody knows a queue 'mial'.*; the nearest is 'mail'"):
            deed()
    with pytest.raises(qg.ErrUnknownQueue, match="; there are 'mail'$"):
        control.jobs(queue="something else")
    place.empty()
    with pytest.raises(qg.ErrUnknownQueue, match="and nobody works it$"):
        control.jobs(queue="mail")


def test_a_queue_that_is_only_worked_or_only_paused_is_known(place: Place, control: Control, client: qg.Client) -> None:
    control.pause("paused", even_if_unknown=True)
    with qg.WorkerPool(client, {}, 1, queue="worked", interval=3600):
        eventually(lambda: "worked" in control.queues())
        assert control.queues() == ["paused", "worked"]
        assert control.jobs(queue="worked").jobs == ()
        assert control.jobs(queue="paused").jobs == ()


# Workers


def only(views: list[WorkerView], **wanted: object) -> WorkerView:
    (view,) = [each for each in views if all(getattr(each, name) == value for name, value in wanted.items())]
    return view


@every_version
def test_workers_of_every_kind_are_seen_with_their_jobs(place: Place, control: Control, client: qg.Client) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handler(job: qg.Job) -> None:
        begun.set()
        go_on.wait(10)

    theirs, ours = place.add(queue="theirs", job_class="Theirs"), place.add(queue="mail")
    with (
        locked_by_others(place, theirs, 99_999, name="bin/que") as conn,
        qg.WorkerPool(client, {"MyJob": handler}, 1, queue="mail", interval=3600),
    ):
        try:
            assert begun.wait(10)
            views = control.workers()
            other = only(views, kind="other" if place.version == 3 else "locker")
            assert other.holder.backend_pid == conn.info.backend_pid
            assert other.jobs == ((theirs, "theirs", "Theirs"),)
            assert other.other_locks == (99_999,)
            assert other.queues == (("theirs",) if place.version == 3 else ("mail",))
            assert not other.obeys_pauses
            mine = only(views, kind="qg", jobs=((ours, "mail", "MyJob"),))
            assert mine.holder.name == "qg worker mail"
            assert mine.queues == ("mail",)
            assert mine.obeys_pauses
            assert mine.state == "idle"
            assert mine.connected_at is not None
            assert "que_take_jobs" in mine.statement
        finally:
            go_on.set()


def test_a_worker_that_waits_for_a_lock_is_seen_with_who_is_in_its_way(
    place: Place, control: Control, client: qg.Client
) -> None:
    place.query("CREATE TABLE IF NOT EXISTS busy (id int)")

    def handler(job: qg.Job) -> None:
        with job.tx.cursor() as cur:
            cur.execute("LOCK TABLE busy")

    place.add()
    with place.connect() as blocker:
        blocker.cursor().execute("LOCK TABLE busy")
        with qg.WorkerPool(client, {"MyJob": handler}, 1, queue="mail", interval=3600):
            try:
                view = eventually(lambda: [each for each in control.workers() if each.blocked_by])[0]
                assert view.blocked_by == (blocker.info.backend_pid,)
                assert view.waits_for == "Lock: relation"
                assert view.statement == "LOCK TABLE busy"
                assert view.transaction_since is not None
                assert view.state == "active"
            finally:
                blocker.rollback()
    blocker.close()
    place.query("DROP TABLE busy")


@old_and_new
def test_the_locks_of_other_databases_and_of_two_integers_are_nobodys(
    place: Place, control: Control, make_database: Callable[..., str]
) -> None:
    number = place.add()
    elsewhere = Place(make_database(version=7), 7)
    try:
        elsewhere.query("SELECT pg_advisory_lock(%s)", (number,))
        with place.connect() as conn:
            conn.cursor().execute("SELECT pg_advisory_lock(0, %s)", (number,))
            assert control.workers() == []
            assert control.overview().queues[0].working == 0
            conn.rollback()
        conn.close()
    finally:
        elsewhere.close()


# Errors


@every_version
@pytest.mark.parametrize("wide", [False, True])
def test_errors_are_grouped_by_type_and_first_line(
    place: Place, control: Control, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wide:
        monkeypatch.setattr("qg.control.overview._SMALL_PAGES", -1)
        monkeypatch.setattr("qg.control.overview.SAMPLED_PAGES", 1)
    for ahead in ("1 hour", "-1 hour"):
        place.add(state="failing", error="Timeout: x", ahead=ahead)
    last = place.add(state="expired", error="Timeout: x")
    place.add(state="failing", error="Other: y", job_class="Another", ahead="1 hour")
    place.add()
    timeout, other = control.errors()
    assert (timeout.type, timeout.message, timeout.failing, timeout.expired) == ("MyJob", "Timeout: x", 2, 1)
    assert timeout.example == last
    assert timeout.first_due < datetime.now(timezone.utc) < timeout.last_due
    assert (other.type, other.message, other.failing, other.expired) == ("Another", "Other: y", 1, 0)
    assert timeout.failing.estimated is wide
    assert not control.errors(exact=True)[0].failing.estimated


def test_finished_jobs_that_had_failed_are_no_errors(place: Place, control: Control) -> None:
    place.add(state="finished", error_count=3)
    assert control.errors() == []


@every_version
def test_a_group_of_errors_is_named_exactly_by_its_type_and_message(place: Place, control: Control) -> None:
    column = "last_error" if place.version == 3 else "last_error_message"
    wanted = [place.add(state="failing", error="Timeout"), place.add(state="expired", error="Timeout")]
    several_lines = place.add(state="failing")
    place.query(f"UPDATE que_jobs SET {column} = E'Timeout\\nof Ruby' WHERE {place.id} = %s", (several_lines,))
    silent = [place.add(state="failing"), place.add(state="expired")]
    place.query(f"UPDATE que_jobs SET {column} = NULL WHERE {place.id} = ANY (%s)", (silent,))
    place.add(state="failing", error="timeout")
    place.add(state="failing", error="Timeout", job_class="Another")
    never_failed = place.add()
    retried = place.add(state="failing", error="Timeout")
    place.query(f"UPDATE que_jobs SET error_count = 0 WHERE {place.id} = %s", (retried,))
    groups = {(each.type, each.message): each for each in control.errors()}
    for message, ids in (("Timeout", {*wanted, several_lines}), ("", set(silent))):
        group = groups["MyJob", message]
        assert group.failing + group.expired == len(ids)
        page = control.jobs(type=group.type, message=group.message)
        assert {each.id for each in page.jobs} == ids
        next_up = control.jobs(type=group.type, message=group.message, order="next").jobs
        assert {each.id for each in next_up} >= {each.id for each in page.jobs if each.state is State.FAILING}
        assert set(control.delete(Filter(type=group.type, message=group.message)).ids) == ids
    assert {never_failed, retried} <= set(place.ids())
    assert control.jobs(message="Timeout", state="ready").jobs == ()


@old_and_new
def test_more_groups_of_errors_than_are_told_are_said(
    place: Place, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in range(3):
        place.add(state="failing", error=f"Oops {count}")
    assert len(control.errors()) == 3
    assert not control.errors(exact=True).more
    monkeypatch.setattr("qg.control.failing.MOST_ERRORS", 2)
    assert len(control.errors(exact=True)) == 2
    assert control.errors(exact=True).more


@pytest.mark.parametrize("look", [Control.overview, Control.errors])
def test_no_deadline_ends_a_look_at_every_job(
    place: Place, control: Control, look: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add(state="failing")
    monkeypatch.setattr(control._database, "_deadline", 0.0)
    deadlines: list[Deadline] = []
    enter = Deadline.__enter__
    monkeypatch.setattr(Deadline, "__enter__", lambda deadline: (deadlines.append(deadline), enter(deadline))[1])
    seen: list[object] = []
    with closing(place.connect()) as conn:
        conn.cursor().execute("LOCK TABLE que_jobs")
        thread = threading.Thread(target=lambda: seen.append(look(control, exact=True)))
        thread.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
        eventually(lambda: place.query(waiting))
        for deadline in list(deadlines):
            deadline.look()
        conn.rollback()
        thread.join(10)
    assert len(seen) == 1


# Counts


def test_a_count_is_a_number_that_says_whether_it_is_an_estimate() -> None:
    count = Count(1200) + Count(34, estimated=True)
    assert count == 1234
    assert (str(count), f"{count}", f"{count:,}", repr(count)) == (
        "≈1234",
        "≈1234",
        "1,234",
        "Count(1234, estimated=True)",
    )
    assert (str(Count(5) + 1), repr(Count(5))) == ("6", "Count(5)")
    assert sorted([Count(3), Count(1, estimated=True)]) == [1, 3]


# Bad input


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"state": "working"}, "there is no state 'working' of a job; give one of ready, scheduled"),
        ({"state": 5}, "there is no state 5"),
        ({"queue": 5}, "queue must be a string"),
        ({"queue": "a\0"}, "NUL"),
        ({"type": "a\0"}, "type must be a text that PostgreSQL can hold"),
        ({"error": "\ud800"}, "error must be a text that PostgreSQL can hold"),
        ({"error": 5}, "error must be a text"),
        ({"older_than": 5}, "older_than must be a timedelta of 0 to a hundred years, not 5"),
        ({"younger_than": timedelta(-1)}, "younger_than must be a timedelta of 0 to"),
        ({"younger_than": timedelta.max}, "younger_than must be a timedelta of 0 to"),
        ({"error": ""}, "error='' is contained in every error, so it says nothing; leave it out"),
        ({"args": {}}, "args={} fits every job, so it says nothing; leave it out"),
        ({"message": 5}, "message must be a text"),
        ({"message": "a\nb"}, "is more than a first line"),
        ({"args": "0=7"}, "args must be a dict"),
        ({"args": {"": 7}}, "a way into args must be a text"),
        ({"args": {1: 7}}, "a way into args must be a text"),
        ({"args": {"0": [7]}}, "args can be compared with a string, a number"),
        ({"args": {"0": "\0"}}, "must be a text that PostgreSQL can hold"),
        ({"limit": 0}, "limit must be a number of jobs, 1 to 10000, not 0"),
        ({"limit": True}, "limit must be a number of jobs"),
        ({"limit": 20_000}, "limit must be a number of jobs"),
        ({"order": "oldest"}, "there is no order 'oldest' of jobs; give one of newest, next"),
        ({"after": "x"}, "after='x' continues no list of this order"),
        ({"after": '["a"]'}, "continues no list"),
        ({"after": "[true]"}, "continues no list"),
        ({"after": "[1]", "order": "next"}, "continues no list"),
        ({"after": "[" * 100_000}, "continues no list"),
        ({"after": f"[{2**63}]"}, "continues no list"),
        ({"after": f"[{'9' * 5000}]"}, "continues no list"),
        ({"after": '["a\\u0000", 1, "2030-01-01T00:00:00Z", 1]', "order": "next"}, "continues no list"),
        ({"after": '["a", 99999, "2030-01-01T00:00:00Z", 1]', "order": "next"}, "continues no list"),
        ({"after": '["a", 1, "2030-02-31T00:00:00Z", 1]', "order": "next"}, "continues no list"),
        ({"after": '["a", 1, "once", 1]', "order": "next"}, "continues no list"),
        ({"where": Filter(), "queue": "mail"}, "give a Filter, or what one is made of, and not both"),
        ({"where": "mail"}, "give a Filter"),
    ],
    ids=range(36),
)
def test_a_list_of_jobs_refuses_what_makes_no_sense(control: Control, how: dict[str, object], message: str) -> None:
    with pytest.raises(qg.ErrInvalidOption, match=message.replace("(", r"\(")):
        control.jobs(**how)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", ["5", 1.5, True, None, 2**63])
def test_the_id_of_a_job_is_a_number(control: Control, number: object) -> None:
    with pytest.raises(qg.ErrInvalidOption, match="the id of a job is a number, not"):
        control.job(number)  # type: ignore[arg-type]


def test_a_filter_of_every_job_that_says_more_is_refused() -> None:
    with pytest.raises(qg.ErrInvalidOption, match="every job and not every job"):
        Filter(queue="mail", everything=True)
    with pytest.raises(qg.ErrInvalidOption, match="everything must be True or False"):
        Filter(everything=1)  # type: ignore[arg-type]


def test_a_closed_control_takes_nothing_more(place: Place) -> None:
    control = Control(place.dsn)
    control.close()
    control.close()
    with pytest.raises(qg.ErrClientClosed):
        control.overview()


def test_a_control_on_a_client_leaves_it_open(client: qg.Client, place: Place) -> None:
    place.add()
    with Control(client) as control:
        assert len(control.jobs().jobs) == 1
    assert len(client.stats()) == 1


def test_a_migration_while_it_is_open_is_no_trouble(make_database: Callable[..., str]) -> None:
    place = Place(make_database(version=3), 3)
    try:
        place.add(state="failing")
        with Control(place.dsn) as control:
            assert control.overview().version == 3
            qg.migrate(place.dsn, 7)
            assert control.overview().version == 7
            assert [each.kwargs for each in control.jobs().jobs] == ["{}"]
            qg.migrate(place.dsn, 4)
            assert control.retry(Filter(state="failing")).count == 1
            assert len(control.workers()) == 0
            qg.migrate(place.dsn, 3)
            assert control.jobs().jobs[0].state is State.READY
    finally:
        place.close()


@on_versions(3, 7)
def test_what_no_utf8_holds_is_told_all_the_same(make_database: Callable[..., str], version: int) -> None:
    options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with closing(Place(make_database(version=version, options=options), version)) as place:
        place.add()
        place.query(r"UPDATE que_jobs SET job_class = E'My\xe4Job'")
        with Control(place.dsn) as control:
            (job,) = control.jobs().jobs
            assert job.type == "My\udce4Job"
            assert control.overview().queues[0].due == 1
            assert control.delete([job.id]).count == 1
