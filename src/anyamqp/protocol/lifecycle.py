"""The life cycles of a connection, a channel and a link: three tables that are the law.

A *connection* is what the user holds for as long as the program runs. A *link* is one TCP connection of it, from the
first byte to the last. A *channel* is a logical AMQP channel that moves from link to link.

Who sees which event
    The link machine sees the methods of AMQP's class ``connection`` and the end of the byte stream. It runs in the
    session, which is told about both and nothing else. The connection machine sees what the supervisor learns: a link
    is ready, a link died, the policy is exhausted, the user left. The channel machine sees its own open and close
    methods, and the death of the link under it.

What couples the machines
    A link that ends makes the connection and every channel on it ``lost``, in that order and without an await between.
    A channel is ``opened`` only on an open link, and the connection is ``opened`` only after its channels are, so that
    whoever sees OPEN can use what is below. A connection that is ``closed`` or ``failed`` takes its channels along.

Absent on purpose
    Nothing leaves CLOSED: a closed object never opens again, its owner makes a new one. There is no ``lost`` from
    RECONNECTING: an attempt that fails is not a new loss. There is no way from CLOSING but to CLOSED: whatever
    happens to the transport meanwhile, the close goes on. A connection cannot be ``failed`` while it is OPEN: it is
    ``lost`` first, and only the supervisor's policy can give up. A link is never reused, hence it has no way back.

No other place decides what may follow what. The tables run on ``transitions``; one unbound machine serves all objects
of a kind, and is only asked at life-cycle events, never per message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

from transitions import Machine, MachineError

from anyamqp.errors import InvalidTransition


class State(Enum):
    """The states that connection and channel share."""

    CONNECTING = "connecting"
    OPEN = "open"
    BLOCKED = "blocked"
    RECONNECTING = "reconnecting"
    CLOSING = "closing"
    CLOSED = "closed"


class LinkState(Enum):
    """The states of a link: AMQP 0-9-1, 2.2.4 "The Connection Class", step by step."""

    AWAITING_START = "awaiting_start"
    AWAITING_TUNE = "awaiting_tune"
    AWAITING_OPEN_OK = "awaiting_open_ok"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class ConnectionEvent(Enum):
    """What can happen to a connection."""

    OPENED = "opened"
    LOST = "lost"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    CLOSE = "close"
    CLOSED = "closed"
    FAILED = "failed"


class ChannelEvent(Enum):
    """What can happen to a channel."""

    OPENED = "opened"
    LOST = "lost"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    CLOSE = "close"
    CLOSED = "closed"
    FAILED = "failed"


class LinkEvent(Enum):
    """What can happen to a link."""

    STARTED = "started"
    """connection.start came; start-ok answers it."""
    SECURED = "secured"
    """connection.secure came; secure-ok answers it."""
    TUNED = "tuned"
    """connection.tune came; tune-ok and connection.open answer it."""
    OPENED = "opened"
    """connection.open-ok came."""
    CLOSE = "close"
    """We sent connection.close."""
    CLOSED = "closed"
    """A close handshake is complete, whoever began it."""
    DIED = "died"
    """The byte stream ended, or what came on it was not AMQP."""


S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class Row(NamedTuple, Generic[S, E]):
    """In each of ``sources``, ``event`` leads to ``target``."""

    event: E
    sources: tuple[S, ...]
    target: S


LinkRow = Row[LinkState, LinkEvent]
ConnectionRow = Row[State, ConnectionEvent]
ChannelRow = Row[State, ChannelEvent]

_UNFINISHED = (State.CONNECTING, State.OPEN, State.BLOCKED, State.RECONNECTING)

CONNECTION: tuple[ConnectionRow, ...] = (
    ConnectionRow(ConnectionEvent.OPENED, (State.CONNECTING, State.RECONNECTING), State.OPEN),
    ConnectionRow(ConnectionEvent.LOST, (State.OPEN, State.BLOCKED), State.RECONNECTING),
    ConnectionRow(ConnectionEvent.BLOCKED, (State.OPEN,), State.BLOCKED),
    ConnectionRow(ConnectionEvent.UNBLOCKED, (State.BLOCKED,), State.OPEN),
    ConnectionRow(ConnectionEvent.CLOSE, _UNFINISHED, State.CLOSING),
    ConnectionRow(ConnectionEvent.CLOSED, (State.CLOSING,), State.CLOSED),
    ConnectionRow(ConnectionEvent.FAILED, (State.CONNECTING, State.RECONNECTING), State.CLOSED),
)

CHANNEL: tuple[ChannelRow, ...] = (
    ChannelRow(ChannelEvent.OPENED, (State.CONNECTING, State.RECONNECTING), State.OPEN),
    ChannelRow(ChannelEvent.LOST, (State.CONNECTING, State.OPEN, State.BLOCKED), State.RECONNECTING),
    ChannelRow(ChannelEvent.BLOCKED, (State.OPEN,), State.BLOCKED),
    ChannelRow(ChannelEvent.UNBLOCKED, (State.BLOCKED,), State.OPEN),
    ChannelRow(ChannelEvent.CLOSE, _UNFINISHED, State.CLOSING),
    ChannelRow(ChannelEvent.CLOSED, (State.CLOSING,), State.CLOSED),
    ChannelRow(ChannelEvent.FAILED, _UNFINISHED, State.CLOSED),
)

_HANDSHAKE = (LinkState.AWAITING_START, LinkState.AWAITING_TUNE, LinkState.AWAITING_OPEN_OK)

LINK: tuple[LinkRow, ...] = (
    LinkRow(LinkEvent.STARTED, (LinkState.AWAITING_START,), LinkState.AWAITING_TUNE),
    LinkRow(LinkEvent.SECURED, (LinkState.AWAITING_TUNE,), LinkState.AWAITING_TUNE),
    LinkRow(LinkEvent.TUNED, (LinkState.AWAITING_TUNE,), LinkState.AWAITING_OPEN_OK),
    LinkRow(LinkEvent.OPENED, (LinkState.AWAITING_OPEN_OK,), LinkState.OPEN),
    LinkRow(LinkEvent.CLOSE, (LinkState.OPEN,), LinkState.CLOSING),
    LinkRow(LinkEvent.CLOSED, (*_HANDSHAKE, LinkState.OPEN, LinkState.CLOSING), LinkState.CLOSED),
    LinkRow(LinkEvent.DIED, (*_HANDSHAKE, LinkState.OPEN, LinkState.CLOSING), LinkState.CLOSED),
)


@dataclass(frozen=True, slots=True)
class Transition:
    """One state change, recorded once.

    Attributes:
        machine: ``connection``, ``channel 3`` or ``link 2``: its kind, and which one where there are several.
        source: the state it left.
        event: what happened.
        target: the state it entered.
        at: when, in seconds on the event loop's clock (:func:`anyio.current_time`); compare two for a duration.
        reason: why, in words, where there is more to say than the event.
        link_number: the link it happened on, counted from 1; 0 before the first.
    """

    machine: str
    source: State | LinkState
    event: ConnectionEvent | ChannelEvent | LinkEvent
    target: State | LinkState
    at: float
    reason: str | None
    link_number: int

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.machine} {self.source.name} -> {self.target.name} ({self.event.value}{why})"


MACHINE_NAME = "anyamqp"
"""By which the log of the engine below can be told from that of other machines in the process."""


def _machine(states: type[Enum], rows: tuple[Row[S, E], ...]) -> Machine:
    return Machine(
        model=None,
        name=MACHINE_NAME,
        states=states,
        initial=next(iter(states)),
        transitions=[{"trigger": row.event.value, "source": list(row.sources), "dest": row.target} for row in rows],
        auto_transitions=False,
    )


_CONNECTION_MACHINE = _machine(State, CONNECTION)
_CHANNEL_MACHINE = _machine(State, CHANNEL)
_LINK_MACHINE = _machine(LinkState, LINK)


class Lifecycle(Generic[S, E]):
    """The state of one object, changed by :meth:`fire` alone.

    Make one with :func:`connection_lifecycle`, :func:`channel_lifecycle` or :func:`link_lifecycle`.
    """

    __slots__ = ("_machine", "kind", "state")

    def __init__(self, kind: str, machine: Machine, initial: S) -> None:
        self.kind: str = kind
        self.state: S = initial
        self._machine = machine

    def fire(self, event: E) -> S:
        """Go where the table sends ``event`` from the present state.

        Returns:
            The state that was left.

        Raises:
            InvalidTransition: the table has no such row; the state is unchanged.
        """
        source = self.state
        try:
            self._machine.events[event.value].trigger(self)
        except MachineError:
            raise InvalidTransition(self.kind, source.name, event.value) from None
        return source

    def allows(self, event: E) -> bool:
        """Whether the table has a row for ``event`` in the present state."""
        return bool(self._machine.events[event.value].transitions.get(self.state.name))


def connection_lifecycle() -> Lifecycle[State, ConnectionEvent]:
    """A connection's life cycle, at its start."""
    return Lifecycle("connection", _CONNECTION_MACHINE, State.CONNECTING)


def channel_lifecycle() -> Lifecycle[State, ChannelEvent]:
    """A channel's life cycle, at its start."""
    return Lifecycle("channel", _CHANNEL_MACHINE, State.CONNECTING)


def link_lifecycle() -> Lifecycle[LinkState, LinkEvent]:
    """A link's life cycle, at its start."""
    return Lifecycle("link", _LINK_MACHINE, LinkState.AWAITING_START)
