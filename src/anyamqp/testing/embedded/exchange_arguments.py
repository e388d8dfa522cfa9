"""Checks of exchange.declare and of bindings; the texts are those of RabbitMQ's ``rabbit_exchange``. No I/O."""

from __future__ import annotations

from anyamqp.errors import CommandInvalid, NotImplementedByBroker, PreconditionFailed
from anyamqp.message import FieldTable
from anyamqp.testing.embedded.exchanges import Exchange
from anyamqp.testing.embedded.header_matching import MODES
from anyamqp.testing.embedded.queue_arguments import described, inequivalent, queue_type
from anyamqp.testing.embedded.queues import Queue
from anyamqp.testing.embedded.typed import amqp_type, erlang, term
from anyamqp.testing.embedded.versions import Rules

_ALTERNATE = "alternate-exchange"


def check_type(name: str, rules: Rules) -> None:
    """Check the type of an exchange.

    Raises:
        CommandInvalid: RabbitMQ does not know it, and closes the connection.
        PreconditionFailed: RabbitMQ does not know it, and closes the channel.
        NotImplementedByBroker: RabbitMQ knows it, but the embedded broker does not.
    """
    if name == "x-modulus-hash" and rules.has_modulus_hash_exchange:
        raise NotImplementedByBroker(f"NOT_IMPLEMENTED - exchange type '{name}'")
    if name in rules.exchange_types:
        return
    # RabbitMQ says so of each word that is an atom in its virtual machine.
    text = f"{'unknown' if name else 'invalid'} exchange type '{name}'"
    if rules.unknown_exchange_type_costs_link:
        raise CommandInvalid(f"COMMAND_INVALID - {text}")
    raise PreconditionFailed(f"PRECONDITION_FAILED - {text}")


def check_alternate(exchange: str, arguments: FieldTable) -> None:
    """Check the alternate exchange of a new exchange.

    Args:
        exchange: the exchange as error texts name it.
        arguments: its arguments.

    Raises:
        PreconditionFailed: it is not a string.
    """
    name = arguments.get(_ALTERNATE, "")
    if not isinstance(name, str):
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - invalid type '{amqp_type(name)}' for arg '{_ALTERNATE}' in {exchange}"
        )


def check_equivalence(exchange: str, known: Exchange, wanted: Exchange) -> None:
    """Check that an exchange may be declared again. Of the arguments, only the alternate exchange counts.

    Args:
        exchange: the exchange as error texts name it.
        known: the exchange.
        wanted: the new declaration.

    Raises:
        PreconditionFailed: it differs.
    """
    for key in ("type", "durable", "auto_delete", "internal"):
        asked, current = getattr(wanted, key), getattr(known, key)
        if asked != current:
            raise inequivalent(exchange, key, f"'{erlang(asked)}'", f"'{erlang(current)}'")
    if _ALTERNATE not in known.arguments or _ALTERNATE not in wanted.arguments:
        told = [described(one.arguments, _ALTERNATE) for one in (wanted, known)]
        if told[0] != told[1]:
            raise inequivalent(exchange, _ALTERNATE, *told)
        return
    asked, current = wanted.arguments[_ALTERNATE], known.arguments[_ALTERNATE]
    if isinstance(asked, bytes):
        asked = asked.decode("utf-8", "surrogateescape")
    if asked != current:
        told_value = "none" if asked is None else f"'{erlang(asked)}'"
        raise inequivalent(exchange, _ALTERNATE, told_value, f"'{erlang(current)}'")


def check_binding(exchange: Exchange, queue: Queue | None, routing_key: str, arguments: FieldTable) -> None:
    """Check a new binding.

    Args:
        exchange: the source.
        queue: the destination; None if it is an exchange.
        routing_key: its routing key.
        arguments: its arguments.

    Raises:
        PreconditionFailed: the type of exchange does not take it.
    """
    if exchange.type == "headers":
        _check_match(arguments)
    elif exchange.type == "x-local-random":
        if routing_key:
            raise PreconditionFailed(f"PRECONDITION_FAILED - Non empty binding '{routing_key}' key not permitted")
        if queue is None:
            raise PreconditionFailed("PRECONDITION_FAILED - Destination not found")
        kind = queue_type(queue.arguments)
        if kind != "classic":
            raise PreconditionFailed(
                f"PRECONDITION_FAILED - Queue type rabbit_{kind}_queue not valid for this exchange type"
            )


def _check_match(arguments: FieldTable) -> None:
    mode = arguments.get("x-match", "all")
    if not isinstance(mode, str):
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - Invalid x-match field type {amqp_type(mode)} (value {term(mode)}); expected longstr"
        )
    if mode not in MODES:
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - Invalid x-match field value {term(mode)}; "
            "expected all, any, all-with-x, or any-with-x"
        )
