"""The properties of a message as they came, of which single ones can be read and replaced. No I/O.

The broker hands on what a publisher sent byte for byte; even where it changes a header, all others keep their bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final

from anyamqp.errors import PreconditionFailed
from anyamqp.message import FieldValue, Message
from anyamqp.wire import fields
from anyamqp.wire.basic import Received, encode_properties
from anyamqp.wire.fields import Reader

_FLAGS: Final[Mapping[str, int]] = {
    name: 1 << (15 - place)
    for place, name in enumerate(
        (
            "content_type",
            "content_encoding",
            "headers",
            "delivery_mode",
            "priority",
            "correlation_id",
            "reply_to",
            "expiration",
            "message_id",
            "timestamp",
            "type",
            "user_id",
            "app_id",
            "cluster_id",
        )
    )
}
"""The flag of each property, in the order in which they are sent."""

LONGEST: Final = 315_360_000_000
"""The most milliseconds of a time to live or of an expiry: ten years."""

_NUMBER: Final = re.compile(r"[+-]?[0-9]+")
_PLAIN: Final = re.compile(r"[+]?[0-9]+")
_LONG: Final = struct.Struct(">cq")

_SIZES: Final = {"delivery_mode": 1, "priority": 1, "timestamp": 8}


class Content:
    """The encoded properties of a message, taken apart.

    Args:
        message: the message.

    Raises:
        Malformed: its properties cannot be read.

    Attributes:
        headers: the encoded value of each header, with its type; empty if there are no headers.
    """

    def __init__(self, message: Message) -> None:
        self._body = message.body
        self._values: dict[str, bytes] = {}
        encoded = message.encoded if isinstance(message, Received) else encode_properties(message.properties)
        reader = Reader(encoded)
        flags = reader.short()
        for name, flag in _FLAGS.items():
            if flags & flag:
                self._values[name] = _raw_value(reader, encoded, name)
        self._has_headers = "headers" in self._values
        self.headers: dict[str, bytes] = _rows(self._values.pop("headers", bytes(4)))

    @property
    def expiration(self) -> str | None:
        """The time to live as the publisher wrote it, in milliseconds; None if there is none."""
        value = self._values.get("expiration")
        return None if value is None else Reader(value).shortstr()

    def drop_expiration(self) -> None:
        """Remove the time to live."""
        self._values.pop("expiration", None)

    def simplify_expiration(self) -> None:
        """Write a valid time to live as a plain number."""
        text = self.expiration
        if text is not None and _PLAIN.fullmatch(text) and int(text) <= LONGEST:
            self._values["expiration"] = fields.shortstr("expiration", str(int(text)))

    def set_reply_to(self, address: str) -> None:
        """Add an address for replies, or replace it."""
        self._values["reply_to"] = fields.shortstr("reply_to", address)

    def drop_header(self, name: str) -> None:
        """Remove a header."""
        self.headers.pop(name, None)

    def set_header(self, name: str, value: FieldValue) -> None:
        """Add a header, or replace the one of that name."""
        self.headers[name] = encoded_field(value)

    def set_long(self, name: str, value: int) -> None:
        """Add a header with an integer of 64 bits, or replace the one of that name."""
        self.headers[name] = _LONG.pack(b"l", value)

    def sort_headers(self) -> None:
        """Sort the headers by name."""
        self.headers = dict(sorted(self.headers.items(), key=lambda row: row[0].encode("utf-8", "surrogateescape")))

    def message(self) -> Received:
        """The message with these properties."""
        values = dict(self._values)
        if self.headers or self._has_headers:
            rows = b"".join(fields.shortstr(name, name) + value for name, value in self.headers.items())
            values["headers"] = fields.long("headers", len(rows)) + rows
        flags = sum(_FLAGS[name] for name in values)
        encoded = fields.short("flags", flags) + b"".join(values[name] for name in _FLAGS if name in values)
        return Received(self._body, encoded)


def time_to_live(message: Message) -> float | None:
    """The seconds after which a message expires; None if it does not say.

    Raises:
        PreconditionFailed: RabbitMQ refuses what it says.
    """
    if isinstance(message, Received) and not int.from_bytes(message.encoded[:2], "big") & _FLAGS["expiration"]:
        return None  # most messages, and quickly
    text = Content(message).expiration
    if text is None:
        return None
    number = _NUMBER.match(text)
    if number is None:
        fault = "no_integer"
    elif number.end() < len(text):
        fault = f'{{leftover_string,"{text[number.end() :]}"}}'
    elif (milliseconds := int(number[0])) < 0:
        fault = f"{{value_negative,{milliseconds}}}"
    elif milliseconds > LONGEST:
        fault = f"{{value_too_large,{milliseconds}}}"
    else:
        return milliseconds / 1000
    raise PreconditionFailed(f"PRECONDITION_FAILED - invalid expiration '{text}': {fault}")


def encoded_field(value: FieldValue) -> bytes:
    """A value of a table, after the octet that names its type."""
    row = fields.table("", {"": value})
    return row[5:]  # behind the table's size and the empty name


def _raw_value(reader: Reader, encoded: bytes, name: str) -> bytes:
    start = reader.position
    if name == "headers":
        reader.table()
    elif name in _SIZES:
        reader.take(_SIZES[name])
    else:
        reader.shortstr()
    return encoded[start : reader.position]


def _rows(table: bytes) -> dict[str, bytes]:
    rows: dict[str, bytes] = {}
    reader = Reader(table, 4)
    while reader.position < len(table):
        name = reader.shortstr()
        start = reader.position
        reader.value()
        rows.setdefault(name, table[start : reader.position])  # RabbitMQ, too, takes the first of one name
    return rows
