"""Bytes to frames and back: AMQP 0-9-1, 4.2 "AMQP Wire-Level Format".

Framing is done here: pamqp reports a partial frame and a broken one alike. The methods inside are pamqp's. Whatever
the bytes are, decoding ends in a frame, in waiting for more, or in one of this project's errors:

* 501 frame error: no end byte, larger than frame_max, an unknown type, content that is not well-formed;
* 502 syntax error: a known method whose arguments cannot be read;
* 503 command invalid: an unknown method;
* 505 unexpected frame: a heartbeat outside channel 0, a protocol header in the middle of a stream.

Buffered is at most one frame, whose size is checked before its payload is waited for, and the last chunk that was fed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

from pamqp import base, commands, common, constants, decode, frame, header

from holdfast.errors import (
    CommandInvalid,
    CommandSyntaxError,
    FrameError,
    InvalidArgument,
    ReplyError,
    Side,
    UnexpectedFrame,
)
from holdfast.message import FieldTable, FieldValue, Message, Properties

Method: TypeAlias = base.Frame
"""A method with its arguments."""

FRAME_OVERHEAD: Final = 8
"""Bytes around a payload: type (1), channel (2), size (4), end (1). frame_max counts them."""

FRAME_MIN_SIZE: Final = 4096
"""The least frame_max that AMQP allows (frame-min-size)."""

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_PREFIX = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQ")
_BASIC_CLASS = commands.Basic.frame_id
_END = b"\xce"


class Heartbeat(NamedTuple):
    """A heartbeat frame."""


class ProtocolHeader(NamedTuple):
    """The eight bytes that open a stream, or refuse one."""

    data: bytes


class Header(NamedTuple):
    """A content header: the size of the body that follows, and the properties."""

    body_size: int
    properties: commands.Basic.Properties


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
        self.frames_decoded = 0
        self._as_server = as_server
        self._at_start = True
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._needed = _PREFIX.size
        self._error: ReplyError | None = None

    def feed(self, data: bytes) -> None:
        """Add bytes; they are decoded by :meth:`frames`."""
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
                    if buffer[end - 1] != constants.FRAME_END:
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
        if kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
            seen = " (is this an AMQP port?)" if self._at_start else ""
            raise _fault(FrameError, f"unknown frame type {kind}{seen}")
        if size + FRAME_OVERHEAD > self.max_frame_size:
            raise _fault(
                FrameError, f"frame of {size + FRAME_OVERHEAD} bytes, but at most {self.max_frame_size} agreed"
            )
        if kind == _HEARTBEAT:
            if channel != 0:
                raise _fault(UnexpectedFrame, f"heartbeat on channel {channel}")
            if size != 0:
                raise _fault(FrameError, f"heartbeat with a payload of {size} bytes")


P = ParamSpec("P")
M = TypeVar("M", bound=Method)


def build(method: Callable[P, M], /, *args: P.args, **kwargs: P.kwargs) -> M:
    """A method with arguments of the caller's.

    Raises:
        InvalidArgument: one of them is not what AMQP takes there.
    """
    try:
        return method(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(str(error)) from error


def encode_method(channel: int, method: Method) -> bytes:
    """A method frame.

    Raises:
        InvalidArgument: AMQP cannot carry one of its arguments.
    """
    try:
        return frame.marshal(method, channel)
    except (TypeError, ValueError, OverflowError, struct.error, RecursionError) as error:
        raise InvalidArgument(f"{method_name(method)}: {error}") from error


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


def field_table(table: FieldTable | None) -> dict[str, common.FieldValue]:
    """A table in the types that pamqp encodes: plain dicts and lists, and bytearray for bytes.

    Raises:
        InvalidArgument: AMQP cannot carry one of the values; the text names its key.
    """
    return {} if table is None else {key: _field_value(key, value) for key, value in table.items()}


def encode_properties(properties: Properties) -> bytes:
    """The property flags and values of a content header.

    Raises:
        InvalidArgument: AMQP cannot carry one of them; the text names it.
    """
    expiration = properties.expiration
    if expiration is not None and not 0 <= expiration * 1000 < 2**32:
        raise InvalidArgument(f"expiration: {expiration} is not between 0 and {2**32 // 1000} seconds")
    values: dict[str, object] = {
        "content_type": properties.content_type,
        "content_encoding": properties.content_encoding,
        "headers": None if properties.headers is None else field_table(properties.headers),
        "delivery_mode": 2 if properties.persistent else 1,
        "priority": properties.priority,
        "correlation_id": properties.correlation_id,
        "reply_to": properties.reply_to,
        "expiration": None if expiration is None else str(round(expiration * 1000)),
        "message_id": properties.message_id,
        "timestamp": properties.timestamp,
        "message_type": properties.type,
        "user_id": properties.user_id,
        "app_id": properties.app_id,
    }
    flags = 0
    parts: list[bytes] = []
    encoder = commands.Basic.Properties()
    for name, value in values.items():
        if value is None:
            continue
        flags |= encoder.flags[name]
        try:
            parts.append(encoder.encode_property(name, cast(common.FieldValue, value)))
        except (TypeError, ValueError, OverflowError, AttributeError, struct.error, RecursionError) as error:
            raise InvalidArgument(f"message property {name}: {error}") from error
    return flags.to_bytes(2, "big") + b"".join(parts)


def message_from(properties: commands.Basic.Properties, body: bytes) -> Message:
    """The message that a content header and a body make."""
    return Message(
        body,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=properties.headers,
        persistent=properties.delivery_mode == 2,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=_seconds(properties.expiration),
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=properties.message_type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )


def method_name(method: Method) -> str:
    """AMQP's name of a method, such as ``queue.declare-ok``."""
    group, _, name = method.name.partition(".")
    dashed = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
    return f"{group.lower()}.{dashed.lstrip('-')}"


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"".join((_PREFIX.pack(kind, channel, len(payload)), payload, _END))


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
    method: Method = known()
    try:
        _decode_arguments(method, data[4:])
    except Exception as error:  # pamqp lets struct.error, ValueError, RecursionError and more escape
        raise _fault(CommandSyntaxError, f"{method_name(method)}: {error}") from error
    return method


def _decode_arguments(method: Method, data: bytes) -> None:
    # pamqp's own loop takes a string that overruns the frame as a shorter one; this one counts.
    bit = 0
    for name in method.attributes():
        kind = method.amqp_type(name)
        if bit and (kind != "bit" or bit == 8):
            data = data[1:]
            bit = 0
        consumed, value = decode.by_type(data, kind, bit)
        if kind == "bit":
            bit += 1
        elif consumed > len(data):
            raise ValueError(f"{name} runs over the end of the frame")
        else:
            data = data[consumed:]
        setattr(method, name, value)
    if len(data) > (1 if bit else 0):
        raise ValueError(f"{len(data) - (1 if bit else 0)} bytes too many")


def _header(channel: int, data: bytes) -> Header:
    content = header.ContentHeader()
    try:
        content.unmarshal(data)
    except Exception as error:
        raise _fault(FrameError, f"content header on channel {channel}: {error}") from error
    if content.class_id != _BASIC_CLASS:
        raise _fault(FrameError, f"content header for class {content.class_id}, but only basic (60) carries content")
    return Header(content.body_size, content.properties)


def _field_value(path: str, value: FieldValue) -> common.FieldValue:
    if value is None or isinstance(value, bool | int | float | Decimal | str | bytearray | datetime):
        return value
    if isinstance(value, bytes):
        return bytearray(value)
    if isinstance(value, Mapping):
        return {key: _field_value(f"{path}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_field_value(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    raise InvalidArgument(f"{path}: AMQP tables cannot carry {type(value).__name__}")


def _seconds(expiration: str | None) -> float | None:
    # Another client may have put anything there; RabbitMQ refuses what is not a number, other brokers may not.
    if expiration is None or not expiration.isdecimal():
        return None
    return int(expiration) / 1000
