"""What the paced cases share: when to send, and how a body tells when it was sent."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from itertools import count
from typing import Final

STAMP: Final = struct.Struct(">d")
"""The first bytes of a body: when it was handed over, on the clock of :func:`time.perf_counter`.

On Linux that clock is the machine's, so a body may also tell another process.
"""


def stamped(size: int) -> bytes:
    """A body that begins with the present time."""
    return STAMP.pack(time.perf_counter()) + bytes(size - STAMP.size)


def age(body: bytes) -> float:
    """Seconds since a body was stamped."""
    sent: float = STAMP.unpack_from(body)[0]
    return time.perf_counter() - sent


def waits(rate: float, most: int | None = None) -> Iterator[float]:
    """Before each of ``most`` messages, how long to wait; 0 while the sender is behind, so that the rate holds."""
    start = time.perf_counter()
    for number in count() if most is None else range(most):
        yield max(0.0, start + number / rate - time.perf_counter())
