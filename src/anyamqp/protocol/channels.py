"""What a session knows of its channels: numbers, which reply belongs to which request, how content is put together.

A number is taken by channel.open and free again after close-ok, ours or theirs. Between our channel.close and its
close-ok whatever else arrives on the number is discarded (AMQP 0-9-1, 4.9 and 2.2.5). Content is a method, a header and
as many body frames as the header announces (4.2.6), with nothing of the same channel in between.

RabbitMQ, 3.10 to 4.3, goes on after a channel.close of its own: deliveries that its channel process had before it
follow (rabbitmq-server, issue 13384), and where the two closes cross, the close-ok that answers ours may follow or may
be lost. So a number that the broker closed is the last to be taken again, and what comes on it is discarded.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from anyamqp.errors import (
    ChannelError,
    ChannelLimitReached,
    CloseFacts,
    CloseFrame,
    CommandInvalid,
    ContentTooLarge,
    FrameError,
    InvalidUse,
    MalformedProperties,
    ReplyError,
    Side,
    UnexpectedFrame,
    printable,
    reply_error,
)
from anyamqp.protocol.acks import Acks
from anyamqp.protocol.events import (
    ChannelClosed,
    ChannelReleased,
    Confirm,
    ConfirmsReceived,
    Content,
    ContentsReceived,
    Event,
    MethodReceived,
    Replied,
)
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, encode_ack
from anyamqp.wire.frames import Payload, method_name
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Delivered, Header

HIGHEST_CHANNEL = 65535
REPLY_SUCCESS = 200
_CONTENT_METHODS = (methods.Basic.Deliver, methods.Basic.Return, methods.Basic.GetOk)
_CONFIRMS = (methods.Basic.Ack, methods.Basic.Nack)
_SMALL = 1024
"""Bytes below which a piece of a body is not kept by itself."""
_UNASKED = (methods.Basic.Cancel, methods.Channel.Flow)
_FIRST_WORDS = (methods.Channel.OpenOk, methods.Channel.Close)
"""What a new channel can hear first."""


class _Channel:
    """One number in use."""

    __slots__ = (
        "acks",
        "closing",
        "getting",
        "has_past",
        "header",
        "last_tag",
        "method",
        "pieces",
        "received",
        "requests",
    )

    def __init__(self) -> None:
        self.acks = Acks()
        self.closing = False
        self.has_past = False
        """Whether what comes may still belong to the number's last channel: until open-ok."""
        self.requests: deque[Request] = deque()
        """The requests that are not answered yet, the oldest first."""
        self.last_tag = 0
        """The highest delivery tag that came."""
        self.method: Method | None = None
        """The method whose content is coming in."""
        self.getting: Request | None = None
        """The request that this content answers."""
        self.header: Header | None = None
        self.pieces: list[bytes | bytearray | memoryview] = []
        self.received = 0

    def keep(self, piece: bytes | memoryview) -> None:
        """Keep a piece of a body; copied, if it is small beside what it keeps alive or beside an object of its own."""
        alive = memoryview(piece.obj).nbytes if isinstance(piece, memoryview) else len(piece)
        if len(piece) >= _SMALL and 2 * len(piece) >= alive:
            self.pieces.append(piece)
        elif self.pieces and isinstance(latest := self.pieces[-1], bytearray):
            latest += piece
        else:
            self.pieces.append(bytearray(piece))


class Channels:
    """The channels of one session.

    Args:
        send: writes a method on a channel.
        answer: does so with a method that the broker's own traffic makes us send, which it may not take.
        answer_with: writes such a method as a frame.
        events: where to tell what happened.
        max_message_size: the largest body accepted, in bytes.
    """

    def __init__(
        self,
        send: Callable[[int, Method], None],
        answer: Callable[[int, Method], None],
        answer_with: Callable[[bytes], None],
        events: deque[Event],
        max_message_size: int,
    ) -> None:
        self._send = send
        self._answer = answer
        self._answer_with = answer_with
        self._events = events
        self._max_message_size = max_message_size
        self._channels: dict[int, _Channel] = {}
        self._free: list[int] = []
        self._closed_by_broker: dict[int, None] = {}
        """Numbers on which something may still come, in the order of their closes."""
        self._highest = 0
        self._acking: set[int] = set()
        """The numbers whose acks have not all left yet."""

    def __len__(self) -> int:
        return len(self._channels)

    def open(self, channel_max: int, purpose: Purpose) -> int:
        """Send channel.open on the lowest free number; only if there is none, on one that the broker closed.

        Raises:
            ChannelLimitReached: ``channel_max`` channels are open; 0 stands for as many as AMQP can number.
        """
        channel = _Channel()
        if self._free:
            number = heapq.heappop(self._free)
        elif self._highest < (channel_max or HIGHEST_CHANNEL):
            self._highest += 1
            number = self._highest
        elif self._closed_by_broker:
            number = next(iter(self._closed_by_broker))
            del self._closed_by_broker[number]
            channel.has_past = True
        else:
            raise ChannelLimitReached(f"all {self._highest} channels that the connection may have are open")
        self._channels[number] = channel
        self.request(number, Request(methods.Channel.Open(), purpose))
        return number

    def close(self, number: int, text: str, code: int = REPLY_SUCCESS) -> tuple[Request, ...]:
        """Send channel.close; the number is free again after close-ok.

        Returns:
            The requests that will not be answered any more.
        """
        self.send(number, methods.Channel.Close(code, text, 0, 0))
        channel = self._channels[number]
        channel.closing = True
        return tuple(channel.requests)

    def request(self, number: int, request: Request, as_sent: Method | None = None) -> None:
        """Send a method that the broker answers."""
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
        """Whether there are any."""
        return bool(self._channels[number].requests)

    def send(self, number: int, method: Method) -> None:
        """Send a method, behind the acks that were given before it."""
        self._make_ready(number)
        self._send(number, method)

    def _make_ready(self, number: int) -> None:
        self.require_open(number)
        if number in self._acking:
            self._flush_acks_of(number)

    def ack(self, number: int, tag: int, *, multiple: bool) -> None:
        """Acknowledge; leaves with :meth:`flush_acks`, together with others where one frame can stand for them."""
        channel = self._channels.get(number)
        if channel is None:
            raise _not_open(number)
        if channel.closing:
            return  # its end gives back whatever is open
        if multiple:
            self._respond(number, methods.Basic.Ack(tag, multiple=True))
            channel.acks.settle_up_to(tag)
        else:
            channel.acks.ack(tag)
            self._acking.add(number)

    def nack(self, number: int, method: methods.Basic.Nack | methods.Basic.Reject) -> None:
        """Send basic.nack or basic.reject."""
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
        self._make_ready(number)
        self._answer(number, method)

    @property
    def has_acks(self) -> bool:
        """Whether acks wait to leave."""
        return bool(self._acking)

    @property
    def unsent_acks(self) -> int:
        """How many acks wait to leave."""
        return sum(len(self._channels[number].acks) for number in self._acking)

    def settled_count(self, number: int) -> float:
        """How many deliveries are settled by frames that have left; infinity where they are not counted."""
        return self._channels[number].acks.settled_count

    def flush_acks(self) -> None:
        """Send the acks that were given so far."""
        for number in list(self._acking):
            self._flush_acks_of(number)

    def drop_acks(self) -> None:
        """Forget the acks that have not left: nothing can leave any more."""
        self._acking.clear()

    def _flush_acks_of(self, number: int) -> None:
        self._acking.discard(number)
        for tag, multiple in self._channels[number].acks.take():
            self._answer_with(encode_ack(number, tag, multiple=multiple))

    def require_open(self, number: int) -> None:
        """Raise :class:`InvalidUse` unless frames may go out on the number; else the broker closes the connection."""
        channel = self._channels.get(number)
        if channel is None or channel.closing:
            raise _not_open(number)

    def receive(self, number: int, payload: Payload) -> None:
        """Take a frame.

        Raises:
            ReplyError: it cannot be at this place.
        """
        channel = self._channels.get(number)
        if channel is None:
            self._late(number, payload)
            return
        if channel.has_past:
            if not isinstance(payload, _FIRST_WORDS):
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
        if number not in self._closed_by_broker:
            raise unexpected(ChannelError, f"a frame on channel {number}, which is not open")
        if isinstance(payload, methods.Channel.CloseOk):  # the last word that there can be
            del self._closed_by_broker[number]
            heapq.heappush(self._free, number)

    def _method(self, number: int, channel: _Channel, method: Method) -> None:
        if isinstance(method, _CONFIRMS) and channel.method is None and not channel.closing:
            self._confirmed(number, method)
        elif isinstance(method, methods.Basic.Deliver) and channel.method is None and not channel.closing:
            channel.last_tag = method.delivery_tag
            channel.method = method
        elif isinstance(method, methods.Channel.Close):
            self._acking.discard(number)  # nothing but close-ok may follow
            self._answer(number, methods.Channel.CloseOk())
            del self._channels[number]
            self._closed_by_broker[number] = None
            if channel.closing:  # the two crossed
                self._events.append(ChannelReleased(number))
            else:
                unanswered = tuple(channel.requests)
                self._events.append(ChannelClosed(number, error_of(frame_of(method)), unanswered))
        elif isinstance(method, methods.Channel.CloseOk):
            if not channel.closing:
                raise unexpected(CommandInvalid, f"channel.close-ok on channel {number}, which nobody closed")
            self._acking.discard(number)
            del self._channels[number]
            heapq.heappush(self._free, number)
            self._events.append(ChannelReleased(number))
        elif channel.closing:
            return
        elif channel.method is not None:
            raise unexpected(
                UnexpectedFrame,
                f"{method_name(method)} on channel {number} inside the content of {method_name(channel.method)}",
            )
        elif isinstance(method, _CONTENT_METHODS):
            if isinstance(method, methods.Basic.GetOk):
                channel.last_tag = method.delivery_tag
                channel.getting = request = self._answered_by(method, number, channel)
                if isinstance(request.method, methods.Basic.Get) and request.method.no_ack:
                    channel.acks.settle(channel.last_tag)
            channel.method = method
        elif isinstance(method, _UNASKED):
            if isinstance(method, methods.Channel.Flow):
                self._answer(number, methods.Channel.FlowOk(method.active))
            self._events.append(MethodReceived(number, method))
        else:
            request = self._answered_by(method, number, channel)
            channel.requests.popleft()
            request.reply = method
            if isinstance(method, methods.Basic.RecoverOk):  # the broker has taken back all that was open
                channel.acks.settle_up_to(channel.last_tag)
            self._events.append(Replied(number, request))

    def _answered_by(self, method: Method, number: int, channel: _Channel) -> Request:
        """The request that the method answers."""
        if not channel.requests or method.name not in channel.requests[0].method.valid_responses:
            raise unexpected(
                CommandInvalid, f"{method_name(method)} on channel {number} answers nothing that was asked"
            )
        return channel.requests[0]

    def _delivered(self, number: int, channel: _Channel, delivered: Delivered) -> None:
        method, encoded, body = delivered
        if channel.method is not None or len(body) > self._max_message_size:
            # What is wrong is told as it is of single frames.
            self._method(number, channel, method)
            self._header(number, channel, Header(len(body), encoded))
            return
        channel.last_tag = method.delivery_tag
        self._tell(number, (method, Received(body, encoded)))

    def _header(self, number: int, channel: _Channel, header: Header) -> None:
        if channel.method is None or channel.header is not None:
            raise unexpected(UnexpectedFrame, f"a content header on channel {number} that belongs to no method")
        if header.body_size > self._max_message_size:
            text = f"a message of {header.body_size} bytes, but max_message_size is {self._max_message_size}"
            self._respond(number, methods.Channel.Close(ContentTooLarge.code, text, 0, 0))
            channel.closing = True
            error = ContentTooLarge(
                text,
                method=method_name(channel.method),
                found_by=Side.CLIENT,
                close=CloseFacts(None, CloseFrame(ContentTooLarge.code, text, None), Side.CLIENT),
            )
            self._events.append(ChannelClosed(number, error, tuple(channel.requests)))
            return
        channel.header = header
        if not header.body_size:
            self._finish(number, channel, header.encoded, b"")

    def _body(self, number: int, channel: _Channel, piece: bytes | memoryview) -> None:
        header = channel.header
        if header is None:
            raise unexpected(UnexpectedFrame, f"a body frame on channel {number} that belongs to no content header")
        channel.received += len(piece)
        if channel.received > header.body_size:
            raise unexpected(
                FrameError,
                f"{channel.received} bytes of body on channel {number}, but {header.body_size} announced",
            )
        if len(piece) == header.body_size:
            self._finish(number, channel, header.encoded, bytes(piece))
            return
        if piece:  # AMQP allows empty body frames; kept, a stream of them would grow without end
            channel.keep(piece)
        if channel.received == header.body_size:
            self._finish(number, channel, header.encoded, b"".join(channel.pieces))
            channel.pieces.clear()

    def _finish(self, number: int, channel: _Channel, encoded: bytes, body: bytes) -> None:
        message = Received(body, encoded)
        method, channel.method, channel.header, channel.received = channel.method, None, None, 0
        if method is None:
            return
        if not isinstance(method, methods.Basic.Deliver):
            _check_properties(number, message)
        request, channel.getting = channel.getting, None
        if request is not None:
            channel.requests.popleft()
            request.reply, request.content = method, message
            self._events.append(Replied(number, request))
        else:
            self._tell(number, (method, message))

    def _tell(self, number: int, content: Content) -> None:
        latest = self._events[-1] if self._events else None
        if isinstance(latest, ContentsReceived) and latest.channel == number:
            latest.contents.append(content)
        else:
            self._events.append(ContentsReceived(number, [content]))

    def _confirmed(self, number: int, confirm: Confirm) -> None:
        latest = self._events[-1] if self._events else None
        if isinstance(latest, ConfirmsReceived) and latest.channel == number:
            latest.confirms.append(confirm)
        else:
            self._events.append(ConfirmsReceived(number, [confirm]))


def _check_properties(number: int, message: Received) -> None:
    # Returns and replies to basic.get are few, and what they are matched by is in the properties. A delivery's are for
    # its consumer to read, or to stumble over.
    try:
        _ = message.properties
    except MalformedProperties as error:
        raise unexpected(FrameError, f"content header on channel {number}: {error}") from error


def _not_open(number: int) -> InvalidUse:
    return InvalidUse(f"channel {number} is not open on this link")


def unexpected(error: type[ReplyError], text: str) -> ReplyError:
    """The error for something that the broker may not send."""
    return error(text, found_by=Side.CLIENT)


def frame_of(close: methods.Connection.Close | methods.Channel.Close) -> CloseFrame:
    """What a close of the broker's says."""
    culprit = None
    if close.class_id:
        known = methods.INDEX_MAPPING.get(close.class_id << 16 | close.method_id)
        culprit = method_name(known) if known else f"method {close.class_id}.{close.method_id}"
    return CloseFrame(close.reply_code, printable(close.reply_text), culprit)


def error_of(close: CloseFrame) -> ReplyError:
    """The error that a close of the broker's, which came first, carries."""
    return reply_error(close.code, close.text, method=close.method, close=CloseFacts(close, None, Side.BROKER))
