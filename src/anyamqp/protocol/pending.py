"""Pending publishes, each of which gets exactly one outcome (invariant 3)."""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

from anyamqp.errors import AnyamqpError, Nacked, OutcomeUnknown, PublishTimeout
from anyamqp.protocol.contents import unroutable_of
from anyamqp.protocol.waking import Wakeable
from anyamqp.wire import methods
from anyamqp.wire.basic import Route

MOST_FAILURES: Final = 1000
"""How many unawaited failures a publisher keeps for flush, unless its window is larger."""


class Confirmed(Enum):
    """The type of :data:`CONFIRMED`."""

    CONFIRMED = "confirmed"


CONFIRMED: Final = Confirmed.CONFIRMED
"""The outcome of a publish that the broker confirmed."""


class Counters:
    """The counters of a publisher, and the unawaited failures that it keeps for flush.

    Args:
        most_failures: how many failures to keep, besides the last one.

    Attributes:
        accepted: how many publishes the publisher has accepted.
        unsettled: how many of them have no outcome yet.
    """

    __slots__ = ("_dropped", "_failures", "_last_failure", "_most_failures", "accepted", "unsettled")

    def __init__(self, most_failures: int = MOST_FAILURES) -> None:
        self.accepted: int = 0
        self.unsettled: int = 0
        self._most_failures = most_failures
        self._failures: dict[PendingPublish, None] = {}
        self._dropped = 0
        """How many failures came after ``most_failures`` were kept."""
        self._last_failure: PendingPublish | None = None
        """The last of those failures."""

    def accept(self, pending: PendingPublish) -> None:
        """Count and number an accepted publish."""
        self.accepted += 1
        self.unsettled += 1
        pending.number = self.accepted

    def keep_failure(self, pending: PendingPublish) -> None:
        """Keep the failure of a publish that nobody awaits."""
        if len(self._failures) < self._most_failures:
            self._failures[pending] = None
        else:
            self._dropped += 1
            self._last_failure = pending

    def forget_failure(self, pending: PendingPublish) -> None:
        """Forget a failure that was raised to a caller."""
        self._failures.pop(pending, None)

    def take_failures(self) -> ExceptionGroup[Exception] | None:
        """Take the unawaited failures since the last call; None if there are none."""
        kept, dropped, last = self._failures, self._dropped, self._last_failure
        self._failures, self._dropped, self._last_failure = {}, 0, None
        failed = [*kept, *([] if last is None else [last])]
        errors = [pending.outcome for pending in failed if isinstance(pending.outcome, Exception)]
        if not errors:
            return None
        text = f"{len(kept) + dropped} publishes failed"
        if dropped > 1:
            text += f"; here are the first {len(kept)} and the last" if kept else "; here is the last"
        return ExceptionGroup(text, errors)


class PublishObserver(Protocol):
    """Is told of one publish."""

    def sent(self, attempt: int) -> None:
        """It was handed to a link, the first time or again."""
        ...

    def ended(self, error: BaseException | None) -> None:
        """It has its outcome; None if it was confirmed."""
        ...


class PendingPublish:
    """A publish and its outcome.

    Args:
        counters: the publisher's counters.
        route: the exchange and routing key.
        message_id: the message's id.
        properties: the message's properties, encoded.
        body: the message's body.
        deadline: when the publish times out; infinity for never.
    """

    __slots__ = (
        "attempts",
        "body",
        "closes",
        "counters",
        "deadline",
        "is_observed",
        "message_id",
        "number",
        "observer",
        "outcome",
        "properties",
        "returned",
        "route",
        "settled",
        "size",
        "waiter",
        "was_lost",
    )

    def __init__(
        self,
        counters: Counters,
        route: Route,
        message_id: str,
        properties: bytes,
        body: bytes,
        deadline: float,
    ) -> None:
        self.counters: Counters = counters
        self.number: int = 0
        """Its number among the publishes of its publisher, from 1."""
        self.route: Route = route
        self.message_id: str = message_id
        self.properties: bytes = properties
        self.body: bytes = body
        self.size: int = len(body)
        self.deadline: float = deadline
        self.attempts: int = 0
        """How often it was sent."""
        self.closes: int = 0
        """How often the broker closed the channel while this was the only unconfirmed publish."""
        self.was_lost: bool = False
        """Whether its confirm was lost with a link or channel: the broker may have the message."""
        self.is_observed: bool = False
        """Whether a caller awaits this outcome, so that flush need not raise it."""
        self.returned: methods.Basic.Return | None = None
        self.outcome: Confirmed | AnyamqpError | None = None
        self.observer: PublishObserver | None = None
        self.settled: Wakeable | None = None
        """Wakes the tasks that wait for the outcome through a handle or in flush."""
        self.waiter: Wakeable | None = None
        """Wakes the task that published it, if it awaits the outcome."""

    def settle(self, outcome: Confirmed | AnyamqpError) -> None:
        """Set the outcome and wake the waiting tasks. Only the first outcome counts."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.counters.unsettled -= 1
        if outcome is not CONFIRMED:
            if not hasattr(outcome, "message_id"):
                outcome.add_note(f"while publishing message {self.message_id!r}")
            if not self.is_observed:
                self.counters.keep_failure(self)
        if self.observer is not None:
            self.observer.ended(None if outcome is CONFIRMED else outcome)
        if self.waiter is not None:
            self.waiter.set()
        if self.settled is not None:
            self.settled.set()

    def refuse(self) -> None:
        """Fail: the broker nacked the publish, or returned and then confirmed it."""
        returned = self.returned
        self.settle(Nacked(self.message_id) if returned is None else unroutable_of(returned, self.message_id))

    def lose(self, error: BaseException | None) -> None:
        """Fail: the confirm was lost, and the publish may not be sent again."""
        unknown = OutcomeUnknown(self.message_id)
        unknown.__cause__ = error
        self.settle(unknown)

    def time_out(self) -> None:
        """Fail: the deadline has passed."""
        self.settle(PublishTimeout(self.message_id, sent=self.attempts > 0))

    def is_finished(self, now: float) -> bool:
        """Whether it need not be sent (again): it has an outcome, or its deadline has passed."""
        if self.outcome is None and now >= self.deadline:
            self.time_out()
        return self.outcome is not None

    def drop_content(self) -> None:
        """Drop the content, or the caller's handle would keep it alive."""
        self.body = self.properties = b""
