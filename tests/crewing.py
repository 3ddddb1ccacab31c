"""A crew whose locker and hands are the test itself, so that everything happens in the order that the test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support import lease

import qg
from qg.client import engine_of
from qg.database.session import Session
from qg.locking.row_taker import Search, Taken
from qg.working.crew import Crew
from qg.working.held import Held
from qg.working.runner import Runner
from qg.working.transactions import Transactions


class ByHand:
    """The crew of a locker, with so many *hands*; nothing happens in it but what the test calls."""

    def __init__(self, client: qg.Client, handlers: qg.WorkMap, hands: int, **search: Any) -> None:
        self.engine = engine_of(client)
        self.runner = Runner(handlers, client.logger)
        self.session = lease(client)
        # How often the locker was told to come, and how many hands were woken each time.
        self.told = 0
        self.woken: list[int] = []
        self.crew = Crew(
            self.engine,
            lambda: Search("", **search),
            hands,
            Transactions(self.engine, "", 10),
            self.runner,
            wake_locker=self._note_told,
            wake_hands=self.woken.append,
            wake_settler=lambda: None,
        )

    def _note_told(self) -> None:
        self.told += 1

    def exchange(self, session: Session | None = None, *, takes: bool = True) -> Taken | None:
        return self.crew.exchange(session or self.session, self.engine.database.table, takes=takes)

    def begin(self) -> Held:
        """Take the next job that waits; its handler is yet to run."""
        held = self.crew.next()
        assert held is not None
        return held

    def run(self, held: Held | None = None) -> None:
        """Run *held* to its end, or the next job that waits."""
        self.crew.run(held or self.begin(), self.runner)

    def settle_apart(self) -> int:
        """Settle all that is to be settled apart, and return how many that was."""
        count = 0
        while self.crew.settle_apart(self.runner):
            count += 1
        return count

    def end(self) -> None:
        """Let all go, and part with the session."""
        if self.session.idle:
            self.exchange(takes=False)
        else:
            self.session.close_now()
        self.crew.exchange(None, self.engine.database.table, takes=False)
        self.settle_apart()
        if self.session.idle:
            self.exchange(takes=False)
        self.crew.exchange(None, self.engine.database.table, takes=False)
        assert self.crew.idle
        self.session.give_back()


@contextmanager
def by_hand(client: qg.Client, handlers: qg.WorkMap, hands: int = 2, **search: Any) -> Iterator[ByHand]:
    """A crew for the time of the block."""
    crew = ByHand(client, handlers, hands, **search)
    try:
        yield crew
    except BaseException:
        crew.session.close_now()
        raise
    crew.end()
