"""Byte streams in memory. They end as TCP connections do: by an end of stream, by a reset, or in silence."""

from __future__ import annotations

from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

CAPACITY: Final = 256 * 1024
"""Bytes that one direction holds before its sender waits."""


class _Pipe:
    """One direction."""

    def __init__(self) -> None:
        self.buffer: bytearray = bytearray()
        self.is_finished = False
        """The sender will send nothing more."""
        self.is_broken = False
        self._changed = anyio.Event()

    def notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self) -> None:
        await self._changed.wait()


class MemoryStream(anyio.abc.ByteStream):
    """One end of a pair; see :func:`stream_pair`."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._is_closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one byte.

        Raises:
            anyio.EndOfStream: the other end was closed, and everything it sent was received.
            anyio.BrokenResourceError: the connection was reset.
            anyio.ClosedResourceError: this end was closed.
        """
        await anyio.lowlevel.checkpoint()
        pipe = self._incoming
        while not pipe.buffer:
            self._raise_if_unusable(pipe)
            if pipe.is_finished:
                raise anyio.EndOfStream
            await pipe.wait()
        self._raise_if_unusable(pipe)
        data = bytes(pipe.buffer[:max_bytes])
        del pipe.buffer[:max_bytes]
        pipe.notify()
        return data

    async def send(self, item: bytes) -> None:
        """Send all of ``item``, waiting while the other end does not read.

        Raises:
            anyio.BrokenResourceError: the connection was reset, or the other end closed.
            anyio.ClosedResourceError: this end was closed, or has sent its end of stream.
        """
        await anyio.lowlevel.checkpoint()
        pipe = self._outgoing
        if pipe.is_finished:
            raise anyio.ClosedResourceError
        sent = 0
        while sent < len(item):
            self._raise_if_unusable(pipe)
            room = CAPACITY - len(pipe.buffer)
            if room > 0:
                pipe.buffer += item[sent : sent + room]
                sent += room
                pipe.notify()
            else:
                await pipe.wait()

    async def send_eof(self) -> None:
        """End the sending direction; receiving goes on."""
        await anyio.lowlevel.checkpoint()
        self._outgoing.is_finished = True
        self._outgoing.notify()

    async def aclose(self) -> None:
        """Close this end: the other one reads all bytes that were sent, then end of stream; its own writes fail."""
        if not self._is_closed:
            self._is_closed = True
            self._outgoing.is_finished = True
            self._incoming.is_broken = True
            self._outgoing.notify()
            self._incoming.notify()
        await anyio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Break both directions at once; bytes under way are lost."""
        for pipe in (self._incoming, self._outgoing):
            pipe.is_broken = True
            pipe.buffer.clear()
            pipe.notify()

    def _raise_if_unusable(self, pipe: _Pipe) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        if pipe.is_broken:
            raise anyio.BrokenResourceError from ConnectionResetError(104, "Connection reset by peer")


def stream_pair() -> tuple[MemoryStream, MemoryStream]:
    """Two ends of a connection in memory, each direction holding at most :data:`CAPACITY` bytes."""
    one, other = _Pipe(), _Pipe()
    return MemoryStream(one, other), MemoryStream(other, one)
