"""A broker as a test sees it: its queues, its connections, and the messages that were published to it.

Lookups and the ``repr`` of results name the things that are there, so that a failed assertion explains itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias, TypeVar, overload

import anyio
import anyio.abc

from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.queues import Queue
from anyamqp.testing.embedded.record import PublishedMessage, Record
from anyamqp.testing.embedded.transport import Served

_MOST_NAMED: Final = 20
"""How many things an error names at most."""

ConnectionState: TypeAlias = Literal["opening", "open", "blocked", "closing"]

T = TypeVar("T")


class AnyQueue(Protocol):
    """A queue, of the embedded broker or of a RabbitMQ."""

    name: str

    @property
    def messages(self) -> int:
        """Number of messages in the queue that are ready for delivery."""
        ...

    @property
    def consumers(self) -> int:
        """How many consumers it has."""
        ...

    def bodies(self) -> list[bytes]:
        """The bodies of the messages that are ready for delivery, in the order of their delivery."""
        ...


class AnyBroker(Protocol):
    """A broker that a test uses: the embedded one, or a RabbitMQ that the tests were given by ``--amqp-url``."""

    @property
    def url(self) -> str:
        """The URL to connect to over TCP, for any AMQP client."""
        ...

    @property
    def connections(self) -> list[ConnectionView]:
        """The open connections, oldest first."""
        ...

    async def dial(self, _address: object = None) -> anyio.abc.ByteStream:
        """Open a transport: ``connect(broker.url, dial=broker.dial)``."""
        ...

    def queue(self, name: str) -> AnyQueue:
        """The queue of that name.

        Raises:
            LookupError: there is none.
        """
        ...

    def connection(self, name: str) -> ConnectionView:
        """The open connection of that name.

        Raises:
            LookupError: there is none, or more than one.
        """
        ...

    def published(self, *, exchange: str | None = None, routing_key: str | None = None) -> Published:
        """The messages that were published, oldest first: all, or those to an exchange or with a routing key."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A connection of the broker, as it was when it was asked for.

    Attributes:
        name: the client's name for it; ``"unnamed"`` if it has none.
        state: ``"blocked"`` if the client was told to stop publishing.
        channels: the numbers of its channels.
        virtual_host: its virtual host.
    """

    name: str
    state: ConnectionState
    channels: tuple[int, ...]
    virtual_host: str


class QueueView:
    """A queue of the embedded broker, as it is now.

    Attributes:
        name: its name.
    """

    def __init__(self, queue: Queue) -> None:
        self.name: str = queue.name
        self._queue = queue

    def __repr__(self) -> str:
        return (
            f"<queue {self.name!r}: {self.messages} messages ready, {self.unacked} unacked, {self.consumers} consumers>"
        )

    @property
    def messages(self) -> int:
        """Number of messages in the queue that are ready for delivery."""
        return len(self._queue.ready)

    @property
    def unacked(self) -> int:
        """Number of messages that are delivered and not settled."""
        return self._queue.unacked

    @property
    def consumers(self) -> int:
        """How many consumers it has."""
        return len(self._queue.consumers)

    def bodies(self) -> list[bytes]:
        """The bodies of the messages that wait, oldest first."""
        return [entry.message.body for entry in self._queue.ready]


class Published(Sequence[PublishedMessage]):
    """The published messages that match a filter.

    Args:
        record: all published messages.
        exchange: the exchange to select; None for all.
        routing_key: the routing key to select; None for all.
    """

    def __init__(self, record: Record, exchange: str | None, routing_key: str | None) -> None:
        self._all = list(record)
        self._forgotten = record.forgotten
        self._wanted = (exchange, routing_key)
        self._matching = [
            one for one in self._all if exchange in (None, one.exchange) and routing_key in (None, one.routing_key)
        ]

    @overload
    def __getitem__(self, index: int) -> PublishedMessage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PublishedMessage]: ...
    def __getitem__(self, index: int | slice) -> PublishedMessage | Sequence[PublishedMessage]:
        return self._matching[index]

    def __len__(self) -> int:
        return len(self._matching)

    def __iter__(self) -> Iterator[PublishedMessage]:
        return iter(self._matching)

    def __repr__(self) -> str:
        if self._matching:
            return f"<{len(self)} published: {_places(self._matching)}>"
        text = f"<nothing published{self._filter()}"
        if self._all:
            text += f"; there is: {_places(self._all)}"
        if self._forgotten:
            text += f"; the {self._forgotten} oldest messages are no longer recorded"
        return text + ">"

    @property
    def bodies(self) -> list[bytes]:
        """The bodies, oldest first."""
        return [one.body for one in self._matching]

    def one(self) -> PublishedMessage:
        """The only message.

        Raises:
            LookupError: there is none, or more than one.
        """
        if len(self._matching) != 1:
            raise LookupError(f"one message expected{self._filter()}, but {self!r}")
        return self._matching[0]

    def _filter(self) -> str:
        exchange, routing_key = self._wanted
        place = "" if exchange is None else f" to {_exchange(exchange)}"
        return place if routing_key is None else f"{place} with routing key {routing_key!r}"


class Observed:
    """The state of an embedded broker, for assertions.

    Args:
        conditions: its entities and faults.
        served: its connections, oldest first.
    """

    def __init__(self, conditions: Conditions, served: Mapping[Served, None]) -> None:
        self._conditions: Conditions = conditions
        self._served: Mapping[Served, None] = served

    @property
    def model(self) -> Model:
        """The entities of the virtual host ``/``, and their messages."""
        return self._conditions.hosts["/"]

    @property
    def blocked(self) -> str | None:
        """Why publishers are blocked; None if they are not."""
        return self._conditions.blocked

    @property
    def is_frozen(self) -> bool:
        """Whether the broker has stopped answering."""
        return self._conditions.is_frozen

    @property
    def unexpected_closes(self) -> list[str]:
        """Names of the connections whose client left without a close handshake, as RabbitMQ logs them.

        Connections that the broker's own faults ended are not counted.
        """
        return self._conditions.unexpected_closes

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._served)

    @property
    def channel_count(self) -> int:
        """How many channels are open on all connections."""
        return sum(len(connection.peer.channels) for connection in self._served)

    @property
    def channels(self) -> list[tuple[str, tuple[int, ...]]]:
        """Each connection's name and the numbers of its channels, in the order in which they came."""
        return [(connection.peer.name, tuple(connection.peer.channels)) for connection in self._served]

    @property
    def connections(self) -> list[ConnectionView]:
        """The open connections, oldest first."""
        return [_connection(connection) for connection in self._served]

    def connection(self, name: str) -> ConnectionView:
        """The open connection of that name.

        Raises:
            LookupError: there is none, or more than one.
        """
        return only_connection(self.connections, name)

    @property
    def queues(self) -> Mapping[str, QueueView]:
        """The queues of the virtual host ``/`` by name."""
        return MappingProxyType({name: QueueView(queue) for name, queue in self.model.queues.items()})

    def queue(self, name: str, *, virtual_host: str = "/") -> QueueView:
        """The queue of that name.

        Raises:
            LookupError: there is no such queue, or no such virtual host.
        """
        model = self._model(virtual_host)
        queue = model.queues.get(name)
        if queue is None:
            raise missing("queue", name, model.queues, where=f" in virtual host {virtual_host!r}")
        return QueueView(queue)

    def published(
        self, *, exchange: str | None = None, routing_key: str | None = None, virtual_host: str = "/"
    ) -> Published:
        """The messages that were published, oldest first: all, or those to an exchange or with a routing key.

        The broker records the last 10,000 messages, and at most 16 MiB of bodies. Dead-lettered messages do not count.

        Raises:
            LookupError: there is no such virtual host.
        """
        return Published(self._model(virtual_host).record, exchange, routing_key)

    def _model(self, virtual_host: str) -> Model:
        model = self._conditions.hosts.get(virtual_host)
        if model is None:
            raise missing("virtual host", virtual_host, [one.name for one in self._conditions.hosts])
        return model


async def eventually(condition: Callable[[], T], *, within: float = 5.0) -> T:
    """Wait until ``condition`` returns something true, and return that.

    Args:
        condition: asked again and again, after pauses that grow from a millisecond to a tenth of a second. A
            LookupError, of a queue that is not there yet, counts as not true.
        within: seconds on the event loop's clock.

    Raises:
        AssertionError: it did not become true in time; its cause is the last LookupError.
    """
    error: LookupError | None = None
    pause = 0.001
    with anyio.move_on_after(within):
        while True:
            try:
                result, error = condition(), None
            except LookupError as lookup:
                error = lookup
            else:
                if result:
                    return result
            await anyio.sleep(pause)
            pause = min(2 * pause, 0.1)
    raise AssertionError(f"did not become true within {within} s") from error


def only_connection(connections: Sequence[ConnectionView], name: str) -> ConnectionView:
    """The connection of that name.

    Raises:
        LookupError: there is none, or more than one.
    """
    found = [one for one in connections if one.name == name]
    if len(found) > 1:
        raise LookupError(f"{len(found)} connections have the name {name!r}")
    if not found:
        raise missing("connection", name, [one.name for one in connections])
    return found[0]


def missing(kind: str, name: str, there: Iterable[str], *, where: str = "") -> LookupError:
    """The error of a lookup that names the things that are there."""
    names = sorted(there)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    known = ", ".join(map(repr, names[:_MOST_NAMED])) + more if names else "none at all"
    return LookupError(f"no {kind} {name!r}{where}; there is: {known}")


def _connection(served: Served) -> ConnectionView:
    peer = served.peer
    state: ConnectionState = "opening"
    if peer.is_closing or peer.is_over:
        state = "closing"
    elif peer.is_notified_of_block:
        state = "blocked"
    elif peer.is_open:
        state = "open"
    return ConnectionView(peer.name, state, tuple(peer.channels), peer.model.name)


def _places(messages: Iterable[PublishedMessage]) -> str:
    counts = Counter((one.exchange, one.routing_key) for one in messages)
    shown = [f"{count} to {_exchange(place[0])} with {place[1]!r}" for place, count in counts.most_common(_MOST_NAMED)]
    more = f" and {len(counts) - _MOST_NAMED} more places" if len(counts) > _MOST_NAMED else ""
    return ", ".join(shown) + more


def _exchange(name: str) -> str:
    return f"exchange {name!r}" if name else "the default exchange"
