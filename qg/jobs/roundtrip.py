"""Whether a payload comes back from JSON as it was."""

from __future__ import annotations

import math
from datetime import datetime
from enum import Enum
from typing import Any

from qg.jobs.codecs import field_names

__all__ = ["difference", "lost_field"]


def difference(was: Any, back: Any, place: str) -> str | None:
    """Return in words where *back* differs from *was*, without the values; None if it doesn't differ.

    A list counts as equal to a tuple: the field's annotation decides which of them comes back.
    """
    pairs: list[tuple[str, Any, Any]]
    if (names := field_names(type(was))) is not None and type(was) is type(back):
        names = [*names, *(getattr(was, "__pydantic_extra__", None) or ())]
        pairs = [(f"{place}.{each}".lstrip("."), getattr(was, each), getattr(back, each)) for each in names]
    elif isinstance(was, (list, tuple)) and isinstance(back, (list, tuple)) and len(was) == len(back):
        pairs = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip(was, back, strict=True))]
    elif isinstance(was, dict) and isinstance(back, dict) and was.keys() == back.keys():
        pairs = [(f"{place}[…]", value, back[key]) for key, value in was.items()]
    elif isinstance(was, float) and not math.isfinite(was):
        return f"{place or 'it'} is no finite number, which JSON hasn't"
    else:
        return None if _same(was, back) else f"{place or 'it'}, of type {_kind(was)}, would be another {_kind(back)}"
    return next((change for pair in pairs if (change := difference(pair[1], pair[2], pair[0]))), None)


def _same(was: Any, back: Any) -> bool:
    if isinstance(was, datetime) and isinstance(back, datetime):
        # Between two zones == is always False in an hour that a change of the clocks repeats or skips.
        return was.replace(tzinfo=None) == back.replace(tzinfo=None) and was.utcoffset() == back.utcoffset()
    return bool(was == back) and isinstance(was, Enum) == isinstance(back, Enum)


def _kind(value: object) -> str:
    return type(value).__name__


def lost_field(document: Any, again: Any, known: frozenset[str] = frozenset()) -> str | None:
    """Return a key that is in *document* and not in *again*, in which its payload was stored anew; or None."""
    if isinstance(document, dict) and isinstance(again, dict):
        missing = sorted(document.keys() - again.keys() - known)
        if missing:
            return str(missing[0])
        pairs = [(value, again[key]) for key, value in document.items() if key in again]
    elif isinstance(document, list) and isinstance(again, (list, tuple)):
        pairs = list(zip(document, again, strict=False))
    else:
        return None
    for value, stored in pairs:
        if isinstance(value, (dict, list)) and (lost := lost_field(value, stored)) is not None:
            return lost
    return None
