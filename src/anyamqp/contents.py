"""What the broker's methods with content stand for: deliveries, and messages that came back."""

from __future__ import annotations

from pamqp import commands

from anyamqp.errors import Unroutable
from anyamqp.message import Delivery, Message, Settler


def delivery_of(
    method: commands.Basic.Deliver | commands.Basic.GetOk, message: Message, settler: Settler | None
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
        routing_key=method.routing_key or "",
        delivery_tag=method.delivery_tag or 0,
        redelivered=bool(method.redelivered),
        consumer_tag=method.consumer_tag if isinstance(method, commands.Basic.Deliver) else None,
        message_count=method.message_count if isinstance(method, commands.Basic.GetOk) else None,
        settler=settler,
    )


def unroutable_of(method: commands.Basic.Return, message_id: str | None) -> Unroutable:
    """The error that basic.return is for a message with that id."""
    return Unroutable(
        message_id,
        exchange=method.exchange,
        routing_key=method.routing_key or "",
        code=method.reply_code or 0,
        text=method.reply_text,
    )
