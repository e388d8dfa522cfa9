"""Every cell of the table of an RPC client, through the real calls, against a plan written by hand (invariant 2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anyamqp.errors import ConnectionClosed, InvalidTransition, PreconditionFailed
from anyamqp.protocol.calls import Call, Calls
from anyamqp.protocol.lifecycle.caller import CALLER, CallerEvent, CallerState
from anyamqp.wire.basic import Route
from support.outboxes import PlainChannel
from support.plans import cells_of

PLAN = """
       ENTERED OPENED READY LOST CHANNEL_CLOSED CHANNEL_GONE GAVE_UP CLOSE
NEW    AWAY    -      -     -    -              -            -       -
AWAY   -       OPEN   -     AWAY CLOSED         CLOSED       CLOSED  CLOSED
OPEN   -       -      OPEN  AWAY AWAY           CLOSED       -       CLOSED
CLOSED -       -      -     -    -              -            -       CLOSED
"""
"""The target of each event; "-" if it cannot happen."""

ACTS: dict[str, Callable[[Calls], None]] = {
    "ENTERED": lambda calls: calls.enter(),
    "OPENED": lambda calls: calls.channel_opened(0.0),
    "READY": lambda calls: calls.channel_ready(),
    "LOST": lambda calls: calls.link_lost(None),
    "CHANNEL_CLOSED": lambda calls: calls.channel_failed(PreconditionFailed("PRECONDITION_FAILED"), 0.0),
    "CHANNEL_GONE": lambda calls: calls.channel_failed(ConnectionClosed("closed"), 0.0),
    "GAVE_UP": lambda calls: calls.channel_refused(ConnectionClosed("closed")),
    "CLOSE": lambda calls: calls.close(),
}
WAYS = {"NEW": (), "AWAY": ("ENTERED",), "OPEN": ("ENTERED", "OPENED"), "CLOSED": ("ENTERED", "CHANNEL_GONE")}
"""The events that lead to each state."""


class Silent:
    """Wakes nobody."""

    def set(self) -> None:
        """Nobody is woken."""


def test_the_plan_is_whole() -> None:
    assert {state for state, _, _ in cells_of(PLAN)} == {state.name for state in CallerState}
    assert {event for _, event, _ in cells_of(PLAN)} == {event.name for event in CallerEvent}
    cells = {(state.name, event.name) for state, event in CALLER.cells}
    assert cells == {(state, event) for state, event, target in cells_of(PLAN) if target != "-"}


@pytest.mark.parametrize(("state", "event", "target"), list(cells_of(PLAN)))
def test_cell(state: str, event: str, target: str) -> None:
    channel = PlainChannel()
    calls = Calls(channel, resend=True)
    for step in WAYS[state]:
        ACTS[step](calls)
    assert calls.state.name == state
    call = Call("one", Route("", "key", mandatory=True), b"", b"", waker=Silent(), seconds=None, deadline=1.0)
    if state != "CLOSED":
        calls.add(call)
    if state == "OPEN":
        channel.can_publish = True
        if event != "READY":
            calls.send_waiting()
    if target == "-":
        with pytest.raises(InvalidTransition):
            ACTS[event](calls)
        assert calls.state.name == state
        return
    ACTS[event](calls)
    assert calls.state.name == target
    assert (call.outcome is not None) is (target == "CLOSED" and state != "CLOSED")
    assert call.is_sent is (state == "OPEN" and target != "AWAY")
    assert len(calls.take_effects()) == (1 if (state, event) == ("OPEN", "CHANNEL_CLOSED") else 0)
