"""The command line: ``python -m benchmarks all``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import (
    backlog,
    connections,
    drain,
    enqueue,
    facade,
    footprint,
    looks,
    pickup,
    scale,
    snapshots,
    steady,
    waiting,
)
from benchmarks.charts import draw
from benchmarks.report import report
from benchmarks.results import Results
from benchmarks.run import Durations, Run, contenders_named
from benchmarks.server import open_server

_SCENARIOS: dict[str, Callable[[Run], None]] = {
    "drain": drain.measure,
    "enqueue": enqueue.measure,
    "pickup": pickup.measure,
    "backlog": backlog.measure,
    "snapshots": snapshots.measure,
    "steady": steady.measure,
    "footprint": footprint.measure,
    "waiting": waiting.measure,
    "facade": facade.measure,
    "connections": connections.measure,
    "scale": scale.measure,
    "looks": looks.measure,
}
_RESULTS = "results.json"
_REPORT = "report.txt"
_FULL = Durations(
    rounds=3,
    run_seconds=2.5,
    short_seconds=1.5,
    workers=(1, 2, 4, 8),
    pickups=200,
    depths=(1_000, 100_000, 1_000_000),
    attempts=10_000_000,
    dead_rows=100_000,
    steady_seconds=120,
    hold_seconds=120,
    idle_seconds=20,
)
_QUICK = Durations(
    rounds=1,
    run_seconds=1,
    short_seconds=0.5,
    workers=(1, 4),
    pickups=50,
    depths=(1_000, 20_000),
    attempts=100_000,
    dead_rows=20_000,
    steady_seconds=10,
    hold_seconds=8,
    idle_seconds=5,
)


def main() -> None:
    """Measure what the command line asks for, or draw again what was measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server and the workers end with us
    options = _parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.redraw:
        _show(Results.read(options.out / _RESULTS), options.out)
    else:
        _measure(options)


def _measure(options: argparse.Namespace) -> None:
    durations = _durations(options)
    results = Results(settings=asdict(durations))
    began = time.monotonic()
    with open_server() as server:
        results.facts = server.facts()
        run = Run(server, durations, results, contenders_named(options.only, results))
        for name in _SCENARIOS if "all" in options.scenarios else options.scenarios:
            print(f"{name} ({time.monotonic() - began:.0f} s)", flush=True)
            _SCENARIOS[name](run)
    results.write(options.out / _RESULTS)
    _show(results, options.out)
    print(f"{time.monotonic() - began:.0f} s")


def _show(results: Results, folder: Path) -> None:
    """Print the report, write it, and draw the charts."""
    told = report(results)
    print(told)
    (folder / _REPORT).write_text(told.lstrip("\n") + "\n")
    print("\nwritten:", folder / _RESULTS, folder / _REPORT, *draw(results, folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", type=_scenario, default=["all"], help=f"all, or some of {', '.join(_SCENARIOS)}"
    )
    parser.add_argument("--quick", action="store_true", help="see that everything works; the numbers mean little")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    parser.add_argument("--redraw", action="store_true", help="measure nothing; draw and report what is in DIR")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="qg,pgbench")
    parser.add_argument("--rounds", type=int, help="runs of each figure")
    parser.add_argument("--seconds", type=int, help="how long the steady load of 800 jobs/s lasts")
    return parser


def _scenario(name: str) -> str:
    """Return *name* if there is such a scenario; argparse's own check refuses the default of a list."""
    if name not in ("all", *_SCENARIOS):
        raise argparse.ArgumentTypeError(f"there is no scenario {name!r}; there are all, {', '.join(_SCENARIOS)}")
    return name


def _durations(options: argparse.Namespace) -> Durations:
    durations = _QUICK if options.quick else _FULL
    if options.rounds:
        durations = replace(durations, rounds=options.rounds)
    if options.seconds:
        durations = replace(durations, steady_seconds=options.seconds)
    return durations


if __name__ == "__main__":
    main()
