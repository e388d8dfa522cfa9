"""Deliveries and returned messages, made from the broker's methods with content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Final, cast

from anyamqp.delivery import Delivery, Settler
from anyamqp.errors import Unroutable, printable
from anyamqp.message import Message, Properties
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, decode_properties


def delivery_of(
    method: methods.Basic.Deliver | methods.Basic.GetOk, message: Message, settler: Settler | None
) -> Delivery:
    """Make a delivery from basic.deliver or basic.get-ok.

    Args:
        method: the method.
        message: its content.
        settler: sends the delivery's acknowledgement; None if the broker expects none.
    """
    return Delivery(
        message,
        exchange=method.exchange,
        routing_key=method.routing_key,
        delivery_tag=method.delivery_tag,
        redelivered=method.redelivered,
        consumer_tag=method.consumer_tag if isinstance(method, methods.Basic.Deliver) else None,
        message_count=method.message_count if isinstance(method, methods.Basic.GetOk) else None,
        settler=settler,
    )


def unroutable_of(method: methods.Basic.Return, message_id: str | None) -> Unroutable:
    """The error for a basic.return of the message with this id."""
    return Unroutable(
        message_id,
        exchange=method.exchange,
        routing_key=method.routing_key,
        code=method.reply_code,
        text=printable(method.reply_text),
    )


class Returned:
    """A returned message, to be compared with the publishes that it may be.

    Comparing bytes is not enough: RabbitMQ 4 sorts the headers by name, and every version removes the header BCC.
    Values are compared with their types, because a headers exchange distinguishes 1 from True and from 1.0.

    Args:
        message: the message as the broker returned it.

    Raises:
        MalformedProperties: its properties cannot be read.
    """

    __slots__ = ("_body", "_traits", "message_id")

    def __init__(self, message: Received) -> None:
        self.message_id: str = message.message_id or ""
        self._body = message.body
        self._traits = _traits_of(message.properties)

    def distance(self, properties: bytes, body: bytes) -> tuple[bool, int]:
        """How much the message differs from a publish: smaller is closer, and :data:`SAME` is equal.

        Args:
            properties: the publish's properties, encoded.
            body: its body.
        """
        return body != self._body, len(self._traits ^ _traits_of(decode_properties(properties)))


SAME: Final = (False, 0)
"""The distance of a message that was returned exactly as published."""


def _traits_of(properties: Properties) -> frozenset[tuple[object, object]]:
    return frozenset(_traits((), {field.name: getattr(properties, field.name) for field in fields(properties)}))


def _traits(path: object, value: object) -> Iterator[tuple[object, object]]:
    """The values within a value, each preceded by its path. The order of a table's keys makes no difference."""
    if isinstance(value, dict):
        yield path, dict
        for key, inner in cast("dict[str, object]", value).items():
            yield from _traits((path, key), inner)
    elif isinstance(value, list):
        yield path, list
        for place, inner in enumerate(cast("list[object]", value)):
            yield from _traits((path, place), inner)
    else:
        yield path, repr(value)
