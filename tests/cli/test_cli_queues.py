"""qg pause, resume, queues."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from outside import Place, locked_by_others
from support import VERSION


def test_a_queue_is_paused_and_resumed(qg: Any, place: Place) -> None:
    place.add()
    assert qg("pause", "mail", "--reason", "no server", "--by", "ada").stdout == (
        "queue 'mail' is paused until qg resume\n"
    )
    (queue,) = map(json.loads, qg("queues", "--json").stdout.splitlines())
    assert (queue["status"], queue["pause"]["by"], queue["pause"]["reason"]) == ("paused", "ada", "no server")
    listed = qg("queues").stdout.splitlines()[1]
    assert listed.startswith("mail   paused        0        1  20")
    assert listed.endswith("  ada  no server")
    assert qg("resume", "mail").stdout == "queue 'mail' is worked again\n"
    assert qg("resume", "mail", status=1).stdout == "queue 'mail' wasn't paused\n"
    assert qg("queues", "--quiet").stdout == "mail\n"


def test_a_pause_for_a_time(qg: Any, place: Place) -> None:
    place.add()
    pause = json.loads(qg("pause", "mail", "--for", "2h", "--json").stdout)
    left = datetime.fromisoformat(pause["until"]) - datetime.now(timezone.utc)
    assert timedelta(minutes=119) < left < timedelta(minutes=121)
    assert "is paused until 2100-01-01 00:00:00" in qg("pause", "mail", "--until", "2100-01-01").stdout
    assert "not both" in qg("pause", "mail", "--until", "2100-01-01", "--for", "2h", status=2).stderr
    assert "is past by the database's clock" in qg("pause", "mail", "--until", "2000-01-01", status=2).stderr


def test_a_queue_that_is_yet_to_come_can_be_paused(qg: Any) -> None:
    qg("pause", "new", "--even-if-unknown")
    assert qg("queues", "--quiet").stdout == "new\n"


@pytest.mark.skipif(VERSION == 3, reason="version 3 has no lockers")
def test_who_works_a_paused_queue_all_the_same_is_told_with_exit_status_1(qg: Any, place: Place) -> None:
    place.add()
    with locked_by_others(place):
        result = qg("pause", "mail", status=1)
    assert result.stderr == "Stop this one yourself: pid 41 on web-2 works it and doesn't know of pauses.\n"


def test_without_the_table_of_pauses_it_is_exit_status_2_with_the_remedy(qg: Any, place: Place) -> None:
    place.add()
    place.query("ALTER TABLE qg_queues RENAME TO gone")
    try:
        result = qg("pause", "mail", status=2)
        assert "there is no table qg_queues" in result.stderr
        assert "qg schema install, as the owner of que_jobs" in result.stderr
    finally:
        place.query("ALTER TABLE gone RENAME TO qg_queues")
