"""Jobs of ActiveJob. What is well formed here was seen written by Rails 6.1, or is by the source of later ones."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qg.activejob import WRAPPER, ActiveJob, GlobalID, Serialized, Symbol, parse
from qg.errors import ErrInvalidJob
from qg.job import Job

PAYLOAD = {
    "job_class": "ChargeJob",
    "job_id": "3e2f0b57-0e23-42a4-98d1-68d36ebc944e",
    "provider_job_id": None,
    "queue_name": "python",
    "priority": 5,
    "arguments": [1, "a", None],
    "executions": 2,
    "exception_executions": {"[Timeout::Error]": 2},
    "locale": "en",
    "timezone": "America/New_York",
    "enqueued_at": "2026-11-23T16:00:18.123456789Z",
    "scheduled_at": "2026-11-24T16:00:18.000000000Z",
}


def wrapped(**changes: Any) -> Job:
    return Job(WRAPPER, [{**PAYLOAD, **changes}])


def arguments(*given: Any) -> list[Any]:
    return parse(wrapped(arguments=list(given))).arguments


def argument(given: Any) -> Any:
    return arguments(given)[0]


def serialized(serializer: str, **fields: Any) -> dict[str, Any]:
    return {"_aj_serialized": f"ActiveJob::Serializers::{serializer}", **fields}


def test_class_id_arguments_and_the_rest_are_told() -> None:
    assert parse(wrapped()) == ActiveJob(
        job_class="ChargeJob",
        job_id="3e2f0b57-0e23-42a4-98d1-68d36ebc944e",
        arguments=[1, "a", None],
        kwargs={},
        queue_name="python",
        priority=5,
        executions=2,
        locale="en",
        timezone="America/New_York",
        enqueued_at=datetime(2026, 11, 23, 16, 0, 18, 123456, timezone.utc),
        scheduled_at=datetime(2026, 11, 24, 16, 0, 18, 0, timezone.utc),
    )


def test_what_an_old_rails_leaves_out_is_none() -> None:
    old = {"job_class": "ChargeJob", "job_id": "3e2f", "queue_name": "default", "arguments": []}
    assert parse(Job(WRAPPER, [old])) == ActiveJob("ChargeJob", "3e2f", queue_name="default")


def test_a_later_rails_may_add_what_it_likes() -> None:
    assert parse(wrapped(concurrency={"key": 1})) == parse(wrapped())


def test_the_object_may_stand_without_its_array() -> None:
    assert parse(Job(WRAPPER, PAYLOAD)) == parse(Job(WRAPPER, [PAYLOAD]))


def test_the_job_stays_as_it_was() -> None:
    job = wrapped(arguments=[{"a": [{"_aj_globalid": "gid://shop/Order/1"}], "_aj_symbol_keys": ["a"]}])
    before = copy.deepcopy(job.args)
    parse(job)
    assert job.args == before


def test_keyword_arguments_are_told_from_positional_ones() -> None:
    task = parse(
        wrapped(
            arguments=[1, {"x": 1, "y": serialized("SymbolSerializer", value="z"), "_aj_ruby2_keywords": ["x", "y"]}]
        )
    )
    assert task.arguments == [1]
    assert task.kwargs == {"x": 1, "y": Symbol("z")}


def test_a_hash_that_comes_last_is_no_keyword_arguments() -> None:
    task = parse(wrapped(arguments=[{"x": 1, "_aj_symbol_keys": ["x"]}]))
    assert (task.arguments, task.kwargs) == ([{"x": 1}], {})


def test_keyword_arguments_of_a_call_inside_the_arguments_are_a_dict() -> None:
    # As of a mail: MailDeliveryJob hands on the arguments of the mailer's method.
    inner = [1, {"cc": "x", "_aj_ruby2_keywords": ["cc"]}]
    mail = ["Mailer", "welcome", "deliver_now", {"args": inner, "_aj_ruby2_keywords": ["args"]}]
    assert parse(wrapped(arguments=mail)).kwargs == {"args": [1, {"cc": "x"}]}
    assert arguments({"cc": "x", "_aj_ruby2_keywords": ["cc"]}, 1) == [{"cc": "x"}, 1]


def test_a_handler_can_be_called_with_what_comes_out() -> None:
    def charge(order: GlobalID, *, currency: str) -> str:
        return f"{order.model} {order.id} {currency}"

    keywords = {"currency": "EUR", "_aj_ruby2_keywords": ["currency"]}
    task = parse(wrapped(arguments=[{"_aj_globalid": "gid://shop/Order/42"}, keywords]))
    assert charge(*task.arguments, **task.kwargs) == "Order 42 EUR"


def test_hashes_lose_their_markers_at_any_depth() -> None:
    assert argument({"a": 1, "b": {"c": 2, "_aj_symbol_keys": ["c"]}, "_aj_symbol_keys": ["b"]}) == {
        "a": 1,
        "b": {"c": 2},
    }
    assert argument([{"a": [{"_aj_symbol_keys": []}], "_aj_hash_with_indifferent_access": True}]) == [{"a": [{}]}]


@pytest.mark.parametrize(
    ("uri", "model", "record", "params"),
    [
        ("gid://shop/Order/1", "Order", "1", {}),
        ("gid://shop/Admin::User/1", "Admin::User", "1", {}),
        ("gid://shop/Model/John+Doe-Smith%2FJones+%C3%A9", "Model", "John Doe-Smith/Jones é", {}),
        ("gid://shop/Order/3?db=a+b&n&db=c%26", "Order", "3", {"db": "c&", "n": ""}),
        ("gid://shop/Route/Ottawa/New+York%2F1", "Route", ("Ottawa", "New York/1"), {}),
    ],
)
def test_a_global_id_is_read(uri: str, model: str, record: str | tuple[str, ...], params: dict[str, str]) -> None:
    assert argument({"_aj_globalid": uri}) == GlobalID(uri, "shop", model, record, params)


def test_a_global_id_can_be_a_key() -> None:
    one, same, other = arguments(*({"_aj_globalid": f"gid://shop/Order/{n}?x=1"} for n in (1, 1, 2)))
    assert len({one: "", same: "", other: ""}) == 2


def test_only_the_marker_alone_makes_a_global_id() -> None:
    for plain in ("gid://shop/Order/1", {"_aj_globalid": "gid://shop/Order/1", "a": 1}):
        assert argument(plain) == plain


def test_a_symbol_is_a_string_that_shows_itself_as_ruby_does() -> None:
    symbol = argument(serialized("SymbolSerializer", value="paid"))
    assert symbol == "paid"
    assert type(symbol) is Symbol
    assert (repr(symbol), f"{symbol}", json.dumps(symbol)) == (":paid", "paid", '"paid"')
    assert type(pickle.loads(pickle.dumps(symbol))) is Symbol


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (serialized("DateSerializer", value="2026-01-02"), date(2026, 1, 2)),
        (serialized("BigDecimalSerializer", value="1.50"), Decimal("1.50")),
        (serialized("BigDecimalSerializer", value="0.15e1"), Decimal("1.5")),
        (serialized("BigDecimalSerializer", value="-Infinity"), Decimal("-Infinity")),
    ],
)
def test_what_python_has_a_counterpart_for_is_that(given: Any, value: Any) -> None:
    assert argument(given) == value
    assert type(argument(given)) is type(value)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2023-11-14T22:13:20.123456789+00:00", "2023-11-14T22:13:20.123456+00:00"),
        ("2023-11-14T22:13:20.999999999Z", "2023-11-14T22:13:20.999999+00:00"),
        ("2026-07-01T12:00:00.5-04:00", "2026-07-01T12:00:00.500000-04:00"),
        ("2026-07-01T12:00:00Z", "2026-07-01T12:00:00+00:00"),
        ("2026-07-01T12:00:00+05:30", "2026-07-01T12:00:00+05:30"),
    ],
)
@pytest.mark.parametrize("serializer", ["TimeSerializer", "DateTimeSerializer", "TimeWithZoneSerializer"])
def test_a_time_is_aware_and_cut_to_microseconds(serializer: str, text: str, iso: str) -> None:
    assert argument(serialized(serializer, value=text, time_zone="America/New_York")).isoformat() == iso


@given(
    st.datetimes(timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))),
    st.integers(0, 999),
)
def test_every_time_comes_out_but_for_its_nanoseconds(time: datetime, nanoseconds: int) -> None:
    seconds, offset = time.isoformat("T", "microseconds")[:26], time.isoformat()[-6:]
    assert argument(serialized("TimeSerializer", value=f"{seconds}{nanoseconds:03}{offset}")) == time


def test_what_python_has_no_counterpart_for_comes_with_its_fields() -> None:
    month = serialized("SymbolSerializer", value="months")
    duration = argument(serialized("DurationSerializer", value=2629746, parts=[[month, 1]]))
    assert duration == Serialized(
        "ActiveJob::Serializers::DurationSerializer", {"value": 2629746, "parts": [[Symbol("months"), 1]]}
    )
    day = serialized("DateSerializer", value="2026-01-02")
    days = argument(serialized("RangeSerializer", begin=day, end=None, exclude_end=False))
    assert days.fields == {"begin": date(2026, 1, 2), "end": None, "exclude_end": False}
    assert argument(serialized("ModuleSerializer", value="Admin::User")).fields == {"value": "Admin::User"}


def test_what_an_application_serializes_itself_comes_with_its_fields() -> None:
    money = {"_aj_serialized": "MoneySerializer", "amount": {"cents": 5, "_aj_symbol_keys": ["cents"]}}
    assert argument(money) == Serialized("MoneySerializer", {"amount": {"cents": 5}})


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        ("DateSerializer", "12000-01-02"),
        ("DateSerializer", "-0001-01-01"),
        ("TimeSerializer", "12000-01-01T00:00:00.000000000Z"),
        ("TimeSerializer", "2026-06-30T23:59:60Z"),
        ("TimeSerializer", "2026-06-30T23:59:59"),
        ("TimeSerializer", "2026-06-30T23:59:59Z or so"),
        ("BigDecimalSerializer", "1e1000000000000000000000"),
        ("SymbolSerializer", None),
    ],
)
def test_what_pythons_type_cannot_hold_stays_unread(serializer: str, value: Any) -> None:
    unread = Serialized(f"ActiveJob::Serializers::{serializer}", {"value": value})
    assert argument(serialized(serializer, value=value)) == unread


def test_the_arguments_are_not_in_the_repr() -> None:
    task = parse(wrapped(arguments=["secret", {"x": "secret", "_aj_ruby2_keywords": ["x"]}]))
    assert "ChargeJob" in repr(task)
    assert "secret" not in repr(task)


def test_a_job_of_another_type_is_refused() -> None:
    with pytest.raises(
        ErrInvalidJob, match=r"Job\(.*'ChargeJob'.* is no job of ActiveJob; parse\(\) takes only .*Wrapper"
    ):
        parse(Job("ChargeJob", [PAYLOAD]))


@pytest.mark.parametrize("args", [None, "secret", [], ["secret"], [PAYLOAD, PAYLOAD], [[PAYLOAD]], b"[{}]"])
def test_args_that_are_not_one_object_are_refused(args: Any) -> None:
    with pytest.raises(ErrInvalidJob, match="its args aren't one object; enqueue it through ActiveJob"):
        parse(Job(WRAPPER, args))


@pytest.mark.parametrize("key", ["job_class", "job_id", "arguments"])
def test_what_every_rails_writes_must_be_there(key: str) -> None:
    with pytest.raises(ErrInvalidJob, match=f"it has no '{key}'"):
        parse(Job(WRAPPER, [{name: value for name, value in PAYLOAD.items() if name != key}]))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"job_class": ["secret"]}, "its 'job_class' is of type list, not str"),
        ({"job_id": 5}, "its 'job_id' is of type int, not str"),
        ({"arguments": {"secret": 1}}, "its 'arguments' is of type dict, not list"),
        ({"queue_name": 5}, "its 'queue_name' is of type int, not str"),
        ({"priority": "secret"}, "its 'priority' is of type str, not int"),
        ({"executions": 1.5}, "its 'executions' is of type float, not int"),
        ({"locale": 5}, "its 'locale' is of type int, not str"),
        ({"timezone": 5}, "its 'timezone' is of type int, not str"),
        ({"enqueued_at": "secret"}, "its 'enqueued_at' is no time with a zone in ISO 8601"),
        ({"scheduled_at": "2026-13-01T00:00:00Z"}, "its 'scheduled_at' is no time with a zone in ISO 8601"),
        ({"arguments": [{"_aj_globalid": "secret"}]}, "a GlobalID in its arguments isn't of the form gid://"),
        ({"arguments": [[{"_aj_globalid": "gid://secret/Order"}]]}, "a GlobalID in its arguments isn't of the form"),
        ({"arguments": [{"_aj_globalid": "gid://secret/Order//"}]}, "a GlobalID in its arguments isn't of the form"),
        (
            {"arguments": [{"_aj_globalid": "see gid://secret/Order/1"}]},
            "a GlobalID in its arguments isn't of the form",
        ),
        ({"arguments": [{"_aj_globalid": 5}]}, "a GlobalID in its arguments isn't of the form"),
        ({"arguments": [{"_aj_serialized": None}]}, "a serialized value in its arguments doesn't name its serializer"),
    ],
)
def test_what_rails_never_writes_is_refused_without_quoting_it(changes: dict[str, Any], fact: str) -> None:
    with pytest.raises(ErrInvalidJob) as caught:
        parse(wrapped(**changes))
    assert f"isn't as ActiveJob writes it: {fact}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_arguments_nested_too_deeply_fail_their_job_alone() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        argument(deep)
    assert arguments(1) == [1]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)


def nested(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


PLAIN = nested(SCALARS | st.text(), st.text().filter(lambda key: not key.startswith("_aj_")))

# What has a meaning to ActiveJob, well formed or not, in any combination.
MARKERS = ["globalid", "serialized", "symbol_keys", "hash_with_indifferent_access", "ruby2_keywords"]
SERIALIZERS = ["Symbol", "Date", "Time", "BigDecimal", "Range"]
TEXTS = ["gid://", "gid://a/b/c", "gid://a/b/%ff/?%ff=&;", "sNaN", "1e9", "2026-01-01", "2026-01-01T00:00:00Z"]
WORDS = SCALARS | st.sampled_from(TEXTS)
MARKED = nested(
    WORDS
    | st.builds(lambda uri: {"_aj_globalid": uri}, WORDS)
    | st.builds(lambda name, value: serialized(f"{name}Serializer", value=value), st.sampled_from(SERIALIZERS), WORDS),
    st.sampled_from(["value", *(f"_aj_{marker}" for marker in MARKERS)]),
)


@given(st.lists(PLAIN))
def test_json_of_no_special_meaning_stays_as_it_is(given: list[Any]) -> None:
    task = parse(wrapped(arguments=given))
    assert repr(task.arguments) == repr(given)
    assert task.kwargs == {}


@given(st.lists(MARKED))
def test_any_arguments_are_read_or_refused(given: list[Any]) -> None:
    try:
        task = parse(wrapped(arguments=given))
    except ErrInvalidJob:
        return
    assert all(isinstance(key, str) for key in task.kwargs)


@given(PLAIN | st.dictionaries(st.sampled_from(sorted(PAYLOAD)), PLAIN).map(lambda changes: {**PAYLOAD, **changes}))
def test_any_args_are_read_or_refused(args: Any) -> None:
    try:
        task = parse(Job(WRAPPER, args))
    except ErrInvalidJob:
        return
    assert isinstance(task.job_class, str)
    assert isinstance(task.arguments, list)
