"""A consumer's subscription in each of its states, under any two moves of its user, the broker and the link."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ConnectionLost,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from anyamqp.protocol.lifecycle.consumer import ConsumerState
from anyamqp.protocol.subscribing import OnCancel
from support.subscribing import World

GONE = NotFound("gone")
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


ENDINGS: dict[str, tuple[OnCancel, AnyamqpError]] = {
    "CHANNEL_CLOSED": ("raise", PreconditionFailed("late ack")),
    "LOCKED_BY_US": ("raise", ResourceLocked("locked")),
    "QUEUE_DECLARED_AGAIN": ("raise", GONE),
    "QUEUE_AWAITED": ("resubscribe", GONE),
    "QUEUE_GONE": ("end", GONE),
    "NOT_FOUND": ("raise", GONE),
    "REFUSED": ("raise", ChannelClosed("closed")),
    "LOST": ("raise", ConnectionLost("lost")),
}
"""The events that end a channel: ``on_cancel``, and the error."""


@pytest.mark.parametrize("event", ENDINGS)
@pytest.mark.parametrize("moves", [("stop",), ("stop", "cancel-ok")])
def test_a_channel_that_ends_after_stop_lets_the_link_read_on(moves: Sequence[str], event: str) -> None:
    on_cancel, error = ENDINGS[event]
    world = World(on_cancel, no_ack=True)
    after(world, ("enter", "open", "lose", "link", "open", *moves))
    world.now += 1.5
    state = world.core.state
    world.deliver(1000)
    assert not world.is_reading
    if event == "LOST":
        world.lose()
    else:
        world.end_channel(error, is_declared_again=event == "QUEUE_DECLARED_AGAIN")
    assert (world.core.state, world.is_reading) == (state, True)


@pytest.mark.parametrize("moves", [("stop",), ("stop", "cancel-ok")])
def test_a_stopped_consumer_of_a_stream_moves_to_the_next_link_at_any_time(moves: Sequence[str]) -> None:
    world = World(stream_offset="next")
    after(world, ("enter", "open", *moves))
    state = world.core.state
    after(world, ("lose", "link", "open late"))
    assert (world.core.state, world.channel) == (state, "open")
