"""Turns: how many workers of a client take batches at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Turns"]

# More than so many keep the server busy with one another: each tries the locks that the others are just taking.
_MOST = 4
# Who waits longer than this goes without a turn: a connection that is frozen may keep one for as long as it likes.
_PATIENCE_SECONDS = 0.05


class Turns:
    """Lets few workers take jobs at a time, where each takes many. Safe to use from any thread."""

    def __init__(self, most: int = _MOST) -> None:
        self._free = threading.Semaphore(most)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, or for a moment at the most, and have it within the block."""
        had = self._free.acquire(timeout=_PATIENCE_SECONDS)
        try:
            yield
        finally:
            if had:
                self._free.release()
