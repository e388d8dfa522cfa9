"""Each event that a table has no cell for, fired by a real object, is refused and changes nothing (invariant 2).

Most of these events no caller can bring about any more, because the calls of an object are only made where they make
sense. Here the object itself fires them, in each of its states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

import pytest

from anyamqp.errors import ChannelClosed, InvalidTransition
from anyamqp.protocol.lifecycle.consumer import ConsumerEvent, ConsumerState
from anyamqp.protocol.lifecycle.link import LinkEvent
from anyamqp.protocol.subscription import Subscription
from anyamqp.wire import methods
from support.amqp import Dialogue
from support.subscribing import World

# --- consumers ------------------------------------------------------------------------------------------------------

ENDINGS = "CHANNEL_CLOSED LOCKED_BY_US QUEUE_DECLARED_AGAIN NOT_FOUND REFUSED QUEUE_GONE"
SURELY = "ENTERING_FAILED STOPPED CONNECTION_CLOSING"
"""Events of every consumer whose block was entered."""
ON_A_CHANNEL = f"{SURELY} {ENDINGS} LOST QUEUE_AWAITED"
LEFT = (
    f"{ON_A_CHANNEL} ATTACHED OPENED OPENED_LATE CANCELLED GIVEN_NOTICE QUEUE_FOUND CANCELLED_TOO_OFTEN "
    "CONNECTION_CLOSED"
)
CONSUMERS: dict[str, str] = {
    "NEW": "ENTERED STOPPED",
    "SUBSCRIBING": f"{ON_A_CHANNEL} ATTACHED OPENED CANCELLED GIVEN_NOTICE NO_CHANNEL",
    "AWAITING_QUEUE": f"{SURELY} DUE CONNECTION_CLOSED",
    "CONSUMING": f"{ON_A_CHANNEL} CANCELLED GIVEN_NOTICE",
    "ASKING": f"{SURELY} {ENDINGS} LOST CANCELLED QUEUE_FOUND CANCELLED_TOO_OFTEN",
    "RESUBSCRIBING": f"{ON_A_CHANNEL} ATTACHED OPENED OPENED_LATE CANCELLED GIVEN_NOTICE NO_CHANNEL",
    "AWAITING_RETURN": f"{SURELY} DUE CONNECTION_CLOSED",
    "STOPPING": f"{LEFT} CANCEL_ANSWERED",
    "ENDED": LEFT,
    "NEVER_CONSUMED": f"{SURELY} CONNECTION_CLOSED",
}
"""The events that may happen in each state."""
CONSUMERS_WAYS: dict[str, tuple[str, ...]] = {
    "NEW": (),
    "SUBSCRIBING": ("enter",),
    "AWAITING_QUEUE": ("enter", "not found"),
    "CONSUMING": ("enter", "open", "deliver"),
    "ASKING": ("enter", "open", "deliver", "cancel"),
    "RESUBSCRIBING": ("enter", "open", "lose", "link"),
    "AWAITING_RETURN": ("enter", "open", "lose", "link", "cancel"),
    "STOPPING": ("enter", "open", "deliver", "stop"),
    "ENDED": ("enter", "open", "stop", "cancel-ok"),
    "NEVER_CONSUMED": ("enter", "stop"),
}
"""Moves that lead there."""


def refused(possible: Mapping[str, str], events: type[Enum]) -> list[tuple[str, str]]:
    """States with events that cannot happen there."""
    return [
        (state, event.name) for state, names in possible.items() for event in events if event.name not in names.split()
    ]


def seen(core: Subscription) -> tuple[object, ...]:
    return core.state, list(core.waiting), core.deadline, core.error, core.is_reading_paused


def test_every_state_of_a_consumer_is_visited() -> None:
    assert CONSUMERS.keys() == CONSUMERS_WAYS.keys() == {state.name for state in ConsumerState}


@pytest.mark.parametrize(("state", "event"), refused(CONSUMERS, ConsumerEvent))
def test_consumer_refuses(state: str, event: str) -> None:
    world = World("resubscribe" if state == "AWAITING_QUEUE" else "raise")
    for move in CONSUMERS_WAYS[state]:
        world.moves()[move]()
    core = world.core
    assert core.state.name == state
    before = seen(core)
    with pytest.raises(InvalidTransition):
        core._fire(ConsumerEvent[event], world.now, ChannelClosed("closed"))  # pyright: ignore[reportPrivateUsage] - where its events are fired
    assert seen(core) == before


# --- links ----------------------------------------------------------------------------------------------------------

ENDS = "THEIR_CLOSE BROKEN DIED"
LINKS: dict[str, str] = {
    "AWAITING_START": f"STARTED {ENDS}",
    "AWAITING_TUNE": f"SECURED TUNED {ENDS}",
    "AWAITING_OPEN_OK": f"OPENED {ENDS}",
    "OPEN": f"BLOCKED UNBLOCKED RENEWED CHANNEL_FRAME CLOSE {ENDS}",
    "CLOSING": " ".join(event.name for event in LinkEvent if event is not LinkEvent.CLOSE),
}
"""The events that may happen in each state; when it is closed, all may."""
LINKS_WAYS: dict[str, Callable[[Dialogue], object]] = {
    "AWAITING_TUNE": lambda dialogue: dialogue.start(),
    "AWAITING_OPEN_OK": lambda dialogue: dialogue.tune(),
    "OPEN": lambda dialogue: dialogue.tell(methods.Connection.OpenOk()),
    "CLOSING": lambda dialogue: dialogue.session.close(dialogue.now),
}
"""The step that leads to each state from the one before."""


@pytest.mark.parametrize(("state", "event"), refused(LINKS, LinkEvent))
def test_link_refuses(state: str, event: str) -> None:
    dialogue = Dialogue()
    session = dialogue.session
    for name, step in LINKS_WAYS.items():
        if session.state.name != state:
            step(dialogue)
            assert session.state.name == name
    dialogue.sent()
    with pytest.raises(InvalidTransition):
        session._zero._fire(LinkEvent[event], dialogue.now)  # pyright: ignore[reportPrivateUsage] - where they are fired
    assert session.state.name == state
    assert dialogue.sent() == []
