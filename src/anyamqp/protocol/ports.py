"""Interfaces of the objects that the decisions of connection and channel use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.protocol.events import Confirm, Content
from anyamqp.protocol.requests import Purpose, Request, Unanswered
from anyamqp.protocol.session import Session
from anyamqp.wire.methods import Method


class ChannelHandler(Protocol):
    """A channel, as the link to which it is attached sees it."""

    @property
    def awaits_answer(self) -> bool:
        """Whether the broker owes an answer other than a reply to a request, such as confirms."""
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
        """The link has ended with ``error``; None if we closed it."""
        ...


class ChannelLink(Protocol):
    """A link, as a channel on it sees it."""

    @property
    def session(self) -> Session: ...

    def attach(self, handler: ChannelHandler, purpose: Purpose) -> int:
        """Send channel.open on a free number; ``handler`` gets the events of the channel.

        Raises:
            ChannelLimitReached: no channel number is free.
        """
        ...

    def close_channel(self, number: int, error: ReplyError | None = None) -> None:
        """Send channel.close, with the code and text of ``error`` if there is one.

        The end of a link that is closing, or has ended, completes the close.
        """
        ...

    def close_deadline(self, timeout: float) -> float:
        """When to stop waiting for the reply to a close that may take ``timeout`` seconds."""
        ...

    def flush(self) -> None:
        """Send the session's output soon."""
        ...

    def push(self) -> None:
        """Send the session's output at once, unless the writer is busy."""
        ...


class ChannelOnLink(Protocol):
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
        """Return paused deliveries to the broker at once."""
        ...

    def leave(self) -> None:
        """The channel leaves the link."""
        ...


class ChannelOwner:
    """The user of a channel. Its methods neither raise nor wait; by default they do nothing."""

    @property
    def awaits_answer(self) -> bool:
        """Whether the owner waits for an answer from the broker other than a reply to a request."""
        return False

    def setup(self) -> Sequence[Method]:
        """The requests that set up a fresh channel."""
        return ()

    def on_opened(self) -> None:
        """The channel is open and set up on the current link."""

    def on_ready(self) -> None:
        """The broker accepts publishes on the channel, now or again."""

    def on_held(self) -> None:
        """The broker no longer accepts publishes on the channel."""

    def on_contents(self, contents: Sequence[Content]) -> None:
        """Deliveries or returns came."""

    def on_confirms(self, confirms: Sequence[Confirm]) -> None:
        """Confirms came."""

    def on_cancelled(self) -> None:
        """The broker sent basic.cancel."""

    def on_reply(self, request: Method, reply: Method) -> None:
        """The broker answered a request of the owner; ``request`` is the object that the owner sent."""

    def on_lost(self, error: AnyamqpError | None) -> None:
        """The link has ended with ``error``; None if we closed it."""

    def on_failed(self, error: AnyamqpError) -> None:
        """The channel is closed for good."""


class Publishing(Protocol):
    """A publisher, as its connection sees it."""

    @property
    def unconfirmed(self) -> int:
        """Publishes that wait for their outcome."""
        ...

    @property
    def window(self) -> int:
        """The most publishes that may wait for their outcome."""
        ...

    def on_blocked(self) -> None:
        """The broker accepts no publishes."""
        ...

    def on_unblocked(self) -> None:
        """The broker accepts publishes again, or the link has ended."""
        ...


class Consuming(Protocol):
    """A consumer, as its connection sees it."""

    @property
    def queue(self) -> str:
        """The current name of the queue."""
        ...

    @property
    def channel(self) -> object:
        """The consumer's current channel."""
        ...

    @property
    def not_back(self) -> str | None:
        """The reason why it does not consume again after a loss; None if it consumes, or waits for its queue."""
        ...

    def fail(self, error: AnyamqpError) -> None:
        """End the consumer: its queue could not be recovered."""
        ...

    def cancel(self) -> None:
        """Send basic.cancel without waiting: the connection is about to close."""
        ...

    def give_back(self) -> None:
        """Requeue undelivered messages, after :meth:`cancel`; the end of the channel would count them as failed."""
        ...

    def on_connection_closed(self, error: AnyamqpError) -> None:
        """The connection is closed. Called even while the consumer has no channel."""
        ...
