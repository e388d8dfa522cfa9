"""Encodes the frames that a client sends with every message, and the properties of messages.

A message takes a method, a content header and a body, and an acknowledgement or a confirm (AMQP 0-9-1, 4.2.6).
:mod:`anyamqp.wire.frames` encodes all methods alike, from tables; this module encodes these few in a tenth of the time,
and the property tests compare their bytes with pamqp's. A route is encoded once for all its messages. The properties of
a delivered message are decoded on first use. :mod:`anyamqp.wire.receiving` decodes the frames that a broker sends with
every message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, Unpack

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
"""The start of a content header: class, weight, size of the body."""

CONTENT_PREFIX: Final = struct.Struct(">BHIHHQ")
"""A content header's frame, up to its properties."""

METHOD_INDEX: Final = struct.Struct(">I")
_ACK, ACK_SIZE = struct.Struct(">BHIIQBB"), 13

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
_CORRELATION_AT = next(place for place, (_, name, _) in enumerate(_PROPERTIES) if name == "correlation_id")
_CORRELATION_FLAG = _PROPERTIES[_CORRELATION_AT][0]
_REPLY_TO_FLAG = _PROPERTIES[_CORRELATION_AT + 1][0]
_SKIPPERS: Final[Mapping[str, Callable[[Reader], object]]] = {
    "octet": Reader.octet,
    "shortstr": lambda reader: reader.take(reader.octet()),
    "table": lambda reader: reader.take(reader.long()),
}
_DECODERS: Final[Mapping[str, Callable[[Reader], object]]] = {
    "octet": Reader.octet,
    "shortstr": Reader.shortstr,
    "table": Reader.table,
    "timestamp": Reader.timestamp,
}


# --- publishing -------------------------------------------------------------------------------------------------------


class Route:
    """An exchange and a routing key to publish to: basic.publish, encoded once for all its messages.

    Args:
        exchange: the exchange; empty for the default one.
        routing_key: the routing key.
        mandatory: whether the broker returns messages that no queue takes.

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
                METHOD_INDEX.pack(methods.Basic.Publish.index),
                b"\0\0",  # reserved
                fields.shortstr("basic.publish, exchange", exchange),
                fields.shortstr("basic.publish, routing_key", routing_key),
                b"\1" if mandatory else b"\0",
            )
        )
        self._channel = -1
        self._frame = b""

    def frame(self, channel: int) -> bytes:
        """The method's frame for a channel, which is usually the same channel as before."""
        if channel != self._channel:
            self._frame = b"".join((PREFIX.pack(METHOD, channel, len(self._payload)), self._payload, END))
            self._channel = channel
        return self._frame


class Routes:
    """The routes that a publisher used recently."""

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
    """Encoded properties without the message id, which differs from message to message."""

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
        changes: values that replace some of them.

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
    """A method with content, in parts: the frames before the body, the body or its pieces, the bytes between them.

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
    header = CONTENT_PREFIX.pack(HEADER, channel, head, BASIC_CLASS, 0, size)
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
    """The flags of all properties but the message id, and the values before and after it."""
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
"""The encoded properties of a message without any."""


# --- properties of delivered messages ---------------------------------------------------------------------------------


class Received(Message):
    """A received message; its properties are decoded on first use.

    The broker passes a publisher's properties on unread. Properties that cannot be decoded raise
    :class:`MalformedProperties` on use; the body and the delivery still work.
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
        reader.finish()  # the lowest flag announces more flags, but AMQP defines none
    except Malformed as error:
        raise MalformedProperties(f"the message's properties: {error}") from error
    values["persistent"] = values["persistent"] == _PERSISTENT
    values["expiration"] = _seconds(values.get("expiration"))
    return Properties(**values)


def decode_correlation_id(encoded: bytes) -> str | None:
    """The correlation id in a content header, without the properties around it.

    Raises:
        MalformedProperties: it cannot be read.
    """
    return decode_reply_address(encoded)[0]


def decode_reply_address(encoded: bytes) -> tuple[str | None, str | None]:
    """The correlation id and the reply-to in a content header, without the properties around them.

    Raises:
        MalformedProperties: they cannot be read.
    """
    reader = Reader(encoded)
    try:
        flags = reader.short()
        if not flags & (_CORRELATION_FLAG | _REPLY_TO_FLAG):
            return None, None
        for flag, _, kind in _PROPERTIES[:_CORRELATION_AT]:
            if flags & flag:
                _SKIPPERS[kind](reader)
        correlation_id = reader.shortstr() if flags & _CORRELATION_FLAG else None
        return correlation_id, reader.shortstr() if flags & _REPLY_TO_FLAG else None
    except Malformed as error:
        raise MalformedProperties(f"the message's properties: {error}") from error


# --- settling, and confirming -----------------------------------------------------------------------------------------


def encode_ack(channel: int, delivery_tag: int, *, multiple: bool) -> bytes:
    """The frame of basic.ack."""
    return _ACK.pack(METHOD, channel, ACK_SIZE, methods.Basic.Ack.index, delivery_tag, multiple, END_OCTET)


# --- expiration -------------------------------------------------------------------------------------------------------


def _milliseconds(expiration: object) -> str:
    if isinstance(expiration, bool) or not isinstance(expiration, int | float) or not 0 <= expiration * 1000 < 2**32:
        raise InvalidArgument(f"expiration: {expiration!r} is not a number of seconds from 0 to {2**32 // 1000}")
    return str(round(expiration * 1000))


def _seconds(expiration: str | None) -> float | None:
    # Another client may have put anything there; RabbitMQ refuses all but numbers, other brokers may not.
    if expiration is None or not (expiration.isascii() and expiration.isdecimal()):
        return None
    return int(expiration) / 1000
