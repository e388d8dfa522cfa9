"""The three machines under arbitrary events, held against models that were written by hand.

No model reads the tables. Each one says in plain words what an object of its kind has been through (was it ever lost,
is it up, did somebody close it), and derives from that which event makes sense and what state it must be in. A row too
many, a row too few or a wrong target is therefore a disagreement. The house below couples a connection, its channels
and its links in the way of the supervisor, and holds what the design demands of all of them together.

Invariants are quoted by the numbers of the design.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Protocol, TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from anyamqp.errors import InvalidTransition
from anyamqp.protocol.lifecycle import (
    CHANNEL,
    CONNECTION,
    LINK,
    ChannelEvent,
    ConnectionEvent,
    LinkEvent,
    LinkState,
    State,
)
from anyamqp.protocol.lifecycle.table import Lifecycle, Row, Table

AnyTable: TypeAlias = Table[Any, Any, Any]
ChannelLife: TypeAlias = Lifecycle[State, ChannelEvent, Any]
LinkLife: TypeAlias = Lifecycle[LinkState, LinkEvent, Any]


class Model(Protocol):
    """What an object has been through, told without a table."""

    def takes(self, event: str) -> bool:
        """Take note of an event; False if it makes no sense now, and then nothing is noted."""
        ...

    @property
    def state(self) -> State | LinkState: ...


@dataclass
class ConnectionModel:
    """A connection that the supervisor serves until somebody is done with it."""

    up: bool = False
    was_up: bool = False
    held_back: bool = False
    leaving: bool = False
    gone: bool = False

    @property
    def state(self) -> State:
        if self.gone:
            return State.CLOSED
        if self.leaving:
            return State.CLOSING
        if self.up:
            return State.BLOCKED if self.held_back else State.OPEN
        return State.RECONNECTING if self.was_up else State.CONNECTING

    def takes(self, event: str) -> bool:
        if self.gone:
            return False
        if self.leaving:
            self.gone = event == "closed"
            return self.gone
        match event:
            case "opened" if not self.up:
                self.up = self.was_up = True
                self.held_back = False
            case "lost" if self.up:
                self.up = False
            case "blocked" if self.up and not self.held_back:
                self.held_back = True
            case "unblocked" if self.up and self.held_back:
                self.held_back = False
            case "close":
                self.leaving = True
            case "failed" if not self.up:
                self.gone = True
            case _:
                return False
        return True


@dataclass
class ChannelModel:
    """A channel, which differs: it can be lost before it was ever open, and the broker can end it at any time."""

    up: bool = False
    waits_for_another_link: bool = False
    held_back: bool = False
    leaving: bool = False
    gone: bool = False

    @property
    def state(self) -> State:
        if self.gone:
            return State.CLOSED
        if self.leaving:
            return State.CLOSING
        if self.waits_for_another_link:
            return State.RECONNECTING
        if not self.up:
            return State.CONNECTING
        return State.BLOCKED if self.held_back else State.OPEN

    def takes(self, event: str) -> bool:
        if self.gone:
            return False
        if self.leaving:
            self.gone = event == "closed"
            return self.gone
        match event:
            case "opened" if not self.up:
                self.up = True
                self.waits_for_another_link = self.held_back = False
            case "lost" if not self.waits_for_another_link:
                self.up = False
                self.waits_for_another_link = True
            case "blocked" if self.up and not self.held_back:
                self.held_back = True
            case "unblocked" if self.up and self.held_back:
                self.held_back = False
            case "close":
                self.leaving = True
            case "failed":
                self.gone = True
            case _:
                return False
        return True


@dataclass
class LinkModel:
    """A link: three answers of the broker make it open, and anything can end it."""

    answers: int = 0
    leaving: bool = False
    gone: bool = False

    @property
    def state(self) -> LinkState:
        if self.gone:
            return LinkState.CLOSED
        if self.leaving:
            return LinkState.CLOSING
        waits = (LinkState.AWAITING_START, LinkState.AWAITING_TUNE, LinkState.AWAITING_OPEN_OK, LinkState.OPEN)
        return waits[self.answers]

    def takes(self, event: str) -> bool:
        if self.gone:
            return False
        if event in ("their close", "broken", "died") or (event == "their close-ok" and self.leaving):
            self.gone = True
            return True
        if self.leaving:
            return False
        match event, self.answers:
            case ("started", 0) | ("tuned", 1) | ("opened", 2):
                self.answers += 1
            case ("secured", 1) | ("blocked" | "unblocked" | "renewed", 3):
                pass
            case "close", 3:
                self.leaving = True
            case _:
                return False
        return True


@dataclass(frozen=True)
class Kind:
    """One of the three machines, and what is known of it without its table."""

    table: AnyTable
    make_model: Callable[[], Model]
    events: type[ConnectionEvent | ChannelEvent | LinkEvent]
    close_traffic: frozenset[str]
    ways_out: tuple[str, ...]

    @property
    def news(self) -> st.SearchStrategy[ConnectionEvent | ChannelEvent | LinkEvent]:
        """All events; more often those that end nothing, or no life would get far."""
        lively = [
            event
            for event in self.events
            if event.value not in ("close", "closed", "failed", "died", "broken", "their close")
        ]
        return st.sampled_from([*self.events, *lively * 3])


class OneObject(RuleBasedStateMachine):
    """One life cycle beside its model, under any events at all; another one once it has ended."""

    kind: ClassVar[Kind]

    def __init__(self) -> None:
        super().__init__()
        self.begins()

    def begins(self) -> None:
        self.lifecycle = self.kind.table.begin()
        self.model = self.kind.make_model()
        self.since_close: list[str] | None = None

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """Invariant 2: no state change outside the tables; what is refused changes nothing."""
        event = data.draw(self.kind.news)
        before = self.lifecycle.state
        cell = self.kind.table.cells.get((before, event))
        sensible = self.model.takes(event.value)
        assert isinstance(cell, Row) is sensible
        if cell is None:
            with pytest.raises(InvalidTransition):
                self.lifecycle.fire(event)
        else:
            assert self.lifecycle.fire(event).source is before
        if not sensible:
            assert self.lifecycle.state is before
            return
        if self.since_close is not None:
            self.since_close.append(event.value)
        elif event.value == "close":
            self.since_close = []

    @precondition(lambda self: self.lifecycle.state.name == "CLOSED")
    @rule()
    def another_one_begins(self) -> None:
        self.begins()

    @invariant()
    def is_where_the_model_is(self) -> None:
        """Invariant 2."""
        assert self.lifecycle.state is self.model.state

    @invariant()
    def nothing_but_close_traffic_follows_a_close(self) -> None:
        assert self.since_close is None or self.kind.close_traffic.issuperset(self.since_close)

    @invariant()
    def closed_is_within_reach(self) -> None:
        """Invariant 7 begins here: whatever happened, there is a way to the end."""
        double = self.kind.table.begin()
        double.state = self.lifecycle.state
        for event in self.kind.ways_out:
            if (double.state, self.kind.events(event)) in self.kind.table.cells:
                double.fire(self.kind.events(event))
        assert double.state.name == "CLOSED"


class OneConnection(OneObject):
    kind = Kind(CONNECTION, ConnectionModel, ConnectionEvent, frozenset({"closed"}), ("close", "closed"))


class OneChannel(OneObject):
    kind = Kind(CHANNEL, ChannelModel, ChannelEvent, frozenset({"closed"}), ("close", "closed"))


class OneLink(OneObject):
    kind = Kind(LINK, LinkModel, LinkEvent, frozenset({"their close", "their close-ok", "broken", "died"}), ("died",))


ATTACHED = (State.OPEN, State.BLOCKED)
ENDING = (State.CLOSING, State.CLOSED)
OFTEN = st.integers(0, 7).map(bool)
"""Usually true: what would end a life waits for the exception, or no run would get far."""


class House(RuleBasedStateMachine):
    """A connection, its channels and its links, coupled as the supervisor couples them.

    The broker's side is kept apart, in what a broker would know: the numbers of its open channels. The life cycles are
    the real ones; an event that their tables refuse where the supervisor needs it ends the test.
    """

    channels = Bundle[ChannelLife]("channels")

    def __init__(self) -> None:
        super().__init__()
        self.begins()

    def begins(self) -> None:
        self.connection = CONNECTION.begin()
        self.links: list[LinkLife] = []
        self.all_channels: list[ChannelLife] = []
        self.open_at_broker: set[int] = set()

    @property
    def link(self) -> LinkLife | None:
        """The link in use, if it still lives."""
        return self.links[-1] if self.links and self.links[-1].state is not LinkState.CLOSED else None

    def link_is(self, state: LinkState) -> bool:
        return self.link is not None and self.link.state is state

    def wants_a_link(self) -> bool:
        return self.link is None and self.connection.state in (State.CONNECTING, State.RECONNECTING)

    def number(self, channel: ChannelLife) -> int:
        return next(number for number, known in enumerate(self.all_channels) if known is channel)

    @initialize(target=channels, up=OFTEN)
    def first_channel(self, up: bool) -> ChannelLife:
        channel = self.channel_is_made()
        if up:
            self.goes_up()
        return channel

    def goes_up(self) -> None:
        self.supervisor_dials(challenges=0, answers=3)
        self.supervisor_recovers()

    @precondition(lambda self: self.connection.state is State.CLOSED)
    @rule(target=channels)
    def another_connection(self) -> ChannelLife:
        self.begins()
        channel = self.channel_is_made()
        self.goes_up()
        return channel

    @precondition(lambda self: self.connection.state not in ENDING and len(self.all_channels) < 6)
    @rule(target=channels)
    def another_channel(self) -> ChannelLife:
        return self.channel_is_made()

    def channel_is_made(self) -> ChannelLife:
        """On an open connection a new channel opens at once; before, recovery opens it."""
        channel = CHANNEL.begin()
        self.all_channels.append(channel)
        if self.connection.state in ATTACHED:
            self.channel_opens(channel)
        return channel

    def channel_opens(self, channel: ChannelLife) -> None:
        channel.fire(ChannelEvent.OPENED)
        self.open_at_broker.add(self.number(channel))

    @precondition(wants_a_link)
    @rule(challenges=st.integers(0, 2), answers=st.sampled_from([3, 3, 3, 2, 1, 0]))
    def supervisor_dials(self, challenges: int, answers: int) -> None:
        """The broker answers as far as it gets; what ends a link may come at any point."""
        link = LINK.begin()
        self.links.append(link)
        handshake = [[LinkEvent.STARTED], [*[LinkEvent.SECURED] * challenges, LinkEvent.TUNED], [LinkEvent.OPENED]]
        for event in chain.from_iterable(handshake[:answers]):
            link.fire(event)

    @precondition(lambda self: self.link_is(LinkState.OPEN) and self.connection.state not in (*ATTACHED, *ENDING))
    @rule()
    def supervisor_recovers(self) -> None:
        for channel in self.all_channels:
            if channel.state in (State.CONNECTING, State.RECONNECTING):
                self.channel_opens(channel)
        self.connection.fire(ConnectionEvent.OPENED)

    @precondition(lambda self: self.link is not None)
    @rule(event=st.sampled_from([LinkEvent.DIED, LinkEvent.THEIR_CLOSE]))
    def link_ends(self, event: LinkEvent) -> None:
        self.links[-1].fire(event)
        self.open_at_broker.clear()
        if self.connection.state is State.CLOSING:
            self.connection_ends(ConnectionEvent.CLOSED)
            return
        if self.connection.state in ATTACHED:
            self.connection.fire(ConnectionEvent.LOST)
        for channel in self.all_channels:
            if channel.state is State.CLOSING:
                channel.fire(ChannelEvent.CLOSED)
            elif channel.state in (State.CONNECTING, *ATTACHED):
                channel.fire(ChannelEvent.LOST)

    @precondition(lambda self: self.connection.state is State.OPEN)
    @rule()
    def broker_blocks_the_connection(self) -> None:
        self.connection.fire(ConnectionEvent.BLOCKED)

    @precondition(lambda self: self.connection.state is State.BLOCKED)
    @rule()
    def broker_unblocks_the_connection(self) -> None:
        self.connection.fire(ConnectionEvent.UNBLOCKED)

    @precondition(lambda self: self.link_is(LinkState.OPEN))
    @rule(channel=channels)
    def broker_turns_the_flow(self, channel: ChannelLife) -> None:
        if channel.state is State.OPEN:
            channel.fire(ChannelEvent.BLOCKED)
        elif channel.state is State.BLOCKED:
            channel.fire(ChannelEvent.UNBLOCKED)

    @precondition(lambda self: self.link_is(LinkState.OPEN))
    @rule(channel=channels, stays=OFTEN)
    def broker_ends_a_channel(self, channel: ChannelLife, stays: bool) -> None:
        if channel.state in ATTACHED and not stays:
            channel.fire(ChannelEvent.FAILED)
            self.open_at_broker.discard(self.number(channel))

    @rule(channel=channels, stays=OFTEN)
    def user_leaves_a_channel(self, channel: ChannelLife, stays: bool) -> None:
        """A channel that no link carries has nobody to shake hands with."""
        if channel.state not in ENDING and not stays:
            attached = channel.state in ATTACHED
            channel.fire(ChannelEvent.CLOSE)
            if not attached:
                channel.fire(ChannelEvent.CLOSED)

    @precondition(lambda self: any(channel.state is State.CLOSING for channel in self.all_channels))
    @rule(channel=channels)
    def broker_answers_the_close_of_a_channel(self, channel: ChannelLife) -> None:
        if channel.state is State.CLOSING:
            channel.fire(ChannelEvent.CLOSED)
            self.open_at_broker.discard(self.number(channel))

    @precondition(lambda self: self.connection.state not in ENDING)
    @rule(stays=OFTEN)
    def user_leaves_the_connection(self, stays: bool) -> None:
        if stays:
            return
        self.connection.fire(ConnectionEvent.CLOSE)
        if self.link is None:
            self.connection_ends(ConnectionEvent.CLOSED)
        elif self.link.state is LinkState.OPEN:
            self.link.fire(LinkEvent.CLOSE)

    @precondition(wants_a_link)
    @rule(goes_on=OFTEN)
    def policy_is_exhausted(self, goes_on: bool) -> None:
        if not goes_on:
            self.connection_ends(ConnectionEvent.FAILED)

    def connection_ends(self, event: ConnectionEvent) -> None:
        self.connection.fire(event)
        for channel in self.all_channels:
            if channel.state is State.CLOSING:
                channel.fire(ChannelEvent.CLOSED)
            elif channel.state is not State.CLOSED:
                channel.fire(ChannelEvent.FAILED)

    @precondition(lambda self: self.connection.state in ENDING)
    @rule(event=st.sampled_from([event for event in ConnectionEvent if event is not ConnectionEvent.CLOSED]))
    def late_news_for_the_connection(self, event: ConnectionEvent) -> None:
        """Invariant 2: after a close, only its end is news."""
        before = self.connection.state
        with pytest.raises(InvalidTransition):
            self.connection.fire(event)
        assert self.connection.state is before

    @precondition(lambda self: any(channel.state in ENDING for channel in self.all_channels))
    @rule(
        channel=channels, event=st.sampled_from([event for event in ChannelEvent if event is not ChannelEvent.CLOSED])
    )
    def late_news_for_a_channel(self, channel: ChannelLife, event: ChannelEvent) -> None:
        """Invariant 2."""
        before = channel.state
        if before in ENDING:
            with contextlib.suppress(InvalidTransition):
                channel.fire(event)
            assert channel.state is before

    @precondition(lambda self: any(link.state is LinkState.CLOSED for link in self.links))
    @rule(event=st.sampled_from(LinkEvent))
    def late_news_for_a_dead_link(self, event: LinkEvent) -> None:
        """Invariant 8 rests on it: a link that ended stays so, nothing of it comes back."""
        dead = next(link for link in self.links if link.state is LinkState.CLOSED)
        with contextlib.suppress(InvalidTransition):
            dead.fire(event)
        assert dead.state is LinkState.CLOSED

    @invariant()
    def at_most_one_link_lives(self) -> None:
        """Invariant 1."""
        assert sum(link.state is not LinkState.CLOSED for link in self.links) <= 1

    @invariant()
    def no_channel_outlives_the_connection(self) -> None:
        if self.connection.state is State.CLOSED:
            assert {channel.state for channel in self.all_channels} <= {State.CLOSED}

    @invariant()
    def a_closed_connection_has_no_link(self) -> None:
        """Invariant 7."""
        if self.connection.state is State.CLOSED:
            assert self.link is None

    @invariant()
    def an_attached_channel_has_an_open_link(self) -> None:
        if any(channel.state in ATTACHED for channel in self.all_channels):
            assert self.link_is(LinkState.OPEN) or self.link_is(LinkState.CLOSING)

    @invariant()
    def an_open_connection_has_an_open_link(self) -> None:
        if self.connection.state in ATTACHED:
            assert self.link_is(LinkState.OPEN)

    @invariant()
    def broker_and_client_count_the_same_channels(self) -> None:
        """Invariant 6: in state OPEN; a channel whose close is under way is still the broker's."""
        if self.connection.state is State.OPEN:
            ours = {
                number
                for number, channel in enumerate(self.all_channels)
                if channel.state in (*ATTACHED, State.CLOSING)
            }
            assert ours == self.open_at_broker

    def teardown(self) -> None:
        """CLOSED is reachable from wherever the run ended, for all of them together."""
        if self.connection.state not in ENDING:
            self.user_leaves_the_connection(stays=False)
        if self.link is not None:
            self.link_ends(LinkEvent.DIED)
        assert self.connection.state is State.CLOSED
        self.no_channel_outlives_the_connection()
        self.a_closed_connection_has_no_link()


TestConnection = OneConnection.TestCase
TestChannel = OneChannel.TestCase
TestLink = OneLink.TestCase
TestHouse = House.TestCase
