"""The declarations of a connection, and how they are repeated after a reconnect.

The topology records each request once it has succeeded. Recovery sends the requests again: exchanges first, then
queues, then bindings. A queue that the broker named gets a new name each time, and requests that name it follow.

An entity is forgotten when it is deleted or unbound, and when the broker deletes it by itself: an auto-delete queue
with its last consumer, an auto-delete exchange with its last binding (AMQP 0-9-1, queue.declare and exchange.declare:
auto-delete). The topology knows only the requests of this connection; an entity that others keep alive is theirs to
declare.
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
"""Of a binding: the kind of its destination, destination, source, routing key, arguments."""

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

    def shut(self, error: AnyamqpError) -> None:
        """Something that the channel cannot do without is gone."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Something to declare again.

    Attributes:
        request: the request that declares it.
        entity: what it declares.
        owner: the channel that declared it; gone when nobody holds it any more.
    """

    request: Declaration
    entity: Entity
    owner: weakref.ReferenceType[Declarer]

    @property
    def is_named_by_broker(self) -> bool:
        """Whether it is a queue to which the broker gives a new name each time."""
        return isinstance(self.request, methods.Queue.Declare) and not self.request.queue


class Topology:
    """What was declared on a connection and not deleted since.

    Args:
        mode: which of it is declared again.
    """

    def __init__(self, mode: RecoveryMode) -> None:
        self._mode = mode
        self._exchanges: dict[str, Recorded] = {}
        # By the name under which the user first saw it; a server-named one keeps that key under all its names.
        self._queues: dict[str, Recorded] = {}
        self._bindings: dict[_Key, Recorded] = {}
        self._bound: dict[tuple[str, str], dict[_Key, None]] = {}
        """The bindings at each of their ends."""
        self._consumers: Counter[str] = Counter()
        self._present: dict[str, str] = {}
        self._first: dict[str, str] = {}

    # --- recording --------------------------------------------------------------------------------------------------

    def record(self, channel: Declarer, request: Method, reply: Method) -> None:
        """A request succeeded: keep what it declares, forget what it deletes."""
        owner = weakref.ref(channel)
        if isinstance(request, methods.Exchange.Declare):
            if not request.passive:
                self._exchanges[request.exchange] = Recorded(request, entity_of(request), owner)
        elif isinstance(request, methods.Exchange.Delete):
            self._forget_exchange(request.exchange)
        elif isinstance(request, methods.Queue.Declare) and isinstance(reply, methods.Queue.DeclareOk):
            if not request.passive:
                name = self.first_name(reply.queue)
                self._queues[name] = Recorded(request, replace(entity_of(request), name=name), owner)
        elif isinstance(request, methods.Queue.Delete):
            self._forget_queue(self.first_name(request.queue))
        elif isinstance(request, methods.Queue.Bind | methods.Exchange.Bind):
            if isinstance(request, methods.Queue.Bind):
                request = request.replace(queue=self.first_name(request.queue))
            self._keep_binding(self._key(request), Recorded(request, entity_of(request), owner))
        elif isinstance(request, methods.Queue.Unbind | methods.Exchange.Unbind):
            self._forget_binding(self._key(request))

    def consumer_started(self, queue: str) -> None:
        """A consumer of this connection consumes from the queue."""
        self._consumers[self.first_name(queue)] += 1

    def consumer_ended(self, queue: str) -> None:
        """It does not any more."""
        name = self.first_name(queue)
        self._consumers[name] -= 1
        recorded = self._queues.get(name)
        if self._consumers[name] <= 0:
            del self._consumers[name]
            if recorded is not None and recorded.entity.auto_delete:
                self._forget_queue(name)

    def forget(self, recorded: Recorded) -> None:
        """Do not declare it again, unless it was declared anew meanwhile."""
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

    def first_name(self, queue: str) -> str:
        """The name under which the user first saw a queue; it stays when the broker gives the queue another."""
        return self._first.get(queue, queue)

    def present_name(self, queue: str) -> str:
        """The present name of a queue that has this name now or had it first."""
        return self._present.get(self.first_name(queue), queue)

    def as_sent(self, request: Method) -> Method:
        """The request with the present name of its queue."""
        if not isinstance(request, _NAMES_A_QUEUE):
            return request
        name = self.present_name(request.queue)
        if name == request.queue:
            return request
        return request.replace(queue=name)

    def is_stream(self, queue: str) -> bool:
        """Whether a queue was declared as a stream on this connection."""
        recorded = self.queue(queue)
        return recorded is not None and recorded.entity.arguments.get("x-queue-type") == "stream"

    # --- replay -----------------------------------------------------------------------------------------------------

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
        """The queue that has this name now or had it first, if it was declared on this connection."""
        return self._queues.get(self.first_name(name))

    def holds(self, recorded: Recorded) -> bool:
        """Whether it was neither deleted nor declared anew since it was recorded."""
        request = recorded.request
        if isinstance(request, methods.Exchange.Declare):
            return self._exchanges.get(request.exchange) is recorded
        if isinstance(request, methods.Queue.Declare):
            return self._queues.get(recorded.entity.name) is recorded
        return self._bindings.get(self._key(request)) is recorded

    def ends(self, recorded: Recorded) -> list[Recorded]:
        """What a binding binds, as far as it was declared on this connection; nothing for anything but a binding."""
        request = recorded.request
        if isinstance(request, methods.Exchange.Declare | methods.Queue.Declare):
            return []
        return self._ends_of(self._key(request))

    def declared_again(self, recorded: Recorded, reply: Method) -> None:
        """Take note of the name that the broker gave a queue this time."""
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
            return ("queue", self.first_name(request.queue), request.exchange, request.routing_key, arguments)
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
    """What a binding leads to, and what it comes from."""
    kind, destination, source, _, _ = key
    return (kind, destination), (_SOURCE, source)
