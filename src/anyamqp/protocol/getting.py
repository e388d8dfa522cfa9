"""Messages of basic.get whose caller was cancelled: they are requeued."""

from __future__ import annotations

from anyamqp.protocol.ports import ChannelOnLink
from anyamqp.protocol.requests import Request
from anyamqp.wire import methods


def abandon(request: Request, link_channel: ChannelOnLink | None) -> None:
    """Drop the reply to a request whose caller was cancelled.

    Args:
        request: the request. A message that basic.get has got is requeued.
        link_channel: the channel on the link on which the request was sent.
    """
    request.waiter = None
    if link_channel is not None:
        requeue_unwanted(request, link_channel)


def requeue_unwanted(request: Request, link_channel: ChannelOnLink) -> None:
    """Requeue the message of a basic.get for which nobody waits."""
    get, reply = request.method, request.reply
    needs_ack = isinstance(get, methods.Basic.Get) and not get.no_ack
    if request.waiter is None and needs_ack and isinstance(reply, methods.Basic.GetOk):
        link_channel.nack(reply.delivery_tag, multiple=False, requeue=True)
