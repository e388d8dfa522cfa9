"""The state of the embedded broker: exchanges, queues, bindings, messages. No I/O; error texts are RabbitMQ's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from anyamqp.errors import (
    AccessRefused,
    CommandInvalid,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from anyamqp.message import FieldTable, Message

TYPES = ("direct", "fanout", "topic")


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


@dataclass(slots=True)
class Exchange:
    """An exchange and its bindings.

    Attributes:
        bindings: pairs of a destination and a routing key, in the order in which they were made.
    """

    name: str
    type: str
    durable: bool
    auto_delete: bool = False
    internal: bool = False
    arguments: FieldTable = field(default_factory=dict[str, str])
    bindings: dict[tuple[str, str, str], None] = field(default_factory=dict[tuple[str, str, str], None])
    """Keys: kind of the destination (queue or exchange), its name, the routing key."""

    def matches(self, routing_key: str) -> Iterator[tuple[str, str]]:
        """The destinations of a message, as kind and name."""
        for kind, name, key in self.bindings:
            if (
                self.type == "fanout"
                or (self.type == "direct" and key == routing_key)
                or (self.type == "topic" and topic_matches(key.split("."), routing_key.split(".")))
            ):
                yield kind, name


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """Whether a topic pattern matches: ``*`` stands for one word, ``#`` for any number (RabbitMQ, "Topics")."""
    reachable = {0}
    for part in pattern:
        if part == "#":
            reachable = set(range(min(reachable, default=len(words) + 1), len(words) + 1))
        else:
            reachable = {at + 1 for at in reachable if at < len(words) and part in ("*", words[at])}
    return len(words) in reachable


class Model:
    """The entities of one virtual host."""

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self._named = 0
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
            raise NotFound(f"NOT_FOUND - no exchange '{name}' in vhost '/'")
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
            _same("exchange", wanted.name, name, getattr(wanted, name), getattr(known, name))

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Delete an exchange, and the bindings to and from it. A missing exchange is no error."""
        _refuse_default(name)
        known = self.exchanges.get(name)
        if known is None:
            return
        _refuse_reserved("exchange", name)
        if if_unused and known.bindings:
            raise PreconditionFailed(f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use")
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
            raise NotFound(f"NOT_FOUND - no queue '{name}' in vhost '/'")
        if found.owner is not None and found.owner is not user:
            raise _locked(name)
        return found

    def declare_queue(self, wanted: Queue, user: object) -> Queue:
        """Declare a queue, or check that an existing one has the same properties. The broker chooses an empty name."""
        if not wanted.name:
            wanted.name = self.new_name("amq.gen")
        elif wanted.name in self.queues:
            known = self.queue(wanted.name, user)
            if known.owner is not wanted.owner:
                raise _locked(wanted.name)
            for name in ("durable", "auto_delete", "arguments"):
                _same("queue", wanted.name, name, getattr(wanted, name), getattr(known, name))
            return known
        else:
            _refuse_reserved("queue", wanted.name)
        self.queues[wanted.name] = wanted
        return wanted

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
            raise PreconditionFailed(f"PRECONDITION_FAILED - queue '{queue.name}' in vhost '/' in use")
        if if_empty and queue.ready:
            raise PreconditionFailed(f"PRECONDITION_FAILED - queue '{queue.name}' in vhost '/' is not empty")

    def delete_queue(self, queue: Queue, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue and cancel its consumers. Returns the number of deleted messages."""
        self.check_deletable(queue, if_unused=if_unused, if_empty=if_empty)
        self.queues.pop(queue.name, None)
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
            if not queue.durable or queue.owner is not None:
                self.delete_queue(queue)
            queue.ready = deque(entry for entry in queue.ready if entry.message.persistent is not False)
        for exchange in [exchange for exchange in self.exchanges.values() if not exchange.durable]:
            self.delete_exchange(exchange.name, if_unused=False)

    def _unbind_everywhere(self, kind: str, name: str) -> None:
        for exchange in list(self.exchanges.values()):
            for key in [key for key in exchange.bindings if key[:2] == (kind, name)]:
                self.unbind(exchange.name, *key)


def _refuse_reserved(kind: str, name: str) -> None:
    if name.startswith("amq."):
        raise AccessRefused(f"ACCESS_REFUSED - {kind} name '{name}' contains reserved prefix 'amq.*'")


def _refuse_default(name: str) -> None:
    if not name:
        raise AccessRefused("ACCESS_REFUSED - operation not permitted on the default exchange")


def _locked(name: str) -> ResourceLocked:
    return ResourceLocked(
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the "
        "original declaration."
    )


def _same(kind: str, entity: str, name: str, wanted: object, known: object) -> None:
    if wanted != known:
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - inequivalent arg '{name}' for {kind} '{entity}' in vhost '/': "
            f"received '{_as_told(wanted)}' but current is '{_as_told(known)}'"
        )


def _as_told(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
