"""The results as a picture: a panel for each case, a bar for each client. The same results give the same bytes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.cases import CASES, CLIENTS, RAW, Client
from benchmarks.summary import Summary

matplotlib = import_module("matplotlib")  # half of it has no types: taken by name, it is Any and not unknown

STYLE: Final = {"svg.hashsalt": "anyamqp", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8}
"""The same figures give the same bytes."""
_COLUMNS = 2
_OURS, _LIMIT, _OTHERS = "#1f6f8b", "#bbbbbb", "#d98c5f"


def draw(summary: Summary, path: Path) -> None:
    """Write the picture."""
    cases = [case for case in CASES if summary.has(case)]
    if not cases:
        return
    rows = -(-len(cases) // _COLUMNS)
    with matplotlib.rc_context(STYLE):
        # Figure and canvas themselves, not pyplot: it would look for a screen.
        figure = import_module("matplotlib.figure").Figure(figsize=(10, 2.3 * rows), layout="constrained")
        grid = figure.subplots(rows, _COLUMNS, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(cases):
                axes.set_axis_off()
                continue
            case = cases[place]
            less = ", less is better" if case.unit == "µs" else ""
            axes.set_title(f"{case.title} ({case.unit}{less})", loc="left", fontsize=9)
            clients = [client for client in CLIENTS if summary.figure(case, client) is not None]
            for row, client in enumerate(clients):
                _bar(axes, row, client, summary.figure(case, client))
            axes.set_yticks(range(len(clients)), [client.name for client in clients])
            axes.invert_yaxis()
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_formatter(import_module("matplotlib.ticker").StrMethodFormatter("{x:,.0f}"))
            axes.set_xlim(left=0)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _bar(axes: Any, row: int, client: Client, figure: Any) -> None:
    colour = _OURS if client.is_ours else _LIMIT if client.name == RAW else _OTHERS
    ends = [[figure.median - figure.low], [figure.high - figure.median]]
    axes.barh(row, figure.median, color=colour, xerr=ends, error_kw={"elinewidth": 0.8, "capsize": 2})
