"""What things weigh: how many bytes a connection, a channel, a message on its way takes.

Each measurement makes one of them first, so that what is there once for all is not counted, then many, and tells what
they weigh by a scale that the caller chooses: tracemalloc, or the resident set.

``python -m benchmarks.footprint WEIGHING`` measures one thing in one process and prints a line of JSON.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import tracemalloc
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
from anyio.abc import ByteStream, SocketAttribute

import anyamqp
from anyamqp import Connection, Consumer, Message, Publisher, ReconnectPolicy
from anyamqp.endpoint import Address
from anyamqp.net.dialer import Dial
from anyamqp.net.tcp import SocketStream, dial_tcp

BODY_SIZE: Final = 1024
_QUEUE: Final = "anyamqp.footprint"
_ROOM: Final = 1 << 40
_STATM: Final = Path("/proc/self/statm")

Scale: TypeAlias = Callable[[], int]
"""Tells how many bytes there are now."""

Connect: TypeAlias = Callable[[], Connection]


@dataclass(frozen=True, slots=True)
class Weighing:
    """What a process is told to weigh.

    Attributes:
        thing: one of :data:`THINGS`, or ``soak``.
        count: how many of it.
        loop: the event loop.
        url: the broker's.
        scale: ``traced`` or ``resident``.
    """

    thing: str
    count: int
    loop: str
    url: str
    scale: str


def encode(weighing: Weighing) -> str:
    """A weighing as an argument of a process."""
    return json.dumps(asdict(weighing))


def traced() -> int:
    """The bytes that tracemalloc knows of."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def resident() -> int:
    """The bytes of memory that the process has in use, as Linux counts; 0 on other systems."""
    gc.collect()
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[1]) * 4096


# --- connections, channels and what owns one ------------------------------------------------------------------------


async def connections(connect: Connect, scale: Scale, count: int) -> float:
    """An idle connection, with its tasks."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connect())
        await anyio.wait_all_tasks_blocked()
        before = scale()
        for _ in range(count):
            await stack.enter_async_context(connect())
        await anyio.wait_all_tasks_blocked()
        return (scale() - before) / count


async def _on_a_connection(
    enter: Callable[[Connection], Any], connect: Connect, scale: Scale, count: int, *, queue: str | None = None
) -> float:
    async with connect() as connection, connection.channel() as channel, AsyncExitStack() as stack:
        if queue is not None:
            await channel.declare_queue(queue, exclusive=True)
        await stack.enter_async_context(enter(connection))
        await anyio.wait_all_tasks_blocked()
        before = scale()
        for _ in range(count):
            await stack.enter_async_context(enter(connection))
        await anyio.wait_all_tasks_blocked()
        return (scale() - before) / count


async def channels(connect: Connect, scale: Scale, count: int) -> float:
    """An open channel."""
    return await _on_a_connection(Connection.channel, connect, scale, count)


async def publishers(connect: Connect, scale: Scale, count: int) -> float:
    """A publisher with nothing to publish."""
    return await _on_a_connection(Connection.publisher, connect, scale, count)


async def consumers(connect: Connect, scale: Scale, count: int) -> float:
    """A consumer of an empty queue."""
    return await _on_a_connection(lambda connection: connection.consumer(_QUEUE), connect, scale, count, queue=_QUEUE)


async def queues(connect: Connect, scale: Scale, count: int) -> float:
    """A declared queue, which is remembered for the next link."""
    async with connect() as connection, connection.channel() as channel:
        await channel.declare_queue("anyamqp.footprint.first", exclusive=True)
        before = scale()
        for number in range(count):
            await channel.declare_queue(f"anyamqp.footprint.{number}", exclusive=True)
        return (scale() - before) / count


# --- messages -------------------------------------------------------------------------------------------------------


class Gate:
    """Streams from which nothing is received while it is shut: confirms stay away."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self.opening = anyio.Event()
        self.opening.set()

    async def dial(self, address: Address) -> ByteStream:
        """Dial, and put the gate in front of what is received."""
        return _Gated(await self._dial(address), self)


class _Gated(ByteStream):
    def __init__(self, stream: ByteStream, gate: Gate) -> None:
        self._stream = stream
        self._gate = gate

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._stream.receive(max_bytes)
        await self._gate.opening.wait()
        return data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def unconfirmed(url: str, dial: Dial, scale: Scale, count: int, *, own_bodies: bool) -> float:
    """A message that was sent and has no confirm yet.

    Args:
        url: the broker's.
        dial: opens a transport to it.
        scale: tells the bytes.
        count: how many messages.
        own_bodies: each has a body of its own, made for it; otherwise all have the same one.
    """
    gate = Gate(dial)
    shared = bytes(BODY_SIZE)
    async with (
        anyamqp.connect(url, dial=gate.dial) as connection,
        connection.channel() as channel,
        connection.publisher(window=count + 1, window_bytes=_ROOM, timeout=None) as publisher,
    ):
        await channel.declare_queue(_QUEUE, exclusive=True)
        await publisher.publish(Message(shared), routing_key=_QUEUE)
        await anyio.wait_all_tasks_blocked()  # which imports something at its first time
        gate.opening = anyio.Event()
        before = scale()
        for _ in range(count):
            body = bytes(BODY_SIZE) if own_bodies else shared
            await publisher.submit(Message(body), routing_key=_QUEUE)
            del body
        await anyio.wait_all_tasks_blocked()  # all is sent
        if publisher.unconfirmed != count:
            raise RuntimeError(f"{publisher.unconfirmed} unconfirmed instead of {count}")
        weight = (scale() - before) / count
        gate.opening.set()
        await publisher.flush()
    return weight


# --- a soak ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Soaked:
    """What became of a soak.

    Attributes:
        messages: published, confirmed, consumed and acknowledged.
        losses: links that were cut.
        before: bytes after the warm-up.
        after: bytes at the end.
    """

    messages: int
    losses: int
    before: int
    after: int


async def soak(url: str, *, warm_up: int, rounds: int, messages: int = 500, cut_every: int = 10) -> Soaked:
    """Publish, consume and acknowledge in rounds, and cut the link in the middle of some; weigh by tracemalloc.

    Args:
        url: the broker's.
        warm_up: rounds before the first weighing.
        rounds: rounds after it.
        messages: messages of a round.
        cut_every: how many rounds there are to each that is cut.
    """
    streams: list[SocketStream] = []

    async def dial(address: Address) -> SocketStream:
        streams[:] = [await dial_tcp(address)]
        return streams[0]

    before = losses = 0
    async with (
        anyamqp.connect(url, dial=dial, reconnect=ReconnectPolicy.constant(0.01)) as connection,
        connection.channel() as channel,
    ):
        queue = await channel.declare_queue(f"{_QUEUE}.{uuid.uuid4().hex}", durable=False)
        async with connection.publisher() as publisher, connection.consumer(queue) as consumer:
            for number in range(warm_up + rounds):
                if number == warm_up:
                    await _soak_round(publisher, consumer, messages=1)
                    before = traced()
                cut = None if number % cut_every else streams[0]
                losses += cut is not None and number >= warm_up
                await _soak_round(publisher, consumer, messages=messages, cut=cut)
            # One message alone comes behind all that came twice, so that nothing is on its way any more.
            await _soak_round(publisher, consumer, messages=1)
            after = traced()
        await channel.delete_queue(queue)
    return Soaked(rounds * messages, losses, before, after)


async def _soak_round(
    publisher: Publisher, consumer: Consumer, *, messages: int, cut: SocketStream | None = None
) -> None:
    wanted = [uuid.uuid4().bytes for _ in range(messages)]
    for place, body in enumerate(wanted):
        if cut is not None and place == messages // 2:
            raw: socket.socket = cut.extra(SocketAttribute.raw_socket)
            raw.shutdown(socket.SHUT_RDWR)
        await publisher.submit(Message(body), routing_key=consumer.queue)
    missing = set(wanted)
    while missing:
        async with await anext(consumer) as delivery:
            missing.discard(delivery.body)
    await publisher.flush()


# --- one process ----------------------------------------------------------------------------------------------------

THINGS: Final[Mapping[str, Callable[[Connect, Scale, int], Awaitable[float]]]] = {
    "connection": connections,
    "channel": channels,
    "publisher": publishers,
    "consumer": consumers,
    "queue": queues,
}
SHARED, OWN = "message", "message, own body"
SOAK: Final = "soak"


def main() -> None:
    """Weigh one thing."""
    weighing = Weighing(**json.loads(sys.argv[1]))
    if weighing.scale == "traced":
        tracemalloc.start()
    figures = anyio.run(_weigh, weighing, backend=weighing.loop)
    sys.stdout.write(json.dumps(figures) + "\n")


async def _weigh(weighing: Weighing) -> dict[str, float]:
    scale = traced if weighing.scale == "traced" else resident
    if weighing.thing == SOAK:
        return asdict(await soak(weighing.url, warm_up=weighing.count // 4, rounds=weighing.count))
    if weighing.thing in (SHARED, OWN):
        own_bodies = weighing.thing == OWN
        return {"bytes": await unconfirmed(weighing.url, dial_tcp, scale, weighing.count, own_bodies=own_bodies)}
    connect = partial(anyamqp.connect, weighing.url)
    return {"bytes": await THINGS[weighing.thing](connect, scale, weighing.count)}


if __name__ == "__main__":
    main()
