"""Queues, as they are handed to users and named by them."""

from __future__ import annotations

from anyamqp.errors import InvalidArgument
from anyamqp.protocol.topology import Topology


class Queue:
    """A declared queue.

    A queue that the broker named comes back under a new name after a reconnect; :attr:`name` follows.

    Attributes:
        message_count: messages that were ready when it was declared.
        consumer_count: consumers that it had when it was declared.
    """

    __slots__ = ("_declared_name", "_topology", "consumer_count", "message_count")

    def __init__(self, name: str, message_count: int, consumer_count: int, topology: Topology) -> None:
        self._declared_name = name
        self._topology = topology
        self.message_count: int = message_count
        self.consumer_count: int = consumer_count

    @property
    def name(self) -> str:
        """Its current name."""
        return self._topology.current_name(self._declared_name)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"


def lasting_name(queue: Queue | str, topology: Topology) -> str:
    """The name under which requests keep a queue: the first one, because a later one may be gone when they are sent.

    Raises:
        InvalidArgument: ``queue`` is neither a queue nor text.
    """
    return topology.declared_name(queue.name if isinstance(queue, Queue) else _checked(queue))


def _checked(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidArgument(f"queue: {type(name).__name__} instead of a Queue or its name")
    return name
