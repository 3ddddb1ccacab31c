"""What a role must be granted for qg.control, what is said if it isn't, and that docs/reliability.md grants that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta

import pytest
from granting import each_left_out, grants, role_of, role_with, shut_out_public
from outside import Place
from support import VERSIONS, needs, on_versions

import qg
from qg.control import Control, Filter

LOOKS = ("Who looks", "Who looks with qg.control")
ACTS = (*LOOKS, "Who acts with qg.control")
PAUSES = (*LOOKS, "Who pauses queues")
# PostgreSQL's own, without which there is only less to see.
STATS = "GRANT pg_read_all_stats TO app_viewer"
every_version = on_versions(3, 4, 5, 6, 7)
some_versions = [each for each in (3, 7) if each in VERSIONS]


@pytest.fixture(scope="module")
def _strict_places(make_database: Callable[..., str]) -> Iterator[Callable[[int], Place]]:
    places: dict[int, Place] = {}
    jobs = needs("qg.jobs")

    def strict_place(version: int) -> Place:
        if version not in places:
            places[version] = Place(make_database(version=version), version)
            jobs.migrate(places[version].dsn)
            shut_out_public(places[version])
        return places[version]

    yield strict_place
    for each in places.values():
        each.close()


@pytest.fixture
def strict(_strict_places: Callable[[int], Place], version: int) -> Place:
    """A database in which PUBLIC may do nothing, with the tables of qg.jobs and a job of each state."""
    strict = _strict_places(version)
    strict.empty()
    for state in ("ready", "failing", "expired"):
        strict.add(state=state)
    return strict


def every_grant(headings: tuple[str, ...], version: int) -> list[str]:
    return list(dict.fromkeys(each for heading in headings for each in grants(heading, version)))


def rows(place: Place) -> list[tuple[object, ...]]:
    return place.query("SELECT to_jsonb(que_jobs)::text FROM que_jobs ORDER BY 1")


def look(control: Control) -> None:
    """All there is to look at."""
    control.overview()
    control.jobs()
    control.job(1)
    control.workers()
    control.errors()
    control.queues()
    control.history()
    control.schedules()
    control.pools()
    control.pauses()


def act(control: Control) -> None:
    """All there is to do to jobs."""
    everything = Filter(everything=True)
    control.retry(everything)
    control.reschedule(everything, after=timedelta(hours=1))
    control.run_now(everything)
    control.set_priority(everything, 5)
    control.move(everything, "other", even_if_unknown=True)
    control.expire(everything)
    assert control.delete(everything).count == 3


def pause(control: Control) -> None:
    control.pause("mail")
    control.pause("mail", reason="again")
    control.resume("mail")


@every_version
@pytest.mark.parametrize(
    ("headings", "deed"), [(LOOKS, look), (ACTS, act), (PAUSES, pause)], ids=["looks", "acts", "pauses"]
)
def test_the_grants_are_enough(
    strict: Place, version: int, headings: tuple[str, ...], deed: Callable[[Control], None]
) -> None:
    with role_with(strict, every_grant(headings, version)) as dsn, Control(dsn) as control:
        deed(control)


def refused(dsn: str, deed: Callable[[Control], None], missing: str) -> str:
    """What is raised by *deed* without the grant *missing*."""
    with pytest.raises((qg.ErrRights, qg.ErrTable)) as error, Control(dsn) as control:
        deed(control)
    # Without USAGE, no table is found.
    assert isinstance(error.value, qg.ErrRights) or "SCHEMA" in missing
    return str(error.value)


@each_left_out(*LOOKS, versions=VERSIONS)
def test_who_looks_needs_each_of_them_and_is_told_which(strict: Place, every: list[str], missing: str) -> None:
    if missing == STATS:
        pytest.skip("only shows more")
    left = [each for each in dict.fromkeys(every) if each != missing]
    with role_with(strict, left) as dsn:
        message = refused(dsn, look, missing)
        if "SCHEMA" not in missing:
            assert ", so not all can be seen; GRANT " in message
            strict.query(message[message.index("GRANT ") :])
            with Control(dsn) as control:
                look(control)


@each_left_out(*ACTS, versions=some_versions)
def test_who_acts_needs_each_of_them_and_is_told_which(strict: Place, every: list[str], missing: str) -> None:
    if missing == STATS or "qg_queues" in missing or "qg_jobs_" in missing:
        pytest.skip("is for looking")
    left = [each for each in dict.fromkeys(every) if each != missing]
    before = rows(strict)
    with role_with(strict, left) as dsn:
        message = refused(dsn, act, missing)
        assert rows(strict) == before
        if "SCHEMA" not in missing:
            assert f"; GRANT {missing.removeprefix('GRANT ').partition(' ')[0]}" in message
            strict.query(message[message.index("GRANT ") :])


@each_left_out(*PAUSES, versions=some_versions)
def test_who_pauses_needs_each_of_them_and_is_told_which(strict: Place, every: list[str], missing: str) -> None:
    if "qg_queues" not in missing:
        pytest.skip("is for looking")
    left = [each for each in dict.fromkeys(every) if each != missing]
    with role_with(strict, left) as dsn:
        message = refused(dsn, pause, missing)
        if " DELETE " not in missing:  # resuming alone takes that
            assert strict.query("SELECT * FROM qg_queues") == []
        assert " on public.qg_queues" in message
        assert message.endswith(f"ON public.qg_queues TO {role_of(dsn)}")


@each_left_out("Who enqueues", versions=some_versions)
def test_who_enqueues_needs_each_of_them_and_can_be_told_which(strict: Place, every: list[str], missing: str) -> None:
    with role_with(strict, every) as dsn, Control(dsn) as control:
        control.require_rights_to_enqueue()
    left = [each for each in dict.fromkeys(every) if each != missing]
    with role_with(strict, left) as dsn:
        message = refused(dsn, lambda control: control.require_rights_to_enqueue(), missing)
        if "SCHEMA" not in missing:
            strict.query(message[message.index("GRANT ") :])
            with qg.Client(dsn) as client:
                client.enqueue(qg.Job("MyJob", tags=[] if strict.version == 3 else ["a"]))


@on_versions(7)
def test_who_may_not_see_who_works_pauses_nothing(strict: Place, version: int) -> None:
    left = [each for each in every_grant(PAUSES, version) if "que_lockers" not in each]
    with role_with(strict, left) as dsn, Control(dsn) as control, pytest.raises(qg.ErrRights, match="que_lockers"):
        control.pause("mail", even_if_unknown=True)
    assert strict.query("SELECT * FROM qg_queues") == []


@on_versions(7)
def test_a_right_that_is_taken_away_in_the_middle_is_said_with_what_is_done(
    strict: Place, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qg.control.acting._BATCH", 1)
    message = "may not DELETE on .*, so the other jobs stay as they are; GRANT"
    with role_with(strict, every_grant(ACTS, version)) as dsn, Control(dsn) as control:
        revoke = f"REVOKE DELETE ON que_jobs FROM {role_of(dsn)}"
        with pytest.raises(qg.ErrRights, match=message):
            control.delete(Filter(everything=True), progress=lambda report: strict.query(revoke))
    assert strict.count() == 2


@on_versions(3, 7)
def test_an_action_that_isnt_allowed_changes_nothing_and_locks_nothing(strict: Place, version: int) -> None:
    before = rows(strict)
    with role_with(strict, every_grant(LOOKS, version)) as dsn, Control(dsn) as control:
        with pytest.raises(
            qg.ErrRights, match=r"may not UPDATE, DELETE on .*, so the jobs stay as they are; GRANT UPDATE, DELETE"
        ):
            control.retry(Filter(everything=True))
        assert control.retry(Filter(everything=True), dry_run=True).count == 2
        with pytest.raises(qg.ErrRights, match="so the queue 'mail' isn't paused; GRANT"):
            control.pause("mail")
    assert rows(strict) == before
    assert strict.locks() == []


@on_versions(3, 7)
def test_grants_on_columns_are_enough_to_act(strict: Place, version: int) -> None:
    from qg.tables import table_in
    from qg.tables.rights import to_act

    columns = [
        f"GRANT {right.privilege} ({', '.join(right.columns)}) ON que_jobs TO app"
        for right in to_act(table_in("public", version))
        if right.columns
    ]
    kept = [each for each in every_grant(ACTS, version) if "public.que_jobs TO" not in each or "DELETE" in each]
    with role_with(strict, [*kept, *columns]) as dsn, Control(dsn) as control:
        act(control)


def test_without_the_tables_of_qg_jobs_nobody_needs_rights_on_them(make_database: Callable[..., str]) -> None:
    with closing(Place(make_database(version=7), 7)) as place:
        shut_out_public(place)
        some = [each for each in every_grant(LOOKS, 7) if "qg_jobs_" not in each]
        place.add()
        with role_with(place, some) as dsn, Control(dsn) as control:
            control.overview()
            control.job(1)
            control.queues()
            for deed in (control.history, control.schedules, control.pools):
                with pytest.raises(
                    qg.ErrTable, match=r"no tables of qg\.jobs .*; qg\.jobs\.migrate\(source\) makes them"
                ):
                    deed()
