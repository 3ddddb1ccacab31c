"""A database with an empty table of the version that a test is for, and a Control on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from outside import Place
from support import eventually

import qg
from qg.control import Control


@pytest.fixture(scope="module")
def _places(make_database: Callable[..., str]) -> Iterator[Callable[[int], Place]]:
    places: dict[int, Place] = {}

    def place(version: int) -> Place:
        if version not in places:
            places[version] = Place(make_database(version=version), version)
        return places[version]

    yield place
    for each in places.values():
        each.close()


@pytest.fixture
def version() -> int:
    """What a test of one version alone gets."""
    return 7


@pytest.fixture
def place(_places: Callable[[int], Place], version: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The test's database; nothing may be left locked in the end, nor a session open."""
    monkeypatch.delenv("QUE_QUEUE", raising=False)
    monkeypatch.delenv("QUE_WAKE_INTERVAL", raising=False)
    place = _places(version)
    place.empty()
    yield place
    eventually(lambda: not place.sessions(), lambda: f"the end of all sessions; left: {place.sessions()}")
    assert place.locks() == []
    place.empty()


@pytest.fixture
def control(place: Place) -> Iterator[Control]:
    with Control(place.dsn, by="ada") as control:
        yield control


@pytest.fixture
def client(place: Place) -> Iterator[qg.Client]:
    with qg.Client(place.dsn) as client:
        yield client


@pytest.fixture
def wide(place: Place, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every table counts as a large one, of which only a part is read."""
    monkeypatch.setattr("qg.control.overview._SMALL_PAGES", -1)
    return None
