"""The requests that declare exchanges, queues and bindings, with checked arguments."""

from __future__ import annotations

from typing import Any, TypeVar

from anyamqp.checks import check_text
from anyamqp.errors import InvalidArgument
from anyamqp.message import FieldTable
from anyamqp.options import QueueOptions, queue_arguments
from anyamqp.wire import methods
from anyamqp.wire.frames import build, field_table

ExchangeBinding = TypeVar("ExchangeBinding", methods.Exchange.Bind, methods.Exchange.Unbind)


def queue_declaration(
    name: str,
    arguments: FieldTable | None,
    options: QueueOptions,
    *,
    passive: bool,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
) -> methods.Queue.Declare:
    """queue.declare.

    Raises:
        InvalidArgument: an option is wrong, or cannot be combined with another; as for all functions below.
    """
    queue_type = options.get("queue_type")
    if queue_type in ("quorum", "stream") and (not durable or exclusive or auto_delete) and not passive:
        raise InvalidArgument(f"queue_type: a {queue_type} queue is durable, never exclusive, never auto_delete")
    return build(
        methods.Queue.Declare,
        queue=name,
        passive=passive,
        durable=durable,
        exclusive=exclusive,
        auto_delete=auto_delete,
        arguments=field_table(queue_arguments(field_table(arguments), options)),
    )


def exchange_arguments(arguments: FieldTable | None, alternate_exchange: str | None) -> dict[str, Any]:
    """The arguments of an exchange, together with its alternate exchange."""
    table = field_table(arguments)
    if alternate_exchange is not None:
        check_text("alternate_exchange", alternate_exchange)
        if "alternate-exchange" in table:
            raise InvalidArgument("alternate_exchange: given as a keyword and in arguments; one of them is enough")
        table["alternate-exchange"] = alternate_exchange
    return table


def exchange_declaration(
    name: str, kind: str, arguments: dict[str, Any], *, passive: bool, durable: bool, auto_delete: bool, internal: bool
) -> methods.Exchange.Declare:
    """exchange.declare."""
    return build(
        methods.Exchange.Declare,
        exchange=name,
        exchange_type=kind,
        passive=passive,
        durable=durable,
        auto_delete=auto_delete,
        internal=internal,
        arguments=arguments,
    )


def queue_binding(queue: str, exchange: str, routing_key: str, arguments: FieldTable | None) -> methods.Queue.Bind:
    """queue.bind."""
    table = field_table(arguments)
    return build(methods.Queue.Bind, queue=queue, exchange=exchange, routing_key=routing_key, arguments=table)


def queue_unbinding(queue: str, exchange: str, routing_key: str, arguments: FieldTable | None) -> methods.Queue.Unbind:
    """queue.unbind."""
    table = field_table(arguments)
    return build(methods.Queue.Unbind, queue=queue, exchange=exchange, routing_key=routing_key, arguments=table)


def exchange_binding(
    kind: type[ExchangeBinding], destination: str, source: str, routing_key: str, arguments: FieldTable | None
) -> ExchangeBinding:
    """exchange.bind or exchange.unbind."""
    table = field_table(arguments)
    return build(kind, destination=destination, source=source, routing_key=routing_key, arguments=table)
