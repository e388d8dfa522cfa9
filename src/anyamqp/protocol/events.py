"""The events of a session, as values, in the order in which they happened."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, TypeAlias

from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.message import FieldTable
from anyamqp.protocol.lifecycle import Transition
from anyamqp.protocol.requests import Request
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.methods import Method


class Tuning(NamedTuple):
    """The limits of a session: AMQP 0-9-1, connection.tune.

    Attributes:
        channel_max: highest channel number; 0 for no limit.
        frame_max: largest frame in bytes; 0 for no limit.
        heartbeat: heartbeat interval in seconds; 0 for none.
    """

    channel_max: int
    frame_max: int
    heartbeat: int

    def agree(self, theirs: Tuning) -> Tuning:
        """The limits that both sides accept: the smaller of two values, or the other one if one is 0."""
        return Tuning(
            *(min(ours, other) if ours and other else ours or other for ours, other in zip(self, theirs, strict=True))
        )


class Opened(NamedTuple):
    """The handshake is done."""

    tuning: Tuning
    server_properties: FieldTable


class Replied(NamedTuple):
    """The broker answered a request. On channel 0, the request is connection.update-secret (RabbitMQ)."""

    channel: int
    request: Request


class MethodReceived(NamedTuple):
    """The broker sent a method without a request on a channel: basic.cancel or channel.flow."""

    channel: int
    method: Method


Content: TypeAlias = tuple[Method, Received]
"""A method with its whole content: basic.deliver or basic.return."""


class ContentsReceived(NamedTuple):
    """Consecutive contents on a channel."""

    channel: int
    contents: list[Content]


Confirm: TypeAlias = methods.Basic.Ack | methods.Basic.Nack


class ConfirmsReceived(NamedTuple):
    """Consecutive confirms on a channel."""

    channel: int
    confirms: list[Confirm]


class ChannelEnded(NamedTuple):
    """A channel was closed for an error, by the broker, or by us for the broker's error.

    Attributes:
        unanswered: the requests on it that the broker will no longer answer, oldest first.
    """

    channel: int
    error: ReplyError
    unanswered: tuple[Request, ...]


class ChannelReleased(NamedTuple):
    """A channel that we closed is closed on both sides: its number is free again."""

    channel: int


class Blocked(NamedTuple):
    """The broker stopped reading publishes (RabbitMQ, "Blocked Connections")."""

    reason: str


class BlockNotice(NamedTuple):
    """The broker accepts no publishes, for ``reason``, since a time on the event loop's clock."""

    reason: str
    since: float


class Unblocked(NamedTuple):
    """The broker reads publishes again."""


class Stalled(NamedTuple):
    """The event loop ran ``seconds`` late."""

    seconds: float


class Ended(NamedTuple):
    """The session has ended. ``error`` is the reason; None if we closed it and the broker agreed."""

    error: AnyamqpError | None


Event: TypeAlias = (
    Opened
    | Replied
    | MethodReceived
    | ContentsReceived
    | ConfirmsReceived
    | ChannelEnded
    | ChannelReleased
    | Blocked
    | Unblocked
    | Stalled
    | Ended
    | Transition
)


class EventQueue(deque[Event]):
    """The events that the session's caller has not taken yet."""

    __slots__ = ()

    def add_content(self, channel: int, content: Content) -> None:
        """Add a content; consecutive ones share an event."""
        latest = self[-1] if self else None
        if isinstance(latest, ContentsReceived) and latest.channel == channel:
            latest.contents.append(content)
        else:
            self.append(ContentsReceived(channel, [content]))

    def add_confirm(self, channel: int, confirm: Confirm) -> None:
        """Add a confirm; consecutive ones share an event."""
        latest = self[-1] if self else None
        if isinstance(latest, ConfirmsReceived) and latest.channel == channel:
            latest.confirms.append(confirm)
        else:
            self.append(ConfirmsReceived(channel, [confirm]))
