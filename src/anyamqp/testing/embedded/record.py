"""The messages that were published to a broker, for the assertions of tests. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from anyamqp.message import Message, Properties

MOST_MESSAGES: Final = 10_000
MOST_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PublishedMessage:
    """A message as it was published.

    Attributes:
        exchange: the exchange that it was published to; empty for the default exchange.
        routing_key: its routing key.
        message: its body and properties.
    """

    exchange: str
    routing_key: str
    message: Message

    @property
    def body(self) -> bytes:
        """The body."""
        return self.message.body

    @property
    def properties(self) -> Properties:
        """The properties, headers included.

        Raises:
            MalformedProperties: they cannot be read.
        """
        return self.message.properties


class Record:
    """The last messages that were published: at most :data:`MOST_MESSAGES`, with :data:`MOST_BYTES` of bodies.

    Attributes:
        forgotten: how many messages were dropped to keep within these bounds.
    """

    def __init__(self) -> None:
        self.forgotten: int = 0
        self._messages: deque[PublishedMessage] = deque()
        self._size = 0

    def __iter__(self) -> Iterator[PublishedMessage]:
        return iter(list(self._messages))

    def add(self, exchange: str, routing_key: str, message: Message) -> None:
        """Record a message, and drop the oldest ones that are too many."""
        self._messages.append(PublishedMessage(exchange, routing_key, message))
        self._size += len(message.body)
        while len(self._messages) > MOST_MESSAGES or self._size > MOST_BYTES:
            self._size -= len(self._messages.popleft().body)
            self.forgotten += 1
