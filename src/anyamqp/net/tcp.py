"""TCP for a link: a socket, and anyio to wait for it.

On asyncio, anyio's own stream goes through asyncio's transports, which costs two or three turns of the event loop and
as many system calls for each read and each write. This stream tries a read or write at once and waits only if the
socket is not ready; a small write can be tried without any wait. A link's reader and writer need no more than that.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute

from anyamqp.endpoint import Address
from anyamqp.net.event_loop import running_loop

Piece: TypeAlias = bytes | memoryview
"""A part of the bytes to send."""

_CAN_GATHER: Final = hasattr(socket.socket, "sendmsg")
"""Windows has no ``sendmsg``."""

_LARGE: Final = 64 * 1024
"""Bytes in one write from which on other tasks run first: with a fast peer the write might never wait."""


class SocketStream(ByteStream):
    """A connected TCP socket.

    One task may receive while another sends. A cancelled receive takes nothing.

    Args:
        connected: the socket, non-blocking; the stream owns it from here on.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._sending: anyio.Lock | None = None
        """For TLS, which also sends from the task that receives: it answers KeyUpdate (RFC 8446, 4.6.3)."""
        self._has_waited = True

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive the next bytes.

        Raises:
            EndOfStream: the peer will send no more.
            BrokenResourceError: the connection is lost; the cause says how.
            ClosedResourceError: this end was closed.
        """
        if not self._has_waited:
            await anyio.lowlevel.checkpoint()  # before recv, so that a cancellation loses nothing
        self._has_waited = False
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
                self._has_waited = True
                continue
            except OSError as error:
                raise self._broken() from error
            if not data:
                raise anyio.EndOfStream
            return data

    async def listen(self, take: Callable[[bytes], bool], max_bytes: int) -> None:
        """Pass received bytes to ``take``, a plain function, until it returns False.

        Raises:
            EndOfStream, BrokenResourceError, ClosedResourceError: as for :meth:`receive`.
        """

        def read() -> bool:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                return True
            except OSError as error:
                raise self._broken() from error
            if not data:
                raise anyio.EndOfStream
            return take(data)

        await running_loop().while_readable(self._socket, read)

    async def send(self, item: bytes) -> None:
        """Send all bytes of ``item``.

        Raises:
            BrokenResourceError: the connection is lost; the cause says how.
            ClosedResourceError: this end was closed.
        """
        if self._sending is None:
            self._sending = anyio.Lock(fast_acquire=True)
        async with self._sending:
            await self.send_pieces([item])

    async def send_pieces(self, pieces: Sequence[Piece]) -> None:
        """Send all pieces in order, without joining them where the system can; otherwise as :meth:`send`."""
        if sum(map(len, pieces)) >= _LARGE:
            await anyio.lowlevel.checkpoint()
        while True:
            try:
                pieces = self._send(pieces)
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise self._broken() from error
            if not pieces:
                return

    def send_nowait(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Send as much as the system takes at once. Returns the rest; errors show in the next :meth:`send_pieces`."""
        try:
            return self._send(pieces)
        except OSError:
            return pieces

    def _send(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        if len(pieces) == 1:
            sent = self._socket.send(pieces[0])
        elif _CAN_GATHER:
            sent = self._socket.sendmsg(pieces)
        else:
            pieces = [b"".join(pieces)]
            sent = self._socket.send(pieces[0])
        for place, piece in enumerate(pieces):
            if sent < len(piece):
                return [memoryview(piece)[sent:], *pieces[place + 1 :]]
            sent -= len(piece)
        return []

    async def send_eof(self) -> None:
        """Tell the peer that no more bytes follow."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._broken() from error

    async def aclose(self) -> None:
        """Close the socket; tasks that wait for it get ClosedResourceError."""
        if self._socket.fileno() >= 0:
            running_loop().notify_closing(self._socket)
            self._socket.close()
        await anyio.lowlevel.checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: self._socket}

    def _broken(self) -> anyio.BrokenResourceError | anyio.ClosedResourceError:
        return anyio.BrokenResourceError() if self._socket.fileno() >= 0 else anyio.ClosedResourceError()


async def dial_tcp(address: Address) -> SocketStream:
    """Open a TCP connection.

    Args:
        address: an IP address and a port. The caller resolves names, and dials each of their records by itself.

    Raises:
        OSError: the connection cannot be opened.
    """
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    # As bytes: for a string, Python loads its IDNA codec, which takes a tenth of the first connect.
    (family, kind, protocol, _, target), *_ = socket.getaddrinfo(
        address.host.encode(), address.port, type=socket.SOCK_STREAM, flags=flags
    )
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await _connect(opened, target)
    except BaseException:
        opened.close()
        raise
    return SocketStream(opened)


async def _connect(opened: socket.socket, target: Any) -> None:
    refused = opened.connect_ex(target)
    if refused in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        await anyio.wait_writable(opened)
        refused = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    else:
        await anyio.lowlevel.checkpoint()
    if refused:
        raise OSError(refused, os.strerror(refused))
