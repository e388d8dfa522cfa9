"""Sender-selected distribution: more routing keys in the headers ``CC`` and ``BCC`` of a message. No I/O."""

from __future__ import annotations

from anyamqp.errors import PreconditionFailed
from anyamqp.message import Message
from anyamqp.testing.embedded.contents import Content
from anyamqp.testing.embedded.typed import amqp_type
from anyamqp.wire.basic import Received


def addressed(message: Received, routing_key: str) -> tuple[Received, tuple[str, ...]]:
    """A message as its consumers get it, without the header ``BCC``, and its routing keys.

    Raises:
        PreconditionFailed: ``CC`` or ``BCC`` is no array. In an array, RabbitMQ ignores all but strings.
    """
    if b"CC" not in message.encoded:
        return message, (routing_key,)
    headers = message.headers or {}
    keys = [routing_key]
    for name in ("CC", "BCC"):
        value = headers.get(name, [])
        if not isinstance(value, list):
            raise PreconditionFailed(
                f'PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,"{name}",{amqp_type(value)}}}'
            )
        keys += [key for key in value if isinstance(key, str)]
    return (_without_blind_copies(message) if "BCC" in headers else message), tuple(keys)


def _without_blind_copies(message: Message) -> Received:
    content = Content(message)
    content.drop_header("BCC")
    return content.message()
