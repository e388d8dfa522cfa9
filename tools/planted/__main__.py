"""Plants each bug and prints which test finds it; writes docs/planted.md if all of them were asked for.

The exit status is 1 if fewer than 48 of the bugs are found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.planted.bugs import BUGS
from tools.planted.runner import Fate, run

PAGE: Final = Path(__file__).parents[2] / "docs" / "planted.md"
LEAST: Final = 48


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.planted", description=__doc__)
    parser.add_argument("words", nargs="?", default="", help="only the bugs whose name contains this")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that run the tests of one bug")
    given = parser.parse_args(arguments)
    fates: list[Fate] = []
    for bug in BUGS:
        if given.words in bug.name:
            fates.append(run(bug, given.workers))
            sys.stdout.write(f"{_line(fates[-1])}\n")
            sys.stdout.flush()
    found = sum(fate.found_by is not None for fate in fates)
    sys.stdout.write(f"{found} of {len(fates)} found\n")
    if given.words:
        return 0
    PAGE.write_text(_page(fates, found))
    return 0 if found >= LEAST else 1


def _line(fate: Fate) -> str:
    found = "NOT FOUND" if fate.found_by is None else f"found by {fate.found_by}"
    return f"{fate.seconds:5.0f} s  {fate.bug.name}: {found}"


def _page(fates: Sequence[Fate], found: int) -> str:
    rows = "\n".join(
        f"| {fate.bug.name} | `{fate.bug.path}` | {f'`{fate.found_by}`' if fate.found_by else 'not found'} |"
        for fate in fates
    )
    return f"""# Planted bugs

`make planted` writes this page. It plants one bug at a time in a copy of the sources and runs the fast tests, those
that start no RabbitMQ, until one fails. The bugs were written from the sources, without a look at the tests
(`tools/planted/bugs.py`). **{found} of {len(fates)} are found.** Another run may name other tests, because they run in
parallel.

| bug | file | found by |
| --- | --- | --- |
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
