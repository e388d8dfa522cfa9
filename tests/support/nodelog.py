"""Reads a node's log up to a known event, because the node writes it with a delay."""

from __future__ import annotations

import anyamqp
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually


async def log_of_graceful_close(node: Node, name: str, start: int = 0) -> str:
    """The log from ``start`` until the node saw the close handshake of the connection of that name."""
    line = f" - {name}, vhost: '/', user: 'guest'"  # RabbitMQ 4 adds the duration
    await eventually(lambda: line in node.log_text()[start:], within=20, every=0.05)
    return node.log_text()[start:]


async def log_mark(node: Node) -> int:
    """The length of the log, once everything so far is written."""
    name = unique("mark")
    async with anyamqp.connect(node.url, name=name):
        pass
    return len(await log_of_graceful_close(node, name))
