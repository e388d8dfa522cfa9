"""An AMQP broker that runs in the process, over loopback TCP or memory: for tests, the demo and simulation.

It shares the wire code of the client, keeps its queues while connections die, and fails on request. Its only clock is
the event loop's, so trio's ``MockClock`` gives it virtual time. No claim about RabbitMQ rests on it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.lowlevel

from anyamqp.errors import InvalidUse, SettingsError, UnexpectedFailure
from anyamqp.protocol.events import Tuning
from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.transport import Served
from anyamqp.testing.embedded.versions import RULES, Version
from anyamqp.testing.faults import CLOSED_BY_FORCE, Faults
from anyamqp.testing.memory import stream_pair
from anyamqp.testing.views import Observed


class Broker(Observed):
    """An AMQP broker: ``async with Broker() as broker``.

    Clients connect through :meth:`dial` (``connect(..., dial=broker.dial)``), or over TCP after :meth:`listen`.

    Args:
        username: the only user that may log in.
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
        self._expected_response = f"\0{username}\0{password}"
        self._credentials = f"{username}:{password}"
        self._connections: dict[Served, None] = {}
        super().__init__(conditions, self._connections)
        self.errors: list[Exception] = conditions.errors
        self.faults: Faults = Faults(conditions, lambda: self._connections)
        self._is_stopped = False
        self._port: int | None = None
        self._listening: anyio.CancelScope | None = None
        self._deafened = anyio.Event()
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

    async def listen(self, port: int = 0) -> str:
        """Listen on 127.0.0.1.

        Args:
            port: the port; 0 for any that is free.

        Returns:
            The URL to connect to.

        Raises:
            OSError: the port is taken.
        """
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        self._port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self._listening = scope = anyio.CancelScope()
        self._deafened = anyio.Event()
        self._group().start_soon(self._accept, listener, scope, self._deafened)
        return self.url

    async def _accept(
        self, listener: anyio.abc.Listener[anyio.abc.SocketStream], scope: anyio.CancelScope, deafened: anyio.Event
    ) -> None:
        try:
            with scope:
                # The connections outlive the listener.
                await listener.serve(self._serve, self._group())
        finally:
            with anyio.CancelScope(shield=True):
                await listener.aclose()
            deafened.set()

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
        if self._listening is not None:
            self._listening.cancel()
        self.reset_connections()
        for host in self._conditions.hosts:
            host.restart()

    async def start(self) -> None:
        """Come back after :meth:`stop`, on the same port, with the durable queues and their persistent messages.

        Raises:
            OSError: the port is taken meanwhile.
        """
        await anyio.lowlevel.checkpoint()
        if self._is_stopped and self._port is not None:
            await self._deafened.wait()
            await self.listen(self._port)
        self._is_stopped = False

    # --- logins -----------------------------------------------------------------------------------------------------

    def check_credentials(self, response: str) -> bool:
        """Whether user and password of a PLAIN response are right. A subclass may decide otherwise."""
        return response == self._expected_response

    def update_secret(self, secret: str) -> None:
        """Take a new secret of a client; like RabbitMQ's own user database, the broker takes any.

        A subclass may refuse it with a :class:`~anyamqp.ReplyError`.
        """
        self.secrets.append(secret)

    def _group(self) -> anyio.abc.TaskGroup:
        if self._tasks is None:
            raise InvalidUse("a broker works inside its block: async with Broker() as broker")
        return self._tasks
