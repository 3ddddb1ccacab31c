"""Payloads: which objects can be a job, what their job type is, and how they become JSON and come back.

msgspec converts dataclasses, NamedTuples, its own Structs and attrs classes; pydantic's classes
convert themselves.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import sys
import typing
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, cast

import msgspec

from qg.jobs.errors import ErrInvalidJobType

__all__ = ["Payload", "PayloadT", "PayloadType", "payload_type", "payloads_in"]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


class _Attrs(Protocol):
    __attrs_attrs__: ClassVar[Any]


class _Pydantic(Protocol):
    __pydantic_validator__: ClassVar[Any]


class _NamedTuple(Protocol):
    @property
    def _fields(self) -> tuple[str, ...]: ...

    def _asdict(self) -> dict[str, Any]: ...


Payload: TypeAlias = "_Dataclass | _NamedTuple | msgspec.Struct | _Attrs | _Pydantic"
"""An instance of a dataclass, NamedTuple, msgspec.Struct, attrs class or pydantic model: one job."""

PayloadT = TypeVar("PayloadT", bound=Payload)


class PayloadType:
    """A class whose instances are jobs.

    Attributes:
        cls: the class.
        path: its module and qualified name.
        name: the job type: what the class's ``job_type()`` says, otherwise *path*.
    """

    def __init__(self, cls: type, codec: _Codec) -> None:
        self.cls = cls
        self.path = _path(cls)
        self.name = self.path if "job_type" in codec.fields else _own_job_type(cls) or self.path
        self._codec = codec

    def encode(self, payload: Any) -> Any:
        """Return *payload* as JSON values from which decode() makes its equal.

        Raises:
            ErrInvalidJobType: if there are none; says which field is in the way.
        """
        try:
            document = self._codec.encode(payload)
            text = json.dumps(document)
            back = self.decode(json.loads(text))
            changed = _difference(payload, back, "")
            if changed is None and ("NaN" in text or "Infinity" in text):
                json.dumps(document, allow_nan=False)  # in a set, say, where it wasn't met; or in a text
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise ErrInvalidJobType(
                f"a {self.name} can't be stored as JSON: {_without_value(error)}; "
                "use fields whose annotations say what is in them"
            ) from None
        if changed is not None:
            raise ErrInvalidJobType(
                f"a {self.name} wouldn't come back from JSON as it is: {changed}; "
                "annotate the field with its exact type"
            )
        return document

    def key(self, payload: Any) -> str:
        """Return JSON that is the same for equal payloads in every process; sets are sorted there."""
        plain = self._codec.plain(payload)
        return json.dumps(msgspec.to_builtins(plain, order="deterministic", str_keys=True, enc_hook=str))

    def decode(self, document: Any) -> Any:
        """Return the payload that *document* stands for.

        Raises:
            ValueError: if it doesn't fit the class; names the field.
        """
        try:
            payload = self._codec.decode(document)
        except msgspec.ValidationError as error:
            raise ValueError(_without_value(error)) from None
        lost = _lost_field(document, self._codec.encode(payload), self._codec.fields)
        if lost is not None:
            raise ValueError(f"the payload has a field `{lost}`, which {self.path} hasn't (was it renamed?)")
        return payload


# A class is examined once.
_examined: dict[type, PayloadType] = {}


def payload_type(cls: type) -> PayloadType:
    """Return how instances of *cls* are stored.

    Raises:
        ErrInvalidJobType: if they can't be jobs; says why.
    """
    known = _examined.get(cls)
    if known is None:
        known = _examined[cls] = _examine(cls)
    return known


def _examine(cls: type) -> PayloadType:
    try:
        codec = _codec_of(cls)
    except Exception as error:  # whatever evaluating somebody's annotations raises
        raise ErrInvalidJobType(f"{cls.__qualname__} can't be a job, since its fields have no JSON: {error}") from error
    if codec is None:
        raise ErrInvalidJobType(
            f"{cls.__qualname__} is no payload type; a job is an instance of a dataclass, NamedTuple, "
            "msgspec.Struct, attrs class or pydantic model"
        )
    return PayloadType(cls, codec)


def payloads_in(job: object) -> list[Any]:
    """Return the payloads that *job* is or, as a list or tuple, holds.

    Raises:
        ErrInvalidJobType: if there are none, or something else is among them.
    """
    many = isinstance(job, (list, tuple)) and not hasattr(job, "_fields")
    payloads = list(cast("Sequence[Any]", job)) if many else [job]
    if not payloads:
        raise ErrInvalidJobType("an empty list holds no job; give at least one payload")
    for payload in payloads:
        if isinstance(payload, type):
            raise ErrInvalidJobType(f"{payload.__qualname__} is a class; give an instance of it")
        payload_type(type(payload))
    return payloads


class _Codec(Protocol):
    # The keys that a stored payload may have, even if encode() leaves them out.
    fields: frozenset[str]

    def encode(self, payload: Any) -> Any: ...

    # The same as values that msgspec knows.
    def plain(self, payload: Any) -> Any: ...

    def decode(self, document: Any) -> Any: ...


class _Msgspec:
    """Dataclasses, Structs and attrs classes."""

    def __init__(self, cls: type, fields: Sequence[str]) -> None:
        self._cls = cls
        msgspec.json.Decoder(cls)  # refuses fields that it couldn't read
        tag = getattr(getattr(cls, "__struct_config__", None), "tag_field", None)
        self.fields = frozenset((*fields, tag) if tag else fields)

    def encode(self, payload: Any) -> Any:
        return msgspec.to_builtins(payload, str_keys=True)

    def plain(self, payload: Any) -> Any:
        return payload

    def decode(self, document: Any) -> Any:
        return msgspec.convert(document, self._cls, str_keys=True)


class _ByName:
    """NamedTuples, stored by the names of their fields: msgspec by itself stores them as arrays."""

    def __init__(self, cls: Any) -> None:
        self._cls = cls
        hints, defaults = typing.get_type_hints(cls, include_extras=True), cls._field_defaults
        self._struct = msgspec.defstruct(
            cls.__name__,
            [(name, hints.get(name, Any), *([defaults[name]] if name in defaults else [])) for name in cls._fields],
            kw_only=True,
        )
        self.fields = frozenset(cls._fields)

    def encode(self, payload: Any) -> Any:
        return msgspec.to_builtins(self.plain(payload), str_keys=True)

    def plain(self, payload: Any) -> Any:
        return payload._asdict()

    def decode(self, document: Any) -> Any:
        struct = msgspec.convert(document, self._struct, str_keys=True)
        return self._cls(**{name: getattr(struct, name) for name in self._cls._fields})


class _ByPydantic:
    """Pydantic's models and dataclasses."""

    def __init__(self, cls: type) -> None:
        from pydantic import TypeAdapter

        self.fields = _pydantic_names(cls)
        self._adapter: TypeAdapter[Any] = TypeAdapter(cls)

    def encode(self, payload: Any) -> Any:
        return json.loads(self._adapter.dump_json(payload, by_alias=True, round_trip=True, warnings=False))

    def plain(self, payload: Any) -> Any:
        return self._adapter.dump_python(payload, by_alias=True, round_trip=True, warnings=False)

    def decode(self, document: Any) -> Any:
        from pydantic import ValidationError

        try:
            return self._adapter.validate_json(json.dumps(document))
        except ValidationError as error:
            # Its own message quotes the values, too.
            wrong = (f"{each['loc'][0] if each['loc'] else 'it'}: {each['msg']}" for each in error.errors())
            raise ValueError("; ".join(wrong)) from None


def _pydantic_names(cls: Any) -> frozenset[str]:
    fields = cls.__pydantic_fields__
    aliases = (alias for field in fields.values() for alias in (field.alias, field.validation_alias))
    return frozenset(fields) | frozenset(alias for alias in aliases if isinstance(alias, str))


def _codec_of(cls: Any) -> _Codec | None:
    if "__pydantic_validator__" in vars(cls):
        return _ByPydantic(cls)
    if issubclass(cls, msgspec.Struct):
        return _Msgspec(cls, cls.__struct_encode_fields__)
    if dataclasses.is_dataclass(cls):
        return _Msgspec(cast("type", cls), [field.name for field in dataclasses.fields(cls)])
    if hasattr(cls, "__attrs_attrs__"):
        return _Msgspec(cls, [field.name for field in cls.__attrs_attrs__])
    if issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_field_defaults"):
        return _ByName(cls)
    return None


def _own_job_type(cls: type) -> str | None:
    say = getattr(cls, "job_type", None)
    if say is None:
        return None
    if not callable(say) or inspect.isfunction(inspect.getattr_static(cls, "job_type")):
        raise ErrInvalidJobType(
            f"{cls.__qualname__}.job_type can't be called on the class; make it a static or class method"
        )
    try:
        name = say()
    except Exception as error:  # whatever somebody's method raises
        raise ErrInvalidJobType(f"{cls.__qualname__}.job_type() failed: {error}") from error
    if not isinstance(name, str) or not name:
        raise ErrInvalidJobType(f"{cls.__qualname__}.job_type() returned {name!r}; it must return a non-empty string")
    return name


def _path(cls: type) -> str:
    if "<locals>" in cls.__qualname__:
        raise ErrInvalidJobType(
            f"{cls.__qualname__} is defined inside a function, so no other process can name it; "
            "define it at the top of a module"
        )
    return f"{_real_module(cls.__module__)}.{cls.__qualname__}"


def _real_module(name: str) -> str:
    """Return the name under which other processes import the module *name*: a script's isn't ``__main__``."""
    if name not in ("__main__", "__mp_main__"):  # the second one in a process of multiprocessing
        return name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else name


def _difference(was: Any, back: Any, place: str) -> str | None:
    """Say where *back* isn't what *was* is, if it isn't. Quotes no values.

    A tuple may come back as a list, or a list as a tuple: that is for the annotation to say.
    """
    pairs: list[tuple[str, Any, Any]]
    if (names := _field_names(was)) is not None and type(was) is type(back):
        pairs = [(f"{place}.{each}".lstrip("."), getattr(was, each), getattr(back, each)) for each in names]
    elif isinstance(was, (list, tuple)) and isinstance(back, (list, tuple)) and len(was) == len(back):
        pairs = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip(was, back, strict=True))]
    elif isinstance(was, dict) and isinstance(back, dict) and was.keys() == back.keys():
        pairs = [(f"{place}[…]", value, back[key]) for key, value in was.items()]
    elif isinstance(was, float) and not math.isfinite(was):
        return f"{place or 'it'} is no finite number, which JSON hasn't"
    else:
        return None if _same(was, back) else f"{place or 'it'}, of type {_kind(was)}, would be another {_kind(back)}"
    return next((change for pair in pairs if (change := _difference(pair[1], pair[2], pair[0]))), None)


def _same(was: Any, back: Any) -> bool:
    if isinstance(was, datetime) and isinstance(back, datetime):
        # Of two zones, == is always false for an hour that comes twice, or never.
        return was.replace(tzinfo=None) == back.replace(tzinfo=None) and was.utcoffset() == back.utcoffset()
    return bool(was == back) and isinstance(was, Enum) == isinstance(back, Enum)


def _kind(value: object) -> str:
    return type(value).__name__


def _lost_field(document: Any, again: Any, known: frozenset[str] = frozenset()) -> str | None:
    """Return a key that *document* has, but not *again*, what its payload is stored as; None if there is none."""
    if isinstance(document, dict) and isinstance(again, dict):
        missing = sorted(document.keys() - again.keys() - known)
        if missing:
            return str(missing[0])
        pairs = [(value, again[key]) for key, value in document.items() if key in again]
    elif isinstance(document, list) and isinstance(again, (list, tuple)):
        pairs = list(zip(document, again, strict=False))
    else:
        return None
    return next((lost for pair in pairs if (lost := _lost_field(*pair)) is not None), None)


def _without_value(error: Exception) -> str:
    """Return what msgspec says without the value that it quotes, which is nobody's business in a log."""
    return re.sub(r"(Invalid (?:enum )?value)(?! - at) .*?( - at .*)?$", r"\1\2", str(error), flags=re.DOTALL)


def _field_names(payload: Any) -> list[str] | None:
    cls = type(payload)
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    if hasattr(cls, "__attrs_attrs__"):
        return [field.name for field in cls.__attrs_attrs__]
    if issubclass(cls, msgspec.Struct):
        return list(cls.__struct_fields__)
    if "__pydantic_validator__" in vars(cls):
        return [*cls.model_fields, *(payload.__pydantic_extra__ or {})]
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return list(cls._fields)
    return None
