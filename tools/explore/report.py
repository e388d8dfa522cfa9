"""The result of explorations, for the terminal and for docs/explore.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from anyamqp.protocol.lifecycle.table import Row
from tools.explore.bugs import Bug
from tools.explore.moves import play
from tools.explore.properties import SOMETIMES, check, check_end
from tools.explore.search import Counterexample, Exploration, Path, Scenario
from tools.explore.snapshot import TABLES

_HEAD: Final = """\
# The core, explored

`make explore` writes this page. It plays every order of the user's calls, the broker's answers and errors, losses and
deadlines, breadth first and without an event loop, against the real objects of `anyamqp.protocol` and the real shells
that carry out their effects for recovery, publisher and consumer. A small model of a broker answers; a thin layer of
code stands for the supervisor and for tasks that wait. A *state* is a world of connection, recovery, link, channels,
publisher, consumer and broker, told apart by a fingerprint of all of them; a *transition* is one move in one state.
After each transition the invariants 1 to 8 and 13 of [architecture.md](architecture.md) are checked, as far as they
apply, and from each state CLOSED must be within reach: the user closes the connection, and the broker answers.

Accidents multiply the states, so each scenario has limits: *losses*, links that end without the user's doing;
*refusals*, dials that fail or are given up; *closes*, channels that the broker closes and consumers that it cancels
without a reason; *blocks*, of the connection or of one channel. "All" are a user's channel with one request, a
publisher with two publishes, and a consumer, each on a channel of its own.
"""

_CELLS: Final = """\
## Tables

The rows that real objects followed somewhere, and the others. Among these are faults of
anyamqp itself (FAILED), bytes that are not AMQP (BROKEN), and rows that the limits and depths keep out of reach.
"""


class Find(NamedTuple):
    """The result of a search for a planted bug."""

    bug: Bug
    exploration: Exploration

    @property
    def is_found(self) -> bool:
        """Whether the property broke that the bug must break."""
        broken = self.exploration.broken
        return broken is not None and self.bug.breaks in broken.error


def summary(found: Exploration) -> str:
    """A line for the terminal."""
    end = "all there are" if found.is_complete else f"depth {len(found.levels) - 1}"
    return (
        f"{found.scenario.name}: {found.states} states, {found.transitions} transitions, {end}, "
        f"{found.seconds:.0f} s CPU, {'holds' if found.broken is None else 'BROKEN: ' + found.broken.error}"
    )


def bug_line(find: Find) -> str:
    """A line for the terminal."""
    broken = find.exploration.broken
    if broken is None:
        return f"{find.bug.name}: NOT FOUND"
    verdict = "found" if find.is_found else "something else found"
    return f"{find.bug.name}: {verdict} at depth {len(broken.path)}: {broken.error}"


def reached(explorations: Sequence[Exploration]) -> dict[str, tuple[int, str]]:
    """The fewest moves to each remarkable event, and the scenario, for those that occurred."""
    fewest: dict[str, tuple[int, str]] = {}
    for found in explorations:
        for fact, path in found.facts.items():
            here = len(found.scenario.begins) + len(path), found.scenario.name
            fewest[fact] = min(fewest.get(fact, here), here)
    return fewest


def missing(explorations: Sequence[Exploration]) -> list[str]:
    """The remarkable events that did not occur."""
    return [fact for fact in SOMETIMES if fact not in reached(explorations)]


def diagram(scenario: Scenario, broken: Counterexample) -> str:
    """A counterexample as a sequence diagram, in Mermaid's language."""
    return "\n".join(
        ["sequenceDiagram", "    participant User", "    participant Client", "    participant Broker"]
    ) + ("\n" + "\n".join(f"    {line}" for line in _lines(scenario, broken.path)))


def _lines(scenario: Scenario, path: Path) -> list[str]:
    world = scenario.world()
    lines: list[str] = []
    world.journal.lines = lines
    try:
        for name in path:
            play(world, name)
        check(world)
        check_end(world)
    except Exception as error:  # noqa: BLE001 - the broken property
        lines.append(f"Note over Client, Broker: {error}")
    return [line.replace(";", ",") for line in lines]


def page(explorations: Sequence[Exploration], finds: Sequence[Find]) -> str:
    """The text of docs/explore.md."""
    parts = (_scenarios(explorations), _sometimes(explorations), _cells(explorations), _bugs(finds))
    return "\n".join([_HEAD, *(line for part in parts for line in (*part, ""))])


def _scenarios(explorations: Sequence[Exploration]) -> Iterator[str]:
    limits = "losses, refusals, closes, blocks"
    yield f"| scenario | {limits} | moves before | depth | states | transitions | CPU seconds | new states by depth |"
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    for found in explorations:
        levels, depth = ", ".join(map(str, found.levels)), str(len(found.levels) - 1)
        parts = found.scenario.parts
        cells = [
            found.scenario.name,
            f"{parts.losses}, {parts.refusals}, {parts.closes}, {parts.blocks}",
            str(len(found.scenario.begins)),
            f"{depth}, all there are" if found.is_complete else depth,
            str(found.states),
            str(found.transitions),
            f"{found.seconds:.0f}",
            levels,
        ]
        yield f"| {' | '.join(cells)} |"
    for found in explorations:
        if found.broken is not None:
            yield from ("", f"**{found.scenario.name}: {found.broken.error}**", "")
            yield from ("```mermaid", diagram(found.scenario, found.broken), "```")


def _sometimes(explorations: Sequence[Exploration]) -> Iterator[str]:
    yield from (
        "## Sometimes",
        "",
        "The exploration reaches each of these; the moves are counted from the first dial.",
        "",
    )
    yield from ("| event | fewest moves | scenario |", "|---|---:|---|")
    fewest = reached(explorations)
    for fact in SOMETIMES:
        moves, scenario = fewest.get(fact, (0, "**not reached**"))
        yield f"| {fact} | {moves} | {scenario} |"


def _cells(explorations: Sequence[Exploration]) -> Iterator[str]:
    entered = {cell for found in explorations for cell in found.cells}
    yield _CELLS
    yield from ("| table | rows followed | ignored cells entered | rows not followed |", "|---|---:|---:|---|")
    for kind, table in TABLES.items():
        rows = {place for place, cell in table.cells.items() if isinstance(cell, Row)}
        here = {(state, event) for name, state, event in entered if name == kind}
        ignored = table.cells.keys() - rows
        others = ", ".join(f"{place[0].name} {place[1].name}" for place in table.cells if place in rows - here)
        counts = f"{len(rows & here)} of {len(rows)} | {len(ignored & here)} of {len(ignored)}"
        yield f"| {kind} | {counts} | {others or 'none'} |"


def _bugs(finds: Sequence[Find]) -> Iterator[str]:
    yield from ("## Planted bugs", "", "Each is a change of one real object (`tools/explore/bugs.py`).", "")
    yield from ("| bug | scenario | found at depth | as |", "|---|---|---:|---|")
    for find in finds:
        broken = find.exploration.broken
        depth, error = ("", "**not found**") if broken is None else (str(len(broken.path)), broken.error)
        yield f"| {find.bug.name} | {find.bug.scenario.name} | {depth} | {error} |"
    longest = max((find for find in finds if find.exploration.broken), key=_depth, default=None)
    if longest is not None and (broken := longest.exploration.broken) is not None:
        yield from ("", f"The counterexample of {longest.bug.name}, as it is printed:", "", "```mermaid")
        with longest.bug.plant():
            yield diagram(longest.bug.scenario, broken)
        yield "```"


def _depth(find: Find) -> int:
    return 0 if find.exploration.broken is None else len(find.exploration.broken.path)
