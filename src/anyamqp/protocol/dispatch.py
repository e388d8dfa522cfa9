"""Dispatches a session's events to the connection and to the channels on the link.

When a link ends, the connection learns of it first and tells its recovery, then each channel learns of it, with its
unanswered requests. There is no await between.
"""

from __future__ import annotations

from typing import Protocol

from anyamqp.errors import AnyamqpError
from anyamqp.message import FieldTable
from anyamqp.protocol.events import (
    Blocked,
    ChannelEnded,
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
        """A channel's close is complete, and its number is free."""
        ...

    def on_secret_updated(self, secret: str) -> None:
        """The broker accepted a new secret. Secrets are accepted in the order in which they were sent."""
        ...

    def on_link_ended(self, error: AnyamqpError | None) -> None:
        """The link has ended; the channels on it learn of it next."""
        ...


class Witness(Protocol):
    """Records events on a link."""

    def record(self, transition: Transition) -> None: ...

    def stalled(self, seconds: float) -> None:
        """The event loop was late."""
        ...


class Closes:
    """The closes of a link that have no reply yet.

    They share one time-out, counted from the oldest close. So a broker that does not answer delays the end of the
    connection by one time-out, however many channels are closed before.
    """

    def __init__(self) -> None:
        self._sent: dict[int, float] = {}
        """The times of sending by channel number, the oldest first; 0 stands for the connection."""

    def sent(self, number: int, now: float) -> None:
        """Note that a close, or another last request, is sent on a channel."""
        self._sent.setdefault(number, now)

    def answered(self, number: int) -> None:
        """Note that the broker has answered, or will not because it has closed the channel."""
        self._sent.pop(number, None)

    def deadline(self, timeout: float, now: float) -> float:
        """When to stop waiting for a reply that may take ``timeout`` seconds."""
        return next(iter(self._sent.values()), now) + timeout


class Dispatcher:
    """Dispatches the events of one session to the connection and its channels.

    Args:
        session: the session.
        owner: the connection.
        witness: records transitions.

    Attributes:
        handlers: the channels on the link, by number.
        closes: the closes that have no reply yet.
        has_worked: whether the broker delivered or confirmed a message, or answered a request outside recovery.
        error: the error that ended it; None if we closed it.
    """

    __slots__ = (
        "_owner",
        "_witness",
        "closes",
        "error",
        "handlers",
        "has_worked",
        "session",
    )

    def __init__(self, session: Session, owner: LinkOwner, witness: Witness) -> None:
        self.session: Session = session
        self.handlers: dict[int, ChannelHandler] = {}
        self.closes: Closes = Closes()
        self.has_worked: bool = False
        self.error: AnyamqpError | None = None
        self._owner = owner
        self._witness = witness

    @property
    def awaits_answer(self) -> bool:
        """Whether anybody on the link waits for an answer from the broker."""
        awaits_reply = self.session.awaits_reply
        return awaits_reply(0) or any(
            awaits_reply(number) or handler.awaits_answer for number, handler in self.handlers.items()
        )

    def attach(self, handler: ChannelHandler, purpose: Purpose) -> int:
        """Send channel.open, whose reply the handler gets with this purpose. Returns the channel's number.

        Raises:
            ChannelLimitReached: no channel number is free.
        """
        number = self.session.open_channel(purpose)
        self.handlers[number] = handler
        return number

    def tell(self, event: Event) -> None:
        """Dispatch an event."""
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
        elif isinstance(event, ChannelEnded):
            self.closes.answered(event.channel)
            handlers.pop(event.channel).on_closed(event.error, event.unanswered)
        elif isinstance(event, ChannelReleased):
            # If the session closed the channel because of its input, on_closed has already removed the handler.
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
        self.error = ended.error
        for request in self.session.unanswered(0):
            request.finish()
        self._owner.on_link_ended(ended.error)
        handlers = list(self.handlers.items())
        self.handlers.clear()
        for number, handler in handlers:
            handler.on_lost(ended.error, self.session.unanswered(number))


_NO_WORK = (Purpose.SETUP, Purpose.LAST_OF_SETUP, Purpose.RECOVERY)
