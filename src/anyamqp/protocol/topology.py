"""The declarations of a connection, which recovery repeats after a reconnect.

The topology records each request once it has succeeded. Recovery sends the requests again: exchanges first, then
queues, then bindings. A server-named queue gets a new name each time, which later requests use.

The topology forgets an entity when it is deleted or unbound, and when the broker deletes it by itself: an auto-delete
queue with its last consumer, an auto-delete exchange with its last binding (AMQP 0-9-1, queue.declare and
exchange.declare: auto-delete). It knows only the requests of this connection; other connections that keep an entity
alive declare it themselves.
"""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from anyamqp.entities import Declaration, Entity, RecoveryMode, entity_of
from anyamqp.errors import AnyamqpError
from anyamqp.wire import methods
from anyamqp.wire.methods import Method

Binding: TypeAlias = methods.Queue.Bind | methods.Exchange.Bind | methods.Queue.Unbind | methods.Exchange.Unbind
_Key: TypeAlias = tuple[str, str, str, str, str]
"""The key of a binding: the kind of its destination, destination, source, routing key, arguments."""

_SOURCE = "source"
_NAMES_A_QUEUE = (
    methods.Queue.Bind,
    methods.Queue.Unbind,
    methods.Queue.Purge,
    methods.Queue.Delete,
    methods.Basic.Get,
    methods.Basic.Consume,
)


class Declarer(Protocol):
    """A channel that declares."""

    def fail(self, error: AnyamqpError) -> None:
        """Close the channel for good, because an entity that it needs was not recovered."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A declaration to repeat.

    Attributes:
        request: the request.
        entity: the entity that it declares.
        owner: the channel that declared it; the reference is weak.
    """

    request: Declaration
    entity: Entity
    owner: weakref.ReferenceType[Declarer]

    @property
    def is_named_by_broker(self) -> bool:
        """Whether it is a queue to which the broker gives a new name each time."""
        return isinstance(self.request, methods.Queue.Declare) and not self.request.queue


class Topology:
    """The entities that were declared on a connection and not deleted since.

    Args:
        mode: selects the entities to declare again.
    """

    def __init__(self, mode: RecoveryMode) -> None:
        self._mode = mode
        self._exchanges: dict[str, Recorded] = {}
        # By first name; a server-named queue keeps this key under all its names.
        self._queues: dict[str, Recorded] = {}
        self._bindings: dict[_Key, Recorded] = {}
        self._bound: dict[tuple[str, str], dict[_Key, None]] = {}
        """The bindings by each of their ends."""
        self._consumers: Counter[str] = Counter()
        self._present: dict[str, str] = {}
        self._first: dict[str, str] = {}

    # --- recording --------------------------------------------------------------------------------------------------

    def record(self, channel: Declarer, request: Method, reply: Method) -> None:
        """Record a request that succeeded: keep the entity that it declares, or forget the one that it deletes."""
        owner = weakref.ref(channel)
        if isinstance(request, methods.Exchange.Declare):
            if not request.passive:
                self._exchanges[request.exchange] = Recorded(request, entity_of(request), owner)
        elif isinstance(request, methods.Exchange.Delete):
            self._forget_exchange(request.exchange)
        elif isinstance(request, methods.Queue.Declare) and isinstance(reply, methods.Queue.DeclareOk):
            if not request.passive:
                name = self.declared_name(reply.queue)
                self._queues[name] = Recorded(request, replace(entity_of(request), name=name), owner)
        elif isinstance(request, methods.Queue.Delete):
            self._forget_queue(self.declared_name(request.queue))
        elif isinstance(request, methods.Queue.Bind | methods.Exchange.Bind):
            if isinstance(request, methods.Queue.Bind):
                request = request.replace(queue=self.declared_name(request.queue))
            self._keep_binding(self._key(request), Recorded(request, entity_of(request), owner))
        elif isinstance(request, methods.Queue.Unbind | methods.Exchange.Unbind):
            self._forget_binding(self._key(request))

    def consumer_started(self, queue: str) -> None:
        """A consumer of this connection consumes from the queue."""
        self._consumers[self.declared_name(queue)] += 1

    def consumer_ended(self, queue: str) -> None:
        """A consumer has ended. The broker deletes an auto-delete queue with its last consumer."""
        name = self.declared_name(queue)
        self._consumers[name] -= 1
        recorded = self._queues.get(name)
        if self._consumers[name] <= 0:
            del self._consumers[name]
            if recorded is not None and recorded.entity.auto_delete:
                self._forget_queue(name)

    def forget(self, recorded: Recorded) -> None:
        """Forget a declaration, unless the entity was declared anew meanwhile."""
        if not self.holds(recorded):
            return
        request = recorded.request
        if isinstance(request, methods.Exchange.Declare):
            del self._exchanges[request.exchange]
        elif isinstance(request, methods.Queue.Declare):
            del self._queues[recorded.entity.name]
        else:
            self._drop_binding(self._key(request))

    # --- names ------------------------------------------------------------------------------------------------------

    def declared_name(self, queue: str) -> str:
        """The first name of a queue, which the user knows; it stays when the broker gives the queue another name."""
        return self._first.get(queue, queue)

    def current_name(self, queue: str) -> str:
        """The current name of the queue whose current or first name is ``queue``."""
        return self._present.get(self.declared_name(queue), queue)

    def as_sent(self, request: Method) -> Method:
        """The request with the current name of its queue."""
        if not isinstance(request, _NAMES_A_QUEUE):
            return request
        name = self.current_name(request.queue)
        if name == request.queue:
            return request
        return request.replace(queue=name)

    def is_stream(self, queue: str) -> bool:
        """Whether a queue was declared as a stream on this connection."""
        recorded = self.queue(queue)
        return recorded is not None and recorded.entity.arguments.get("x-queue-type") == "stream"

    # --- replay -----------------------------------------------------------------------------------------------------

    def in_order(self) -> list[Recorded]:
        """The entities to declare again, in the order in which recovery declares them."""
        return [*self.exchanges(), *self.queues(), *self.bindings()]

    def exchanges(self) -> list[Recorded]:
        """The exchanges to declare again, in the order of their declaration."""
        return [one for one in self._exchanges.values() if self._comes_back(transient=one.entity.is_transient)]

    def queues(self) -> list[Recorded]:
        """The queues to declare again, in the order of their declaration."""
        return [one for one in self._queues.values() if self._comes_back(transient=one.entity.is_transient)]

    def bindings(self) -> list[Recorded]:
        """The bindings to declare again, in the order of their declaration."""
        return [one for key, one in self._bindings.items() if self._comes_back(transient=self._has_transient(key))]

    def queue(self, name: str) -> Recorded | None:
        """The queue whose current or first name this is, if it was declared on this connection."""
        return self._queues.get(self.declared_name(name))

    def holds(self, recorded: Recorded) -> bool:
        """Whether the entity was neither deleted nor declared anew since this declaration."""
        request = recorded.request
        if isinstance(request, methods.Exchange.Declare):
            return self._exchanges.get(request.exchange) is recorded
        if isinstance(request, methods.Queue.Declare):
            return self._queues.get(recorded.entity.name) is recorded
        return self._bindings.get(self._key(request)) is recorded

    def ends(self, recorded: Recorded) -> list[Recorded]:
        """The two ends of a binding, as far as this connection declared them; none for an exchange or a queue."""
        request = recorded.request
        if isinstance(request, methods.Exchange.Declare | methods.Queue.Declare):
            return []
        return self._ends_of(self._key(request))

    def declared_again(self, recorded: Recorded, reply: Method) -> None:
        """Note the new name that the broker gave a queue."""
        if isinstance(reply, methods.Queue.DeclareOk):
            name = reply.queue
            first = recorded.entity.name
            if first != name and self._queues.get(first) is recorded:  # else it was deleted or declared anew meanwhile
                self._first.pop(self._present.get(first, ""), None)
                self._present[first] = name
                self._first[name] = first

    # --- inside -----------------------------------------------------------------------------------------------------

    def _comes_back(self, *, transient: bool) -> bool:
        return self._mode is RecoveryMode.EVERYTHING or (self._mode is RecoveryMode.TRANSIENT and transient)

    def _has_transient(self, key: _Key) -> bool:
        return any(end.entity.is_transient for end in self._ends_of(key))

    def _ends_of(self, key: _Key) -> list[Recorded]:
        kind, destination, source, _, _ = key
        ends = [self._exchanges.get(source), (self._queues if kind == "queue" else self._exchanges).get(destination)]
        return [end for end in ends if end is not None]

    def _key(self, request: Binding) -> _Key:
        arguments = repr(sorted(request.arguments.items()))
        if isinstance(request, methods.Queue.Bind | methods.Queue.Unbind):
            return ("queue", self.declared_name(request.queue), request.exchange, request.routing_key, arguments)
        return ("exchange", request.destination, request.source, request.routing_key, arguments)

    def _forget_queue(self, name: str) -> None:
        self._queues.pop(name, None)
        self._first.pop(self._present.pop(name, name), None)
        for key in list(self._bound.get(("queue", name), ())):
            self._forget_binding(key)

    def _forget_exchange(self, name: str) -> None:
        self._exchanges.pop(name, None)
        for end in (("exchange", name), (_SOURCE, name)):
            for key in list(self._bound.get(end, ())):
                self._forget_binding(key)

    def _forget_binding(self, key: _Key) -> None:
        # The broker deletes an auto-delete exchange with the last binding from it, and so on from there.
        if key not in self._bindings:
            return
        self._drop_binding(key)
        source = key[2]
        recorded = self._exchanges.get(source)
        if recorded is not None and recorded.entity.auto_delete and (_SOURCE, source) not in self._bound:
            self._forget_exchange(source)

    def _keep_binding(self, key: _Key, recorded: Recorded) -> None:
        self._bindings[key] = recorded
        for end in _ends(key):
            self._bound.setdefault(end, {})[key] = None

    def _drop_binding(self, key: _Key) -> None:
        del self._bindings[key]
        for end in _ends(key):
            keys = self._bound[end]
            del keys[key]
            if not keys:
                del self._bound[end]


def _ends(key: _Key) -> tuple[tuple[str, str], tuple[str, str]]:
    """The destination and the source of a binding."""
    kind, destination, source, _, _ = key
    return (kind, destination), (_SOURCE, source)
