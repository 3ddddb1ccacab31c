"""Pausing: where a pause is kept, who is told, what becomes of it when the table is migrated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone

import psycopg2
import pytest
from granting import grants, role_of, role_with, shut_out_public
from outside import Place, locked_by_others
from psycopg2.extensions import make_dsn
from support import eventually, lease, on_versions, table_of

import qg
from qg.control import Control
from qg.database.paused import PausedQueues
from qg.database.session import Session
from qg.tables import Statement

every_version = on_versions(3, 4, 5, 6, 7)
old_and_new = on_versions(3, 7)
TOMORROW = datetime.now(timezone.utc) + timedelta(days=1)


@every_version
def test_a_pause_says_who_made_it_when_and_why_until_it_is_resumed(place: Place, control: Control) -> None:
    place.add()
    pause = control.pause("mail", until=TOMORROW, reason="the mail server is down", by="bob")
    assert (pause.queue, pause.until, pause.reason, pause.by) == ("mail", TOMORROW, "the mail server is down", "bob")
    assert abs(pause.since - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert control.pauses() == [pause]
    (mail,) = control.overview().queues
    assert (mail.pause, mail.status) == (pause, "paused")
    again = control.pause("mail")
    assert (again.until, again.reason, again.by) == (None, "", "ada")
    assert control.pauses() == [again]
    assert control.resume("mail")
    assert control.pauses() == []
    assert not control.resume("mail")


@old_and_new
def test_a_pause_whose_time_is_up_is_none(place: Place, control: Control) -> None:
    place.add()
    with pytest.raises(qg.ErrInvalidOption, match="is past by the database's clock, so nothing is paused"):
        control.pause("mail", until=datetime(2020, 1, 1, tzinfo=timezone.utc))
    assert control.pauses() == []
    assert place.query("SELECT * FROM qg_queues") == []


def test_an_answer_names_who_doesnt_know_of_pauses(place: Place, control: Control, client: qg.Client) -> None:
    numbers = [place.add(), place.add(queue="other")]
    with (
        locked_by_others(place, name="bin/que"),
        locked_by_others(place, numbers[0], name="que-go", registered=False) as go,
        locked_by_others(place, numbers[1], name="que-go", registered=False),
        qg.WorkerPool(client, {}, 1, queue="idle", interval=3600),
    ):
        pause = control.pause("mail")
        assert sorted(pause.others) == [
            "pid 41 on web-2 works it and doesn't know of pauses",
            f"session {go.info.backend_pid} (que-go) works it and doesn't know of pauses",
        ]
        eventually(lambda: "idle" in control.queues())
        assert control.pause("idle").others == ()


@every_version
def test_without_its_table_a_pause_is_refused_with_the_remedy(make_database: Callable[..., str], version: int) -> None:
    with closing(Place(make_database(version=version), version)) as place:
        place.add()
        place.query("DROP TABLE qg_queues")
        with Control(place.dsn) as control:
            for deed in (control.pause, control.resume):
                with pytest.raises(qg.ErrTable, match=r"there is no table qg_queues .* create it with qg\.migrate"):
                    deed("mail")
            assert control.pauses() == []
            assert control.overview().queues[0].pause is None
            qg.migrate(place.dsn)
            control.pause("mail")
            assert len(control.pauses()) == 1


# The table


@pytest.fixture
def fresh(make_database: Callable[..., str]) -> Iterator[Place]:
    with closing(Place(make_database(migrate=False), 3)) as place:
        yield place


def test_migrating_makes_the_table_of_pauses_beside_one_that_others_made(fresh: Place) -> None:
    qg.migrate(fresh.dsn, 7)
    fresh.query("DROP TABLE qg_queues")  # as if Ruby had made the rest
    before = fresh.query("SELECT relfilenode FROM pg_class WHERE relname = 'que_jobs'")
    qg.migrate(fresh.dsn)
    assert fresh.value("SELECT count(*) FROM qg_queues") == 0
    assert fresh.query("SELECT relfilenode FROM pg_class WHERE relname = 'que_jobs'") == before


@pytest.mark.parametrize(("version", "is_there"), [(0, False), (1, False), (2, False), (3, True), (4, True), (7, True)])
def test_it_is_there_where_there_are_queues(fresh: Place, version: int, is_there: bool) -> None:
    qg.migrate(fresh.dsn, 7)
    qg.migrate(fresh.dsn, version)
    assert bool(fresh.query("SELECT to_regclass('qg_queues')::text")[0][0]) is is_there
    qg.migrate(fresh.dsn, 7)
    assert fresh.value("SELECT count(*) FROM qg_queues") == 0


def test_the_queue_without_a_name_stays_paused_when_it_gets_one_and_loses_it(fresh: Place) -> None:
    qg.migrate(fresh.dsn, 3)
    with Control(fresh.dsn) as control:
        control.pause("", even_if_unknown=True, reason="first")
        control.pause("mail", even_if_unknown=True)
        for version, name in ((7, "default"), (3, "")):
            qg.migrate(fresh.dsn, version)
            assert {each.queue: each.reason for each in control.pauses()} == {name: "first", "mail": ""}
        control.pause("default", even_if_unknown=True, reason="second")
        qg.migrate(fresh.dsn, 4)
        assert {each.queue: each.reason for each in control.pauses()} == {"default": "second", "mail": ""}
        qg.migrate(fresh.dsn, 3)
        assert {each.queue: each.reason for each in control.pauses()} == {"": "second", "mail": ""}


def test_a_pause_that_ruby_has_taken_along_is_seen_and_ends(place: Place, control: Control) -> None:
    place.query("INSERT INTO qg_queues (queue) VALUES (''), ('mail')")
    assert [each.queue for each in control.pauses()] == ["default", "mail"]
    assert control.resume("default")
    assert place.query("SELECT queue FROM qg_queues") == [("mail",)]


@old_and_new
def test_who_doesnt_own_the_jobs_makes_no_table_beside_them(make_database: Callable[..., str], version: int) -> None:
    with closing(Place(make_database(version=version), version)) as place:
        place.query("DROP TABLE qg_queues")
        may_create = ["GRANT USAGE, CREATE ON SCHEMA public TO app", "GRANT SELECT ON que_jobs TO app"]
        for statements in (may_create, may_create[1:]):
            with role_with(place, statements) as dsn:
                qg.migrate(dsn)
                assert place.query("SELECT to_regclass('qg_queues')::text") == [(None,)]
        qg.migrate(make_dsn(place.dsn, options="-c default_transaction_read_only=on"))
        assert place.query("SELECT to_regclass('qg_queues')::text") == [(None,)]
        qg.migrate(place.dsn)
        assert place.query("SELECT to_regclass('qg_queues')::text") == [("qg_queues",)]


@pytest.mark.parametrize("who", ["a superuser", "a member"])
def test_it_belongs_to_the_owner_of_the_jobs_whoever_makes_it(fresh: Place, who: str) -> None:
    create = ["GRANT USAGE, CREATE ON SCHEMA public TO app"]
    with role_with(fresh, create) as owner, role_with(fresh, [*create, f"GRANT {role_of(owner)} TO app"]) as member:
        qg.migrate(owner, 3)
        fresh.query("DROP TABLE qg_queues")
        qg.migrate(fresh.dsn if who == "a superuser" else member)
        assert fresh.value("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'qg_queues'") == role_of(owner)
        for version in (7, 3, 0):
            qg.migrate(owner, version)


def test_a_member_who_cant_give_it_to_the_owner_makes_none(fresh: Place) -> None:
    """Who owns a table must be one who may create there, at the moment of the gift."""
    create = ["GRANT USAGE, CREATE ON SCHEMA public TO app"]
    with role_with(fresh, create) as owner, role_with(fresh, [*create, f"GRANT {role_of(owner)} TO app"]) as member:
        qg.migrate(owner, 3)
        fresh.query(f"DROP TABLE qg_queues; REVOKE CREATE ON SCHEMA public FROM {role_of(owner)}")
        qg.migrate(member)
        assert fresh.query("SELECT to_regclass('qg_queues')::text") == [(None,)]


def test_it_stands_in_the_schema_of_the_jobs_whatever_that_is_called(fresh: Place) -> None:
    fresh.query('CREATE SCHEMA "My ""s$chema"')
    dsn = make_dsn(fresh.dsn, options='-c search_path="My\\ ""s$chema",public')
    for version in (3, 7, 3):
        qg.migrate(dsn, version)
    with Control(dsn) as control:
        control.pause("mail", even_if_unknown=True)
        assert [each.queue for each in control.pauses()] == ["mail"]
    assert fresh.value('SELECT count(*) FROM "My ""s$chema".qg_queues') == 1


# What workers look at


@pytest.fixture
def session(client: qg.Client) -> Iterator[Session]:
    session = lease(client)
    yield session
    session.close_now()


def test_paused_queues_are_looked_up_now_and_then_and_known_meanwhile(
    control: Control, client: qg.Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("qg.database.paused.time.monotonic", lambda: now[0])
    paused, table = PausedQueues(client.logger), table_of(client)
    assert paused.overdue
    paused.look(session, table)
    assert not paused.overdue
    control.pause("", even_if_unknown=True)
    assert not paused.has("", table)
    now[0] += 1.6
    assert paused.overdue
    paused.look(session, table)
    assert paused.has("", table)
    assert paused.has("default", table)
    assert not paused.has("mail", table)
    assert not paused.overdue
    paused.look(session, table)
    paused.look_soon()
    assert paused.overdue
    control.resume("")
    paused.look(session, table)
    assert not paused.has("", table)


def test_a_pause_ends_by_itself_when_its_time_is_up(
    place: Place, control: Control, client: qg.Client, session: Session
) -> None:
    paused, table = PausedQueues(client.logger), table_of(client)
    control.pause("mail", until=TOMORROW, even_if_unknown=True)
    paused.look(session, table)
    assert paused.has("mail", table)
    place.query("UPDATE qg_queues SET paused_until = now()")
    paused.look_soon()
    paused.look(session, table)
    assert not paused.has("mail", table)


@old_and_new
def test_who_may_not_look_says_so_once_with_the_grant_and_looks_again(
    make_database: Callable[..., str], version: int, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Place(make_database(version=version), version)) as place:
        shut_out_public(place)
        work = [each for each in grants("Who works", version) if "qg_queues" not in each]
        with role_with(place, work) as dsn, qg.Client(dsn) as client, Control(place.dsn) as control:
            control.pause("mail", even_if_unknown=True)
            session, table = lease(client), table_of(client)
            paused = PausedQueues(client.logger)
            for _ in range(2):
                paused.look_soon()
                paused.look(session, table)
            (line,) = [each.getMessage() for each in caplog.records if each.getMessage().startswith("pauses_unseen")]
            assert line == (
                "pauses_unseen: permission denied for table public.qg_queues; who works here goes on when a queue is "
                f"paused; GRANT SELECT ON public.qg_queues TO {role_of(dsn)}"
            )
            place.query(f"GRANT SELECT ON qg_queues TO {role_of(dsn)}")
            paused.look_soon()
            paused.look(session, table)
            assert paused.has("mail", table)
            place.query(f"REVOKE SELECT ON qg_queues FROM {role_of(dsn)}")
            paused.look_soon()
            paused.look(session, table)
            assert not paused.has("mail", table)
            session.give_back()


def test_without_the_table_nothing_is_paused_and_it_is_found_when_it_comes(
    make_database: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Place(make_database(version=7), 7)) as place, qg.Client(place.dsn) as client:
        paused, session, table = PausedQueues(client.logger), lease(client), table_of(client)
        paused.look(session, table)
        place.query("DROP TABLE qg_queues")
        for _ in range(2):
            paused.look_soon()
            paused.look(session, table)
        qg.migrate(place.dsn)
        with Control(place.dsn) as control:
            control.pause("mail", even_if_unknown=True)
        paused.look_soon()
        paused.look(session, table)
        assert paused.has("mail", table)
        assert "pauses_unseen" not in caplog.text
        session.give_back()


@every_version
def test_a_look_waits_for_nobody_who_has_locked_the_table(
    place: Place, control: Control, client: qg.Client, session: Session
) -> None:
    """The session may hold the locks of a hundred jobs, and is given up when it waits for too long."""
    paused, table = PausedQueues(client.logger), table_of(client)
    control.pause("mail", even_if_unknown=True)
    paused.look(session, table)
    with closing(place.connect()) as conn:
        conn.cursor().execute("LOCK TABLE qg_queues")
        paused.look_soon()
        paused.look(session, table)
        assert paused.has("mail", table)
        assert not paused.overdue
        conn.rollback()
    assert session.run(Statement("SHOW lock_timeout")) == [("0",)]
    control.resume("mail")
    paused.look_soon()
    paused.look(session, table)
    assert not paused.has("mail", table)


def test_nobody_waits_for_long_while_another_thread_looks(client: qg.Client, session: Session) -> None:
    paused, table = PausedQueues(client.logger), table_of(client)
    with paused._mutex:
        paused.look(session, table)  # the first look of all, which is waited for a moment
        assert paused.overdue
    paused.look(session, table)
    paused.look_soon()
    with paused._mutex:
        paused.look(session, table)
        assert paused.overdue


def test_what_is_told_during_a_look_is_looked_at_afterwards(
    client: qg.Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, table = PausedQueues(client.logger), table_of(client)
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *given: (run(*given), paused.look_soon())[0])
    paused.look(session, table)
    assert paused.overdue
    monkeypatch.undo()
    paused.look(session, table)
    assert not paused.overdue


def test_a_session_that_fails_says_so(client: qg.Client, place: Place) -> None:
    session = lease(client)
    place.terminate(session.conn.info.backend_pid)
    with pytest.raises(psycopg2.OperationalError):
        PausedQueues(client.logger).look(session, table_of(client))
    session.close_now()
