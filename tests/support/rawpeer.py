"""A client that a test scripts frame by frame, with valid frames, invalid frames or none."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import anyio.abc

from anyamqp.message import FieldValue, Message
from anyamqp.protocol.events import Tuning
from anyamqp.testing import Broker
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import (
    PROTOCOL_HEADER,
    Frame,
    HeartbeatFrame,
    build,
    encode_content,
    encode_method,
    field_table,
    method_name,
)
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Header
from support.amqp import octets

CAPABILITIES: Final[Mapping[str, FieldValue]] = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "exchange_exchange_bindings": True,
    "publisher_confirms": True,
}

PATIENCE: Final = 5.0
"""Seconds to wait for a frame."""

QUEUE: Final = build(methods.Queue.Declare, queue="q", durable=True)
CONSUME: Final = build(methods.Basic.Consume, queue="q")

M = TypeVar("M", bound=Method)

Dial: TypeAlias = Callable[[Broker], Awaitable[anyio.abc.ByteStream]]
"""Opens a transport to a broker."""


class RawPeer:
    """An AMQP client that sends only the frames of the test.

    Args:
        stream: a new transport.

    Attributes:
        stream: the transport.
        tuning: the limits that the handshake agreed on.
        heartbeats: how many heartbeats came and were skipped.
    """

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.tuning = Tuning(0, 131072, 0)
        self.heartbeats = 0
        self._decoder = Decoder(0)
        self._frames: list[Frame] = []

    # --- saying -----------------------------------------------------------------------------------------------------

    async def say(self, *data: bytes) -> None:
        """Send bytes as they are, in one piece."""
        await self.stream.send(b"".join(data))

    async def send(self, channel: int, *methods: Method) -> None:
        """Send methods, in one piece."""
        await self.say(*(encode_method(channel, method) for method in methods))

    async def call(self, channel: int, method: Method, reply: type[M]) -> M:
        """Send a method and take its reply, which must be the next frame."""
        await self.send(channel, method)
        return await self.expect(channel, reply)

    async def publish(
        self, channel: int, *bodies: bytes, routing_key: str, exchange: str = "", mandatory: bool = False
    ) -> None:
        """Publish messages, in one piece."""
        method = build(methods.Basic.Publish, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        for_all = [encode_content(channel, method, Message(body), self.tuning.frame_max) for body in bodies]
        await self.say(*(frame for frames in for_all for frame in frames))

    # --- hearing ----------------------------------------------------------------------------------------------------

    async def frame(self, *, within: float = PATIENCE) -> Frame:
        """The next frame other than a heartbeat.

        Args:
            within: seconds to wait for it.

        Raises:
            TimeoutError: none came in time.
            anyio.EndOfStream: the broker ended the transport.
            anyio.BrokenResourceError: the transport was reset.
        """
        with anyio.fail_after(within):
            while True:
                while not self._frames:
                    self._decoder.feed(await self.stream.receive())
                    self._frames.extend(self._decoder.frames())
                frame = self._frames.pop(0)
                if not isinstance(frame.payload, HeartbeatFrame):
                    return frame
                self.heartbeats += 1

    async def expect(self, channel: int, kind: type[M], *, within: float = PATIENCE) -> M:
        """The next frame, which must be a method of this type on this channel."""
        frame = await self.frame(within=within)
        payload = frame.payload
        assert isinstance(payload, kind), f"{method_name(kind)} expected, but {frame} came"
        assert frame.channel == channel, f"{method_name(kind)} came on channel {frame.channel} instead of {channel}"
        return payload

    async def content(self, channel: int) -> Message:
        """The header and body that follow a method with content."""
        header, number = (await self.frame())[::-1]
        assert isinstance(header, Header)
        assert number == channel
        body = b""
        while len(body) < header.body_size:
            body += octets((await self.frame()).payload)
        return Received(body, header.encoded)

    async def delivery(self, channel: int) -> tuple[methods.Basic.Deliver, bytes]:
        """The next frames, which must be a delivery: its method and its body."""
        method = await self.expect(channel, methods.Basic.Deliver)
        return method, (await self.content(channel)).body

    async def closed(self, *, within: float = PATIENCE) -> methods.Connection.Close:
        """The broker's connection.close, which must be the next frame."""
        return await self.expect(0, methods.Connection.Close, within=within)

    async def ended(self, *, within: float = PATIENCE) -> None:
        """Wait for the end of the transport; nothing but heartbeats may come before."""
        try:
            frame = await self.frame(within=within)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return
        raise AssertionError(f"the transport goes on with {frame}")

    # --- the usual beginnings ---------------------------------------------------------------------------------------

    async def log_in(
        self,
        *,
        response: str = "\0guest\0guest",
        mechanism: str = "PLAIN",
        name: str = "raw",
        capabilities: Mapping[str, FieldValue] = CAPABILITIES,
    ) -> None:
        """Do the handshake up to start-ok, without reading the answer."""
        await self.say(PROTOCOL_HEADER)
        await self.expect(0, methods.Connection.Start)
        properties = field_table({"connection_name": name, "capabilities": capabilities})
        start_ok: dict[str, Any] = {"client_properties": properties, "mechanism": mechanism, "response": response}
        await self.send(0, build(methods.Connection.StartOk, **start_ok, locale="en_US"))

    async def tune(self, **changes: int) -> None:
        """Read tune and agree to it, except for ``changes``."""
        tune = await self.expect(0, methods.Connection.Tune)
        proposed = Tuning(tune.channel_max or 0, tune.frame_max or 0, tune.heartbeat or 0)
        self.tuning = proposed._replace(**changes)
        await self.send(0, build(methods.Connection.TuneOk, *self.tuning))

    async def open(self, *channels: int, virtual_host: str = "/") -> None:
        """Open the connection, and channels of these numbers."""
        await self.call(0, build(methods.Connection.Open, virtual_host=virtual_host), methods.Connection.OpenOk)
        for number in channels:
            await self.call(number, build(methods.Channel.Open), methods.Channel.OpenOk)


@asynccontextmanager
async def raw_peer(
    stream: anyio.abc.ByteStream,
    *channels: int,
    heartbeat: int = 0,
    name: str = "raw",
    capabilities: Mapping[str, FieldValue] = CAPABILITIES,
    response: str = "\0guest\0guest",
    virtual_host: str = "/",
) -> AsyncGenerator[RawPeer, None]:
    """A peer after its handshake, with channels of these numbers. On exit it closes the transport without a handshake.

    Args:
        stream: a new transport.
        channels: numbers of channels to open.
        heartbeat: the interval to agree on, in seconds. The peer itself never sends heartbeats.
        name: the connection's name.
        capabilities: the capabilities that it announces.
        response: the response of PLAIN.
        virtual_host: the virtual host that it opens.
    """
    async with stream:
        peer = RawPeer(stream)
        await peer.log_in(name=name, capabilities=capabilities, response=response)
        await peer.tune(heartbeat=heartbeat)
        await peer.open(*channels, virtual_host=virtual_host)
        yield peer


@asynccontextmanager
async def serving(
    *channels: int, dial: Dial = Broker.dial, heartbeat: int = 0
) -> AsyncGenerator[tuple[Broker, RawPeer], None]:
    """A broker, and a peer after its handshake.

    Args:
        channels: numbers of channels to open.
        dial: opens a transport to the broker.
        heartbeat: the interval to agree on, in seconds.
    """
    async with Broker() as broker, raw_peer(await dial(broker), *channels, heartbeat=heartbeat) as peer:
        yield broker, peer


async def fill(peer: RawPeer, count: int, size: int) -> None:
    """Declare :data:`QUEUE` and publish ``count`` messages of ``size`` bytes on channel 1, until all are confirmed."""
    await peer.call(1, QUEUE, methods.Queue.DeclareOk)
    await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
    for number in range(count):
        await peer.publish(1, bytes(size), routing_key="q")
        assert (await peer.expect(1, methods.Basic.Ack)).delivery_tag == number + 1
