"""Failed deliveries: how often a message has failed, and what becomes of it then.

A quorum queue counts a message's failures itself and shows the count as ``x-delivery-count`` (RabbitMQ, "Quorum
Queues", section "Poison Message Handling"). For other queues the consumer counts, as far as it sees the failures. It
recognises a message by its ``message_id``, or without one by its route and body; among identical messages, a failure is
taken for one of the message that has failed least, so their failures never add up.
"""

from __future__ import annotations

import heapq
import inspect
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from anyamqp.checks import check_seconds, check_whole
from anyamqp.core.journal import Journal
from anyamqp.errors import InvalidArgument, InvalidUse, MalformedProperties
from anyamqp.message import Delivery
from anyamqp.net.event_loop import failure_of

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a redelivery that failed goes back to its queue; doubled each time."""

_CANCELLED_PAUSE = 0.1
"""Seconds before a delivery whose handling was cancelled goes back: the consumer itself is likely to end meanwhile."""

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

OnError: TypeAlias = (
    Literal["requeue", "reject"]
    | Retry
    | Callable[[Delivery, Exception], Decision | None]
    | Callable[[Delivery, Exception], Awaitable[Decision | None]]
)
"""What becomes of a delivery that failed: its handler, or its ``async with`` block, raised.

* ``requeue``: back to its queue (basic.reject, which counts towards a quorum queue's delivery limit). A redelivery that
  fails again waits first, 0.1 s, doubled for each further failure up to 10 s. The pause holds up nothing but the
  message itself and one place of the prefetch, and ends when the consumer stops.
* ``reject``: rejected, and logged; the broker drops or dead-letters it.
* :class:`Retry`: back to its queue at most so many times, then rejected.
* a function, plain or async, of the delivery and the error: it returns one of the above or ``ack``, or None once it
  has settled the delivery itself. If it raises, that is logged and the delivery is requeued.
"""


def checked_policy(on_error: OnError) -> OnError:
    """The policy, if it is one.

    Raises:
        InvalidArgument: it is not.
    """
    if on_error in ("requeue", "reject") or isinstance(on_error, Retry) or callable(on_error):
        return on_error
    raise InvalidArgument(
        f"on_error: {on_error!r} is not 'requeue', 'reject', Retry(...) or a function of a delivery and its error"
    )


async def decide(on_error: OnError, delivery: Delivery, error: Exception) -> Decision | None:
    """The policy's decision; a function is asked. Raises what the function raises."""
    if not callable(on_error):
        return on_error
    decision = on_error(delivery, error)
    return await decision if inspect.isawaitable(decision) else decision


def give_back(delivery: Delivery) -> None:
    """Return a delivery whose handling was cancelled, unless it is settled; that is no failure."""
    if not delivery.is_settled:
        delivery.requeue(failed=False, after=_CANCELLED_PAUSE)


class Failures:
    """The failed messages of one consumer.

    Args:
        journal: where rejections and faults of ``on_error`` are logged.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._counts: OrderedDict[int, list[int]] = OrderedDict()
        """How often messages have failed, the latest failure last; identical ones without an id as a heap."""
        self._size = 0
        """How many counts there are."""

    async def settle(self, delivery: Delivery, error: Exception, on_error: OnError, queue: str) -> None:
        """Do with a failed delivery what the policy says."""
        try:
            decision = await decide(on_error, delivery, error)
        except BaseException as raised:
            fault = failure_of(raised)
            if fault is None:
                give_back(delivery)
                raise
            self._journal.hook_failed("on_error", fault)
            decision = "requeue"
        if not delivery.is_settled:
            self._settle(delivery, error, self._known(decision), queue)

    def _known(self, decision: Decision | None) -> Decision:
        if isinstance(decision, Retry) or decision in ("ack", "requeue", "reject"):
            return decision
        fault = InvalidUse(
            f"it returned {decision!r}; it returns 'ack', 'requeue', 'reject' or Retry(...), or None once it has "
            "settled the delivery itself"
        )
        self._journal.hook_failed("on_error", fault)
        return "requeue"

    def _settle(self, delivery: Delivery, error: Exception, decision: Decision, queue: str) -> None:
        if decision == "ack":
            delivery.ack()
            return
        failures, is_told = self._count(delivery)
        if decision == "reject" or (isinstance(decision, Retry) and failures > decision.limit):
            if not delivery.is_stale:
                self._journal.delivery_rejected(queue, _message_id(delivery), failures, error)
            delivery.reject(requeue=False)
            return
        if not is_told:
            self._remember(self._key(delivery), failures)
        if isinstance(decision, Retry):
            delivery.requeue(after=decision.delay)
        else:
            delivery.requeue(after=_pause(failures))

    def succeeded(self, delivery: Delivery) -> None:
        """Forget one failure of a message that was handled after all."""
        if self._counts:
            self._earlier(self._key(delivery))

    def _count(self, delivery: Delivery) -> tuple[int, bool]:
        """How often the message has failed, this time included; and whether only its headers tell, and not its id.

        Remembered, that would be taken for the count of another message of the same body.
        """
        has_id = _message_id(delivery) is not None
        # The queue's own count rises with each failure: where the same one comes again, it was published with it.
        earlier = self._earlier(self._key(delivery)) if delivery.redelivered or has_id else None
        if not delivery.redelivered:
            return 1, False
        if earlier is not None:
            return 1 + earlier, False
        told = _failures_told(delivery)
        return 1 + (1 if told is None else told), told is not None and not has_id

    def _remember(self, key: int, failures: int) -> None:
        heapq.heappush(self._counts.setdefault(key, []), failures)
        self._counts.move_to_end(key)
        self._size += 1
        if self._size > _MOST_REMEMBERED:
            _, forgotten = self._counts.popitem(last=False)
            self._size -= len(forgotten)

    def _earlier(self, key: int) -> int | None:
        """Take out the smallest count known for a key: so identical messages never add up."""
        counts = self._counts.get(key)
        if counts is None:
            return None
        self._size -= 1
        if len(counts) == 1:
            del self._counts[key]
        return heapq.heappop(counts)

    @staticmethod
    def _key(delivery: Delivery) -> int:
        told = _failures_told(delivery)
        name = _message_id(delivery)
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


def _message_id(delivery: Delivery) -> str | None:
    try:
        return delivery.message_id
    except MalformedProperties:
        return None


def _pause(failures: int) -> float:
    if failures <= 1:
        return 0.0
    return min(math.ldexp(_FIRST_PAUSE, min(failures - 2, 32)), _LONGEST_PAUSE)
