"""An AMQP broker that runs in the process, over loopback TCP or memory: for tests, the demo and simulation.

It shares the wire code of the client, keeps its queues while connections die, and fails on request. Its only clock is
the event loop's, so trio's ``MockClock`` gives it virtual time. No claim about RabbitMQ rests on it.
"""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.lowlevel

from anyamqp.errors import InvalidUse, SettingsError, UnexpectedFailure
from anyamqp.protocol.events import Tuning
from anyamqp.testing.administration import Administered
from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.transport import Served
from anyamqp.testing.embedded.users import Permissions, User
from anyamqp.testing.embedded.versions import RULES, Version
from anyamqp.testing.faults import CLOSED_BY_FORCE, Faults
from anyamqp.testing.listening import Listener
from anyamqp.testing.memory import stream_pair


class Broker(Administered):
    """An AMQP broker: ``async with Broker() as broker``.

    Clients connect through :meth:`dial` (``connect(..., dial=broker.dial)``), or over TCP after :meth:`listen`.

    Args:
        username: the user that may do everything; :meth:`add_user` adds others.
        password: its password.
        heartbeat: the interval that it proposes, in whole seconds; 0 for none.
        channel_max: highest channel number; 0 for no limit.
        frame_max: largest frame, in bytes.
        version: the version of RabbitMQ that it follows where they differ.

    Raises:
        SettingsError: ``heartbeat`` is not a whole number, or ``version`` is not known.

    Attributes:
        connections_total: how many connections were accepted so far.
        most_connections: the highest number of connections at one time.
        tuning: the limits that it proposes to the next client.
        secrets: the secrets of connection.update-secret, oldest first.
        faults: how it fails, and when.
        errors: the exceptions that its own code raised, which are bugs; each ended one connection at most. The end of
            the block raises :class:`~anyamqp.UnexpectedFailure` if there are any.
    """

    def __init__(
        self,
        *,
        username: str = "guest",
        password: str = "guest",  # noqa: S107 - RabbitMQ's own default
        heartbeat: float = 60,
        channel_max: int = 2047,
        frame_max: int = 131072,
        version: Version = "3.10",
    ) -> None:
        if heartbeat != int(heartbeat):
            raise SettingsError(f"heartbeat: {heartbeat} is not a whole number of seconds, and AMQP carries no other")
        if version not in RULES:
            raise SettingsError(f"version: {version!r} is none of {', '.join(RULES)}")
        self.connections_total: int = 0
        self.most_connections: int = 0
        self.secrets: list[str] = []
        self.tuning: Tuning = Tuning(channel_max, frame_max, int(heartbeat))
        conditions = Conditions(RULES[version])
        self._credentials = f"{username}:{password}"
        self._connections: dict[Served, None] = {}
        super().__init__(conditions, self._connections, User(username, password, elsewhere=Permissions()))
        self.errors: list[Exception] = conditions.errors
        self.faults: Faults = Faults(conditions, lambda: self._connections)
        self._is_stopped = False
        self._listeners: list[Listener] = []
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._conditions.keep_time)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = self._group()
        for connection in list(self._connections):
            connection.is_excused = True
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)
        if self.errors:
            problem = f"the embedded broker failed at {len(self.errors)} places, which are bugs of anyamqp"
            if exc is None:
                raise UnexpectedFailure(problem) from self.errors[0]
            exc.add_note(f"{problem}; the first: {self.errors[0]!r}")

    # --- listening --------------------------------------------------------------------------------------------------

    async def listen(self, port: int = 0, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> str:
        """Listen on an address. The broker may listen on several.

        Args:
            port: the port; 0 for any that is free.
            host: an address of this machine, such as ``::1``.
            tls: a context with the broker's certificate (``ssl.PROTOCOL_TLS_SERVER``); None for plain TCP.

        Returns:
            The URL to connect to.

        Raises:
            OSError: the port is taken, or there is no such address.
        """
        listener = Listener(self._serve, host, tls)
        await listener.open(port, self._group())
        self._listeners.append(listener)
        return self.url

    @property
    def port(self) -> int:
        """The port that it listens on since the last call of :meth:`listen`.

        Raises:
            InvalidUse: it does not listen.
        """
        return self._last_listener().port

    @property
    def url(self) -> str:
        """The URL to connect to, at the address of the last call of :meth:`listen`.

        Raises:
            InvalidUse: it does not listen.
        """
        return self._last_listener().url(self._credentials)

    def _last_listener(self) -> Listener:
        if not self._listeners:
            raise InvalidUse("the broker listens on no port: call listen() first")
        return self._listeners[-1]

    async def dial(self, _address: object = None) -> anyio.abc.ByteStream:
        """Connect over memory, to any address; fits ``connect(..., dial=broker.dial)``.

        Raises:
            ConnectionRefusedError: the broker refuses connections, or is stopped.
        """
        await anyio.lowlevel.checkpoint()
        if self._conditions.is_refusing or self._is_stopped:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = stream_pair()
        self._group().start_soon(self._serve, ours)
        return theirs

    async def _serve(self, stream: anyio.abc.ByteStream) -> None:
        connection = Served(self, self._conditions, stream)
        if self._conditions.is_refusing or self._is_stopped:
            # The kernel has already accepted; a reset is the closest to a refusal.
            connection.reset()
        else:
            self.connections_total += 1
            self._connections[connection] = None
            self.most_connections = max(self.most_connections, len(self._connections))
        try:
            await connection.run()
        finally:
            self._connections.pop(connection, None)
            self._conditions.announce()

    # --- faults -----------------------------------------------------------------------------------------------------

    def reset_connections(self) -> None:
        """End all connections as by RST; bytes under way are lost."""
        self.faults.reset()
        self._connections.clear()

    def freeze(self) -> None:
        """Stop answering: connections stay, new ones are accepted, but nothing is read or sent, not even heartbeats."""
        self.faults.freeze()

    def thaw(self) -> None:
        """End a freeze: go on with the same connections."""
        self.faults.thaw()

    def refuse(self) -> None:
        """Refuse new connections."""
        self.faults.refuse()

    def accept(self) -> None:
        """Accept new connections again."""
        self.faults.accept()

    def block(self, reason: str = "low on memory") -> None:
        """Block publishing clients: send connection.blocked, now or at the next publish, and stop reading from them."""
        self.faults.block(reason)

    def unblock(self) -> None:
        """Send connection.unblocked, and go on reading."""
        self.faults.unblock()

    def close_connections(self, code: int = 320, text: str = CLOSED_BY_FORCE) -> None:
        """Send connection.close to all connections; a client that does not answer is dropped after 5 s."""
        self.faults.close_connection(code, text)

    def close_channels(self, code: int, text: str, *, number: int | None = None) -> None:
        """Send channel.close on all channels, or on those with that number."""
        self.faults.close_channel(code, text, number=number)

    def stop(self) -> None:
        """Die as a killed node: connections are reset, new ones refused, transient entities and messages lost."""
        self._is_stopped = True
        for listener in self._listeners:
            listener.stop()
        self.reset_connections()
        for host in self._conditions.hosts:
            host.restart()

    async def start(self) -> None:
        """Come back after :meth:`stop`, on the same ports, with the durable queues and their persistent messages.

        Raises:
            OSError: a port is taken meanwhile.
        """
        await anyio.lowlevel.checkpoint()
        if self._is_stopped:
            for listener in self._listeners:
                await listener.reopen(self._group())
        self._is_stopped = False

    def update_secret(self, secret: str) -> None:
        """Take a new secret of a client; like RabbitMQ's own user database, the broker takes any.

        A subclass may refuse it with a :class:`~anyamqp.ReplyError`.
        """
        self.secrets.append(secret)

    def _group(self) -> anyio.abc.TaskGroup:
        if self._tasks is None:
            raise InvalidUse("a broker works inside its block: async with Broker() as broker")
        return self._tasks
