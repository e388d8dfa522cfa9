"""A transport with latency: bytes arrive a fixed time after they were sent, and sending never waits."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from math import inf
from types import TracebackType
from typing import Self, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

Dial: TypeAlias = Callable[[object], Awaitable[anyio.abc.ByteStream]]
_Sent: TypeAlias = tuple[float, bytes | Exception]
"""The arrival time, and bytes or the end of the stream."""


class Distance:
    """Adds latency between a client and its broker: ``async with Distance(broker.dial, 0.05) as distance``.

    Args:
        dial: opens a transport without latency.
        latency: seconds that bytes take in each direction.

    Attributes:
        round_trip: seconds from a request to its answer.
    """

    def __init__(self, dial: Dial, latency: float) -> None:
        self.round_trip: float = 2 * latency
        self._latency = latency
        self._dial = dial
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)  # raise the block's exception unchanged

    async def dial(self, address: object = None) -> anyio.abc.ByteStream:
        """Open a transport; fits ``connect(..., dial=distance.dial)``. Opening it takes no time."""
        near = await self._dial(address)
        there_in, there_out = anyio.create_memory_object_stream[_Sent](inf)
        back_in, back_out = anyio.create_memory_object_stream[_Sent](inf)
        self._tasks.start_soon(_deliver, there_out, near)
        self._tasks.start_soon(self._fetch, near, back_in)
        return _FarStream(self._latency, near, there_in, back_out)

    async def _fetch(self, near: anyio.abc.ByteStream, out: MemoryObjectSendStream[_Sent]) -> None:
        item: bytes | Exception = b""
        with out:
            while not isinstance(item, Exception):
                try:
                    item = await near.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                    item = error
                with contextlib.suppress(anyio.BrokenResourceError):  # the client has closed its end
                    out.send_nowait((anyio.current_time() + self._latency, item))


async def _deliver(out: MemoryObjectReceiveStream[_Sent], near: anyio.abc.ByteStream) -> None:
    with out:
        async for arrives, item in out:
            await anyio.sleep_until(arrives)
            if isinstance(item, Exception):
                return
            try:
                await near.send(item)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


class _FarStream(anyio.abc.ByteStream):
    """The client's end."""

    def __init__(
        self,
        latency: float,
        near: anyio.abc.ByteStream,
        out: MemoryObjectSendStream[_Sent],
        back: MemoryObjectReceiveStream[_Sent],
    ) -> None:
        self._latency = latency
        self._near = near
        self._out = out
        self._back = back

    async def receive(self, max_bytes: int = 65536) -> bytes:
        del max_bytes
        try:
            arrives, item = await self._back.receive()
        except anyio.EndOfStream:
            raise anyio.ClosedResourceError from None
        await anyio.sleep_until(arrives)
        if isinstance(item, Exception):
            raise item
        return item

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self._out.send_nowait((anyio.current_time() + self._latency, item))

    async def send_eof(self) -> None:
        await self._near.send_eof()

    async def aclose(self) -> None:
        self._out.close()
        self._back.close()
        await self._near.aclose()
