"""One point of :mod:`benchmarks.growth` in one process: ``python -m benchmarks.growing POINT`` prints a line of JSON.

The queues are made, filled and deleted by a bare socket. Nothing but what the point is of happens while the clock runs.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, TypeAlias

import anyio
from anyio.abc import SocketAttribute

import anyamqp
from anyamqp import Connection, Message, Publisher, ReconnectPolicy, State
from anyamqp.endpoint import Address
from anyamqp.net.tcp import SocketStream, dial_tcp
from benchmarks.task import Stopwatch
from benchmarks.wire import Wire

MIB: Final = 1024 * 1024
_BODY: Final = 100
"""Bytes in a body, unless its size grows."""
_ROOM: Final = 1 << 40
_DECLARING: Final = 32
"""Declarations under way at a time while the clock does not run."""
_MOST_PREFETCH: Final = 65535


@dataclass(frozen=True, slots=True)
class Point:
    """What a process is told to measure.

    Attributes:
        series: the quantity that grows, one of :data:`SERIES`.
        value: how far.
        count: messages that count; recoveries, where queues grow.
        url: the broker's.
    """

    series: str
    value: int
    count: int
    url: str

    @property
    def queue(self) -> str:
        """The queue to use."""
        return f"anyamqp.growth.{self.series}"


Figures: TypeAlias = list[dict[str, float]]
"""For each time that it was measured: units of work, and seconds of wall and CPU time for all of them.

Beside them, where it tells something, how many frames were received; or alone, the peak of memory in bytes.
"""


def main() -> None:
    """Measure one point."""
    point = Point(**json.loads(sys.argv[1]))
    figures = anyio.run(SERIES[point.series], point)
    sys.stdout.write(json.dumps({"figures": figures}) + "\n")


def encode(point: Point) -> str:
    """A point as an argument of a process."""
    return json.dumps(asdict(point))


def _told(units: float, watch: Stopwatch) -> dict[str, float]:
    return {"units": units, "seconds": watch.seconds, "cpu": watch.cpu}


@contextmanager
def _prepared(point: Point, messages: int = 0, size: int = _BODY) -> Generator[None, None, None]:
    """The point's queue, with so many messages in it, for as long as the block lasts."""
    with Wire(point.url) as wire:
        wire.open_channel(1)
        wire.delete(point.queue)
        wire.declare(point.queue)
        if messages:
            wire.fill(point.queue, messages, size)
    gc.collect()
    try:
        yield
    finally:
        with Wire(point.url) as wire:
            wire.open_channel(1)
            wire.delete(point.queue)


# --- channels and connections ---------------------------------------------------------------------------------------


async def _publishers(stack: AsyncExitStack, connections: list[Connection], count: int) -> list[Publisher]:
    return [
        await stack.enter_async_context(connections[number % len(connections)].publisher()) for number in range(count)
    ]


async def _connections(stack: AsyncExitStack, point: Point, count: int) -> list[Connection]:
    return [await stack.enter_async_context(anyamqp.connect(point.url)) for _ in range(count)]


async def _publish_over(publishers: list[Publisher], queue: str, count: int) -> None:
    body = bytes(_BODY)
    for number in range(count):
        await publishers[number % len(publishers)].submit(Message(body), routing_key=queue)
    for publisher in publishers:
        await publisher.flush()


async def _over(point: Point, *, connections: int, used: int) -> Figures:
    """Publish over ``used`` of the publishers; there are as many as the point says, shared by the connections."""
    with _prepared(point):
        async with AsyncExitStack() as stack:
            opened = await _connections(stack, point, connections)
            publishers = await _publishers(stack, opened, point.value)
            await _publish_over(publishers[:used], point.queue, point.count // 10)
            gc.collect()
            watch = Stopwatch()
            frames = -_frames_received(opened)
            with watch:
                await _publish_over(publishers[:used], point.queue, point.count)
            frames += _frames_received(opened)
    return [{**_told(point.count, watch), "frames": frames}]


def _frames_received(connections: list[Connection]) -> int:
    return sum(connection.stats.frames_received for connection in connections)


async def _channels_idle(point: Point) -> Figures:
    return await _over(point, connections=1, used=1)


async def _channels_busy(point: Point) -> Figures:
    return await _over(point, connections=1, used=point.value)


async def _connections_idle(point: Point) -> Figures:
    return await _over(point, connections=point.value, used=1)


async def _connections_busy(point: Point) -> Figures:
    return await _over(point, connections=point.value, used=point.value)


# --- what waits -----------------------------------------------------------------------------------------------------


class _Gated(SocketStream):
    """A socket of which nothing is read while the gate is shut: confirms stay away."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self.gate = anyio.Event()
        self.gate.set()

    async def listen(self, take: Callable[[bytes], bool], max_bytes: int) -> None:
        held: list[bytes] = []

        def take_or_hold(data: bytes) -> bool:
            if self.gate.is_set():
                return take(data)
            held.append(data)
            return False

        goes_on = True
        while goes_on:
            await super().listen(take_or_hold, max_bytes)
            await self.gate.wait()
            goes_on = bool(held) and take(held.pop())


async def _unconfirmed(point: Point) -> Figures:
    """Publish a window full without reading a confirm, then read them all; again and again."""
    streams: list[_Gated] = []

    async def dial(address: Address) -> SocketStream:
        raw: socket.socket = (await dial_tcp(address)).extra(SocketAttribute.raw_socket)
        streams.append(_Gated(raw))
        return streams[-1]

    async def window_full(publisher: Publisher) -> None:
        body = bytes(_BODY)
        streams[0].gate = anyio.Event()
        for _ in range(point.value):
            await publisher.submit(Message(body), routing_key=point.queue)
        if publisher.unconfirmed != point.value:
            raise RuntimeError(f"{publisher.unconfirmed} unconfirmed instead of {point.value}")
        streams[0].gate.set()
        await publisher.flush()

    watch = Stopwatch()
    times = max(1, point.count // point.value)
    with _prepared(point):
        async with (
            anyamqp.connect(point.url, dial=dial) as connection,
            connection.publisher(window=point.value, window_bytes=_ROOM) as publisher,
        ):
            await window_full(publisher)
            gc.collect()
            with watch:
                for _ in range(times):
                    await window_full(publisher)
    return [_told(times * point.value, watch)]


async def _unacked(point: Point, *, newest_first: bool) -> Figures:
    """Take so many deliveries, then acknowledge each; again and again."""
    watch = Stopwatch()
    times = max(1, point.count // point.value)
    with _prepared(point, (times + 1) * point.value):
        prefetch = point.value if point.value <= _MOST_PREFETCH else 0
        async with (
            anyamqp.connect(point.url) as connection,
            connection.consumer(point.queue, prefetch=prefetch) as consumer,
        ):

            async def prefetch_full() -> None:
                taken = [await anext(consumer) for _ in range(point.value)]
                for delivery in reversed(taken) if newest_first else taken:
                    delivery.ack()

            await prefetch_full()
            gc.collect()
            with watch:
                for _ in range(times):
                    await prefetch_full()
                await consumer.stop()
    return [_told(times * point.value, watch)]


# --- bodies ---------------------------------------------------------------------------------------------------------


async def _publish_bodies(publisher: Publisher, queue: str, body: bytes, count: int) -> None:
    for _ in range(count):
        await publisher.submit(Message(body), routing_key=queue)
    await publisher.flush()


async def _body_out(point: Point) -> Figures:
    watch = Stopwatch()
    with _prepared(point):
        async with (
            anyamqp.connect(point.url) as connection,
            connection.publisher(timeout=None) as publisher,
        ):
            body = bytes(point.value)
            await _publish_bodies(publisher, point.queue, body, 1)
            with watch:
                await _publish_bodies(publisher, point.queue, body, point.count)
    return [_told(point.count, watch)]


async def _body_in(point: Point) -> Figures:
    watch = Stopwatch()
    with _prepared(point, point.count + 1, point.value):
        async with (
            anyamqp.connect(point.url) as connection,
            connection.consumer(point.queue, prefetch=1 if point.value > MIB else 100) as consumer,
        ):
            (await anext(consumer)).ack()
            with watch:
                for _ in range(point.count):
                    (await anext(consumer)).ack()
                await consumer.stop()
    return [_told(point.count, watch)]


async def _copies_out(point: Point) -> Figures:
    """How many bytes beyond the body itself there are at most while it is published."""
    with _prepared(point):
        async with anyamqp.connect(point.url) as connection, connection.publisher(timeout=None) as publisher:
            body = bytes(point.value)
            await _publish_bodies(publisher, point.queue, bytes(1), 1)
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            await _publish_bodies(publisher, point.queue, body, 1)
            peak = tracemalloc.get_traced_memory()[1] - before
            tracemalloc.stop()
    return [{"units": point.value, "peak": peak}]


async def _copies_in(point: Point) -> Figures:
    """How many bytes there are at most while a body is received, itself included."""
    with _prepared(point, 1, point.value):
        async with anyamqp.connect(point.url) as connection:
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            async with connection.consumer(point.queue) as consumer:
                (await anext(consumer)).ack()
                await consumer.stop()
            peak = tracemalloc.get_traced_memory()[1] - before
            tracemalloc.stop()
    return [{"units": point.value, "peak": peak}]


# --- the topology ---------------------------------------------------------------------------------------------------


async def _queues(point: Point) -> Figures:
    """Cut the connection, and wait until it is open again with every queue declared anew."""
    streams: list[SocketStream] = []
    figures: Figures = []

    async def dial(address: Address) -> SocketStream:
        streams.append(await dial_tcp(address))
        return streams[-1]

    # Cut again so soon, the default policy would wait.
    at_once = ReconnectPolicy.constant(0.0)
    async with (
        anyamqp.connect(point.url, dial=dial, reconnect=at_once) as connection,
        connection.channel() as channel,
    ):
        names = iter([f"{point.queue}.{number}" for number in range(point.value)])

        async def declare() -> None:
            for name in names:
                await channel.declare_queue(name, durable=False)

        async with anyio.create_task_group() as group:
            for _ in range(_DECLARING):
                group.start_soon(declare)
        gc.collect()
        for _ in range(point.count):
            transitions = connection.transitions()
            watch = Stopwatch()
            raw: socket.socket = streams[-1].extra(SocketAttribute.raw_socket)
            with watch:
                raw.shutdown(socket.SHUT_RDWR)
                async for transition in transitions:
                    if transition.machine == "connection" and transition.target is State.OPEN:
                        break
            figures.append(_told(point.value, watch))
    return figures


SERIES: Final[Mapping[str, Callable[[Point], Awaitable[Figures]]]] = {
    "channels, one busy": _channels_idle,
    "channels, all busy": _channels_busy,
    "connections, one busy": _connections_idle,
    "connections, all busy": _connections_busy,
    "unconfirmed": _unconfirmed,
    "unacked, oldest first": partial(_unacked, newest_first=False),
    "unacked, newest first": partial(_unacked, newest_first=True),
    "body, published": _body_out,
    "body, consumed": _body_in,
    "copies, published": _copies_out,
    "copies, consumed": _copies_in,
    "queues": _queues,
}


if __name__ == "__main__":
    main()
