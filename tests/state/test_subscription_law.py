"""A consumer's subscription in each of its states, under any two moves of its user, the broker and the link."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from anyamqp.protocol.lifecycle.consumer import ConsumerState
from anyamqp.protocol.subscription import OnCancel
from support.subscribing import World

KINDS: list[tuple[str, OnCancel]] = [
    ("plain", "raise"),
    ("plain", "resubscribe"),
    ("plain", "end"),
    ("no_ack", "raise"),
    ("exclusive", "raise"),
    ("stream", "raise"),
]
WAYS: dict[str, Sequence[str]] = {
    "SUBSCRIBING": ("enter", "lose", "link", "deliver"),
    "AWAITING_QUEUE": ("enter", "room", "lose", "link", "cancel"),
    "CONSUMING": ("enter", "open", "deliver"),
    "ASKING": ("enter", "open", "deliver", "cancel"),
    "RESUBSCRIBING": ("enter", "open", "lose", "link", "deliver"),
    "AWAITING_RETURN": ("enter", "open", "lose", "link", "cancel"),
    "STOPPING": ("enter", "open", "deliver", "stop"),
    "ENDED": ("enter", "open", "deliver", "stop", "cancel-ok"),
    "NEVER_CONSUMED": ("enter", "stop"),
}
"""Moves that lead to each state."""


def after(world: World, moves: Sequence[str]) -> World:
    for move in moves:
        world.moves()[move]()
        world.check_settled()
    return world


@pytest.mark.parametrize(("kind", "on_cancel"), KINDS)
@pytest.mark.parametrize("state", WAYS)
def test_any_two_moves_keep_the_promises(state: str, kind: str, on_cancel: OnCancel) -> None:
    """Invariants 2 and 8."""
    if (state, on_cancel) == ("ASKING", "resubscribe"):
        return  # it does not ask

    def begin(*moves: str) -> World:
        world = World(
            on_cancel,
            no_ack=kind == "no_ack",
            exclusive=kind == "exclusive",
            stream_offset="next" if kind == "stream" else None,
        )
        return after(world, (*WAYS[state], *moves))

    world = begin()
    assert world.core.state is ConsumerState[state]
    for first in world.moves():
        for second in begin(first).moves():
            begin(first, second)
