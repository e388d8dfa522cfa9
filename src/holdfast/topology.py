"""What was declared on a connection, and its replay after a reconnect.

Recorded are the requests themselves, once they succeeded; replaying is sending them again, exchanges first, then
queues, then bindings. A queue that the broker named gets a new name each time; everything that spoke of it by an
earlier name follows.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TypeAlias

from pamqp import commands

from holdfast.channel import Channel
from holdfast.protocol.wire import Method

QueueBinding: TypeAlias = commands.Queue.Bind | commands.Queue.Unbind
ExchangeBinding: TypeAlias = commands.Exchange.Bind | commands.Exchange.Unbind
Declaration: TypeAlias = (
    commands.Exchange.Declare | commands.Queue.Declare | commands.Exchange.Bind | commands.Queue.Bind
)


@dataclass(frozen=True, slots=True)
class Entity:
    """Something to declare again.

    Attributes:
        request: the request that declares it.
        owner: the channel that declared it; gone when nobody holds it any more.
    """

    request: Declaration
    owner: weakref.ReferenceType[Channel]

    def __str__(self) -> str:
        request = self.request
        if isinstance(request, commands.Exchange.Declare):
            return f"exchange {request.exchange!r}"
        if isinstance(request, commands.Queue.Declare):
            return f"queue {request.queue!r}"
        if isinstance(request, commands.Exchange.Bind):
            return (
                f"binding of exchange {request.destination!r} to exchange {request.source!r} "
                f"with routing key {request.routing_key!r}"
            )
        return (
            f"binding of queue {request.queue!r} to exchange {request.exchange!r} "
            f"with routing key {request.routing_key!r}"
        )


class Topology:
    """What was declared on a connection and not deleted since."""

    def __init__(self) -> None:
        self._exchanges: dict[str, Entity] = {}
        # By the name under which the user first saw it; a server-named one keeps that key under all its names.
        self._queues: dict[str, Entity] = {}
        self._bindings: dict[tuple[str, ...], Entity] = {}
        self._present: dict[str, str] = {}
        self._first: dict[str, str] = {}

    def record(self, channel: Channel, request: Method, reply: Method) -> None:
        """A request succeeded: keep what it declares, forget what it deletes."""
        owner = weakref.ref(channel)
        if isinstance(request, commands.Exchange.Declare):
            if not request.passive:
                self._exchanges[request.exchange] = Entity(request, owner)
        elif isinstance(request, commands.Exchange.Delete):
            self._exchanges.pop(request.exchange, None)
            self._forget_bindings_of("exchange", request.exchange)
        elif isinstance(request, commands.Queue.Declare) and isinstance(reply, commands.Queue.DeclareOk):
            if not request.passive:
                self._queues[self.first_name(reply.queue or "")] = Entity(request, owner)
        elif isinstance(request, commands.Queue.Delete):
            name = self.first_name(request.queue)
            self._queues.pop(name, None)
            self._present.pop(name, None)
            self._forget_bindings_of("queue", name)
        elif isinstance(request, commands.Queue.Bind | commands.Exchange.Bind):
            if isinstance(request, commands.Queue.Bind):
                request.queue = self.first_name(request.queue)
            self._bindings[self._key(request)] = Entity(request, owner)
        elif isinstance(request, commands.Queue.Unbind | commands.Exchange.Unbind):
            self._bindings.pop(self._key(request), None)

    def first_name(self, queue: str) -> str:
        """The name under which the user first saw a queue; it stays when the broker gives the queue another."""
        return self._first.get(queue, queue)

    def present_name(self, queue: str) -> str:
        """The present name of a queue that has this name now or had it first."""
        return self._present.get(self.first_name(queue), queue)

    def exchanges(self) -> list[Entity]:
        """The exchanges, in the order of their declaration."""
        return list(self._exchanges.values())

    def queues(self) -> list[Entity]:
        """The queues, in the order of their declaration."""
        return list(self._queues.values())

    def bindings(self) -> list[Entity]:
        """The bindings, in the order of their declaration."""
        return list(self._bindings.values())

    def forget(self, entity: Entity) -> None:
        """Do not declare it again."""
        for known in (self._exchanges, self._queues):
            for name in [name for name, one in known.items() if one is entity]:
                del known[name]
        self._bindings = {key: one for key, one in self._bindings.items() if one is not entity}

    def request_for(self, entity: Entity) -> Method:
        """The request that declares an entity now: a binding speaks of its queue by the present name."""
        request = entity.request
        if isinstance(request, commands.Queue.Bind):
            return commands.Queue.Bind(
                queue=self.present_name(request.queue),
                exchange=request.exchange,
                routing_key=request.routing_key,
                arguments=request.arguments,
            )
        return request

    def declared_again(self, entity: Entity, reply: Method) -> None:
        """Take note of the name that the broker gave a queue this time."""
        if isinstance(reply, commands.Queue.DeclareOk):
            name = reply.queue or ""
            first = next((first for first, known in self._queues.items() if known is entity), name)
            if first != name:
                self._first.pop(self._present.get(first, ""), None)
                self._present[first] = name
                self._first[name] = first

    def _key(self, request: QueueBinding | ExchangeBinding) -> tuple[str, ...]:
        arguments = repr(sorted((request.arguments or {}).items()))
        if isinstance(request, commands.Queue.Bind | commands.Queue.Unbind):
            return ("queue", self.first_name(request.queue), request.exchange, request.routing_key, arguments)
        return ("exchange", request.destination, request.source, request.routing_key, arguments)

    def _forget_bindings_of(self, kind: str, name: str) -> None:
        def concerns(key: tuple[str, ...]) -> bool:
            return key[:2] == (kind, name) or (kind == "exchange" and key[2] == name)

        self._bindings = {key: entity for key, entity in self._bindings.items() if not concerns(key)}
