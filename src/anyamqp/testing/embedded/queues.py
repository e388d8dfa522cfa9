"""The queues of the embedded broker and the messages in them. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from anyamqp.message import FieldTable, Message


@dataclass(slots=True)
class Entry:
    """A message in a queue.

    Attributes:
        position: its place in the queue, which it takes again when it is requeued.
        redelivered: whether it was delivered before.
    """

    message: Message
    exchange: str
    routing_key: str
    position: int
    redelivered: bool = False


class Subscriber(Protocol):
    """A consumer, as a queue sees it."""

    def can_take(self) -> bool:
        """Whether its prefetch and its connection's buffer have room."""
        ...

    def take(self, queue: Queue, entry: Entry) -> None:
        """Deliver a message."""
        ...

    def cancel(self) -> None:
        """The queue is deleted."""
        ...


@dataclass(slots=True, eq=False)
class Queue:
    """A queue and its waiting messages.

    Attributes:
        owner: the connection that has it exclusively.
        unacked: how many messages are delivered and not settled.
    """

    name: str
    durable: bool
    owner: object | None
    auto_delete: bool
    arguments: FieldTable
    ready: deque[Entry] = field(default_factory=deque[Entry])
    consumers: deque[Subscriber] = field(default_factory=deque[Subscriber])
    has_exclusive_consumer: bool = False
    unacked: int = 0
    _last_position: int = 0

    def put(self, message: Message, exchange: str, routing_key: str) -> None:
        """Append a message."""
        self._last_position += 1
        self.ready.append(Entry(message, exchange, routing_key, self._last_position))

    def put_back(self, entry: Entry) -> None:
        """Requeue a message at its old place."""
        entry.redelivered = True
        behind: list[Entry] = []
        while self.ready and self.ready[0].position < entry.position:
            behind.append(self.ready.popleft())
        self.ready.appendleft(entry)
        self.ready.extendleft(reversed(behind))

    def pump(self) -> None:
        """Deliver as many messages as possible, to one consumer after the other."""
        idle = 0
        while self.ready and idle < len(self.consumers):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.can_take():
                idle = 0
                consumer.take(self, self.ready.popleft())
            else:
                idle += 1
