"""How many columns of a terminal a text takes: East Asian characters and emoji take two, marks on others none."""

from __future__ import annotations

import unicodedata

__all__ = ["cut", "left", "right", "width"]

# Marks that stand on the character before them, and characters that only say how others are shown.
_WITHOUT_WIDTH = ("Mn", "Me", "Cf")


def width(text: str) -> int:
    """Return how many columns *text* takes."""
    return len(text) if text.isascii() else sum(map(_width, text))


def left(text: str, columns: int) -> str:
    """Return *text* with spaces behind it, so that it takes so many *columns* at least."""
    return text + " " * (columns - width(text))


def right(text: str, columns: int) -> str:
    """Return *text* with spaces before it, so that it takes so many *columns* at least."""
    return " " * (columns - width(text)) + text


def cut(text: str, columns: int) -> str:
    """Return *text*, cut and with "…" at its end where it takes more than so many *columns*."""
    if width(text) <= columns:
        return text
    taken = 0
    for place, character in enumerate(text):
        taken += _width(character)
        if taken > columns - 1:
            return f"{text[:place]}…"
    return text


def _width(character: str) -> int:
    if unicodedata.category(character) in _WITHOUT_WIDTH:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
