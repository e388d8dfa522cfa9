"""Count the failures of messages, and decide whether a failed delivery is requeued, rejected or acknowledged.

A quorum queue counts a message's failures itself and sends the count as ``x-delivery-count`` (RabbitMQ, "Quorum
Queues", section "Poison Message Handling"). For other queues the consumer counts the failures that it sees. It
recognises a message by its ``message_id``, or without one by its route and body. Among identical messages, it counts a
failure for the one that has failed least, so their failures never add up.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from anyamqp.checks import check_seconds, check_whole
from anyamqp.delivery import Delivery
from anyamqp.errors import MalformedProperties

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a failed redelivery goes back to its queue; doubled each time."""

_MOST_REMEMBERED = 10_000
"""How many failed messages one consumer remembers."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry a failed message a limited number of times, then reject it: the broker drops or dead-letters it.

    A quorum queue counts the failures over all of its consumers. For other queues, each consumer counts the failures
    that it sees. It takes an unknown redelivered message to have failed once, or as often as its ``x-delivery-count``
    says, a header that a dead-lettered message may carry. During the pause the delivery stays unsettled in the client
    and takes up one place of the prefetch, so ``delay`` must be shorter than the broker's ``consumer_timeout``
    (30 minutes unless configured). A quorum queue's delivery limit must be higher than ``limit``, or the queue reaches
    it first.

    Attributes:
        limit: how many times to retry a message.
        delay: seconds between a failure and the message's return to its queue.

    Raises:
        InvalidArgument: a value is out of its range.
    """

    limit: int
    delay: float = 1.0

    def __post_init__(self) -> None:
        check_whole("Retry.limit", self.limit, 0)
        check_seconds("Retry.delay", self.delay, finite=True)


Decision: TypeAlias = Literal["ack", "requeue", "reject"] | Retry
"""The decision of an ``on_error`` function. ``ack`` removes the message from its queue although it failed; for the
others, see :data:`OnError`."""


class Requeued(NamedTuple):
    """Return the delivery to its queue as failed, after ``after`` seconds."""

    after: float


class Rejected(NamedTuple):
    """Reject the delivery: its message has failed ``failures`` times."""

    failures: int


Treatment: TypeAlias = Literal["ack"] | Requeued | Rejected
"""The treatment of a failed delivery."""


class FailureCounts:
    """The failed messages of one consumer, and how often each has failed.

    The key of a message is a hash of its id, or of its route and body, together with the count in its headers. A
    queue's own count rises with each failure; a count that stays the same was published with the message.
    """

    __slots__ = ("_counts", "_size")

    def __init__(self) -> None:
        self._counts: OrderedDict[int, list[int]] = OrderedDict()
        """Counts by message, the latest failure last; a heap, because identical messages without an id share a key."""
        self._size = 0

    def __len__(self) -> int:
        """How many failed messages are remembered."""
        return self._size

    def failed(self, delivery: Delivery, decision: Decision) -> Treatment:
        """Count the failure of a delivery. Returns its treatment, which follows the policy's decision."""
        if decision == "ack":
            return "ack"
        told, name = _failures_told(delivery), message_id_of(delivery)
        key = _key(delivery, told, name)
        earlier = self._take(key) if delivery.redelivered or name is not None else None
        is_told = False
        if not delivery.redelivered:
            failures = 1
        elif earlier is not None:
            failures = 1 + earlier
        else:
            failures = 2 if told is None else 1 + told
            # If it were remembered, the count would be taken for that of another message with the same body.
            is_told = told is not None and name is None
        if decision == "reject" or (isinstance(decision, Retry) and failures > decision.limit):
            return Rejected(failures)
        if not is_told:
            self._remember(key, failures)
        return Requeued(decision.delay if isinstance(decision, Retry) else _pause(failures))

    def succeeded(self, delivery: Delivery) -> None:
        """Forget one failure of a message whose redelivery succeeded."""
        if self._counts:
            self._take(_key(delivery, _failures_told(delivery), message_id_of(delivery)))

    def _remember(self, key: int, failures: int) -> None:
        heapq.heappush(self._counts.setdefault(key, []), failures)
        self._counts.move_to_end(key)
        self._size += 1
        if self._size > _MOST_REMEMBERED:
            _, forgotten = self._counts.popitem(last=False)
            self._size -= len(forgotten)

    def _take(self, key: int) -> int | None:
        """Remove and return the smallest count known for a message."""
        counts = self._counts.get(key)
        if counts is None:
            return None
        self._size -= 1
        if len(counts) == 1:
            del self._counts[key]
        return heapq.heappop(counts)


def message_id_of(delivery: Delivery) -> str | None:
    """The message's id; None if it has none, or none that can be read."""
    try:
        return delivery.message_id
    except MalformedProperties:
        return None


def _key(delivery: Delivery, told: int | None, name: str | None) -> int:
    return hash((told, delivery.exchange, delivery.routing_key, delivery.body) if name is None else (told, name))


def _failures_told(delivery: Delivery) -> int | None:
    """How often the message has failed, according to its headers; None if they do not say."""
    try:
        headers = delivery.headers
    except MalformedProperties:
        return None
    count = headers.get("x-delivery-count")
    if isinstance(count, int) and count >= 0:
        return count
    # RabbitMQ 4.3 sends how often a quorum queue's message was acquired; it sends the failures only if there are any.
    return 0 if "x-acquired-count" in headers else None


def _pause(failures: int) -> float:
    if failures <= 1:
        return 0.0
    return min(math.ldexp(_FIRST_PAUSE, min(failures - 2, 32)), _LONGEST_PAUSE)
