"""The decisions of a logical channel: requests, and moving from link to link.

The channel object stays the same while it is attached to one link after the other. Attaching sends channel.open and the
requests of the setup (qos, confirm mode, consumers) together, without an await, so a channel cannot be attached twice.

The channel follows :data:`~anyamqp.protocol.lifecycle.channel.CHANNEL`. Its owner is a user's channel, the outbox of a
publisher, the subscription of a consumer, or the calls of an RPC client.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ChannelLimitReached,
    CloseFacts,
    CloseFrame,
    ConnectionClosed,
    InvalidUse,
    ReplyError,
    Side,
    copy_of,
)
from anyamqp.protocol import blame
from anyamqp.protocol.events import Confirm, Content
from anyamqp.protocol.getting import requeue_unwanted
from anyamqp.protocol.lifecycle.channel import CHANNEL, OVER, USABLE, ChannelEffect, ChannelEvent, ChannelState
from anyamqp.protocol.lifecycle.states import State
from anyamqp.protocol.ports import ChannelLink, ChannelOnLink, ChannelOwner
from anyamqp.protocol.requests import Purpose, Request, Unanswered
from anyamqp.protocol.topology import Topology
from anyamqp.protocol.waking import Wakers
from anyamqp.wire import methods
from anyamqp.wire.basic import Route
from anyamqp.wire.methods import Method

P = TypeVar("P", bound=ChannelOnLink)


class ChannelContext(Protocol[P]):
    """A connection, as the decisions of its channels see it."""

    @property
    def topology(self) -> Topology:
        """Records the entities that were declared."""
        ...

    @property
    def missed(self) -> tuple[ChannelEvent, ...]:
        """The events of the connection that a channel has missed if it opens now."""
        ...

    def new_link_channel(self, number: int) -> P:
        """Make a channel of the current link."""
        ...

    def join(self, channel: ChannelCore[P]) -> None:
        """Attach a channel to the current link, or leave that to the recovery.

        Raises:
            ChannelLimitReached: no channel number is free.
            InvalidArgument: a request of the channel's setup does not fit a frame of the link.
        """
        ...

    def forget(self, channel: ChannelCore[P]) -> None:
        """Remove a closed channel."""
        ...

    def record(
        self,
        channel: ChannelCore[P],
        source: State,
        event: ChannelEvent,
        target: State,
        error: AnyamqpError | None,
    ) -> None:
        """Record that a channel's public state changed, because of ``error`` if there is one."""
        ...


class ChannelCore(Generic[P]):
    """One logical channel.

    Args:
        name: for logs: "channel 3".
        context: its connection.
        owner: gets its events; None if there is none.

    Attributes:
        link_channel: the channel on the current link; None while it is on no link.
        error: the error that closed it; None if its owner closed it.
        wakers: woken when its state changes.
    """

    __slots__ = (
        "__weakref__",
        "_closing_on",
        "_context",
        "_lifecycle",
        "_owner",
        "error",
        "link_channel",
        "name",
        "wakers",
    )

    def __init__(self, name: str, context: ChannelContext[P], owner: ChannelOwner | None) -> None:
        self.name: str = name
        self.link_channel: P | None = None
        self.error: AnyamqpError | None = None
        self.wakers: Wakers = Wakers()
        self._context = context
        self._owner = owner
        self._closing_on: ChannelLink | None = None
        """The link on which channel.close was sent."""
        self._lifecycle = CHANNEL.begin()

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> ChannelState:
        """The state of its life cycle."""
        return self._lifecycle.state

    def take(self, event: ChannelEvent, error: AnyamqpError | None = None, unanswered: Unanswered = ()) -> None:
        """Take an event.

        Args:
            event: the event.
            error: its reason, if there is one.
            unanswered: the requests that the broker will not answer because of it, the oldest first.
        """
        step = self._lifecycle.fire(event)
        if step.source.public is not step.target.public:
            self._context.record(self, step.source.public, event.public, step.target.public, error)
        if step.source is not step.target:
            self.wakers.wake()
        for effect in step.effects:
            self._carry_out(effect, error, unanswered)

    def check_usable(self, *, is_opening: bool = False) -> bool:
        """Whether requests may be sent now. If not, wait for :attr:`wakers`.

        Args:
            is_opening: whether the caller opens the channel, and gets the error for which that failed.

        Raises:
            InvalidUse: the channel was never registered.
            ChannelClosed, ConnectionClosed: it will never be usable again.
            ReplyError, ChannelLimitReached: the same, for a caller that opens it.
        """
        state = self._lifecycle.state
        if state in OVER:
            if is_opening and isinstance(self.error, ReplyError | ChannelLimitReached):
                raise self.error
            raise self.closed_error()
        if state is ChannelState.CONNECTING_NEW:
            raise InvalidUse("a channel works inside its block: async with connection.channel() as channel")
        return state in USABLE

    def close_deadline(self, timeout: float) -> float:
        """When to stop waiting for a close-ok that may take ``timeout`` seconds; infinity if no close was sent."""
        return math.inf if self._closing_on is None else self._closing_on.close_deadline(timeout)

    # --- for the connection -----------------------------------------------------------------------------------------

    def attach(self, link: ChannelLink) -> None:
        """Open the channel on a link, and set it up there.

        Raises:
            ChannelLimitReached: no channel number is free.
            InvalidArgument: a request of the setup does not fit a frame of the link.
        """
        setup: Sequence[Method] = [] if self._owner is None else self._owner.setup()
        number = link.attach(self, Purpose.SETUP if setup else Purpose.LAST_OF_SETUP)
        self.link_channel = self._context.new_link_channel(number)
        try:
            for method in setup:
                self.send(method, Purpose.LAST_OF_SETUP if method is setup[-1] else Purpose.SETUP)
        except BaseException:
            self._detach()
            link.session.close_channel(number)
            link.flush()
            raise
        self.take(ChannelEvent.ATTACHED)

    def fail(self, error: AnyamqpError) -> None:
        """Close the channel for good: it cannot work any more."""
        self.take(ChannelEvent.FAILED, error)

    def closed_error(self) -> AnyamqpError:
        """The error of every call on the closed channel."""
        if isinstance(self.error, ConnectionClosed):
            return copy_of(self.error)
        closed = ChannelClosed(f"the channel is closed: {self.error}" if self.error else "the channel is closed")
        closed.close = self.error.close if isinstance(self.error, ReplyError) else None
        closed.__cause__ = self.error
        return closed

    # --- requests ---------------------------------------------------------------------------------------------------

    def send(self, method: Method, purpose: Purpose = Purpose.CALLER) -> Request:
        """Send a request.

        Raises:
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
            InvalidUse: the channel is on no link.
        """
        link_channel = self._require_link_channel()
        # Looks up the queue's name now: the broker may have given it a new one while the request waited for a link.
        as_sent = self._context.topology.as_sent(method)
        request = link_channel.link.session.request(link_channel.number, method, purpose, as_sent=as_sent)
        link_channel.link.flush()
        return request

    def ask(self, method: Method) -> None:
        """Send a request whose reply the owner gets; after a loss it is not sent again."""
        self.send(method, Purpose.OWNER)

    def tell(self, method: Method) -> None:
        """Send a method that has no reply, if the channel is on a link."""
        link_channel = self.link_channel
        if link_channel is not None:
            link_channel.link.session.send(link_channel.number, method)
            link_channel.link.flush()

    # --- publishing -------------------------------------------------------------------------------------------------

    @property
    def can_publish(self) -> bool:
        """Whether the broker accepts publishes now."""
        return self._lifecycle.state is ChannelState.OPEN

    def publish(self, route: Route, properties: bytes, body: bytes) -> None:
        """Append a publish to the outgoing buffer; :meth:`flush` sends it. Call it only while :attr:`can_publish`.

        Raises:
            InvalidArgument: the properties do not fit a frame; nothing was appended.
        """
        link_channel = self.link_channel
        if link_channel is None:
            raise InvalidUse(f"{self.name} is on no link")
        link_channel.link.session.publish(link_channel.number, route, properties, body)

    def flush(self, *, is_awaited: bool = False) -> None:
        """Send the outgoing buffer soon, or at once if a caller awaits the answer and the writer is not busy."""
        link_channel = self.link_channel
        if link_channel is not None:
            if is_awaited:
                link_channel.link.push()
            else:
                link_channel.link.flush()

    # --- events of the link -----------------------------------------------------------------------------------------

    @property
    def awaits_answer(self) -> bool:
        """Whether the broker owes an answer other than a reply to a request, such as confirms."""
        return self.state is ChannelState.CLOSING or (self._owner is not None and self._owner.awaits_answer)

    def on_reply(self, request: Request) -> None:
        """The broker answered a request."""
        reply, link_channel = request.reply, self.link_channel
        if reply is None:
            return
        if isinstance(reply, methods.Basic.GetOk) and link_channel is not None:
            link_channel.last_tag = reply.delivery_tag
            requeue_unwanted(request, link_channel)
        if request.purpose is Purpose.DECLARATION:
            self._context.topology.record(self, request.method, reply)
        elif request.purpose is Purpose.LAST_OF_SETUP:
            self.take(ChannelEvent.OPENED)
        elif request.purpose in (Purpose.OWNER, Purpose.RECOVERY) and self._owner is not None:
            self._owner.on_reply(request.method, reply)
        request.finish()

    def on_method(self, method: Method) -> None:
        """channel.flow or basic.cancel came."""
        if isinstance(method, methods.Channel.Flow):
            self.take(ChannelEvent.STARTED if method.active else ChannelEvent.STOPPED)
        elif self._owner is not None:
            self._owner.on_cancelled()

    def on_contents(self, contents: list[Content]) -> None:
        """Deliveries or returns came."""
        link_channel = self.link_channel
        if link_channel is not None and self._owner is not None:
            method, _ = contents[-1]
            if isinstance(method, methods.Basic.Deliver):
                link_channel.last_tag = method.delivery_tag
            self._owner.on_contents(contents)

    def on_confirms(self, confirms: list[Confirm]) -> None:
        """Confirms came."""
        if self._owner is not None:
            self._owner.on_confirms(confirms)

    def on_closed(self, error: ReplyError, unanswered: Unanswered) -> None:
        """The broker closed the channel, or made the session close it."""
        self.take(ChannelEvent.ENDED, error, unanswered)

    def on_released(self) -> None:
        """Our close is complete."""
        self.take(ChannelEvent.CLOSED)

    def on_lost(self, error: AnyamqpError | None, unanswered: Unanswered) -> None:
        """The link has ended with ``error``; None if we closed it."""
        guilty = blame.guilty_request(error, unanswered)
        # A setup that ended the link would end the next one as well.
        is_guilty = guilty is not None and guilty.purpose in (Purpose.SETUP, Purpose.LAST_OF_SETUP)
        self.take(ChannelEvent.ENDED if is_guilty else ChannelEvent.LOST, error, unanswered)

    # --- effects ----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: ChannelEffect, error: AnyamqpError | None, unanswered: Unanswered) -> None:
        match effect:
            case ChannelEffect.JOIN:
                self._context.join(self)
            case ChannelEffect.JOIN_LATE:
                self._join_late()
            case ChannelEffect.ADMIT:
                for event in self._context.missed:
                    self.take(event)
            case ChannelEffect.DETACH:
                self._detach()
            case ChannelEffect.SEND_CLOSE:
                self._send_close(error)
            case ChannelEffect.COMPLETE_CLOSE:
                self.take(ChannelEvent.CLOSED)
            case ChannelEffect.RETURN_REQUESTS:
                blame.return_requests(error, unanswered)
            case ChannelEffect.FAIL_REQUESTS:
                self._fail_requests(error, unanswered)
            case ChannelEffect.FAIL_UNANSWERED:
                self._fail_requests(error, self._unanswered())
            case ChannelEffect.FORGET:
                self._context.forget(self)
            case _ if self._owner is not None:
                _tell(self._owner, effect, error)
            case _:
                pass

    def _join_late(self) -> None:
        try:
            self._context.join(self)
        except AnyamqpError as error:
            self.fail(error)

    def _send_close(self, error: AnyamqpError | None) -> None:
        link_channel = self._require_link_channel()
        self._closing_on = link_channel.link
        link_channel.release()
        if isinstance(error, ReplyError) and error.found_by is Side.CLIENT:
            error.close = CloseFacts(None, CloseFrame(error.code, error.text, None), Side.CLIENT)
            link_channel.link.close_channel(link_channel.number, error)
        else:
            link_channel.link.close_channel(link_channel.number)
        self._detach()

    def _fail_requests(self, error: AnyamqpError | None, unanswered: Unanswered) -> None:
        self.error = error
        blame.fail_requests(error, unanswered, self.closed_error)

    def _unanswered(self) -> Unanswered:
        link_channel = self._require_link_channel()
        return link_channel.link.session.unanswered(link_channel.number)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _detach(self) -> None:
        link_channel, self.link_channel = self.link_channel, None
        if link_channel is not None:
            link_channel.leave()

    def _require_link_channel(self) -> P:
        if self.link_channel is None:
            raise InvalidUse(f"{self.name} is on no link")
        return self.link_channel


def _tell(owner: ChannelOwner, effect: ChannelEffect, error: AnyamqpError | None) -> None:
    match effect:
        case ChannelEffect.TELL_OPENED:
            owner.on_opened()
        case ChannelEffect.TELL_READY:
            owner.on_ready()
        case ChannelEffect.TELL_HELD:
            owner.on_held()
        case ChannelEffect.TELL_LOST:
            owner.on_lost(error)
        case _ if error is not None:  # TELL_FAILED: its events all have an error
            owner.on_failed(error)
        case _:
            raise InvalidUse(f"a channel that would {effect.value}, without a reason")
