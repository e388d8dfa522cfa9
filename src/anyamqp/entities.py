"""Exchanges, queues and bindings as values, and how recovery treats them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from anyamqp.checks import check_hook, check_kind
from anyamqp.errors import AnyamqpError, SettingsError
from anyamqp.message import FieldTable
from anyamqp.wire import methods

Declaration: TypeAlias = methods.Exchange.Declare | methods.Queue.Declare | methods.Exchange.Bind | methods.Queue.Bind
"""A request that declares an entity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """An exchange, a queue or a binding that was declared on a connection.

    Attributes:
        kind: exchange, queue, or one of the two kinds of bindings.
        name: the name of the exchange or queue; for a binding, the name of its destination.
        source: for a binding, the exchange that messages come from; empty otherwise.
        routing_key: for a binding, its routing key; empty otherwise.
        arguments: the arguments that it was declared with.
        durable: whether it survives a restart of the broker; True for bindings, which last as long as both their ends.
        exclusive: for a queue, whether it belongs to one connection.
        auto_delete: whether the broker deletes it when it is no longer used.
    """

    kind: Literal["exchange", "queue", "queue binding", "exchange binding"]
    name: str
    source: str = ""
    routing_key: str = ""
    arguments: FieldTable
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False

    def __str__(self) -> str:
        if self.kind in ("exchange", "queue"):
            return f"{self.kind} {self.name!r}"
        return f"{self.kind} from exchange {self.source!r} to {self.name!r} with routing key {self.routing_key!r}"

    @property
    def is_transient(self) -> bool:
        """Whether the broker may have deleted it by itself: it is not durable, or it is exclusive or auto-delete."""
        return not self.durable or self.exclusive or self.auto_delete


def entity_of(request: Declaration) -> Entity:
    """The entity that a request declares."""
    arguments = copy.deepcopy(dict(request.arguments))  # users' functions receive it
    if isinstance(request, methods.Exchange.Declare):
        return Entity(
            kind="exchange",
            name=request.exchange,
            arguments=arguments,
            durable=request.durable,
            auto_delete=request.auto_delete,
        )
    if isinstance(request, methods.Queue.Declare):
        return Entity(
            kind="queue",
            name=request.queue,
            arguments=arguments,
            durable=request.durable,
            exclusive=request.exclusive,
            auto_delete=request.auto_delete,
        )
    if isinstance(request, methods.Queue.Bind):
        return Entity(
            kind="queue binding",
            name=request.queue,
            source=request.exchange,
            routing_key=request.routing_key,
            arguments=arguments,
        )
    return Entity(
        kind="exchange binding",
        name=request.destination,
        source=request.source,
        routing_key=request.routing_key,
        arguments=arguments,
    )


class RecoveryMode(Enum):
    """Which entities are declared again on a new link."""

    EVERYTHING = "everything"
    TRANSIENT = "transient"
    """Entities that the broker may have deleted by itself: those that are not durable, or are exclusive or auto-delete,
    and their bindings. For brokers whose durable topology is managed elsewhere."""
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyRecovery:
    """How declared entities are recovered when a connection comes back.

    Channels, publishers and consumers come back in every mode.

    Attributes:
        mode: which entities are declared again.
        wanted: called with each of these entities; if it returns False, this recovery skips the entity.
        on_error: called with each entity that the broker refused, and the error. It must not raise; an exception is
            logged and has no other effect.

    Raises:
        SettingsError: a value has a wrong type, or a function is async.
    """

    mode: RecoveryMode = RecoveryMode.EVERYTHING
    wanted: Callable[[Entity], bool] | None = None
    on_error: Callable[[Entity, AnyamqpError], object] | None = None

    def __post_init__(self) -> None:
        check_kind("TopologyRecovery.mode", self.mode, RecoveryMode, "RecoveryMode.TRANSIENT", error=SettingsError)
        check_hook("TopologyRecovery.wanted", self.wanted, error=SettingsError)
        check_hook("TopologyRecovery.on_error", self.on_error, error=SettingsError)
