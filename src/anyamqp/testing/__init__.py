"""For tests: a broker in the process, and a network that breaks on request."""

from anyamqp.testing.broker import Broker, QueueView
from anyamqp.testing.proxy import FaultProxy

__all__ = ["Broker", "FaultProxy", "QueueView"]
