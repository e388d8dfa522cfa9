"""Where the pages of the measurements are kept, and the raw figures behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ASIDE = ROOT / "build" / "benchmarks"
"""For short looks, which are not kept."""

_RESULTS = ROOT / "benchmarks" / "results"


def write_raw(folder: Path, name: str, raw: Mapping[str, object]) -> None:
    """Keep the raw figures of the page ``name`` in ``folder``."""
    path = raw_of(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw, indent=1) + "\n")


def raw_of(folder: Path, name: str) -> Path:
    """The file of raw figures of the page ``name`` in ``folder``."""
    return (_RESULTS if folder == DOCS else folder / "results") / f"{name}.json"


def folder_of(raw: Path) -> Path:
    """The folder of the page that a file of raw figures is for."""
    folder = raw.resolve().parent
    return DOCS if folder == _RESULTS else folder.parent


def link_to_raw(name: str) -> str:
    """A link from the page ``name`` to its raw figures."""
    return f"[benchmarks/results/{name}.json](../benchmarks/results/{name}.json)"
