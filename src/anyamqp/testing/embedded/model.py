"""The entities of one virtual host of the embedded broker. No I/O; error texts are RabbitMQ's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto

from anyamqp.errors import (
    AccessRefused,
    CommandInvalid,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from anyamqp.message import Message
from anyamqp.testing.embedded.dead_letters import DeadLetters
from anyamqp.testing.embedded.exchanges import TYPES, Exchange
from anyamqp.testing.embedded.queue_arguments import (
    check_arguments,
    check_equivalence,
    erlang,
    inequivalent,
    queue_type,
)
from anyamqp.testing.embedded.queues import Declaration, Queue, Reason
from anyamqp.testing.embedded.ready import Entry
from anyamqp.testing.embedded.record import Record
from anyamqp.testing.embedded.timers import Timers
from anyamqp.testing.embedded.versions import RULES, Rules

QUEUES: Mapping[str, type[Queue]] = {"classic": Queue}
"""The types of queues by their names in ``x-queue-type``."""


class Fate(Enum):
    """The fate of a published message."""

    ROUTED = auto()
    UNROUTABLE = auto()
    REFUSED = auto()
    """A queue refused it: the publisher gets basic.nack."""


class Model:
    """The entities of one virtual host.

    Args:
        name: the virtual host's name.
        rules: how the version of RabbitMQ behaves that the broker follows.
        timers: what is to happen later.

    Attributes:
        record: the messages that clients have published.
    """

    def __init__(self, name: str = "/", rules: Rules = RULES["3.10"], timers: Timers | None = None) -> None:
        self.name: str = name
        self.rules: Rules = rules
        self.timers: Timers = timers or Timers(lambda: 0.0)
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.record: Record = Record()
        self._named = 0
        self._dead_letters = DeadLetters(rules, self.timers, self._route_dead_letter)
        for kind in TYPES:
            self.exchanges[f"amq.{kind}"] = Exchange(f"amq.{kind}", kind, durable=True)

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
        """Declare an exchange, or check that an existing one has the same properties."""
        if wanted.type not in TYPES:
            raise CommandInvalid(f"COMMAND_INVALID - unknown exchange type '{wanted.type}'")
        _refuse_default(wanted.name)
        known = self.exchanges.get(wanted.name)
        if known is None:
            _refuse_reserved("exchange", wanted.name)
            self.exchanges[wanted.name] = wanted
            return
        for name in ("type", "durable", "auto_delete", "internal", "arguments"):
            _same(f"exchange '{wanted.name}' in vhost '{self.name}'", name, getattr(wanted, name), getattr(known, name))

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Delete an exchange, and the bindings to and from it. A missing exchange is no error."""
        _refuse_default(name)
        known = self.exchanges.get(name)
        if known is None:
            return
        _refuse_reserved("exchange", name)
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
        name = wanted.name.translate(_NO_LINE_ENDS) or self.new_name("amq.gen")
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

    def check_deletable(self, queue: Queue, *, if_unused: bool, if_empty: bool) -> None:
        """Check the conditions of a deletion.

        Raises:
            PreconditionFailed: the queue has consumers or messages.
        """
        if if_unused and queue.consumers:
            raise PreconditionFailed(f"PRECONDITION_FAILED - queue '{queue.name}' in vhost '{self.name}' in use")
        if if_empty and queue.ready:
            raise PreconditionFailed(f"PRECONDITION_FAILED - queue '{queue.name}' in vhost '{self.name}' not empty")

    def delete_queue(self, queue: Queue, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue and cancel its consumers. Returns the number of deleted messages."""
        self.check_deletable(queue, if_unused=if_unused, if_empty=if_empty)
        self.queues.pop(queue.name, None)
        queue.close()
        self._unbind_everywhere("queue", queue.name)
        consumers = list(queue.consumers)
        queue.consumers.clear()
        for consumer in consumers:
            consumer.cancel()
        return len(queue.ready)

    # --- bindings and routing ---------------------------------------------------------------------------------------

    def bind(self, source: str, kind: str, name: str, routing_key: str) -> None:
        """Bind a queue or an exchange to an exchange."""
        self.exchange(source).bindings[kind, name, routing_key] = None

    def unbind(self, source: str, kind: str, name: str, routing_key: str) -> None:
        """Undo :meth:`bind`. A missing binding is no error."""
        exchange = self.exchange(source)
        if (kind, name, routing_key) not in exchange.bindings:
            return
        del exchange.bindings[kind, name, routing_key]
        if exchange.auto_delete and not exchange.bindings:
            self.delete_exchange(source, if_unused=False)

    def publish(self, message: Message, exchange: str, routing_key: str) -> Fate:
        """Put a message into the queues that it goes to.

        Raises:
            NotFound: there is no such exchange.
        """
        queues = self.route(exchange, routing_key)
        self.record.add(exchange, routing_key, message)
        accepted = [queue.put(message, exchange, routing_key) for queue in queues]
        if not all(accepted):
            return Fate.REFUSED
        return Fate.ROUTED if queues else Fate.UNROUTABLE

    def dead_letter(self, queue: Queue, entry: Entry, reason: Reason) -> None:
        """Publish a message that a queue has dropped to the queue's dead letter exchange, if it has one."""
        self._dead_letters.publish(queue, entry, reason)

    def _route_dead_letter(self, exchange: str, routing_keys: Sequence[str], _: Message) -> list[Queue]:
        if exchange and exchange not in self.exchanges:
            return []
        found = {queue.name: queue for key in routing_keys for queue in self.route(exchange, key)}
        return list(found.values())

    def route(self, exchange: str, routing_key: str) -> list[Queue]:
        """The queues that a message goes to, each once.

        Raises:
            NotFound: there is no such exchange.
        """
        if not exchange:
            known = self.queues.get(routing_key)
            return [] if known is None else [known]
        found: dict[str, Queue] = {}
        seen = {exchange}
        waiting = [self.exchange(exchange)]
        while waiting:
            for kind, name in waiting.pop().matches(routing_key):
                if kind == "queue":
                    found[name] = self.queues[name]
                elif name not in seen and name in self.exchanges:
                    seen.add(name)
                    waiting.append(self.exchanges[name])
        return list(found.values())

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
            for key in [key for key in exchange.bindings if key[:2] == (kind, name)]:
                self.unbind(exchange.name, *key)


_NO_LINE_ENDS = {ord("\r"): None, ord("\n"): None}


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


def _same(what: str, name: str, wanted: object, known: object) -> None:
    if wanted != known:
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - inequivalent arg '{name}' for {what}: "
            f"received '{_as_told(wanted)}' but current is '{_as_told(known)}'"
        )


def _as_told(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Hosts:
    """The virtual hosts of a broker, by name.

    Args:
        rules: how the version of RabbitMQ behaves that the broker follows.
        timers: what is to happen later, in all of them.
    """

    def __init__(self, rules: Rules = RULES["3.10"], timers: Timers | None = None) -> None:
        self.rules: Rules = rules
        self.timers: Timers = timers or Timers(lambda: 0.0)
        self._hosts: dict[str, Model] = {}
        self.add("/")

    def get(self, name: str) -> Model | None:
        """The virtual host of that name; None if there is none."""
        return self._hosts.get(name)

    def __getitem__(self, name: str) -> Model:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._hosts.values()))

    def add(self, name: str) -> Model:
        """Add a virtual host; one that is there stays as it is."""
        if name not in self._hosts:
            self._hosts[name] = Model(name, self.rules, self.timers)
        return self._hosts[name]

    def remove(self, name: str) -> None:
        """Remove a virtual host with all that is in it."""
        del self._hosts[name]
