"""Payloads: what can be a job, what its job type is, and that it comes back from JSON exactly as it was."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import subprocess
import sys
import traceback
import uuid
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import attr
import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass as pydantic_dataclass
from support import name_of

from qg import QgError, jobs
from qg.jobs.payloads import payload_type

# Put together, so that no line of this file that a traceback shows has it.
SECRET = "hunter" + "2"


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


@dataclass(frozen=True)
class Address:
    street: str
    since: datetime | None = None


@dataclass
class Plain:
    user_id: int
    tags: list[str] = field(default_factory=list)
    note: str = "none"


@dataclass(frozen=True)
class Frozen:
    user_id: int


@dataclass(slots=True)
class Slotted:
    user_id: int
    note: str = "none"


@dataclass
class Nested:
    home: Address
    others: list[Address] = field(default_factory=list)
    by_name: dict[str, Address] = field(default_factory=dict)


@dataclass
class Derived(Plain):
    more: Decimal = Decimal("1.50")


@dataclass
class Nothing:
    pass


class Named(NamedTuple):
    user_id: int
    at: datetime
    home: Address | None = None


class Point(NamedTuple):
    x: int
    y: Decimal


@dataclass
class WithPoint:
    point: Point


class Struct(msgspec.Struct):
    user_id: int
    home: Address | None = None


class RenamedStruct(msgspec.Struct, rename="camel", frozen=True):
    user_id: int


class TaggedStruct(msgspec.Struct, tag="tagged"):
    user_id: int


class TerseStruct(msgspec.Struct, omit_defaults=True):
    user_id: int
    tags: list[str] = []


@attrs.define
class Attrs:
    user_id: int
    home: Address | None = None


@attrs.frozen
class FrozenAttrs:
    user_id: int


class Model(pydantic.BaseModel):
    user_id: int
    at: datetime | None = None


class AliasModel(pydantic.BaseModel):
    user_id: int = pydantic.Field(alias="userId")


class StrictModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    at: datetime
    price: Decimal
    key: uuid.UUID
    names: dict[int, str]
    ids: tuple[int, ...]
    tags: set[str]


@pydantic_dataclass
class ModelDataclass:
    user_id: int
    at: datetime | None = None


AT = datetime(2026, 11, 23, 7, 4, 11, 123456, tzinfo=timezone.utc)
HOME = Address("Lane 1", AT)

EXAMPLES: list[tuple[Any, Any]] = [
    (Plain(7, ["a"]), {"user_id": 7, "tags": ["a"], "note": "none"}),
    (Frozen(7), {"user_id": 7}),
    (Slotted(7), {"user_id": 7, "note": "none"}),
    (
        Nested(Address("Lane 1"), [Address("Lane 2")]),
        {"home": {"street": "Lane 1", "since": None}, "others": [{"street": "Lane 2", "since": None}], "by_name": {}},
    ),
    (Derived(7), {"user_id": 7, "tags": [], "note": "none", "more": "1.50"}),
    (Nothing(), {}),
    (Named(7, AT), {"user_id": 7, "at": "2026-11-23T07:04:11.123456Z", "home": None}),
    (
        Named(7, AT, Address("Lane 1")),
        {"user_id": 7, "at": "2026-11-23T07:04:11.123456Z", "home": {"street": "Lane 1", "since": None}},
    ),
    (WithPoint(Point(1, Decimal("2.0"))), {"point": [1, "2.0"]}),
    (Struct(7), {"user_id": 7, "home": None}),
    (RenamedStruct(7), {"userId": 7}),
    (TaggedStruct(7), {"type": "tagged", "user_id": 7}),
    (TerseStruct(7), {"user_id": 7}),
    (TerseStruct(7, ["a"]), {"user_id": 7, "tags": ["a"]}),
    (Attrs(7), {"user_id": 7, "home": None}),
    (FrozenAttrs(7), {"user_id": 7}),
    (Model(user_id=7, at=AT), {"user_id": 7, "at": "2026-11-23T07:04:11.123456Z"}),
    (AliasModel(userId=7), {"userId": 7}),
    (ModelDataclass(7, AT), {"user_id": 7, "at": "2026-11-23T07:04:11.123456Z"}),
]
examples = pytest.mark.parametrize(("payload", "document"), EXAMPLES, ids=lambda each: type(each).__name__)


def through_json(payload: Any) -> Any:
    """Return what *payload* is after it was stored as JSON text and read back."""
    takes = payload_type(type(payload))
    return takes.decode(json.loads(json.dumps(takes.encode(payload))))


def refused(job: Any, message: str) -> str:
    """Assert that *job* is refused with *message*, and not stored; return the whole traceback."""
    queue = jobs.TestQueue()
    with pytest.raises(jobs.ErrInvalidJobType, match=message) as caught:
        queue.enqueue(job)
    assert queue.empty()
    return "".join(traceback.format_exception(caught.value))


@examples
def test_each_kind_of_payload_is_stored_by_the_names_of_its_fields(payload: Any, document: Any) -> None:
    assert json.loads(json.dumps(payload_type(type(payload)).encode(payload))) == document


@examples
def test_each_kind_of_payload_comes_back_as_it_was(payload: Any, document: Any) -> None:
    queue = jobs.TestQueue()
    queue.enqueue(payload)
    back = queue.get_first()
    assert (type(back), back) == (type(payload), payload)


def test_a_named_tuple_is_one_job_and_no_list() -> None:
    queue = jobs.TestQueue()
    assert len(queue.enqueue(Point(1, Decimal(2)))) == 1
    assert queue.jobs() == [Point(1, Decimal(2))]
    assert isinstance(queue.get_first(), Point)


@pytest.mark.parametrize("sequence", [list, tuple])
def test_a_list_or_tuple_of_payloads_is_as_many_jobs(sequence: Any) -> None:
    queue = jobs.TestQueue()
    payloads = [Frozen(1), Point(2, Decimal(3)), Frozen(4)]
    assert len(queue.enqueue(sequence(payloads))) == 3
    assert queue.jobs() == payloads


# Every kind of payload with the same fields of every type that survives JSON.
FIELDS: dict[str, Any] = {
    "number": int,
    "ratio": float,
    "text": str,
    "flag": bool,
    "raw": bytes,
    "at": datetime,
    "day": date,
    "clock": time,
    "span": timedelta,
    "key": uuid.UUID,
    "price": Decimal,
    "color": Color,
    "size": Size,
    "ids": set[int],
    "frozen": frozenset[str],
    "names": dict[int, str],
    "pair": tuple[int, str],
    "many": tuple[Decimal, ...],
    "items": list[int | None],
    "home": Address,
    "maybe": Address | None,
    "addresses": dict[str, list[Address]],
}

aware = st.timezones().filter(lambda zone: zone.key == "UTC") | st.builds(
    lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-14 * 60, 14 * 60)
)
texts = st.text(st.characters(codec="utf-8"))
addresses = st.builds(Address, texts, st.none() | st.datetimes(timezones=aware))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "number": st.integers() | st.integers(-(10**60), 10**60),
    "ratio": st.floats(allow_nan=False, allow_infinity=False),
    "text": texts,
    "flag": st.booleans(),
    "raw": st.binary(),
    "at": st.datetimes() | st.datetimes(timezones=aware),
    "day": st.dates(),
    "clock": st.times(),
    "span": st.timedeltas(),
    "key": st.uuids(),
    "price": st.decimals(allow_nan=False, allow_infinity=False) | st.sampled_from([Decimal("1.000"), Decimal("1E+5")]),
    "color": st.sampled_from(Color),
    "size": st.sampled_from(Size),
    "ids": st.sets(st.integers()),
    "frozen": st.frozensets(texts),
    "names": st.dictionaries(st.integers(), texts),
    "pair": st.tuples(st.integers(), texts),
    "many": st.lists(st.decimals(allow_nan=False, allow_infinity=False)).map(tuple),
    "items": st.lists(st.none() | st.integers()),
    "home": addresses,
    "maybe": st.none() | addresses,
    "addresses": st.dictionaries(texts, st.lists(addresses, max_size=2), max_size=2),
}
BASE64 = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
KINDS: dict[str, Any] = {
    "dataclass": dataclasses.make_dataclass("Everything", FIELDS.items()),
    "NamedTuple": NamedTuple("Everything", list(FIELDS.items())),  # type: ignore[misc]
    "Struct": msgspec.defstruct("Everything", list(FIELDS.items())),
    "attrs": attrs.make_class(
        "Everything", {name: attrs.field(type=annotation) for name, annotation in FIELDS.items()}, slots=True
    ),
    "pydantic": pydantic.create_model(
        "Everything", __config__=BASE64, **{name: (annotation, ...) for name, annotation in FIELDS.items()}
    ),
}
for each in KINDS.values():
    each.__module__ = __name__


def exact(value: Any) -> Any:
    """Return *value* so that only what is the same in every detail is equal to it."""
    if isinstance(value, Decimal):
        return value.as_tuple()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Address):
        return Address, value.street, exact(value.since)
    if isinstance(value, dict):
        return {key: exact(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [exact(each) for each in value]
    return type(value), repr(value) if isinstance(value, float) else value


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)  # in each of five kinds
@given(values=st.fixed_dictionaries(VALUES))
def test_every_type_of_field_survives_exactly_in_every_kind_of_payload(kind: str, values: dict[str, Any]) -> None:
    payload = KINDS[kind](**values)
    back = through_json(payload)
    assert type(back) is KINDS[kind]
    for name in FIELDS:
        assert exact(getattr(back, name)) == exact(getattr(payload, name)), name


def test_a_strict_model_of_pydantic_comes_back() -> None:
    payload = StrictModel(at=AT, price=Decimal("1.00"), key=uuid.UUID(int=7), names={1: "a"}, ids=(1, 2), tags={"x"})
    back = through_json(payload)
    assert back == payload
    assert str(back.price) == "1.00"


@dataclass
class Meeting:
    at: datetime


class MeetingModel(pydantic.BaseModel):
    at: datetime


@pytest.mark.parametrize("cls", [Meeting, MeetingModel])
@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize(
    "naive",
    [datetime(2026, 7, 1, 12), datetime(2026, 10, 25, 2, 30), datetime(2026, 3, 29, 2, 30)],
    ids=["summer", "the hour that comes twice", "the hour that is left out"],
)
def test_a_datetime_in_a_zone_keeps_its_instant_at_any_hour_of_the_year(cls: Any, naive: datetime, fold: int) -> None:
    at = naive.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    assert through_json(cls(at=at)).at.timestamp() == at.timestamp()


def test_an_attribute_that_is_no_field_isnt_stored() -> None:
    payload = Plain(7)
    payload.__dict__["cached"] = object()
    assert payload_type(Plain).encode(payload) == {"user_id": 7, "tags": [], "note": "none"}


def a_function() -> None:
    pass


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (None, "NoneType is no payload type; a job is an instance of a dataclass"),
        ("text", "str is no payload type"),
        (b"bytes", "bytes is no payload type"),
        (7, "int is no payload type"),
        (1.5, "float is no payload type"),
        (a_function, "function is no payload type"),
        ({"user_id": 7}, "dict is no payload type"),
        ({1}, "set is no payload type"),
        (object(), "object is no payload type"),
        ((each for each in [Frozen(7)]), "generator is no payload type"),
        (Frozen, "Frozen is a class; give an instance of it"),
        (Named, "Named is a class"),
        (Model, "Model is a class"),
        ([], "an empty list holds no job"),
        ((), "an empty list holds no job"),
        ([Frozen(7), 8], "int is no payload type"),
        ([Frozen(7), Frozen], "Frozen is a class"),
        ([Frozen(7), [Frozen(8)]], "list is no payload type"),
        ((Frozen(7), None), "NoneType is no payload type"),
    ],
    ids=name_of,
)
def test_what_is_no_payload_is_refused_and_nothing_is_enqueued(job: Any, message: str) -> None:
    refused(job, message)


def test_a_refusal_is_an_error_of_enqueue() -> None:
    assert issubclass(jobs.ErrInvalidJobType, jobs.ErrEnqueueFailed)
    assert issubclass(jobs.ErrEnqueueFailed, QgError)
    assert issubclass(jobs.ErrInvalidJobType, TypeError)


def a_list_that_holds_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def holding(annotation: Any, value: Any) -> Any:
    """Return a payload whose field ``password`` is annotated so, and holds *value*."""
    cls = dataclasses.make_dataclass("Holder", [("password", annotation)])
    cls.__module__ = __name__
    return cls(value)


BAD_VALUES: list[tuple[str, Any, Any]] = [
    ("str instead of int", int, SECRET),
    ("int instead of str", str, 7),
    ("bool instead of int", int, True),
    ("None where it must not be", int, None),
    ("int that a float can't hold", float, 2**53 + 1),
    ("str instead of a datetime", datetime, SECRET),
    ("bad element", list[int], [1, SECRET]),
    ("bad value of a dict", dict[str, int], {SECRET: SECRET}),
    ("bad key of a dict", dict[int, int], {SECRET: 1}),
    ("str instead of an Enum", Color, SECRET),
    ("str instead of a Literal", Literal["a", "b"], SECRET),
    ("int instead of an Enum", Size, 7),
    ("a datetime as Any", Any, AT),
    ("a Decimal as Any", Any, Decimal(1)),
    ("a set as Any", Any, {SECRET}),
    ("bytes as Any", Any, SECRET.encode()),
    ("a dict with number keys as Any", Any, {1: SECRET}),
    ("a dict with a datetime as Any", dict[str, Any], {SECRET: AT}),
    ("a subclass of what is annotated", Plain, Derived(7, [SECRET])),
    ("NaN", float, math.nan),
    ("infinity", float, math.inf),
    ("infinity in a list", list[float], [1.0, -math.inf]),
]


@pytest.mark.parametrize(("annotation", "value"), [bad[1:] for bad in BAD_VALUES], ids=[bad[0] for bad in BAD_VALUES])
def test_a_value_that_doesnt_come_back_as_it_is_is_refused_by_field_and_without_the_value(
    annotation: Any, value: Any
) -> None:
    assert SECRET not in refused(holding(annotation, value), "password|more")


class SecretModel(pydantic.BaseModel):
    password: int = 0
    color: Color = Color.RED
    anything: Any = None
    token: pydantic.SecretStr = pydantic.SecretStr("")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"password": SECRET}, "password"),
        ({"color": SECRET}, "color"),
        ({"anything": AT}, "anything"),
        ({"anything": {1: SECRET}}, "anything"),
        ({"token": pydantic.SecretStr(SECRET)}, "token"),
    ],
    ids=str,
)
def test_a_model_that_doesnt_come_back_as_it_is_is_refused_by_field_and_without_the_value(
    values: Any, message: str
) -> None:
    payload = SecretModel.model_construct(**{**SecretModel().model_dump(), **values})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert SECRET not in refused(payload, message)
    assert not told


class OpenModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    user_id: int


def test_the_extra_fields_of_a_model_come_back_as_they_are_or_are_refused() -> None:
    assert through_json(OpenModel(user_id=7, more=[8])) == OpenModel(user_id=7, more=[8])
    refused(OpenModel(user_id=7, more=AT), "more")


@pytest.mark.parametrize("payload", [Point(1, SECRET), WithPoint(Point(SECRET, Decimal(1)))], ids=["itself", "within"])
def test_a_bad_value_in_a_named_tuple_is_refused_without_the_value(payload: Any) -> None:
    assert SECRET not in refused(payload, r"y|point")


Untyped = namedtuple("Untyped", "user_id at")  # noqa: PYI024


def test_a_named_tuple_without_annotations_takes_what_json_has_and_names_what_it_cant_take() -> None:
    assert through_json(Untyped(7, "now")) == Untyped(7, "now")
    refused(Untyped(7, AT), r"\bat\b")


@pytest.mark.parametrize(
    "value",
    [a_list_that_holds_itself(), {"a": a_list_that_holds_itself()}],
    ids=["list", "dict"],
)
def test_what_holds_itself_is_refused(value: Any) -> None:
    refused(holding(Any, value), "can't be stored as JSON")


def test_a_number_too_long_for_json_is_refused() -> None:
    refused(holding(int, 10**5000), "4300")


def test_a_decimal_that_cant_be_compared_is_refused() -> None:
    refused(holding(Decimal, Decimal("sNaN")), "Holder")


@pytest.mark.parametrize("annotation", [Callable, Callable[[int], int], type, complex, Path, str | uuid.UUID], ids=str)
def test_an_annotation_that_json_has_nothing_for_is_refused(annotation: Any) -> None:
    refused(holding(annotation, a_function), "JSON")


@pytest.mark.parametrize("annotation", ["NoSuch", "datetime.no_such", "list[", "not python", "1/0"])
@pytest.mark.parametrize("kind", ["dataclass", "NamedTuple"])
def test_an_annotation_that_cant_be_resolved_is_refused(annotation: str, kind: str) -> None:
    if kind == "dataclass":
        cls: Any = dataclasses.make_dataclass("Unresolved", [("at", annotation)])
    else:
        cls = type("Unresolved", (namedtuple("Unresolved", "at"),), {"__annotations__": {"at": annotation}})
    cls.__module__ = __name__
    refused(cls(7), "Unresolved can't be a job, since its fields have no JSON")


@attr.s
class OldAttrs:
    user_id = attr.ib()


def test_an_attrs_class_without_annotations_is_refused_where_msgspec_reads_none() -> None:
    if tuple(int(part) for part in metadata.version("msgspec").split(".")[:2]) < (0, 23):
        refused(OldAttrs(7), "OldAttrs can't be a job")
    else:
        queue = jobs.TestQueue()
        queue.enqueue(OldAttrs(7))
        assert queue.get_first() == OldAttrs(7)


def test_a_field_that_only_init_takes_is_refused() -> None:
    cls = dataclasses.make_dataclass("WithInitVar", [("user_id", dataclasses.InitVar[int])])
    cls.__module__ = __name__
    refused(cls(7), "WithInitVar can't be a job.*InitVar")


def named(job_type: Any) -> Any:
    """Return an instance of a payload class whose attribute ``job_type`` is that."""
    cls = dataclasses.make_dataclass("Typed", [("user_id", int, 7)], namespace={"job_type": job_type})
    cls.__module__ = __name__
    return cls()


def raising() -> str:
    raise LookupError("no name today")


async def later() -> str:
    return "later"


@pytest.mark.parametrize(
    "job_type",
    [staticmethod(lambda: "greetings"), classmethod(lambda cls: "greetings")],
    ids=["static method", "class method"],
)
def test_a_class_can_say_its_job_type(job_type: Any) -> None:
    assert payload_type(type(named(job_type))).name == "greetings"
    assert payload_type(type(named(job_type))).path == f"{__name__}.Typed"


@pytest.mark.parametrize(
    ("job_type", "message"),
    [
        (staticmethod(lambda: ""), r"Typed\.job_type\(\) returned ''; it must return a non-empty string"),
        (staticmethod(lambda: None), "returned None"),
        (staticmethod(lambda: 7), "returned 7"),
        (staticmethod(lambda: b"greetings"), "returned b'greetings'"),
        (lambda self: "greetings", "make it a static or class method"),
        (property(lambda self: "greetings"), "make it a static or class method"),
        ("greetings", "make it a static or class method"),
        (staticmethod(raising), "no name today"),
    ],
    ids=["empty", "None", "int", "bytes", "instance method", "property", "attribute", "raising"],
)
def test_a_job_type_that_is_no_name_is_refused(job_type: Any, message: str) -> None:
    refused(named(job_type), message)


@pytest.mark.parametrize("job_type", ["a\x00b", "a\ud800b"])
def test_a_job_type_that_postgresql_cant_hold_is_refused(job_type: str) -> None:
    queue = jobs.TestQueue()
    with pytest.raises(jobs.ErrEnqueueFailed, match="type"):
        queue.enqueue(named(staticmethod(lambda: job_type)))
    assert queue.empty()


class Outer:
    class Middle:
        @dataclass
        class Inner:
            user_id: int = 7


def test_the_job_type_is_module_and_qualified_name() -> None:
    assert payload_type(Plain).name == payload_type(Plain).path == "test_payloads.Plain"
    assert payload_type(Outer.Middle.Inner).name == "test_payloads.Outer.Middle.Inner"


def test_a_class_defined_in_a_function_is_refused_since_nobody_else_can_name_it() -> None:
    @dataclass
    class Local:
        pass

    refused(Local(), "defined inside a function.*define it at the top of a module")


SCRIPT = """
from dataclasses import dataclass
from qg.jobs.payloads import payload_type

@dataclass
class Order:
    order_id: int

def say():
    print(payload_type(Order).name, flush=True)

if __name__ == "__main__":
    say()
"""
SPAWNING = (
    SCRIPT
    + """
    import multiprocessing
    child = multiprocessing.get_context("spawn").Process(target=say)
    child.start()
    child.join()
"""
)


def names_printed_by(script: str, file: Path, *arguments: str) -> list[str]:
    file.parent.mkdir(exist_ok=True)
    file.write_text(script)
    ran = subprocess.run([sys.executable, *arguments], cwd=file.parents[1], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


@pytest.mark.parametrize("file", ["shop.py", "my_shop.v2.py"])
def test_a_script_names_its_payloads_as_those_who_import_it_do(tmp_path: Path, file: str) -> None:
    assert names_printed_by(SCRIPT, tmp_path / "pkg" / file, f"pkg/{file}") == [f"{Path(file).stem}.Order"]


@pytest.mark.parametrize(("file", "module"), [("shop.py", "pkg.shop"), ("__main__.py", "pkg")])
def test_a_module_run_as_a_script_names_its_payloads_as_those_who_import_it_do(
    tmp_path: Path, file: str, module: str
) -> None:
    names = names_printed_by(SCRIPT, tmp_path / "pkg" / file, "-m", module)
    assert names == [f"pkg.{Path(file).stem}.Order"]


@pytest.mark.parametrize(
    ("arguments", "name"), [(["pkg/shop.py"], "shop.Order"), (["-m", "pkg.shop"], "pkg.shop.Order")], ids=["", "-m"]
)
def test_a_process_that_a_script_spawns_names_its_payloads_likewise(
    tmp_path: Path, arguments: list[str], name: str
) -> None:
    assert names_printed_by(SPAWNING, tmp_path / "pkg" / "shop.py", *arguments) == [name, name]


@dataclass
class Renamed:
    new_name: int = 0


@dataclass
class HoldsRenamed:
    inner: Renamed
    many: list[Renamed] = field(default_factory=list)


class RenamedTuple(NamedTuple):
    new_name: int = 0


class RenamedInStruct(msgspec.Struct):
    new_name: int = 0


@attrs.define
class RenamedInAttrs:
    new_name: int = 0


class RenamedInModel(pydantic.BaseModel):
    new_name: int = 0


@pydantic_dataclass
class RenamedInModelDataclass:
    new_name: int = 0


RENAMED = [Renamed, RenamedTuple, RenamedInStruct, RenamedInAttrs, RenamedInModel, RenamedInModelDataclass]


@pytest.mark.parametrize("cls", RENAMED)
def test_a_field_that_was_renamed_fails_the_job_though_the_new_one_has_a_default(cls: Any) -> None:
    with pytest.raises(ValueError, match="old_name") as caught:
        payload_type(cls).decode({"old_name": SECRET})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "document", [{"inner": {"old_name": 7}}, {"inner": {}, "many": [{}, {"old_name": 7}]}], ids=str
)
def test_a_field_that_was_renamed_in_a_nested_type_fails_the_job_too(document: Any) -> None:
    with pytest.raises(ValueError, match="old_name"):
        payload_type(HoldsRenamed).decode(document)


@pytest.mark.parametrize("cls", [Plain, Named, Struct, Attrs, Model, ModelDataclass])
def test_a_field_that_is_missing_fails_the_job_with_its_name(cls: Any) -> None:
    with pytest.raises(ValueError, match="user_id"):
        payload_type(cls).decode({})


@pytest.mark.parametrize("cls", [Plain, Named, Struct, Attrs, Model, ModelDataclass])
def test_a_value_of_another_type_fails_the_job_with_the_fields_name_and_without_the_value(cls: Any) -> None:
    with pytest.raises(ValueError, match="user_id") as caught:
        payload_type(cls).decode({"user_id": SECRET, **({"at": AT.isoformat()} if cls is Named else {})})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("cls", [Plain, Struct, Attrs])
def test_a_number_in_quotes_is_no_number(cls: Any) -> None:
    with pytest.raises(ValueError, match="user_id"):
        payload_type(cls).decode({"user_id": "7"})


@dataclass
class Painted:
    color: Color
    shade: Literal["light", "dark"] = "dark"


@pytest.mark.parametrize("values", [{"color": SECRET}, {"color": "red", "shade": SECRET}], ids=["Enum", "Literal"])
def test_a_value_that_is_none_of_those_allowed_isnt_quoted(values: Any) -> None:
    with pytest.raises(ValueError, match="color|shade") as caught:
        payload_type(Painted).decode(values)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("document", [None, [], [7], "text", 7, True], ids=name_of)
@pytest.mark.parametrize("cls", [Frozen, Named, Struct, Attrs, Model, ModelDataclass, Nothing])
def test_a_document_that_is_no_object_fails_the_job(cls: Any, document: Any) -> None:
    with pytest.raises(ValueError, match=r"object|\[|valid dict|instance"):
        payload_type(cls).decode(document)


def test_what_was_added_with_a_default_is_filled_in() -> None:
    assert payload_type(Plain).decode({"user_id": 7}) == Plain(7)
    assert payload_type(Model).decode({"user_id": 7}) == Model(user_id=7)
    assert payload_type(Named).decode({"user_id": 7, "at": AT.isoformat()}) == Named(7, AT)
