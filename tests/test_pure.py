"""What needs no database: delays, and the text of a failure."""

from __future__ import annotations

import traceback
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qg.backoff import MAX_SECONDS, que_delay, reconnect_pause
from qg.failures import PlainFailure, describe
from qg.tables import Statement, iso_text, timestamp
from qg.tables.table import identifier, literal


def test_the_delay_is_that_of_every_que() -> None:
    assert [que_delay(n) for n in (1, 2, 3, 15)] == [4, 19, 84, 50628]


@given(st.integers(1, 2**31))
def test_the_delay_never_leaves_what_a_timestamp_can_bear(error_count: int) -> None:
    assert que_delay(error_count) <= que_delay(error_count + 1) <= MAX_SECONDS


def test_reconnecting_waits_longer_each_time_up_to_the_interval() -> None:
    assert [reconnect_pause(n, 1.0) for n in (1, 2, 3, 4, 5, 6, 1000)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@given(st.integers(1, 10**9), st.floats(0, 1e9))
def test_reconnecting_never_spins_and_never_waits_beyond_half_a_minute(failures: int, interval: float) -> None:
    assert 0.05 <= reconnect_pause(failures, interval) <= 30


def failure(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


def test_a_failure_is_class_and_message_and_then_the_traceback() -> None:
    error = failure(KeyError("x"))
    first, rest = describe(error).split("\n", 1)
    assert first == "KeyError: 'x'"
    assert rest == "".join(traceback.format_exception(error)).rstrip()


class Custom(Exception):
    pass


def test_a_class_is_named_with_its_module_unless_it_is_built_in() -> None:
    assert describe(failure(Custom("x"))).startswith("test_pure.Custom: x\n")


@given(st.text())
def test_the_first_line_is_one_line_of_500_characters_at_most(message: str) -> None:
    first, rest = describe(failure(ValueError(message))).split("\n", 1)
    assert len(first) <= 500
    assert rest.startswith("Traceback") or len(rest) == 10_000


def test_of_a_long_traceback_the_end_is_kept() -> None:
    first, rest = describe(failure(ValueError("a" * 50_000 + "the end"))).split("\n", 1)
    assert (len(first), len(rest)) == (500, 10_000)
    assert rest.endswith("the end")


def test_a_plain_failure_is_its_message() -> None:
    assert describe(failure(PlainFailure("unknown"))) == "unknown"


def test_a_cause_is_part_of_the_traceback() -> None:
    error = ValueError("outer")
    error.__cause__ = failure(KeyError("inner"))
    assert "KeyError: 'inner'" in describe(failure(error))


def test_a_statement_is_prepared_called_and_written_out() -> None:
    statement = Statement("SELECT $1::int, $2::text", name="que_example")
    assert statement.prepare_sql == "PREPARE que_example AS SELECT $1::int, $2::text"
    assert statement.call_sql == "EXECUTE que_example(%s, %s)"
    assert statement.plain_sql == "SELECT (%s)::int, (%s)::text"
    assert Statement("SELECT $1::int").call_sql == "SELECT (%s)::int"


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-11-23T07:04:11+00:00", "2026-11-23T07:04:11+00:00"),
        ("2026-11-23T07:04:11.12-03:30", "2026-11-23T07:04:11.120000-03:30"),
        ("1890-11-23T07:04:11.000001+00:19:32", "1890-11-23T07:04:11.000001+00:19:32"),
    ],
)
def test_a_timestamp_of_postgresql_is_read_on_every_python(text: str, iso: str) -> None:
    assert timestamp(text).isoformat() == iso


def test_a_time_is_written_in_utc_unless_that_is_beyond_datetime() -> None:
    east = timezone(timedelta(hours=20))
    assert iso_text(datetime(2026, 1, 1, tzinfo=east)) == "2025-12-31T04:00:00+00:00"
    assert iso_text(datetime(1, 1, 1, tzinfo=east)) == "0001-01-01T00:00:00+20:00"


@pytest.mark.parametrize(
    ("text", "year"),
    [("infinity", 9999), ("-infinity", 1), ("0044-03-15T00:00:00+00:00 BC", 1), ("12000-01-01T00:00:00+00:00", 9999)],
)
def test_a_timestamp_beyond_datetime_is_the_nearest_one(text: str, year: int) -> None:
    assert timestamp(text).year == year


@given(st.text(min_size=1))
def test_a_quoted_name_has_nothing_that_a_template_or_a_driver_reads(name: str) -> None:
    for quoted in (identifier(name), literal(name)):
        assert not set(quoted[3:-1]) & set("%$:{}\"'")
