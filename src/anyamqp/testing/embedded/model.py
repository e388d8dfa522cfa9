"""The entities of one virtual host of the embedded broker. No I/O; error texts are RabbitMQ's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Final, NamedTuple

from anyamqp.errors import (
    AccessRefused,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from anyamqp.message import FieldTable, Message
from anyamqp.testing.embedded.contents import time_to_live
from anyamqp.testing.embedded.dead_letters import DeadLetters
from anyamqp.testing.embedded.exchange_arguments import check_alternate, check_binding, check_type
from anyamqp.testing.embedded.exchange_arguments import check_equivalence as check_equivalence_of_exchange
from anyamqp.testing.embedded.exchanges import Binding, Exchange, own_exchanges
from anyamqp.testing.embedded.queue_arguments import check_arguments, check_equivalence, inequivalent, queue_type
from anyamqp.testing.embedded.queues import Declaration, Queue, Reason
from anyamqp.testing.embedded.quorum import QuorumQueue
from anyamqp.testing.embedded.ready import Entry
from anyamqp.testing.embedded.record import Record
from anyamqp.testing.embedded.reply_to import ReplyAddresses, is_reply_address
from anyamqp.testing.embedded.routing import queues_reached
from anyamqp.testing.embedded.streams import StreamQueue
from anyamqp.testing.embedded.timers import Timers
from anyamqp.testing.embedded.typed import erlang
from anyamqp.testing.embedded.versions import RULES, Rules

NO_ARGUMENTS: FieldTable = {}

NO_LINE_ENDS: Final[Mapping[int, None]] = {ord("\r"): None, ord("\n"): None}
"""For ``str.translate``: RabbitMQ drops line ends from the names of exchanges and queues."""

QUEUES: Mapping[str, type[Queue]] = {"classic": Queue, "quorum": QuorumQueue, "stream": StreamQueue}
"""The types of queues by their names in ``x-queue-type``."""


class Fate(Enum):
    """The fate of a published message."""

    ROUTED = auto()
    UNROUTABLE = auto()
    REFUSED = auto()
    """A queue refused it: the publisher gets basic.nack."""


class Routed(NamedTuple):
    """A message on its way from an exchange to queues.

    Attributes:
        message: the message.
        exchange: the exchange that it was published to.
        routing_keys: its routing key, and those of its headers ``CC`` and ``BCC``.
        names: the queues that it goes to, and addresses for direct replies.
    """

    message: Message
    exchange: str
    routing_keys: tuple[str, ...]
    names: tuple[str, ...]


class Model:
    """The entities of one virtual host.

    Args:
        name: the virtual host's name.
        rules: how the version of RabbitMQ behaves that the broker follows.
        timers: what is to happen later.

    Attributes:
        record: the messages that clients have published.
        replies: the addresses of channels that consume direct replies.
    """

    def __init__(self, name: str = "/", rules: Rules = RULES["3.10"], timers: Timers | None = None) -> None:
        self.name: str = name
        self.rules: Rules = rules
        self.timers: Timers = timers or Timers(lambda: 0.0)
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.record: Record = Record()
        self._named = 0
        self.replies: ReplyAddresses = ReplyAddresses(self.new_name)
        self._dead_letters = DeadLetters(rules, self.timers, self._route_dead_letter)
        for one in own_exchanges(name, rules):
            self.exchanges[one.name] = one

    # --- exchanges --------------------------------------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        """The exchange of that name.

        Raises:
            AccessRefused: it is the default exchange, to which clients may only publish.
            NotFound: there is no exchange of that name.
        """
        _refuse_default(name)
        found = self.exchanges.get(name)
        if found is None:
            raise NotFound(f"NOT_FOUND - no exchange '{name}' in vhost '{self.name}'")
        return found

    def declare_exchange(self, wanted: Exchange) -> None:
        """Declare an exchange, or check that an existing one has the same properties.

        Raises:
            AccessRefused: the name is reserved.
            CommandInvalid: there is no such type, and RabbitMQ closes the connection.
            NotImplementedByBroker: the embedded broker does not support the type.
            PreconditionFailed: there is no such type, the alternate exchange is invalid, or the exchange exists with
                other properties.
        """
        check_type(wanted.type, self.rules)
        wanted.name = wanted.name.translate(NO_LINE_ENDS)
        _refuse_default(wanted.name)
        told = f"exchange '{wanted.name}' in vhost '{self.name}'"
        known = self.exchanges.get(wanted.name)
        if known is not None:
            check_equivalence_of_exchange(told, known, wanted)
            return
        _refuse_reserved("exchange", wanted.name)
        check_alternate(told, wanted.arguments)
        self.exchanges[wanted.name] = wanted

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Delete an exchange, and the bindings to and from it. A missing exchange is no error.

        Raises:
            AccessRefused: it is one of the broker's own.
            PreconditionFailed: it has bindings.
        """
        name = name.translate(NO_LINE_ENDS)
        _refuse_default(name)
        if name.startswith("amq."):
            raise AccessRefused(
                f"ACCESS_REFUSED - deletion of system exchange '{name}' in vhost '{self.name}' not allowed"
            )
        known = self.exchanges.get(name)
        if known is None:
            return
        if if_unused and known.bindings:
            raise PreconditionFailed(f"PRECONDITION_FAILED - exchange '{name}' in vhost '{self.name}' in use")
        del self.exchanges[name]
        self._unbind_everywhere("exchange", name)

    # --- queues -----------------------------------------------------------------------------------------------------

    def queue(self, name: str, user: object) -> Queue:
        """The queue of that name, for a connection ``user``.

        Raises:
            NotFound: there is no queue of that name.
            ResourceLocked: another connection has it exclusively.
        """
        found = self.queues.get(name)
        if found is None:
            raise NotFound(f"NOT_FOUND - no queue '{name}' in vhost '{self.name}'")
        if found.owner is not None and found.owner is not user:
            raise _locked(name, self.name)
        return found

    def declare_queue(self, wanted: Declaration, user: object) -> Queue:
        """Declare a queue, or check that an existing one has the same properties. The broker chooses an empty name.

        Raises:
            AccessRefused: the name is reserved.
            PreconditionFailed: an argument is invalid, or the queue exists with other properties.
            ResourceLocked: it exists, and is exclusive where the other is not.
        """
        name = wanted.name.translate(NO_LINE_ENDS) or self.new_name("amq.gen")
        if wanted.name:
            _refuse_reserved("queue", name)
        # An exclusive queue is never durable: it does not survive its connection.
        wanted = replace(wanted, name=name, durable=wanted.durable and wanted.owner is None)
        told = self._told(name)
        if name in self.queues:
            known = self.queue(name, user)
            if known.owner is not wanted.owner:
                raise _locked(name, self.name)
            for key in ("durable", "auto_delete"):
                asked, current = getattr(wanted, key), getattr(known, key)
                if asked != current:
                    raise inequivalent(told, key, f"'{erlang(asked)}'", f"'{erlang(current)}'")
            check_equivalence(told, known.arguments, wanted.arguments, self.rules)
            known.renew()
            return known
        check_arguments(told, wanted.arguments, self.rules)
        queue = self.queues[name] = QUEUES[queue_type(wanted.arguments)](wanted, self)
        return queue

    def new_name(self, prefix: str) -> str:
        """A new name. Each run of a program gets the same names in the same order."""
        self._named += 1
        return f"{prefix}-{self._named}"

    def next_name(self, prefix: str) -> str:
        """The name that :meth:`new_name` makes next."""
        return f"{prefix}-{self._named + 1}"

    def delete_queue(self, queue: Queue, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue and cancel its consumers. Returns the number of deleted messages."""
        queue.check_deletable(if_unused=if_unused, if_empty=if_empty)
        self.queues.pop(queue.name, None)
        queue.close()
        self._unbind_everywhere("queue", queue.name)
        consumers = list(queue.consumers)
        queue.consumers.clear()
        for consumer in consumers:
            consumer.cancel()
        return len(queue.ready)

    # --- bindings and routing ---------------------------------------------------------------------------------------

    def bind(
        self,
        source: str,
        kind: str,
        name: str,
        routing_key: str,
        arguments: FieldTable = NO_ARGUMENTS,
        user: object = None,
    ) -> None:
        """Bind a queue or an exchange to an exchange, for a connection ``user``.

        Raises:
            AccessRefused: one of them is the default exchange.
            NotFound: one of them does not exist; the source is named first.
            PreconditionFailed: the source does not take these arguments.
            ResourceLocked: another connection has the queue exclusively.
        """
        source, name = self._ends(source, kind, name)
        exchange = self.exchange(source)
        if kind == "exchange":
            self.exchange(name)
        elif name not in self.queues:
            self.queue(name, user)
        check_binding(exchange, self.queues[name] if kind == "queue" else None, routing_key, arguments)
        if kind == "queue":
            self.queue(name, user)
        exchange.bindings.setdefault(Binding.of(kind, name, routing_key, arguments), arguments)

    def unbind(
        self,
        source: str,
        kind: str,
        name: str,
        routing_key: str,
        arguments: FieldTable = NO_ARGUMENTS,
        user: object = None,
    ) -> None:
        """Undo :meth:`bind`. That there is no such binding is no error, nor that there is no such exchange or queue.

        Raises:
            AccessRefused: one of them is the default exchange.
            ResourceLocked: another connection has the queue exclusively.
        """
        source, name = self._ends(source, kind, name)
        exchange, binding = self.exchanges.get(source), Binding.of(kind, name, routing_key, arguments)
        if exchange is None or binding not in exchange.bindings:
            return
        if kind == "queue":
            self.queue(name, user)
        self._remove(exchange, binding)

    def _ends(self, source: str, kind: str, name: str) -> tuple[str, str]:
        """The names of a binding's source and destination."""
        source, name = source.translate(NO_LINE_ENDS), name.translate(NO_LINE_ENDS)
        _refuse_default(source)
        if kind == "exchange":
            _refuse_default(name)
        return source, name

    def _remove(self, exchange: Exchange, binding: Binding) -> None:
        del exchange.bindings[binding]
        if exchange.auto_delete and not exchange.bindings:
            self.delete_exchange(exchange.name, if_unused=False)

    def publish(self, message: Message, exchange: str, routing_keys: tuple[str, ...]) -> Fate:
        """Put a message into the queues that it goes to: :meth:`routed`, then :meth:`deliver`."""
        return self.deliver(self.routed(message, exchange, routing_keys))

    def routed(self, message: Message, exchange: str, routing_keys: tuple[str, ...]) -> Routed:
        """A message with its destinations. To the default exchange, these may be missing.

        Args:
            message: the message.
            exchange: the exchange that it is published to.
            routing_keys: its routing key, and those of its headers ``CC`` and ``BCC``.

        Raises:
            NotFound: there is no such exchange.
            PreconditionFailed: its time to live is not one.
        """
        time_to_live(message)
        return Routed(message, exchange, routing_keys, tuple(self._reached(exchange, routing_keys, message)))

    def deliver(self, routed: Routed) -> Fate:
        """Put a message into those of its queues that are there, and send it to the channels that await it."""
        message, exchange, routing_keys, names = routed
        self.record.add(exchange, routing_keys[0], message)
        queues = [self.queues[name] for name in names if name in self.queues]
        accepted = [queue.put(message, exchange, routing_keys[0], routing_keys) for queue in queues]
        has_reached = bool(queues)
        if not exchange:
            for address in filter(is_reply_address, names):
                self.replies.deliver(message, address)
                has_reached |= self.replies.was_issued(address) and self.rules.replies_have_a_queue
        if not all(accepted):
            return Fate.REFUSED
        return Fate.ROUTED if has_reached else Fate.UNROUTABLE

    def dead_letter(self, queue: Queue, entry: Entry, reason: Reason) -> None:
        """Publish a message that a queue has dropped to the queue's dead letter exchange, if it has one."""
        self._dead_letters.publish(queue, entry, reason)

    def _route_dead_letter(self, exchange: str, routing_keys: Sequence[str], message: Message) -> list[Queue]:
        if exchange and exchange not in self.exchanges:
            return []
        return self.route(exchange, routing_keys, message)

    def route(self, exchange: str, routing_keys: Sequence[str], message: Message) -> list[Queue]:
        """The queues that a message goes to, each once.

        Args:
            exchange: the exchange that it is published to.
            routing_keys: its routing key, and those of its headers ``CC`` and ``BCC``.
            message: the message.

        Raises:
            NotFound: there is no such exchange.
        """
        names = self._reached(exchange, routing_keys, message)
        return [self.queues[name] for name in names if name in self.queues]

    def _reached(self, exchange: str, routing_keys: Sequence[str], message: Message) -> Iterable[str]:
        if not exchange:
            return dict.fromkeys(routing_keys)
        return queues_reached(self.exchanges, self.exchange(exchange), routing_keys, message, self.rules)

    def restart(self) -> None:
        """The entities that survive a kill of the node: durable ones, with their persistent messages."""
        for queue in list(self.queues.values()):
            if queue.durable:
                queue.restart()
            else:
                self.delete_queue(queue)
        for exchange in [exchange for exchange in self.exchanges.values() if not exchange.durable]:
            self.delete_exchange(exchange.name, if_unused=False)

    def _told(self, name: str) -> str:
        """A queue as error texts name it."""
        return f"queue '{name}' in vhost '{self.name}'"

    def _unbind_everywhere(self, kind: str, name: str) -> None:
        for exchange in list(self.exchanges.values()):
            for binding in [one for one in exchange.bindings if one[:2] == (kind, name)]:
                self._remove(exchange, binding)


def _refuse_reserved(kind: str, name: str) -> None:
    if name.startswith("amq."):
        raise AccessRefused(f"ACCESS_REFUSED - {kind} name '{name}' contains reserved prefix 'amq.*'")


def _refuse_default(name: str) -> None:
    if not name:
        raise AccessRefused("ACCESS_REFUSED - operation not permitted on the default exchange")


def _locked(name: str, host: str) -> ResourceLocked:
    return ResourceLocked(
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '{host}'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the "
        "original declaration."
    )
