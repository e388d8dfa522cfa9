"""A transport of the embedded broker and its peer: one task reads, one writes, one sends heartbeats."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

import anyio
import anyio.abc

from anyamqp.errors import InternalError
from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.handshake import Login
from anyamqp.testing.embedded.output import Outgoing
from anyamqp.testing.embedded.peer import Peer
from anyamqp.testing.embedded.points import Passing
from anyamqp.testing.embedded.timers import Timer
from anyamqp.testing.memory import MemoryStream
from anyamqp.wire.methods import Method

_CHUNK: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
_BROKEN: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)

HANDSHAKE_PATIENCE: Final = 10.0
"""Seconds that a client has for the handshake (RabbitMQ, handshake_timeout)."""

CLOSE_PATIENCE: Final = 5.0
"""Seconds that a client has to answer connection.close."""

LINGERING: Final = 1.0
"""Seconds that a client has to read its last frames and to close the transport, before the broker closes it."""


class Served:
    """A transport with a peer on it: a :class:`~anyamqp.testing.embedded.points.Line`.

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
        self.peer.watch = _Watch(self, conditions)
        self.is_excused: bool = False
        self._conditions = conditions
        self._stream = stream
        self._is_frozen = False
        self._thawing: Timer | None = None
        self._is_finished = False
        self._is_half_closed = False
        self._has_sent_end = False
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
                    tasks.start_soon(self._limit_handshake)
                    await self._read()
                    if self.peer.is_over:
                        self._wake()
                        with anyio.move_on_after(LINGERING):
                            await self._linger()
                    tasks.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - a bug of the broker ends one connection, and no other
            self._conditions.errors.append(error)
        finally:
            is_excused = self.is_excused or anyio.current_time() <= self._conditions.excused_until
            if not self.peer.is_graceful and not is_excused:
                self._conditions.unexpected_closes.append(self.peer.name)
            try:
                self.peer.gone()
            except Exception as error:  # noqa: BLE001
                self._conditions.errors.append(error)
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await self._stream.aclose()

    # --- faults -----------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """End the transport as by RST; bytes under way are lost.

        The caller gives back deliveries, by ``peer.gone()``.
        """
        self._end()
        if isinstance(self._stream, MemoryStream):
            self._stream.reset()
        else:
            # There is no socket to reset if the client was faster.
            with contextlib.suppress(OSError):
                raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._scope.cancel()

    def finish(self) -> None:
        """End the transport as by FIN, after the bytes that were given to it. The rest of the output is lost.

        The caller gives back deliveries, by ``peer.gone()``.
        """
        self._end()
        self._is_finished = True
        self._wake()

    def half_close(self) -> None:
        """End the broker's direction of the transport, and go on reading."""
        self.is_excused = True
        self._is_half_closed = True
        self._wake()

    def freeze(self, seconds: float | None = None) -> None:
        """Neither read nor send, for so many seconds; None for until :meth:`thaw`."""
        self.is_excused = self._is_frozen = True
        if self._thawing is not None:
            self._thawing.cancel()
        self._thawing = None if seconds is None else self._conditions.relief.after(seconds, self.thaw)

    def thaw(self) -> None:
        """End :meth:`freeze`."""
        self._is_frozen = False
        self._conditions.announce()

    def _end(self) -> None:
        self.is_excused = self.peer.is_over = True

    async def _wait_thawed(self) -> None:
        while self._is_frozen or self._conditions.is_frozen:
            await self._conditions.wait_changed()

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._output_added.set()
        if self.peer.is_closing:
            self._closing.set()

    async def _read(self) -> None:
        while not self.peer.is_over:
            try:
                data = await self._stream.receive(_CHUNK)
            except _BROKEN:
                return
            await self._wait_thawed()
            while self.peer.is_notified_of_block:
                await self._conditions.wait_changed()
            while not self.peer.takes_requests():
                await self._output_sent.wait()
            self.peer.feed(data, anyio.current_time())
            while self._step():
                await self._wait_thawed()
            self.peer.set_blocked(self._conditions.blocked)
            if self.peer.is_open:
                self._opened.set()

    def _step(self) -> bool:
        """Handle the next frame. A bug of the broker ends this connection, and no other."""
        try:
            return self.peer.step(anyio.current_time())
        except Exception as error:  # noqa: BLE001
            self._conditions.errors.append(error)
            self.peer.close(InternalError.code, "INTERNAL_ERROR")
            return False

    async def _linger(self) -> None:
        """Send the last frames, and read on until the client closes: unread input would turn the close into a reset."""
        await self._written.wait()
        try:
            await self._stream.send_eof()
            while True:
                await self._stream.receive(_CHUNK)
        except _BROKEN:
            return

    async def _write(self) -> None:
        # The only task that sends: a transport allows one send at a time.
        try:
            while await self._write_next():
                pass
        except _BROKEN:
            pass
        self._written.set()
        if self._is_finished:
            with contextlib.suppress(*_BROKEN):
                await self._stream.send_eof()
            await anyio.sleep(LINGERING)
            self._scope.cancel()

    async def _write_next(self) -> bool:
        """Send all output, or wait for some. Returns whether there may be more."""
        await self._wait_thawed()
        if self._is_finished:
            return False
        outgoing = self.peer.take(anyio.current_time())
        if self._is_half_closed and not self._has_sent_end:
            self._has_sent_end = True
            await self._stream.send_eof()
        elif outgoing:
            if self._is_half_closed:
                pass
            elif self._conditions.armed:
                await self._send_each(outgoing)
            else:
                await self._stream.send(b"".join([one.data for one in outgoing]))
            self._output_sent.set()
            self._output_sent = anyio.Event()
            self.peer.pump()
        elif self.peer.is_over:
            return False
        else:
            self._output_added = anyio.Event()
            await self._output_added.wait()
        return True

    async def _send_each(self, outgoing: list[Outgoing]) -> None:
        """Send one frame after the other, so that faults can strike between them."""
        for one in outgoing:
            await self._wait_thawed()
            if one.method is None:
                await self._stream.send(one.data)
                continue
            passing = Passing("broker", one.channel, one.method, [one.data])
            self._conditions.strike("before", passing, self)
            await self._wait_thawed()
            if self._has_ended():
                return
            if not passing.is_dropped:
                for frame in passing.frames:
                    await self._stream.send(frame)
            self._conditions.strike("after", passing, self)
            if self._has_ended():
                return

    def _has_ended(self) -> bool:
        return self._is_finished or self._is_half_closed

    async def _beat(self) -> None:
        await self._opened.wait()
        while not self.peer.is_over:
            await anyio.sleep_until(self.peer.poll(anyio.current_time()))
            if self._is_frozen or self._conditions.is_frozen:
                await self._wait_thawed()
                self.peer.slept(anyio.current_time())
        self._scope.cancel()

    async def _limit_handshake(self) -> None:
        """Give up a client that does not finish the handshake; the time of a freeze does not count."""
        with anyio.move_on_after(HANDSHAKE_PATIENCE):
            await self._opened.wait()
        if self._is_frozen or self._conditions.is_frozen:
            await self._wait_thawed()
            await self._limit_handshake()
        elif not self._opened.is_set():
            self.peer.is_graceful = True
            self._scope.cancel()

    async def _drop(self) -> None:
        """Give up a client that does not answer connection.close."""
        await self._closing.wait()
        await anyio.sleep(CLOSE_PATIENCE)
        await self._wait_thawed()
        self._scope.cancel()


class _Watch:
    """Lets faults strike at the methods of a client."""

    def __init__(self, served: Served, conditions: Conditions) -> None:
        self._served = served
        self._conditions = conditions
        self._handled: dict[int, Method] = {}

    def before(self, channel: int, method: Method) -> bool:
        if not self._conditions.armed:
            return True
        passing = Passing("client", channel, method)
        self._conditions.strike("before", passing, self._served)
        if not passing.is_dropped:
            self._handled[channel] = method
        return not passing.is_dropped

    def after(self, channel: int) -> None:
        method = self._handled.pop(channel, None)
        if method is not None:
            self._conditions.strike("after", Passing("client", channel, method), self._served)
