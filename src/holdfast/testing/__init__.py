"""For tests: a broker in the process, and a network that breaks on request."""

from holdfast.testing.broker import Broker, QueueView
from holdfast.testing.proxy import FaultProxy

__all__ = ["Broker", "FaultProxy", "QueueView"]
