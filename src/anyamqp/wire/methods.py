"""The methods of AMQP 0-9-1 and RabbitMQ's extensions: the one door to pamqp, which defines them."""

from __future__ import annotations

from pamqp.base import Frame as Method
from pamqp.commands import INDEX_MAPPING, Basic, Channel, Confirm, Connection, Exchange, Queue, Tx

__all__ = ["INDEX_MAPPING", "Basic", "Channel", "Confirm", "Connection", "Exchange", "Method", "Queue", "Tx"]
