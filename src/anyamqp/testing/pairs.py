"""The sockets of a proxy: a client's connection, the matching one to the broker, and the bytes between them."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections import deque
from typing import Final

HELD: Final = 256 * 1024
"""Bytes that one direction holds before the proxy stops reading, and the receive buffer that it asks of the kernel:
small enough that a sender soon notices a fault, large enough not to slow down a healthy network."""

_RESET: Final = struct.pack("ii", 1, 0)


def reset(sock: socket.socket) -> None:
    """Close a socket with a RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def send_end(sock: socket.socket) -> None:
    """Send a FIN."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


class Stream:
    """One direction of a connection: bytes read from ``source`` and due at ``target``."""

    def __init__(self, source: socket.socket, target: socket.socket | None) -> None:
        self.source = source
        self.target = target
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.size: int = 0
        self.ended = False
        """``source`` has sent its FIN."""
        self.closed: bool = target is None
        """``target`` has got its FIN, or never gets anything: bytes that are still read are dropped."""
        self.blocked: bool = False
        """The buffer of ``target`` is full."""
        self.free_at: float = 0.0
        """The time at which the rate limit allows the next bytes."""

    @property
    def wants_bytes(self) -> bool:
        return not self.ended and self.size < HELD

    def close(self) -> None:
        """Send the FIN now; bytes that are held are lost."""
        self.chunks.clear()
        self.size = 0
        self.blocked = False
        if not self.closed:
            self.closed = True
            if self.target is not None:
                send_end(self.target)

    def put_back(self, due: float, chunk: bytes) -> None:
        self.chunks.appendleft((due, chunk))
        self.size += len(chunk)


class Pair:
    """A client's connection and the matching one to the broker; without the latter, the proxy never answers."""

    def __init__(self, client: socket.socket, broker: socket.socket | None) -> None:
        self.client = client
        self.broker = broker
        self.connecting: bool = broker is not None
        self.finished = False
        self.up: Stream = Stream(client, broker)
        self.down: Stream | None = Stream(broker, client) if broker is not None else None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self.client,) if self.broker is None else (self.client, self.broker)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (self.up,) if self.down is None else (self.up, self.down)

    @property
    def over(self) -> bool:
        """Whether both ends have left, or the client has and the broker no longer matters."""
        if self.finished or self.down is None:
            return self.up.ended
        return all(stream.ended and stream.closed for stream in self.streams)

    def finish_connecting(self, ready: dict[int, int]) -> None:
        """Note whether the broker has accepted the connection.

        Args:
            ready: the events of the sockets that can be served, by file number.

        Raises:
            OSError: the broker refused.
        """
        if self.broker is not None and ready.get(self.broker.fileno(), 0):
            error = self.broker.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "the broker refused")
            self.connecting = False


def prepare(sock: socket.socket) -> None:
    """Make a connection's socket non-blocking, and have it send small pieces at once."""
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def wants(pair: Pair, wanted: dict[socket.socket, int]) -> None:
    """Add the sockets of a pair, and the events of theirs that may be served now."""
    if pair.connecting:
        if pair.broker is not None:
            wanted[pair.broker] = selectors.EVENT_WRITE
        return
    for stream in pair.streams:
        if stream.wants_bytes:
            wanted[stream.source] = wanted.get(stream.source, 0) | selectors.EVENT_READ
        if stream.blocked and stream.target is not None:
            wanted[stream.target] = wanted.get(stream.target, 0) | selectors.EVENT_WRITE


def bound(port: int) -> socket.socket:
    """A non-blocking socket at a port of the loopback interface, which does not listen yet."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HELD)
    sock.bind(("127.0.0.1", port))
    return sock
