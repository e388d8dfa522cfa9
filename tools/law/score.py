"""The score of a table, for the terminal and for docs/law.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from tools.law.mutants import KINDS
from tools.law.runner import Fate
from tools.law.suites import Suite

_HEAD: Final = """\
# The tables under mutation

`make law` writes this page. It changes one cell of a table at a time (and once all absent cells together) and runs the
tests of the objects that follow the table. A mutant is killed when a test fails that made a real object enter the
cell; tests that only read a table do not count. "Timed out" are mutants whose tests did not come to an end.

Each figure is killed of all. The kinds:

- **refuse nothing**: all absent cells are ignored, in one mutant;
- **row absent**: the event of a row is refused;
- **row redirected**: a row leads to another state, each in turn;
- **effect dropped**, **effects swapped**: one effect of a row is missing, or two neighbours change places;
- **ignored absent**: an ignored event is refused;
- **absent ignored**: an event that cannot happen is ignored.
"""


class Score:
    """What became of the mutants of one table.

    Args:
        suite: the table.
        fates: of its mutants.
    """

    def __init__(self, suite: Suite, fates: Sequence[Fate]) -> None:
        self.suite: Suite = suite
        self.fates: Sequence[Fate] = fates
        survivors = [fate for fate in fates if fate.verdict == "survived"]
        self.explained: dict[str, list[Fate]] = {
            pattern: [fate for fate in survivors if fnmatchcase(fate.mutant.name, pattern)]
            for pattern in suite.equivalent
        }
        """The survivors that each explanation fits."""
        known = {id(fate) for fates in self.explained.values() for fate in fates}
        self.unexplained: list[Fate] = [fate for fate in survivors if id(fate) not in known]

    @property
    def idle_explanations(self) -> list[str]:
        """Explanations that fit no survivor."""
        return [pattern for pattern, fates in self.explained.items() if not fates]

    def of_kind(self, kind: str) -> tuple[int, int]:
        """How many mutants of a kind were killed or timed out, and how many there are."""
        fates = [fate for fate in self.fates if fate.mutant.kind == kind]
        return sum(fate.verdict != "survived" for fate in fates), len(fates)

    def count(self, verdict: str) -> int:
        """How many mutants ended like this."""
        return sum(fate.verdict == verdict for fate in self.fates)


def summary(score: Score) -> Iterator[str]:
    """Lines for the terminal."""
    killed, timed_out, survived = map(score.count, ("killed", "timed out", "survived"))
    yield (
        f"{score.suite.name}: {len(score.fates)} mutants, {killed} killed, {timed_out} timed out, {survived} survived, "
        f"{len(score.unexplained)} of them unexplained"
    )
    for fate in score.fates:
        if fate.verdict == "timed out":
            yield f"    {fate.mutant.name}: timed out"
    for pattern, fates in score.explained.items():
        for fate in fates:
            yield f"    {fate.mutant.name}: {score.suite.equivalent[pattern]}"


def page(scores: Sequence[Score]) -> str:
    """The text of docs/law.md."""
    return "\n".join([_HEAD, *_table(scores), "", "## Survivors", "", *_survivors(scores)]) + "\n"


def _table(scores: Sequence[Score]) -> Iterator[str]:
    yield f"| table | {' | '.join(KINDS)} | all | timed out | survived |"
    yield "|---|" + "---:|" * (len(KINDS) + 3)
    for score in scores:
        cells = [f"{killed} of {count}" if count else "" for killed, count in map(score.of_kind, KINDS)]
        survived = score.count("survived")
        cells += [f"{len(score.fates) - survived} of {len(score.fates)}", str(score.count("timed out")), str(survived)]
        yield f"| {score.suite.name} | {' | '.join(cells)} |"


def _survivors(scores: Sequence[Score]) -> Iterator[str]:
    yield "Each makes no difference, for the reason given."
    yield ""
    for score in scores:
        for pattern, fates in score.explained.items():
            names = "; ".join(f"`{fate.mutant.name}`" for fate in fates)
            if names:
                yield f"- {score.suite.name}: {names}: {score.suite.equivalent[pattern]}"
        for fate in score.unexplained:
            yield f"- {score.suite.name}: `{fate.mutant.name}`: **not explained**"
