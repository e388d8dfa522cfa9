"""Every cell of a connection's table, entered by the real object, against a plan written by hand (invariant 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from anyamqp.errors import (
    AnyamqpError,
    ChannelLimitReached,
    CloseFacts,
    ConnectionClosed,
    InvalidTransition,
    InvalidUse,
    Side,
)
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.events import BlockNotice
from anyamqp.protocol.lifecycle import ConnectionEvent, ConnectionState
from anyamqp.protocol.lifecycle.channel import ChannelEvent, ChannelState

LEAVING = dict.fromkeys(("STARTED", "DUE", "REFUSED", "OPENED", "BLOCKED", "UNBLOCKED"), ("CLOSING", ""))
END = {"CLOSED": ("CLOSED", "fail, END"), "FAILED": ("CLOSED", "fail, END")}


def attempt(phase: str) -> dict[str, dict[str, tuple[str, str]]]:
    """The states of a connection that connects or comes back."""
    again = (f"{phase}_WAITING", "WAIT")
    lost = (f"{phase}_WAITING", "recovery lost, WAIT")
    opened = "ready, recovery opened" if phase == "CONNECTING" else "reconnects, ready, recovery opened"
    return {
        f"{phase}_WAITING": {"DUE": (f"{phase}_DIALING", "DIAL"), "CLOSE": ("CLOSING", "leave, INTERRUPT"), **END},
        f"{phase}_DIALING": {
            "REFUSED": again,
            "DIALED": (f"{phase}_HANDSHAKING", "RUN_LINK"),
            "CLOSE": ("CLOSING", "leave, INTERRUPT"),
            **END,
        },
        f"{phase}_HANDSHAKING": {
            "CONNECTED": (f"{phase}_RECOVERING", "RECOVER"),
            "LOST": lost,
            "CLOSE": ("CLOSING", "leave, LEAVE_HANDSHAKE"),
            **END,
        },
        f"{phase}_RECOVERING": {
            "OPENED": ("OPEN", opened),
            "LOST": lost,
            "BLOCKED": (f"{phase}_RECOVERING", ""),
            "UNBLOCKED": (f"{phase}_RECOVERING", ""),
            "CLOSE": ("CLOSING", "leave, INTERRUPT, LEAVE_LINK"),
            **END,
        },
    }


PLAN: dict[str, dict[str, tuple[str, str]]] = {
    "CONNECTING_NEW": {"STARTED": ("CONNECTING_WAITING", "WAIT"), "CLOSE": ("CLOSING", "leave, INTERRUPT")},
    **attempt("CONNECTING"),
    "OPEN": {
        "LOST": ("RECONNECTING_WAITING", "recovery lost, WAIT"),
        "BLOCKED": ("BLOCKED", "channels blocked, publishers blocked"),
        "UNBLOCKED": ("OPEN", ""),
        "CLOSE": ("CLOSING", "cancel, give back, leave, CLOSE_LINK"),
        **END,
    },
    "BLOCKED": {
        "LOST": ("RECONNECTING_WAITING", "publishers unblocked, recovery lost, WAIT"),
        "BLOCKED": ("BLOCKED", ""),
        "UNBLOCKED": ("OPEN", "publishers unblocked, channels unblocked"),
        "CLOSE": ("CLOSING", "cancel, give back, leave, publishers unblocked, CLOSE_LINK"),
        **END,
    },
    **attempt("RECONNECTING"),
    "CLOSING": {
        **LEAVING,
        "LOST": ("CLOSING", "recovery lost"),
        "DIALED": ("CLOSING", "RUN_LINK"),
        "CONNECTED": ("CLOSING", "LEAVE_LINK"),
        "CLOSE": ("CLOSING", ""),
        **END,
    },
    "CLOSED": {"CLOSE": ("CLOSED", ""), "CLOSED": ("CLOSED", "")},
}
"""For each event that may happen: where it leads, and everything that is told and done, in its order. The effects that
are the caller's come last."""
AROUND = ("STARTED", "DUE", "DIALED", "CONNECTED", "OPENED")
WAYS: dict[str, tuple[str, ...]] = {
    "CONNECTING_NEW": (),
    "CONNECTING_WAITING": AROUND[:1],
    "CONNECTING_DIALING": AROUND[:2],
    "CONNECTING_HANDSHAKING": AROUND[:3],
    "CONNECTING_RECOVERING": AROUND[:4],
    "OPEN": AROUND,
    "BLOCKED": (*AROUND, "BLOCKED"),
    "RECONNECTING_WAITING": (*AROUND, "LOST"),
    "RECONNECTING_DIALING": (*AROUND, "LOST", "DUE"),
    "RECONNECTING_HANDSHAKING": (*AROUND, "LOST", "DUE", "DIALED"),
    "RECONNECTING_RECOVERING": (*AROUND, "LOST", "DUE", "DIALED", "CONNECTED"),
    "CLOSING": ("CLOSE",),
    "CLOSED": ("STARTED", "CLOSED"),
}


class Told:
    """The recovery; writes down what it is told."""

    not_back = ()

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def changed(self) -> None: ...

    def opened(self) -> None:
        self._told.append("recovery opened")

    def lost(self, error: AnyamqpError | None) -> None:
        assert str(error) == "memory"
        self._told.append("recovery lost")


class World:
    """Everything around one connection; writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.block: BlockNotice | None = None
        self.is_open = True
        self.close_facts = CloseFacts(None, None, Side.BROKER)
        self.core: ConnectionCore[Any] = ConnectionCore(cast(Any, None), cast(Any, self), lambda _: self)
        self.core.recovery = cast(Any, Told(self.told))
        self.core.publishers.add(cast(Any, self))
        self.core.consumers.add(cast(Any, self))
        self.core.channels[cast("ChannelCore[Any]", self)] = None

    @property
    def session(self) -> World:
        return self

    def take(self, event: ChannelEvent, error: AnyamqpError | None = None) -> None:
        names = {"READY": "ready", "LEAVE": "leave", "FAILED": "fail"}
        assert (error is not None) is (event.name in {"LEAVE", "FAILED"})
        self.told.append(names.get(event.name, f"channels {event.value}"))

    def attach(self, *_: object) -> int:
        return 1

    def changed(self, *_: object) -> None: ...

    def on_blocked(self) -> None:
        self.told.append("publishers blocked")

    def on_unblocked(self) -> None:
        self.told.append("publishers unblocked")

    def cancel(self) -> None:
        self.told.append("cancel")

    def give_back(self) -> None:
        self.told.append("give back")

    def on_connection_closed(self, error: AnyamqpError) -> None:
        assert error is not None

    def fire(self, event: str) -> None:
        reconnects = self.core.reconnects
        if event == "DIALED":
            left = self.core.dialed(cast(Any, self), 1.0)
        else:
            left = self.core.take(ConnectionEvent[event], 1.0, AnyamqpError("memory") if event == "LOST" else "memory")
        if self.core.reconnects > reconnects:
            self.told.insert(0, "reconnects")
        self.told += [effect.name for effect in left]


@pytest.mark.parametrize("event", [event.name for event in ConnectionEvent])
@pytest.mark.parametrize("state", [state.name for state in ConnectionState])
def test_cell(state: str, event: str) -> None:
    world = World()
    for step in WAYS[state]:
        world.fire(step)
    world.told.clear()
    assert world.core.state.name == state
    planned = PLAN[state].get(event)
    if planned is None:
        with pytest.raises(InvalidTransition):
            world.fire(event)
        assert (world.core.state.name, world.told) == (state, [])
    else:
        world.fire(event)
        assert (world.core.state.name, ", ".join(world.told)) == planned


@pytest.mark.parametrize("phase", ["CONNECTING", "RECONNECTING"])
def test_block_of_the_broker_is_told_before_anybody_is_ready(phase: str) -> None:
    world = World()
    for step in WAYS[f"{phase}_RECOVERING"]:
        world.fire(step)
    world.block = BlockNotice("memory", 0.5)
    world.told.clear()
    world.fire("OPENED")
    assert world.core.state is ConnectionState.BLOCKED
    assert [told for told in world.told if told != "reconnects"] == [
        "channels blocked",
        "publishers blocked",
        "ready",
        "recovery opened",
    ]
    assert world.core.opened_at == 1.0
    assert world.core.block is world.block


def at(state: str) -> World:
    world = World()
    for step in WAYS[state]:
        world.fire(step)
    return world


UP = ("OPEN", "BLOCKED")
AWAY = [state for state in PLAN if "CONNECTING_" in state and state != "CONNECTING_NEW"]
ENDED = ("CLOSING", "CLOSED")


@pytest.mark.parametrize(
    ("states", "postponed", "found"),
    [
        (UP, False, ChannelState.CONNECTING_OPENING),
        (AWAY, False, ChannelState.CONNECTING_DETACHED),
        ((*UP, *AWAY), True, ChannelState.CONNECTING_PAUSED),
    ],
)
def test_channel_that_is_registered_opens_now_or_later(
    states: Sequence[str], postponed: bool, found: ChannelState
) -> None:
    for state in states:
        core = at(state).core
        core.register(channel := core.new_channel(None), is_postponed=postponed)
        assert (channel.state, channel in core.channels) == (found, True)


@pytest.mark.parametrize("postponed", [False, True])
@pytest.mark.parametrize(("states", "error"), [(["CONNECTING_NEW"], InvalidUse), (ENDED, ConnectionClosed)])
def test_channel_is_refused_outside_the_life_of_its_connection(
    states: Sequence[str], error: type[AnyamqpError], postponed: bool
) -> None:
    for state in states:
        core = at(state).core
        channel = core.new_channel(None)
        with pytest.raises(error):
            core.register(channel, is_postponed=postponed)
        assert (channel.state, channel in core.channels) == (ChannelState.CONNECTING_NEW, False)


@pytest.mark.parametrize("state", AWAY)
def test_no_more_channels_are_registered_than_have_numbers_but_those_that_paused_have_theirs(state: str) -> None:
    core = at(state).core
    core.most_channels = len(core.channels) + 1
    core.register(paused := core.new_channel(None), is_postponed=True)
    channel = core.new_channel(None)
    with pytest.raises(ChannelLimitReached):
        core.register(channel)
    assert (channel.state, channel in core.channels) == (ChannelState.CONNECTING_NEW, False)
    paused.take(ChannelEvent.DUE)
    assert paused.state is ChannelState.CONNECTING_DETACHED


@pytest.mark.parametrize("state", [state for state in PLAN if state != "BLOCKED"])
def test_notice_of_a_block_is_shown_while_the_connection_is_blocked(state: str) -> None:
    world = at(state)
    world.block = BlockNotice("memory", 0.5)
    assert world.core.block is None


def test_link_that_is_lost_is_forgotten_and_its_close_is_kept() -> None:
    world = at("OPEN")
    world.fire("LOST")
    assert world.core.link is None
    assert world.core.close_facts is world.close_facts


def test_refused_dial_changes_no_link() -> None:
    world = at("OPEN")
    link = world.core.link
    with pytest.raises(InvalidTransition):
        world.core.dialed(cast(Any, None), 2.0)
    assert (world.core.link, world.core.opened_at) == (link, 1.0)
