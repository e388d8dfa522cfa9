"""An AMQP broker in the process, for users' tests, for the demo and for simulation: over loopback TCP and over memory.

It speaks AMQP 0-9-1 on the same wire code as the client, keeps its queues while connections die, and fails on request.
It reads no clock but the event loop's, so on trio's ``MockClock`` it lives in virtual time. It never stands in for
RabbitMQ in a claim about RabbitMQ.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.lowlevel

from holdfast.errors import InvalidUse
from holdfast.protocol.events import Tuning
from holdfast.testing.memory import MemoryStream, stream_pair
from holdfast.testing.model import Model, Queue
from holdfast.testing.server import Peer

_CHUNK = 64 * 1024
_CLOSE_PATIENCE = 5.0
"""Seconds that a client has to answer connection.close."""

_EXCUSE = 1.0
"""Seconds after a freeze in which the ends of clients that gave the broker up come to light."""


class QueueView:
    """A queue of the broker, as it is now.

    Attributes:
        name: its name.
    """

    def __init__(self, queue: Queue) -> None:
        self.name = queue.name
        self._queue = queue

    @property
    def messages(self) -> int:
        """Messages that wait."""
        return len(self._queue.ready)

    @property
    def unacked(self) -> int:
        """Messages that are delivered and not settled."""
        return self._queue.unacked

    @property
    def consumers(self) -> int:
        """Consumers."""
        return len(self._queue.consumers)

    def bodies(self) -> list[bytes]:
        """The bodies of the messages that wait, oldest first."""
        return [entry.message.body for entry in self._queue.ready]


class _Connection:
    """A transport with a peer on it."""

    def __init__(self, broker: Broker, stream: anyio.abc.ByteStream) -> None:
        self.is_excused = False
        """Whether the broker is to blame for the end of the transport."""
        self._broker = broker
        self._stream = stream
        self._output_added = anyio.Event()
        self._opened = anyio.Event()
        self.peer = Peer(broker.model, broker, self._wake, anyio.current_time())
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    tasks.start_soon(self._beat)
                    await self._read()
                    tasks.cancel_scope.cancel()
        finally:
            is_excused = self.is_excused or anyio.current_time() <= self._broker.excused_until
            if not self.peer.is_graceful and not is_excused:
                self._broker.unexpected_closes.append(self.peer.name)
            self.peer.gone()
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await self._stream.aclose()

    def reset(self) -> None:
        """End the transport as a reset does, now."""
        self.is_excused = True
        if isinstance(self._stream, MemoryStream):
            self._stream.reset()
        else:
            raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._scope.cancel()

    def _wake(self) -> None:
        self._output_added.set()

    async def _read(self) -> None:
        while not self.peer.is_over:
            try:
                data = await self._stream.receive(_CHUNK)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                return
            await self._broker.wait_thawed()
            while self.peer.is_notified_of_block:
                await self._broker.wait_changed()
            self.peer.receive(data, anyio.current_time())
            self.peer.set_blocked(self._broker.blocked)
            if self.peer.is_open:
                self._opened.set()
        await self._flushed()

    async def _flushed(self) -> None:
        with anyio.move_on_after(1):
            await self._send_output()

    async def _write(self) -> None:
        while True:
            if not await self._send_output():
                self._output_added = anyio.Event()
                await self._output_added.wait()

    async def _send_output(self) -> bool:
        await self._broker.wait_thawed()
        data = self.peer.output(anyio.current_time())
        if data:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                return False
            self.peer.pump()
        return bool(data)

    async def _beat(self) -> None:
        await self._opened.wait()
        while not self.peer.is_over:
            await anyio.sleep_until(self.peer.poll(anyio.current_time()))
            if self._broker.is_frozen:
                await self._broker.wait_thawed()
                self.peer.slept(anyio.current_time())
        self._scope.cancel()

    async def close(self, code: int, text: str) -> None:
        self.is_excused = True
        self.peer.close(code, text)
        await anyio.sleep(_CLOSE_PATIENCE)
        self._scope.cancel()


class Broker:
    """An AMQP broker: ``async with Broker() as broker``.

    Clients come in through :meth:`dial` (``connect(..., dial=broker.dial)``), or over TCP after :meth:`listen`.

    Args:
        username: who may log in.
        password: with which password.
        heartbeat: what it proposes, in seconds; 0 for none.
        channel_max: highest channel number; 0 for no limit.
        frame_max: largest frame, in bytes.

    Attributes:
        unexpected_closes: names of the connections whose client went away without a close handshake, as RabbitMQ logs
            them; not counted are those that a fault of the broker's own ended.
        connections_total: connections that ever came in.
        most_connections: the highest number of connections at one time.
        blocked: why publishers are blocked; None if they are not.
        is_frozen: whether it has stopped answering.
        excused_until: until when, on the event loop's clock, clients may go away without a close handshake, because the
            broker was frozen.
    """

    def __init__(
        self,
        *,
        username: str = "guest",
        password: str = "guest",  # noqa: S107 - RabbitMQ's own default
        heartbeat: float = 60,
        channel_max: int = 2047,
        frame_max: int = 131072,
    ) -> None:
        self.model = Model()
        self.tuning = Tuning(channel_max, frame_max, int(heartbeat))
        self.blocked: str | None = None
        self.is_frozen = False
        self.excused_until = 0.0
        self.unexpected_closes: list[str] = []
        self.connections_total = 0
        self.most_connections = 0
        self._expected_login = f"\0{username}\0{password}"
        self._credentials = f"{username}:{password}"
        self._connections: dict[_Connection, None] = {}
        self._changed = anyio.Event()
        self._is_refusing = False
        self._is_stopped = False
        self._port: int | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = self._group()
        for connection in list(self._connections):
            connection.is_excused = True
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)

    # --- coming in --------------------------------------------------------------------------------------------------

    async def listen(self, port: int = 0) -> str:
        """Listen on 127.0.0.1.

        Args:
            port: the port; 0 for any that is free.

        Returns:
            The URL to connect to.
        """
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        self._port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self._group().start_soon(self._accept, listener)
        return self.url

    async def _accept(self, listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> None:
        async with listener:
            await listener.serve(self._serve)

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            InvalidUse: it does not listen.
        """
        if self._port is None:
            raise InvalidUse("the broker listens on no port: call listen() first")
        return self._port

    @property
    def url(self) -> str:
        """The URL to connect to over TCP."""
        return f"amqp://{self._credentials}@127.0.0.1:{self.port}/"

    async def dial(self, _address: object = None) -> anyio.abc.ByteStream:
        """Connect over memory, whatever the address; fits ``connect(..., dial=broker.dial)``.

        Raises:
            ConnectionRefusedError: the broker refuses connections, or is stopped.
        """
        await anyio.lowlevel.checkpoint()
        if self._is_refusing or self._is_stopped:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = stream_pair()
        self._group().start_soon(self._serve, ours)
        return theirs

    async def _serve(self, stream: anyio.abc.ByteStream) -> None:
        connection = _Connection(self, stream)
        if self._is_refusing or self._is_stopped:
            # The kernel has already accepted: a reset is as near to a refusal as a listening socket comes.
            connection.reset()
        else:
            self.connections_total += 1
            self._connections[connection] = None
            self.most_connections = max(self.most_connections, len(self._connections))
        try:
            await connection.run()
        finally:
            self._connections.pop(connection, None)
            self._announce()

    # --- faults -----------------------------------------------------------------------------------------------------

    def reset_connections(self) -> None:
        """End all connections as by RST; nothing more is sent, and what was under way is lost."""
        for connection in list(self._connections):
            connection.reset()
            # At once, not when its task gets its turn: nothing that happens next may find the dead client's consumers.
            self._connections.pop(connection)
            connection.peer.gone()

    def freeze(self) -> None:
        """Stop answering: connections stay, new ones are accepted, but nothing is read or sent, not even heartbeats."""
        self.is_frozen = True
        self.excused_until = float("inf")

    def thaw(self) -> None:
        """Go on where it was."""
        self.is_frozen = False
        self.excused_until = anyio.current_time() + _EXCUSE
        self._announce()

    def refuse(self) -> None:
        """Refuse new connections."""
        self._is_refusing = True

    def accept(self) -> None:
        """Accept new connections again."""
        self._is_refusing = False

    def block(self, reason: str = "low on memory") -> None:
        """Block who publishes: connection.blocked, now or with the next publish, and nothing of theirs is read."""
        self.blocked = reason
        for connection in list(self._connections):
            connection.peer.set_blocked(reason)

    def unblock(self) -> None:
        """Send connection.unblocked, and read on."""
        self.blocked = None
        for connection in list(self._connections):
            connection.peer.set_blocked(None)
        self._announce()

    def close_connections(
        self, code: int = 320, text: str = "CONNECTION_FORCED - broker forced connection closure"
    ) -> None:
        """Send connection.close to all connections; a client that does not answer is dropped after 5 s."""
        for connection in list(self._connections):
            self._group().start_soon(connection.close, code, text)

    def close_channels(self, code: int, text: str) -> None:
        """Send channel.close on all channels."""
        for connection in list(self._connections):
            for channel in list(connection.peer.channels.values()):
                connection.peer.close_channel(channel, code, text)

    def stop(self) -> None:
        """Die as a killed node: connections are reset, new ones refused, what is not durable or persistent is lost."""
        self._is_stopped = True
        self.reset_connections()
        self.model.restart()

    async def start(self) -> None:
        """Come back after :meth:`stop`, on the same port, with the durable queues and their persistent messages."""
        await anyio.lowlevel.checkpoint()
        self._is_stopped = False

    # --- looking in -------------------------------------------------------------------------------------------------

    @property
    def connection_count(self) -> int:
        """Connections now."""
        return len(self._connections)

    @property
    def channel_count(self) -> int:
        """Open channels now, of all connections."""
        return sum(len(connection.peer.channels) for connection in self._connections)

    @property
    def queues(self) -> Mapping[str, QueueView]:
        """The queues by name."""
        return MappingProxyType({name: QueueView(queue) for name, queue in self.model.queues.items()})

    # --- for its connections ----------------------------------------------------------------------------------------

    def check_credentials(self, response: str) -> bool:
        """Whether a PLAIN response is right."""
        return response == self._expected_login

    async def wait_thawed(self) -> None:
        """Wait until the broker is not frozen."""
        while self.is_frozen:
            await self.wait_changed()

    async def wait_changed(self) -> None:
        """Wait until a fault begins or ends."""
        await self._changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _group(self) -> anyio.abc.TaskGroup:
        if self._tasks is None:
            raise InvalidUse("a broker works inside its block: async with Broker() as broker")
        return self._tasks
