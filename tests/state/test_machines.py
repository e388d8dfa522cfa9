"""The three machines under arbitrary events, held against models that were written by hand.

No model reads the tables. Each one says in plain words what an object of its kind has been through (was it ever lost,
is it up, did somebody close it), and derives from that which event makes sense and what state it must be in. A row too
many, a row too few or a wrong target is therefore a disagreement.

Invariants are quoted by the numbers of the design.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from anyamqp.errors import InvalidTransition
from anyamqp.protocol.lifecycle import (
    CHANNEL,
    CONNECTION,
    LINK,
    ChannelEvent,
    ChannelState,
    ConnectionEvent,
    ConnectionState,
    LinkEvent,
    LinkState,
)
from anyamqp.protocol.lifecycle.table import Row, Table

pytestmark = pytest.mark.no_cover  # long, and it covers nothing that others do not

AnyTable: TypeAlias = Table[Any, Any, Any]


class Model(Protocol):
    """What an object has been through, told without a table."""

    def takes(self, event: str) -> bool:
        """Take note of an event; False if it makes no sense now, and then nothing is noted."""
        ...

    @property
    def state(self) -> ChannelState | ConnectionState | LinkState: ...


@dataclass
class ConnectionModel:
    """A connection that goes round, wait, dial, shake hands, recover, until somebody is done with it."""

    step: str = "new"
    was_up: bool = False
    held_back: bool = False
    leaving: bool = False
    gone: bool = False

    @property
    def state(self) -> ConnectionState:
        if self.gone:
            return ConnectionState.CLOSED
        if self.leaving:
            return ConnectionState.CLOSING
        if self.step == "up":
            return ConnectionState.BLOCKED if self.held_back else ConnectionState.OPEN
        return ConnectionState[f"{'RECONNECTING' if self.was_up else 'CONNECTING'}_{self.step.upper()}"]

    def takes(self, event: str) -> bool:
        if self.gone:
            return False
        if event in ("closed", "failed"):
            self.gone = self.step != "new" or self.leaving
            return self.gone
        if self.leaving:
            return event in ("dialed", "connected", "lost")
        if event == "close":
            self.leaving = True
            return True
        return self.goes_on(event)

    def goes_on(self, event: str) -> bool:
        match self.step, event:
            case "new", "started":
                self.step = "waiting"
            case "waiting", "due":
                self.step = "dialing"
            case "dialing", "dialed":
                self.step = "handshaking"
            case "handshaking", "connected":
                self.step = "recovering"
            case "recovering", "opened":
                self.step, self.was_up, self.held_back = "up", True, False
            case ("dialing", "refused") | ("handshaking" | "recovering" | "up", "lost"):
                self.step = "waiting"
            case "up", "blocked" | "unblocked" if self.held_back is (event == "unblocked"):
                self.held_back = not self.held_back
            case _:
                return False
        return True


@dataclass
class ChannelModel:
    """A channel that moves from link to link; the broker stops it alone, or with its whole connection."""

    step: str = "new"
    was_lost: bool = False
    is_ready: bool = False
    is_stopped: bool = False
    is_blocked: bool = False
    leaving: bool = False
    gone: bool = False

    @property
    def state(self) -> ChannelState:
        if self.gone:
            return ChannelState.CLOSED
        if self.leaving:
            return ChannelState.CLOSING
        if self.step != "up":
            return ChannelState[f"{'RECONNECTING' if self.was_lost else 'CONNECTING'}_{self.step.upper()}"]
        if self.is_blocked:
            return ChannelState.BLOCKED_TWICE if self.is_stopped else ChannelState.BLOCKED_CONNECTION
        if self.is_stopped:
            return ChannelState.BLOCKED_STOPPED if self.is_ready else ChannelState.BLOCKED_HELD
        return ChannelState.OPEN if self.is_ready else ChannelState.OPEN_HELD

    def takes(self, event: str) -> bool:
        if self.gone:
            return False
        if self.leaving:
            self.gone = event == "closed"
            return event in ("closed", "lost", "leave", "ended", "failed")
        if event == "close" or (event == "leave" and self.step != "new"):
            self.leaving = True
        elif (event == "failed" and self.step != "new") or (event == "ended" and self.step in ("opening", "up")):
            self.gone = True
        elif event == "lost" and self.step in ("opening", "up"):
            self.step, self.was_lost = "detached", True
        else:
            return self.stops_or_goes_on(event) if self.step == "up" else self.comes_up(event)
        return True

    def comes_up(self, event: str) -> bool:
        match self.step, event:
            case ("new", "registered") | ("paused", "due"):
                pass  # the connection answers
            case (("new" | "paused"), "deferred"):
                self.step = "detached"
            case "new", "postponed":
                self.step = "paused"
            case (("new" | "paused" | "detached"), "attached"):
                self.step = "opening"
            case "opening", "opened":
                self.step = "up"
                self.is_ready = self.is_stopped = self.is_blocked = False
            case _:
                return False
        return True

    def stops_or_goes_on(self, event: str) -> bool:
        match event:
            case "ready" if not self.is_ready:
                self.is_ready = True
            case "stopped" | "started" if self.is_stopped is (event == "started"):
                self.is_stopped = not self.is_stopped
            case "blocked" if not self.is_blocked:
                self.is_blocked = self.is_ready = True
            case "unblocked" if self.is_blocked:
                self.is_blocked = False
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
            if event.value not in ("close", "closed", "ended", "failed", "died", "broken", "their close")
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
    kind = Kind(
        CONNECTION,
        ConnectionModel,
        ConnectionEvent,
        frozenset({"closed", "failed", "dialed", "connected", "lost"}),
        ("close", "closed"),
    )


class OneChannel(OneObject):
    kind = Kind(
        CHANNEL,
        ChannelModel,
        ChannelEvent,
        frozenset({"closed", "lost", "leave", "ended", "failed"}),
        ("close", "closed"),
    )


class OneLink(OneObject):
    kind = Kind(LINK, LinkModel, LinkEvent, frozenset({"their close", "their close-ok", "broken", "died"}), ("died",))


TestOneConnection = OneConnection.TestCase
TestOneChannel = OneChannel.TestCase
TestOneLink = OneLink.TestCase
