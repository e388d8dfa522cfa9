"""The thread behind :class:`~anyamqp.testing.proxy.FaultProxy`, which forwards the bytes and injects the faults."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from anyamqp.errors import InvalidUse
from anyamqp.testing.pairs import HELD, Pair, Stream, bound, prepare, reset, wants

_CHUNK: Final = 64 * 1024
_RATE_STEP: Final = 0.02
"""Seconds between two pieces of a stream whose rate is limited."""


class Relay:
    """Serves all connections of a proxy in one thread.

    Its faults are plain attributes. Only the thread changes them, through :meth:`do`, so they need no lock.

    Parameters:
        host: the broker's host name or address.
        port: the broker's port.
    """

    def __init__(self, host: str, port: int) -> None:
        self.address: tuple[str, int] | None = None
        """The address on which it listens; None before the start."""
        self.pairs: list[Pair] = []
        self.stranded: list[Pair] = []
        self.is_dark = False
        """Whether the proxy forwards no bytes."""
        self.is_mute = False
        """Whether the proxy does not answer on new connections."""
        self.is_listening: bool = False
        self.delay: float = 0.0
        self.rate: float | None = None
        self.cut: int | None = None
        self.corrupts_next: bool = False
        self.total: int = 0
        self.most: int = 0
        self._upstream = (host, port)
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._running = False

    @property
    def live(self) -> int:
        """Number of connections that clients hold now."""
        return sum(not pair.up.ended for pair in tuple(self.pairs))

    def start(self) -> None:
        """Listen on a free port, and start the thread.

        Raises:
            OSError: the broker's name is unknown, or there is no port.
        """
        # Resolved here, because the thread must not wait for a name server.
        found = socket.getaddrinfo(*self._upstream, type=socket.SOCK_STREAM)
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        self._family: int = found[0][0]
        self._target: tuple[object, ...] = found[0][4]
        self._listener = bound(0)
        self.address = self._listener.getsockname()[:2]
        self._listener.listen(128)
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.settimeout(0)
        self._woken.settimeout(0)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._running = True
        self.is_listening = True
        self._thread = threading.Thread(target=self._run, name="anyamqp-fault-proxy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Reset every connection, and wait for the end of the thread."""
        with self._guard:
            self._running = False
            with contextlib.suppress(OSError):
                self._wake.send(b"\0")
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._wake.close()

    def do(self, action: Callable[[], None]) -> None:
        """Call ``action`` in the thread, and wait for its return.

        Raises:
            InvalidUse: the thread does not run.
        """
        done: Future[None] = Future()
        with self._guard:
            if not self._running:
                raise InvalidUse("this FaultProxy is not running: use it within 'with FaultProxy(...) as proxy'")
            self._calls.append((action, done))
            # If the pipe is full, the thread has yet to wake up for the bytes in it.
            with contextlib.suppress(BlockingIOError):
                self._wake.send(b"\0")
        done.result()

    def reset_all(self) -> None:
        """Reset every live connection. In the thread."""
        for pair in tuple(self.pairs):
            self._drop(pair)

    def refuse(self) -> None:
        """Stop listening. In the thread."""
        if self.is_listening and self.address is not None:
            self.is_listening = False
            # Bound but not listening: connects are refused, nobody else gets the port, and a client that keeps trying
            # cannot connect to itself, as it could on a free port.
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = bound(self.address[1])

    def accept(self) -> None:
        """Listen again. In the thread."""
        if not self.is_listening:
            self.is_listening = True
            self._listener.listen(128)

    def _run(self) -> None:
        try:
            while self._running:
                wait = self._settle()
                ready = {key.fd: events for key, events in self._selector.select(wait)}
                # New sockets come last: one may get the number of one just closed, and with it its events.
                for pair in tuple(self.pairs):
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
        for pair in (*self.pairs, *self.stranded):
            for sock in pair.sockets:
                reset(sock)
        self.pairs.clear()
        self.stranded.clear()
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
        if self._listener.fileno() not in ready or not self.is_listening:
            return
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        prepare(client)
        broker = None if self.is_mute else socket.socket(self._family, socket.SOCK_STREAM)
        pair = Pair(client, broker)
        self.pairs.append(pair)
        self.total += 1
        self.most = max(self.most, self.live)
        if broker is not None:
            prepare(broker)
            broker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HELD)
            if broker.connect_ex(self._target) not in (0, errno.EINPROGRESS):
                self._drop(pair)

    def _serve(self, pair: Pair, ready: dict[int, int]) -> None:
        try:
            if pair.connecting:
                pair.finish_connecting(ready)
                return
            for stream in pair.streams:
                if stream.target is not None and ready.get(stream.target.fileno(), 0) & selectors.EVENT_WRITE:
                    stream.blocked = False
                if ready.get(stream.source.fileno(), 0) & selectors.EVENT_READ and stream.wants_bytes:
                    self._read(pair, stream)
        except OSError:
            self._drop(pair)

    def _read(self, pair: Pair, stream: Stream) -> None:
        try:
            chunk = stream.source.recv(_CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            stream.ended = True
        elif not stream.closed:
            if self.corrupts_next and stream is pair.down:
                self.corrupts_next = False
                chunk = chunk[:-1] + bytes((chunk[-1] ^ 0xFF,))
            stream.chunks.append((time.monotonic() + self.delay, chunk))
            stream.size += len(chunk)

    def _settle(self) -> float | None:
        """Forward all bytes that are due, update the selector, and return the seconds until more are due."""
        now = time.monotonic()
        wait: float | None = None
        for pair in tuple(self.pairs):
            if not self.is_dark and not pair.connecting:
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

    def _forward(self, pair: Pair, now: float) -> float | None:
        """Send the bytes of a pair that are due; return when the next are.

        Raises:
            OSError: one side has ended, or the cut is due; the caller has to reset the pair.
        """
        next_due: float | None = None
        for stream in pair.streams:
            due = self._send(pair, stream, now)
            if due is not None:
                next_due = due if next_due is None else min(next_due, due)
            if stream.ended and not stream.chunks:
                stream.close()
        return next_due

    def _send(self, pair: Pair, stream: Stream, now: float) -> float | None:
        while stream.chunks and not stream.blocked and stream.target is not None:
            due = max(stream.chunks[0][0], stream.free_at)
            if due > now:
                return due
            due, chunk = stream.chunks.popleft()
            stream.size -= len(chunk)
            sent = self._send_chunk(pair, stream, chunk[: self._allowed(pair, stream, len(chunk))])
            if sent < len(chunk):
                stream.put_back(due, chunk[sent:])
            if self.rate is not None:
                stream.free_at = max(stream.free_at, now - _RATE_STEP) + sent / self.rate
        return None

    def _allowed(self, pair: Pair, stream: Stream, size: int) -> int:
        if self.cut is not None and stream is pair.down:
            size = min(size, self.cut)
        if self.rate is not None:
            size = min(size, max(1, int(self.rate * _RATE_STEP)))
        return size

    def _send_chunk(self, pair: Pair, stream: Stream, chunk: bytes) -> int:
        sent = 0
        if chunk and stream.target is not None:
            try:
                sent = stream.target.send(chunk)
            except BlockingIOError:
                stream.blocked = True
                return 0
        if self.cut is not None and stream is pair.down:
            self.cut -= sent
            if self.cut == 0:
                self.cut = None
                raise ConnectionResetError("cut")
        return sent

    def _watch(self) -> None:
        wanted: dict[socket.socket, int] = {self._woken: selectors.EVENT_READ}
        if not self.is_dark:
            if self.is_listening:
                wanted[self._listener] = selectors.EVENT_READ
            for pair in self.pairs:
                wants(pair, wanted)
        watched = {key.fd: key for key in self._selector.get_map().values()}
        for sock, events in wanted.items():
            key = watched.pop(sock.fileno(), None)
            if key is None:
                self._selector.register(sock, events)
            elif key.events != events:
                self._selector.modify(sock, events)
        for key in watched.values():
            self._selector.unregister(key.fileobj)

    def _drop(self, pair: Pair) -> None:
        self._forget(pair, reset)

    def _end(self, pair: Pair) -> None:
        self._forget(pair, socket.socket.close)

    def _forget(self, pair: Pair, close: Callable[[socket.socket], None]) -> None:
        self.pairs.remove(pair)
        for sock in pair.sockets:
            # Before the close, because another socket may have its number in the next round.
            with contextlib.suppress(KeyError):
                self._selector.unregister(sock)
            close(sock)
