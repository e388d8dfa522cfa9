"""Bytes to frames and back: AMQP 0-9-1, 4.2 "AMQP Wire-Level Format".

Framing is done here, because pamqp reports a partial frame and a broken one alike. The methods inside, with their
arguments and the types of those, are pamqp's; the values are coded by :mod:`holdfast.protocol.fields`. Whatever the
bytes are, decoding ends in a frame, in waiting for more, or in one of this project's errors:

* 501 frame error: no end byte, larger than frame_max, an unknown type, content that is not well-formed;
* 502 syntax error: a known method whose arguments cannot be read;
* 503 command invalid: an unknown method, a heartbeat outside channel 0 (4.2.3);
* 505 unexpected frame: a protocol header in the middle of a stream.

Buffered is at most one frame, whose size is checked before its payload is waited for, and the last chunk that was fed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from inspect import signature
from typing import Any, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

from pamqp import base, commands

from holdfast.errors import (
    CommandInvalid,
    CommandSyntaxError,
    FrameError,
    InvalidArgument,
    ReplyError,
    Side,
    UnexpectedFrame,
)
from holdfast.message import FieldTable, Message, Properties
from holdfast.protocol import fields
from holdfast.protocol.fields import Malformed, Reader

Method: TypeAlias = base.Frame
"""A method with its arguments."""

FRAME_OVERHEAD: Final = 8
"""Bytes around a payload: type (1), channel (2), size (4), end (1). frame_max counts them."""

FRAME_MIN_SIZE: Final = 4096
"""The least frame_max that AMQP allows (frame-min-size)."""

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END_OCTET = 0xCE
_LONG = struct.Struct(">I")
_PREFIX = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQ")
_BASIC_CLASS = commands.Basic.frame_id
_END = b"\xce"


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

_TELLING_FLAGS: Final = ("passive", "exclusive", "internal", "if_unused", "if_empty", "no_ack", "multiple")

_CLUSTER_ID = 1 << 2  # reserved, and long unused
_PERSISTENT = 2

_ENCODERS: Final[Mapping[str, Callable[[str, object], bytes]]] = {
    "octet": fields.octet,
    "short": fields.short,
    "long": fields.long,
    "longlong": fields.longlong,
    "shortstr": fields.shortstr,
    "longstr": fields.longstr,
    "table": fields.table,
    "timestamp": fields.timestamp,
}
_DECODERS: Final[Mapping[str, Callable[[Reader], object]]] = {
    "octet": Reader.octet,
    "short": Reader.short,
    "long": Reader.long,
    "longlong": Reader.longlong,
    "shortstr": Reader.shortstr,
    "longstr": Reader.longstr,
    "table": Reader.table,
    "timestamp": Reader.timestamp,
}


class Heartbeat(NamedTuple):
    """A heartbeat frame."""


class ProtocolHeader(NamedTuple):
    """The eight bytes that open a stream, or refuse one."""

    data: bytes


class Header(NamedTuple):
    """A content header: the size of the body that follows, and the properties."""

    body_size: int
    properties: Properties


Payload: TypeAlias = Method | Header | bytes | Heartbeat | ProtocolHeader


class Frame(NamedTuple):
    """A frame; a payload of ``bytes`` is a piece of a body."""

    channel: int
    payload: Payload


class Decoder:
    """Takes a byte stream in any chunks and gives its frames.

    Args:
        max_frame_size: the largest frame accepted, in bytes, overhead included. May be changed between feeds.
        as_server: expect a protocol header first, as a server does.
    """

    def __init__(self, max_frame_size: int, *, as_server: bool = False) -> None:
        self.max_frame_size = max_frame_size
        self.frames_decoded: int = 0
        self._as_server = as_server
        self._at_start = True
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._needed = _PREFIX.size
        self._error: ReplyError | None = None

    def feed(self, data: bytes) -> None:
        """Add bytes; they are decoded by :meth:`frames`."""
        if self._error is None:
            self._chunks.append(data)
            self._buffered += len(data)

    def frames(self) -> Iterator[Frame]:
        """The frames that are complete. Take them all before feeding again.

        Raises:
            ReplyError: the stream is not AMQP from here on; so does every later call.
        """
        if self._error is not None:
            raise self._error
        if self._buffered < self._needed:
            return
        # Joined only once enough is here for the frame that is waited for, so that a body which trickles in costs its
        # size and not the square of it.
        buffer = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        position = 0
        try:
            while True:
                if self._at_start and buffer[position : position + 4] == PROTOCOL_HEADER[:4]:
                    size = len(PROTOCOL_HEADER)
                    if len(buffer) - position < size:
                        self._needed = size
                        break
                    payload: Payload = self._protocol_header(buffer[position : position + size])
                    channel = 0
                    end = position + size
                else:
                    if len(buffer) - position < _PREFIX.size:
                        self._needed = _PREFIX.size
                        break
                    kind, channel, size = _PREFIX.unpack_from(buffer, position)
                    self._check_prefix(kind, channel, size, buffer[position : position + 8])
                    end = position + size + FRAME_OVERHEAD
                    if end > len(buffer):
                        self._needed = size + FRAME_OVERHEAD
                        break
                    if buffer[end - 1] != _END_OCTET:
                        raise _fault(FrameError, f"frame ends with byte 0x{buffer[end - 1]:02x} instead of 0xce")
                    payload = _payload(kind, channel, buffer[position + _PREFIX.size : end - 1])
                position = end
                self._at_start = False
                self.frames_decoded += 1
                yield Frame(channel, payload)
        except ReplyError as error:
            self._error = error
            self._chunks.clear()
            raise
        self._chunks = [buffer[position:]]
        self._buffered = len(buffer) - position

    def _protocol_header(self, data: bytes) -> ProtocolHeader:
        if self._as_server:
            return ProtocolHeader(data)
        raise _fault(
            FrameError,
            f"the peer refuses AMQP 0-9-1 and offers protocol {data[4]}-{data[5]}-{data[6]}-{data[7]}",
        )

    def _check_prefix(self, kind: int, channel: int, size: int, start: bytes) -> None:
        if self._at_start and self._as_server:
            raise _fault(FrameError, f"stream opens with {start!r} instead of a protocol header")
        if start[:4] == PROTOCOL_HEADER[:4]:
            raise _fault(UnexpectedFrame, "a protocol header in the middle of the stream")
        if kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
            seen = _not_amqp(start) if self._at_start else ""
            raise _fault(FrameError, f"unknown frame type {kind}{seen}")
        if self.max_frame_size and size + FRAME_OVERHEAD > self.max_frame_size:
            raise _fault(
                FrameError, f"frame of {size + FRAME_OVERHEAD} bytes, but at most {self.max_frame_size} agreed"
            )
        if kind == _HEARTBEAT:
            if channel != 0:
                raise _fault(CommandInvalid, f"heartbeat on channel {channel}")
            if size != 0:
                raise _fault(FrameError, f"heartbeat with a payload of {size} bytes")


def _not_amqp(start: bytes) -> str:
    # What a TLS listener thinks of our protocol header: an alert (RFC 8446, 5.1), record type 21, version 3.x.
    if start[:2] == b"\x15\x03":
        return " (this is a port for TLS: its URL begins with amqps://)"
    return " (is this an AMQP port?)"


P = ParamSpec("P")
M = TypeVar("M", bound=Method)


def build(method: Callable[P, M], /, *positional: P.args, **named: P.kwargs) -> M:
    """A method; what is not given has AMQP's default.

    Around pamqp's constructors, which refuse names that RabbitMQ takes and warn of methods they think deprecated.

    Raises:
        InvalidArgument: AMQP cannot carry one of the arguments; told here, not when the connection is there at last.
    """
    kind = cast("type[M]", method)
    built = object.__new__(kind)
    arguments = dict(zip(kind.attributes(), positional, strict=False)) | named
    for name, default in _defaults(kind.index).items():
        setattr(built, name, arguments.get(name, default))
    encode_method(0, built)
    return built


def field_table(table: FieldTable | None) -> dict[str, Any]:
    """A copy of the caller's table, so that what is declared again after a reconnect is what was declared.

    Raises:
        InvalidArgument: AMQP cannot carry one of the values; the text names its key.
    """
    fields.table("arguments", table)
    return dict(table or {})


@cache
def _defaults(index: int) -> dict[str, object]:
    kind: type[Method] = commands.INDEX_MAPPING[index]
    parameters = signature(kind).parameters
    return {name: parameters[name].default for name in kind.attributes()}


def encode_method(channel: int, method: Method) -> bytes:
    """A method frame.

    Raises:
        InvalidArgument: AMQP cannot carry one of its arguments; the text names it.
    """
    parts = [_LONG.pack(method.index)]
    bits, count = 0, 0
    for name in method.attributes():
        kind, value = method.amqp_type(name), getattr(method, name)
        if kind == "bit":
            bits |= bool(value) << count
            count += 1
            continue
        if count:
            parts.append(bytes((bits,)))
            bits, count = 0, 0
        parts.append(_ENCODERS[kind](f"{method_name(method)}, {name}", value))
    if count:
        parts.append(bytes((bits,)))
    return _frame(_METHOD, channel, b"".join(parts))


def encode_content(channel: int, method: Method, message: Message, frame_max: int) -> list[bytes]:
    """A method with content: its frame, the header's, and the body's, none larger than ``frame_max`` bytes.

    Args:
        channel: the channel's number.
        method: basic.publish, or a server's basic.deliver, basic.return or basic.get-ok.
        message: properties and body.
        frame_max: the agreed limit; 0 for none.

    Raises:
        InvalidArgument: AMQP cannot carry one of the properties, or they do not fit one frame.
    """
    return content_frames(channel, method, encode_properties(message), message.body, frame_max)


def content_frames(channel: int, method: Method, properties: bytes, body: bytes, frame_max: int) -> list[bytes]:
    """What :func:`encode_content` gives, from properties that are already encoded."""
    head = _CONTENT.pack(_BASIC_CLASS, 0, len(body)) + properties
    if frame_max and len(head) + FRAME_OVERHEAD > frame_max:
        raise InvalidArgument(
            f"properties and headers take {len(head)} bytes, but must fit one frame of {frame_max} bytes"
        )
    parts = [encode_method(channel, method), _frame(_HEADER, channel, head)]
    step = frame_max - FRAME_OVERHEAD if frame_max else max(len(body), 1)
    parts.extend(_frame(_BODY, channel, body[start : start + step]) for start in range(0, len(body), step))
    return parts


def encode_properties(properties: Properties) -> bytes:
    """The property flags and values of a content header.

    Raises:
        InvalidArgument: AMQP cannot carry one of them; the text names it.
    """
    flags = 0
    parts: list[bytes] = []
    for flag, name, kind in _PROPERTIES:
        if name == "persistent":
            value: object = 1 if properties.persistent is False else _PERSISTENT
        elif name == "expiration":
            value = _milliseconds(properties.expiration)
        else:
            value = getattr(properties, name)
        if value is not None:
            flags |= flag
            parts.append(_ENCODERS[kind](name, value))
    return flags.to_bytes(2, "big") + b"".join(parts)


def message_from(properties: Properties, body: bytes) -> Message:
    """The message that a content header and a body make."""
    return Message(body, **{name: getattr(properties, name) for _, name, _ in _PROPERTIES})


def method_name(method: Method | type[Method]) -> str:
    """AMQP's name of a method, such as ``queue.declare-ok``."""
    group, _, name = method.name.partition(".")
    dashed = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
    return f"{group.lower()}.{dashed.lstrip('-')}"


def describe(method: Method) -> str:
    """A request as its sender would put it: the method, and the flags that make it a special case of its kind."""
    flags = [flag.replace("_", "-") for flag in _TELLING_FLAGS if getattr(method, flag, False)]
    return " ".join([method_name(method), *flags])


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    try:
        prefix = _PREFIX.pack(kind, channel, len(payload))
    except struct.error:
        raise InvalidArgument(f"channel {channel} with {len(payload)} bytes: AMQP frames cannot carry that") from None
    return b"".join((prefix, payload, _END))


def _fault(error: type[ReplyError], text: str) -> ReplyError:
    return error(text, found_by=Side.CLIENT)


def _payload(kind: int, channel: int, data: bytes) -> Payload:
    if kind == _BODY:
        return data
    if kind == _METHOD:
        return _method(data)
    if kind == _HEADER:
        return _header(channel, data)
    return Heartbeat()


def _method(data: bytes) -> Method:
    if len(data) < 4:
        raise _fault(FrameError, f"method frame with a payload of {len(data)} bytes")
    index = int.from_bytes(data[:4], "big")
    known = commands.INDEX_MAPPING.get(index)
    if known is None:
        raise _fault(CommandInvalid, f"unknown method {index >> 16}.{index & 0xFFFF}")
    method: Method = object.__new__(known)
    reader = Reader(data, 4)
    bits, count = 0, 8
    try:
        for name in method.attributes():
            kind = method.amqp_type(name)
            if kind == "bit":
                if count == 8:
                    bits, count = reader.octet(), 0
                setattr(method, name, bool(bits >> count & 1))
                count += 1
            else:
                count = 8
                setattr(method, name, _DECODERS[kind](reader))
        reader.finish()
    except Malformed as error:
        raise _fault(CommandSyntaxError, f"{method_name(method)}: {error}") from error
    return method


def _header(channel: int, data: bytes) -> Header:
    if len(data) < _CONTENT.size + 2:
        raise _fault(FrameError, f"content header of {len(data)} bytes on channel {channel}")
    class_id, _weight, body_size = _CONTENT.unpack_from(data)
    if class_id != _BASIC_CLASS:
        raise _fault(FrameError, f"content header for class {class_id}, but only basic (60) carries content")
    reader = Reader(data, _CONTENT.size)
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
        raise _fault(FrameError, f"content header on channel {channel}: {error}") from error
    values["persistent"] = values["persistent"] == _PERSISTENT
    values["expiration"] = _seconds(values.get("expiration"))
    return Header(body_size, Properties(**values))


def _milliseconds(expiration: object) -> str | None:
    if expiration is None:
        return None
    if not isinstance(expiration, int | float) or not 0 <= expiration * 1000 < 2**32:
        raise InvalidArgument(f"expiration: {expiration!r} is not a number of seconds from 0 to {2**32 // 1000}")
    return str(round(expiration * 1000))


def _seconds(expiration: str | None) -> float | None:
    # Another client may have put anything there; RabbitMQ refuses what is not a number, other brokers may not.
    if expiration is None or not (expiration.isascii() and expiration.isdecimal()):
        return None
    return int(expiration) / 1000
