"""Losing a link without the broker's knowledge: it keeps the old connection until it misses our heartbeats."""

from __future__ import annotations

import anyio
import anyio.abc

from anyamqp import Address, Connection
from anyamqp.testing import FaultProxy
from support.waiting import eventually


class Line(anyio.abc.ByteStream):
    """A transport whose end the client is told of by the test, and the broker by nobody."""

    def __init__(self, inner: anyio.abc.ByteStream) -> None:
        self._inner = inner
        self._reading = anyio.CancelScope()

    def hang_up(self) -> None:
        self._reading.cancel()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with anyio.CancelScope() as self._reading:
            return await self._inner.receive(max_bytes)
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


class Lines:
    """Dials, and remembers the lines."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    async def __call__(self, address: Address) -> anyio.abc.ByteStream:
        line = Line(await anyio.connect_tcp(address.host, address.port))
        self._lines.append(line)
        return line

    async def lose(self, proxy: FaultProxy, connection: Connection) -> None:
        """Lose the link through the proxy without the broker's knowledge, and wait until the connection is back."""
        proxy.strand()
        self._lines[-1].hang_up()
        await eventually(lambda: connection.stats.reconnects == 1, within=40)
