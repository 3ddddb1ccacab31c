"""What qg promises about its speed, and whether this run kept it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks import connections, drain, enqueue, facade, footprint, looks, pickup, scale, snapshots, steady, waiting
from benchmarks.contenders import (
    BATCHES,
    DOING_NOTHING,
    ONE_BY_ONE,
    QG,
    QG_AIO,
    QG_FEW,
    QG_JOBS,
    QG_JOBS_FEW,
    WRITING,
)
from benchmarks.results import Results

__all__ = ["Verdict", "verdicts"]


@dataclass(frozen=True)
class Verdict:
    """One promise: what it is about, what was promised, what was found, and whether that keeps it.

    ``found`` and ``kept`` are None where this run didn't measure it.
    """

    about: str
    promised: str
    found: str | None
    kept: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """Return a verdict for each promise."""
    parts: tuple[Callable[[Results], Iterator[Verdict]], ...] = (
        _draining,
        _enqueueing,
        _picking_up,
        _dead_rows,
        _steady,
        _backlog,
        _footprint,
        _costs,
        _waiting,
        _facade,
        _few_connections,
        _scaling,
        _looks,
    )
    return [verdict for part in parts for verdict in part(results)]


def _draining(results: Results) -> Iterator[Verdict]:
    for workers, factor in ((1, 1.0), (4, 0.8), (8, 0.8)):
        case = drain.case(ONE_BY_ONE, workers)
        ours, theirs = (results.value("drain", case, each) for each in ("qg", "pgbench"))
        yield _ratio(case, ours, theirs, factor, "pgbench's take-one")
    ours = _best(results, "qg")
    for opponent, factor in (("graphile-worker", 1.2), ("pgqueuer", 2.5)):
        yield _ratio("batches, the best of each", ours, _best(results, opponent), factor, f"{opponent}'s fastest")


def _best(results: Results, contender: str) -> float | None:
    rates = [
        each.median for each in results.of("drain") if each.contender == contender and each.case.startswith(BATCHES)
    ]
    return max(rates, default=None)


def _enqueueing(results: Results) -> Iterator[Verdict]:
    for case, opponent, factor in (
        (enqueue.SINGLE, "pgbench", 0.9),
        (enqueue.BULK, "pg-boss", 2.0),
        (enqueue.BULK, "pgqueuer", 3.0),
    ):
        ours, theirs = (results.value("enqueue", case, each) for each in ("qg", opponent))
        yield _ratio(f"enqueue, {case}", ours, theirs, factor, opponent)


def _picking_up(results: Results) -> Iterator[Verdict]:
    for percentile, limit in (("p50", 3.0), ("p99", 10.0)):
        case = pickup.case(1, percentile)
        ours = results.value("pickup", case)
        yield _at_most(f"pickup, {case}", ours, limit, "ms")
        others = [each for each in results.of("pickup") if each.case == case and each.contender != "qg"]
        if ours is not None and others:
            best = min(others, key=lambda figure: figure.median)
            found = f"{ours:.2f} ms; {best.contender} {best.median:.2f} ms"
            yield Verdict(f"pickup, {case}", "better than every opponent", found, ours < best.median)


def _dead_rows(results: Results) -> Iterator[Verdict]:
    for way in (ONE_BY_ONE, BATCHES):
        behind, clean = (
            results.value("snapshots", snapshots.case(way, state)) for state in (snapshots.DEAD, snapshots.CLEAN)
        )
        yield _ratio(f"behind dead rows, {way}", behind, clean, 0.85, "its own clean rate")


def _steady(results: Results) -> Iterator[Verdict]:
    yield _at_most("800 jobs/s under snapshots, taking", results.value("steady", steady.WORST_P99), 5.0, "ms")
    yield _at_most("800 jobs/s under snapshots, backlog", results.value("steady", steady.LEFT), 0, "jobs in the end")


def _backlog(results: Results) -> Iterator[Verdict]:
    for way in (ONE_BY_ONE, BATCHES):
        found = [each for each in results.of("backlog") if each.contender == "qg" and each.case.startswith(way)]
        # Against the best of the others: at the least, what puts the jobs back may be what limits batches.
        deepest = found[-1].median if len(found) > 1 else None
        best = max((each.median for each in found[:-1]), default=None)
        about = found[-1].case if found else way
        yield _ratio(f"backlog, {about}", deepest, best, 0.95, "the best with fewer")


def _footprint(results: Results) -> Iterator[Verdict]:
    yield _at_most("pool of 8 at rest", results.value("footprint", footprint.IDLE_CPU), 0.5, "% of a core")
    yield _at_most("pool of 8 at rest", results.value("footprint", footprint.IDLE_MEMORY), 60.0, "MB")


def _costs(results: Results) -> Iterator[Verdict]:
    batches = 1000 / 500
    for way, what, limit in (
        (ONE_BY_ONE, footprint.ROUND_TRIPS, 1000.0),
        (ONE_BY_ONE, footprint.WRITES, 1000.0),
        (BATCHES, footprint.ROUND_TRIPS, 2 * batches),
        (BATCHES, footprint.WRITES, batches),
    ):
        # Autovacuum's own transactions are among them, and the batches that the end of a run cut short.
        found = results.value("footprint", footprint.case(way, what))
        kept = None if found is None else found <= 1.05 * limit
        told = None if found is None else f"{found:,.1f}"
        yield Verdict(f"{way}, {what} per 1000 jobs", f"{limit:,.0f}", told, kept)


def _waiting(results: Results) -> Iterator[Verdict]:
    for at_once in waiting.AT_ONCE:
        for pool in (QG_FEW.name, QG_AIO.name):
            about = f"{at_once:,} at once that wait, {pool}"
            share, opened = (
                results.value("waiting", waiting.case(at_once, what), pool)
                for what in (waiting.SHARE, waiting.CONNECTIONS)
            )
            yield _ratio(about, share, 1.0, 0.9, "what waiting allows")
            yield _at_most(about, opened, 4, "connections")
        case = waiting.case(at_once, waiting.RATE)
        ours = results.value("waiting", case, QG_AIO.name)
        others = [each for each in results.of("waiting") if each.case == case and not each.contender.startswith("qg")]
        if ours is not None and others:
            best = max(others, key=lambda figure: figure.median)
            found = f"{ours:,.0f} jobs/s; {best.contender} {best.median:,.0f} jobs/s"
            about = f"{at_once:,} at once that wait, {QG_AIO.name}"
            yield Verdict(about, "ahead of every opponent", found, ours > best.median)


def _facade(results: Results) -> Iterator[Verdict]:
    case = facade.case(DOING_NOTHING, facade.DEFAULT_WORKERS)
    ours = results.value("facade", case, QG_JOBS.name)
    core = _most(results.value("facade", facade.case(DOING_NOTHING, each)) for each in facade.WORKERS[DOING_NOTHING])
    yield _at_least("qg.jobs, default, jobs do nothing", ours, 10_000, "jobs/s")
    yield _ratio("qg.jobs, default, jobs do nothing", ours, core, 0.5, "the core's batches, the best")
    for workers in facade.WORKERS[WRITING]:
        case = facade.case(WRITING, workers)
        for theirs, its_core, told in ((QG_JOBS, QG, "ctx.tx"), (QG_JOBS_FEW, QG_FEW, "ctx.tx, connections=2")):
            ours, core = (results.value("facade", case, each.name) for each in (theirs, its_core))
            yield _ratio(f"{case}, {told}", ours, core, 0.8, "the core's job.tx")


def _few_connections(results: Results) -> Iterator[Verdict]:
    ours = results.value("connections", connections.case(connections.WORKERS), QG_FEW.name)
    best = _most(results.value("connections", connections.case(workers)) for workers in connections.BATCHING)
    yield _ratio(f"connections=2, {connections.WORKERS} workers", ours, best, 0.8, "batches of 500, the best")


def _scaling(results: Results) -> Iterator[Verdict]:
    for way in scale.WAYS:
        rates = {workers: results.value("scale", scale.case(way, workers)) for workers in scale.WORKERS}
        best = _most(rates.values())
        for workers in scale.MANY:
            yield _ratio(f"batches of 100, {scale.case(way, workers)}", rates[workers], best, 0.9, "the best number")


def _looks(results: Results) -> Iterator[Verdict]:
    for version in looks.VERSIONS:
        for look in (*looks.LOOKS, looks.BY_ID):
            if look == looks.HISTORY and version != looks.VERSIONS[-1]:
                continue
            about = looks.case(version, look)
            # A checkup is a dozen looks, and nobody waits for it.
            limit = 1000.0 if look == "checkup" else 100.0
            yield _at_most(f"look, {about}", results.value("looks", about), limit, "ms")


def _most(rates: Iterable[float | None]) -> float | None:
    return max((rate for rate in rates if rate is not None), default=None)


def _ratio(about: str, ours: float | None, theirs: float | None, factor: float, of: str) -> Verdict:
    promised = f"≥ {factor} × {of}"
    if ours is None or not theirs:
        return Verdict(about, promised, None, None)
    return Verdict(about, promised, f"{ours / theirs:.2f} ×", ours >= factor * theirs)


def _at_least(about: str, found: float | None, limit: float, unit: str) -> Verdict:
    promised = f"≥ {limit:,g} {unit}"
    if found is None:
        return Verdict(about, promised, None, None)
    return Verdict(about, promised, f"{found:,.0f} {unit}", found >= limit)


def _at_most(about: str, found: float | None, limit: float, unit: str) -> Verdict:
    promised = f"≤ {limit:g} {unit}"
    if found is None:
        return Verdict(about, promised, None, None)
    return Verdict(about, promised, f"{found:.2f} {unit}", found <= limit)
