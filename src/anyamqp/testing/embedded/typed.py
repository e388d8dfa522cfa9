"""The values of tables with their AMQP types, which RabbitMQ names when it refuses an argument. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final, Self

from anyamqp.message import FieldTable, FieldValue
from anyamqp.wire.fields import Reader

_TYPES: Final = {
    ord("b"): "byte",
    ord("B"): "unsignedbyte",
    ord("s"): "short",
    ord("u"): "unsignedshort",
    ord("I"): "signedint",
    ord("i"): "unsignedint",
    ord("l"): "long",
    ord("L"): "long",
    ord("f"): "float",
    ord("d"): "double",
}
"""RabbitMQ's names, as in ``rabbit_binary_parser``."""


class Integer(int):
    """A whole number of a table.

    Attributes:
        amqp_type: RabbitMQ's name for its type.
    """

    amqp_type: str

    def __new__(cls, value: int, amqp_type: str) -> Self:
        self = super().__new__(cls, value)
        self.amqp_type = amqp_type
        return self


class Floating(float):
    """A floating-point number of a table.

    Attributes:
        amqp_type: RabbitMQ's name for its type.
    """

    amqp_type: str

    def __new__(cls, value: float, amqp_type: str) -> Self:
        self = super().__new__(cls, value)
        self.amqp_type = amqp_type
        return self


def typed_table(data: bytes) -> FieldTable:
    """A table, behind its size.

    Raises:
        Malformed: it cannot be read.
    """
    return _TypedReader(len(data).to_bytes(4, "big") + data).table()


class _TypedReader(Reader):
    """Reads tables whose numbers keep their types."""

    __slots__ = ()

    def value(self, depth: int = 0) -> FieldValue:
        start = self.position
        value = super().value(depth)
        name = _TYPES.get(self._data[start])
        if name is not None and isinstance(value, int):
            return Integer(value, name)
        return Floating(value, name) if name is not None and isinstance(value, float) else value


def amqp_type(value: FieldValue) -> str:
    """The name that RabbitMQ has for the AMQP type of a value."""
    if isinstance(value, Integer | Floating):
        return value.amqp_type
    for kind, name in _NAMES:
        if isinstance(value, kind):
            return name
    return "signedint" if isinstance(value, int) and -(2**31) <= value < 2**31 else "long"


def erlang(value: FieldValue) -> str:
    """A value as RabbitMQ writes it in an error text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime):
        return str(int(value.timestamp()))
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        return f"{{{-int(exponent)},{int(''.join(map(str, digits)))}}}"
    if isinstance(value, Mapping):
        rows = (f"{{{term(key)},{amqp_type(one)},{term(one)}}}" for key, one in value.items())
        return f"[{','.join(rows)}]"
    if isinstance(value, list | tuple):
        rows = (f"{{{amqp_type(one)},{term(one)}}}" for one in value)
        return f"[{','.join(rows)}]"
    return "undefined" if value is None else str(value)


def term(value: FieldValue) -> str:
    """A value as an Erlang term."""
    if not isinstance(value, str | bytes | bytearray):
        return erlang(value)
    text = erlang(value)
    if not text:
        return "<<>>"
    if any(not letter.isprintable() and letter not in "\n\r\t" for letter in text):
        return f"<<{','.join(map(str, text.encode('utf-8', 'surrogateescape')))}>>"
    return f'<<"{text.translate(_ESCAPES)}">>'


_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


_NAMES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "bool"),
    (str, "longstr"),
    ((bytes, bytearray), "binary"),
    (float, "double"),
    (Decimal, "decimal"),
    (datetime, "timestamp"),
    (Mapping, "table"),
    ((list, tuple), "array"),
    (type(None), "void"),
)
