"""The channels of one session: requests and their replies, contents, confirms, and closes of channels.

Between our channel.close and its close-ok the broker's other frames on the channel are discarded (AMQP 0-9-1, 4.9 and
2.2.5). After the broker's channel.close they are discarded until the number is free again
(:mod:`anyamqp.protocol.channel_numbers`).

The life of a number has no table. A number is free, in use, or set aside after the broker's close; the collection that
holds it says which. A channel in use has one state more, whether we have closed it; only close, close-ok and the
broker's close change that.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from anyamqp.errors import (
    ChannelError,
    CloseFacts,
    CloseFrame,
    CommandInvalid,
    ContentTooLarge,
    FrameError,
    InvalidUse,
    MalformedProperties,
    Side,
    UnexpectedFrame,
)
from anyamqp.protocol.acks import Acks, UnsentAcks
from anyamqp.protocol.assembly import Assembly, stray_body, stray_header
from anyamqp.protocol.channel_numbers import ChannelNumbers
from anyamqp.protocol.closes import REPLY_SUCCESS, error_of, frame_of, unexpected
from anyamqp.protocol.events import (
    ChannelEnded,
    ChannelReleased,
    EventQueue,
    MethodReceived,
    Replied,
)
from anyamqp.protocol.output import Output
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.frames import Payload, method_name
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Delivered, Header

_CONTENT_METHODS: Final = (methods.Basic.Deliver, methods.Basic.Return, methods.Basic.GetOk)
_CONFIRMS: Final = (methods.Basic.Ack, methods.Basic.Nack)
_UNASKED: Final = (methods.Basic.Cancel, methods.Channel.Flow)
_FIRST_METHODS: Final = (methods.Channel.OpenOk, methods.Channel.Close)
"""The methods that can be the first on a new channel."""


class _Channel:
    """A channel number in use."""

    __slots__ = ("acks", "closing", "content", "has_past", "last_tag", "requests")

    def __init__(self, *, has_past: bool) -> None:
        self.acks = Acks()
        self.closing = False
        """Whether we sent channel.close."""
        self.has_past = has_past
        """Whether frames may still belong to the number's last channel: until the first method of this one."""
        self.requests: deque[Request] = deque()
        """The requests without a reply, the oldest first."""
        self.last_tag = 0
        """The highest delivery tag that came."""
        self.content: Assembly | None = None
        """The content that is coming in."""


class Channels:
    """The channels of one session.

    Args:
        output: the frames of the session.
        unsent_acks: the acks of the session that no frame carries yet.
        events: the events of the session.
        max_message_size: the largest body accepted, in bytes.
    """

    def __init__(self, output: Output, unsent_acks: UnsentAcks, events: EventQueue, max_message_size: int) -> None:
        self._output = output
        self._unsent_acks = unsent_acks
        self._events = events
        self._max_message_size = max_message_size
        self._numbers = ChannelNumbers()
        self._channels: dict[int, _Channel] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def open(self, channel_max: int, purpose: Purpose) -> int:
        """Send channel.open.

        Args:
            channel_max: the highest channel number allowed; 0 for no limit.
            purpose: the use of the reply.

        Returns:
            The channel's number.

        Raises:
            ChannelLimitReached: ``channel_max`` channels are open.
        """
        number, has_past = self._numbers.take(channel_max)
        self._channels[number] = _Channel(has_past=has_past)
        self.request(number, Request(methods.Channel.Open(), purpose))
        return number

    def close(self, number: int, text: str, code: int = REPLY_SUCCESS) -> tuple[Request, ...]:
        """Send channel.close; the number is free again after close-ok. Closing twice is closing once.

        Returns:
            The requests that the broker will not answer, the oldest first.

        Raises:
            InvalidUse: no channel has this number.
        """
        channel = self._channels.get(number)
        if channel is None:
            raise _not_open(number)
        if not channel.closing:
            self.send(number, methods.Channel.Close(code, text, 0, 0))
            channel.closing = True
        return tuple(channel.requests)

    def request(self, number: int, request: Request, as_sent: Method | None = None) -> None:
        """Send a method that the broker answers.

        Args:
            number: the channel's number.
            request: the request.
            as_sent: the method to send in place of the request's own.

        Raises:
            InvalidUse: the channel is not open.
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self.send(number, as_sent or request.method)
        channel = self._channels[number]
        channel.requests.append(request)
        if isinstance(request.method, methods.Tx.Select):
            channel.acks.keep_apart()

    def unanswered(self, number: int) -> tuple[Request, ...]:
        """The requests on a channel without a reply, the oldest first."""
        channel = self._channels.get(number)
        return () if channel is None else tuple(channel.requests)

    def has_unanswered(self, number: int) -> bool:
        """Whether a channel has requests without a reply."""
        return bool(self._channels[number].requests)

    def send(self, number: int, method: Method) -> None:
        """Send a method, after the acks that were given before it.

        Raises:
            InvalidUse: the channel is not open.
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self._make_ready(number)
        self._output.send(number, method)

    def _make_ready(self, number: int) -> None:
        """Send a channel's acks, so that a method can follow them."""
        self.require_open(number)
        self._unsent_acks.flush(number)

    def ack(self, number: int, tag: int, *, multiple: bool) -> None:
        """Acknowledge a delivery; one frame may stand for several acks.

        Raises:
            InvalidUse: no channel has this number.
        """
        channel = self._channels.get(number)
        if channel is None:
            raise _not_open(number)
        if channel.closing:
            return  # the broker requeues unsettled deliveries when the channel ends
        if multiple:
            self._respond(number, methods.Basic.Ack(tag, multiple=True))
            channel.acks.settle_up_to(tag)
        elif channel.acks.ack(tag):
            self._unsent_acks.add(number, channel.acks)

    def nack(self, number: int, method: methods.Basic.Nack | methods.Basic.Reject) -> None:
        """Send basic.nack or basic.reject.

        Raises:
            InvalidUse: no channel has this number.
        """
        channel = self._channels.get(number)
        if channel is not None and channel.closing:
            return
        self._respond(number, method)
        acks, tag = self._channels[number].acks, method.delivery_tag
        if isinstance(method, methods.Basic.Nack) and method.multiple:
            acks.settle_up_to(tag)
        else:
            acks.settle(tag)

    def _respond(self, number: int, method: Method) -> None:
        """Send a method that the broker's own traffic demands, after the acks that were given before it."""
        self._make_ready(number)
        self._output.answer(number, method)

    def settled_count(self, number: int) -> float:
        """How many deliveries are settled by frames that have been written; infinity where that is not known."""
        return self._channels[number].acks.settled_count

    def require_open(self, number: int) -> None:
        """Refuse frames on a channel that is not open: the broker would close the connection.

        Raises:
            InvalidUse: the channel is not open, or we have closed it.
        """
        channel = self._channels.get(number)
        if channel is None or channel.closing:
            raise _not_open(number)

    def receive(self, number: int, payload: Payload) -> None:
        """Take a frame.

        Raises:
            ReplyError: the broker may not send it here.
        """
        channel = self._channels.get(number)
        if channel is None:
            self._late(number, payload)
            return
        if channel.has_past:
            if not isinstance(payload, _FIRST_METHODS):
                return
            channel.has_past = False
        if isinstance(payload, Delivered):
            if not channel.closing:
                self._delivered(number, channel, payload)
        elif isinstance(payload, bytes | memoryview):
            if not channel.closing:
                self._body(number, channel, payload)
        elif isinstance(payload, Header):
            if not channel.closing:
                self._header(number, channel, payload)
        elif isinstance(payload, Method):
            self._method(number, channel, payload)

    def _late(self, number: int, payload: Payload) -> None:
        """Take a frame on a number that is not in use."""
        if not self._numbers.is_retired(number):
            raise unexpected(ChannelError, f"a frame on channel {number}, which is not open")
        if isinstance(payload, methods.Channel.CloseOk):  # the broker sends nothing after it
            self._numbers.release(number)

    def _method(self, number: int, channel: _Channel, method: Method) -> None:
        if isinstance(method, _CONFIRMS) and channel.content is None and not channel.closing:
            self._events.add_confirm(number, method)
        elif isinstance(method, methods.Channel.Close):
            self._close_received(number, channel, method)
        elif isinstance(method, methods.Channel.CloseOk):
            if not channel.closing:
                raise unexpected(CommandInvalid, f"channel.close-ok on channel {number}, which nobody closed")
            self._drop(number)
            self._numbers.release(number)
            self._events.append(ChannelReleased(number))
        elif channel.closing:
            return
        elif channel.content is not None:
            outer = method_name(channel.content.method)
            raise unexpected(
                UnexpectedFrame, f"{method_name(method)} on channel {number} inside the content of {outer}"
            )
        elif isinstance(method, _CONTENT_METHODS):
            self._content_begins(number, channel, method)
        elif isinstance(method, _UNASKED):
            if isinstance(method, methods.Channel.Flow):
                self._output.answer(number, methods.Channel.FlowOk(method.active))
            self._events.append(MethodReceived(number, method))
        else:
            request = self._answered_by(method, number, channel)
            if isinstance(method, methods.Basic.RecoverOk):  # the broker has taken back all unsettled deliveries
                channel.acks.settle_up_to(channel.last_tag)
            self._replied(number, channel, request, method)

    def _close_received(self, number: int, channel: _Channel, close: methods.Channel.Close) -> None:
        self._drop(number)  # before close-ok, behind which no ack may follow
        self._output.answer(number, methods.Channel.CloseOk())
        self._numbers.retire(number)
        if channel.closing:  # the two closes crossed
            self._events.append(ChannelReleased(number))
        else:
            self._events.append(ChannelEnded(number, error_of(frame_of(close)), tuple(channel.requests)))

    def _drop(self, number: int) -> None:
        """Forget a channel, with its unsent acks."""
        self._unsent_acks.drop(number)
        del self._channels[number]

    def _answered_by(self, method: Method, number: int, channel: _Channel) -> Request:
        """The request that the method answers."""
        if not channel.requests or method.name not in channel.requests[0].method.valid_responses:
            raise unexpected(
                CommandInvalid, f"{method_name(method)} on channel {number} answers nothing that was asked"
            )
        return channel.requests[0]

    def _replied(
        self, number: int, channel: _Channel, request: Request, reply: Method, content: Received | None = None
    ) -> None:
        """The oldest request has its reply."""
        channel.requests.popleft()
        request.reply, request.content = reply, content
        self._events.append(Replied(number, request))

    # --- content ----------------------------------------------------------------------------------------------------

    def _content_begins(
        self, number: int, channel: _Channel, method: methods.Basic.Deliver | methods.Basic.Return | methods.Basic.GetOk
    ) -> None:
        request = None
        if not isinstance(method, methods.Basic.Return):
            channel.last_tag = method.delivery_tag
        if isinstance(method, methods.Basic.GetOk):
            request = self._answered_by(method, number, channel)
            if isinstance(request.method, methods.Basic.Get) and request.method.no_ack:
                channel.acks.settle(channel.last_tag)
        channel.content = Assembly(number, method, request)

    def _delivered(self, number: int, channel: _Channel, delivered: Delivered) -> None:
        method, encoded, body = delivered
        if channel.content is not None or len(body) > self._max_message_size:
            # The fault is reported as it is for single frames.
            self._method(number, channel, method)
            self._header(number, channel, Header(len(body), encoded))
            return
        channel.last_tag = method.delivery_tag
        self._events.add_content(number, (method, Received(body, encoded)))

    def _header(self, number: int, channel: _Channel, header: Header) -> None:
        if channel.content is None:
            raise stray_header(number)
        content = channel.content.add_header(header)
        if header.body_size > self._max_message_size:
            self._refuse(number, channel, header, channel.content.method)
        elif content is not None:
            self._finish(number, channel, channel.content, content)

    def _body(self, number: int, channel: _Channel, piece: bytes | memoryview) -> None:
        if channel.content is None:
            raise stray_body(number)
        content = channel.content.add_body(piece)
        if content is not None:
            self._finish(number, channel, channel.content, content)

    def _refuse(self, number: int, channel: _Channel, header: Header, method: Method) -> None:
        """Close a channel on which a message is too large."""
        text = f"a message of {header.body_size} bytes, but max_message_size is {self._max_message_size}"
        self._respond(number, methods.Channel.Close(ContentTooLarge.code, text, 0, 0))
        channel.closing = True
        self._events.append(ChannelEnded(number, _too_large(text, method), tuple(channel.requests)))

    def _finish(self, number: int, channel: _Channel, assembly: Assembly, content: Received) -> None:
        channel.content = None
        method = assembly.method
        if not isinstance(method, methods.Basic.Deliver):
            _check_properties(number, content)
        if assembly.request is not None:
            self._replied(number, channel, assembly.request, method, content)
        else:
            self._events.add_content(number, (method, content))


def _check_properties(number: int, message: Received) -> None:
    # Returns and replies to basic.get are few, and returns are matched to their publishes by a property. A delivery's
    # properties are decoded when its consumer reads them.
    try:
        _ = message.properties
    except MalformedProperties as error:
        raise unexpected(FrameError, f"content header on channel {number}: {error}") from error


def _too_large(text: str, method: Method) -> ContentTooLarge:
    close = CloseFacts(None, CloseFrame(ContentTooLarge.code, text, None), Side.CLIENT)
    return ContentTooLarge(text, method=method_name(method), found_by=Side.CLIENT, close=close)


def _not_open(number: int) -> InvalidUse:
    return InvalidUse(f"channel {number} is not open on this link")
