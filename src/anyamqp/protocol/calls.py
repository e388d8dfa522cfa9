"""The calls of an RPC client. Each call ends with its reply or with one error.

A reply address is valid on one channel of one link (RabbitMQ, "Direct Reply-to"). When that channel is lost, the
replies to its requests are lost too: those calls fail, or are sent again if the client resends.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from anyamqp.delivery import Delivery
from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ConnectionLost,
    InvalidArgument,
    MalformedProperties,
    ReplyError,
    ReplyTimeout,
    copy_of,
)
from anyamqp.protocol import blame
from anyamqp.protocol.contents import delivery_of, unroutable_of
from anyamqp.protocol.events import Content
from anyamqp.protocol.lifecycle.caller import CALLER, CallerEffect, CallerEvent, CallerState
from anyamqp.protocol.publishing import OpenChannel, PublishChannel
from anyamqp.protocol.reopening import Reopenings
from anyamqp.protocol.waking import Wakeable
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, decode_correlation_id

_MOST_ATTEMPTS: Final = 3


class Call:
    """A request that waits for its reply.

    Args:
        correlation_id: the id that the reply repeats.
        route: the exchange and routing key to publish the request with.
        properties: the request's properties, encoded.
        body: the request's body.
        waker: wakes the caller when there is an outcome.
        seconds: the time-out in seconds that the caller gave.
        deadline: when the time-out expires; infinity for never.
    """

    __slots__ = (
        "attempts",
        "body",
        "correlation_id",
        "deadline",
        "is_sent",
        "outcome",
        "properties",
        "route",
        "seconds",
        "waker",
    )

    def __init__(
        self,
        correlation_id: str,
        route: Route,
        properties: bytes,
        body: bytes,
        *,
        waker: Wakeable,
        seconds: float | None,
        deadline: float,
    ) -> None:
        self.correlation_id: str = correlation_id
        self.route: Route = route
        self.properties: bytes = properties
        self.body: bytes = body
        self.waker: Wakeable = waker
        self.seconds: float | None = seconds
        self.deadline: float = deadline
        self.attempts: int = 0
        """How often the request was sent."""
        self.is_sent: bool = False
        """Whether the request was sent on the current channel."""
        self.outcome: Delivery | AnyamqpError | None = None

    @property
    def exchange(self) -> str:
        """The exchange that the request is published to."""
        return self.route.exchange

    def settle(self, outcome: Delivery | AnyamqpError) -> None:
        """Set the outcome and wake the caller. Only the first outcome counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.waker.set()

    def time_out(self) -> None:
        """Fail the call: its deadline has passed."""
        sent = "sent" if self.attempts else "never sent"
        self.settle(ReplyTimeout(f"no reply within {self.seconds} s; the request was {sent}"))


class Calls:
    """The calls of one RPC client. It follows the table :data:`~anyamqp.protocol.lifecycle.caller.CALLER`.

    Args:
        channel: the channel to publish on; replaced after :class:`OpenChannel`.
        resend: whether to send a request again when its reply was lost.

    Attributes:
        deadline: when to call :meth:`due`; infinity for never.
    """

    def __init__(self, channel: PublishChannel, *, resend: bool) -> None:
        self.channel: PublishChannel = channel
        self.deadline: float = math.inf
        self._resend = resend
        self._lifecycle = CALLER.begin()
        self._reopenings = Reopenings()
        self._refusal: AnyamqpError | None = None
        """The error that every new call raises; set by the effects FAIL_ALL and FAIL_WITH_CHANNEL."""
        self._calls: dict[str, Call] = {}
        self._unsent: OrderedDict[str, Call] = OrderedDict()
        """The calls that are not sent yet, oldest first."""
        self._effects: list[OpenChannel] = []

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def state(self) -> CallerState:
        """The client's state."""
        return self._lifecycle.state

    def take_effects(self) -> list[OpenChannel]:
        """Take the effects, which the shell carries out in this order."""
        effects, self._effects = self._effects, []
        return effects

    # --- the client's calls -----------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The client's block begins."""
        self._fire(CallerEvent.ENTERED)

    def add(self, call: Call) -> None:
        """Accept a call; :meth:`send_waiting` sends it.

        Raises:
            InvalidArgument: a call with its correlation id is under way.
            AnyamqpError: the client is closed.
        """
        if self._refusal is not None:  # an attribute, because the table never runs per message
            raise copy_of(self._refusal)
        if call.correlation_id in self._calls:
            raise InvalidArgument(f"correlation_id: a call with {call.correlation_id!r} is under way")
        self._calls[call.correlation_id] = call
        self._unsent[call.correlation_id] = call
        self.deadline = min(self.deadline, call.deadline)

    def remove(self, call: Call) -> None:
        """Forget a call: its caller has the outcome, or was cancelled."""
        del self._calls[call.correlation_id]
        self._unsent.pop(call.correlation_id, None)

    def send_waiting(self) -> None:
        """Send the unsent requests, if the channel accepts them."""
        while self._unsent and self.channel.can_publish:
            _, call = self._unsent.popitem(last=False)
            if call.outcome is not None:
                continue
            try:
                self.channel.publish(call.route, call.properties, call.body)
            except InvalidArgument as error:
                call.settle(error)
                continue
            call.is_sent = True
            call.attempts += 1
        self.channel.flush(is_awaited=len(self._calls) == 1)

    def close(self) -> None:
        """The client's block ends: settle every call without an outcome."""
        self._fire(CallerEvent.CLOSE, error=ChannelClosed("the RPC client is closed"))
        self.deadline = math.inf

    # --- events of the channel --------------------------------------------------------------------------------------

    def channel_opened(self, now: float) -> None:
        """The channel is open on a link and consumes replies. Requests wait until it is ready."""
        self._reopenings.opened(now)
        self._fire(CallerEvent.OPENED)

    def channel_ready(self) -> None:
        """The channel accepts requests."""
        self._fire(CallerEvent.READY)

    def received(self, content: Content) -> None:
        """A reply arrived, or the broker returned a request."""
        self._reopenings.in_vain = 0
        method, message = content
        try:
            call = self._calls.get(decode_correlation_id(message.encoded) or "")
        except MalformedProperties:
            return  # no readable correlation id, so it answers no call
        if call is None or call.outcome is not None:
            return  # the caller no longer waits
        if isinstance(method, methods.Basic.Deliver):
            call.settle(delivery_of(method, message, None))
        elif isinstance(method, methods.Basic.Return):
            call.settle(unroutable_of(method, message.message_id))

    def link_lost(self, error: AnyamqpError | None) -> None:
        """The link has ended. ``error`` is the reason; None if we closed it."""
        self._fire(CallerEvent.LOST, error=error or ConnectionLost("the link was lost"))

    def channel_failed(self, error: AnyamqpError, now: float) -> None:
        """The channel is closed for good."""
        is_reply = isinstance(error, ReplyError)
        self._fire(CallerEvent.CHANNEL_CLOSED if is_reply else CallerEvent.CHANNEL_GONE, error=error, now=now)

    def channel_refused(self, error: AnyamqpError) -> None:
        """No other channel could be opened."""
        self._fire(CallerEvent.GAVE_UP, error=error)

    def due(self, now: float) -> None:
        """The deadline has passed. Calling this too early is harmless."""
        waiting = [call for call in self._calls.values() if call.outcome is None]
        for call in waiting:
            if now >= call.deadline:
                call.time_out()
        self.deadline = min((call.deadline for call in waiting if call.outcome is None), default=math.inf)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _fire(self, event: CallerEvent, *, error: AnyamqpError | None = None, now: float = 0.0) -> None:
        """Fire an event and carry out its effects."""
        is_named = False
        for effect in self._lifecycle.fire(event).effects:
            match effect:
                case CallerEffect.SEND_WAITING:
                    self.send_waiting()
                case CallerEffect.LOSE:
                    self._lose(error)
                case CallerEffect.ACCUSE:
                    is_named = self._accuse(error)
                case CallerEffect.REOPEN:
                    self._reopen(0.0 if is_named else self._reopenings.closed(now), error)
                case CallerEffect.FAIL_WITH_CHANNEL:
                    self._fail_all(self.channel.closed_error())
                case CallerEffect.FAIL_ALL:
                    if error is not None:
                        self._fail_all(error)

    def _accuse(self, error: AnyamqpError | None) -> bool:
        """Fail the calls to blame for a close. Returns whether there are any and the broker named basic.publish."""
        if not isinstance(error, ReplyError):
            return False
        sent = [call for call in self._calls.values() if call.is_sent and call.outcome is None]
        guilty = blame.guilty_calls(error, sent, _MOST_ATTEMPTS)
        for call in guilty:
            call.settle(copy_of(error))
        return blame.is_for_a_publish(error) and bool(guilty)

    def _reopen(self, delay: float | None, error: AnyamqpError | None) -> None:
        if delay is None:
            self._fire(CallerEvent.GAVE_UP, error=error)
        else:
            self._lose(error)
            self._effects.append(OpenChannel(delay))

    def _lose(self, error: AnyamqpError | None) -> None:
        """The replies to the sent requests are lost: send these again, or fail their calls."""
        for call in self._calls.values():
            if not call.is_sent or call.outcome is not None:
                continue
            if self._resend and call.attempts < _MOST_ATTEMPTS:
                call.is_sent = False
                continue
            lost = ConnectionLost("the request was sent, but the link or channel of its reply was lost")
            lost.__cause__ = error
            call.settle(lost)
        self._unsent = OrderedDict((name, call) for name, call in self._calls.items() if not call.is_sent)

    def _fail_all(self, error: AnyamqpError) -> None:
        self._refusal = error
        for call in self._calls.values():
            if call.outcome is None:
                call.settle(copy_of(error))
