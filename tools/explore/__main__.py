"""Explores all scenarios, plants the bugs, prints the counts, and writes docs/explore.md.

The exit status is 1 if a property does not hold, an event that must be reached is not, or a planted bug is not found.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.explore.bugs import BUGS
from tools.explore.report import Find, bug_line, diagram, missing, page, summary
from tools.explore.scenarios import DEEP
from tools.explore.search import Exploration, explore, few_collections

PAGE: Final = Path(__file__).parents[2] / "docs" / "explore.md"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.explore", description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="how many processes")
    workers: int = parser.parse_args(arguments).workers
    with few_collections():
        return _explore_all(workers)


def _explore_all(workers: int) -> int:
    begun = time.monotonic()
    explorations: list[Exploration] = []
    for scenario in DEEP:
        found = explore(scenario, workers=workers)
        explorations.append(found)
        _print(summary(found))
        if found.broken is not None:
            _print(*found.broken.path, "", diagram(scenario, found.broken))
    finds: list[Find] = []
    for bug in BUGS:
        with bug.plant():
            finds.append(Find(bug, explore(bug.scenario, workers=workers)))
        _print(bug_line(finds[-1]))
    unreached = missing(explorations)
    _print(*(f"NOT REACHED: {fact}" for fact in unreached))
    PAGE.write_text(page(explorations, finds))
    _print(f"{sum(found.transitions for found in explorations)} transitions, {time.monotonic() - begun:.0f} s")
    holds = all(found.broken is None for found in explorations)
    return 0 if holds and not unreached and all(find.is_found for find in finds) else 1


def _print(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
