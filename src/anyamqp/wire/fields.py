"""Encodes and decodes AMQP's data types: AMQP 0-9-1, 4.2.5, and RabbitMQ, "AMQP 0-9-1 Errata", section 3.

This codec replaces that of pamqp, which stores floats with 32 bits, cuts keys at 128 bytes, takes timestamps after 2106
for milliseconds, fails on timestamps that no calendar has, refuses names that RabbitMQ accepts, accepts strings that
run over the end of their frame, and needs quadratic time for a long array. A test covers each of these.

Text from the broker that is not UTF-8 (AMQP requires UTF-8, RabbitMQ passes on any bytes) is decoded with
``surrogateescape``, so that it ends no connection and is sent back unchanged.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from sys import intern
from typing import Any, Final, TypeVar, cast

from anyamqp.errors import InvalidArgument
from anyamqp.message import FieldValue

DEEPEST: Final = 64
"""How deep tables and arrays may be nested; Python's own limit would end in a RecursionError."""

_OCTET, _SHORT, _LONG, _LONGLONG = (struct.Struct(f">{code}") for code in "BHIQ")
_SIGNED_OCTET, _SIGNED_SHORT, _SIGNED_LONG, _SIGNED_LONGLONG = (struct.Struct(f">{code}") for code in "bhiq")
_FLOAT, _DOUBLE = struct.Struct(">f"), struct.Struct(">d")
_DECIMAL = struct.Struct(">Bi")


C = TypeVar("C")


class Malformed(Exception):
    """Bytes that cannot be decoded."""


class Reader:
    """Reads the values in the payload of a frame, one after the other.

    Args:
        data: the payload.
        position: the index of the first byte.
    """

    __slots__ = ("_data", "_end", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self._end = len(data)
        self.position: int = position

    def finish(self) -> None:
        """Check that no bytes are left.

        Raises:
            Malformed: there are some.
        """
        if self.position != self._end:
            raise Malformed(f"{self._end - self.position} bytes too many")

    def octet(self) -> int:
        value: int = self.number(_OCTET)
        return value

    def short(self) -> int:
        value: int = self.number(_SHORT)
        return value

    def long(self) -> int:
        value: int = self.number(_LONG)
        return value

    def longlong(self) -> int:
        value: int = self.number(_LONGLONG)
        return value

    def shortstr(self) -> str:
        return self.take(self.octet()).decode("utf-8", "surrogateescape")

    def longstr(self) -> str:
        return self.take(self.long()).decode("utf-8", "surrogateescape")

    def timestamp(self) -> datetime | None:
        """A time; None for a number of seconds that no calendar has."""
        return _datetime(self.longlong())

    def table(self, depth: int = 0) -> dict[str, FieldValue]:
        end = self._container(depth)
        table: dict[str, FieldValue] = {}
        while self.position < end:
            key = intern(self.shortstr())  # most tables have the keys of others
            table[key] = self.value(depth)
        return self._ended(table, end)

    def array(self, depth: int) -> list[FieldValue]:
        end = self._container(depth)
        array: list[FieldValue] = []
        while self.position < end:
            array.append(self.value(depth))
        return self._ended(array, end)

    def _container(self, depth: int) -> int:
        if depth > DEEPEST:
            raise Malformed(f"tables nested deeper than {DEEPEST}")
        size = self.long()
        end = self.position + size
        if end > self._end:
            raise Malformed("a table runs over the end of the frame")
        return end

    def _ended(self, container: C, end: int) -> C:
        if self.position != end:
            raise Malformed("a value runs over the end of its table")
        return container

    def value(self, depth: int = 0) -> FieldValue:
        """A value of a table, after the octet that names its type."""
        code = self.take(1)
        read = _FIELD_READERS.get(code)
        if read is None:
            raise Malformed(f"unknown field type {code!r}")
        return read(self, depth)

    def number(self, form: struct.Struct) -> Any:
        end = self.position + form.size
        if end > self._end:
            raise Malformed("it ends too early")
        (value,) = form.unpack_from(self._data, self.position)
        self.position = end
        return value

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > self._end:
            raise Malformed("a value runs over the end of the frame")
        data = self._data[self.position : end]
        self.position = end
        return data

    def text_or_bytes(self) -> str | bytes:
        data = self.take(self.long())
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    def decimal(self) -> Decimal:
        scale = self.octet()
        return Decimal(self.number(_SIGNED_LONG)).scaleb(-scale)

    def time(self) -> datetime | int:
        seconds = self.longlong()
        return _datetime(seconds) or seconds


_FIELD_READERS: Final[dict[bytes, Callable[[Reader, int], FieldValue]]] = {
    b"t": lambda reader, _: bool(reader.octet()),
    b"b": lambda reader, _: reader.number(_SIGNED_OCTET),
    b"B": lambda reader, _: reader.octet(),
    b"s": lambda reader, _: reader.number(_SIGNED_SHORT),
    b"u": lambda reader, _: reader.short(),
    b"I": lambda reader, _: reader.number(_SIGNED_LONG),
    b"i": lambda reader, _: reader.long(),
    b"l": lambda reader, _: reader.number(_SIGNED_LONGLONG),
    b"L": lambda reader, _: reader.number(_SIGNED_LONGLONG),
    b"f": lambda reader, _: reader.number(_FLOAT),
    b"d": lambda reader, _: reader.number(_DOUBLE),
    b"D": lambda reader, _: reader.decimal(),
    b"S": lambda reader, _: reader.text_or_bytes(),
    b"x": lambda reader, _: reader.take(reader.long()),
    b"T": lambda reader, _: reader.time(),
    b"A": lambda reader, depth: reader.array(depth + 1),
    b"F": lambda reader, depth: reader.table(depth + 1),
    b"V": lambda _reader, _: None,
}


def octet(name: str, value: object) -> bytes:
    return _whole(name, value, _OCTET)


def short(name: str, value: object) -> bytes:
    return _whole(name, value, _SHORT)


def long(name: str, value: object) -> bytes:
    return _whole(name, value, _LONG)


def longlong(name: str, value: object) -> bytes:
    return _whole(name, value, _LONGLONG)


def shortstr(name: str, value: object) -> bytes:
    data = _text(name, value)
    if len(data) > 255:
        raise InvalidArgument(f"{name}: {len(data)} bytes, but AMQP's short strings hold at most 255")
    return _OCTET.pack(len(data)) + data


def longstr(name: str, value: object) -> bytes:
    data = _text(name, value)
    return _LONG.pack(len(data)) + data


def timestamp(name: str, value: object) -> bytes:
    """A time with the precision of a second."""
    if not isinstance(value, datetime):
        raise InvalidArgument(f"{name}: {type(value).__name__} instead of datetime")
    if value.tzinfo is None:
        raise InvalidArgument(f"{name}: {value} has no time zone; one that has is datetime.now(UTC)")
    seconds = int(value.timestamp())
    if seconds < 0:
        raise InvalidArgument(f"{name}: {value} is before 1970, where AMQP's time begins")
    return _LONGLONG.pack(seconds)


def table(name: str, value: object, depth: int = 0) -> bytes:
    if value is None:
        return bytes(4)
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{name}: {type(value).__name__} instead of a table")
    if depth > DEEPEST:
        raise InvalidArgument(f"{name}: tables nested deeper than {DEEPEST}")
    parts: list[bytes] = []
    for key, inner in cast("Mapping[object, object]", value).items():
        path = f"{name}.{key}"
        parts.append(shortstr(path, key))
        parts.append(_field(path, inner, depth))
    data = b"".join(parts)
    return _LONG.pack(len(data)) + data


def _field(name: str, value: object, depth: int) -> bytes:
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"I" + _SIGNED_LONG.pack(value)
        if -(2**63) <= value < 2**63:
            return b"l" + _SIGNED_LONGLONG.pack(value)
        raise InvalidArgument(f"{name}: {value} does not fit AMQP's 64 bits")
    if isinstance(value, str):
        return b"S" + longstr(name, value)
    if isinstance(value, float):
        if not math.isfinite(value):
            # RabbitMQ ends the connection (541): Erlang has no such floats.
            raise InvalidArgument(f"{name}: {value} is no number that RabbitMQ can carry")
        return b"d" + _DOUBLE.pack(value)
    if value is None:
        return b"V"
    if isinstance(value, Mapping):
        return b"F" + table(name, cast("object", value), depth + 1)
    if isinstance(value, list | tuple):
        return b"A" + _array(name, cast("Sequence[object]", value), depth + 1)
    if isinstance(value, bytes | bytearray):
        return b"x" + _LONG.pack(len(value)) + value
    if isinstance(value, datetime):
        return b"T" + timestamp(name, value)
    if isinstance(value, Decimal):
        return b"D" + _decimal(name, value)
    raise InvalidArgument(f"{name}: AMQP tables cannot carry {type(value).__name__}")


def _array(name: str, values: Sequence[object], depth: int) -> bytes:
    if depth > DEEPEST:
        raise InvalidArgument(f"{name}: arrays nested deeper than {DEEPEST}")
    data = b"".join(_field(f"{name}[{index}]", value, depth) for index, value in enumerate(values))
    return _LONG.pack(len(data)) + data


def _decimal(name: str, value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise InvalidArgument(f"{name}: AMQP's decimals cannot carry {value}")
    number = int("".join(map(str, digits))) * (-1 if sign else 1)
    if 0 < exponent < 10:
        number, exponent = number * 10**exponent, 0
    if not (-255 <= exponent <= 0 and -(2**31) <= number < 2**31):
        raise InvalidArgument(f"{name}: {value} does not fit AMQP's decimals, 32 bits with up to 255 places")
    return _DECIMAL.pack(-exponent, number)


def _whole(name: str, value: object, form: struct.Struct) -> bytes:
    if not isinstance(value, int) or value is True or value is False:
        raise InvalidArgument(f"{name}: {type(value).__name__} instead of a whole number")
    highest = 2 ** (8 * form.size) - 1
    if not 0 <= value <= highest:
        raise InvalidArgument(f"{name}: {value} is not between 0 and {highest}")
    return form.pack(value)


def _text(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise InvalidArgument(f"{name}: {type(value).__name__} instead of text")
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Neither the text nor the cause shows the value: it may be a password.
        raise InvalidArgument(f"{name}: text that UTF-8 cannot carry") from None


def _datetime(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
