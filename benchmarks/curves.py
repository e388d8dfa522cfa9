"""Growth as a picture: a panel for each thing that grows, a line for each series, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.picture import STYLE
from benchmarks.summary import Spread

matplotlib = import_module("matplotlib")  # half of it has no types: taken by name, it is Any and not unknown

_COLUMNS = 2
_COLOURS = ("#1f6f8b", "#d98c5f")


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the picture.

    Attributes:
        title: the quantity that grows, and the unit of its cost.
        lines: of each series, by its name, the cost at each value.
        ticks: the values, as the x axis names them; a value of 0 stands where the axis ends.
    """

    title: str
    lines: Mapping[str, Mapping[int, Spread]]
    ticks: Mapping[int, str]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the picture. The same figures give the same bytes."""
    rows = -(-len(panels) // _COLUMNS)
    ticker = import_module("matplotlib.ticker")
    with matplotlib.rc_context(STYLE):
        figure = import_module("matplotlib.figure").Figure(figsize=(10, 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            axes.set_title(panel.title, loc="left", fontsize=9)
            for colour, (name, line) in zip(_COLOURS, panel.lines.items(), strict=False):
                _line(axes, colour, name, _places(line, panel), list(line.values()))
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(_places(panel.ticks, panel), list(panel.ticks.values()), fontsize=7)
            axes.xaxis.set_minor_locator(ticker.NullLocator())
            axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
            axes.yaxis.set_minor_formatter(ticker.NullFormatter())
            top = max(spread.high for line in panel.lines.values() for spread in line.values())
            axes.set_ylim(1, 10 * top)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, loc="best")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        figure.savefig(path, format="svg", metadata={"Date": None})


def _places(values: Mapping[int, object], panel: Panel) -> list[float]:
    # A logarithmic axis has no 0: it stands a decade below the least.
    least = min(value for value in panel.ticks if value)
    return [value or least / 10 for value in values]


def _line(axes: Any, colour: str, name: str, places: Sequence[float], spreads: Sequence[Spread]) -> None:
    medians = [spread.median for spread in spreads]
    ends = [[one.median - one.low for one in spreads], [one.high - one.median for one in spreads]]
    axes.errorbar(places, medians, yerr=ends, color=colour, marker="o", markersize=3, capsize=2, label=name)
