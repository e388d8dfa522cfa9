"""A TCP proxy that breaks the network on purpose.

Put it between a client and a broker, and the faults that production knows happen when the test says so::

    with FaultProxy("127.0.0.1", 5672) as proxy:
        async with anyamqp.connect(f"amqp://guest:guest@{proxy.host}:{proxy.port}/") as connection:
            proxy.reset()
            ...

The proxy runs in one thread of its own and shares no event loop with the client, so a client that stalls cannot stall
the fault, and the same proxy serves asyncio and trio. A method returns when the fault is in force, which takes well
under a millisecond; it may be called from any thread and from asynchronous code.

A connection meets its end in one of these ways:

===================  ==================================================================================================
``reset``            both sides get a RST
``finish``           both sides get a FIN
``half_close``       the client gets a FIN, its own bytes still reach the broker
``strand``           nothing moves any more, for ever, and nobody is told; new connections are fine
``black_hole``       nothing moves until ``heal``, on any connection; then everything does, in order
===================  ==================================================================================================
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Final, Self

from anyamqp.errors import InvalidUse, SettingsError

_CHUNK: Final = 64 * 1024
_HELD: Final = 256 * 1024
"""Bytes that one direction holds before the proxy stops reading, and the receive buffer that it asks of the kernel:
little enough that a sender soon feels a fault, enough that no fault is felt where there is none."""

_RATE_STEP: Final = 0.02
"""Seconds between two pieces of a stream whose rate is limited."""

_RESET: Final = struct.pack("ii", 1, 0)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def _send_end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


class _Stream:
    """One direction of a connection: bytes read from ``source`` and due at ``target``."""

    def __init__(self, source: socket.socket, target: socket.socket | None) -> None:
        self.source = source
        self.target = target
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.ended = False
        """``source`` has sent its FIN."""
        self.closed = target is None
        """``target`` has got its FIN, or will get nothing: what is still read goes nowhere."""
        self.blocked = False
        """``target`` takes no more for now."""
        self.free_at = 0.0
        """When the rate limit lets the next bytes through."""

    @property
    def wants_bytes(self) -> bool:
        return not self.ended and self.size < _HELD

    def close(self) -> None:
        """Send the FIN now; what is held is lost."""
        self.chunks.clear()
        self.size = 0
        self.blocked = False
        if not self.closed:
            self.closed = True
            if self.target is not None:
                _send_end(self.target)

    def put_back(self, due: float, chunk: bytes) -> None:
        self.chunks.appendleft((due, chunk))
        self.size += len(chunk)


class _Pair:
    """A client's connection and the one to the broker that goes with it; without a broker, a silent one."""

    def __init__(self, client: socket.socket, broker: socket.socket | None) -> None:
        self.client = client
        self.broker = broker
        self.connecting = broker is not None
        self.finished = False
        self.up = _Stream(client, broker)
        self.down = _Stream(broker, client) if broker is not None else None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self.client,) if self.broker is None else (self.client, self.broker)

    @property
    def streams(self) -> tuple[_Stream, ...]:
        return (self.up,) if self.down is None else (self.up, self.down)

    @property
    def over(self) -> bool:
        """Both ends have left, or the client has and the broker no longer matters."""
        if self.finished or self.down is None:
            return self.up.ended
        return all(stream.ended and stream.closed for stream in self.streams)


class FaultProxy:
    """A proxy in front of one broker; a context manager that listens from enter to exit.

    Parameters:
        host: the broker's host name or address.
        port: the broker's port.

    Raises:
        InvalidUse: a method was called outside the context.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._address: tuple[str, int] | None = None
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._running = False
        # All that follows belongs to the thread alone once that runs: hence no lock around it.
        self._pairs: list[_Pair] = []
        self._stranded: list[_Pair] = []
        self._dark = False
        self._mute = False
        self._delay = 0.0
        self._rate: float | None = None
        self._cut: int | None = None
        self._corrupt = False
        self._total = 0
        self._most = 0

    def __enter__(self) -> Self:
        if self._address is not None:
            raise InvalidUse("a FaultProxy is entered once; make another")
        # Resolved once, here: the thread must never wait for a name server.
        found = socket.getaddrinfo(*self._upstream, type=socket.SOCK_STREAM)
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        self._family: int = found[0][0]
        self._target: tuple[object, ...] = found[0][4]
        self._listener = self._bind(0)
        self._address = self._listener.getsockname()[:2]
        self._listener.listen(128)
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.settimeout(0)
        self._woken.settimeout(0)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._running = True
        self._listening = True
        self._thread = threading.Thread(target=self._run, name="anyamqp-fault-proxy", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            self._running = False
            with contextlib.suppress(OSError):
                self._wake.send(b"\0")
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._wake.close()

    # Where it is, what it counts

    @property
    def host(self) -> str:
        """The address that the proxy listens on, always of the loopback interface."""
        return self._where()[0]

    @property
    def port(self) -> int:
        """The port that the proxy listens on."""
        return self._where()[1]

    @property
    def connections_total(self) -> int:
        """How many connections were accepted so far."""
        return self._total

    @property
    def live_connections(self) -> int:
        """How many connections clients hold now: they have sent neither FIN nor RST. Stranded ones are not counted:
        what the client has done with them since, no network could tell."""
        return sum(not pair.up.ended for pair in tuple(self._pairs))

    @property
    def max_live_connections(self) -> int:
        """The largest number that :attr:`live_connections` has reached."""
        return self._most

    # Ends

    def reset(self) -> None:
        """Reset every live connection, on both sides. Bytes that are under way are lost."""
        self._do(self._reset_all)

    def finish(self) -> None:
        """End every live connection with a FIN on both sides. Bytes that are under way are lost."""

        def finish() -> None:
            for pair in self._pairs:
                pair.finished = True
                for stream in pair.streams:
                    stream.close()
                if pair.broker is None:
                    _send_end(pair.client)

        self._do(finish)

    def half_close(self) -> None:
        """End the broker's direction of every live connection: the client reads an end of stream, and what it writes
        still reaches the broker."""

        def half_close() -> None:
            for pair in self._pairs:
                if pair.down is not None:
                    pair.down.close()
                else:
                    _send_end(pair.client)

        self._do(half_close)

    def strand(self) -> None:
        """Let every live connection go dead for ever, while new ones work.

        Neither side learns of it; the proxy stops reading too, so that windows and buffers fill. This is what a broker
        behind a failed-over address, or a firewall that has forgotten a connection, looks like.
        """

        def strand() -> None:
            self._stranded += self._pairs
            self._pairs.clear()

        self._do(strand)

    def cut_after(self, n_bytes: int) -> None:
        """Forward ``n_bytes`` more from the broker, counted over all connections, and then reset the connection that
        got the last of them. With 0 the next byte from the broker is the one that does not arrive.

        Raises:
            SettingsError: ``n_bytes`` is negative.
        """
        if n_bytes < 0:
            raise SettingsError(f"n_bytes must be 0 or more, not {n_bytes}")

        def cut() -> None:
            self._cut = n_bytes

        self._do(cut)

    # Silence

    def black_hole(self) -> None:
        """Hold back all bytes in both directions until :meth:`heal`; ends and resets of the two sides are held too.

        A new connection is established by the kernel and then meets the same silence.
        """

        def darken() -> None:
            self._dark = True

        self._do(darken)

    def heal(self) -> None:
        """End :meth:`black_hole`: everything that was held back is delivered, in order."""

        def heal() -> None:
            self._dark = False

        self._do(heal)

    def refuse(self) -> None:
        """Refuse new connections, on a port that stays reserved. Those that exist go on."""

        def refuse() -> None:
            if self._listening:
                self._listening = False
                self._replace_listener()

        self._do(refuse)

    def accept(self) -> None:
        """End :meth:`refuse`: listen again, on the same port."""

        def accept() -> None:
            if not self._listening:
                self._listening = True
                self._listener.listen(128)

        self._do(accept)

    def mute(self) -> None:
        """Accept new connections and never answer on them, so that a handshake hangs. Those that exist go on."""

        def mute() -> None:
            self._mute = True

        self._do(mute)

    def unmute(self) -> None:
        """End :meth:`mute` for connections yet to come. Those that met silence stay silent for ever."""

        def unmute() -> None:
            self._mute = False

        self._do(unmute)

    # Nuisances

    def delay(self, seconds: float) -> None:
        """Deliver what is read from now on so much later, in each direction. 0 ends it.

        Raises:
            SettingsError: ``seconds`` is negative.
        """
        if not seconds >= 0:
            raise SettingsError(f"seconds must be 0 or more, not {seconds}")

        def delay() -> None:
            self._delay = seconds

        self._do(delay)

    def rate(self, bytes_per_second: float | None) -> None:
        """Limit each direction of each connection to so many bytes a second. ``None`` ends it.

        Raises:
            SettingsError: ``bytes_per_second`` is not above 0.
        """
        if bytes_per_second is not None and not bytes_per_second > 0:
            raise SettingsError(f"bytes_per_second must be above 0, not {bytes_per_second}")

        def rate() -> None:
            self._rate = bytes_per_second
            for pair in self._pairs:
                for stream in pair.streams:
                    stream.free_at = 0.0

        self._do(rate)

    def corrupt(self) -> None:
        """Invert the last byte of the next chunk that is read from the broker, once. In AMQP that is mostly the end
        octet of a frame."""

        def corrupt() -> None:
            self._corrupt = True

        self._do(corrupt)

    # The way into the thread

    def _where(self) -> tuple[str, int]:
        if self._address is None:
            raise InvalidUse("this FaultProxy has not been entered: use it as 'with FaultProxy(...) as proxy'")
        return self._address

    def _do(self, action: Callable[[], None]) -> None:
        done: Future[None] = Future()
        with self._guard:
            if not self._running:
                raise InvalidUse("this FaultProxy is not running: use it within 'with FaultProxy(...) as proxy'")
            self._calls.append((action, done))
            # A full pipe is no loss: the thread has yet to wake up for what is in it.
            with contextlib.suppress(BlockingIOError):
                self._wake.send(b"\0")
        done.result()

    # The thread

    def _run(self) -> None:
        try:
            while self._running:
                wait = self._settle()
                ready = {key.fd: events for key, events in self._selector.select(wait)}
                # New sockets come last: one may get the number of one just closed, and with it its events.
                for pair in tuple(self._pairs):
                    self._serve(pair, ready)
                self._serve_listener(ready)
                self._serve_calls(ready)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._guard:
            self._running = False
        for _, done in self._calls:
            done.set_exception(InvalidUse("the FaultProxy was left meanwhile"))
        self._calls.clear()
        self._selector.close()
        for pair in (*self._pairs, *self._stranded):
            for sock in pair.sockets:
                _reset(sock)
        self._pairs.clear()
        self._stranded.clear()
        self._listener.close()
        self._woken.close()

    def _serve_calls(self, ready: dict[int, int]) -> None:
        if self._woken.fileno() not in ready:
            return
        self._woken.recv(4096)
        while self._calls:
            action, done = self._calls.popleft()
            try:
                done.set_result(action())
            except OSError as error:
                done.set_exception(error)

    def _serve_listener(self, ready: dict[int, int]) -> None:
        if self._listener.fileno() not in ready or not self._listening:
            return
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        _prepare(client)
        broker = None if self._mute else socket.socket(self._family, socket.SOCK_STREAM)
        pair = _Pair(client, broker)
        self._pairs.append(pair)
        self._total += 1
        self._most = max(self._most, self.live_connections)
        if broker is not None:
            _prepare(broker)
            broker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _HELD)
            if broker.connect_ex(self._target) not in (0, errno.EINPROGRESS):
                self._drop(pair)

    def _serve(self, pair: _Pair, ready: dict[int, int]) -> None:
        try:
            if pair.connecting:
                self._finish_connecting(pair, ready)
                return
            for stream in pair.streams:
                if stream.target is not None and ready.get(stream.target.fileno(), 0) & selectors.EVENT_WRITE:
                    stream.blocked = False
                if ready.get(stream.source.fileno(), 0) & selectors.EVENT_READ and stream.wants_bytes:
                    self._read(pair, stream)
        except OSError:
            self._drop(pair)

    def _finish_connecting(self, pair: _Pair, ready: dict[int, int]) -> None:
        if pair.broker is not None and ready.get(pair.broker.fileno(), 0):
            error = pair.broker.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "the broker refused")
            pair.connecting = False

    def _read(self, pair: _Pair, stream: _Stream) -> None:
        try:
            chunk = stream.source.recv(_CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            stream.ended = True
        elif not stream.closed:
            if self._corrupt and stream is pair.down:
                self._corrupt = False
                chunk = chunk[:-1] + bytes((chunk[-1] ^ 0xFF,))
            stream.chunks.append((time.monotonic() + self._delay, chunk))
            stream.size += len(chunk)

    def _settle(self) -> float | None:
        """Forward all that is due, watch what may happen next, and say after how many seconds more will be due."""
        now = time.monotonic()
        wait: float | None = None
        for pair in tuple(self._pairs):
            if not self._dark and not pair.connecting:
                try:
                    due = self._forward(pair, now)
                except OSError:
                    self._drop(pair)
                    continue
                if pair.over:
                    self._end(pair)
                elif due is not None:
                    wait = due - now if wait is None else min(wait, due - now)
        self._watch()
        return None if wait is None else max(wait, 0.0)

    def _forward(self, pair: _Pair, now: float) -> float | None:
        """Send what is due on a pair; return when more will be.

        Raises:
            OSError: one side is gone, or it is time for the cut: the pair is to be reset.
        """
        next_due: float | None = None
        for stream in pair.streams:
            due = self._send(pair, stream, now)
            if due is not None:
                next_due = due if next_due is None else min(next_due, due)
            if stream.ended and not stream.chunks:
                stream.close()
        return next_due

    def _send(self, pair: _Pair, stream: _Stream, now: float) -> float | None:
        while stream.chunks and not stream.blocked and stream.target is not None:
            due = max(stream.chunks[0][0], stream.free_at)
            if due > now:
                return due
            due, chunk = stream.chunks.popleft()
            stream.size -= len(chunk)
            sent = self._send_chunk(pair, stream, chunk[: self._allowed(pair, stream, len(chunk))])
            if sent < len(chunk):
                stream.put_back(due, chunk[sent:])
            if self._rate is not None:
                stream.free_at = max(stream.free_at, now - _RATE_STEP) + sent / self._rate
        return None

    def _allowed(self, pair: _Pair, stream: _Stream, size: int) -> int:
        if self._cut is not None and stream is pair.down:
            size = min(size, self._cut)
        if self._rate is not None:
            size = min(size, max(1, int(self._rate * _RATE_STEP)))
        return size

    def _send_chunk(self, pair: _Pair, stream: _Stream, chunk: bytes) -> int:
        sent = 0
        if chunk and stream.target is not None:
            try:
                sent = stream.target.send(chunk)
            except BlockingIOError:
                stream.blocked = True
                return 0
        if self._cut is not None and stream is pair.down:
            self._cut -= sent
            if self._cut == 0:
                self._cut = None
                raise ConnectionResetError("cut")
        return sent

    def _watch(self) -> None:
        wanted: dict[socket.socket, int] = {self._woken: selectors.EVENT_READ}
        if not self._dark:
            if self._listening:
                wanted[self._listener] = selectors.EVENT_READ
            for pair in self._pairs:
                _wants(pair, wanted)
        watched = {key.fd: key for key in self._selector.get_map().values()}
        for sock, events in wanted.items():
            key = watched.pop(sock.fileno(), None)
            if key is None:
                self._selector.register(sock, events)
            elif key.events != events:
                self._selector.modify(sock, events)
        for key in watched.values():
            self._selector.unregister(key.fileobj)

    def _reset_all(self) -> None:
        for pair in tuple(self._pairs):
            self._drop(pair)

    def _drop(self, pair: _Pair) -> None:
        self._forget(pair, _reset)

    def _end(self, pair: _Pair) -> None:
        self._forget(pair, socket.socket.close)

    def _forget(self, pair: _Pair, close: Callable[[socket.socket], None]) -> None:
        self._pairs.remove(pair)
        for sock in pair.sockets:
            # Before it is closed: its number may belong to another socket by the next round.
            with contextlib.suppress(KeyError):
                self._selector.unregister(sock)
            close(sock)

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _HELD)
        sock.bind(("127.0.0.1", port))
        return sock

    def _replace_listener(self) -> None:
        # Bound and not listening: a connect is refused, nobody else is given the port, and a client that keeps trying
        # cannot be connected to itself, as happens on a port that nobody holds.
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._listener)
        port = self.port
        self._listener.close()
        self._listener = self._bind(port)


def _prepare(sock: socket.socket) -> None:
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _wants(pair: _Pair, wanted: dict[socket.socket, int]) -> None:
    if pair.connecting:
        if pair.broker is not None:
            wanted[pair.broker] = selectors.EVENT_WRITE
        return
    for stream in pair.streams:
        if stream.wants_bytes:
            wanted[stream.source] = wanted.get(stream.source, 0) | selectors.EVENT_READ
        if stream.blocked and stream.target is not None:
            wanted[stream.target] = wanted.get(stream.target, 0) | selectors.EVENT_WRITE
