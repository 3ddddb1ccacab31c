"""Turns: how many workers take jobs at the same time, so that they don't wait for each other in the server."""

from __future__ import annotations

import threading
import time

__all__ = ["Turn", "Turns"]

# So many jobs may be asked for at the same time, and by two workers in any case. Each of them walks past all
# that the others have locked and tries these locks again, and all of them wait for the same few locks of the
# server's lock table. Of so few jobs as a worker takes who takes them one by one, it can't be too many.
_MOST_WANTED = 64
_FEWEST_TAKERS = 2
# So many wait for their turn. More would only take longer to get nothing.
_MOST_WAITING = 2
# A turn may take long: a deletion waits for somebody's row lock, or the server is far away. Nobody waits longer
# than that for others, for what has returned is to be deleted within a tenth of a second.
_LONGEST_WAIT_SECONDS = 0.03


class Turn:
    """A worker's right to take jobs, from begin() to end()."""


class Turns:
    """Whose turn it is to take jobs in batches. Safe to use from any thread.

    A worker that is turned away sleeps. It misses nothing: those who wait for their turn look later than it would
    have. Each of them takes what there is, and wakes another worker if there is more. Where one of them fails
    before it has looked, it has to wake another worker in any case; end() says so.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        # Those whose turn it is, the one that has had it longest first.
        self._taking: list[Turn] = []
        self._waiting = 0
        self._has_turned_away = False

    @property
    def crowded(self) -> bool:
        """Whether enough workers wait already: one that is woken now would only be turned away."""
        return self._waiting >= _MOST_WAITING

    def begin(self, wanted: int) -> Turn | None:
        """Wait until it is one's turn to take *wanted* jobs; return None if one is turned away.

        Who waits in vain takes the turn of the one that has had it longest.
        """
        most = max(_MOST_WANTED // wanted, _FEWEST_TAKERS)
        turn = Turn()
        with self._changed:
            if len(self._taking) >= most:
                if self.crowded:
                    self._has_turned_away = True
                    return None
                self._wait(most)
            if len(self._taking) >= most:
                del self._taking[0]
            self._taking.append(turn)
        return turn

    def end(self, turn: Turn, *, looked: bool) -> bool:
        """Let others have their turn; return whether to wake a worker that was turned away, as this one hasn't looked.

        Args:
            turn: from begin().
            looked: whether the queue was looked at.
        """
        with self._changed:
            if turn in self._taking:
                self._taking.remove(turn)
            self._changed.notify()
            if looked:
                if not (self._taking or self._waiting):
                    self._has_turned_away = False
                return False
            return self._has_turned_away

    def _wait(self, most: int) -> None:
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        self._waiting += 1
        try:
            while len(self._taking) >= most and (seconds := deadline - time.monotonic()) > 0:
                self._changed.wait(seconds)
        finally:
            self._waiting -= 1
