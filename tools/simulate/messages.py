"""The messages of a world: what was published, how each publish ended, and what was delivered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from anyamqp import AnyamqpError, ChannelClosed, Message, NotFound, PublishTimeout, ReplyError, Unroutable
from tools.simulate.plan import VOLATILE
from tools.simulate.violation import Violation

SIMULATED: Final = "simulated"
"""In the text of each close that a fault sends."""
MISSING: Final = "missing"
"""An exchange that does not exist."""
NOWHERE: Final = "nowhere"
"""A routing key without a queue."""
_EPSILON: Final = 1e-6


@dataclass(eq=False, slots=True)
class Publish:
    """One publish of an actor.

    Attributes:
        body: its body, which no other message has.
        exchange: its exchange.
        queue: its routing key.
        deadline: when it has to have an outcome; None for never.
        began_at: when it began.
    """

    body: bytes
    exchange: str
    queue: str
    deadline: float | None
    began_at: float

    @property
    def message(self) -> Message:
        """The message."""
        return Message(self.body)


class Messages:
    """What was published, confirmed and delivered.

    Args:
        broken: called with each violation.

    Attributes:
        waiting: the publishes without an outcome, oldest first.
        confirmed: the bodies that were confirmed, with their queues.
        delivered: the bodies that were delivered.
        given_up: the bodies of publishes that timed out or were cancelled.
    """

    def __init__(self, broken: Callable[[Violation], None]) -> None:
        self.waiting: dict[Publish, None] = {}
        self.confirmed: dict[bytes, str] = {}
        self.delivered: set[bytes] = set()
        self.given_up: set[bytes] = set()
        self._broken = broken

    def begin(self, publish: Publish) -> None:
        """Note a publish."""
        self.waiting[publish] = None

    def cancelled(self, publish: Publish) -> None:
        """Note that nobody waits for a publish any more."""
        self.waiting.pop(publish, None)
        self.given_up.add(publish.body)

    def confirm(self, publish: Publish) -> None:
        """Note a confirmed publish."""
        self.waiting.pop(publish, None)
        self.confirmed[publish.body] = publish.queue
        if publish.exchange == MISSING or publish.queue == NOWHERE:
            self._broken(Violation(3, f"{publish.body!r} was confirmed, and went nowhere"))

    def fail(self, publish: Publish, error: BaseException, now: float) -> None:
        """Note a failed publish, and check that the error is one that it may have (invariant 3)."""
        self.waiting.pop(publish, None)
        allowed = False
        if isinstance(error, PublishTimeout):
            allowed = publish.deadline is not None and now >= publish.deadline - _EPSILON
            self.given_up.add(publish.body)
        elif isinstance(error, Unroutable):
            allowed = publish.queue in {NOWHERE, VOLATILE}
        elif isinstance(error, NotFound) and publish.exchange == MISSING:
            allowed = True
        elif isinstance(error, ReplyError | ChannelClosed):
            allowed = SIMULATED in str(error)
        if not allowed:
            kind = 3 if isinstance(error, AnyamqpError) else 12
            self._broken(Violation(kind, f"{publish.body!r} ended with {type(error).__name__}: {error}"))

    def deliver(self, body: bytes) -> None:
        """Note a delivery."""
        self.delivered.add(body)
