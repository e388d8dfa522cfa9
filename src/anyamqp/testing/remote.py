"""A RabbitMQ as a test sees it: through a relay that watches the connections of the test.

RabbitMQ does not tell over AMQP which messages were published, and by which connections. The relay reads it from the
bytes that pass. It also learns which entities are declared, so that they can be deleted after the test.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import anyio
import anyio.abc

from anyamqp.errors import InvalidUse, NotFound, SettingsError
from anyamqp.settings import Settings
from anyamqp.testing.embedded.record import Record
from anyamqp.testing.probe import Counts, Probe
from anyamqp.testing.views import ConnectionView, Published, only_connection
from anyamqp.testing.watched import Declared, Watched

_CHUNK: Final = 64 * 1024
_LOCALHOST: Final = "127.0.0.1"


class RemoteQueue:
    """A queue of a RabbitMQ. Each look asks the broker, and blocks the event loop meanwhile.

    Attributes:
        name: its name.
    """

    def __init__(self, name: str, probe: Probe) -> None:
        self.name: str = name
        self._probe = probe

    def __repr__(self) -> str:
        counts = self._counts()
        return f"<queue {self.name!r}: {counts.messages} messages ready, {counts.consumers} consumers>"

    @property
    def messages(self) -> int:
        """Number of messages in the queue that are ready for delivery."""
        return self._counts().messages

    @property
    def consumers(self) -> int:
        """How many consumers it has."""
        return self._counts().consumers

    def bodies(self) -> list[bytes]:
        """The bodies of the messages that wait, oldest first. They count as redelivered afterwards."""
        try:
            return self._probe.bodies(self.name)
        except NotFound as error:
            raise LookupError(error.text) from error

    def _counts(self) -> Counts:
        try:
            return self._probe.counts(self.name)
        except NotFound as error:
            raise LookupError(error.text) from error


class RemoteBroker:
    """A RabbitMQ: ``async with RemoteBroker("amqp://guest:guest@localhost/tests") as broker``.

    Leaving the block deletes the queues and exchanges that were declared through it, whether or not they were there
    before: the virtual host must be the tests' own.

    Args:
        url: where it is.

    Raises:
        SettingsError: the URL is wrong, or asks for TLS.
    """

    def __init__(self, url: str) -> None:
        self._settings = Settings.from_urls(url)
        if self._settings.tls is not None:
            raise SettingsError("url: the relay of the tests reads the bytes that pass, so it cannot use TLS")
        self._url = urlsplit(url)
        self._record = Record()
        self._declared = Declared()
        self._watched: dict[Watched, None] = {}
        self._port = 0
        self._probe: Probe | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._probe = await anyio.to_thread.run_sync(Probe, self._settings)
        listener = await anyio.create_tcp_listener(local_host=_LOCALHOST)
        self._port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._accept, listener)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        probe, tasks = self._used(), self._tasks
        try:
            if tasks is not None:
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(probe.delete, self._declared.queues, self._declared.exchanges)
        finally:
            probe.close()

    @property
    def url(self) -> str:
        """The URL of the relay, for any AMQP client."""
        self._used()
        user = self._url.netloc.rpartition("@")[:2]
        return self._url._replace(netloc=f"{''.join(user)}{_LOCALHOST}:{self._port}").geturl()

    async def dial(self, _address: object = None) -> anyio.abc.ByteStream:
        """Open a transport through the relay: ``connect(broker.url, dial=broker.dial)``.

        Raises:
            OSError: the relay is closed.
        """
        return await anyio.connect_tcp(_LOCALHOST, self._port)

    @property
    def connections(self) -> list[ConnectionView]:
        """The open connections that pass through the relay, oldest first."""
        return [watched.view for watched in self._watched]

    def connection(self, name: str) -> ConnectionView:
        """The open connection of that name.

        Raises:
            LookupError: there is none, or more than one.
        """
        return only_connection(self.connections, name)

    def queue(self, name: str) -> RemoteQueue:
        """The queue of that name.

        Raises:
            LookupError: there is none.
            ResourceLocked: a connection has it exclusively.
        """
        queue = RemoteQueue(name, self._used())
        _ = queue.messages
        return queue

    def published(self, *, exchange: str | None = None, routing_key: str | None = None) -> Published:
        """The messages that passed through the relay, oldest first: all, or those to an exchange or with a routing key.

        At most the last 10,000 messages, with 16 MiB of bodies.
        """
        return Published(self._record, exchange, routing_key)

    async def _accept(self, listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> None:
        async with listener:
            await listener.serve(self._serve)

    async def _serve(self, client: anyio.abc.SocketStream) -> None:
        address = self._settings.addresses[0]
        watched = Watched(self._record, self._declared)
        async with client:
            try:
                broker = await anyio.connect_tcp(address.host, address.port)
            except OSError:
                return  # the client sees that its connection ends
            self._watched[watched] = None
            try:
                async with broker, anyio.create_task_group() as tasks:
                    tasks.start_soon(self._forward, client, broker, watched.sent, tasks.cancel_scope)
                    tasks.start_soon(self._forward, broker, client, watched.received, tasks.cancel_scope)
            finally:
                del self._watched[watched]

    async def _forward(
        self,
        source: anyio.abc.ByteReceiveStream,
        target: anyio.abc.ByteStream,
        watch: Callable[[bytes], None],
        connection: anyio.CancelScope,
    ) -> None:
        try:
            while True:
                try:
                    data = await source.receive(_CHUNK)
                except anyio.EndOfStream:
                    await target.send_eof()
                    return
                watch(data)
                await target.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            connection.cancel()

    def _used(self) -> Probe:
        if self._probe is None:
            raise InvalidUse("a RabbitMQ of the tests works inside its block: async with RemoteBroker(url) as broker")
        return self._probe
