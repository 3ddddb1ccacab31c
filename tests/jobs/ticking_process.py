"""A process that declares one schedule and fires it: started, stopped and killed by test_schedules.py.

    python ticking_process.py DSN SPEC [hold | freeze | shift | crowd]

``hold`` stops before the first tick is committed, ``freeze`` does so with a server that waits for
0.2 s only, ``shift`` has a clock that is ten days fast, ``crowd`` schedules another payload.
"""

from __future__ import annotations

import datetime
import signal
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Beat:
    pass


@dataclass(frozen=True)
class Crowd:
    """A payload whose set is written in another order in each process."""

    names: frozenset[str] = frozenset(str(number) for number in range(100))


class Fast(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return super().now(tz) + datetime.timedelta(days=10)


def shift() -> None:
    datetime.datetime = Fast  # type: ignore[misc]
    true_time = time.time
    time.time = lambda: true_time() + 864_000


def main(dsn: str, spec: str, fault: str = "") -> None:
    if fault == "shift":
        shift()
    from qg import jobs
    from qg.database import session
    from qg.tables import Statement

    def hold(_: object) -> None:
        sys.stdout.write("holding\n")
        sys.stdout.flush()
        signal.pause()

    queue = jobs.PostgresJobs(dsn, pool_size=1)
    queue.schedule(spec, Crowd() if fault == "crowd" else Beat())
    if fault == "freeze":
        statement = queue._tables.lock_due_schedule
        queue._tables.lock_due_schedule = Statement(statement.text.replace("'10s'", "'200ms'"))
    if fault in ("hold", "freeze"):
        session.Session.commit = hold  # type: ignore[method-assign]
    queue.start()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
