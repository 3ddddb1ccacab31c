"""What was measured: runs, their medians, the ratios between contenders, and what failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

__all__ = ["Figure", "Readings", "Results", "first_line"]

Readings = Mapping[str, float]


@dataclass
class Figure:
    """One number of one contender: all runs of it count, the median stands for them.

    Args:
        scenario: the module that measured it.
        case: the circumstances, such as "one by one, 4 workers"; the same for all contenders.
        contender: whose it is.
        unit: such as "jobs/s".
        runs: the measured values in their order.
    """

    scenario: str
    case: str
    contender: str
    unit: str
    runs: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of all runs."""
        return median(self.runs)


@dataclass
class Results:
    """All that one run of the benchmark found.

    ``facts`` are the machine and the server, ``settings`` the durations; ``versions`` and ``ways``
    are those of the contenders. ``series`` has, for charts, what was measured over time: by
    scenario, contender and name, the values of one second after the other.
    """

    facts: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    ways: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    series: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, scenario: str, case: str, contender: str, unit: str, value: float) -> None:
        """Add one run to its figure, and print it."""
        figure = self.find(scenario, case, contender)
        if figure is None:
            figure = Figure(scenario, case, contender, unit)
            self.figures.append(figure)
        figure.runs.append(value)
        print(f"  {scenario}: {case}: {contender}: {value:,.2f} {unit}", flush=True)

    def fail(self, line: str) -> None:
        """Note that something couldn't be measured, and why; the run goes on."""
        self.failures.append(line)
        print(f"  not measured: {line}", flush=True)

    def find(self, scenario: str, case: str, contender: str) -> Figure | None:
        """Return a figure, or None if nothing was measured."""
        wanted = (scenario, case, contender)
        return next((each for each in self.figures if (each.scenario, each.case, each.contender) == wanted), None)

    def value(self, scenario: str, case: str, contender: str = "qg") -> float | None:
        """Return a figure's median, or None if nothing was measured."""
        figure = self.find(scenario, case, contender)
        return figure.median if figure else None

    def of(self, scenario: str) -> list[Figure]:
        """Return the figures of *scenario* in the order in which they were measured."""
        return [each for each in self.figures if each.scenario == scenario]

    def alternate(
        self,
        scenario: str,
        case: str,
        unit: str | Mapping[str, str],
        rounds: int,
        runs: Mapping[str, Callable[[], float | Readings]],
    ) -> None:
        """Measure one run of each contender, then the next of each, so that a drift of the machine meets all.

        A run returns its value, or several by what is to be added to *case*; then *unit* may be a
        unit for each. A contender that fails is left out from then on.
        """
        left = dict(runs)
        for _ in range(rounds):
            for contender, run in list(left.items()):
                try:
                    told = run()
                    readings = told if isinstance(told, Mapping) else {"": told}
                    for what, value in readings.items():
                        told_in = unit if isinstance(unit, str) else unit[what]
                        self.add(scenario, f"{case}, {what}" if what else case, contender, told_in, value)
                except Exception as error:  # whatever an opponent comes up with; it is in the report
                    del left[contender]
                    self.fail(f"{scenario}: {case}: {contender}: {first_line(error)}")

    def write(self, path: Path) -> None:
        """Write everything as JSON, the medians included."""
        told = asdict(self)
        for figure, each in zip(told["figures"], self.figures, strict=True):
            figure["median"] = each.median
        path.write_text(json.dumps(told, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return what write() wrote to *path*."""
        told = json.loads(path.read_text())
        for figure in told["figures"]:
            del figure["median"]
        return cls(**{**told, "figures": [Figure(**figure) for figure in told["figures"]]})


def first_line(error: Exception) -> str:
    """Return what *error* says on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
