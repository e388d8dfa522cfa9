"""A transport that loses some of the client's bytes."""

from __future__ import annotations

from collections.abc import Callable

import anyio.abc


class Tampered(anyio.abc.ByteStream):
    """A transport whose sends go through ``send``, which may drop or answer them.

    Args:
        stream: the transport.
        take: gets what the client sends, and returns what of it the broker gets.
    """

    def __init__(self, stream: anyio.abc.ByteStream, take: Callable[[bytes], bytes]) -> None:
        self._stream = stream
        self._take = take

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        if taken := self._take(item):
            await self._stream.send(taken)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
