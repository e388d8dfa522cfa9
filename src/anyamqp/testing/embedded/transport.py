"""A transport of the embedded broker and its peer: one task reads, one writes, one sends heartbeats."""

from __future__ import annotations

import contextlib
from typing import Final

import anyio
import anyio.abc

from anyamqp.errors import InternalError
from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.handshake import Login
from anyamqp.testing.embedded.outlet import Outlet
from anyamqp.testing.embedded.output import Outgoing
from anyamqp.testing.embedded.peer import Peer
from anyamqp.testing.embedded.points import Passing
from anyamqp.testing.embedded.timers import Timer
from anyamqp.testing.embedded.watching import Watcher

_CHUNK: Final = 64 * 1024
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
        self._watcher = Watcher(self, conditions)
        self.peer.watch = self._watcher
        self.is_excused: bool = False
        self._conditions = conditions
        self._stream = stream
        self._is_frozen = False
        self._thawing: Timer | None = None
        self._raw = b""
        self._is_dark = False
        self._outlet = Outlet(stream, self._wait_thawed)
        self._cut_resets = False
        self._healing: Timer | None = None
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
                    if self._is_dark:
                        await self._discard()
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
        self._outlet.reset()
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
        self._thawing = self._conditions.end_after(seconds, self.thaw, self._thawing)

    def thaw(self) -> None:
        """End :meth:`freeze`."""
        self._is_frozen = False
        self._conditions.announce()

    def send(self, data: bytes) -> None:
        """Send bytes behind the output that waits."""
        self.is_excused = True
        self._raw += data
        self._wake()

    def cut(self, count: int, *, resets: bool) -> None:
        """Send so many bytes more, then end the transport as by FIN, or by RST."""
        self.is_excused = True
        self._outlet.left, self._cut_resets = count, resets

    def slow(self, *, latency: float, rate: float | None, seconds: float | None) -> None:
        """Delay the broker's bytes."""
        self._outlet.latency, self._outlet.rate = latency, rate
        self._healing = self._conditions.end_after(seconds, self.heal, self._healing)

    def darken(self, seconds: float | None) -> None:
        """Lose the network: bytes are held back in both directions, and neither side learns of it."""
        self.is_excused = self._is_dark = True
        self._healing = self._conditions.end_after(seconds, self.heal, self._healing)

    def heal(self) -> None:
        """End :meth:`darken` and :meth:`slow`: what was held back arrives."""
        if self._is_dark and self.peer.is_over:
            self._scope.cancel()  # the broker has given the client up meanwhile
        self._is_dark = False
        self._outlet.latency, self._outlet.rate = 0.0, None
        self._conditions.announce()

    def hang(self, number: int) -> None:
        """Answer nothing on a channel, until :meth:`release`."""
        self._watcher.hang(number)

    def release(self) -> None:
        """End :meth:`hang`: handle what the client sent meanwhile."""
        self._watcher.release(anyio.current_time())

    def _end(self) -> None:
        self.is_excused = self.peer.is_over = True

    async def _wait_thawed(self) -> None:
        while self._is_frozen or self._conditions.is_frozen or (self._is_dark and not self.peer.is_over):
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
        with contextlib.suppress(*_BROKEN):
            await self._stream.send_eof()
            await self._discard()

    async def _discard(self) -> None:
        """Read on until the client closes the transport."""
        with contextlib.suppress(*_BROKEN):
            while True:
                await self._stream.receive(_CHUNK)

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
        if self._is_finished or self._is_dark:
            return False
        outgoing, raw, self._raw = self.peer.take(anyio.current_time()), self._raw, b""
        if self._is_half_closed and not self._has_sent_end:
            self._has_sent_end = True
            await self._stream.send_eof()
        elif outgoing or raw:
            if self._is_half_closed:
                pass
            elif self._conditions.armed or not self._outlet.is_plain:
                await self._send_each(outgoing)
                await self._send(raw)
            else:
                await self._stream.send(b"".join([*(one.data for one in outgoing), raw]))
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
            if self._outlet.latency:
                await anyio.sleep_until(one.since + self._outlet.latency)
            await self._wait_thawed()
            if self._has_ended():
                return
            if one.method is None:
                await self._send(one.data)
                continue
            passing = Passing("broker", one.channel, one.method, [one.data], confirmed=one.confirmed)
            self._conditions.strike("before", passing, self)
            await self._wait_thawed()
            if self._has_ended():
                return
            if not passing.is_dropped:
                await self._send(b"".join(passing.frames))
            passing.frames.clear()
            self._conditions.strike("after", passing, self)

    async def _send(self, data: bytes) -> None:
        await self._outlet.send(data)
        if self._outlet.left == 0 and not self._has_ended():
            if self._cut_resets:
                self.reset()
            else:
                self.finish()
            self.peer.gone()

    def _has_ended(self) -> bool:
        return self._is_finished or self._is_half_closed or self._is_dark

    async def _beat(self) -> None:
        await self._opened.wait()
        while not self.peer.is_over:
            await anyio.sleep_until(self.peer.poll(anyio.current_time()))
            if self._is_frozen or self._conditions.is_frozen:
                await self._wait_thawed()
                self.peer.slept(anyio.current_time())
        self.peer.gone()
        if self._is_dark:
            # The client does not learn that it was given up before the network is back.
            self._conditions.announce()
        else:
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
