"""Tables written by hand, to compare with the real ones."""

from __future__ import annotations

from collections.abc import Iterator


def cells_of(plan: str) -> Iterator[tuple[str, str, str]]:
    """State, event and target of each cell of a plan.

    Args:
        plan: the events in the first line; below it a line for each state, with the target of each event.
    """
    head, *rows = plan.strip().splitlines()
    for row in rows:
        state, *targets = row.split()
        for event, target in zip(head.split(), targets, strict=True):
            yield state, event, target
