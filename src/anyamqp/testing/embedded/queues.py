"""The queues of the embedded broker. No I/O.

:class:`Queue` is RabbitMQ's classic queue, and the base of the other types: a subclass overrides what happens to a
message that comes, is settled, expires or has no room.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from anyamqp.errors import AccessRefused, PreconditionFailed
from anyamqp.message import FieldTable, Message
from anyamqp.testing.embedded.consumer_arguments import Terms, check_consumer_arguments
from anyamqp.testing.embedded.consumers import Consumers, SingleActive, Taker
from anyamqp.testing.embedded.contents import time_to_live
from anyamqp.testing.embedded.queue_arguments import Overflow, Settings
from anyamqp.testing.embedded.ready import Entry, Ready
from anyamqp.testing.embedded.timers import Timer, Timers
from anyamqp.testing.embedded.versions import Rules


class Reason(Enum):
    """Why a message is dead-lettered; the value stands in its ``x-death`` header."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    MAXLEN = "maxlen"
    DELIVERY_LIMIT = "delivery_limit"


class Outcome(Enum):
    """How a delivery is settled."""

    ACKED = auto()
    REJECTED = auto()
    """By basic.reject, without requeue."""
    DISCARDED = auto()
    """By basic.nack, without requeue."""
    NACKED = auto()
    """By basic.nack, with requeue."""
    REQUEUED = auto()
    """By basic.reject, with requeue."""
    RECOVERED = auto()
    """By basic.recover."""
    RETURNED = auto()
    """Its channel was closed."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A queue as queue.declare asks for it.

    Attributes:
        owner: the connection that has it exclusively.
    """

    name: str
    durable: bool
    owner: object | None = None
    auto_delete: bool = False
    arguments: FieldTable = field(default_factory=dict[str, str])


class Subscriber(Taker, Protocol):
    """A consumer, as a queue sees it."""

    def take(self, queue: Queue, entry: Entry) -> None:
        """Deliver a message."""
        ...

    def cancel(self) -> None:
        """The queue is deleted."""
        ...


class Host(Protocol):
    """The virtual host of a queue.

    Attributes:
        name: its name.
        rules: how the version of RabbitMQ behaves that the broker follows.
        timers: what is to happen later.
    """

    name: str
    rules: Rules
    timers: Timers

    def dead_letter(self, queue: Queue, entry: Entry, reason: Reason) -> None:
        """Publish a message that the queue has dropped to its dead letter exchange, if it has one."""
        ...

    def delete_queue(self, queue: Queue) -> int:
        """Delete a queue."""
        ...


class Queue:
    """A classic queue: its waiting messages and its consumers.

    Args:
        declaration: its name and properties, which are valid.
        host: its virtual host.

    Attributes:
        owner: the connection that has it exclusively.
        settings: its arguments, read.
        is_single_active: whether one consumer gets all messages.
        ready: the messages that wait.
        unacked: how many messages are delivered and not settled.
    """

    def __init__(self, declaration: Declaration, host: Host) -> None:
        self.name: str = declaration.name
        self.durable: bool = declaration.durable
        self.owner: object | None = declaration.owner
        self.auto_delete: bool = declaration.auto_delete
        self.arguments: FieldTable = declaration.arguments
        self.settings: Settings = Settings.read(declaration.arguments, host.rules)
        self.is_single_active: bool = declaration.arguments.get("x-single-active-consumer") is True
        self.host: Host = host
        self.ready: Ready = self._new_ready()
        self.consumers: Consumers[Subscriber] = self._new_consumers()
        self.unacked: int = 0
        self._last_position = 0
        self._idle_timer: Timer | None = None
        self._head_timer: Timer | None = None
        self.renew()

    @property
    def told(self) -> str:
        """The queue as error texts name it."""
        return f"queue '{self.name}' in vhost '{self.host.name}'"

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of messages and of consumers that queue.declare-ok names."""
        return len(self.ready), len(self.consumers)

    @property
    def deletion_count(self) -> int:
        """The number of messages that queue.delete-ok names."""
        return len(self.ready)

    def check_deletable(self, *, if_unused: bool, if_empty: bool) -> None:
        """Check the conditions of a deletion.

        Raises:
            ReplyError: the queue has consumers or messages, or its type knows no such conditions.
        """
        if if_unused and self.consumers:
            raise PreconditionFailed(f"PRECONDITION_FAILED - {self.told} in use")
        if if_empty and self.ready:
            raise PreconditionFailed(f"PRECONDITION_FAILED - {self.told} not empty")

    def _new_ready(self) -> Ready:
        return Ready(self.settings.max_priority)

    def _new_consumers(self) -> Consumers[Subscriber]:
        if self.is_single_active:
            return SingleActive(by_priority=True, gives_way=False)
        return Consumers()

    # --- messages ---------------------------------------------------------------------------------------------------

    def put(
        self,
        message: Message,
        exchange: str,
        routing_key: str,
        routing_keys: Iterable[str] = (),
        *,
        redelivered: bool = False,
    ) -> bool:
        """Take a published message, or a dead letter: deliver it, or keep it.

        Args:
            message: the message.
            exchange: the exchange that it was published to.
            routing_key: the routing key of basic.publish.
            routing_keys: all keys that it was published with; empty for that key only.
            redelivered: it counts as delivered before.

        Returns:
            Whether the queue has room for it, so that its publisher may be told that it is there.
        """
        self._last_position += 1
        entry = Entry(
            message,
            exchange,
            routing_key,
            self._last_position,
            redelivered,
            self._expiry_of(message),
            self._priority_of(message),
            tuple(routing_keys),
        )
        if self.settings.overflow is not Overflow.DROP_HEAD and self._is_full_for(entry):
            if self.settings.overflow is Overflow.REJECT_PUBLISH_DLX:
                self.host.dead_letter(self, entry, Reason.MAXLEN)
            return False
        self.pump()
        if not self.ready and (consumer := self.consumers.next()) is not None:
            consumer.take(self, entry)
        else:
            self.ready.append(entry)
            self._drop_excess()
            self.drop_expired()
        return True

    def check_settlement(self, outcome: Outcome) -> None:
        """Check that a client may settle a delivery like this.

        Raises:
            ReplyError: the type of queue does not support it.
        """

    def settle_all(self, entries: list[Entry], outcome: Outcome) -> None:
        """End deliveries, oldest first. :meth:`pump` is still to be called."""
        # A message that goes back to its place passes those ahead of it: beginning with the last saves that.
        for entry in entries if outcome in (Outcome.REJECTED, Outcome.DISCARDED) else reversed(entries):
            self.settle(entry, outcome)

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """End a delivery that :meth:`take` or a consumer began, and was to be settled."""
        self._delivery_ended()
        entry.has_failed |= outcome in (Outcome.REJECTED, Outcome.REQUEUED, Outcome.RETURNED)
        if outcome in (Outcome.REJECTED, Outcome.DISCARDED):
            self.host.dead_letter(self, entry, Reason.REJECTED)
        elif outcome is not Outcome.ACKED:
            self.put_back(entry)

    def _delivery_ended(self) -> None:
        self.unacked -= 1

    def put_back(self, entry: Entry) -> None:
        """Requeue a message at its old place; it counts as redelivered. :meth:`pump` is still to be called."""
        entry.redelivered = True
        self.ready.put_back(entry)
        self._drop_excess()

    def take(self) -> Entry | None:
        """The head, removed for basic.get; None if no message waits."""
        self.renew()
        self.drop_expired()
        entry = self.ready.popleft() if self.ready else None
        self.drop_expired()
        return entry

    def outgoing(self, entry: Entry, *, is_get: bool) -> Entry:  # noqa: ARG002 - for subclasses
        """A message as it is sent to a client, by basic.get or to a consumer."""
        return entry

    def purge(self) -> int:
        """Drop all waiting messages. Returns their number."""
        self.drop_expired()
        count = len(self.ready)
        self.ready.clear()
        return count

    def pump(self) -> None:
        """Deliver as many messages as possible."""
        self.consumers.readmit()
        self.drop_expired()
        while self.ready and (consumer := self.consumers.next()) is not None:
            consumer.take(self, self.ready.popleft())
            self.drop_expired()

    # --- consumers --------------------------------------------------------------------------------------------------

    def check_consumer(self, terms: Terms) -> None:
        """Check that a consumer may be added.

        Raises:
            AccessRefused: the queue has an exclusive consumer, or this one is exclusive and the queue has others.
            PreconditionFailed: an argument is invalid.
        """
        check_consumer_arguments(self.told, "classic", terms.arguments, self.host.rules)
        if self.consumers.is_exclusive or (terms.exclusive and (self.consumers or self.is_single_active)):
            raise AccessRefused(f"ACCESS_REFUSED - {self.told} in exclusive use")

    def add_consumer(self, consumer: Subscriber, terms: Terms) -> None:
        """Add a consumer that :meth:`check_consumer` has passed; :meth:`pump` begins its deliveries."""
        self.consumers.add(consumer, exclusive=terms.exclusive)

    def remove_consumer(self, consumer: Subscriber) -> None:
        """Remove a consumer. An auto-delete queue is deleted with its last one."""
        self.consumers.remove(consumer)
        if self.auto_delete and not self.consumers:
            self.host.delete_queue(self)
        else:
            self.renew()

    # --- time -------------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        """Start ``x-expires`` anew: the queue was used (declared, even passively, or asked by basic.get)."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self.settings.expires is not None and not self.consumers:
            self._idle_timer = self.host.timers.after(self.settings.expires, self._expire)

    def drop_expired(self) -> None:
        """Drop the messages at the head that have expired. Those behind the head expire when they come to it."""
        now = self.host.timers.now
        while (head := self.ready.head) is not None and head.expires_at is not None and head.expires_at <= now:
            self.host.dead_letter(self, self.ready.popleft(), Reason.EXPIRED)
        self._watch_head()

    def restart(self) -> None:
        """Lose what a restart of the node loses: the messages that are not persistent."""
        self.ready.keep([entry for entry in self.ready if entry.message.persistent is not False])
        self.renew()
        self.drop_expired()

    def close(self) -> None:
        """End its timers: the queue is deleted."""
        for timer in (self._idle_timer, self._head_timer):
            if timer is not None:
                timer.cancel()

    def _watch_head(self) -> None:
        head = self.ready.head
        due = None if head is None else head.expires_at
        timer = self._head_timer
        if timer is not None and timer.action is not None:
            if timer.when == due:
                return
            timer.cancel()
        timers = self.host.timers
        self._head_timer = None if due is None else timers.after(due - timers.now, self.drop_expired)

    def _expiry_of(self, message: Message) -> float | None:
        ttls = [ttl for ttl in (self.settings.message_ttl, time_to_live(message)) if ttl is not None]
        return self.host.timers.now + min(ttls) if ttls else None

    def _priority_of(self, message: Message) -> int:
        # Most queues have no priorities, and need not decode the properties for them.
        return (message.priority or 0) if self.settings.max_priority else 0

    def _expire(self) -> None:
        if not self.consumers:
            self.host.delete_queue(self)

    # --- limits -----------------------------------------------------------------------------------------------------

    def _drop_excess(self) -> None:
        if self.settings.overflow is Overflow.DROP_HEAD:
            while self.ready and self._is_over(0, 0):
                self.host.dead_letter(self, self.ready.popleft(), Reason.MAXLEN)

    def _is_full_for(self, entry: Entry) -> bool:
        return self._is_over(1, entry.size)

    def _is_over(self, more: int, more_size: int) -> bool:
        length, size = self.settings.max_length, self.settings.max_length_bytes
        return (length is not None and len(self.ready) + more > length) or (
            size is not None and self.ready.size + more_size > size
        )
