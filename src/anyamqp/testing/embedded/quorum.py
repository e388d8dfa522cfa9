"""Quorum queues of the embedded broker. No I/O.

The rules are those of RabbitMQ's ``rabbit_quorum_queue`` and ``rabbit_fifo``: a returned message is delivered before
all that wait, in the order of the returns; deliveries are counted and limited; on RabbitMQ 4, messages have priorities.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from anyamqp.errors import NotImplementedByBroker, PreconditionFailed
from anyamqp.message import Message
from anyamqp.testing.embedded.consumer_arguments import Terms, check_consumer_arguments
from anyamqp.testing.embedded.consumers import Consumers, SingleActive
from anyamqp.testing.embedded.contents import Content
from anyamqp.testing.embedded.queue_arguments import Overflow, Settings
from anyamqp.testing.embedded.queues import Declaration, Host, Outcome, Queue, Reason, Subscriber
from anyamqp.testing.embedded.ready import Entry, Ready
from anyamqp.testing.embedded.versions import Rules

_DEFAULT_PRIORITY: Final = 4
"""The priority of a message that names none."""

_HIGHEST_PRIORITY: Final = 31

_HIGH_IN_A_ROW: Final = 2
"""After so many messages, RabbitMQ 4.0 delivers one of normal priority, if there is one."""

_RESUMES_AT: Final = 0.8
"""How full a queue may be that accepts messages again, as a part of its limit."""


class Returnable(Ready):
    """Waiting messages of a quorum queue: first those that were returned, then the others by their priority.

    Args:
        rules: how the version of RabbitMQ behaves that the broker follows.
    """

    __slots__ = ("_is_fair", "_returned", "_since_normal")

    def __init__(self, rules: Rules) -> None:
        super().__init__({"3.10": 0, "4.0": 1}.get(rules.version, _HIGHEST_PRIORITY))
        self._is_fair = rules.version == "4.0"
        self._since_normal = 0
        self._returned: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._returned) + super().__len__()

    def __bool__(self) -> bool:
        return bool(self._returned) or super().__bool__()

    def __iter__(self) -> Iterator[Entry]:
        yield from self._returned
        yield from super().__iter__()

    @property
    def head(self) -> Entry | None:
        """The next message to deliver, to expire and to drop; None if there is none."""
        if self._returned:
            return self._returned[0]
        return self._levels[1][0] if self._is_normals_turn() else super().head

    def put_back(self, entry: Entry) -> None:
        """Add a message behind those that were returned before it."""
        self._returned.append(entry)
        self._added(entry)

    def popleft(self) -> Entry:
        """Remove the head.

        Raises:
            IndexError: there is none.
        """
        if self._returned:
            entry = self._returned.popleft()
        elif self._is_normals_turn():
            entry = self._levels[1].popleft()
            self._since_normal = 0
        else:
            self._since_normal = (self._since_normal + 1) % (_HIGH_IN_A_ROW + 1)
            return super().popleft()
        return self._taken(entry)

    def clear(self) -> None:
        """Remove all messages."""
        super().clear()
        self._returned.clear()

    def _is_normals_turn(self) -> bool:
        return self._is_fair and self._since_normal == _HIGH_IN_A_ROW and bool(self._levels[1])

    def _level(self, entry: Entry) -> deque[Entry]:
        if self._is_fair:
            return self._levels[0 if entry.priority > _DEFAULT_PRIORITY else 1]
        return super()._level(entry)


class QuorumQueue(Queue):
    """A quorum queue.

    Args:
        declaration: its name, properties and arguments.
        host: its virtual host.

    Raises:
        PreconditionFailed: a quorum queue cannot have one of the properties.
        NotImplementedByBroker: the embedded broker does not support an argument.
    """

    def __init__(self, declaration: Declaration, host: Host) -> None:
        check_replicated(declaration, host)
        _check_supported(declaration, host.rules)
        super().__init__(declaration, host)
        if self.settings.overflow is Overflow.REJECT_PUBLISH_DLX:  # RabbitMQ logs a warning and takes the default
            self.settings: Settings = replace(self.settings, overflow=Overflow.DROP_HEAD)
        self._limit = _delivery_limit(declaration, host.rules)
        self._is_rejecting = False

    def check_deletable(self, *, if_unused: bool, if_empty: bool) -> None:
        """Check the conditions of a deletion.

        Raises:
            NotImplementedByBroker: there is one, but a quorum queue knows none.
        """
        flag = "if-unused" if if_unused else "if-empty" if if_empty else None
        if flag is not None:
            raise NotImplementedByBroker(
                f"NOT_IMPLEMENTED - cannot delete {self.told}. queue.delete operations with {flag} flag set are not "
                "supported by quorum queues"
            )

    def check_consumer(self, terms: Terms) -> None:
        """Check that a consumer may be added. A quorum queue ignores that a consumer is exclusive.

        Raises:
            PreconditionFailed: an argument is invalid.
            NotImplementedByBroker: the consumers of the channel share a prefetch.
        """
        check_consumer_arguments(self.told, "quorum", terms.arguments, self.host.rules)
        if terms.shared_prefetch:
            raise NotImplementedByBroker(f"NOT_IMPLEMENTED - {self.told} does not support global qos")

    def add_consumer(self, consumer: Subscriber, terms: Terms) -> None:
        """Add a consumer that :meth:`check_consumer` has passed; :meth:`pump` begins its deliveries."""
        super().add_consumer(consumer, replace(terms, exclusive=False))

    def put(
        self,
        message: Message,
        exchange: str,
        routing_key: str,
        routing_keys: Iterable[str] = (),
        *,
        redelivered: bool = False,
    ) -> bool:
        """Take a published message, or a dead letter.

        With ``reject-publish``, the queue accepts messages until it is over its limit, and then refuses them until four
        fifths of the limit are left.
        """
        accepted = super().put(message, exchange, routing_key, routing_keys, redelivered=redelivered)
        self._is_rejecting = self._is_rejecting or self._is_over(0, 0)
        return accepted

    def settle_all(self, entries: list[Entry], outcome: Outcome) -> None:
        """End deliveries, oldest first. :meth:`pump` is still to be called."""
        for entry in entries:
            self.settle(entry, outcome)

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """End a delivery. A message that is given back too often is dead-lettered."""
        if outcome in (Outcome.ACKED, Outcome.REJECTED, Outcome.DISCARDED):
            super().settle(entry, outcome)
            return
        self._delivery_ended()
        counts = outcome in (Outcome.REQUEUED, Outcome.RETURNED)
        entry.has_failed |= counts
        entry.redelivered = True
        entry.acquired_count += 1
        if counts or self.host.rules.nack_counts_towards_limit:
            entry.delivery_count += 1
        if self._limit is not None and entry.delivery_count > self._limit:
            self.host.dead_letter(self, entry, Reason.DELIVERY_LIMIT)
        elif self._limit is None and self.host.rules.version == "3.10" and outcome is not Outcome.RETURNED:
            self.ready.append(entry)
        else:
            self.ready.put_back(entry)
            self._drop_excess()

    def outgoing(self, entry: Entry, *, is_get: bool) -> Entry:
        """A message as it is sent to a client: with the counts of its deliveries."""
        rules = self.host.rules
        counts: dict[str, int] = {}
        if entry.acquired_count and rules.tells_acquired_count:
            counts["x-acquired-count"] = entry.acquired_count
        if entry.delivery_count or (is_get and rules.version == "3.10"):
            counts["x-delivery-count"] = entry.delivery_count
        return with_headers(entry, counts) if counts else entry

    def restart(self) -> None:
        """Lose nothing: a quorum queue keeps all messages, the transient ones as well."""
        self.renew()
        self.drop_expired()

    def _new_ready(self) -> Ready:
        return Returnable(self.host.rules)

    def _new_consumers(self) -> Consumers[Subscriber]:
        if not self.is_single_active:
            return Consumers()
        is_by_priority = self.host.rules.version != "3.10"
        return SingleActive(by_priority=is_by_priority, gives_way=is_by_priority)

    def _is_full_for(self, entry: Entry) -> bool:  # noqa: ARG002 - a quorum queue looks at what it has already
        length, size = self.settings.max_length, self.settings.max_length_bytes
        if (length is None or len(self.ready) <= length * _RESUMES_AT) and (
            size is None or self.ready.size <= size * _RESUMES_AT
        ):
            self._is_rejecting = False
        return self._is_rejecting

    def _priority_of(self, message: Message) -> int:
        return _DEFAULT_PRIORITY if message.priority is None else message.priority


def check_replicated(declaration: Declaration, host: Host) -> None:
    """Check the properties of a queue that has replicas.

    Raises:
        PreconditionFailed: it is exclusive, not durable, or deleted with its last consumer.
    """
    fault = None
    if declaration.owner is not None:
        fault = "exclusive-owner"
    elif not declaration.durable:
        fault = "non-durable"
    elif declaration.auto_delete:
        fault = "auto-delete"
    if fault is not None:
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - invalid property '{fault}' for queue '{declaration.name}' in vhost '{host.name}'"
        )


def with_headers(entry: Entry, headers: dict[str, int]) -> Entry:
    """A message with more headers, all of them sorted by name."""
    content = Content(entry.message)
    for name, value in headers.items():
        content.set_long(name, value)
    content.sort_headers()
    return replace(entry, message=content.message())


def _check_supported(declaration: Declaration, rules: Rules) -> None:
    if rules.version != "4.3":
        return  # the arguments mean nothing there
    arguments = declaration.arguments
    if "x-consumer-timeout" in arguments:
        raise NotImplementedByBroker("NOT_IMPLEMENTED - x-consumer-timeout")
    if arguments.get("x-delayed-retry-type", "disabled") != "disabled":
        raise NotImplementedByBroker("NOT_IMPLEMENTED - x-delayed-retry-type")


def _delivery_limit(declaration: Declaration, rules: Rules) -> int | None:
    """How often a message may be given back; None for any number."""
    if "x-delivery-limit" not in declaration.arguments:
        return rules.delivery_limit
    limit = declaration.arguments["x-delivery-limit"]
    if not isinstance(limit, int):  # RabbitMQ takes any value; Erlang sorts all other types behind the numbers
        return None
    return limit if limit >= 0 or rules.version == "3.10" else None
