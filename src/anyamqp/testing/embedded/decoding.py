"""Decodes methods and checks properties as RabbitMQ does, which refuses other values than the client does. No I/O.

RabbitMQ matches the arguments of a method as a whole; then it reads the tables among them, where it fails at what it
does not know, and checks that short strings are UTF-8, but not those of methods with content. It does not read a
message's properties beyond their outer form and their headers (rabbit_binary_parser, rabbit_framing_amqp_0_9_1).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, Final

from anyamqp.errors import FrameError, NotImplementedByBroker, ReplyError
from anyamqp.testing.embedded.typed import typed_table
from anyamqp.testing.embedded.violations import Crash, Violation, as_numbers, internal_error
from anyamqp.wire import methods
from anyamqp.wire.decoder import decode_method
from anyamqp.wire.fields import DEEPEST, Malformed, Reader
from anyamqp.wire.methods import Method

WITH_CONTENT: Final = (methods.Basic.Publish, methods.Basic.Return, methods.Basic.Deliver, methods.Basic.GetOk)
"""The methods that content follows."""

_SIZES: Final[Mapping[str, int]] = {"octet": 1, "short": 2, "long": 4, "longlong": 8}
_FIELD_SIZES: Final[Mapping[bytes, int]] = {
    **dict.fromkeys((b"t", b"b", b"B"), 1),
    **dict.fromkeys((b"s", b"u"), 2),
    **dict.fromkeys((b"I", b"i"), 4),
    b"D": 5,
    **dict.fromkeys((b"l", b"L", b"T"), 8),
    b"V": 0,
}
_LONG_FIELDS: Final = (b"S", b"x")
_FLOATS: Final[Mapping[bytes, struct.Struct]] = {b"f": struct.Struct(">f"), b"d": struct.Struct(">d")}
_CONTAINERS: Final[Mapping[bytes, bool]] = {b"F": True, b"A": False}

_PROPERTIES: Final = (
    *("shortstr", "shortstr", "table", "octet", "octet", "shortstr", "shortstr"),
    *("shortstr", "shortstr", "longlong", "shortstr", "shortstr", "shortstr", "shortstr"),
)
"""The types of the properties, the first at the highest flag. RabbitMQ ignores the two lowest flags."""

_DELIVERY_MODE: Final = 3
"""The place of the delivery mode."""


def kind_of(payload: bytes) -> type[Method]:
    """The class of a method.

    Raises:
        Crash: AMQP has no such method.
    """
    kind = methods.INDEX_MAPPING.get(int.from_bytes(payload[:4], "big"))
    if kind is None:
        raise Crash(f"there is no method {as_numbers(payload[:4])}")
    return kind


def decode(payload: bytes) -> Method:
    """A method, from the payload of its frame.

    Raises:
        Crash: a table in it cannot be read, or there is no such method.
        Violation: its arguments cannot be read.
    """
    kind = kind_of(payload)
    try:
        tables, texts = _match(kind, payload)
    except Malformed:
        raise Violation(FrameError(f"FRAME_ERROR - cannot decode {as_numbers(payload[4:])}"), kind) from None
    try:
        deepest = max(map(check_table, tables), default=0)
    except Malformed as error:
        raise Crash(str(error)) from None
    if kind not in WITH_CONTENT and not all(map(_is_utf8, texts)):
        raise Violation(FrameError("FRAME_ERROR - Malformed UTF-8 in shortstr"))
    _refuse_depth(deepest)
    try:
        method = decode_method(payload)
    except ReplyError as error:
        raise Violation(error, kind) from error
    if isinstance(method, methods.Queue.Declare | methods.Exchange.Declare):
        # Only here do the types of numbers show.
        values: dict[str, Any] = {name: getattr(method, name) for name, _ in kind.parameters}
        values["arguments"] = typed_table(tables[0])
        return kind(*values.values())
    return method


def check_properties(encoded: bytes) -> None:
    """Check the properties of a content header.

    Raises:
        Violation: they cannot be read.
    """
    reader = Reader(encoded)
    deepest = 0
    try:
        flags = reader.short()
        for place, domain in enumerate(_PROPERTIES):
            if flags & 1 << (15 - place):
                value = _take(reader, domain)
                if domain == "table":
                    deepest = check_table(value)
        reader.finish()
    except Malformed:
        raise internal_error() from None
    _refuse_depth(deepest)


def delivery_mode(encoded: bytes) -> int | None:
    """The delivery mode in properties that have been checked; None if there is none."""
    reader = Reader(encoded)
    flags = reader.short()
    for place, domain in enumerate(_PROPERTIES[:_DELIVERY_MODE]):
        if flags & 1 << (15 - place):
            _take(reader, domain)
    return reader.octet() if flags & 1 << (15 - _DELIVERY_MODE) else None


def check_table(data: bytes) -> int:
    """Check the rows of a table, whose size has been read. Returns how deep tables are nested in it.

    Raises:
        Malformed: RabbitMQ cannot read it.
    """
    deepest = 0
    waiting = [(data, True, 1)]
    while waiting:
        rows, has_keys, depth = waiting.pop()
        deepest = max(deepest, depth)
        reader = Reader(rows)
        while reader.position < len(rows):
            if has_keys:
                reader.take(reader.octet())
            code = reader.take(1)
            if code in _CONTAINERS:
                waiting.append((reader.take(reader.long()), _CONTAINERS[code], depth + 1))
            elif code in _FLOATS:
                if not math.isfinite(reader.number(_FLOATS[code])):
                    raise Malformed("a float that Erlang does not have")
            elif code in _LONG_FIELDS:
                reader.take(reader.long())
            elif code in _FIELD_SIZES:
                reader.take(_FIELD_SIZES[code])
            else:
                raise Malformed(f"unknown field type {code!r}")
    return deepest


def _match(kind: type[Method], payload: bytes) -> tuple[list[bytes], list[bytes]]:
    """The tables and the short strings in a method's arguments, which are matched as a whole."""
    reader = Reader(payload, 4)
    found: dict[str, list[bytes]] = {}
    bits = 0
    for _, domain in kind.parameters:
        if domain != "bit":
            bits = 0
            found.setdefault(domain, []).append(_take(reader, domain))
        elif bits % 8 == 0:
            reader.take(1)
            bits = 1
        else:
            bits += 1
    reader.finish()
    return found.get("table", []), found.get("shortstr", [])


def _take(reader: Reader, domain: str) -> bytes:
    if domain == "shortstr":
        return reader.take(reader.octet())
    if domain in ("longstr", "table"):
        return reader.take(reader.long())
    return reader.take(_SIZES[domain])


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse_depth(depth: int) -> None:
    if depth > DEEPEST + 1:
        text = f"NOT_IMPLEMENTED - tables nested deeper than {DEEPEST}"
        raise Violation(NotImplementedByBroker(text))
