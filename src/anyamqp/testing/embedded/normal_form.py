"""The properties of a message as RabbitMQ 4 hands them on: it reads them all and writes them anew. No I/O.

The headers are sorted by name, and of several with one name the first is kept. Integers of the type ``L`` become ``l``,
truth values 0 or 1, and the expiration a plain number; flags that AMQP does not define are dropped. All else keeps its
bytes, and RabbitMQ 3.10 changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from anyamqp.testing.embedded.contents import Content
from anyamqp.wire.basic import Received

_REWRITTEN: Final = 1 << 13 | 1 << 8 | 0b11
"""The flags of headers and expiration, and those that AMQP does not define."""

_SIZES: Final[Mapping[int, int]] = dict(zip(b"tbBsuIilLfdDTV", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0), strict=True))
"""The bytes of a value behind its type; all other types begin with a size."""


def normal_form(message: Received) -> Received:
    """The message with its properties written anew.

    Args:
        message: a message whose properties can be read.
    """
    if not int.from_bytes(message.encoded[:2], "big") & _REWRITTEN:
        return message
    content = Content(message)
    content.headers = {name: _rewritten(value) for name, value in content.headers.items()}
    content.sort_headers()
    content.simplify_expiration()
    return content.message()


def _rewritten(value: bytes) -> bytes:
    data = bytearray(value)
    _rewrite(data, 0)
    return bytes(data)


def _rewrite(data: bytearray, at: int) -> int:
    """Rewrite the value at an index. Returns the index behind it."""
    kind, at = data[at], at + 1
    if kind == ord("L"):
        data[at - 1] = ord("l")
    elif kind == ord("t"):
        data[at] = min(data[at], 1)
    if kind in _SIZES:
        return at + _SIZES[kind]
    end = at + 4 + int.from_bytes(data[at : at + 4], "big")
    if kind in b"FA":
        at += 4
        while at < end:
            at = _rewrite(data, at if kind == ord("A") else at + 1 + data[at])
    return end
