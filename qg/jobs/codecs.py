"""Codecs: how the instances of a class become JSON values, and come back.

msgspec converts dataclasses, NamedTuples, its own Structs and attrs classes; pydantic's classes
convert themselves.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

__all__ = ["Codec", "codec_of", "field_names", "without_value"]


class Codec(Protocol):
    """How the instances of one class are stored.

    Attributes:
        fields: the keys that a stored payload may have, even if encode() leaves them out.
    """

    fields: frozenset[str]

    def encode(self, payload: Any) -> Any:
        """Return *payload* as JSON values."""

    def plain(self, payload: Any) -> Any:
        """Return *payload* as values that msgspec knows."""

    def decode(self, document: Any) -> Any:
        """Return the payload that *document* stands for; raises ValueError if it doesn't fit the class."""


class _Msgspec:
    """Dataclasses, Structs and attrs classes."""

    def __init__(self, cls: type, fields: Sequence[str]) -> None:
        self._cls = cls
        msgspec.json.Decoder(cls)  # refuses fields that it couldn't read
        _let_msgspec_examine(cls)
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
        _let_msgspec_examine(self._struct)
        self._names: tuple[str, ...] = cls._fields
        self.fields = frozenset(self._names)

    def encode(self, payload: Any) -> Any:
        return msgspec.to_builtins(self.plain(payload), str_keys=True)

    def plain(self, payload: Any) -> Any:
        return dict(zip(self._names, payload, strict=True))

    def decode(self, document: Any) -> Any:
        struct = msgspec.convert(document, self._struct, str_keys=True)
        return self._cls(**{name: getattr(struct, name) for name in self._names})


def _let_msgspec_examine(cls: type) -> None:
    """Let msgspec learn what is in *cls*, which it does when it first converts to it; it crashes if two threads do.

    No instance is made, for its class may do something then.
    """
    with suppress(msgspec.ValidationError):
        msgspec.convert(None, cls, str_keys=True)


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
            # The message of pydantic quotes the values.
            wrong = (f"{each['loc'][0] if each['loc'] else 'it'}: {each['msg']}" for each in error.errors())
            raise ValueError("; ".join(wrong)) from None


def _pydantic_names(cls: Any) -> frozenset[str]:
    fields = cls.__pydantic_fields__
    aliases = (alias for field in fields.values() for alias in (field.alias, field.validation_alias))
    return frozenset(fields) | frozenset(alias for alias in aliases if isinstance(alias, str))


def codec_of(cls: Any) -> Codec | None:
    """Return how instances of *cls* are stored, None if they are no payloads. Raises whatever its annotations raise."""
    if "__pydantic_validator__" in vars(cls):
        return _ByPydantic(cls)
    if issubclass(cls, msgspec.Struct):
        return _Msgspec(cls, cls.__struct_encode_fields__)
    if _is_named_tuple(cls):
        return _ByName(cls)
    names = field_names(cls)
    return None if names is None else _Msgspec(cls, names)


def field_names(cls: Any) -> list[str] | None:
    """Return the fields of *cls* by the names of their attributes, None if it is of a kind without fields."""
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    if hasattr(cls, "__attrs_attrs__"):
        return [field.name for field in cls.__attrs_attrs__]
    if issubclass(cls, msgspec.Struct):
        return list(cls.__struct_fields__)
    if "__pydantic_validator__" in vars(cls):
        return list(cls.model_fields)
    return list(cls._fields) if _is_named_tuple(cls) else None


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_field_defaults")


def without_value(error: Exception) -> str:
    """Return the message of *error*, which is msgspec's, without the value it quotes: logs hold no values."""
    return re.sub(r"(Invalid (?:enum )?value)(?! - at) .*?( - at .*)?$", r"\1\2", str(error), flags=re.DOTALL)
