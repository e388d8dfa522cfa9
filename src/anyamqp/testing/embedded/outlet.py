"""The sending side of a transport of the embedded broker, as slow and as incomplete as its faults say."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc

from anyamqp.testing.memory import MemoryStream

_RESET: Final = struct.pack("ii", 1, 0)
_PAUSE: Final = 0.1
"""Seconds between two pieces of a stream whose rate is limited."""


class Outlet:
    """Sends bytes.

    Args:
        stream: the transport.
        wait_open: waits until bytes may be sent.

    Attributes:
        latency: the seconds by which each frame is delayed.
        rate: the most bytes in a second; None for no limit.
        left: how many bytes are sent before the transport ends; None for all.
    """

    def __init__(self, stream: anyio.abc.ByteStream, wait_open: Callable[[], Awaitable[None]]) -> None:
        self.latency: float = 0.0
        self.rate: float | None = None
        self.left: int | None = None
        self._stream = stream
        self._wait_open = wait_open

    @property
    def is_plain(self) -> bool:
        """Whether no fault is in force."""
        return not self.latency and self.rate is None and self.left is None

    async def send(self, data: bytes) -> None:
        """Send bytes, or those of them that are left."""
        if self.left is not None:
            data = data[: self.left]
            self.left -= len(data)
        while data:
            if self.rate is None:
                await self._stream.send(data)
                return
            size = max(1, int(self.rate * _PAUSE))
            await self._stream.send(data[:size])
            await anyio.sleep(min(size, len(data)) / self.rate)
            await self._wait_open()
            data = data[size:]

    def reset(self) -> None:
        """End the transport as by RST."""
        if isinstance(self._stream, MemoryStream):
            self._stream.reset()
            return
        # There is no socket to reset if the client was faster.
        with contextlib.suppress(OSError):
            raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
