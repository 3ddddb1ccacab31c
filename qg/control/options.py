"""What calls are given: checked before anything is done."""

from __future__ import annotations

from qg.errors import ErrInvalidOption

__all__ = ["checked_flag", "checked_text"]


def checked_text(name: str, value: object) -> str | None:
    """Return *value* if it is a text, or None; raise ErrInvalidOption otherwise."""
    if value is None:
        return None
    if not isinstance(value, str) or "\x00" in value or value != value.encode("utf-8", "replace").decode("utf-8"):
        raise ErrInvalidOption(f"{name} must be a text that PostgreSQL can hold, not {value!r}")
    return value


def checked_flag(name: str, value: object) -> bool:
    """Return *value* if it is a bool; raise ErrInvalidOption otherwise."""
    if not isinstance(value, bool):
        raise ErrInvalidOption(f"{name} must be True or False, not {value!r}")
    return value
