"""Plants each bug and prints which test finds it; writes docs/planted.md if all of them were asked for.

The exit status is 1 if fewer than 48 of the bugs are found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tools.planted.bugs import BUGS
from tools.planted.runner import Fate, run

PAGE: Final = Path(__file__).parents[2] / "docs" / "planted.md"
LEAST: Final = 48


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.planted", description=__doc__)
    parser.add_argument("words", nargs="?", default="", help="only the bugs whose name contains this")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="how many bugs are tried at the same time")
    given = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if given.words in bug.name]
    found: dict[str, str | None] = {}
    with ThreadPoolExecutor(given.workers) as pool:
        for fate in pool.map(run, [None, *bugs]):
            sys.stdout.write(f"{fate.seconds:5.0f} s  {_line(fate)}\n")
            sys.stdout.flush()
            if fate.bug is not None:
                found[fate.bug.name] = fate.found_by
            elif fate.found_by is not None:
                sys.stdout.write("The tests must pass on the sources as they are; no bug was tried.\n")
                pool.shutdown(cancel_futures=True)
                return 2
    count = sum(test is not None for test in found.values())
    sys.stdout.write(f"{count} of {len(found)} found\n")
    if given.words:
        return 0
    PAGE.write_text(_page(found, count))
    return 0 if count >= LEAST else 1


def _line(fate: Fate) -> str:
    if fate.bug is None:
        return "no bug: all tests pass" if fate.found_by is None else f"no bug: {fate.found_by} fails"
    return f"{fate.bug.name}: {'NOT FOUND' if fate.found_by is None else f'found by {fate.found_by}'}"


def _page(found: Mapping[str, str | None], count: int) -> str:
    rows = "\n".join(
        f"| {bug.name} | `{bug.path}` | {f'`{test}`' if (test := found[bug.name]) else 'not found'} |" for bug in BUGS
    )
    return f"""# Planted bugs

`make planted` writes this page. It plants one bug at a time in a copy of the sources and runs the fast tests, those
that start no RabbitMQ, until one fails; without a bug all of them pass. The bugs were written from the sources, without
a look at the tests (`tools/planted/bugs.py`). **{count} of {len(found)} are found.**

| bug | file | found by |
| --- | --- | --- |
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
