"""Every cell of a channel's table, entered by the real object, against a plan written by hand (invariant 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from anyamqp.errors import AnyamqpError, ConnectionClosed, ConnectionLost, InvalidTransition, PreconditionFailed
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.lifecycle.channel import ChannelEvent, ChannelState
from anyamqp.protocol.lifecycle.states import State
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.wire import methods
from anyamqp.wire.methods import Method

LATER = dict.fromkeys(("READY", "BLOCKED", "UNBLOCKED"), ("", ""))
"""Events of the connection that mean nothing to a channel which is not open; its state stays."""


def off_link(phase: str, **others: tuple[str, str]) -> dict[str, tuple[str, str]]:
    return {
        **LATER,
        "ATTACHED": (f"{phase}_OPENING", "channel.open for setup, basic.qos for last of setup"),
        "CLOSE": ("CLOSED", "forget"),
        "LEAVE": ("CLOSED", "forget, failed"),
        "FAILED": ("CLOSED", "forget, failed"),
        **others,
    }


def on_link(**others: tuple[str, str]) -> dict[str, tuple[str, str]]:
    close = "request refused, release, channel.close, leave"
    return {
        "DUE": ("", ""),
        "LOST": ("RECONNECTING_DETACHED", "leave, request returned, lost"),
        "CLOSE": ("CLOSING", close),
        "LEAVE": ("CLOSED", f"{close}, forget, failed"),
        "ENDED": ("CLOSED", "leave, request refused, forget, failed"),
        "FAILED": ("CLOSED", f"{close}, forget, failed"),
        **others,
    }


OPENING = on_link(**LATER, OPENED=("OPEN_HELD", "opened"), STOPPED=("", ""), STARTED=("", ""))
PLAN: dict[str, dict[str, tuple[str, str]]] = {
    "CONNECTING_NEW": {
        "REGISTERED": ("", "join"),
        "POSTPONED": ("CONNECTING_PAUSED", ""),
        "DEFERRED": ("CONNECTING_DETACHED", ""),
        "ATTACHED": ("CONNECTING_OPENING", "channel.open for setup, basic.qos for last of setup"),
        "CLOSE": ("CLOSED", "forget"),
        "FAILED": ("", ""),
    },
    "CONNECTING_PAUSED": off_link("CONNECTING", DUE=("", "join"), DEFERRED=("CONNECTING_DETACHED", "")),
    "CONNECTING_DETACHED": off_link("CONNECTING"),
    "CONNECTING_OPENING": OPENING,
    "OPEN_HELD": on_link(
        READY=("OPEN", "ready"), STOPPED=("BLOCKED_HELD", ""), STARTED=("", ""), BLOCKED=("BLOCKED_CONNECTION", "")
    ),
    "OPEN": on_link(STOPPED=("BLOCKED_STOPPED", "held"), STARTED=("", ""), BLOCKED=("BLOCKED_CONNECTION", "held")),
    "BLOCKED_HELD": on_link(
        READY=("BLOCKED_STOPPED", ""), STOPPED=("", ""), STARTED=("OPEN_HELD", ""), BLOCKED=("BLOCKED_TWICE", "")
    ),
    "BLOCKED_STOPPED": on_link(STOPPED=("", ""), STARTED=("OPEN", "ready"), BLOCKED=("BLOCKED_TWICE", "")),
    "BLOCKED_CONNECTION": on_link(
        READY=("", ""), STOPPED=("BLOCKED_TWICE", ""), STARTED=("", ""), UNBLOCKED=("OPEN", "ready")
    ),
    "BLOCKED_TWICE": on_link(
        READY=("", ""), STOPPED=("", ""), STARTED=("BLOCKED_CONNECTION", ""), UNBLOCKED=("BLOCKED_STOPPED", "")
    ),
    "RECONNECTING_DETACHED": off_link("RECONNECTING", DUE=("", "")),
    "RECONNECTING_OPENING": OPENING,
    "CLOSING": {
        **LATER,
        "DUE": ("", ""),
        "CLOSE": ("", ""),
        **dict.fromkeys(("LOST", "LEAVE", "CLOSED", "ENDED", "FAILED"), ("CLOSED", "forget")),
    },
    "CLOSED": dict.fromkeys(("DUE", "LOST", "CLOSE", "CLOSED", "ENDED", "FAILED"), ("", "")),
}
"""For each event that may happen: where it leads (nothing if the state stays), and all that is done and told."""
OPEN = ("ATTACHED", "OPENED", "READY")
WAYS: dict[str, tuple[str, ...]] = {
    "CONNECTING_NEW": (),
    "CONNECTING_PAUSED": ("POSTPONED",),
    "CONNECTING_DETACHED": ("DEFERRED",),
    "CONNECTING_OPENING": OPEN[:1],
    "OPEN_HELD": OPEN[:2],
    "OPEN": OPEN,
    "BLOCKED_HELD": (*OPEN[:2], "STOPPED"),
    "BLOCKED_STOPPED": (*OPEN, "STOPPED"),
    "BLOCKED_CONNECTION": (*OPEN, "BLOCKED"),
    "BLOCKED_TWICE": (*OPEN, "BLOCKED", "STOPPED"),
    "RECONNECTING_DETACHED": (*OPEN, "LOST"),
    "RECONNECTING_OPENING": (*OPEN, "LOST", "ATTACHED"),
    "CLOSING": (*OPEN, "CLOSE"),
    "CLOSED": (*OPEN, "CLOSE", "CLOSED"),
}


class World(ChannelOwner):
    """The owner of one channel, its connection, its link channel and its link; writes down all that they are told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.missed: tuple[ChannelEvent, ...] = ()
        self.refusal: AnyamqpError | None = None
        """The connection's reason for not opening the channel."""
        self.recorded: list[ChannelEvent] = []
        """The events of the changes that users see."""
        self.number = 1
        self.asked: Request | None = None
        """The one that waits for its reply."""
        self.core: ChannelCore[Any] = ChannelCore("channel 1", cast(Any, self), self)

    # --- the connection ---------------------------------------------------------------------------------------------

    @property
    def topology(self) -> World:
        return self

    def as_sent(self, request: Method) -> Method:
        return request

    def new_link_channel(self, number: int) -> World:
        assert number == self.number
        return self

    def join(self, channel: object) -> None:
        assert channel is self.core
        self.told.append("join")
        if self.refusal is not None:
            raise self.refusal

    def forget(self, channel: object) -> None:
        assert channel is self.core
        self.told.append("forget")

    def record(self, _: object, __: State, event: ChannelEvent, ___: State, ____: object) -> None:
        self.recorded.append(event)

    # --- the place and the link -------------------------------------------------------------------------------------

    @property
    def link(self) -> World:
        return self

    @property
    def session(self) -> World:
        return self

    def attach(self, _: object, purpose: Purpose) -> int:
        self.told.append(f"channel.open for {purpose.value}")
        return self.number

    def request(self, _: int, method: Method, purpose: Purpose, *, as_sent: Method) -> Request:
        assert as_sent is method
        self.told.append(f"basic.qos for {purpose.value}")
        return Request(method, purpose)

    def unanswered(self, number: int) -> Sequence[Request]:
        assert number == self.number
        return [] if self.asked is None else [self.asked]

    def close_channel(self, number: int, error: AnyamqpError | None = None) -> None:
        assert (number, error) == (self.number, None)
        self.told.append("channel.close")

    def release(self) -> None:
        self.told.append("release")

    def leave(self) -> None:
        self.told.append("leave")

    def flush(self) -> None: ...

    # --- the owner, and a task that made a request ------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        return [methods.Basic.Qos(0, 1, False)]

    def on_opened(self) -> None:
        self.told.append("opened")

    def on_ready(self) -> None:
        self.told.append("ready")

    def on_held(self) -> None:
        self.told.append("held")

    def on_lost(self, error: AnyamqpError | None) -> None:
        assert isinstance(error, ConnectionLost)
        self.told.append("lost")

    def on_failed(self, error: AnyamqpError) -> None:
        assert isinstance(error, ConnectionClosed | PreconditionFailed)
        self.told.append("failed")

    def set(self) -> None:
        assert self.asked is not None
        self.told.append("request returned" if self.asked.error is None else "request refused")

    # --- events -----------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """A task makes a request."""
        self.asked = Request(methods.Queue.Declare(0, "q"))
        self.asked.waiter = self

    def opened(self) -> None:
        request = Request(methods.Basic.Qos(0, 1, False), Purpose.LAST_OF_SETUP)
        request.reply = methods.Basic.QosOk()
        self.core.on_reply(request)

    def fire(self, event: str) -> None:
        """Bring an event about as it comes about in production."""
        core = self.core
        acts: dict[str, Callable[[], None]] = {
            "ATTACHED": lambda: core.attach(cast(Any, self)),
            "OPENED": self.opened,
            "STOPPED": lambda: core.on_method(methods.Channel.Flow(False)),
            "STARTED": lambda: core.on_method(methods.Channel.Flow(True)),
            "LOST": lambda: core.on_lost(ConnectionLost("lost"), self.unanswered(self.number)),
            "LEAVE": lambda: core.take(ChannelEvent.LEAVE, ConnectionClosed("closed")),
            "CLOSED": core.on_released,
            "ENDED": lambda: core.on_closed(PreconditionFailed("PRECONDITION_FAILED"), self.unanswered(self.number)),
            "FAILED": lambda: core.fail(PreconditionFailed("PRECONDITION_FAILED")),
        }
        acts.get(event, lambda: core.take(ChannelEvent[event]))()


def at(state: str) -> World:
    """The world of a channel in a state; on a link, a request waits for its reply."""
    world = World()
    for step in WAYS[state]:
        world.fire(step)
    if world.core.link_channel is not None:
        world.ask()
    world.told.clear()
    assert world.core.state.name == state
    return world


@pytest.mark.parametrize("event", [event.name for event in ChannelEvent])
@pytest.mark.parametrize("state", [state.name for state in ChannelState])
def test_cell(state: str, event: str) -> None:
    world = at(state)
    planned = PLAN[state].get(event)
    if planned is None:
        with pytest.raises(InvalidTransition):
            world.core.take(ChannelEvent[event], ConnectionLost("lost"), world.unanswered(1))
        assert (world.core.state.name, world.told) == (state, [])
    else:
        world.fire(event)
        target, told = planned
        assert (world.core.state.name, ", ".join(world.told)) == (target or state, told)


@pytest.mark.parametrize("state", ["CONNECTING_PAUSED", "CONNECTING_DETACHED", "RECONNECTING_DETACHED", "OPEN"])
@pytest.mark.parametrize("event", ["LEAVE", "FAILED"])
def test_calls_on_a_channel_that_ended_name_the_reason(state: str, event: str) -> None:
    world = at(state)
    world.fire(event)
    reason = {"LEAVE": "closed", "FAILED": "the channel is closed: PRECONDITION_FAILED"}[event]
    assert str(world.core.closed_error()).startswith(reason)


@pytest.mark.parametrize("event", ["ENDED", "FAILED"])
def test_users_see_one_event_whoever_closes_a_channel(event: str) -> None:
    world = at("OPEN")
    world.recorded.clear()
    world.fire(event)
    assert world.recorded == [ChannelEvent.FAILED]


@pytest.mark.parametrize("phase", ["CONNECTING", "RECONNECTING"])
@pytest.mark.parametrize(
    ("missed", "state", "told"),
    [("READY", "OPEN", ["opened", "ready"]), ("BLOCKED", "BLOCKED_CONNECTION", ["opened"])],
)
def test_channel_that_opens_late_is_told_how_its_connection_is(
    phase: str, missed: str, state: str, told: list[str]
) -> None:
    world = at(f"{phase}_OPENING")
    world.missed = (ChannelEvent[missed],)
    world.fire("OPENED")
    assert (world.core.state.name, world.told) == (state, told)


def test_channel_whose_registration_is_refused_may_be_registered_again() -> None:
    world = at("CONNECTING_NEW")
    world.refusal = PreconditionFailed("no number")
    with pytest.raises(PreconditionFailed):
        world.fire("REGISTERED")
    assert (world.core.state, world.told) == (ChannelState.CONNECTING_NEW, ["join"])


def test_channel_that_is_refused_after_its_pause_fails() -> None:
    world = at("CONNECTING_PAUSED")
    world.refusal = PreconditionFailed("no number")
    world.fire("DUE")
    assert (world.core.state, world.told) == (ChannelState.CLOSED, ["join", "forget", "failed"])
    assert world.core.error is world.refusal


def test_close_on_a_link_that_ends_is_complete_with_the_end() -> None:
    world = at("CLOSING")
    world.fire("LOST")
    assert (world.core.state, world.told) == (ChannelState.CLOSED, ["forget"])
