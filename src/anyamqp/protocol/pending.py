"""Publishes on their way, each to its one outcome (invariant 3)."""

from __future__ import annotations

from enum import Enum
from typing import Final

from anyamqp.errors import AnyamqpError, Nacked, OutcomeUnknown, PublishTimeout
from anyamqp.protocol.contents import unroutable_of
from anyamqp.protocol.window import Waker
from anyamqp.wire import methods
from anyamqp.wire.basic import Route

MOST_FAILURES: Final = 1000
"""Failures that nobody awaited which a publisher keeps for flush, unless its window is larger."""


class Confirmed(Enum):
    """The type of :data:`CONFIRMED`."""

    CONFIRMED = "confirmed"


CONFIRMED: Final = Confirmed.CONFIRMED
"""The outcome of a publish that the broker confirmed."""


class Counters:
    """What a publisher counts, and the failures that nobody awaited, which it keeps for flush.

    Args:
        most_failures: how many failures it keeps, besides the last one.

    Attributes:
        accepted: publishes that were put on their way so far.
        unsettled: those of them that have no outcome.
    """

    __slots__ = ("_dropped", "_failures", "_last_failure", "_most_failures", "accepted", "unsettled")

    def __init__(self, most_failures: int = MOST_FAILURES) -> None:
        self.accepted: int = 0
        self.unsettled: int = 0
        self._most_failures = most_failures
        self._failures: dict[PendingPublish, None] = {}
        self._dropped = 0
        """Failures beyond those that are kept."""
        self._last_failure: PendingPublish | None = None
        """The last of them."""

    def accept(self, pending: PendingPublish) -> None:
        """Count a publish that is put on its way."""
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
        """The failure was raised to somebody."""
        self._failures.pop(pending, None)

    def take_failures(self) -> ExceptionGroup[Exception] | None:
        """The failures since the last call that nobody awaited; None if there are none."""
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


class PendingPublish:
    """A publish on its way to its one outcome."""

    __slots__ = (
        "attempts",
        "body",
        "closes",
        "counters",
        "deadline",
        "is_observed",
        "message_id",
        "number",
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
        """Its place among the publishes of its publisher, from 1."""
        self.route: Route = route
        self.message_id: str = message_id
        self.properties: bytes = properties
        self.body: bytes = body
        self.size: int = len(body)
        self.deadline: float = deadline
        """Infinity for none."""
        self.attempts: int = 0
        """How often it was sent."""
        self.closes: int = 0
        """How often the broker closed the channel while it was alone on its way."""
        self.was_lost: bool = False
        """Whether its confirm was lost with a link or channel, so that the broker may have it."""
        self.is_observed: bool = False
        """Whether somebody waits for this very outcome, so that flush need not tell of it."""
        self.returned: methods.Basic.Return | None = None
        self.outcome: Confirmed | AnyamqpError | None = None
        self.settled: Waker | None = None
        """Wakes those that wait for it with a handle, or in flush."""
        self.waiter: Waker | None = None
        """Wakes the task that published it, if that waits."""

    def settle(self, outcome: Confirmed | AnyamqpError) -> None:
        """Give the outcome; the first one stays."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.counters.unsettled -= 1
        if outcome is not CONFIRMED:
            if not hasattr(outcome, "message_id"):
                outcome.add_note(f"while publishing message {self.message_id!r}")
            if not self.is_observed:
                self.counters.keep_failure(self)
        if self.waiter is not None:
            self.waiter.set()
        if self.settled is not None:
            self.settled.set()

    def refuse(self) -> None:
        """Settle by a confirm that tells of a failure."""
        returned = self.returned
        self.settle(Nacked(self.message_id) if returned is None else unroutable_of(returned, self.message_id))

    def lose(self, error: BaseException | None) -> None:
        """Settle by a loss after which it may not be sent again."""
        unknown = OutcomeUnknown(self.message_id)
        unknown.__cause__ = error
        self.settle(unknown)

    def time_out(self) -> None:
        """Settle by the deadline."""
        self.settle(PublishTimeout(self.message_id, sent=self.attempts > 0))

    def is_finished(self, now: float) -> bool:
        """Whether there is no point in sending it (again): it has an outcome, or its deadline is past."""
        if self.outcome is None and now >= self.deadline:
            self.time_out()
        return self.outcome is not None

    def drop_content(self) -> None:
        """Let go of the content, which a handle that the caller keeps would keep alive."""
        self.body = self.properties = b""
