"""The report as text: where it was measured, every figure with its ratio, every promise, and what failed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from benchmarks.results import Figure, Results
from benchmarks.targets import verdicts

__all__ = ["report"]


def report(results: Results) -> str:
    """Return the whole report."""
    return "\n".join([*_circumstances(results), *_figures(results), *_promises(results), *_failures(results)])


def _circumstances(results: Results) -> Iterator[str]:
    yield ""
    for name, value in results.facts.items():
        yield f"{name:22} {value}"
    for name, setting in results.settings.items():
        yield f"{name:22} {setting}"
    yield ""
    for name, version in results.versions.items():
        ways = "; ".join(f"{way}: {label}" for way, label in results.ways.get(name, {}).items())
        yield f"{name:22} {version:10} {ways}"


def _figures(results: Results) -> Iterator[str]:
    for scenario, figures in groupby(results.figures, key=lambda figure: figure.scenario):
        yield f"\n{scenario:46}{'median':>14}{'least':>12}{'most':>12}   qg to it"
        for case, of_case in groupby(_by_case(list(figures)), key=lambda figure: figure.case):
            yield f"  {case}"
            ours = results.value(scenario, case)
            for figure in of_case:
                yield _line(figure, ours)


def _by_case(figures: list[Figure]) -> list[Figure]:
    """Return *figures* with those of one case together, the cases in the order in which they came up."""
    cases = list(dict.fromkeys(figure.case for figure in figures))
    return sorted(figures, key=lambda figure: cases.index(figure.case))


def _line(figure: Figure, ours: float | None) -> str:
    numbers = f"{_number(figure.median):>12}{_number(min(figure.runs)):>12}{_number(max(figure.runs)):>12}"
    known = ours is not None and figure.median and figure.contender != "qg"
    ratio = f"{(ours or 0) / figure.median:8.2f} ×" if known else ""
    return f"    {figure.contender:24}{figure.unit:>20}{numbers}{ratio}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _promises(results: Results) -> Iterator[str]:
    """Yield the promises as a table in Markdown, so that they can be pasted into docs/performance.md."""
    yield ""
    yield _row("", "target", "found", "met")
    yield "|---|---|---|---|"
    found = [verdict for verdict in verdicts(results) if verdict.found]
    for verdict in found:
        yield _row(verdict.about, verdict.promised, verdict.found or "", "yes" if verdict.kept else "**no**")
    unknown = len(verdicts(results)) - len(found)
    if unknown:
        yield f"\n{unknown} targets are about what this run didn't measure"


def _row(about: str, promised: str, found: str, met: str) -> str:
    return f"| {about:52} | {promised:38} | {found:35} | {met:6} |"


def _failures(results: Results) -> Iterator[str]:
    if results.failures:
        yield "\nnot measured"
        yield from (f"  {line}" for line in results.failures)
