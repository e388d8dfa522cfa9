"""AMQP's class basic, as far as it comes and goes with every message, coded by hand.

A message costs a method, a content header and a body, and an acknowledgement or a confirm (AMQP 0-9-1, 4.2.6). pamqp
codes all methods alike, from tables; what is here does the same for these few in a tenth of the time, byte for byte,
which property tests hold. What is the same for many messages (where they are published, what a consumer's deliveries
have in common) is coded once; the properties of what is delivered are decoded when somebody asks for them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, Unpack

from anyamqp.checks import check_flag
from anyamqp.errors import InvalidArgument, MalformedProperties
from anyamqp.message import NO_PROPERTIES, Message, Properties, PropertyValues
from anyamqp.wire import fields, methods
from anyamqp.wire.fields import Malformed, Reader

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
"""Types of frames."""

PREFIX: Final = struct.Struct(">BHI")
"""Type, channel and payload's size of a frame."""

END_OCTET: Final = 0xCE
END: Final = b"\xce"

new_record: Final = tuple[object, ...].__new__
"""Makes a named tuple of its values, in a fifth of the time that its constructor takes."""

FRAME_OVERHEAD: Final = 8
"""Bytes around a payload: type (1), channel (2), size (4), end (1). frame_max counts them."""

BASIC_CLASS: Final = methods.Basic.Deliver.index >> 16
CONTENT: Final = struct.Struct(">HHQ")
"""What a content header begins with: class, weight, size of the body."""

_CONTENT_PREFIX = struct.Struct(">BHIHHQ")
_CONTENT_PREFIX_SIZE: Final = _CONTENT_PREFIX.size
_LEAST_HEADER: Final = CONTENT.size + 2
"""Bytes of a content header without properties."""
_PREFIX_SIZE: Final = PREFIX.size
_prefix: Final = PREFIX.unpack_from
_content_prefix: Final = _CONTENT_PREFIX.unpack_from
_METHOD_INDEX = struct.Struct(">I")
_ACK, _ACK_SIZE = struct.Struct(">BHIIQBB"), 13
_tag_and_bits: Final = struct.Struct(">QB").unpack_from

_PROPERTIES: Final = (
    (1 << 15, "content_type", "shortstr"),
    (1 << 14, "content_encoding", "shortstr"),
    (1 << 13, "headers", "table"),
    (1 << 12, "persistent", "octet"),
    (1 << 11, "priority", "octet"),
    (1 << 10, "correlation_id", "shortstr"),
    (1 << 9, "reply_to", "shortstr"),
    (1 << 8, "expiration", "shortstr"),
    (1 << 7, "message_id", "shortstr"),
    (1 << 6, "timestamp", "timestamp"),
    (1 << 5, "type", "shortstr"),
    (1 << 4, "user_id", "shortstr"),
    (1 << 3, "app_id", "shortstr"),
)
"""Flag, our name and AMQP's type of each property, in the order in which they are sent."""

_ID_AT = next(place for place, (_, name, _) in enumerate(_PROPERTIES) if name == "message_id")
_ID_FLAG = _PROPERTIES[_ID_AT][0]
_CLUSTER_ID = 1 << 2  # reserved, and long unused
_TRANSIENT, _PERSISTENT = 1, 2

_ENCODERS: Final[Mapping[str, Callable[[str, object], bytes]]] = {
    "octet": fields.octet,
    "shortstr": fields.shortstr,
    "table": fields.table,
    "timestamp": fields.timestamp,
}
_DECODERS: Final[Mapping[str, Callable[[Reader], object]]] = {
    "octet": Reader.octet,
    "shortstr": Reader.shortstr,
    "table": Reader.table,
    "timestamp": Reader.timestamp,
}


# --- publishing -------------------------------------------------------------------------------------------------------


class Route:
    """Where a message is published: basic.publish, encoded once for all that go there.

    Args:
        exchange: the exchange; empty for the default one.
        routing_key: the routing key.
        mandatory: whether the broker is to give back what no queue takes.

    Raises:
        InvalidArgument: AMQP cannot carry one of them.
    """

    __slots__ = ("_channel", "_frame", "_payload", "exchange", "mandatory", "routing_key")

    def __init__(self, exchange: str, routing_key: str, *, mandatory: bool) -> None:
        check_flag("basic.publish, mandatory", mandatory)
        self.exchange: str = exchange
        self.routing_key: str = routing_key
        self.mandatory: bool = mandatory
        self._payload = b"".join(
            (
                _METHOD_INDEX.pack(methods.Basic.Publish.index),
                b"\0\0",  # reserved
                fields.shortstr("basic.publish, exchange", exchange),
                fields.shortstr("basic.publish, routing_key", routing_key),
                b"\1" if mandatory else b"\0",
            )
        )
        self._channel = -1
        self._frame = b""

    def frame(self, channel: int) -> bytes:
        """The method's frame on a channel, which is mostly the same as the last time."""
        if channel != self._channel:
            self._frame = b"".join((PREFIX.pack(METHOD, channel, len(self._payload)), self._payload, END))
            self._channel = channel
        return self._frame


class Routes:
    """The routes that a publisher used lately."""

    __slots__ = ("_routes",)

    _MOST = 1024

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str, bool], Route] = {}

    def get(self, exchange: str, routing_key: str, *, mandatory: bool) -> Route:
        """The route to an exchange with a routing key.

        Raises:
            InvalidArgument: AMQP cannot carry one of the names.
        """
        try:
            return self._routes[exchange, routing_key, mandatory]
        except (KeyError, TypeError):
            route = Route(exchange, routing_key, mandatory=mandatory)
        if len(self._routes) >= self._MOST:
            self._routes.clear()
        self._routes[exchange, routing_key, mandatory] = route
        return route


class Template:
    """Encoded properties in which nothing but the message id is open."""

    __slots__ = ("_after", "_before")

    def __init__(self, properties: Properties) -> None:
        flags, self._before, self._after = _encoded(properties, {})
        self._before = _with_flags(flags | _ID_FLAG, self._before)

    def with_id(self, message_id: str) -> bytes:
        """The properties with a message id of at most 255 ASCII characters."""
        return b"".join((self._before, len(message_id).to_bytes(1, "big"), message_id.encode(), self._after))


def encode_properties(properties: Properties, **changes: Unpack[PropertyValues]) -> bytes:
    """The property flags and values of a content header.

    Args:
        properties: the properties.
        changes: what is sent instead of some of them.

    Raises:
        InvalidArgument: AMQP cannot carry one of them; the text names it.
    """
    if properties is NO_PROPERTIES and not changes:
        return _PLAIN
    flags, before, after = _encoded(properties, changes)
    message_id = changes.get("message_id", properties.message_id)
    if message_id is None:
        return _with_flags(flags, before, after)
    return _with_flags(flags | _ID_FLAG, before, fields.shortstr("message_id", message_id), after)


def content_parts(
    method: bytes, channel: int, properties: bytes, body: bytes, frame_max: int
) -> list[bytes | memoryview]:
    """A method with content, in parts: what precedes the body, the body or its pieces with what is between, the end.

    The body is not copied: large ones come as views of it.

    Args:
        method: the method's frame.
        channel: the channel's number.
        properties: the properties, encoded.
        body: the body.
        frame_max: the largest frame in bytes; 0 for no limit.

    Raises:
        InvalidArgument: the properties do not fit one frame.
    """
    size = len(body)
    head = CONTENT.size + len(properties)
    if frame_max and head + FRAME_OVERHEAD > frame_max:
        raise InvalidArgument(f"properties and headers take {head} bytes, but must fit one frame of {frame_max} bytes")
    header = _CONTENT_PREFIX.pack(HEADER, channel, head, BASIC_CLASS, 0, size)
    if not size:
        return [b"".join((method, header, properties, END))]
    room = frame_max - FRAME_OVERHEAD if frame_max else size
    if size <= room:
        return [b"".join((method, header, properties, END, PREFIX.pack(BODY, channel, size))), body, END]
    parts: list[bytes | memoryview] = [b"".join((method, header, properties))]
    view = memoryview(body)
    for start in range(0, size, room):
        piece = view[start : start + room]
        parts.append(END + PREFIX.pack(BODY, channel, len(piece)))
        parts.append(piece)
    parts.append(END)
    return parts


def _encoded(properties: Properties, changes: Mapping[str, object]) -> tuple[int, bytes, bytes]:
    """The flags and values of all but the message id: what comes before it, and what after."""
    flags = 0
    parts: list[bytes] = []
    before = b""
    for flag, name, kind in _PROPERTIES:
        if flag == _ID_FLAG:
            before = b"".join(parts)
            parts.clear()
            continue
        value: object = changes[name] if name in changes else getattr(properties, name)
        if name == "persistent":
            if value is not None and value is not True and value is not False:
                check_flag(name, value)
            value = _TRANSIENT if value is False else _PERSISTENT
        if value is not None:
            if name == "expiration":
                value = _milliseconds(value)
            flags |= flag
            parts.append(_ENCODERS[kind](name, value))
    return flags, before, b"".join(parts)


def _with_flags(flags: int, *values: bytes) -> bytes:
    return b"".join((flags.to_bytes(2, "big"), *values))


_PLAIN: Final = _with_flags(*_encoded(NO_PROPERTIES, {}))
"""The properties of a message that was given none."""


# --- drafts of methods ------------------------------------------------------------------------------------------------


def _draft_of(kind: type[methods.Method]) -> type[Any]:
    """A class of the same layout whose instances can be written, and then get the frozen class as their own.

    Half as long as ``object.__setattr__`` takes for the same, which counts for what comes with every message.
    """
    namespace = {"__slots__": kind.__slots__, "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    return type.__new__(type(kind), f"{kind.__name__}Draft", kind.__bases__, namespace)


_new: Final = object.__new__
_Deliver, _Ack, _Nack = methods.Basic.Deliver, methods.Basic.Ack, methods.Basic.Nack
_DeliverDraft, _AckDraft, _NackDraft = _draft_of(_Deliver), _draft_of(_Ack), _draft_of(_Nack)


# --- delivering -------------------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """A content header: the size of the body that follows, and the properties as they came."""

    body_size: int
    encoded: bytes

    @property
    def properties(self) -> Properties:
        """The properties.

        Raises:
            MalformedProperties: they cannot be read.
        """
        return decode_properties(self.encoded)


class Received(Message):
    """A message that came, whose properties are decoded when they are asked for.

    They are what its publisher sent, which the broker passes on unread. Whoever asks for properties that cannot be read
    gets :class:`MalformedProperties`; body and delivery are sound all the same.
    """

    __slots__ = ("encoded",)

    encoded: bytes
    """The properties as they came."""

    def __init__(self, body: bytes, encoded: bytes) -> None:
        _set(self, "body", body)
        _set(self, "encoded", encoded)
        _set(self, "_properties", None)

    @property
    def properties(self) -> Properties:
        """All of the properties.

        Raises:
            MalformedProperties: they cannot be read.
        """
        properties = self._properties
        if properties is None:
            properties = decode_properties(self.encoded)
            _set(self, "_properties", properties)
        return properties


_set: Final = object.__setattr__


def decode_header(data: bytes) -> Header:
    """A content header.

    Raises:
        Malformed: it is none, or not of class basic.
    """
    if len(data) < _LEAST_HEADER:
        raise Malformed(f"{len(data)} bytes")
    class_id, _weight, body_size = CONTENT.unpack_from(data)
    if class_id != BASIC_CLASS:
        raise Malformed(f"of class {class_id}, but only basic ({BASIC_CLASS}) carries content")
    return new_record(Header, (body_size, data[CONTENT.size :]))


def decode_properties(encoded: bytes) -> Properties:
    """The properties in a content header.

    Raises:
        MalformedProperties: they cannot be read.
    """
    reader = Reader(encoded)
    values: dict[str, Any] = {"persistent": False}
    try:
        flags = reader.short()
        for flag, name, kind in _PROPERTIES:
            if flags & flag:
                values[name] = _DECODERS[kind](reader)
        if flags & _CLUSTER_ID:
            reader.shortstr()
        reader.finish()  # of the lowest flags, which announce more flags, AMQP defines none
    except Malformed as error:
        raise MalformedProperties(f"the message's properties: {error}") from error
    values["persistent"] = values["persistent"] == _PERSISTENT
    values["expiration"] = _seconds(values.get("expiration"))
    return Properties(**values)


def decode_deliver(data: bytes) -> methods.Basic.Deliver:
    """basic.deliver, from the payload of its frame.

    Raises:
        Malformed: it is none.
    """
    try:
        at = data[4] + 5
        tag, redelivered = _tag_and_bits(data, at)
    except (IndexError, struct.error):
        raise Malformed("a value runs over the end of the frame") from None
    draft = _new(_DeliverDraft)
    draft.consumer_tag, draft.exchange, draft.routing_key = _names(data[4:at], data[at + 9 :])
    draft.delivery_tag = tag
    draft.redelivered = redelivered & 1 == 1
    draft.__class__ = _Deliver
    method: methods.Basic.Deliver = draft
    return method


class Delivered(NamedTuple):
    """A whole delivery: what else comes as a method, a header and a body."""

    method: methods.Basic.Deliver
    encoded: bytes
    body: bytes


IS_DELIVER: Final = _METHOD_INDEX.pack(methods.Basic.Deliver.index)
"""What the payload of basic.deliver begins with."""


def delivered_at(buffer: bytes, channel: int, start: int, end: int, largest: int) -> tuple[Delivered, int] | None:
    """A whole delivery from a stream, if it is there, sound, and its body is one frame at most.

    Most are. To read their three frames in one go takes half the time. Whatever is wrong with a frame, or missing, is
    for those to tell who read one frame at a time.

    Args:
        buffer: the stream.
        channel: the channel of the frame whose payload begins like basic.deliver.
        start: where that payload begins.
        end: where it ends.
        largest: the most bytes in a payload.

    Returns:
        The delivery, and where it ends; None if it must be read frame by frame.
    """
    try:
        kind, on, size, class_id, _, body_size = _content_prefix(buffer, end + 1)
        head_end = end + FRAME_OVERHEAD + size
        if (
            kind != HEADER
            or on != channel
            or class_id != BASIC_CLASS
            or not _LEAST_HEADER <= size <= largest
            or not buffer[end] == buffer[head_end] == END_OCTET
        ):
            return None
        body, after = b"", head_end + 1
        if body_size:
            kind, on, size = _prefix(buffer, after)
            start_of_body = after + _PREFIX_SIZE
            body_end = start_of_body + body_size
            if kind != BODY or on != channel or size != body_size or size > largest or buffer[body_end] != END_OCTET:
                return None
            body, after = buffer[start_of_body:body_end], body_end + 1
        method = decode_deliver(buffer[start:end])
    except (struct.error, IndexError, Malformed):
        return None
    return new_record(Delivered, (method, buffer[end + 1 + _CONTENT_PREFIX_SIZE : head_end], body)), after


@lru_cache(maxsize=4096)
def _names(consumer_tag: bytes, rest: bytes) -> tuple[str, str, str]:
    # Only the delivery tag and one bit differ between most deliveries of a consumer.
    first, second = Reader(consumer_tag), Reader(rest)
    names = first.shortstr(), second.shortstr(), second.shortstr()
    second.finish()
    return names


# --- settling, and confirming -----------------------------------------------------------------------------------------


def encode_ack(channel: int, delivery_tag: int, *, multiple: bool) -> bytes:
    """The frame of basic.ack."""
    return _ACK.pack(METHOD, channel, _ACK_SIZE, methods.Basic.Ack.index, delivery_tag, multiple, END_OCTET)


def encode_nack(channel: int, delivery_tag: int, *, multiple: bool, requeue: bool) -> bytes:
    """The frame of basic.nack."""
    bits = multiple | requeue << 1
    return _ACK.pack(METHOD, channel, _ACK_SIZE, methods.Basic.Nack.index, delivery_tag, bits, END_OCTET)


def decode_ack(data: bytes) -> methods.Basic.Ack:
    """basic.ack, from the payload of its frame.

    Raises:
        Malformed: it is none.
    """
    if len(data) != _ACK_SIZE:
        raise _wrong_size(data)
    draft = _new(_AckDraft)
    draft.delivery_tag, bits = _tag_and_bits(data, 4)
    draft.multiple = bits & 1 == 1
    draft.__class__ = _Ack
    method: methods.Basic.Ack = draft
    return method


def decode_nack(data: bytes) -> methods.Basic.Nack:
    """basic.nack, from the payload of its frame.

    Raises:
        Malformed: it is none.
    """
    if len(data) != _ACK_SIZE:
        raise _wrong_size(data)
    draft = _new(_NackDraft)
    draft.delivery_tag, bits = _tag_and_bits(data, 4)
    draft.multiple = bits & 1 == 1
    draft.requeue = bits & 2 == 2
    draft.__class__ = _Nack
    method: methods.Basic.Nack = draft
    return method


def _wrong_size(data: bytes) -> Malformed:
    if len(data) < _ACK_SIZE:
        return Malformed("a value runs over the end of the frame")
    return Malformed(f"{len(data) - _ACK_SIZE} bytes too many")


# --- small change -----------------------------------------------------------------------------------------------------


def _milliseconds(expiration: object) -> str:
    if isinstance(expiration, bool) or not isinstance(expiration, int | float) or not 0 <= expiration * 1000 < 2**32:
        raise InvalidArgument(f"expiration: {expiration!r} is not a number of seconds from 0 to {2**32 // 1000}")
    return str(round(expiration * 1000))


def _seconds(expiration: str | None) -> float | None:
    # Another client may have put anything there; RabbitMQ refuses what is not a number, other brokers may not.
    if expiration is None or not (expiration.isascii() and expiration.isdecimal()):
        return None
    return int(expiration) / 1000
