"""The way of a session's events: to the connection, and to the channels on the link.

A link that ends is told of in a fixed order and without an await between: the connection first, then each channel with
the requests that were not answered.
"""

from __future__ import annotations

from typing import Protocol

from anyamqp.errors import AnyamqpError
from anyamqp.message import FieldTable
from anyamqp.protocol.events import (
    Blocked,
    ChannelClosed,
    ChannelReleased,
    ConfirmsReceived,
    ContentsReceived,
    Ended,
    Event,
    MethodReceived,
    Opened,
    Replied,
    Stalled,
    Tuning,
    Unblocked,
)
from anyamqp.protocol.lifecycle import Transition
from anyamqp.protocol.ports import ChannelHandler
from anyamqp.protocol.requests import Purpose
from anyamqp.protocol.session import Session
from anyamqp.wire import methods


class LinkOwner(Protocol):
    """A connection, as its link sees it."""

    def on_link_opened(self, tuning: Tuning, server_properties: FieldTable) -> None:
        """The handshake is done."""
        ...

    def on_link_blocked(self, reason: str) -> None:
        """The broker accepts no publishes."""
        ...

    def on_link_unblocked(self) -> None:
        """The broker accepts publishes again."""
        ...

    def on_number_free(self) -> None:
        """A channel's close is complete: another one may have its number."""
        ...

    def on_secret_updated(self, secret: str) -> None:
        """The broker accepted a new secret; told in the order in which they were sent."""
        ...

    def on_link_ended(self, error: AnyamqpError | None) -> None:
        """The link is gone; the channels on it hear of it next."""
        ...


class Witness(Protocol):
    """Takes note of events on a link."""

    def record(self, transition: Transition) -> None: ...

    def stalled(self, seconds: float) -> None:
        """The event loop was late."""
        ...


class Closes:
    """The closes of a link that have no reply yet.

    They share one time-out, counted from the oldest: a broker that does not answer is waited for once, however many
    channels are closed before the connection is.
    """

    def __init__(self) -> None:
        self._sent: dict[int, float] = {}
        """When, the oldest first, by channel number; the connection's by 0."""

    def sent(self, number: int, now: float) -> None:
        """A close was sent on a channel, or another request of leaving."""
        self._sent.setdefault(number, now)

    def answered(self, number: int) -> None:
        """The broker has answered it, or will not because it has closed the channel."""
        self._sent.pop(number, None)

    def deadline(self, timeout: float, now: float) -> float:
        """When to stop waiting for a reply that may take ``timeout`` seconds."""
        return next(iter(self._sent.values()), now) + timeout


class Dispatcher:
    """Tells the connection and its channels of the events of one session.

    Args:
        session: the session.
        owner: the connection.
        witness: where transitions go.

    Attributes:
        handlers: the channels on the link, by number.
        closes: the closes that have no reply yet.
        has_worked: whether the broker delivered, confirmed or answered anything besides the requests of recovery.
        is_over: whether the session has ended.
        error: why it ended; None if we closed it.
    """

    def __init__(self, session: Session, owner: LinkOwner, witness: Witness) -> None:
        self.session: Session = session
        self.handlers: dict[int, ChannelHandler] = {}
        self.closes: Closes = Closes()
        self.has_worked: bool = False
        self.is_over: bool = False
        self.error: AnyamqpError | None = None
        self._owner = owner
        self._witness = witness

    @property
    def awaits_answer(self) -> bool:
        """Whether somebody on the link waits for an answer of the broker's."""
        awaits_reply = self.session.awaits_reply
        return awaits_reply(0) or any(
            awaits_reply(number) or handler.awaits_answer for number, handler in self.handlers.items()
        )

    def attach(self, handler: ChannelHandler, purpose: Purpose) -> int:
        """Send channel.open, whose reply the handler gets for this purpose. Returns the channel's number.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
        """
        number = self.session.open_channel(purpose)
        self.handlers[number] = handler
        return number

    def tell(self, event: Event) -> None:
        """Tell of an event."""
        handlers = self.handlers
        if isinstance(event, ContentsReceived):
            self.has_worked = True
            handlers[event.channel].on_contents(event.contents)
        elif isinstance(event, ConfirmsReceived):
            self.has_worked = True
            handlers[event.channel].on_confirms(event.confirms)
        elif isinstance(event, Replied):
            self._replied(event)
        elif isinstance(event, MethodReceived):
            handlers[event.channel].on_method(event.method)
        elif isinstance(event, ChannelClosed):
            self.closes.answered(event.channel)
            handlers.pop(event.channel).on_closed(event.error, event.unanswered)
        elif isinstance(event, ChannelReleased):
            # Nobody is there if the session closed it for what the broker sent: on_closed was the last word then.
            self.closes.answered(event.channel)
            handler = handlers.pop(event.channel, None)
            if handler is not None:
                handler.on_released()
            self._owner.on_number_free()
        elif isinstance(event, Transition):
            self._witness.record(event)
        elif isinstance(event, Opened):
            self._owner.on_link_opened(event.tuning, event.server_properties)
        elif isinstance(event, Blocked):
            self._owner.on_link_blocked(event.reason)
        elif isinstance(event, Unblocked):
            self._owner.on_link_unblocked()
        elif isinstance(event, Stalled):
            self._witness.stalled(event.seconds)
        else:
            self._ended(event)

    def _replied(self, event: Replied) -> None:
        request = event.request
        if event.channel:
            if request.purpose not in _NO_WORK:
                self.has_worked = True
            if request.purpose is Purpose.FAREWELL:
                self.closes.answered(event.channel)
            self.handlers[event.channel].on_reply(request)
            return
        if isinstance(request.method, methods.Connection.UpdateSecret):
            self._owner.on_secret_updated(request.method.new_secret)
        request.finish()

    def _ended(self, ended: Ended) -> None:
        self.is_over = True
        self.error = ended.error
        for request in self.session.unanswered(0):
            request.finish()
        self._owner.on_link_ended(ended.error)
        handlers = list(self.handlers.items())
        self.handlers.clear()
        for number, handler in handlers:
            handler.on_lost(ended.error, self.session.unanswered(number))


_NO_WORK = (Purpose.SETUP, Purpose.LAST_OF_SETUP, Purpose.RECOVERY)
