"""The unsettled deliveries of a channel of the embedded broker, and its consumers."""

from __future__ import annotations

from typing import Protocol

from anyamqp.errors import AccessRefused, NotAllowed, PreconditionFailed
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.queues import Outcome, Queue
from anyamqp.testing.embedded.ready import Entry
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from anyamqp.wire.methods import Method


class Owner(Protocol):
    """The connection of a channel.

    Attributes:
        model: the state that all connections share.
        takes_cancel: whether the client wants to be told of consumers that the broker ends.
        has_published: whether the client has published; the broker blocks only such clients.
    """

    model: Model
    takes_cancel: bool
    has_published: bool

    def has_room(self) -> bool:
        """Whether the output has room for deliveries."""
        ...

    def write(self, number: int, method: Method) -> None:
        """Append a method to the output."""
        ...

    def write_content(self, number: int, method: Method, entry: Entry) -> None:
        """Append a method with content to the output."""
        ...


class Consumer:
    """A consumer on a channel: a :class:`~anyamqp.testing.embedded.queues.Subscriber`.

    Attributes:
        tag: its tag.
        queue: the queue that it consumes.
        unacked: number of its unsettled messages.
    """

    def __init__(self, deliveries: Deliveries, tag: str, queue: Queue, *, no_ack: bool, prefetch: int) -> None:
        self.tag = tag
        self.queue = queue
        self.unacked = 0
        self._deliveries = deliveries
        self._no_ack = no_ack
        self._prefetch = prefetch

    def can_take(self) -> bool:
        """Whether there is room in its prefetch, in its channel's, and in the connection's output."""
        return (not self._prefetch or self.unacked < self._prefetch) and self._deliveries.have_room()

    def take(self, queue: Queue, entry: Entry) -> None:
        """Deliver a message."""
        tag = self._deliveries.hand_out(queue, entry, None if self._no_ack else self, no_ack=self._no_ack)
        method = build(methods.Basic.Deliver, self.tag, tag, entry.redelivered, entry.exchange, entry.routing_key)
        self._deliveries.peer.write_content(self._deliveries.number, method, entry)

    def cancel(self) -> None:
        """The queue is deleted."""
        self._deliveries.forget(self)


class Deliveries:
    """The consumers and the unsettled messages of a channel.

    Args:
        peer: the connection.
        number: the channel's number.

    Attributes:
        prefetch: the most unsettled messages of each new consumer; 0 for any number.
        shared_prefetch: the most unsettled messages of all consumers together; 0 for any number.
    """

    def __init__(self, peer: Owner, number: int) -> None:
        self.peer = peer
        self.number = number
        self.prefetch = 0
        self.shared_prefetch = 0
        self._consumers: dict[str, Consumer] = {}
        self._unacked: dict[int, tuple[Queue, Entry, Consumer | None]] = {}
        self._last_tag = 0

    # --- consumers --------------------------------------------------------------------------------------------------

    def add(self, queue: Queue, tag: str, *, no_ack: bool, exclusive: bool) -> None:
        """Add a consumer. Its deliveries begin with the next :meth:`pump`.

        Raises:
            NotAllowed: the channel already has a consumer with that tag.
            AccessRefused: the queue has an exclusive consumer, or this one is exclusive and the queue has others.
        """
        if tag in self._consumers:
            raise NotAllowed(f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'")
        if queue.consumers.is_exclusive or (exclusive and queue.consumers):
            raise AccessRefused(f"ACCESS_REFUSED - queue '{queue.name}' in vhost '/' in exclusive use")
        consumer = Consumer(self, tag, queue, no_ack=no_ack, prefetch=self.prefetch)
        self._consumers[tag] = consumer
        queue.add_consumer(consumer, exclusive=exclusive)

    def remove(self, tag: str) -> None:
        """End a consumer; an unknown tag is no error. An auto-delete queue is deleted with its last consumer."""
        consumer = self._consumers.pop(tag, None)
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)

    def forget(self, consumer: Consumer) -> None:
        """Remove a consumer whose queue is deleted; tell the client, if it has that capability."""
        self._consumers.pop(consumer.tag, None)
        if self.peer.takes_cancel:
            self.peer.write(self.number, methods.Basic.Cancel(consumer.tag, nowait=True))

    def pump(self) -> None:
        """Deliver waiting messages to the consumers."""
        for consumer in list(self._consumers.values()):
            consumer.queue.pump()

    def leave(self) -> None:
        """End the consumers of a closed channel, and requeue its unsettled deliveries."""
        for tag in list(self._consumers):
            self.remove(tag)
        self._take_back(list(self._unacked), Outcome.RETURNED)

    # --- messages ---------------------------------------------------------------------------------------------------

    def have_room(self) -> bool:
        """Whether the prefetch that all consumers share and the connection's buffer have room."""
        if self.shared_prefetch:
            shared = sum(consumer is not None for _, _, consumer in self._unacked.values())
            if shared >= self.shared_prefetch:
                return False
        return self.peer.has_room()

    def hand_out(self, queue: Queue, entry: Entry, consumer: Consumer | None, *, no_ack: bool) -> int:
        """Take note of a delivery. Returns its tag."""
        self._last_tag += 1
        if not no_ack:
            if consumer is not None:
                consumer.unacked += 1
            queue.unacked += 1
            self._unacked[self._last_tag] = (queue, entry, consumer)
        return self._last_tag

    def settle(self, tag: int, outcome: Outcome, *, multiple: bool = False) -> None:
        """Settle one delivery, or all up to it; with ``multiple``, tag 0 is all.

        Raises:
            PreconditionFailed: there is no such delivery.
        """
        if (not multiple or tag) and tag not in self._unacked:
            raise PreconditionFailed(f"PRECONDITION_FAILED - unknown delivery tag {tag}")
        self._take_back([one for one in self._unacked if one <= tag or not tag] if multiple else [tag], outcome)

    def _take_back(self, tags: list[int], outcome: Outcome) -> None:
        queues: dict[str, Queue] = {}
        for tag in tags if outcome is Outcome.DISCARDED else reversed(tags):
            queue, entry, consumer = self._unacked.pop(tag)
            queues[queue.name] = queue
            if consumer is not None:
                consumer.unacked -= 1
            queue.settle(entry, outcome)
        for queue in queues.values():
            queue.pump()
        if self.shared_prefetch:
            self.pump()
