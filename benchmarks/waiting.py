"""Jobs that wait for 100 ms, as for an answer from elsewhere: 200 and 1,000 at once.

What they wait is what a run must take: so many at once do no more than ten times as many a second.
Threads wait in time.sleep(), coroutines in asyncio.sleep().
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psutil

from benchmarks.contenders import WAITING, Contender, drained
from benchmarks.results import Readings
from benchmarks.run import Run
from benchmarks.server import Database
from benchmarks.watch import cpu_seconds, memory_mb, most_of

__all__ = ["AT_ONCE", "CONNECTIONS", "RATE", "SHARE", "case", "measure"]

AT_ONCE = (200, 1000)
RATE = "rate"
SHARE = "of what waiting allows"
CONNECTIONS = "connections at most"

_UNITS = {
    RATE: "jobs/s",
    SHARE: "×",
    CONNECTIONS: "",
    "memory at most": "MB",
    "processor, 1000 jobs": "s",
}
_SCENARIO = "waiting"
_MILLISECONDS = 100
# Fewer jobs than three times those at once would measure the begin and the end.
_TURNS = 3
_WATCH_SECONDS = 0.05
_OPEN_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


def case(at_once: int, what: str) -> str:
    """Return how the results name it."""
    return f"{at_once:,} at once, {what}"


def measure(run: Run) -> None:
    """Measure every pool that can run so many jobs at once, run by run."""
    with run.databases(_SCENARIO, run.with_a_way(WAITING), notify=True) as databases:
        for at_once in AT_ONCE:
            runs: dict[str, Callable[[], Readings]] = {}
            for contender, database in databases.items():
                if contender.ways[WAITING].connection_each and at_once > database.room():
                    run.results.fail(
                        f"{_SCENARIO}: {case(at_once, contender.name)}: "
                        f"each worker takes a connection, and the server has {database.room()}"
                    )
                else:
                    runs[contender.name] = partial(_drain, contender, database, at_once, run.durations.run_seconds)
            run.results.alternate(_SCENARIO, f"{at_once:,} at once", _UNITS, run.durations.rounds, runs)


def _drain(contender: Contender, database: Database, at_once: int, seconds: float) -> Readings:
    way = contender.ways[WAITING]
    allowed = at_once * 1000 / _MILLISECONDS
    jobs = max(_TURNS * at_once, int(min(way.pace, allowed) * seconds))
    database.refill(jobs)
    with contender.workers(database, way, at_once, milliseconds=_MILLISECONDS) as workers:
        process = psutil.Process(workers.pid)
        with (
            most_of(lambda: memory_mb(process), _WATCH_SECONDS) as memory,
            most_of(lambda: float(str(database.value(_OPEN_CONNECTIONS))), _WATCH_SECONDS) as connections,
        ):
            workers.go()
            workers.wait_for_first_job()
            before = cpu_seconds(process)  # without what it took to connect
            rate = drained(workers, database, jobs, seconds)
        spent = 1000 * (cpu_seconds(process) - before) / workers.handled
    return dict(zip(_UNITS, (rate, rate / allowed, connections[0], memory[0], spent), strict=True))
