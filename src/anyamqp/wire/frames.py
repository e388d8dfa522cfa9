"""Encodes methods and contents as frames: AMQP 0-9-1, 4.2 "AMQP Wire-Level Format".

:mod:`anyamqp.wire.fields` encodes the values, :mod:`anyamqp.wire.basic` the frames of every message;
:mod:`anyamqp.wire.decoder` decodes frames.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar

from anyamqp.checks import check_flag
from anyamqp.errors import InvalidArgument
from anyamqp.message import FieldTable, FieldValue, Message
from anyamqp.wire import fields
from anyamqp.wire.basic import END, FRAME_OVERHEAD, METHOD, PREFIX, content_parts, encode_properties
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Delivered, Header

FRAME_MIN_SIZE: Final = 4096
"""The least frame_max that AMQP allows (frame-min-size)."""

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_LONG = struct.Struct(">I")
_TELLING_FLAGS: Final = ("passive", "exclusive", "internal", "if_unused", "if_empty", "no_ack", "multiple")

_ENCODERS: Final[Mapping[str, Callable[[str, object], bytes]]] = {
    "octet": fields.octet,
    "short": fields.short,
    "long": fields.long,
    "longlong": fields.longlong,
    "shortstr": fields.shortstr,
    "longstr": fields.longstr,
    "table": fields.table,
}


class HeartbeatFrame(NamedTuple):
    """A heartbeat frame."""


class ProtocolHeader(NamedTuple):
    """The eight bytes that open a stream, or refuse one."""

    data: bytes


Payload: TypeAlias = Method | Header | bytes | memoryview | Delivered | HeartbeatFrame | ProtocolHeader


class Frame(NamedTuple):
    """A frame. A payload of ``bytes`` is a piece of a body; so is a view, which saves copying a large body twice."""

    channel: int
    payload: Payload


P = ParamSpec("P")
M = TypeVar("M", bound=Method)


def build(kind: Callable[P, M], /, *given: P.args, **named: P.kwargs) -> M:
    """Make a method and check its arguments, so that an error is raised now and not when the method is sent.

    Raises:
        InvalidArgument: AMQP cannot carry one of the arguments.
    """
    method = kind(*given, **named)
    for name, domain in method.parameters:
        if domain == "bit":
            check_flag(f"{method_name(method)}, {name}", getattr(method, name))
    encode_method(0, method)
    return method


def field_table(table: FieldTable | None) -> dict[str, Any]:
    """Copy the caller's table, with nested tables and arrays.

    A request is sent again after a reconnect, and the caller may have changed the table by then.

    Raises:
        InvalidArgument: AMQP cannot carry one of the values; the text names its key.
    """
    fields.table("arguments", table)
    return {key: _copied(value) for key, value in (table or {}).items()}


def _copied(value: FieldValue) -> FieldValue:
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(inner) for inner in value]
    return bytes(value) if isinstance(value, bytearray) else value


def encode_method(channel: int, method: Method) -> bytes:
    """A method frame.

    Raises:
        InvalidArgument: AMQP cannot carry one of its arguments; the text names it.
    """
    parts = [_LONG.pack(method.index)]
    bits, count = 0, 0
    for name, kind in method.parameters:
        value = getattr(method, name)
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
    return _frame(METHOD, channel, b"".join(parts))


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
    properties = encode_properties(message.properties)
    parts = content_parts(encode_method(channel, method), channel, properties, message.body, frame_max)
    return _frames(b"".join(parts))


def _frames(data: bytes) -> list[bytes]:
    frames: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + FRAME_OVERHEAD + PREFIX.unpack_from(data, position)[2]
        frames.append(data[position:end])
        position = end
    return frames


def method_name(method: Method | type[Method]) -> str:
    """AMQP's name of a method, such as ``queue.declare-ok``."""
    return _dashed(method.name)


@cache
def _dashed(camel: str) -> str:
    """AMQP's form of pamqp's name, such as ``Queue.DeclareOk``."""
    group, _, name = camel.partition(".")
    dashed = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
    return f"{group.lower()}.{dashed.lstrip('-')}"


def describe(method: Method) -> str:
    """A request for logs and errors: the method, and the flags that make it a special case of its kind."""
    flags = [flag.replace("_", "-") for flag in _TELLING_FLAGS if getattr(method, flag, False)]
    return " ".join([method_name(method), *flags])


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    try:
        prefix = PREFIX.pack(kind, channel, len(payload))
    except struct.error:
        raise InvalidArgument(f"channel {channel} with {len(payload)} bytes: AMQP frames cannot carry that") from None
    return b"".join((prefix, payload, END))
