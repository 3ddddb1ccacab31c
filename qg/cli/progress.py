"""Progress: a line on standard error that is written anew, where that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from qg.failures import printable

__all__ = ["Progress"]

# What is done sooner needs none.
_AFTER_SECONDS, _EVERY_SECONDS = 0.5, 0.1


class Progress:
    """A context in which it can be shown how far something is. The line is gone at its end."""

    def __init__(self) -> None:
        self._shown = _shown_on(sys.stderr)
        self._next = time.monotonic() + _AFTER_SECONDS
        self._written = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Show *text*, half a second after the beginning, and then ten times a second at the most."""
        if self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_SECONDS
            self._write(printable(text))
            self._written = True

    def clear(self) -> None:
        """Take the line away, if there is one: something else is to be written there."""
        if self._written:
            self._write("")
            self._written = False

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()


def _shown_on(file: TextIO) -> bool:
    return file.isatty()
