"""A failed world for people: its seed, its plan, and its transitions as a sequence diagram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tools.simulate.world import Entry, Outcome

_SHOWN: Final = 60
"""Lines of the log in a diagram: the last ones."""


def failure(outcome: Outcome) -> str:
    """The text of a failure.

    Args:
        outcome: the world, shrunk or not.
    """
    plan = outcome.plan
    lines = [
        f"seed {plan.seed} on {outcome.backend}, step {outcome.steps}: {outcome.violation}",
        f"{plan.minutes:.2f} virtual minutes, heartbeat {plan.heartbeat} s",
        *(f"    {actor}" for actor in plan.actors),
        *(f"    {fault}" for fault in plan.faults),
        "",
        diagram(outcome),
    ]
    return "\n".join(lines)


def diagram(outcome: Outcome) -> str:
    """The end of a world's log as a sequence diagram, in Mermaid's language."""
    shown = outcome.log[-_SHOWN:]
    names = dict.fromkeys(entry.who for entry in shown if entry.who not in {"faults", "world"})
    lines = [
        "sequenceDiagram",
        *(f"    participant {_name(name)} as {name}" for name in names),
        "    participant Broker",
        *(f"    {line}" for entry in shown for line in _lines(entry)),
    ]
    return "\n".join(lines)


def _lines(entry: Entry) -> Iterator[str]:
    text = f"{entry.at:.3f} s {entry.text}".replace(";", ",").replace("->", "to").replace("#", "")
    if entry.who == "faults":
        yield f"Note over Broker: {text}"
    elif entry.who == "world":
        yield f"Note over Broker: world: {text}"
    elif entry.who.startswith("connection") and " link " in text:
        yield f"{_name(entry.who)}->>Broker: {text}"
    else:
        yield f"Note over {_name(entry.who)}: {text}"


def _name(who: str) -> str:
    return who.replace(" ", "_").replace(":", "_")
