"""Prints the score of the tables; writes docs/law.md if all of them were asked for.

The exit status is 1 if a mutant survived for which there is no explanation, or if an explanation fits no survivor.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tools.law.mutants import mutants, sample
from tools.law.runner import run
from tools.law.score import Score, page, summary
from tools.law.suites import SUITES

PAGE: Final = Path(__file__).parents[2] / "docs" / "law.md"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.law", description=__doc__)
    parser.add_argument("table", nargs="*", help="only these tables")
    parser.add_argument("--sample", type=int, metavar="N", help="the coarsest and every N-th mutant, by the fast tests")
    given = parser.parse_args(arguments)
    if unknown := set(given.table) - {suite.name for suite in SUITES}:
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    began = time.monotonic()
    scores: list[Score] = []
    for suite in SUITES:
        if not given.table or suite.name in given.table:
            chosen = mutants(suite.table) if given.sample is None else sample(suite.table, given.sample)
            scores.append(Score(suite, run(suite, tuple(chosen), is_sample=given.sample is not None)))
            sys.stdout.writelines(f"{line}\n" for line in summary(scores[-1]))
            sys.stdout.flush()
    faults = [fault for score in scores for fault in _faults(score, is_whole=given.sample is None)]
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    if not given.table and given.sample is None:
        PAGE.write_text(page(scores))
    sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")
    return 1 if faults else 0


def _faults(score: Score, *, is_whole: bool) -> Iterator[str]:
    for fate in score.unexplained:
        yield f"{score.suite.name}: SURVIVED, unexplained: {fate.mutant.name}"
    if is_whole:
        for pattern in score.idle_explanations:
            yield f"{score.suite.name}: EXPLAINED, but killed: {pattern}"


if __name__ == "__main__":
    sys.exit(main())
