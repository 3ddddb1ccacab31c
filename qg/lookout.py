"""Lookout: one thread for the whole process that looks, twice a second, at what others can't see while they wait."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from contextlib import suppress
from typing import Protocol

from qg.forks import process_number

__all__ = ["LOOKOUT", "Lookout", "Watched"]

_PAUSE_SECONDS = 0.5


class Watched(Protocol):
    """What wants to be looked at. It is forgotten when nobody else refers to it any more."""

    def look(self) -> None:
        """Is called twice a second, in the lookout's thread; doesn't wait for anything."""


class Lookout:
    """Looks at all that was added. Safe to use from any thread.

    The thread is a daemon. It ends when there is nothing left to look at, and the next add() starts another one.
    """

    def __init__(self) -> None:
        self._begin_in_this_process()

    def _begin_in_this_process(self) -> None:
        self._process = process_number()
        self._mutex = threading.Lock()
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        # Held for each look. Who holds it can be sure that the lookout has nothing in its hands.
        self.looking = threading.Lock()

    def add(self, watched: Watched) -> None:
        """Look at *watched* from now on, as long as somebody refers to it."""
        if self._process != process_number():
            self._begin_in_this_process()  # what the parent looks at is the parent's
        with self._mutex:
            self._watched.add(watched)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="qg-lookout", daemon=True)
                with suppress(RuntimeError):  # no thread is to be had, at the interpreter's end for instance
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        while True:
            time.sleep(_PAUSE_SECONDS)
            with self._mutex:
                watched = list(self._watched)
                if not watched:
                    self._thread = None
                    return
            while watched:
                try:
                    with self.looking:
                        watched.pop().look()
                except Exception:  # a fault of ours, or of somebody's logger; the others are looked at all the same
                    logging.getLogger("qg").exception("lookout_failed; it goes on")


LOOKOUT = Lookout()
"""The one of this process."""
