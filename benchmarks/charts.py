"""The charts: one PNG for each scenario that was measured."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.results import Figure, Results

__all__ = ["draw"]

_COLOURS = {
    "qg": "#c8102e",
    "qg connections=2": "#e8743b",
    "qg.aio": "#7a0019",
    "qg.jobs": "#e377c2",
    "qg.jobs connections=2": "#8c3a76",
    "pgbench": "#555555",
    "pgbench -M prepared": "#999999",
    "procrastinate": "#e6a700",
    "pgqueuer": "#2f7ed8",
    "oban": "#17a2a2",
    "graphile-worker": "#2e8b57",
    "pg-boss": "#8e5ea2",
}
_LINES = {
    "backlog": "jobs waiting",
    "dead_rows": "dead rows",
    "take_p50_ms": "taking, p50, ms",
    "take_p99_ms": "taking, p99, ms",
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw every scenario into *folder* and return the files."""
    drawn = []
    for scenario in dict.fromkeys(figure.scenario for figure in results.figures):
        path = folder / f"{scenario}.png"
        if scenario in results.series:
            _draw_series(results.series[scenario], scenario, path)
        else:
            _draw_bars(results.of(scenario), scenario, path)
        drawn.append(path)
    return drawn


def _draw_bars(figures: list[Figure], scenario: str, path: Path) -> None:
    """Draw a panel of bars for each first part of the cases, or for each case where units differ."""
    panels: dict[str, dict[str, list[Figure]]] = {}
    alike = len({figure.unit for figure in figures}) == 1
    for figure in figures:
        panel, _, group = figure.case.partition(", ") if alike else (figure.case, "", "")
        panels.setdefault(panel, {}).setdefault(group, []).append(figure)
    columns = min(2 if alike else 5, len(panels))
    rows = math.ceil(len(panels) / columns)
    picture, grid = plt.subplots(rows, columns, figsize=(7 * columns if alike else 18, 4.2 * rows), squeeze=False)
    for axes, (title, groups) in zip(grid.flat, panels.items(), strict=False):
        _bars(axes, title, groups)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    _legend(picture, [figure.contender for figure in figures])
    _finish(picture, scenario, path)


def _bars(axes: Axes, title: str, groups: dict[str, list[Figure]]) -> None:
    names = list(dict.fromkeys(figure.contender for group in groups.values() for figure in group))
    width = 0.8 / len(names)
    for place, group in enumerate(groups.values()):
        for figure in group:
            x = place - 0.4 + (names.index(figure.contender) + 0.5) * width
            middle = figure.median
            spread = [[max(0.0, middle - min(figure.runs))], [max(0.0, max(figure.runs) - middle)]]
            axes.bar(x, middle, width, color=_COLOURS[figure.contender], yerr=spread, capsize=2, ecolor="#00000080")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_title(title.replace(", per 1000 jobs", "\nper 1000 jobs"))
    axes.set_ylabel(next(iter(groups.values()))[0].unit)
    axes.grid(axis="y", alpha=0.3)


def _draw_series(series: dict[str, dict[str, list[float]]], scenario: str, path: Path) -> None:
    """Draw one panel over time for each thing that was watched."""
    watched = [name for name in _LINES if any(name in lines for lines in series.values())]
    picture, grid = plt.subplots(len(watched), 1, figsize=(12, 2.6 * len(watched)), sharex=True, squeeze=False)
    for axes, name in zip(grid.flat, watched, strict=True):
        for contender, lines in series.items():
            if name in lines:
                axes.plot(range(1, len(lines[name]) + 1), lines[name], color=_COLOURS[contender])
        axes.set_ylabel(_LINES[name])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    grid.flat[-1].set_xlabel("seconds")
    _legend(picture, list(series))
    _finish(picture, scenario, path)


def _legend(picture, contenders: list[str]) -> None:  # type: ignore[no-untyped-def]
    names = list(dict.fromkeys(contenders))
    handles = [plt.Rectangle((0, 0), 1, 1, color=_COLOURS[name]) for name in names]
    picture.legend(handles, names, loc="lower center", ncols=len(names), frameon=False)


def _finish(picture, scenario: str, path: Path) -> None:  # type: ignore[no-untyped-def]
    picture.suptitle(f"qg benchmarks: {scenario}")
    picture.tight_layout(rect=(0, 0.05, 1, 1))
    picture.savefig(path, dpi=110)
    plt.close(picture)
