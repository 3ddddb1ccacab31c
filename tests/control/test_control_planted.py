"""What others have in a schema of the search_path isn't called by any look, act or check, however well it would fit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta

import pytest
from outside import Place
from planting import plant_in
from support import needs, on_versions

from qg.control import Control, Filter


@on_versions(3, 4, 5, 7)
@pytest.mark.parametrize("large", [False, True])
def test_nothing_that_others_have_planted_is_called(
    make_database: Callable[..., str], version: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("qg.control.overview._SMALL_PAGES", -1)
    with closing(Place(make_database(version=version), version)) as place:
        needs("qg.jobs").migrate(place.dsn)
        for state in ("ready", "scheduled", "failing", "expired"):
            number = place.add(state=state, ahead="1 hour" if state == "scheduled" else "-1 second", args='[{"a": 1}]')
        if version > 3:
            place.register_locker(place.conn.info.backend_pid)
        place.query("SELECT pg_advisory_lock(%s)", (number,))
        with Control(plant_in(place.dsn)) as control:
            assert sum(each.waiting for each in control.overview().queues) == 3
            assert len(control.errors()) == 1
            assert len(control.workers()) == 1
            where = Filter("mail", "MyJob", "expired", "oops", timedelta(0) if version > 3 else None, args={"0.a": 1})
            assert [each.id for each in control.jobs(where).jobs] == [number]
            assert len(control.jobs(order="next").jobs) == (4 if version == 3 else 3)
            assert control.job(number).attempts == ()
            assert (control.history(), control.schedules(), control.pools()) == (([], None), [], [])
            assert control.delete([number]).count == 0
            place.query("SELECT pg_advisory_unlock_all()")
            everything = Filter(everything=True)
            assert control.retry(everything).count == 2
            assert control.reschedule(everything, after=timedelta(hours=1)).count == 4
            assert control.run_now(everything).count == 4
            assert control.set_priority(everything, 5).count == 4
            assert control.move(everything, "other", even_if_unknown=True).count == 4
            assert control.expire(everything).count == 4
            control.pause("other")
            assert [each.queue for each in control.pauses()] == ["other"]
            assert control.resume("other")
            assert {each.check for each in control.doctor()} <= {"wakeups", "jit", "locks"}
            assert control.delete(everything).count == 4
