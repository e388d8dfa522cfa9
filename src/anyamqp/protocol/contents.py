"""What the broker's methods with content stand for: deliveries, and messages that came back."""

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
    """The delivery that basic.deliver or basic.get-ok is.

    Args:
        method: the method.
        message: its content.
        settler: what the delivery is settled through; None if the broker expects no acknowledgement.
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
    """The error that basic.return is for a message with that id."""
    return Unroutable(
        message_id,
        exchange=method.exchange,
        routing_key=method.routing_key,
        code=method.reply_code,
        text=printable(method.reply_text),
    )


class Returned:
    """A message that came back, to be compared with the publishes that it may belong to.

    Their bytes say little: RabbitMQ 4 returns the headers in the order of their names, and any version removes BCC.
    Values are compared with their types, because a headers exchange tells 1 from True and from 1.0.

    Args:
        message: the message as it came back.

    Raises:
        MalformedProperties: its properties cannot be read.
    """

    __slots__ = ("_body", "_traits", "message_id")

    def __init__(self, message: Received) -> None:
        self.message_id: str = message.message_id or ""
        self._body = message.body
        self._traits = _traits_of(message.properties)

    def distance(self, properties: bytes, body: bytes) -> tuple[bool, int]:
        """How much differs from a publish; :data:`SAME` if nothing does, and the smaller, the closer.

        Args:
            properties: the publish's properties, encoded.
            body: its body.
        """
        return body != self._body, len(self._traits ^ _traits_of(decode_properties(properties)))


SAME: Final = (False, 0)
"""The distance of a message that came back as it was published."""


def _traits_of(properties: Properties) -> frozenset[tuple[object, object]]:
    return frozenset(_traits((), {field.name: getattr(properties, field.name) for field in fields(properties)}))


def _traits(path: object, value: object) -> Iterator[tuple[object, object]]:
    """The values within a value, each after the path that leads to it; equal whatever the order of a table."""
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
