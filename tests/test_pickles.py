"""What is public can be pickled, and what was pickled before the rooms were built can be read."""

from __future__ import annotations

import pickle
from datetime import datetime, timezone

import pytest
from support import needs

import qg

WHEN = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize("package", ["qg", "qg.jobs"])
def test_every_public_name_is_found_again_where_its_pickle_says(package: str) -> None:
    module = needs(package)
    for name in module.__all__:
        thing = getattr(module, name)
        if isinstance(thing, type) or callable(thing):
            assert pickle.loads(pickle.dumps(thing)) == thing, name


@pytest.mark.parametrize(
    ("pickled", "value"),
    [
        (
            b"cqg.stats\nJobStats\n(V\nVMyJob\nI1\nI0\nI0\nI0\ncdatetime\ndatetime\n"
            b"(I2026\nI11\nI25\nI12\nI0\nI0\nI0\ncdatetime\ntimezone\n(cdatetime\ntimedelta\n(I0\nI0\nI0\ntRtRtRtR.",
            qg.JobStats("", "MyJob", 1, 0, 0, 0, WHEN),
        ),
        (b"cqg.tables.table\nPollStrategy\n(Vrun_at, priority, id\ntR.", qg.PollStrategy.RUN_AT),
    ],
    ids=["JobStats", "PollStrategy"],
)
def test_a_value_that_was_pickled_earlier_is_read(pickled: bytes, value: object) -> None:
    assert pickle.loads(pickled) == value


@pytest.mark.parametrize("place", ["qg.errors", "qg.verdicts", "qg.stats", "qg.job", "qg.client", "qg.tables.table"])
def test_the_modules_that_pickles_name_are_where_they_were(place: str) -> None:
    module = needs(place)
    assert module.__name__ == place


def test_errors_and_verdicts_survive_a_pickle() -> None:
    for error in (qg.ErrAgain("call again"), qg.ErrMissingType("no type"), qg.Discard("enough")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))
