"""For tests: a broker in the process, and a network that breaks on request."""

from anyamqp.testing.broker import Broker
from anyamqp.testing.embedded.record import PublishedMessage
from anyamqp.testing.proxy import FaultProxy
from anyamqp.testing.views import AnyBroker, AnyQueue, ConnectionView, Published, QueueView, eventually

__all__ = [
    "AnyBroker",
    "AnyQueue",
    "Broker",
    "ConnectionView",
    "FaultProxy",
    "Published",
    "PublishedMessage",
    "QueueView",
    "eventually",
]
