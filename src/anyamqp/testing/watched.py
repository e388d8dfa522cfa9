"""A connection between a client and a RabbitMQ, as its bytes show it. No I/O."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any

from anyamqp.errors import ReplyError
from anyamqp.testing.embedded.record import Record
from anyamqp.testing.views import ConnectionState, ConnectionView
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import Frame, Payload
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Header


class Declared:
    """The entities that were declared, which a test has to leave no trace of.

    Exclusive queues are left out: they go with their connection.

    Attributes:
        queues: names of queues.
        exchanges: names of exchanges.
    """

    def __init__(self) -> None:
        self.queues: set[str] = set()
        self.exchanges: set[str] = set()

    def add(self, method: Method, name: str) -> None:
        """Add the entity of a declare method that has succeeded, under the name that the broker gave to it."""
        if isinstance(method, methods.Queue.Declare) and not method.passive and not method.exclusive:
            self.queues.add(name)
        elif isinstance(method, methods.Exchange.Declare) and not method.passive and not name.startswith("amq."):
            self.exchanges.add(name)


class _Publishing:
    """A message on its way through a channel."""

    def __init__(self, method: methods.Basic.Publish) -> None:
        self.method = method
        self.header: Header | None = None
        self.body: list[bytes | memoryview] = []

    def add(self, payload: Payload) -> bool:
        """Take the header or a part of the body. Returns whether the message is complete."""
        if isinstance(payload, Header):
            self.header = payload
        elif isinstance(payload, bytes | memoryview):
            self.body.append(payload)
        return self.header is not None and sum(map(len, self.body)) >= self.header.body_size


class Watched:
    """A connection that passes through a relay.

    Bytes that are not AMQP end the watch of their direction; the relay passes them on all the same.

    Args:
        record: takes the messages that the client publishes.
        declared: takes the entities that the client declares.
    """

    def __init__(self, record: Record, declared: Declared) -> None:
        self._record = record
        self._declared = declared
        self._name = "unnamed"
        self._virtual_host = ""
        self._state: ConnectionState = "opening"
        self._channels: dict[int, None] = {}
        self._publishing: dict[int, _Publishing] = {}
        self._declaring: defaultdict[int, deque[Method]] = defaultdict(deque)
        self._from_client = Decoder(0, as_server=True)
        self._from_broker = Decoder(0)

    @property
    def view(self) -> ConnectionView:
        """The connection as it is now."""
        return ConnectionView(self._name, self._state, tuple(self._channels), self._virtual_host)

    def sent(self, data: bytes) -> None:
        """The client has sent bytes."""
        for number, payload in _frames(self._from_client, data):
            publishing = self._publishing.get(number)
            if isinstance(payload, Method):
                self._requested(number, payload)
            elif publishing is not None and publishing.add(payload) and publishing.header is not None:
                del self._publishing[number]
                message = Received(b"".join(publishing.body), publishing.header.encoded)
                self._record.add(publishing.method.exchange, publishing.method.routing_key, message)

    def received(self, data: bytes) -> None:
        """The broker has sent bytes."""
        for number, payload in _frames(self._from_broker, data):
            if isinstance(payload, methods.Connection.OpenOk | methods.Connection.Unblocked):
                self._state = "open"
            elif isinstance(payload, methods.Connection.Blocked):
                self._state = "blocked"
            elif isinstance(payload, methods.Connection.Close):
                self._state = "closing"
            elif isinstance(payload, methods.Channel.OpenOk):
                self._channels[number] = None
            elif isinstance(payload, methods.Channel.Close | methods.Channel.CloseOk):
                self._channels.pop(number, None)
                self._declaring.pop(number, None)
                self._publishing.pop(number, None)
            elif isinstance(payload, methods.Queue.DeclareOk):
                self._declared.add(self._declaring[number].popleft(), payload.queue)
            elif isinstance(payload, methods.Exchange.DeclareOk):
                declare = self._declaring[number].popleft()
                self._declared.add(declare, getattr(declare, "exchange", ""))

    def _requested(self, number: int, method: Method) -> None:
        if isinstance(method, methods.Basic.Publish):
            self._publishing[number] = _Publishing(method)
        elif isinstance(method, methods.Queue.Declare | methods.Exchange.Declare):
            if method.nowait:
                name: Any = getattr(method, "queue", None) or getattr(method, "exchange", "")
                self._declared.add(method, name)
            else:
                self._declaring[number].append(method)
        elif isinstance(method, methods.Connection.StartOk):
            self._name = str(method.client_properties.get("connection_name", "unnamed"))
        elif isinstance(method, methods.Connection.Open):
            self._virtual_host = method.virtual_host
        elif isinstance(method, methods.Connection.Close):
            self._state = "closing"


def _frames(decoder: Decoder, data: bytes) -> Iterator[Frame]:
    decoder.feed(data)
    try:
        yield from decoder.frames()
    except ReplyError:
        return
