"""The addresses on which the embedded broker listens: TCP over IPv4 or IPv6, with or without TLS."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
from anyio.abc import AnyByteStream
from anyio.streams.tls import TLSListener, TLSStream

_LOG = logging.getLogger("anyamqp.testing")


class Listener:
    """An address on which a broker listens.

    Args:
        serve: serves a transport until it ends.
        host: the address of a network interface of this machine.
        tls: with which certificate it listens; None for plain TCP.

    Attributes:
        port: the port that it listens on.
    """

    def __init__(
        self, serve: Callable[[anyio.abc.ByteStream], Awaitable[None]], host: str, tls: ssl.SSLContext | None
    ) -> None:
        self.port: int = 0
        self._serve = serve
        self._host = host
        self._tls = tls
        self._scope = anyio.CancelScope()
        self._closed = anyio.Event()

    def url(self, credentials: str) -> str:
        """The URL to connect to, with these credentials."""
        scheme = "amqp" if self._tls is None else "amqps"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{credentials}@{host}:{self.port}/"

    async def open(self, port: int, tasks: anyio.abc.TaskGroup) -> None:
        """Begin to listen.

        Args:
            port: the port; 0 for any that is free.
            tasks: runs the listener and its connections, which outlive it.

        Raises:
            OSError: the port is taken, or there is no such address.
        """
        listener = await anyio.create_tcp_listener(local_host=self._host, local_port=port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self._scope = anyio.CancelScope()
        self._closed = anyio.Event()
        tasks.start_soon(self._accept, listener, tasks)

    def stop(self) -> None:
        """Accept no more connections."""
        self._scope.cancel()

    async def reopen(self, tasks: anyio.abc.TaskGroup) -> None:
        """Listen again, on the same port.

        Raises:
            OSError: the port is taken meanwhile.
        """
        await self._closed.wait()
        await self.open(self.port, tasks)

    async def _accept(self, listener: anyio.abc.Listener[anyio.abc.SocketStream], tasks: anyio.abc.TaskGroup) -> None:
        try:
            with self._scope:
                if self._tls is None:
                    await listener.serve(self._serve, tasks)
                else:
                    await _TLSListener(listener, self._tls, standard_compatible=False).serve(self._serve_tls, tasks)
        finally:
            with anyio.CancelScope(shield=True):
                await listener.aclose()
            self._closed.set()

    async def _serve_tls(self, stream: TLSStream) -> None:
        await self._serve(_HalfClosable(stream))


class _TLSListener(TLSListener):
    """A listener to which a failed handshake is one line in the log: the fault may be what a test wants to see."""

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: AnyByteStream) -> None:
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, Exception):
            raise exc
        _LOG.warning("a client failed the TLS handshake: %r", exc)


class _HalfClosable(anyio.abc.ByteStream):
    """A TLS stream whose sending direction can end before the other one, by a FIN: TLSStream has no such end."""

    def __init__(self, stream: TLSStream) -> None:
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        transport = self._stream.transport_stream
        if isinstance(transport, anyio.abc.ByteStream):
            await transport.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> dict[Any, Callable[[], Any]]:
        return dict(self._stream.extra_attributes)
