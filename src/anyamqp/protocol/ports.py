"""The objects around the decisions of connection and channel, as these see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.protocol.events import Confirm, Content
from anyamqp.protocol.requests import Purpose, Request, Unanswered
from anyamqp.protocol.session import Session
from anyamqp.protocol.topology import Declarer
from anyamqp.wire.methods import Method


class ChannelHandler(Protocol):
    """What a link tells a channel that is attached to it."""

    @property
    def awaits_answer(self) -> bool:
        """Whether something was sent that the broker answers otherwise than with a reply."""
        ...

    def on_reply(self, request: Request) -> None:
        """The broker answered a request."""
        ...

    def on_method(self, method: Method) -> None:
        """channel.flow or basic.cancel came."""
        ...

    def on_contents(self, contents: list[Content]) -> None:
        """Deliveries or returns came."""
        ...

    def on_confirms(self, confirms: list[Confirm]) -> None:
        """Confirms came."""
        ...

    def on_closed(self, error: ReplyError, unanswered: Unanswered) -> None:
        """The broker closed the channel, or made the session close it."""
        ...

    def on_released(self) -> None:
        """Our close is complete."""
        ...

    def on_lost(self, error: AnyamqpError | None, unanswered: Unanswered) -> None:
        """The link is gone, for this reason; None if we closed it."""
        ...


class Recorder(Protocol):
    """Remembers the entities that were declared, to declare them again."""

    def record(self, channel: Declarer, request: Method, reply: Method) -> None:
        """A request that changes the topology succeeded."""
        ...

    def first_name(self, queue: str) -> str:
        """The name under which the user first saw a queue; it stays when the broker gives the queue another."""
        ...

    def present_name(self, queue: str) -> str:
        """The present name of a queue that has this name now or had it first."""
        ...

    def as_sent(self, request: Method) -> Method:
        """The request with the present name of its queue."""
        ...

    def is_stream(self, queue: str) -> bool:
        """Whether a queue was declared as a stream on this connection."""
        ...

    def consumer_started(self, queue: str) -> None:
        """A consumer of this connection consumes from the queue."""
        ...

    def consumer_ended(self, queue: str) -> None:
        """It does not any more: an auto-delete queue went with the last one."""
        ...


class ChannelLink(Protocol):
    """A link, as a channel on it sees it."""

    @property
    def session(self) -> Session: ...

    @property
    def is_open(self) -> bool:
        """Whether methods may be sent."""
        ...

    def attach(self, handler: ChannelHandler, purpose: Purpose) -> int:
        """Send channel.open on a free number, and tell ``handler`` of events there.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
        """
        ...

    def close_channel(self, number: int, error: ReplyError | None = None) -> None:
        """Send channel.close, for an error of the broker's if there is one."""
        ...

    def close_deadline(self, timeout: float) -> float:
        """When to stop waiting for the reply to a close that may take so many seconds."""
        ...

    def flush(self) -> None:
        """Send the session's output soon."""
        ...

    def push(self) -> None:
        """Send it at once, if nothing is in its way."""
        ...


class Place(Protocol):
    """A channel on one link."""

    last_tag: int
    """The highest tag delivered so far."""

    @property
    def link(self) -> ChannelLink: ...

    @property
    def number(self) -> int:
        """The channel's number on the link."""
        ...

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        """Send basic.nack, unless the channel has left the link."""
        ...

    def release(self) -> None:
        """Return at once the deliveries that wait for the end of a pause."""
        ...

    def leave(self) -> None:
        """The channel leaves the link."""
        ...


class ChannelOwner:
    """The user of a channel. Its methods neither raise nor wait; by default they do nothing."""

    @property
    def awaits_answer(self) -> bool:
        """Whether it waits for something of the broker's besides replies to requests."""
        return False

    def setup(self) -> Sequence[Method]:
        """The requests that bring a fresh channel into shape."""
        return ()

    def on_opened(self) -> None:
        """The channel is in shape on the present link."""

    def on_ready(self) -> None:
        """The broker accepts publishes on it, now or again."""

    def on_held(self) -> None:
        """The broker does not accept publishes any more."""

    def on_contents(self, contents: Sequence[Content]) -> None:
        """Deliveries or returns came."""

    def on_confirms(self, confirms: Sequence[Confirm]) -> None:
        """Confirms came."""

    def on_cancelled(self) -> None:
        """The broker sent basic.cancel."""

    def on_reply(self, reply: Method) -> None:
        """The reply to a request of the owner's came."""

    def on_lost(self, error: AnyamqpError | None) -> None:
        """The link is gone, for this reason; None if we closed it."""

    def on_failed(self, error: AnyamqpError) -> None:
        """The channel is closed for good."""


class BlockNotice(NamedTuple):
    """The broker accepts no publishes: why, and since when on the event loop's clock."""

    reason: str
    since: float


class Publishing(Protocol):
    """A publisher, as its connection sees it."""

    @property
    def unconfirmed(self) -> int:
        """Publishes that wait for their outcome."""
        ...

    def on_blocked(self) -> None:
        """The broker accepts no publishes."""
        ...

    def on_unblocked(self) -> None:
        """It accepts publishes again, or the link is gone."""
        ...


class Consuming(Protocol):
    """A consumer, as its connection sees it."""

    @property
    def queue(self) -> str:
        """The present name of the queue."""
        ...

    def fail(self, error: AnyamqpError) -> None:
        """The queue could not be recovered."""
        ...

    def cancel(self) -> None:
        """The connection is about to be closed: have the broker deliver no more, and wait for nothing."""
        ...

    def give_back(self) -> None:
        """Return what was not handed out, which the end of the channel would count as failed. After :meth:`cancel`."""
        ...

    def on_connection_closed(self, error: AnyamqpError) -> None:
        """Nothing will come any more; told also while there is no channel."""
        ...
