"""The unsettled deliveries of a channel of the embedded broker, and its consumers."""

from __future__ import annotations

from typing import Protocol

from anyamqp.errors import NotAllowed, PreconditionFailed
from anyamqp.message import FieldTable
from anyamqp.testing.embedded.access import Access
from anyamqp.testing.embedded.consumer_arguments import Terms
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
        access: the permissions of the user.
    """

    model: Model
    access: Access
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
        priority: its ``x-priority``.
        unacked: number of its unsettled messages.
    """

    def __init__(self, deliveries: Deliveries, tag: str, queue: Queue, terms: Terms) -> None:
        self.tag: str = tag
        self.queue: Queue = queue
        self.priority: int = terms.priority
        self.unacked: int = 0
        self._deliveries = deliveries
        self._terms = terms

    def can_take(self) -> bool:
        """Whether there is room in its prefetch, in its channel's, and in the connection's output."""
        prefetch = 0 if self._terms.no_ack else self._terms.prefetch
        return (not prefetch or self.unacked < prefetch) and self._deliveries.have_room(no_ack=self._terms.no_ack)

    def take(self, queue: Queue, entry: Entry) -> None:
        """Deliver a message."""
        no_ack = self._terms.no_ack
        tag = self._deliveries.hand_out(queue, entry, None if no_ack else self, no_ack=no_ack)
        entry = queue.outgoing(entry, is_get=False)
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
        self.prefetch: int = 0
        self.shared_prefetch: int = 0
        self._consumers: dict[str, Consumer] = {}
        self._unacked: dict[int, tuple[Queue, Entry, Consumer | None]] = {}
        self._set_aside: dict[int, tuple[Queue, Entry, Consumer | None]] = {}
        self._last_tag = 0

    # --- consumers --------------------------------------------------------------------------------------------------

    def set_prefetch(self, count: int, *, shared: bool) -> None:
        """Set the prefetch of new consumers, or of all consumers together."""
        if shared and self.peer.model.rules.shares_prefetch:
            self.shared_prefetch = count
        else:
            self.prefetch = count

    def add(self, queue: Queue, tag: str, *, no_ack: bool, exclusive: bool, arguments: FieldTable) -> None:
        """Add a consumer. Its deliveries begin with the next :meth:`pump`.

        Raises:
            NotAllowed: the channel already has a consumer with that tag.
            ReplyError: the queue refuses the consumer.
        """
        self.check_tag(tag)
        terms = Terms(
            no_ack=no_ack,
            exclusive=exclusive,
            prefetch=self.prefetch,
            shared_prefetch=self.shared_prefetch,
            arguments=arguments,
        )
        queue.check_consumer(terms)
        consumer = self._consumers[tag] = Consumer(self, tag, queue, terms)
        queue.add_consumer(consumer, terms)

    def remove(self, tag: str) -> Queue | None:
        """End a consumer. An auto-delete queue is deleted with its last consumer.

        Returns:
            Its queue, in which messages may wait for another consumer; None if the tag is unknown.
        """
        consumer = self._consumers.pop(tag, None)
        if consumer is None:
            return None
        consumer.queue.remove_consumer(consumer)
        return consumer.queue

    def forget(self, consumer: Consumer) -> None:
        """Remove a consumer whose queue is deleted; tell the client, if it has that capability."""
        self._consumers.pop(consumer.tag, None)
        if self.peer.takes_cancel:
            self.peer.write(self.number, methods.Basic.Cancel(consumer.tag, nowait=True))

    def cancel(self, tag: str | None = None, queue: str | None = None) -> None:
        """End consumers as RabbitMQ does when their queue becomes unavailable: the client is told.

        Args:
            tag: the tag of the consumer; None for any.
            queue: the name of its queue; None for any.
        """
        for consumer in list(self._consumers.values()):
            if tag in (None, consumer.tag) and queue in (None, consumer.queue.name):
                self.remove(consumer.tag)
                self.forget(consumer)

    def pump(self) -> None:
        """Deliver waiting messages to the consumers."""
        for consumer in list(self._consumers.values()):
            consumer.queue.pump()

    def check_tag(self, tag: str) -> None:
        """Check that a new consumer may have a tag.

        Raises:
            NotAllowed: the channel already has a consumer with that tag.
        """
        if tag in self._consumers:
            raise NotAllowed(f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'")

    def leave(self) -> None:
        """End the consumers of a closed channel, and requeue its unsettled deliveries."""
        self.restore()
        queues = [queue for tag in list(self._consumers) if (queue := self.remove(tag)) is not None]
        self._take_back(list(self._unacked), Outcome.RETURNED)
        for queue in queues:
            queue.pump()

    # --- messages ---------------------------------------------------------------------------------------------------

    def have_room(self, *, no_ack: bool) -> bool:
        """Whether the connection's buffer has room, and the prefetch that all consumers with acks share."""
        if self.shared_prefetch and not no_ack:
            unsettled = (*self._unacked.values(), *self._set_aside.values())
            shared = sum(consumer is not None for _, _, consumer in unsettled)
            if shared >= self.shared_prefetch:
                return False
        return self.peer.has_room()

    def hand_out(self, queue: Queue, entry: Entry, consumer: Consumer | None, *, no_ack: bool) -> int:
        """Take note of a delivery. Returns its tag."""
        tag = self.next_tag()
        if not no_ack:
            if consumer is not None:
                consumer.unacked += 1
            queue.unacked += 1
            self._unacked[tag] = (queue, entry, consumer)
        return tag

    def tag_of_reply(self) -> int:
        """The delivery tag of a direct reply. Before 4.3, the next delivery has the same tag."""
        return self.next_tag() if self.peer.model.rules.replies_have_a_queue else self._last_tag + 1

    def next_tag(self) -> int:
        """A new delivery tag."""
        self._last_tag += 1
        return self._last_tag

    def settle(self, tag: int, outcome: Outcome, *, multiple: bool = False) -> None:
        """Settle one delivery, or all up to it; with ``multiple``, tag 0 is all.

        Raises:
            PreconditionFailed: there is no such delivery.
        """
        self._take_back(self._chosen(tag, outcome, multiple=multiple), outcome)

    def recover(self, *, is_answered: bool) -> None:
        """Requeue all deliveries, after the answer to basic.recover.

        Raises:
            ReplyError: a queue cannot take its messages back.
        """
        tags = self._chosen(0, Outcome.RECOVERED, multiple=True)
        if is_answered:
            self.peer.write(self.number, methods.Basic.RecoverOk())
        self._take_back(tags, Outcome.RECOVERED)

    def set_aside(self, tag: int, outcome: Outcome, *, multiple: bool) -> list[int]:
        """Set deliveries aside that a transaction will settle. Returns their tags.

        Raises:
            PreconditionFailed: there is no such delivery.
        """
        tags = self._chosen(tag, outcome, multiple=multiple)
        for one in tags:
            self._set_aside[one] = self._unacked.pop(one)
        return tags

    def settle_set_aside(self, tags: list[int], outcome: Outcome) -> None:
        """Settle deliveries that were set aside."""
        for tag in tags:
            self._unacked[tag] = self._set_aside.pop(tag)
        self._take_back(tags, outcome)

    def restore(self) -> None:
        """Undo :meth:`set_aside` for all deliveries that are set aside."""
        self._unacked = dict(sorted((self._unacked | self._set_aside).items()))
        self._set_aside.clear()

    def _chosen(self, tag: int, outcome: Outcome, *, multiple: bool) -> list[int]:
        if (not multiple or tag) and tag not in self._unacked:
            raise PreconditionFailed(f"PRECONDITION_FAILED - unknown delivery tag {tag}")
        tags = [one for one in self._unacked if one <= tag or not tag] if multiple else [tag]
        for one in tags:
            self._unacked[one][0].check_settlement(outcome)
        return tags

    def _take_back(self, tags: list[int], outcome: Outcome) -> None:
        settled: dict[Queue, list[Entry]] = {}
        for tag in tags:
            queue, entry, consumer = self._unacked.pop(tag)
            settled.setdefault(queue, []).append(entry)
            if consumer is not None:
                consumer.unacked -= 1
        for queue, entries in settled.items():
            queue.settle_all(entries, outcome)
        for queue in settled:
            queue.pump()
        if self.shared_prefetch:
            self.pump()
