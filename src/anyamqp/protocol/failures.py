"""Counting the failures of messages, and the fate of a delivery that failed.

A quorum queue counts a message's failures itself and shows the count as ``x-delivery-count`` (RabbitMQ, "Quorum
Queues", section "Poison Message Handling"). For other queues the consumer counts, as far as it sees the failures. It
recognises a message by its ``message_id``, or without one by its route and body; among identical messages, a failure is
taken for one of the message that has failed least, so their failures never add up.
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
"""Seconds before a redelivery that failed goes back to its queue; doubled each time."""

_MOST_REMEMBERED = 10_000
"""Failed messages that one consumer remembers."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Handle a failed message again, but not for ever; then reject it, so that it is dropped or dead-lettered.

    A quorum queue counts the failures, over all of its consumers. For another queue each consumer counts those that it
    sees; a redelivered message of which it knows nothing has failed once, or as often as its ``x-delivery-count`` says,
    which a dead-lettered message may bring along. The pause is spent on the client: the
    delivery stays unsettled and takes up one place of the prefetch, so ``delay`` must be shorter than the broker's
    ``consumer_timeout`` (30 minutes unless configured). A quorum queue's delivery limit must be higher than ``limit``,
    or it is reached first.

    Attributes:
        limit: how many times a message is handled again.
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
"""What a function given as ``on_error`` decides: ``ack`` takes the message off its queue although it failed, the others
are those of :data:`OnError`."""


class Requeued(NamedTuple):
    """The delivery goes back to its queue after so many seconds, as a failure."""

    after: float


class Rejected(NamedTuple):
    """The delivery is rejected; its message has failed so often."""

    failures: int


Verdict: TypeAlias = Literal["ack"] | Requeued | Rejected


class FailureCounts:
    """The failed messages of one consumer: how often each has failed.

    A message is known by the hash of its id, or of its route and body, together with the count that its headers tell:
    the queue's own count rises with each failure, so where the same one comes again, it was published with it.
    """

    __slots__ = ("_counts", "_size")

    def __init__(self) -> None:
        self._counts: OrderedDict[int, list[int]] = OrderedDict()
        """By message, the latest failure last; those of identical messages without an id as a heap."""
        self._size = 0

    def __len__(self) -> int:
        """Failed messages that are remembered."""
        return self._size

    def failed(self, delivery: Delivery, decision: Decision) -> Verdict:
        """A delivery failed, and its policy decided; count the failure and say what becomes of the delivery."""
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
            # Remembered, the count would be taken for that of another message of the same body.
            is_told = told is not None and name is None
        if decision == "reject" or (isinstance(decision, Retry) and failures > decision.limit):
            return Rejected(failures)
        if not is_told:
            self._remember(key, failures)
        return Requeued(decision.delay if isinstance(decision, Retry) else _pause(failures))

    def succeeded(self, delivery: Delivery) -> None:
        """A redelivery was handled after all: forget one failure of its message."""
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
        """Take out the smallest count known for a message."""
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
    """How often the message has failed, by its headers; None if they do not tell."""
    try:
        headers = delivery.headers
    except MalformedProperties:
        return None
    count = headers.get("x-delivery-count")
    if isinstance(count, int) and count >= 0:
        return count
    # RabbitMQ 4.3 tells how often a quorum queue's message was acquired, and failures only where there were some.
    return 0 if "x-acquired-count" in headers else None


def _pause(failures: int) -> float:
    if failures <= 1:
        return 0.0
    return min(math.ldexp(_FIRST_PAUSE, min(failures - 2, 32)), _LONGEST_PAUSE)
