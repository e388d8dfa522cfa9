"""A transport of the embedded broker and its peer: one task reads, one writes, one sends heartbeats."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

import anyio
import anyio.abc

from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.peer import Login, Peer
from anyamqp.testing.memory import MemoryStream

_CHUNK: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)

CLOSE_PATIENCE: Final = 5.0
"""Seconds that a client has to answer connection.close."""

_LAST_WORDS: Final = 1.0
"""Seconds that a client has to read its last frames before the transport closes."""


class Served:
    """A transport with a peer on it.

    Args:
        login: the credentials and limits of the broker.
        conditions: its entities and faults; an unexpected end is noted there.
        stream: the transport.

    Attributes:
        peer: the broker's side of the connection.
        is_excused: whether the broker is to blame for the end of the transport.
    """

    def __init__(self, login: Login, conditions: Conditions, stream: anyio.abc.ByteStream) -> None:
        self.peer: Peer = Peer(conditions.hosts, login, self._wake, anyio.current_time())
        self.is_excused: bool = False
        self._conditions = conditions
        self._stream = stream
        self._output_added = anyio.Event()
        self._output_sent = anyio.Event()
        self._opened = anyio.Event()
        self._closing = anyio.Event()
        self._written = anyio.Event()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Serve the client until the transport ends, and close it."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    tasks.start_soon(self._beat)
                    tasks.start_soon(self._drop)
                    await self._read()
                    if self.peer.is_over:
                        self._wake()
                        with anyio.move_on_after(_LAST_WORDS):
                            await self._written.wait()
                    tasks.cancel_scope.cancel()
        finally:
            is_excused = self.is_excused or anyio.current_time() <= self._conditions.excused_until
            if not self.peer.is_graceful and not is_excused:
                self._conditions.unexpected_closes.append(self.peer.name)
            self.peer.gone()
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await self._stream.aclose()

    def reset(self) -> None:
        """End the transport as a reset does. The caller still has to give back deliveries, by ``peer.gone()``."""
        self.is_excused = self.peer.is_over = True
        if isinstance(self._stream, MemoryStream):
            self._stream.reset()
        else:
            # There is no socket to reset if the client was faster.
            with contextlib.suppress(OSError):
                raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._scope.cancel()

    def _wake(self) -> None:
        self._output_added.set()
        if self.peer.is_closing:
            self._closing.set()

    async def _read(self) -> None:
        while not self.peer.is_over:
            try:
                data = await self._stream.receive(_CHUNK)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                return
            await self._conditions.wait_thawed()
            while self.peer.is_notified_of_block:
                await self._conditions.wait_changed()
            while not self.peer.takes_requests():
                await self._output_sent.wait()
            self.peer.receive(data, anyio.current_time())
            self.peer.set_blocked(self._conditions.blocked)
            if self.peer.is_open:
                self._opened.set()

    async def _write(self) -> None:
        # The only task that sends: a transport allows one send at a time.
        while True:
            await self._conditions.wait_thawed()
            data = self.peer.output(anyio.current_time())
            if data:
                try:
                    await self._stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                    self._written.set()
                    return
                self._output_sent.set()
                self._output_sent = anyio.Event()
                self.peer.pump()
            elif self.peer.is_over:
                self._written.set()
                return
            else:
                self._output_added = anyio.Event()
                await self._output_added.wait()

    async def _beat(self) -> None:
        await self._opened.wait()
        while not self.peer.is_over:
            await anyio.sleep_until(self.peer.poll(anyio.current_time()))
            if self._conditions.is_frozen:
                await self._conditions.wait_thawed()
                self.peer.slept(anyio.current_time())
        self._scope.cancel()

    async def _drop(self) -> None:
        """Give up a client that does not answer connection.close."""
        await self._closing.wait()
        await anyio.sleep(CLOSE_PATIENCE)
        await self._conditions.wait_thawed()
        self._scope.cancel()
