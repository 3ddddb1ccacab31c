"""Payloads: which objects can be a job, what their job type is, and that they survive being stored."""

from __future__ import annotations

import inspect
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, cast

import msgspec

from qg.jobs.codecs import Codec, codec_of, without_value
from qg.jobs.errors import ErrInvalidJobType
from qg.jobs.roundtrip import difference, lost_field

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

    def __init__(self, cls: type, codec: Codec) -> None:
        self.cls = cls
        self.path = _path(cls)
        self.name = self.path if "job_type" in codec.fields else _own_job_type(cls) or self.path
        self._codec = codec

    def encode(self, payload: Any) -> Any:
        """Return *payload* as JSON values from which decode() makes its equal.

        Raises:
            ErrInvalidJobType: if there are no such values; names the field.
        """
        try:
            document = self._codec.encode(payload)
            text = json.dumps(document)
            back = self.decode(json.loads(text))
            changed = difference(payload, back, "")
            if changed is None and ("NaN" in text or "Infinity" in text):
                json.dumps(document, allow_nan=False)  # in a set, say, into which difference() doesn't look
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise ErrInvalidJobType(
                f"a {self.name} can't be stored as JSON: {without_value(error)}; "
                "use fields whose annotations say what is in them"
            ) from None
        if changed is not None:
            raise ErrInvalidJobType(
                f"a {self.name} wouldn't come back from JSON as it is: {changed}; "
                "annotate the field with its exact type"
            )
        return document

    def key(self, payload: Any) -> str:
        """Return JSON that is the same for equal payloads in every process; sets are sorted in it."""
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
            raise ValueError(without_value(error)) from None
        lost = lost_field(document, self._codec.encode(payload), self._codec.fields)
        if lost is not None:
            raise ValueError(f"the payload has a field `{lost}`, which {self.path} hasn't (was it renamed?)")
        return payload


# A class is examined once, and by one thread at a time: msgspec crashes when two examine a class, or one that both
# of theirs have a field of.
_examined: dict[type, PayloadType] = {}
_examining = threading.RLock()


def payload_type(cls: type) -> PayloadType:
    """Return how instances of *cls* are stored.

    Raises:
        ErrInvalidJobType: if they can't be jobs; says why.
    """
    known = _examined.get(cls)
    if known is None:
        with _examining:
            known = _examined.get(cls)
            if known is None:
                known = _examined[cls] = _examine(cls)
    return known


def _examine(cls: type) -> PayloadType:
    try:
        codec = codec_of(cls)
    except Exception as error:  # whatever evaluating somebody's annotations raises
        raise ErrInvalidJobType(f"{cls.__qualname__} can't be a job, since its fields have no JSON: {error}") from error
    if codec is None:
        raise ErrInvalidJobType(
            f"{cls.__qualname__} is no payload type; a job is an instance of a dataclass, NamedTuple, "
            "msgspec.Struct, attrs class or pydantic model"
        )
    return PayloadType(cls, codec)


def payloads_in(job: object) -> list[tuple[PayloadType, Any]]:
    """Return the payloads that *job* is or, as a list or tuple, holds, each with its type.

    Raises:
        ErrInvalidJobType: if there is no payload, or something else is among them.
    """
    many = isinstance(job, (list, tuple)) and not hasattr(job, "_fields")
    payloads = list(cast("Sequence[Any]", job)) if many else [job]
    if not payloads:
        raise ErrInvalidJobType("an empty list holds no job; give at least one payload")
    for payload in payloads:
        if isinstance(payload, type):
            raise ErrInvalidJobType(f"{payload.__qualname__} is a class; give an instance of it")
    return [(payload_type(type(payload)), payload) for payload in payloads]


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
    """Return the name under which other processes import the module *name*; of a script that is its file's."""
    if name not in ("__main__", "__mp_main__"):  # multiprocessing has the second one
        return name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else name
