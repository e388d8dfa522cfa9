"""Failed deliveries: ``on_error`` decides, and its decision is carried out here."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from anyamqp.core.journal import Journal
from anyamqp.delivery import Delivery
from anyamqp.errors import InvalidArgument, InvalidUse
from anyamqp.net.event_loop import failure_of
from anyamqp.protocol.failures import Decision, FailureCounts, Rejected, Requeued, Retry, message_id_of

_CANCELLED_PAUSE = 0.1
"""Seconds before a delivery whose handling was cancelled is requeued: the consumer itself is likely to end first."""


OnError: TypeAlias = (
    Literal["requeue", "reject"]
    | Retry
    | Callable[[Delivery, Exception], Decision | None]
    | Callable[[Delivery, Exception], Awaitable[Decision | None]]
)
"""The policy for a delivery that failed, because its handler or its ``async with`` block raised.

* ``requeue``: it is requeued (basic.reject, which counts towards a quorum queue's delivery limit). A redelivery that
  fails again waits first, 0.1 s, doubled for each further failure up to 10 s. Meanwhile it takes up one place of the
  prefetch, and no other message waits for it. The pause ends when the consumer stops.
* ``reject``: it is rejected, and this is logged; the broker drops or dead-letters it.
* :class:`Retry`: it is requeued a limited number of times, then rejected.
* a function, plain or async, of the delivery and the error: it returns one of the above or ``ack``, or None if it has
  settled the delivery itself. If it raises, the error is logged and the delivery is requeued.
"""


def checked_policy(on_error: OnError) -> OnError:
    """Check a policy, and return it.

    Raises:
        InvalidArgument: it is not a policy.
    """
    if on_error in ("requeue", "reject") or isinstance(on_error, Retry) or callable(on_error):
        return on_error
    raise InvalidArgument(
        f"on_error: {on_error!r} is not 'requeue', 'reject', Retry(...) or a function of a delivery and its error"
    )


async def decide(on_error: OnError, delivery: Delivery, error: Exception) -> Decision | None:
    """The policy's decision; a function is called for it, and its errors are raised."""
    if not callable(on_error):
        return on_error
    decision = on_error(delivery, error)
    return await decision if inspect.isawaitable(decision) else decision


def give_back(delivery: Delivery) -> None:
    """Requeue a delivery whose handling was cancelled, unless it is settled. This counts as no failure."""
    if not delivery.is_settled:
        delivery.requeue(failed=False, after=_CANCELLED_PAUSE)


class Failures:
    """Settles the failed deliveries of one consumer.

    Args:
        journal: logs rejections, and errors of ``on_error`` functions.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._counts = FailureCounts()

    async def settle(self, delivery: Delivery, error: Exception, on_error: OnError, queue: str) -> None:
        """Settle a failed delivery according to the policy."""
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
            self._carry_out(delivery, error, self._known(decision), queue)

    def succeeded(self, delivery: Delivery) -> None:
        """A delivery that had failed before was handled."""
        self._counts.succeeded(delivery)

    def _known(self, decision: Decision | None) -> Decision:
        if isinstance(decision, Retry) or decision in ("ack", "requeue", "reject"):
            return decision
        fault = InvalidUse(
            f"it returned {decision!r}; it returns 'ack', 'requeue', 'reject' or Retry(...), or None once it has "
            "settled the delivery itself"
        )
        self._journal.hook_failed("on_error", fault)
        return "requeue"

    def _carry_out(self, delivery: Delivery, error: Exception, decision: Decision, queue: str) -> None:
        treatment = self._counts.failed(delivery, decision)
        if isinstance(treatment, Requeued):
            delivery.requeue(after=treatment.after)
        elif isinstance(treatment, Rejected):
            if not delivery.is_stale:
                self._journal.delivery_rejected(queue, message_id_of(delivery), treatment.failures, error)
            delivery.reject(requeue=False)
        else:
            delivery.ack()
