"""The network of a world: transports in memory with latency, which break in the ways in which TCP breaks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

import anyio
import anyio.abc

from anyamqp import Address
from anyamqp.testing import Broker

_FRAME: Final = struct.Struct(">BHI")
_METHOD: Final = struct.Struct(">HH")
_PROTOCOL_HEADER: Final = b"AMQP"
_METHOD_FRAME: Final = 1

BASIC_ACK: Final = (60, 80)
CONNECTION_OPEN: Final = (10, 40)
CONNECTION_CLOSE: Final = ((10, 50), (10, 51))


class Wire(anyio.abc.ByteStream):
    """One transport, as the client holds it.

    Args:
        inner: the client's end of the transport in memory.
        number: its number among the transports of its connection, from 1.
        network: the network of its connection.

    Attributes:
        sent_at: when the client last sent bytes.
        received_at: when the client last received bytes.
        is_open: whether the client has not closed it.
        has_opened: whether the client has sent a method after connection.open, so that heartbeats are due.
        is_leaving: whether the client has sent connection.close or its answer on it.
        is_dark: whether it carries no bytes, in either direction, and not even its end.
        frames: how many frames the client has sent.
    """

    def __init__(self, inner: anyio.abc.ByteStream, number: int, network: Network) -> None:
        self.number: int = number
        self.sent_at: float = anyio.current_time()
        self.received_at: float = self.sent_at
        self.is_open: bool = True
        self.has_opened: bool = False
        self.is_leaving: bool = False
        self.is_dark: bool = False
        self.frames: int = 0
        self._inner = inner
        self._network = network
        self._cut_after: int | None = None
        self._has_asked = False
        self._is_finished = False
        self._closed = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._is_finished:
            await self._inner.aclose()
            raise anyio.EndOfStream
        try:
            data = await self._inner.receive(max_bytes)
            await anyio.sleep(self._network.latency())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            if self.is_dark:
                await self._closed.wait()
            raise
        if self.is_dark:
            await self._closed.wait()
        if not self.is_open:
            raise anyio.ClosedResourceError
        if self._cut_after is not None:
            data = data[: self._cut_after]
            self.reset()
        if not data:
            raise anyio.BrokenResourceError
        self.received_at = anyio.current_time()
        return data

    async def send(self, item: bytes) -> None:
        for kind, method, channel, payload in _frames(item):
            self.frames += 1
            if kind == _METHOD_FRAME:
                self.has_opened = self.has_opened or self._has_asked
                self._has_asked = method == CONNECTION_OPEN
                self.is_leaving = self.is_leaving or method in CONNECTION_CLOSE
                if method == BASIC_ACK:
                    tag, multiple = struct.unpack_from(">QB", payload, 4)
                    self._network.on_ack(self, channel, tag, bool(multiple))
        self._network.on_bytes_sent(self)
        self.sent_at = anyio.current_time()
        if self.is_dark:
            await anyio.lowlevel.checkpoint()
            return
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        if self.is_open:
            self.is_open = False
            self._network.live -= 1
            self._closed.set()
        if self.is_dark:
            await anyio.lowlevel.checkpoint()  # the broker does not learn of it
        else:
            await self._inner.aclose()

    def reset(self) -> None:
        """End it as a RST does; bytes under way are lost."""
        reset = getattr(self._inner, "reset", None)
        if reset is not None and not self.is_dark:
            reset()

    def finish(self) -> None:
        """End it as a FIN does, after the next bytes of the broker."""
        self._is_finished = True

    def cut(self, after: int) -> None:
        """End it after ``after`` bytes of what the broker sends next, perhaps inside a frame."""
        self._cut_after = after

    def darken(self) -> None:
        """Swallow all bytes from now on."""
        self.is_dark = True


class Network:
    """The way of one connection to the broker.

    Args:
        broker: the broker.
        random: decides the latencies.
        on_ack: called for each basic.ack that the client sends: the transport, the channel, the tag, ``multiple``.
        on_bytes_sent: called before the client sends bytes.

    Attributes:
        wire: the newest transport; None before the first.
        live: transports that the client has not closed.
        dialing: dials under way.
        dials: when each dial began, since the client last had a working connection.
        is_refusing: whether dials fail.
    """

    def __init__(
        self,
        broker: Broker,
        random: Random,
        on_ack: Callable[[Wire, int, int, bool], None],
        on_bytes_sent: Callable[[Wire], None],
    ) -> None:
        self.wire: Wire | None = None
        self.live: int = 0
        self.dialing: int = 0
        self.dials: list[float] = []
        self.is_refusing: bool = False
        self.on_ack: Callable[[Wire, int, int, bool], None] = on_ack
        self.on_bytes_sent: Callable[[Wire], None] = on_bytes_sent
        self._broker = broker
        self._random = random
        self._slowness = random.choice((1, 1, 5))
        self._wires = 0

    def latency(self) -> float:
        """The seconds that the next bytes take."""
        return self._random.choice((0.0, 0.0, 0.001, 0.005, 0.05)) * self._slowness

    async def dial(self, address: Address) -> anyio.abc.ByteStream:
        """Open a transport."""
        self.dialing += 1
        self.dials.append(anyio.current_time())
        try:
            await anyio.sleep(self.latency())
            if self.is_refusing:
                raise ConnectionRefusedError(111, "Connection refused")
            stream = await self._broker.dial(address)
        finally:
            self.dialing -= 1
        self._wires += 1
        self.live += 1
        self.wire = Wire(stream, self._wires, self)
        return self.wire


def _frames(data: bytes) -> Iterator[tuple[int, tuple[int, int], int, memoryview]]:
    """The frames in bytes that a client sends at once: type, class and method, channel, payload."""
    view = memoryview(data)
    position = 8 if data.startswith(_PROTOCOL_HEADER) else 0
    while position < len(view):
        kind, channel, size = _FRAME.unpack_from(view, position)
        payload = view[position + 7 : position + 7 + size]
        method: tuple[int, int] = _METHOD.unpack_from(payload) if kind == _METHOD_FRAME else (0, 0)
        yield kind, method, channel, payload
        position += size + 8
